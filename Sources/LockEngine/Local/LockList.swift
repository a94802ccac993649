/// The lock records of one home, in the order in which they came there: an intrusive linked list. Removing one takes
/// constant time, and one walk over all can take many turns while others are added and removed.
struct LockList: Sequence {
  private(set) var first: LockRecord?
  private var last: LockRecord?
  /// Where the walk goes on; nil at its end.
  private(set) var upcoming: LockRecord?
  /// The place of the walk's last lock; later ones came after it began.
  private var endOfWalk: UInt64 = 0
  private var lastPlace: UInt64 = 0

  var isEmpty: Bool { first == nil }

  /// Whether the walk has locks left.
  var isWalked: Bool { upcoming != nil }

  /// Adds `lock` behind all others.
  mutating func append(_ lock: LockRecord) {
    lastPlace += 1
    lock.placeInList = lastPlace
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

  /// Begins a walk over the locks that are here.
  mutating func beginWalk() {
    upcoming = first
    endOfWalk = lastPlace
  }

  /// The next one of the walk; nil at its end.
  mutating func next() -> LockRecord? {
    guard let lock = upcoming else { return nil }
    upcoming = lock.nextLock.flatMap { $0.placeInList <= endOfWalk ? $0 : nil }
    return lock
  }

  /// Has the walk visit `lock`, its last one, once more.
  mutating func comeAgain(to lock: LockRecord) { upcoming = lock }

  /// No lock may leave during the iteration.
  func makeIterator() -> Iterator { Iterator(upcoming: first) }

  struct Iterator: IteratorProtocol {
    fileprivate var upcoming: LockRecord?

    mutating func next() -> LockRecord? {
      defer { upcoming = upcoming?.nextLock }
      return upcoming
    }
  }
}
