public import LockTypes

/// The locks of one host as a state machine: who holds what and who waits (the local tier), and which leases this host
/// has in the store (the host lease tier).
///
/// It is told facts and answers with effects. It does no I/O, reads no clock and draws no random number; the same
/// events at the same moments give the same effects. It is not thread-safe: one event loop owns it.
///
/// Where what is:
/// - `Port`: what it is told (``Event``), what it wants done (``Effect``), and what it and the store say to each other
/// - `Local`: what is on this host: locks, holds, waiters, sessions. A request comes in by `+Requests`; `+Queue` has
///   `advance`, which serves the next waiter, and is called after every change to a lock; `+Admission` says when a lock
///   can go to a client, `+Holds` how it is held
/// - `Lease`: one lease (`HostLease`), the connection (`StoreLink`), which data the store has (`StoreEpoch`), and the files in
///   which a lease is asked for, renewed or reclaimed, shared, given back and lost; `+Conversation` is where replies come in
/// - `Deadlocks`: waits that would never end
/// - `Time`: what happens as time passes, and what takes more than one turn (`+Slices`)
/// - `State`: what outlives the process, and what can be looked at
public final class LockEngine {
  /// The configuration in force.
  public private(set) var configuration: EngineConfiguration

  var effects: [Effect] = []
  var locks = LockTable()
  var sessions = SessionTable()
  /// The connections to the shards of the store.
  var links: StoreLinks
  var issued: NumberSource
  var agents = AgentWork()
  /// Questions how many replicas have what was granted, that are not answered.
  var acknowledgements: [AcknowledgementID: OpenAcknowledgement] = [:]
  var deadlines = Schedule()
  /// Names that this host gave back. A lease of a name that it comes back to is worth keeping a while; a lease of a name
  /// used once is not.
  var recentReleases: RecentNames
  /// Names whose unused leases another host wanted. What two hosts use by turns goes back at once.
  var recentRevocations: RecentNames
  var putOff = PutOffWork()
  /// Steps left for what is being done; see `LockEngine+Slices.swift`.
  var stepsLeft = 0
  var turnSteps: TurnSteps
  /// What changed since ``takeChanges(isKept:)``; nil when this process will have no successor.
  var changes: StateChanges?
  /// See ``Event/watched(steps:)``.
  public private(set) var observers = 0
  /// See ``Event/historyWanted(_:)``.
  private(set) var historyKinds: HistoryKinds = []
  private var shutdown = Shutdown.none
  var counters = EngineCounters()
  /// Whether a process before this one left leases.
  var hasLeasesOfBefore = false
  let tally = RecordTally()

  private enum Shutdown {
    case none, underWay, completed
  }

  /// An engine without sessions, its link down.
  public init(configuration: EngineConfiguration) {
    self.configuration = configuration
    turnSteps = TurnSteps(configuration.stepsPerSlice)
    links = StoreLinks(timeline: configuration.timeline)
    issued = NumberSource(configuration)
    recentReleases = RecentNames(milliseconds: configuration.settings.lingerMilliseconds)
    recentRevocations = RecentNames(milliseconds: configuration.settings.revocationMilliseconds)
  }

  deinit { links.free() }

  private func reconfigured(_ settings: EngineSettings, now: BootInstant) {
    let before = configuration.settings.shorterDeadHostMilliseconds
    configuration.settings = settings
    recentReleases.milliseconds = settings.lingerMilliseconds
    recentRevocations.milliseconds = settings.revocationMilliseconds
    for link in links {
      link.pointee.note(configuration.timeline)
      guard link.pointee.confirmation.isGood else { continue }
      // The store has to be told of longer leases before one is asked for, and when this host may be taken for dead.
      if link.pointee.confirmation.toldLeaseMilliseconds < link.pointee.longestTimeline.leaseMilliseconds
        || link.pointee.life.sign(milliseconds: settings.shorterDeadHostMilliseconds)
          != link.pointee.life.sign(milliseconds: before)
      {
        link.pointee.confirmation.at = now
      }
    }
  }

  /// Takes in a fact and appends the effects to `effects`. `now` never goes back.
  ///
  /// What came due by `now` happens first: after a pause of the host, `lost` goes out for a lease that ended meanwhile
  /// before anything else about its lock is answered. Events about the driver alone skip this.
  public func handle(_ event: Event, now: BootInstant, into effects: inout [Effect]) {
    guard !event.isOfDriver else { return take(event, now: now) }
    swap(&self.effects, &effects)
    defer { swap(&self.effects, &effects) }
    stepsLeft = turnSteps.ends
    for link in links { endLife(on: link, now: now) }
    endLeases(now: now)
    turnSteps.ends = stepsLeft
    stepsLeft = turnSteps.renewals
    for link in links { confirmDue(on: link, now: now) }
    renewDue(now: now)
    turnSteps.renewals = stepsLeft
    stepsLeft = turnSteps.deadlines
    fireDeadlines(now: now)
    runAgents(now: now)
    turnSteps.deadlines = stepsLeft
    stepsLeft = max(turnSteps.events, turnSteps.leastForEvent)
    take(event, now: now)
    runAgents(now: now)
    turnSteps.events = min(turnSteps.events, stepsLeft)
    if isShuttingDown { completeShutdown() }
    if locks.isEmpty { forgetDeadlines(now: now) }
  }

  private func take(_ event: Event, now: BootInstant) {
    switch event {
    case .sessionOpened(let session, let uid):
      sessions.open(session, uid: uid, tally: tally)
    case .sessionDescribed(let session, let pid, let command):
      sessions[session]?.pid = pid
      sessions[session]?.command = command
    case .sessionClosed(let session):
      sessionClosed(session, now: now)
    case .inputEnded(let session, let isAnswered, let keepsHolds):
      inputEnded(session, isAnswered: isAnswered, keepsHolds: keepsHolds, now: now)
    case .acquireRequested(let request):
      acquireRequested(request, now: now)
    case .releaseRequested(let session, let request, let name, let token):
      releaseRequested(session, request, name: name, token: token, now: now)
    case .extendRequested(let session, let request, let name, let token, let maximum):
      extendRequested(session, request, name: name, token: token, maxHoldMilliseconds: maximum, now: now)
    case .downgradeRequested(let session, let request, let name, let token):
      downgradeRequested(session, request, name: name, token: token, now: now)
    case .transferRequested(let session, let request, let name, let token, let target, let isAccepting):
      transferRequested(
        session, request, name: name, token: token, to: target, isAccepting: isAccepting, now: now)
    case .breakRequested(let name, let tokens, let reason):
      breakRequested(name, tokens: tokens, reason: reason, now: now)
    case .cancelRequested(let session, let request, let target):
      cancelRequested(session, request: request, target: target, now: now)
    case .linkUp(let shard):
      linkUp(links.made(shard), now: now)
    case .linkDown(let shard):
      if let link = links[shard] { linkDown(link, now: now) }
    case .homesMoved(let moves):
      homesMoved(moves, now: now)
    case .commandSent(let shard, let command):
      links[shard]?.pointee.left(command, now: now)
    case .replyReceived(let shard, let command, let reply):
      if let link = links[shard] { replyReceived(command, reply, over: link, now: now) }
    case .pushReceived(let shard, let push):
      if let link = links[shard] { pushReceived(push, over: link, now: now) }
    case .acknowledged(_, let id, let answer):
      acknowledged(id, answer, now: now)
    case .timerFired:
      goOn(now: now)
    case .shutdownRequested:
      shutdownRequested(now: now)
    case .sessionEvicted(let session):
      evict(session, now: now)
    case .restored(let state, let numbers):
      restore(state, numbers: numbers, now: now)
    case .lossesRestored(let session, let losses):
      for loss in losses { sessions[session]?.remember(loss) }
    case .reconfigured(let settings):
      reconfigured(settings, now: now)
    case .watched(let steps):
      observers = steps
    case .historyWanted(let kinds):
      historyKinds = kinds
    case .keepingStopped(let session):
      stopKeeping(session)
    case .localTokensReserved(let last):
      issued.localTokensReserved(through: last)
    case .turnEnded:
      turnEnded()
    }
  }

  /// The highest token: every parser of JSON keeps integers below 2^53 exact.
  public static let tokenMax: Token = 1 << 53 - 1

  /// The next token of the local tier; nil where tokens come from the store.
  public var nextLocalToken: Token? { isLocal ? issued.nextLocalToken : nil }

  /// When ``Event/timerFired`` is wanted next; nil: not before another event has come.
  public var nextDeadline: BootInstant? {
    var next = deadlines.earliest
    for link in links {
      if let renewal = nextRenewal(on: link), next.map({ renewal < $0 }) ?? true { next = renewal }
      if let end = link.pointee.life.ends, next.map({ end < $0 }) ?? true { next = end }
      if let confirm = link.pointee.confirmation.due, next.map({ confirm < $0 }) ?? true { next = confirm }
    }
    if let since = putOff.since, next.map({ since < $0 }) ?? true { next = since }
    return next
  }

  // MARK: Records

  func record(for name: LockName) -> LockRecord {
    // Which of several shards is its home takes a hash: only for a new one.
    if !links.isSingle, let lock = locks[name] { return lock }
    return locks.record(for: name, at: home(of: name), changes: changes, tally: tally)
  }

  /// Forgets a lock that nobody uses, once nothing about it is left to tell the store.
  func dropIfUnused(_ lock: LockRecord) {
    guard lock.isUnused, lock.leases.isEmpty, lock.wanted == nil, lock.unconfirmedReleases.isEmpty else { return }
    // A wait that ended undated, or unacknowledged, and its lock refer to each other: break the cycle.
    lock.undated = []
    lock.unacknowledged = []
    locks.remove(lock)
  }

  // MARK: Sessions

  func sessionClosed(_ session: SessionID, now: BootInstant) {
    guard let record = sessions[session], !record.isClosing else { return }
    record.isClosing = true
    let closing = ClosingSession(record)
    // What has several names takes no other one.
    for waiter in closing.waits { waiter.partOf?.finish() }
    for multi in record.requestsForReplicas {
      endAcknowledging(multi)
      multi.finish()
    }
    goOnClosing(closing, now: now)
  }

  /// Reports an event to those who watch.
  func observe(_ lock: LockRecord, _ event: LockEvent) {
    guard observers > 0 else { return }
    if stepsLeft < .max { stepsLeft -= observers }
    effects.append(.observed(lock.name, event))
  }

  // MARK: Shutdown

  var isShuttingDown: Bool {
    switch shutdown {
    case .none: false
    case .underWay, .completed: true
    }
  }

  func shutdownRequested(now: BootInstant) {
    guard !isShuttingDown else { return }
    shutdown = .underWay
    beginStopping(allLocks, now: now)
  }

  /// With the link down there is nobody to give anything back to: the leases end by themselves. Nor is there while the
  /// store refuses to name its epoch.
  func completeShutdown() {
    guard shutdown == .underWay, !isStopping else { return }
    // An ask whose script had to be sent again may be executed after its own release: wait for its reply.
    guard
      links.allSatisfy({ link in
        !link.pointee.isConnected || (!link.pointee.isUp && link.pointee.confirmation.refusal != nil)
          || (link.pointee.locks.isEmpty && link.pointee.isTold)
      })
    else { return }
    shutdown = .completed
    effects.append(.shutdownCompleted)
  }
}
