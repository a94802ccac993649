import DequeModule
import HeapModule
import LockTypes

/// Deadlines in the order in which they come due; those of one moment in the order in which they were set.
///
/// An entry stays when its reason goes away: the caller that takes it out looks whether it still means something.
/// ``compact(where:)`` throws out the ones that do not, so that a busy daemon does not keep them until their time.
struct DeadlineQueue<Item> {
  private struct Entry: Comparable {
    var at: BootInstant
    var sequence: UInt64
    var item: Item

    static func < (a: Entry, b: Entry) -> Bool {
      a.at != b.at ? a.at < b.at : a.sequence < b.sequence
    }

    static func == (a: Entry, b: Entry) -> Bool {
      a.sequence == b.sequence
    }
  }

  /// Entries that are looked at together when those are dropped that no longer mean anything.
  private static var chunkMax: Int { 512 }
  /// How many may be looked at for each new entry, and each call of ``compact(where:)``.
  private static var looksForEach: Int { 8 }

  /// Most deadlines of a queue lie equally far ahead, so each new one is due last: chunk behind chunk, deques keep them
  /// sorted. `front` is empty only when all are. The heap has those that are due before one that was set earlier.
  private var front = Deque<Entry>()
  private var middle = Deque<Deque<Entry>>()
  private var back = Deque<Entry>()
  private var heap = Heap<Entry>()
  /// What is left of the heap as it was, while it is looked through.
  private var oldHeap = Heap<Entry>()
  private(set) var count = 0
  private var sequence: UInt64 = 0
  private var compactAt = 1024
  /// The chunk of `middle` that is looked at next; nil when nothing is looked through.
  private var cursor: Int?
  private var looksLeft = 0

  /// The earliest moment, whether or not its entry still means something.
  var earliest: BootInstant? {
    guard let first = front.first else { return heapMin?.at }
    guard let other = heapMin else { return first.at }
    return min(first.at, other.at)
  }

  private var heapMin: Entry? {
    guard let old = oldHeap.min else { return heap.min }
    guard let new = heap.min else { return old }
    return min(old, new)
  }

  mutating func push(_ item: Item, at moment: BootInstant) {
    sequence += 1
    count += 1
    if cursor != nil { looksLeft += Self.looksForEach }
    let entry = Entry(at: moment, sequence: sequence, item: item)
    if let last = back.last ?? middle.last?.last ?? front.last, moment < last.at {
      heap.insert(entry)
    } else if middle.isEmpty, back.isEmpty, front.count < Self.chunkMax {
      front.append(entry)
    } else {
      if back.isEmpty { back.reserveCapacity(Self.chunkMax) }
      back.append(entry)
      guard back.count == Self.chunkMax else { return }
      middle.append(back)
      back = []
    }
  }

  /// Takes out the earliest entry that is due at `now`.
  mutating func popDue(_ now: BootInstant) -> (at: BootInstant, item: Item)? { popFirst { at, _ in at <= now } }

  /// Takes out the earliest entry, due or not, if it is one of those asked for.
  mutating func popFirst(where isAskedFor: (BootInstant, Item) -> Bool) -> (at: BootInstant, item: Item)? {
    let inHeap = heapMin.flatMap { other in front.first.map { other < $0 } ?? true ? other : nil }
    guard let first = inHeap ?? front.first, isAskedFor(first.at, first.item) else { return nil }
    if inHeap != nil { popHeap(first) } else { popFront() }
    return (first.at, first.item)
  }

  private mutating func popHeap(_ first: Entry) {
    count -= 1
    if oldHeap.min == first { oldHeap.removeMin() } else { heap.removeMin() }
  }

  private mutating func popFront() {
    count -= 1
    front.removeFirst()
    refillFront()
  }

  private mutating func refillFront() {
    guard front.isEmpty else { return }
    if let next = middle.popFirst() {
      front = next
      if let place = cursor { cursor = max(0, place - 1) }
    } else {
      swap(&front, &back)
    }
  }

  /// Takes out some entry, whichever is at hand.
  mutating func popAny() -> Item? {
    guard let item = front.first?.item else {
      guard let item = (heap.popMin() ?? oldHeap.popMin())?.item else { return nil }
      count -= 1
      return item
    }
    popFront()
    return item
  }

  /// Drops the entries that no longer mean anything, once the queue has a quarter more than after the last time: what is
  /// over is charged to nobody, and stays in memory until then. A queue may be very long, so it is looked through in
  /// slices, by as many entries as new ones come, and some more.
  mutating func compact(where meansSomething: (BootInstant, Item) -> Bool) {
    guard cursor != nil || count >= compactAt else { return }
    if cursor == nil {
      cursor = 0
      looksLeft = 2 * Self.chunkMax
      swap(&heap, &oldHeap)
      let isOver = { (entry: Entry) in !meansSomething(entry.at, entry.item) }
      count -= Self.drop(from: &front, isOver)
      refillFront()
      count -= Self.drop(from: &back, isOver)
    }
    looksLeft += Self.looksForEach
    while looksLeft >= Self.chunkMax, !oldHeap.isEmpty {
      looksLeft -= Self.chunkMax
      for _ in 0..<Self.chunkMax {
        guard let entry = oldHeap.popMin() else { break }
        if meansSomething(entry.at, entry.item) { heap.insert(entry) } else { count -= 1 }
      }
    }
    while looksLeft >= Self.chunkMax, let place = cursor, place < middle.count {
      looksLeft -= Self.chunkMax
      lookAtChunk(place, meansSomething)
    }
    guard oldHeap.isEmpty, cursor.map({ $0 >= middle.count }) ?? true else { return }
    cursor = nil
    compactAt = max(1024, count / 4 * 5)
  }

  private mutating func lookAtChunk(_ place: Int, _ meansSomething: (BootInstant, Item) -> Bool) {
    count -= Self.drop(from: &middle[place]) { !meansSomething($0.at, $0.item) }
    if middle[place].isEmpty {
      middle.remove(at: place)
    } else if place > 0, middle[place - 1].count + middle[place].count <= Self.chunkMax {
      middle[place - 1].append(contentsOf: middle[place])
      middle.remove(at: place)
    } else {
      cursor = place + 1
    }
  }

  private static func drop(from entries: inout Deque<Entry>, _ isOver: (Entry) -> Bool) -> Int {
    let before = entries.count
    entries.removeAll(where: isOver)
    return before - entries.count
  }

  /// Drops about `most` entries, whatever they mean: to drop very many at once takes long. Returns false when none is left.
  mutating func drop(atMost most: Int) -> Bool {
    for _ in 0..<most where popAny() == nil { break }
    return count > 0
  }
}
