import DaemonSettings
import Glibc
import LockEngine
import Logging
import NIOCore
import NIOPosix
import SystemStrings
import SystemdSupport

/// Start, reload, stop, status and watchdog: takes the daemon from one stage of its life to the next.
final class Lifecycle {
  /// How long the daemon tries to give its locks back before it stops all the same, in milliseconds.
  static let drainMillisecondsMax: Int64 = 5000
  /// How long it waits for clients to take the last replies, in milliseconds.
  static let closeMillisecondsMax: Int64 = 500
  /// What the service manager is asked to wait beyond those two, in milliseconds.
  private static let stopSpareMilliseconds: Int64 = 2000
  /// How long the start waits for the first connection to Redis, in milliseconds; less if `redis_timeout_ms` is less.
  /// Without Redis the daemon serves all the same, and says so.
  private static let firstConnectionMillisecondsMax: Int64 = 2000
  /// How often the status is looked at, in milliseconds.
  private static let statusMilliseconds: Int64 = 1000
  /// How long the daemon must have served to have begun well, in milliseconds, and how long, at most, it waits for the
  /// first answer of Redis.
  private static let begunWellMilliseconds: Int64 = 50
  private static let begunWellMillisecondsMax: Int64 = 5000

  let core: SidecarCore
  let handover: Handover
  private let takeover: Takeover
  let stages: LifeStage
  private let configuration: ConfigurationInForce
  private let instance: String
  private let loop: any EventLoop
  private let logger: Logger
  private let notifier: Notifier
  private var listener: (any Channel)?
  /// What the start waits for, once the first connection has come or failed.
  private var firstConnection: EventLoopPromise<Void>?
  private var statusTask: Scheduled<Void>?
  private var lastStatus = ""
  /// What the last reload left to say, for the status line.
  private var settingsNote: String?
  /// Whether the service manager has announced a restart, and the hand-over for it was tried.
  private var wasHandoverTried = false
  /// Called at the end, when clients and locks are given back, or left to the daemon that follows.
  var onStopped: () -> Void = {}

  /// - Parameters:
  ///   - predecessor: what the daemon before this one left.
  ///   - store: where what must outlive this one is kept; nil: nowhere.
  ///   - tokens: the tokens to give without Redis; nil: by the clock.
  ///   - clock: what time it is; tests have one of their own.
  init(
    configuration: SidecarConfiguration, loop: any EventLoop, logger: Logger, notifier: Notifier,
    predecessor: SavedDaemon? = nil, store: DescriptorStore? = nil, tokens: LocalTokenReservation? = nil,
    clock: HostClock = .boot
  ) {
    instance = predecessor?.identity.instance ?? Self.newInstance()
    stages = LifeStage()
    core = SidecarCore(
      configuration: configuration, instance: instance, life: stages, loop: loop, logger: logger,
      predecessor: predecessor, store: store, reservation: tokens, clock: clock)
    self.configuration = core.configuration
    self.loop = loop
    self.logger = logger
    self.notifier = notifier
    settingsNote = configuration.settingsNote
    let parts = core.parts
    takeover = Takeover(
      loop: loop, logger: logger, sessions: core.sessions, engine: core.engine, output: core.output, door: core.door,
      keeper: core.keeper, limits: parts.limits, lifetimes: parts.lifetimes, watches: parts.watches,
      peers: parts.peers, input: parts.input, registry: parts.registry)
    handover = Handover(
      instance: instance, configuration: core.configuration, life: stages, loop: loop, logger: logger,
      notifier: notifier, sessions: core.sessions, engine: core.engine, output: core.output, door: core.door,
      keeper: core.keeper, clock: clock)
    core.onTurnEnd = { [unowned self] in
      scheduleStatus()
      startGoesOn()
    }
    core.onDrained = { [unowned self] in loop.assumeIsolated().execute { self.drained() } }
    parts.registry.onLeft = { [unowned self] in handover.leave($0) }
    handover.onBegin = { [unowned self] in listener?.close(promise: nil) }
    handover.flushStore = { [unowned core] in core.store?.flush() }
    handover.onEnd = { [unowned self] in
      statusTask?.cancel()
      onStopped()
    }
  }

  /// A number that no other daemon has.
  private static func newInstance() -> String {
    let digits = String(UInt64.random(in: .min ... .max), radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  // MARK: Start

  /// Goes on with what a daemon before this one left, and serves on `socket` from now on.
  func start(on socket: ListeningSocket, predecessor: SavedDaemon? = nil) -> EventLoopFuture<Void> {
    let predecessor = NIOLoopBound(predecessor, eventLoop: loop)
    let life = NIOLoopBound(self, eventLoop: loop)
    return BootTimer.make(on: loop) { [unowned core] in core.timerFired() }
      .flatMap { timer in
        life.value.core.timer = timer.value
        return life.value.takeover.takeOver(predecessor.value)
      }
      .flatMap { life.value.startLink() }
      .flatMap {
        ServerBootstrap(group: life.value.loop)
          .serverChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
              try channel.pipeline.syncOperations.addHandler(
                AcceptPauseHandler(logger: life.value.logger, clock: life.value.core.clock))
            }
          }
          .childChannelOption(.allowRemoteHalfClosure, value: true)
          .childChannelOption(.maxMessagesPerRead, value: 1)
          .childChannelOption(.recvAllocator, value: ClientInput.readSizes)
          .childChannelOption(
            .writeBufferWaterMark,
            value: .init(low: TurnOutput.unreadResumeBytes, high: TurnOutput.unreadPauseBytes)
          )
          .childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
              try channel.pipeline.syncOperations.addHandler(
                ClientChannelHandler(registry: life.value.core.parts.registry, input: life.value.core.parts.input))
            }
          }
          .withBoundSocket(socket.descriptor)
      }
      .map { listener in
        // The bootstrap sets a backlog of 128 on a bound socket, whatever it is told; a host has more processes.
        listen(socket.descriptor, ListeningSocket.backlog)
        life.value.listener = listener
        life.value.serving()
      }
  }

  /// Begins to connect to Redis; complete when that has worked or failed, or after a while.
  private func startLink() -> EventLoopFuture<Void> {
    guard case .redis(let url) = configuration.settings.backend else { return loop.makeSucceededVoidFuture() }
    let decided = loop.makePromise(of: Void.self)
    let patience = min(Self.firstConnectionMillisecondsMax, configuration.settings.live.engine.storeTimeoutMilliseconds)
    loop.scheduleTask(in: .milliseconds(patience)) { decided.succeed() }
    var maker = StoreMaker(
      loop: loop, configuration: configuration, instance: instance, clock: core.clock, logger: logger)
    maker.onEvent = { [unowned core] in core.heard($0, of: $1) }
    maker.onOutput = { [unowned core] in core.output.scheduleEnd() }
    maker.onFirstOutcome = { [unowned self] in
      firstConnection = decided
      startGoesOn()
    }
    maker.roundTripMilliseconds = { [unowned core] in core.engine.roundTrip.timeoutMilliseconds }
    maker.onInput = { [unowned core] in
      core.begins(.redis, now: core.clock.now())
      core.output.scheduleEnd()
    }
    maker.isPushAwaited = { [unowned core] in core.engine.isAwaited($0) }
    maker.isAnswerAwaited = { [unowned core] in core.parts.queries.hostCalls?.isOpen($0) == true }
    let store = maker.store(at: url)
    core.store = store
    let calls = HostCalls(
      loop: loop, store: store,
      timeoutMilliseconds: { [unowned core] in core.engine.holderTimeoutMilliseconds })
    core.parts.queries.hostCalls = calls
    core.parts.watches.others.calls = calls
    core.parts.namesakes.calls = calls
    store.start()
    return decided.futureResult
  }

  /// Once the first connection has failed, or Redis has named its epoch on it, without which nothing is granted.
  private func startGoesOn() {
    guard let decided = firstConnection, core.store?.isReady != true || core.engine.hasHeardOfEpochs else { return }
    firstConnection = nil
    decided.succeed()
  }

  private func serving() {
    // Asked to stop before it had begun.
    guard stages.stage == .starting else { return }
    stages.stage = .serving
    core.parts.room.measure()
    if core.parts.rights.needsUnits { policyChanged() }
    logger.info(
      "serving",
      metadata: [
        "socket": "\(SystemText.shown(configuration.settings.socketPath))", "host": "\(configuration.settings.host)",
        "instance": "\(instance)",
      ])
    lastStatus = status
    notifier.ready(status: lastStatus)
    scheduleWatchdog()
    awaitGoodBeginning()
  }

  /// The takeover has succeeded once Redis has answered, or has had its time, and the loop still turns. Until then the
  /// end of this process is blamed on the inherited state.
  private func awaitGoodBeginning(waited: Int64 = 0) {
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.begunWellMilliseconds)) {
      if waited < Self.begunWellMillisecondsMax, self.core.store?.hasAnswered == false {
        self.awaitGoodBeginning(waited: waited + Self.begunWellMilliseconds)
      } else {
        self.core.keeper?.begunWell()
      }
    }
  }

  /// The ping comes from the loop that does the work: when the loop hangs, so does the ping. Redis has no part in it.
  private func scheduleWatchdog() {
    guard let interval = notifier.watchdogIntervalMicroseconds else { return }
    notifier.watchdogTick()
    loop.assumeIsolated().scheduleTask(in: .microseconds(Int64(clamping: interval / 3))) { self.scheduleWatchdog() }
  }

  // MARK: Status

  private var status: String {
    let gauges = core.engine.gauges
    var clients = "\(core.sessions.count) clients, \(gauges.held) held, \(gauges.waiting) waiting"
    if let settingsNote { clients += "; \(settingsNote)" }
    guard let store = core.store else { return "local; \(clients)" }
    if let sentinels = store.sentinelStanding { clients += "; \(sentinels.words)" }
    if let cluster = store.clusterStanding { clients += "; \(cluster.words(withReason: store.isReady))" }
    guard store.isReady else { return "Redis unreachable (\(store.downReason ?? "")); \(clients)" }
    if let refusal = store.refusedLease { return "Redis refuses locks (\(refusal)); \(clients)" }
    let recovering = core.engine.storeStandings.recovering
    guard recovering > 0 else { return "Redis connected; \(clients)" }
    guard let parts = store.clusterStanding?.parts, recovering < parts else {
      return "Redis recovering: held locks are kept, nothing new is granted yet; \(clients)"
    }
    let place = "\(recovering) of \(parts) parts"
    return "Redis recovering in \(place): held locks are kept, nothing new is granted there yet; \(clients)"
  }

  /// Something changed; the status line follows within a second. Nothing is scheduled while nothing happens.
  private func scheduleStatus() {
    guard statusTask == nil, stages.stage == .serving else { return }
    statusTask = loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.statusMilliseconds)) {
      self.statusTask = nil
      let status = self.status
      guard status != self.lastStatus, self.stages.stage == .serving else { return }
      self.lastStatus = status
      self.notifier.status(status)
    }
  }

  // MARK: Reload

  /// Takes over what can change while clients are served; see ``Sidecar/reload(_:saved:note:)``.
  func reload(_ new: LiveSettings?, saved: [UInt8], note: String?) {
    // Reading may have taken so long that the daemon stops by now, or has handed over.
    guard stages.stage == .starting || stages.stage == .serving else { return }
    if let new {
      let old = configuration.settings.live
      configuration.settings.live = new
      configuration.savedSettings = saved
      core.keeper?.settingsChanged()
      core.output.scheduleEnd()
      core.feedAside(.reconfigured(new.engine))
      core.parts.audit.settingsChanged()
      core.store?.timeoutMilliseconds = new.engine.storeTimeoutMilliseconds
      core.store?.loginMayHaveChanged()
      if new.connectionsMax != old.connectionsMax { core.parts.room.warnIfScarce() }
      if new.policy != old.policy { policyChanged() }
    }
    settingsNote = note
    // Before it serves, "ready" would be untrue, and follows by itself.
    guard stages.stage == .serving else { return }
    lastStatus = status
    notifier.ready(status: lastStatus)
  }

  /// Uses the policy of the configuration from now on. Holds and waiters are not checked again.
  private func policyChanged() {
    core.parts.rights.policyChanged()
    guard core.parts.rights.needsUnits else {
      for session in core.sessions.values { core.parts.input.resumeReading(of: session) }
      return
    }
    core.parts.peers.policyChanged()
  }

  // MARK: Stop

  /// Ends when nobody has said whether another daemon follows: the announcement may fail by the very mistake in the
  /// unit that the restart is to mend, and none comes while a daemon starts. Clients and locks are left to one that may
  /// follow. If none does, connections end with the service manager's store, and leases by themselves.
  ///
  /// - Parameter next: the settings that it would have; nil: those of this one, because its own are wrong.
  func end(before next: Settings?) {
    if stages.stage == .serving, !wasHandoverTried, handover.handOver(to: next) { return }
    stop()
  }

  /// Leaves clients and locks to the next daemon, whose restart the service manager has announced. While this daemon
  /// starts nothing happens; the signal that follows the announcement hands over instead.
  func handOverForRestart(to next: Settings?) {
    wasHandoverTried = stages.stage == .serving
    _ = handover.handOver(to: next)
  }

  /// Gives back every lock, tells every client, and ends. During a hand-over it does nothing: the service manager means
  /// the same.
  func stop() {
    switch stages.stage {
    case .starting:
      notifier.stopping(status: "Stopping")
      if handover.leaveBeforeServing() { return }
      core.keeper?.abandon()
      return finish()
    case .serving:
      break
    case .handingOver, .handedOver, .draining, .closing, .stopped:
      return
    }
    stages.stage = .draining
    core.keeper?.abandon()
    notifier.stopping(status: "Stopping")
    notifier.extendTimeout(
      microseconds: UInt64(Self.drainMillisecondsMax + Self.closeMillisecondsMax + Self.stopSpareMilliseconds) * 1000)
    listener?.close(promise: nil)
    for session in core.sessions.values where session.input.hasSpoken {
      core.output.write(to: session) { $0.draining() }
    }
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.drainMillisecondsMax)) {
      guard self.stages.stage == .draining else { return }
      self.logger.warning("not every lock could be given back in time; the rest end by their leases")
      self.drained()
    }
    core.feed(.shutdownRequested)
  }

  /// Everything has been given back, or cannot be.
  private func drained() {
    guard stages.stage == .draining else { return }
    stages.stage = .closing
    if let store = core.store, !store.isReady, core.engine.gauges.locks > 0 {
      logger.warning("Redis cannot be reached; locks that were held end by their leases")
    }
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.closeMillisecondsMax)) { self.finish() }
    // An empty write completes after everything before it.
    let flushed = core.sessions.values.map { session in
      let rest = session.output.bytes ?? session.channel.allocator.buffer(capacity: 0)
      session.output.bytes = nil
      return session.channel.writeAndFlush(rest)
    }
    EventLoopFuture.andAllComplete(flushed, on: loop).assumeIsolated().whenComplete { _ in self.finish() }
  }

  private func finish() {
    guard stages.stage != .stopped else { return }
    stages.stage = .stopped
    statusTask?.cancel()
    core.parts.losses.killAllPending()
    core.parts.audit.finish()
    core.store?.stop()
    core.timer?.close()
    for session in core.sessions.values { session.disconnect() }
    onStopped()
  }
}
