/// The holds of one lock, oldest first: an intrusive linked list, so that removing one takes constant time.
struct HoldList: Sequence {
  private(set) var first: Hold?
  private(set) var last: Hold?
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ hold: Hold) {
    hold.inLock.previous = last
    if let last { last.inLock.next = hold } else { first = hold }
    last = hold
    count += 1
  }

  /// Takes `hold` out; it must be here.
  mutating func remove(_ hold: Hold) {
    let (previous, next) = (hold.inLock.previous, hold.inLock.next)
    if let previous { previous.inLock.next = next } else { first = next }
    if let next { next.inLock.previous = previous } else { last = previous }
    hold.inLock = Hold.Neighbours()
    count -= 1
  }

  /// No hold may leave during the iteration.
  func makeIterator() -> Iterator { Iterator(upcoming: first) }

  struct Iterator: IteratorProtocol {
    fileprivate var upcoming: Hold?

    mutating func next() -> Hold? {
      defer { upcoming = upcoming?.inLock.next }
      return upcoming
    }
  }
}
