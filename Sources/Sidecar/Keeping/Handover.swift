import DaemonSettings
import DequeModule
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import SystemdSupport

/// Leaves clients and locks to the daemon that follows.
final class Handover {
  /// How long the service manager may take to read what it is told at the end, in milliseconds.
  private static let storeFlushMilliseconds = 1000
  /// How long sessions are dealt with in one turn, in nanoseconds, and the pause until the next one, in milliseconds.
  private static let sliceNanoseconds: Int64 = 1_000_000
  private static let pauseMilliseconds: Int64 = 1

  private let instance: String
  private let configuration: ConfigurationInForce
  private let life: LifeStage
  private let loop: any EventLoop
  private let logger: Logger
  private let notifier: Notifier
  private let sessions: SessionTable
  private let engine: LockEngine
  private let output: TurnOutput
  private let door: EngineDoor
  private let keeper: SessionKeeper?
  private let clock: HostClock
  /// The sessions that are not left yet: those that cannot be are first.
  private var leaving: Deque<ClientSession> = []
  /// Those whose connections end.
  private var evicted: [ClientSession] = []
  /// Called when clients are no longer served…
  var onBegin: () -> Void = {}
  /// …to flush what there is for the store…
  var flushStore: () -> Void = {}
  /// …and at the end.
  var onEnd: () -> Void = {}
  /// Blocks the loop for good once everything is handed over; tests replace it.
  var standStill: () -> Void = { while true { pause() } }

  init(
    instance: String, configuration: ConfigurationInForce, life: LifeStage, loop: any EventLoop, logger: Logger,
    notifier: Notifier, sessions: SessionTable, engine: LockEngine, output: TurnOutput, door: EngineDoor,
    keeper: SessionKeeper?, clock: HostClock
  ) {
    self.instance = instance
    self.configuration = configuration
    self.life = life
    self.loop = loop
    self.logger = logger
    self.notifier = notifier
    self.sessions = sessions
    self.engine = engine
    self.output = output
    self.door = door
    self.keeper = keeper
    self.clock = clock
  }

  /// Leaves clients and what they have to the daemon that follows, and ends. What cannot be left is given back and its
  /// clients are told, as by ``Lifecycle/stop()``.
  ///
  /// - Parameter next: the settings that it will have; nil: those of this one, because its own are wrong.
  /// - Returns: false where nothing can be left. Then this daemon goes on; SIGTERM comes, too, if it is to end.
  @discardableResult
  func handOver(to next: Settings?) -> Bool {
    let own = SavedIdentity(instance: instance, configuration.settings)
    let new = SavedIdentity(instance: instance, next ?? configuration.settings)
    guard life.stage == .serving, let keeper, keeper.isUsable, keeper.isStoreKept, own == new else {
      logger.notice(
        "clients and locks cannot be left to another daemon",
        metadata: ["reason": "\(life.stage == .serving ? whyNothingIsKept(own, new) : "this one does not serve")"])
      return false
    }
    life.stage = .handingOver
    notifier.stopping(status: "Restarting")
    onBegin()
    keeper.keepIdle()
    evicted = sessions.values.filter { !$0.keeping.hasPlace && !$0.isClosing }.sorted { $0.id < $1.id }
    leaving = Deque(evicted)
    leaving += sessions.values.lazy.filter { $0.keeping.hasPlace && !$0.isClosing }
    goOnLeaving()
    return true
  }

  /// Goes on with the sessions, a slice in each turn: those that can be left are served meanwhile, and leases renewed.
  private func goOnLeaving() {
    guard life.stage == .handingOver else { return }
    let end = clock.now().nanoseconds + Self.sliceNanoseconds
    while let session = leaving.first {
      if leave(whatIsLeftOf: session) { leaving.removeFirst() }
      guard clock.now().nanoseconds < end else { break }
    }
    guard !leaving.isEmpty || keeper?.isBeginning == true else { return allAreLeft() }
    output.scheduleEnd()
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.pauseMilliseconds)) { self.goOnLeaving() }
  }

  /// No longer reads from a session, and ends what it has if it is not kept. False when that takes more turns.
  private func leave(whatIsLeftOf session: ClientSession) -> Bool {
    guard sessions.has(session) else { return true }
    if !session.lifetime.isBeingLeft {
      session.lifetime.isBeingLeft = true
      try? session.channel.syncOptions?.setOption(.autoRead, value: false)
      if !session.keeping.hasPlace, session.input.hasSpoken { output.write(to: session) { $0.draining() } }
    }
    guard !session.keeping.hasPlace, !engine.isIdle(session.id) else { return true }
    door.feed(.sessionEvicted(session.id))
    return engine.isIdle(session.id)
  }

  private func allAreLeft() {
    guard let keeper else { return }
    logger.notice(
      "leaving clients and locks to the next daemon",
      metadata: [
        "clients": "\(keeper.clients.count)", "closed": "\(evicted.count)", "held": "\(engine.gauges.held)",
        "waiting": "\(engine.gauges.waiting)",
      ])
    // After the end of this turn, which sends what there is to send.
    output.scheduleEnd()
    loop.assumeIsolated().execute {
      let flushed = self.evicted.map { $0.channel.writeAndFlush($0.channel.allocator.buffer(capacity: 0)) }
      EventLoopFuture.andAllComplete(flushed, on: self.loop).assumeIsolated().whenComplete { _ in self.handedOver() }
      self.loop.assumeIsolated().scheduleTask(in: .milliseconds(Lifecycle.closeMillisecondsMax)) { self.handedOver() }
    }
  }

  private func whyNothingIsKept(_ own: SavedIdentity, _ new: SavedIdentity) -> String {
    keeper?.isUsable == true && keeper?.isStoreKept == true ? own.change(to: new) : "nobody keeps them"
  }

  /// Leaves a client that came during the hand-over to the next daemon, too.
  func leave(_ session: ClientSession) {
    try? session.channel.syncOptions?.setOption(.autoRead, value: false)
    keeper?.keepIdle()
    output.scheduleEnd()
  }

  /// Asked to end before it serves, for a restart or for good: leaves what was left to it to the next daemon. If there
  /// is none, connections end with the service manager's store, and leases by themselves.
  ///
  /// - Returns: false when nothing was left to it.
  func leaveBeforeServing() -> Bool {
    guard let keeper, keeper.isUsable, keeper.hasPredecessor else { return false }
    life.stage = .handingOver
    handedOver()
    return true
  }

  private func handedOver() {
    guard let keeper, life.stage == .handingOver else { return }
    for session in sessions.values where !session.keeping.isKept { session.disconnect() }
    // A turn may be in its middle. Nothing of it is sent to Redis that the next daemon does not know of.
    keeper.commitAll()
    flushStore()
    if !keeper.finish(withinMilliseconds: Self.storeFlushMilliseconds) {
      logger.warning("the service manager may not have everything that was to be left to the next daemon")
    }
    life.stage = .handedOver
    onEnd()
    // From here on nothing may be sent: how much of its output each client was sent is written down.
    standStill()
  }
}
