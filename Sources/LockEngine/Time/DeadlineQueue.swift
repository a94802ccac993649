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

  /// Most deadlines of a queue lie equally far ahead, so each new one is due last: a deque keeps them sorted. The heap
  /// has those that are due before one that was set earlier.
  private var run = Deque<Entry>()
  private var heap = Heap<Entry>()
  private var sequence: UInt64 = 0
  private var compactAt = 1024

  var count: Int { run.count + heap.count }

  /// The earliest moment, whether or not its entry still means something.
  var earliest: BootInstant? {
    guard let first = run.first else { return heap.min?.at }
    guard let other = heap.min else { return first.at }
    return min(first.at, other.at)
  }

  mutating func push(_ item: Item, at moment: BootInstant) {
    sequence += 1
    let entry = Entry(at: moment, sequence: sequence, item: item)
    if let last = run.last, moment < last.at {
      heap.insert(entry)
    } else {
      run.append(entry)
    }
  }

  /// Takes out the earliest entry that is due at `now`.
  mutating func popDue(_ now: BootInstant) -> (at: BootInstant, item: Item)? {
    if let other = heap.min, run.first.map({ other < $0 }) ?? true {
      guard other.at <= now else { return nil }
      heap.removeMin()
      return (other.at, other.item)
    }
    guard let first = run.first, first.at <= now else { return nil }
    run.removeFirst()
    return (first.at, first.item)
  }

  /// Takes out the earliest entry, due or not, if it is one of those asked for.
  mutating func popFirst(where isAskedFor: (BootInstant, Item) -> Bool) -> (at: BootInstant, item: Item)? {
    let isInHeap = heap.min.map { other in run.first.map { other < $0 } ?? true } ?? false
    guard let first = isInHeap ? heap.min : run.first, isAskedFor(first.at, first.item) else { return nil }
    if isInHeap { heap.removeMin() } else { run.removeFirst() }
    return (first.at, first.item)
  }

  /// Takes out some entry, whichever is at hand.
  mutating func popAny() -> Item? { run.popLast()?.item ?? heap.popMin()?.item }

  /// Drops the entries that no longer mean anything, once the queue has a quarter more than after the last time: what is
  /// over is charged to nobody, and stays in memory until then.
  mutating func compact(where meansSomething: (BootInstant, Item) -> Bool) {
    guard count >= compactAt else { return }
    run.removeAll { !meansSomething($0.at, $0.item) }
    heap = Heap(heap.unordered.filter { meansSomething($0.at, $0.item) })
    compactAt = max(1024, count / 4 * 5)
  }
}
