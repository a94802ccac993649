/// The holds of one lock, in the order in which they came to be. They are linked, so that whichever ends does so at once,
/// however many there are.
struct HoldList: Sequence {
  private(set) var first: Hold?
  private(set) var last: Hold?
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ hold: Hold) {
    hold.previousOfLock = last
    if let last { last.nextOfLock = hold } else { first = hold }
    last = hold
    count += 1
  }

  /// Takes `hold` out; it must be here.
  mutating func remove(_ hold: Hold) {
    let (previous, next) = (hold.previousOfLock, hold.nextOfLock)
    if let previous { previous.nextOfLock = next } else { first = next }
    if let next { next.previousOfLock = previous } else { last = previous }
    hold.previousOfLock = nil
    hold.nextOfLock = nil
    count -= 1
  }

  /// None of them may leave while they are gone through.
  func makeIterator() -> Iterator { Iterator(upcoming: first) }

  struct Iterator: IteratorProtocol {
    fileprivate var upcoming: Hold?

    mutating func next() -> Hold? {
      defer { upcoming = upcoming?.nextOfLock }
      return upcoming
    }
  }
}
