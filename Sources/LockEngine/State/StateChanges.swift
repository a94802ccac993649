import DequeModule
import LockTypes

/// What is known of a thing's saved record.
struct StateMark {
  /// Twice the number of its record, and one if it is touched: there can be very many marks.
  private var bits: UInt64 = 0

  /// It is in the list of what changed.
  var isTouched: Bool {
    get { bits & 1 != 0 }
    set { bits = bits & ~1 | (newValue ? 1 : 0) }
  }

  /// The number of its record; 0: there is none.
  var record: UInt64 {
    get { bits >> 1 }
    set { bits = newValue << 1 | bits & 1 }
  }
}

/// What changed since the changes were last taken. Each thing is in it once, in the order in which it first changed.
final class StateChanges {
  var leases: [HostLease] = []
  var releases: [LockRecord] = []
  var holds: [Hold] = []
  var waits: [Waiter] = []
  var multiLocks: [MultiLockRequest] = []
  var isEpochTouched = false
  /// Holds of one session that are noted before it is the next one's turn.
  private static let holdsInTurn = 64
  /// Sessions whose holds are still to be noted: they outlive this process from now on, or no longer.
  private var noting: Deque<SessionRecord> = []
  /// Changes are not noted: nobody takes them.
  private var isOver = false
  private var lastRecord: UInt64 = 0
  private(set) var lastPlace: UInt64 = 0

  func touch(_ lease: HostLease) {
    guard !lease.mark.isTouched, !isOver else { return }
    lease.mark.isTouched = true
    leases.append(lease)
  }

  func touch(_ lock: LockRecord) {
    guard !lock.mark.isTouched, !isOver else { return }
    lock.mark.isTouched = true
    releases.append(lock)
  }

  func touch(_ hold: Hold) {
    if let multi = hold.partOf { touch(multi) }
    guard !hold.mark.isTouched, !isOver else { return }
    hold.mark.isTouched = true
    holds.append(hold)
  }

  func touch(_ waiter: Waiter) {
    if waiter.place == 0 {
      lastPlace += 1
      waiter.place = lastPlace
    }
    if let multi = waiter.partOf { return touch(multi) }
    guard !waiter.mark.isTouched, !isOver else { return }
    waiter.mark.isTouched = true
    waits.append(waiter)
  }

  func touch(_ request: MultiLockRequest) {
    guard !request.mark.isTouched, !isOver else { return }
    request.mark.isTouched = true
    multiLocks.append(request)
  }

  func touchEpoch() { isEpochTouched = !isOver }

  /// Has all holds of a session noted as changed, by ``noteHolds(atMost:)``: there may be very many.
  func noteHolds(of session: SessionRecord) {
    guard !isOver else { return }
    if session.nextToNote == nil, session.firstHold != nil { noting.append(session) }
    session.nextToNote = session.firstHold
  }

  /// Whether ``noteHolds(atMost:)`` has more to do.
  var isNoting: Bool { !noting.isEmpty }

  /// Notes the next holds, about `count`. Sessions take turns.
  func noteHolds(atMost count: Int) {
    var left = count
    while left > 0, let session = noting.popFirst() {
      for _ in 0..<min(left, Self.holdsInTurn) {
        guard let hold = session.nextToNote else { break }
        touch(hold)
        session.nextToNote = hold.inSession.next
        left -= 1
      }
      if session.nextToNote != nil { noting.append(session) }
    }
  }

  /// Forgets the changes and notes none until ``resume()``. Waiters still get their places.
  func stop() {
    guard !isOver else { return }
    isOver = true
    for lease in leases { lease.mark.isTouched = false }
    for lock in releases { lock.mark.isTouched = false }
    for hold in holds { hold.mark.isTouched = false }
    for waiter in waits { waiter.mark.isTouched = false }
    for request in multiLocks { request.mark.isTouched = false }
    for session in noting { session.nextToNote = nil }
    noting = []
    leases = []
    releases = []
    holds = []
    waits = []
    multiLocks = []
    isEpochTouched = false
  }

  /// Notes what changes from now on.
  func resume() { isOver = false }

  /// The number of a record, a new one if it has none.
  func number(_ mark: inout StateMark) -> UInt64 {
    if mark.record == 0 {
      lastRecord += 1
      mark.record = lastRecord
    }
    return mark.record
  }
}
