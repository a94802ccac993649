import ClientProtocol
import LockEngine
import LockTypes
import Logging
import NIOCore
import SystemdSupport

/// Everything that the event loop owns: the engine, the sessions, the link and the timer. Feeds the engine facts and
/// carries out its effects.
///
/// A turn is what happens between two waits of the loop. What it produces is sent at its end, once to Redis and once to
/// each client. Connections are closed at its end, too.
///
/// ``SidecarParts`` do the rest, each with its own state; ``Lifecycle`` starts and stops all of it.
final class SidecarCore {
  let configuration: ConfigurationInForce
  let logger: Logger
  let clock: HostClock
  let startedAt: BootInstant
  let engine: LockEngine
  /// The way of the parts to the engine.
  let door = EngineDoor()
  let sessions = SessionTable()
  let output: TurnOutput
  let statistics = SidecarStatistics()
  /// Keeps what must outlive the process; nil when nothing does.
  let keeper: SessionKeeper?
  let parts: SidecarParts
  /// Keeps tokens in reserve; nil with a store, which gives them.
  let tokens: LocalTokens?
  /// Where the leases of all hosts are; nil: this host is alone.
  var store: (any LeaseStore)? {
    didSet {
      parts.queries.store = store
      parts.watches.others.store = store
      parts.namesakes.store = store
      parts.limits.store = store
    }
  }
  var timer: BootTimer?
  private(set) var turns = TurnTimes()
  /// Called at the end of a turn.
  var onTurnEnd: () -> Void = {}
  /// Called when everything is given back, because the daemon stops.
  var onDrained: () -> Void = {}

  private(set) var lastRequest: UInt64 = 0
  /// The request that the engine is being fed: an answer that comes at once needs no table.
  private var current: (request: RequestID, message: MessageID)?
  /// On whose behalf the engine is being fed.
  private var actingUser: UInt32?
  private var effects: [Effect] = []
  private var isPerforming = false
  /// When the releases go out that were put off at the end of a turn; nil where none were.
  private var releasesDue: BootInstant?

  /// - Parameters:
  ///   - predecessor: what the daemon before this one left.
  ///   - store: where what must outlive this one is kept; nil: nowhere.
  ///   - reservation: the tokens to give without Redis; nil: by the clock.
  init(
    configuration: SidecarConfiguration, instance: String, life: LifeStage, loop: any EventLoop, logger: Logger,
    predecessor: SavedDaemon?, store: DescriptorStore?, reservation: LocalTokenReservation? = nil, clock: HostClock
  ) {
    // Probed now: with no descriptor left the probe would fail.
    _ = ProcessHandle.kernelKnowsPeers
    let settings = configuration.settings
    let inForce = ConfigurationInForce(configuration)
    let inbox = "\(settings.host)/\(instance)"
    let tier: EngineConfiguration.Tier
    switch settings.backend {
    case .local:
      let reserved = reservation ?? LocalTokenReservation(byClock: clock.wallMicroseconds())
      tier = .local(firstToken: reserved.first, lastToken: reserved.last)
      tokens = LocalTokens(reserved, loop: loop, clock: clock, logger: logger)
    case .redis:
      tier = .store
      tokens = nil
    }
    engine = LockEngine(
      configuration: EngineConfiguration(
        tier: tier, host: settings.host, inbox: inbox, attemptsBegin: Self.attemptsBegin(after: predecessor)
      ) {
        $0.settings = settings.live.engine
        $0.cells = settings.backend.cells
        $0.lockBytesMax = Self.lockBytesMax(memory: predecessor?.memory, bytes: configuration.stateBytes)
      })
    if let cells = engine.configuration.cells {
      // Each is a shard of its own.
      let moves = (0..<cells.count).map { HomeMove(cells: $0..<$0 + 1, shard: ShardID(UInt32($0))) }
      engine.handle(.homesMoved(moves), now: clock.now(), into: &effects)
    }
    self.configuration = inForce
    self.logger = logger
    self.clock = clock
    startedAt = clock.now()
    output = TurnOutput(loop: loop, statistics: statistics)
    let base = SidecarParts.Base(
      configuration: inForce, instance: instance, inbox: inbox, life: life, loop: loop, logger: logger, clock: clock,
      engine: engine, door: door, sessions: sessions, output: output, statistics: statistics)
    (parts, keeper) = SidecarParts.make(on: base) { source in
      store.flatMap {
        SessionKeeper(
          of: source, store: $0, predecessor: predecessor?.memory, memoryBytes: configuration.stateBytes, loop: loop,
          logger: logger, clock: clock)
      }
    }
    door.lead(to: self)
    output.onEnd = { [unowned self] in endTurn() }
    // Weak: input leads back to the peers, which a look-up under way may outlive.
    parts.peers.onUnit = { [weak input = parts.input] session in input?.unitIsKnown(of: session) }
    parts.router.figures = { [unowned self] in stats }
    if keeper != nil { engine.recordChanges() }
    parts.audit.settingsChanged()
    tokens?.onReserved = { [unowned self] in feedAside(.localTokensReserved(through: $0)) }
  }

  /// How many bytes all holds and waiters may be charged: as many as can be kept over a restart. Their records take at
  /// most half of that; the other half is for the input and the unread output of sessions.
  static func lockBytesMax(memory: StateMemory?, bytes: Int64) -> Int {
    StateLog.recordBytesMax(memoryBytes: memory?.bytes.count ?? Int(bytes))
  }

  /// The number behind which attempts begin: one that nobody can guess; 0 to go on with those of the predecessor.
  private static func attemptsBegin(after predecessor: SavedDaemon?) -> UInt64 {
    let starts = EngineConfiguration.attemptStarts
    if let last = predecessor?.engine.lastAttempt(numbers: predecessor?.numbers ?? []), last >= starts.lowerBound {
      return 0
    }
    // What was left has no number of there.
    return .random(in: starts)
  }

  // MARK: The turn

  /// Feeds the engine a fact and carries out the effects.
  ///
  /// - Parameter user: on whose behalf; nil: nobody's.
  func feed(_ event: Event, now: BootInstant? = nil, of user: UInt32? = nil) {
    let now = now ?? clock.now()
    if !isPerforming { actingUser = user }
    turns.begin(TurnWork(event), now: now)
    engine.handle(event, now: now, into: &effects)
    performAll()
    output.scheduleEnd()
  }

  /// Carries out each effect once, in their order. What is done for one may feed the engine again, as when the log of a loss
  /// has the client's process looked up: what follows from that comes behind what is there.
  private func performAll() {
    guard !isPerforming else { return }
    isPerforming = true
    var next = 0
    while next < effects.count {
      perform(effects[next])
      next += 1
    }
    effects.removeAll(keepingCapacity: true)
    isPerforming = false
  }

  /// Feeds the engine a fact about this driver, which has no effects.
  func feedAside(_ event: Event, now: BootInstant? = nil) {
    engine.handle(event, now: now ?? clock.now(), into: &effects)
  }

  /// From `now` on the loop does `work`.
  func begins(_ work: TurnWork, now: BootInstant) { turns.begin(work, now: now) }

  /// Feeds the engine the time if a deadline has passed. Called before anything is answered without the engine: after a
  /// pause of the host a lock that ended meanwhile is told lost first, and nowhere shown as held.
  func feedWhatIsDue(before work: TurnWork) {
    let now = clock.now()
    turns.begin(work, now: now)
    if let due = engine.nextDeadline, due <= now { feed(.timerFired, now: now) }
  }

  /// A number for a request that the engine is not told of.
  func newRequest() -> RequestID {
    lastRequest += 1
    return RequestID(lastRequest)
  }

  /// From now on requests have higher numbers than this one.
  func go(behind request: UInt64) { lastRequest = max(lastRequest, request) }

  /// Feeds the engine a client's request that is answered under `message`, now or later.
  func feed(_ session: ClientSession, _ message: MessageID, _ event: (RequestID) -> Event) {
    let request = newRequest()
    current = (request, message)
    feed(event(request), of: session.peer?.uid)
    if current != nil {
      session.began(request, as: message)
      current = nil
    }
  }

  /// What others wait for goes out first, because each write takes a while and wakes a process that competes for the
  /// processor: grants, commands to Redis, the other replies. Releases that no other host waits for come last, with what the
  /// next turn has for Redis.
  func endTurn() {
    let began = clock.now()
    turns.begin(.send, now: began)
    if store?.clusterStanding != nil {
      parts.recovery.look(at: engine.storeStandings, now: began)
    } else if store != nil {
      parts.recovery.look(at: engine.storeStanding(), now: began)
    }
    output.endBegins()
    keepTurn(output.settlingSessions)
    for session in output.settlingSessions where session.output.isGranted { sendOutput(of: session) }
    if let store, store.isUrgent { flush(store) }
    for session in output.settlingSessions where session.output.isDirty { sendOutput(of: session) }
    if let store { flushUnlessPutOff(store, now: began) }
    keeper?.endTurn()
    for session in output.settlingSessions { resume(session) }
    output.endIsOver()
    parts.input.turnEnded()
    if let tokens, let next = engine.nextLocalToken { tokens.proceed(to: next) }
    let now = clock.now()
    feedAside(.turnEnded, now: now)
    timer?.arm(for: nextDeadline, now: now)
    onTurnEnd()
    if let long = turns.end(now: now) { logLongTurn(long) }
  }

  private func flush(_ store: any LeaseStore) {
    store.flush()
    releasesDue = nil
  }

  /// Whoever gives a lock back often takes another one next: both go to Redis in one write then, for which it wakes once.
  /// Releases that were put off go out with the next turn, whatever it has, or after a millisecond.
  private func flushUnlessPutOff(_ store: any LeaseStore, now: BootInstant) {
    if releasesDue == nil, store.hasOnlyReleases {
      releasesDue = now.adding(milliseconds: 1)
    } else {
      flush(store)
    }
  }

  private func logLongTurn(_ turn: TurnTimes.Turn) {
    logger.warning(
      "a turn of the event loop took long",
      metadata: [
        "ms": "\(turn.nanoseconds / 1_000_000)", "processor_ms": "\(turn.processorNanoseconds / 1_000_000)",
        "work": "\(turn.work.word)", "work_ms": "\(turn.workNanoseconds / 1_000_000)",
      ])
  }

  /// The earliest deadline: of the engine, of work and releases that were put off, of a keepalive, of a process that is to be killed.
  var nextDeadline: BootInstant? {
    // By the timer, and not at once: the loop looks at its sockets first.
    if parts.input.hasMoreToDo || !parts.queries.listings.isEmpty || parts.watches.others.hasMoreToDo
      || keeper?.hasMoreToDo == true
    {
      return BootInstant(nanoseconds: 1)
    }
    var next = engine.nextDeadline
    if let keepalive = parts.lifetimes.nextDeadline { next = min(next ?? keepalive, keepalive) }
    if let kill = parts.losses.nextDeadline { next = min(next ?? kill, kill) }
    if let releasesDue { next = min(next ?? releasesDue, releasesDue) }
    return next
  }

  /// A deadline has come. Kills are first: others may be waiting for the lock.
  func timerFired() {
    let now = clock.now()
    parts.losses.killThoseDue(now: now)
    feed(.timerFired, now: now)
    parts.lifetimes.check(now: now)
    parts.input.goOn()
    parts.queries.goOnWithListings()
    parts.input.goOnWithHalfClosed()
    parts.watches.others.goOn()
  }

  /// Sends what the turn produced for a session, and closes it if it is through.
  private func sendOutput(of session: ClientSession) {
    session.output.isDirty = false
    session.output.isGranted = false
    if let output = takeOutput(of: session) {
      statistics.bytesOut += UInt64(output.readableBytes)
      parts.limits.send(output, to: session)
      keeper?.handedOver(session, output)
      self.output.keep(output)
    }
    if session.isClosing {
      // Closing throws away what the client has not taken; one that is through shall have it all.
      if !session.closesAfterOutput { session.disconnect() }
    }
  }

  /// Goes on with a session after its output was sent.
  private func resume(_ session: ClientSession) {
    guard !session.isClosing else { return }
    output.notifyMissed(session)
    parts.input.resumeReading(of: session)
    parts.input.endHoldsOfHalfClosed(session)
    if parts.input.isThrough(session) { parts.input.closeAfterOutput(session) }
  }

  /// Commits what this turn has changed to the kept memory, before anything of it is sent.
  private func keepTurn(_ writers: [ClientSession]) {
    guard let keeper else { return }
    guard keeper.isRecording else { return engine.stopRecordingChanges() }
    for session in writers { keeper.touch(session) }
    keeper.commit(writers: writers)
  }

  /// What a session is to be sent now: of one that is kept, no more than was committed.
  private func takeOutput(of session: ClientSession) -> ByteBuffer? {
    guard var output = session.output.bytes else { return nil }
    session.output.bytes = nil
    guard session.keeping.isKept, keeper?.isUsable == true, output.readableBytes > session.keeping.notedBytes else {
      return output
    }
    let committed = output.readSlice(length: session.keeping.notedBytes)
    session.output.bytes = output
    self.output.touch(session)
    return committed?.readableBytes == 0 ? nil : committed
  }

  // MARK: The store

  /// Something came from a shard of the store.
  func heard(_ event: StoreEvent, of shard: ShardID = .only) {
    switch event {
    case .up:
      feed(.linkUp(shard))
      parts.recovery.linkCameUp(shard)
      parts.namesakes.linkCameUp()
    case .down:
      feed(.linkDown(shard))
      parts.recovery.linkWentDown(shard)
    case .sent(let command): feed(.commandSent(shard, command))
    case .reply(let command, let reply): feed(.replyReceived(shard, command, reply))
    case .push(let push): feed(.pushReceived(shard, push))
    case .acknowledged(let id, let answer): feed(.acknowledged(shard, id, answer))
    case .call(let id, let inbox, let payload): parts.queries.hostAsked(id, from: inbox, payload)
    case .answer(let id, let payload): parts.queries.hostCalls?.answered(id, payload)
    }
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
      output.write(to: session) { parts.replies.write(reply, id: message, for: session, to: &$0) }
    case .notify(let id, let notification):
      guard let session = sessions[id] else { return }
      perform(notification, for: session)
    case .observed(let name, let event):
      parts.watches.notifyWatchers(of: name, event)
    case .send(let shard, let id, let command):
      store?.submit(command, id: id, to: shard, of: actingUser)
    case .acknowledge(let shard, let id, let need, let until):
      store?.acknowledge(id, of: shard, need, until: until)
    case .forgetAcknowledgement(let shard, let id):
      store?.forgetAcknowledgement(id, of: shard)
    case .flushSoon:
      store?.isUrgent = true
    case .recorded(let history):
      parts.audit.recorded(history)
    case .shutdownCompleted:
      onDrained()
    case .heldLong(let session, let name, let token, let since, let waiters):
      parts.audit.heldLong(by: session, name, token, since: since, waiters: waiters)
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
      session.keeping.hasLost = true
      let isEnforced = parts.losses.enforceLoss(action, for: session, graceMilliseconds: grace)
      output.write(to: session) {
        $0.lost(
          name: name, token: token, reason: reason, graceMilliseconds: grace, detail: detail,
          isEnforced: isEnforced)
      }
    case .waiting(let request, let name, let position, let holder, let trouble):
      let message = current?.request == request ? current?.message : session.requests.messageID(of: request)
      guard let message else { return }
      let holders = parts.queries.holders(of: holder, of: name, for: session)
      let detail = trouble.map(words(of:))
      output.writeUnlessBehind(to: session) {
        $0.waiting(
          id: message, name: name, position: Int64(position), holders: holders, detail: detail?.words,
          retryMilliseconds: detail?.retryMilliseconds)
      }
    case .contended(let name, let token, let waiters):
      output.writeUnlessBehind(to: session) { $0.contended(name: name, token: token, waiters: Int64(waiters)) }
    case .transferred(let name, let token, let mode, let from):
      output.write(to: session) {
        $0.transferred(name: name, token: token, mode: mode, from: "\(from.rawValue)")
      }
    }
  }

  private func words(of trouble: StoreTrouble) -> (words: String, retryMilliseconds: Int64?) {
    switch trouble {
    case .unreachable: return (LockQueries.said(store?.downReason) ?? "Redis cannot be reached", nil)
    case .refused(let words): return (LockQueries.said(words) ?? "Redis refuses", nil)
    case .recovering(let until): return (RecoveryNews.words, max(0, until.milliseconds(since: clock.now())))
    }
  }
}
