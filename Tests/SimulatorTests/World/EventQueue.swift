/// What is going to happen, by time and then by the order in which it was scheduled.
struct EventQueue {
  private struct Entry {
    var at: Int64
    var sequence: UInt64
    var action: () -> Void
  }

  private var heap: [Entry] = []
  private var sequence: UInt64 = 0

  var isEmpty: Bool { heap.isEmpty }

  var next: Int64? { heap.first?.at }

  mutating func push(at time: Int64, _ action: @escaping () -> Void) {
    sequence += 1
    heap.append(Entry(at: time, sequence: sequence, action: action))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      guard isBefore(child, parent) else { break }
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func pop() -> (at: Int64, action: () -> Void)? {
    guard let first = heap.first else { return nil }
    let last = heap.removeLast()
    if !heap.isEmpty {
      heap[0] = last
      var parent = 0
      while true {
        var least = parent
        let left = 2 * parent + 1
        if left < heap.count, isBefore(left, least) { least = left }
        if left + 1 < heap.count, isBefore(left + 1, least) { least = left + 1 }
        if least == parent { break }
        heap.swapAt(parent, least)
        parent = least
      }
    }
    return (first.at, first.action)
  }

  mutating func removeAll() { heap.removeAll() }

  private func isBefore(_ a: Int, _ b: Int) -> Bool {
    heap[a].at != heap[b].at ? heap[a].at < heap[b].at : heap[a].sequence < heap[b].sequence
  }
}
