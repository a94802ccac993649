// Read-only views of the engine.

public import LockTypes

/// One lock as this host sees it.
public struct LockSnapshot: Equatable, Sendable {
  /// Who holds the lock on this host.
  public struct Holder: Equatable, Sendable {
    /// The holder's session.
    public var session: SessionID
    /// The fencing token.
    public var token: Token
    /// How it is held.
    public var mode: HoldMode
    /// The thread or task that the client named.
    public var owner: String?
    /// The client's own note.
    public var meta: String?
    /// How often its owner has acquired it and not released it.
    public var count: Int
    /// Whether it is a part of a request for several locks that has not got all of them yet.
    public var isPartial: Bool
    /// For how many milliseconds the lock has been held.
    public var heldMilliseconds: Int64
  }

  /// Who waits on this host.
  public struct Waiting: Equatable, Sendable {
    /// The waiter's session.
    public var session: SessionID
    /// How it is to be held.
    public var mode: HoldMode
    /// The thread or task that the client named.
    public var owner: String?
    /// The client's own note.
    public var meta: String?
    /// For how many milliseconds the request has waited.
    public var waitedMilliseconds: Int64
  }

  /// Whether this host has or wants the lock; otherwise only something about it is left to tell the store.
  public var isInUse: Bool { holdersTotal > 0 || waitersTotal > 0 || leaseState != .none }

  /// The lock.
  public var name: LockName
  /// How it is held on this host; nil when it is not.
  public var mode: HoldMode?
  /// The first of those clients of this host that hold it, the longest holding first.
  public var holders: [Holder]
  /// How many hold it here.
  public var holdersTotal: Int
  /// Who has the lock as far as this host knows, wherever it is.
  public var summary: HolderSummary
  /// The first of those who wait here, in their order.
  public var waiters: [Waiting]
  /// How many wait here.
  public var waitersTotal: Int
  /// The lease's state.
  public var leaseState: LeaseState
  /// For how many milliseconds the lease is safe without a renewal; nil where there is none, and in the local tier.
  public var validMilliseconds: Int64?
}

/// The engine's sizes.
public struct EngineGauges: Equatable, Sendable {
  /// Sessions.
  public var sessions: Int
  /// Locks that clients of this host hold.
  public var held: Int
  /// Requests that wait.
  public var waiting: Int
  /// Locks that have a record.
  public var locks: Int
  /// Commands whose reply has not come.
  public var commandsInFlight: Int

  /// Sizes.
  public init(sessions: Int, held: Int, waiting: Int, locks: Int, commandsInFlight: Int) {
    self.sessions = sessions
    self.held = held
    self.waiting = waiting
    self.locks = locks
    self.commandsInFlight = commandsInFlight
  }
}

extension LockEngine {
  /// A session with more holds is not told how long they are valid: this bounds what the question costs.
  public static let validitiesMax = 64

  /// For how many milliseconds all holds of a session are safe without a renewal; nil where none ends by itself, and
  /// with more than ``validitiesMax`` holds.
  public func validMilliseconds(of session: SessionID, now: BootInstant) -> Int64? {
    guard let session = sessions[session], session.holdCount <= Self.validitiesMax else { return nil }
    var earliest: BootInstant?
    for hold in session.allHolds {
      if let until = hold.lease.map(validUntil) { earliest = min(until, earliest ?? until) }
    }
    return earliest.map { max(0, $0.milliseconds(since: now)) }
  }

  /// One lock, with at most `holdersMax` of its holders and `waitersMax` of its waiters; nil when this host knows nothing
  /// of it.
  public func snapshot(
    of name: LockName, holdersMax: Int = .max, waitersMax: Int, now: BootInstant
  ) -> LockSnapshot? {
    guard let lock = locks[name] else { return nil }
    // A lease past its end counts as lost, even when ``endLeases(now:)`` has not come to it.
    let held = lock.leases.filter { $0.isHeld && validUntil($0) > now }
    let hasEnded = lock.leases.contains { $0.isHeld && validUntil($0) <= now }
    let isLosing = putOff.losses.contains { $0.lock === lock }
    let holds =
      hasEnded || isLosing
      ? lock.holds.filter { hold in !isBeingLost(hold) && (hold.lease.map { validUntil($0) > now } ?? true) } : nil
    let total = holds?.count ?? lock.holds.count
    return LockSnapshot(
      name: name, mode: total > 0 ? lock.heldMode : nil,
      // A hold of a session that is gone is as good as free, and nobody waits for it.
      holders: (holds ?? Array(lock.holds.prefix(holdersMax))).prefix(holdersMax).filter {
        sessions[$0.session]?.isClosing == false
      }.map {
        .init(
          session: $0.session, token: $0.token, mode: $0.mode, owner: $0.owner, meta: $0.meta, count: $0.count,
          isPartial: $0.partOf != nil, heldMilliseconds: now.milliseconds(since: $0.since))
      },
      holdersTotal: total, summary: holderSummary(of: lock),
      waiters: lock.queue.live.prefix(waitersMax).filter {
        sessions[$0.request.session]?.isClosing == false
      }.map {
        .init(
          session: $0.request.session, mode: $0.request.mode, owner: $0.request.owner, meta: $0.request.meta,
          waitedMilliseconds: now.milliseconds(since: $0.since))
      },
      waitersTotal: lock.queue.count, leaseState: leaseState(of: lock, isHeld: total > 0, hasEnded: hasEnded),
      validMilliseconds: held.map(validUntil).min().map { max(0, $0.milliseconds(since: now)) })
  }

  /// The requests that wait for a lock here, at most `max`, first come first.
  public func requests(waitingFor name: LockName, max: Int) -> [(session: SessionID, request: RequestID)] {
    locks[name]?.queue.live.prefix(max).map { ($0.request.session, $0.request.request) } ?? []
  }

  private func leaseState(of lock: LockRecord, isHeld: Bool, hasEnded: Bool) -> LeaseState {
    if isHeld { return .held }
    if lock.wanted != nil { return isQueued(lock) ? .waiting : .asking }
    if hasEnded || lock.leases.contains(where: { $0.isLost }) { return .lost }
    return lock.leases.isEmpty ? .none : .idle
  }

  /// Bytes of what all sessions hold and wait for, as ``EngineConfiguration/lockBytesMax`` counts them.
  public var lockBytes: Int { tally.lockBytes }

  /// The saved records of all that take no more bytes than this.
  public var recordBytesMax: Int { tally.lockBytes / 2 }

  /// Bytes of what all sessions of a user hold and wait for, as ``EngineConfiguration/lockBytesPerUIDMax`` counts them.
  public func lockBytes(uid: UInt32) -> Int { sessions.user(uid)?.lockBytes ?? 0 }

  /// A page of names, in order, of locks that are held, waited for or idle on this host: the first `limit` that begin
  /// with `prefix` and come after `cursor`. Fewer come where many others had to be skipped.
  ///
  /// - Returns: the names, and the name after which the next page begins; nil at the end.
  public func names(prefix: [UInt8], after cursor: LockName?, limit: Int) -> (page: [LockName], next: LockName?) {
    var page: [LockName] = []
    var last: LockName?
    var isCut = false
    var seen = 0
    let prefixName = LockName(bytes: prefix)
    let isInPrefix = cursor.map { $0 < prefixName } ?? true
    locks.names.forEach(from: isInPrefix ? prefixName : cursor ?? prefixName, inclusive: isInPrefix) { name in
      guard name.hasPrefix(prefix) else { return true }
      guard seen < Self.namesLookedAtMax, page.count < limit else {
        isCut = true
        return true
      }
      seen += 1
      last = name
      if let lock = locks[name], !lock.isUnused || lock.leases.contains(where: { $0.isHeld }) {
        page.append(name)
      }
      return false
    }
    return (page, isCut ? last : nil)
  }

  /// Names looked at for one page.
  private static let namesLookedAtMax = 2048

  /// Whether a session has neither a hold nor a wait.
  public func isIdle(_ session: SessionID) -> Bool {
    guard let record = sessions[session], !record.isClosing else { return true }
    return record.holdCount == 0 && record.waits.isEmpty
  }

  /// How many holds a session has, and how many of its requests wait.
  public func load(of session: SessionID) -> (holds: Int, waits: Int) {
    sessions[session].map { ($0.holdCount, $0.waitCount) } ?? (0, 0)
  }

  /// The lock that a session has held longest; nil when it holds nothing.
  public func eldestLock(of session: SessionID) -> LockName? { sessions[session]?.firstHold?.lock.name }

  /// Whether a session holds anything.
  public func hasHolds(_ session: SessionID) -> Bool { (sessions[session]?.holdCount ?? 0) > 0 }

  /// Whether a session has any hold whose loss is to be enforced.
  public func hasEnforcedHold(_ session: SessionID) -> Bool {
    (sessions[session]?.enforcedCount ?? 0) > 0
  }

  /// How long the store takes to answer; with several shards, the slowest one.
  public var roundTrip: RoundTrip {
    var slowest = links.first.pointee.roundTrip
    for link in links {
      if link.pointee.roundTrip.timeoutMilliseconds > slowest.timeoutMilliseconds { slowest = link.pointee.roundTrip }
    }
    return slowest
  }

  private var commandsInFlight: Int {
    links.reduce(0) { $0 + $1.pointee.pending.count }
  }

  /// Sizes, as they are now.
  public var gauges: EngineGauges {
    EngineGauges(
      sessions: sessions.count, held: sessions.heldCount, waiting: sessions.waitingCount, locks: locks.count,
      commandsInFlight: commandsInFlight)
  }

  /// The records that are in memory.
  public var recordCounts: RecordCounts { tally.counts }

  /// What has been done since the start.
  public var statistics: EngineCounters { counters }
}
