/// All locks of which something is known, in the order in which they came to be. They are linked, so that whichever is
/// forgotten leaves at once, and so that one walk along all of them can take many turns, whatever comes and leaves meanwhile.
struct LockList: Sequence {
  private(set) var first: LockRecord?
  private var last: LockRecord?
  /// The one at which the walk goes on; nil when it is at its end.
  private(set) var upcoming: LockRecord?
  /// The last one of the walk: those behind it came to be after it had begun.
  private var endOfWalk: UInt64 = 0

  /// Whether the walk has not come to all locks.
  var isWalked: Bool { upcoming != nil }

  /// Adds `lock`, which is younger than all others.
  mutating func append(_ lock: LockRecord) {
    lock.previousLock = last
    if let last { last.nextLock = lock } else { first = lock }
    last = lock
  }

  /// Takes `lock` out; it must be here.
  mutating func remove(_ lock: LockRecord) {
    if upcoming === lock { _ = next() }
    let (previous, next) = (lock.previousLock, lock.nextLock)
    if let previous { previous.nextLock = next } else { first = next }
    if let next { next.previousLock = previous } else { last = previous }
    lock.nextLock = nil
    lock.previousLock = nil
  }

  /// Begins a walk along those that are here.
  mutating func beginWalk() {
    upcoming = first
    endOfWalk = last?.serial ?? 0
  }

  /// The next one of the walk; nil at its end.
  mutating func next() -> LockRecord? {
    guard let lock = upcoming else { return nil }
    upcoming = lock.nextLock.flatMap { $0.serial <= endOfWalk ? $0 : nil }
    return lock
  }

  /// Has the walk come to `lock` once more, where it was last.
  mutating func comeAgain(to lock: LockRecord) { upcoming = lock }

  /// None of them may leave while they are gone through.
  func makeIterator() -> Iterator { Iterator(upcoming: first) }

  struct Iterator: IteratorProtocol {
    fileprivate var upcoming: LockRecord?

    mutating func next() -> LockRecord? {
      defer { upcoming = upcoming?.nextLock }
      return upcoming
    }
  }
}
