import DequeModule
public import LockTypes

// Work that is more than one turn may take.
//
// One client can have very many waits and holds, and many can wait for one lock: the work after one event may take
// seconds, in which nobody else is served and no lease is renewed. So each turn has a number of steps for each kind of work,
// and what is left when they are used up is put off: `nextDeadline` is due at once, and the work goes on for as many
// steps in each turn. An event finds what those before it in the turn have left, and a few steps in any case: one read
// from the store brings hundreds of them. Steps are counted, not timed, so that a run can be replayed.
//
// Between slices all is consistent: a session that is being closed has fewer holds each time, a lock has served a part
// of its queue, and a search for a deadlock checks again what it has found. What a change of the link means for each
// lock is in `LockEngine+Link.swift`, how leases end in `LockEngine+LeaseEnds.swift`, and how very many holds of one
// lock are lost in `LockEngine+Losses.swift`.

/// Steps that the events of a turn have left, for each kind of work: none keeps another one back.
struct TurnSteps {
  /// The ends of leases.
  var ends: Int
  var renewals: Int
  /// What has come due, and telling those who wait or hold how the queue of their lock stands.
  var deadlines: Int
  /// What the events themselves bring about.
  var events: Int
  /// What was put off: what a change of the link means for each lock,
  var link: Int
  /// the locks of a daemon that stops,
  var stopping: Int
  /// and the rest.
  var rest: Int
  /// Entries for deadlines that may be forgotten.
  var forgotten: Int

  /// However many events came before it, an event has these: it nearly always needs no more.
  let leastForEvent: Int

  /// - Parameter most: steps of a turn for each.
  init(_ most: Int) {
    ends = most
    renewals = most
    deadlines = most
    events = most
    link = most
    stopping = most
    rest = most
    forgotten = 2 * min(most, 1 << 20)
    leastForEvent = min(4, most)
  }
}

/// What the next turns go on with.
struct PutOffWork {
  /// Since when there is any; nil when there is none.
  fileprivate(set) var since: BootInstant?
  /// Holds and waits ended in this turn, of sessions that are gone or half-closed.
  fileprivate(set) var closedInTurn = 0
  /// Sessions whose connection is gone and that still have waits or holds.
  fileprivate(set) var closing: Deque<ClosingSession> = []
  /// Locks whose queues are to be served further.
  fileprivate var locks: Deque<LockRecord> = []
  /// Locks whose waiters and holds end because the daemon stops.
  fileprivate var stopping = StoppingLocks()
  /// Losses of holds that one turn has no room for.
  var losses: [HoldLosses] = []
  /// Locks of which those who wait or hold are told how the queue stands.
  fileprivate var telling: Deque<LockRecord> = []
  /// Searches for deadlocks. Only the first one has begun.
  fileprivate var searches: Deque<CycleSearch> = []

  fileprivate var isEmpty: Bool {
    closing.isEmpty && locks.isEmpty && stopping.isEmpty && losses.isEmpty && telling.isEmpty && searches.isEmpty
  }
}

/// A session whose connection is gone, and what there is left of it to end.
struct ClosingSession {
  let record: SessionRecord
  /// Its waits that may still stand in queues, the first one last.
  private(set) var waits: [Waiter]

  init(_ record: SessionRecord) {
    self.record = record
    waits = record.waits.values.sorted { $0.request.request.rawValue > $1.request.request.rawValue }
  }

  var isOver: Bool { waits.isEmpty && record.firstHold == nil }

  mutating func takeWait() -> Waiter? { waits.popLast() }
}

/// Locks whose waiters and holds end because the daemon stops. Users take turns: who has little does not wait for somebody
/// with very many locks, for whom there may not be time enough.
private struct StoppingLocks {
  /// Locks that are given to their users in one turn, beside what ends in it.
  private static let lookedAtMax = 2048

  /// Locks of which nobody has looked yet whose they are.
  private var unseen: ArraySlice<LockRecord> = []
  /// Those of each user, oldest first; the next one is the first of the first row.
  private var rows: Deque<(user: ObjectIdentifier?, locks: Deque<LockRecord>)> = []

  init() {}

  init(_ locks: [LockRecord]) { unseen = locks[...] }

  var isEmpty: Bool { unseen.isEmpty && rows.isEmpty }
  /// Whether there is one of which it is known whose it is.
  var hasNext: Bool { !rows.isEmpty }

  mutating func look(whose: (LockRecord) -> ObjectIdentifier?) {
    guard !unseen.isEmpty else { return }
    var places: [ObjectIdentifier?: Int] = [:]
    for (place, row) in rows.enumerated() { places[row.user] = place }
    for lock in unseen.prefix(Self.lookedAtMax) {
      let user = whose(lock)
      if let place = places[user] {
        rows[place].locks.append(lock)
      } else {
        places[user] = rows.count
        rows.append((user, [lock]))
      }
    }
    // An empty slice would keep all of its locks in memory.
    unseen = unseen.count > Self.lookedAtMax ? unseen.dropFirst(Self.lookedAtMax) : []
  }

  /// Calls `end` with the next lock. It is true when nothing is left of that lock; it is the next user's turn then.
  mutating func takeTurn(_ end: (LockRecord) -> Bool) {
    guard let lock = rows.first?.locks.first else { return }
    if end(lock) { rows[0].locks.removeFirst() }
    let row = rows.removeFirst()
    if !row.locks.isEmpty { rows.append(row) }
  }
}

extension LockEngine {
  /// Whether the steps for what is being done are used up.
  var mustPutOff: Bool { stepsLeft <= 0 }

  /// Takes up what was put off.
  func goOn(now: BootInstant) {
    guard putOff.since != nil else { return }
    goOnWithLosses(now: now)
    // A link that comes and goes again and again must not keep other work back.
    stepsLeft = turnSteps.link
    goOnWithLinks(now: now)
    turnSteps.link = stepsLeft
    stepsLeft = turnSteps.stopping
    goOnStopping(now: now)
    turnSteps.stopping = stepsLeft
    stepsLeft = turnSteps.deadlines
    goOnTelling(now: now)
    turnSteps.deadlines = stepsLeft
    stepsLeft = turnSteps.rest
    // Round robin, so that a session with many holds does not keep back the others.
    while !mustPutOff, var closing = putOff.closing.popFirst() {
      end(&closing, atMost: Self.endedInTurn, now: now)
      if closing.isOver { sessions.remove(closing.record) } else { putOff.closing.append(closing) }
    }
    var count = putOff.locks.count
    while count > 0, !mustPutOff, let lock = putOff.locks.popFirst() {
      count -= 1
      lock.isPutOff = false
      advance(lock, now: now)
    }
    while !mustPutOff, let search = putOff.searches.first {
      guard breakDeadlocks(search, now: now) else { break }
      putOff.searches.removeFirst()
      if search.waiter.isOver { advance(search.waiter.lock, now: now) }
    }
    turnSteps.rest = stepsLeft
    putOff.since = putOff.isEmpty && !links.contains { $0.pointee.isBehind } ? nil : now
  }

  private func goOnTelling(now: BootInstant) {
    var count = putOff.telling.count
    while count > 0, !mustPutOff, let lock = putOff.telling.popFirst() {
      count -= 1
      progressDue(lock, now: now)
    }
  }

  /// Has the next turns go on.
  func putOffRest(now: BootInstant) {
    if putOff.since == nil { putOff.since = now }
  }

  /// Has the next turns go on with the queue of a lock.
  func putOff(_ lock: LockRecord, now: BootInstant) {
    guard !lock.isPutOff else { return }
    lock.isPutOff = true
    putOff.locks.append(lock)
    putOffRest(now: now)
  }

  /// Has the next turns go on with a round of telling how the queue of a lock stands.
  func putOffProgress(of lock: LockRecord, now: BootInstant) {
    putOff.telling.append(lock)
    putOffRest(now: now)
  }

  /// Has the next turns go on with a search.
  func putOff(_ search: CycleSearch, now: BootInstant) {
    // Only the first one keeps its progress: very many would take much memory.
    if !putOff.searches.isEmpty { search.restart() }
    putOff.searches.append(search)
    putOffRest(now: now)
  }

  // MARK: Shutdown

  /// Whether not every waiter and holder has been told that the daemon stops.
  var isStopping: Bool { !putOff.stopping.isEmpty }

  /// Refuses all waiters and loses all holds of these locks, in as many turns as that takes: leases of those that are not
  /// told yet are renewed meanwhile.
  func beginStopping(_ locks: [LockRecord], now: BootInstant) {
    putOff.stopping = StoppingLocks(locks)
    goOnStopping(now: now)
  }

  private func goOnStopping(now: BootInstant) {
    guard isStopping else { return }
    var stopping = StoppingLocks()
    swap(&stopping, &putOff.stopping)
    stopping.look { lock in
      let session = lock.holds.first?.session ?? lock.queue.first?.request.session
      return session.flatMap { sessions[$0]?.user }.map { ObjectIdentifier($0) }
    }
    while !mustPutOff, stopping.hasNext { stopping.takeTurn { stop($0, now: now) } }
    swap(&stopping, &putOff.stopping)
    if isStopping { putOffRest(now: now) }
  }

  /// Ends what there is of a lock until the steps are used up; true when nothing is left.
  private func stop(_ lock: LockRecord, now: BootInstant) -> Bool {
    // It may have been forgotten meanwhile.
    guard locks[lock.name] === lock else {
      stepsLeft -= 1
      return true
    }
    // A slice may be one step long, so that nothing may be counted before something is done.
    while let waiter = lock.queue.first {
      guard !mustPutOff else { return false }
      stepsLeft -= 1
      refuse(waiter, .shuttingDown, now: now)
    }
    while let hold = lock.holds.first {
      guard !mustPutOff else { return false }
      stepsLeft -= 1
      lose(hold, reason: .shutdown, graceEnds: nil, now: now)
    }
    stepsLeft -= 1
    for lease in lock.leases where lease.isLost { drop(lease) }
    advance(lock, now: now)
    return true
  }

  // MARK: Sessions

  /// Ends the waits and holds of a session that is gone: at once, or in the next turns if they are very many.
  func goOnClosing(_ closing: ClosingSession, now: BootInstant) {
    var closing = closing
    // Very many may close at once. Sessions with few waits and holds do not wait for those with many.
    let count = closing.waits.count + closing.record.holdCount
    let isLittle = count <= Self.endedInTurn
    let most = isLittle ? 2 * configuration.stepsPerSlice : configuration.stepsPerSlice
    if putOff.closedInTurn < most, isLittle || putOff.closing.isEmpty {
      putOff.closedInTurn += count
      end(&closing, atMost: .max, now: now)
    }
    guard !closing.isOver else { return sessions.remove(closing.record) }
    putOff.closing.append(closing)
    putOffRest(now: now)
  }

  /// How many holds of a half-closed session may end in this turn; the rest are put off. At least one.
  var shareOfTurn: Int { max(1, configuration.stepsPerSlice - putOff.closedInTurn) }

  /// Whether more holds of a half-closed session are to end than the last turn had room for.
  public func isEndPutOff(_ session: SessionID) -> Bool { sessions[session]?.isEndPutOff == true }

  /// Counts holds that ended against the share of this turn.
  func didEnd(_ count: Int) { putOff.closedInTurn += count }

  /// See ``Event/turnEnded``.
  func turnEnded() {
    putOff.closedInTurn = 0
    turnSteps = TurnSteps(configuration.stepsPerSlice)
  }

  /// Waits and holds of one session that end before it is the next one's turn.
  private static let endedInTurn = 16

  /// Waits go first: a lock that this session gives up must not pass to a wait of its own.
  private func end(_ closing: inout ClosingSession, atMost count: Int, now: BootInstant) {
    var locks: [LockRecord] = []
    locks.reserveCapacity(min(count, closing.waits.count + closing.record.holdCount))
    while !mustPutOff, locks.count < count, let waiter = closing.takeWait() {
      stepsLeft -= 1
      // It may have been served or refused meanwhile.
      if !waiter.isOver {
        remove(waiter, now: now)
        observeEnd(of: waiter)
        recordEnd(of: waiter, now: now)
      }
      locks.append(waiter.lock)
    }
    while !mustPutOff, locks.count < count, let hold = closing.record.firstHold {
      stepsLeft -= 1
      end(hold, now: now)
      observe(hold.lock, .released(closing.record.id, hold.token))
      if hold.partOf == nil { recordRelease(hold, .sessionEnded, now: now) }
      locks.append(hold.lock)
    }
    for lock in locks { advance(lock, now: now) }
  }

  /// Whether a session that is gone still has a hold of this lock. Nobody shall be told that it is in use.
  func isBeingFreed(_ lock: LockRecord) -> Bool {
    putOff.closing.contains { $0.record.holds(of: lock.name).first != nil }
  }
}
