import AccessPolicy
import ClientProtocol
import DequeModule
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
import SystemdSupport

/// Everything that the event loop owns: the engine, the sessions, the link and the timer. It tells the engine what
/// happened and carries out the effects.
///
/// A turn is what happens between two waits of the loop. What a turn produces is sent at its end, once to Redis and once
/// to each client. Connections are closed at its end, too, so that no effect can bring about another event while
/// effects are being carried out.
///
/// The files of this type: this one has the turn and the engine's effects; `+Clients` what comes from clients;
/// `+Replies` what the engine answers, in the protocol's words; `+Queries` and `+List` what is answered without the engine; `+Watch`
/// those who watch, and breaking; `+Lifecycle` start, stop, status and watchdog; `+Restart` what is taken over from the
/// daemon before this one, and left to the next.
final class SidecarCore {
  let configuration: ConfigurationInForce
  let loop: any EventLoop
  let logger: Logger
  let notifier: Notifier
  let engine: LockEngine
  let instance: String
  /// Where other hosts reach this one.
  let inbox: String
  /// Keeps what must outlive the process; nil when nothing does.
  let keeper: SessionKeeper?
  let clock: HostClock
  let startedAt: BootInstant
  /// Where the leases of all hosts are; nil: this host is alone.
  var store: (any LeaseStore)? {
    didSet { queries.store = store }
  }
  var timer: BootTimer?
  var listener: (any Channel)?

  let sessions = SessionTable()
  var lastRequest: UInt64 = 0
  let statistics = SidecarStatistics()
  let door = EngineDoor()
  let output: TurnOutput
  let limitCounts = LimitCounts()
  let rights: RightsCache
  let room: DescriptorRoom
  let peers: PeerDirectory
  let losses: LossEnforcer
  let lifetimes: SessionLifetimes
  let limits: SessionLimits
  let watches: WatchBook
  let queries: LockQueries
  let replies: ReplyWriter
  let router: RequestRouter
  let input: ClientInput
  let registry: ClientRegistry

  /// Sessions whose input goes on in the next turns.
  let inputs = InputTurns()
  var turns = TurnTimes()
  /// On whose behalf the engine is being told something.
  private var actingUser: UInt32?
  private var effects: [Effect] = []
  /// The request that the engine is being told of, so that an answer that comes at once needs no table.
  private var current: (request: RequestID, message: MessageID)?

  let life = LifeStage()
  /// Whether the service manager has said that it restarts this daemon.
  var wasRestartAnnounced = false
  var statusTask: Scheduled<Void>?
  var lastStatus = ""
  /// What the last reload left to say, for the status line.
  var settingsNote: String?
  /// Called at the end, when clients and locks are given back, or left to the daemon that follows.
  var onStopped: () -> Void = {}
  /// Keeps the loop from doing anything more when everything is left to the daemon that follows; tests go on.
  var standStill: () -> Void = { while true { pause() } }

  /// - Parameters:
  ///   - predecessor: what the daemon before this one left.
  ///   - store: where what must outlive this one is kept; nil: nowhere.
  ///   - clock: what time it is; tests have one of their own.
  init(
    configuration: SidecarConfiguration, loop: any EventLoop, logger: Logger, notifier: Notifier,
    predecessor: KeptState? = nil, store: DescriptorStore? = nil, clock: HostClock = .boot
  ) {
    self.configuration = ConfigurationInForce(configuration)
    output = TurnOutput(loop: loop, statistics: statistics)
    rights = RightsCache(configuration: self.configuration, output: output, clock: clock, logger: logger)
    room = DescriptorRoom(
      configuration: self.configuration, sessions: sessions, output: output, counts: limitCounts, logger: logger)
    peers = PeerDirectory(
      loop: loop, clock: clock, logger: logger, sessions: sessions, rights: rights, room: room, door: door)
    self.clock = clock
    startedAt = clock.now()
    self.loop = loop
    self.logger = logger
    self.notifier = notifier
    instance = predecessor?.identity.instance ?? Self.newInstance()
    settingsNote = configuration.settingsNote
    // Found out now: with no descriptor left the kernel would seem not to.
    _ = ProcessHandle.kernelKnowsPeers
    inbox = "\(configuration.settings.host)/\(instance)"
    let tier: EngineConfiguration.Tier
    switch configuration.settings.backend {
    case .local: tier = .local(firstToken: clock.wallMicroseconds())
    case .redis: tier = .store
    }
    engine = LockEngine(
      configuration: EngineConfiguration(
        tier: tier, host: configuration.settings.host, inbox: inbox,
        attemptsBegin: Self.attemptsBegin(after: predecessor)
      ) {
        $0.settings = configuration.settings.live.engine
        $0.lockBytesMax = Self.lockBytesMax(memory: predecessor?.memory, bytes: configuration.stateBytes)
      })
    losses = LossEnforcer(
      engine: engine, peers: peers, room: room, output: output, statistics: statistics, clock: clock, logger: logger)
    lifetimes = SessionLifetimes(
      loop: loop, clock: clock, logger: logger, sessions: sessions, output: output, peers: peers, losses: losses,
      room: room)
    limits = SessionLimits(
      configuration: self.configuration, counts: limitCounts, sessions: sessions, output: output, room: room,
      lifetimes: lifetimes, losses: losses, statistics: statistics, logger: logger)
    watches = WatchBook(
      configuration: self.configuration, counts: limitCounts, sessions: sessions, output: output, rights: rights,
      door: door)
    let daemon = KeptDaemon(
      instance: instance, configuration: self.configuration, engine: engine, sessions: sessions, limits: limits,
      output: output, door: door)
    keeper = store.flatMap {
      SessionKeeper(
        of: daemon, store: $0, predecessor: predecessor?.memory, memoryBytes: configuration.stateBytes, loop: loop,
        logger: logger, clock: clock)
    }
    queries = LockQueries(
      configuration: self.configuration, engine: engine, sessions: sessions, output: output, rights: rights,
      door: door, inputs: inputs, statistics: statistics, clock: clock, logger: logger, inbox: inbox)
    replies = ReplyWriter(queries: queries, rights: rights, counts: limitCounts)
    router = RequestRouter(
      configuration: self.configuration, instance: instance, engine: engine, clock: clock, logger: logger,
      sessions: sessions, output: output, rights: rights, peers: peers, losses: losses, lifetimes: lifetimes,
      watches: watches, queries: queries, door: door)
    input = ClientInput(
      clock: clock, engine: engine, life: life, sessions: sessions, output: output, inputs: inputs, rights: rights,
      limits: limits, router: router, door: door, keeper: keeper, statistics: statistics)
    registry = ClientRegistry(
      life: life, sessions: sessions, output: output, limits: limits, counts: limitCounts, room: room, peers: peers,
      lifetimes: lifetimes, watches: watches, door: door, keeper: keeper, statistics: statistics)
    connect()
  }

  /// Leads the parts to what they bring about.
  private func connect() {
    door.lead(to: self)
    output.onEnd = { [unowned self] in endTurn() }
    peers.onUnit = { [unowned self] in input.unitIsKnown(of: $0) }
    registry.onLeft = { [unowned self] in leave($0) }
    router.figures = { [unowned self] in stats }
    if keeper != nil { engine.recordChanges() }
  }

  /// How many bytes of what is held and waited for there may be in all: half of what can be kept over a restart. The other half is
  /// for what sessions have sent and not read.
  static func lockBytesMax(memory: StateMemory?, bytes: Int64) -> Int {
    StateLog.recordBytesMax(memoryBytes: memory?.bytes.count ?? Int(bytes)) / 2
  }

  /// Where attempts begin: at a number that nobody can guess, unless this daemon goes on with those of the one before.
  private static func attemptsBegin(after predecessor: KeptState?) -> UInt64 {
    let starts = EngineConfiguration.attemptStarts
    if let last = predecessor?.engine.lastAttempt(numbers: predecessor?.numbers ?? []), last >= starts.lowerBound {
      return 0
    }
    // One of before counted from 1.
    return .random(in: starts)
  }

  // MARK: The turn

  /// Tells the engine a fact and does what it wants done.
  ///
  /// - Parameter user: on whose behalf; nil: nobody's.
  func tell(_ event: Event, now: BootInstant? = nil, of user: UInt32? = nil) {
    let now = now ?? clock.now()
    actingUser = user
    turns.begin(TurnWork(event), now: now)
    engine.handle(event, now: now, into: &effects)
    for effect in effects { perform(effect) }
    effects.removeAll(keepingCapacity: true)
    output.scheduleEnd()
  }

  /// Tells the engine something about this driver, which has no effects.
  func tellAside(_ event: Event, now: BootInstant? = nil) {
    engine.handle(event, now: now ?? clock.now(), into: &effects)
  }

  /// From `now` on the loop does `work`.
  func begins(_ work: TurnWork, now: BootInstant) { turns.begin(work, now: now) }

  /// Tells the engine that time has passed, if that means anything. It is asked before whatever is answered without it:
  /// after a pause of the host a lock that ended meanwhile is told lost first, and nowhere shown as held.
  func tellWhatIsDue(before work: TurnWork) {
    let now = clock.now()
    turns.begin(work, now: now)
    if let due = engine.nextDeadline, due <= now { tell(.timerFired, now: now) }
  }

  /// A number for a request that the engine is not told of.
  func newRequest() -> RequestID {
    lastRequest += 1
    return RequestID(lastRequest)
  }

  /// Tells the engine a client's request that is answered under `message`, now or later.
  func tell(_ session: ClientSession, _ message: MessageID, _ event: (RequestID) -> Event) {
    let request = newRequest()
    current = (request, message)
    tell(event(request), of: session.peer?.uid)
    if current != nil {
      session.began(request, as: message)
      current = nil
    }
  }

  /// What others wait for goes out first, because each write takes a while and wakes a process that competes for the
  /// processor: grants, commands to Redis, the other replies. Releases that no other host waits for come last.
  func endTurn() {
    turns.begin(.send, now: clock.now())
    output.endBegins()
    keepTurn(output.settlingSessions)
    for session in output.settlingSessions where session.output.isGranted { settle(session) }
    if let store, store.isUrgent { store.flush() }
    for session in output.settlingSessions where session.output.isDirty { settle(session) }
    store?.flush()
    keeper?.endTurn()
    for session in output.settlingSessions { proceed(session) }
    output.endIsOver()
    inputs.turnEnded()
    let now = clock.now()
    tellAside(.turnEnded, now: now)
    timer?.arm(for: nextDeadline, now: now)
    scheduleStatus()
    if let long = turns.end(now: now) { tellLongTurn(long) }
  }

  private func tellLongTurn(_ turn: TurnTimes.Turn) {
    logger.warning(
      "a turn of the event loop took long",
      metadata: [
        "ms": "\(turn.nanoseconds / 1_000_000)", "processor_ms": "\(turn.processorNanoseconds / 1_000_000)",
        "work": "\(turn.work.word)", "work_ms": "\(turn.workNanoseconds / 1_000_000)",
      ])
  }

  /// When the engine, input that was put off, a keepalive or a process that is to end wants to be looked at.
  private var nextDeadline: BootInstant? {
    // Not at once, but when the loop has looked at everybody else.
    if input.hasMoreToDo || !queries.listings.isEmpty || keeper?.hasMoreToDo == true {
      return BootInstant(nanoseconds: 1)
    }
    var next = engine.nextDeadline
    if let keepalive = lifetimes.nextDeadline { next = min(next ?? keepalive, keepalive) }
    if let kill = losses.nextDeadline { next = min(next ?? kill, kill) }
    return next
  }

  /// A deadline has come. What enforces a loss is first: others may be waiting for it.
  func timerFired() {
    let now = clock.now()
    losses.killThoseDue(now: now)
    tell(.timerFired, now: now)
    lifetimes.check(now: now)
    input.goOn()
    queries.goOnWithListings()
    input.goOnWithHalfClosed()
  }

  /// Sends what the turn produced for a session, and closes it if it is through.
  private func settle(_ session: ClientSession) {
    session.output.isDirty = false
    session.output.isGranted = false
    if let output = takeOutput(of: session) {
      statistics.bytesOut += UInt64(output.readableBytes)
      session.channel.writeAndFlush(output, promise: nil)
      let sent = output.readableBytes
      keeper?.handedOver(session, output)
      self.output.keep(output)
      limits.chargeOutput(of: session, sent: sent)
    }
    if session.isClosing {
      // Closing throws away what the client has not taken; one that is through shall have it all.
      if !session.closesAfterOutput { session.disconnect() }
    }
  }

  /// Goes on with a session after its output was sent.
  private func proceed(_ session: ClientSession) {
    guard !session.isClosing else { return }
    output.tellMissed(session)
    input.resumeReading(of: session)
    input.endHoldsOfHalfClosed(session)
    if input.isThrough(session) { input.closeAfterOutput(session) }
  }

  // MARK: Effects

  private func perform(_ effect: Effect) {
    switch effect {
    case .reply(let id, let request, let reply):
      guard let session = sessions[id], let message = messageID(of: request, in: session) else { return }
      switch reply {
      case .acquired, .acquiredAll: session.output.isGranted = true
      case .released, .extended, .downgraded, .transferred, .cancelled, .refused: break
      }
      output.write(to: session) { replies.write(reply, id: message, for: session, to: &$0) }
    case .notify(let id, let notification):
      guard let session = sessions[id] else { return }
      perform(notification, for: session)
    case .observed(let name, let event):
      watches.tell(of: name, event)
    case .send(let id, let command):
      store?.submit(command, id: id, of: actingUser)
    case .flushSoon:
      store?.isUrgent = true
    case .shutdownCompleted:
      loop.assumeIsolated().execute { self.drained() }
    }
  }

  private func messageID(of request: RequestID, in session: ClientSession) -> MessageID? {
    if let current, current.request == request {
      self.current = nil
      return current.message
    }
    return session.ended(request)
  }

  private func perform(_ notification: Notification, for session: ClientSession) {
    switch notification {
    case .lost(let name, let token, let reason, let grace, let action, let detail):
      session.keeping.isChanged = true
      let isEnforced = losses.enforceLoss(action, for: session, graceMilliseconds: grace)
      logger.notice(
        "lock lost",
        metadata: [
          "lock": "\(name)", "token": "\(token)", "reason": "\(reason.rawValue)", "session": "\(session.id.rawValue)",
          "pid": "\(session.peer.pidText)",
        ])
      output.write(to: session) {
        $0.lost(
          name: name, token: token, reason: reason, graceMilliseconds: grace, detail: detail,
          isEnforced: isEnforced)
      }
    case .waiting(let request, let name, let position, let holder, let trouble):
      let message = current?.request == request ? current?.message : session.requests.messageID(of: request)
      guard let message else { return }
      let holders = queries.holders(of: holder, of: name, for: session)
      let detail = trouble.map(words(of:))
      output.writeUnlessBehind(to: session) {
        $0.waiting(id: message, name: name, position: Int64(position), holders: holders, detail: detail)
      }
    case .contended(let name, let token, let waiters):
      output.writeUnlessBehind(to: session) { $0.contended(name: name, token: token, waiters: Int64(waiters)) }
    case .transferred(let name, let token, let mode, let from):
      output.write(to: session) {
        $0.transferred(name: name, token: token, mode: mode, from: "\(from.rawValue)")
      }
    }
  }

  private func words(of trouble: StoreTrouble) -> String {
    switch trouble {
    case .unreachable: LockQueries.said(store?.downReason) ?? "Redis cannot be reached"
    case .refused(let words): LockQueries.said(words) ?? "Redis refuses"
    }
  }

}
