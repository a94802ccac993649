import LockTypes
import Testing

@testable import LockEngine

/// Deadlines in their order, of which those that mean nothing any more are dropped in slices: `DeadlineQueue`.
@Suite struct DeadlineQueueTests {
  private static func moment(_ number: Int) -> BootInstant { BootInstant(nanoseconds: Int64(number)) }

  /// One user may have very many, and nobody waits while all of them are looked at.
  @Test(arguments: [1, -1]) func aLongQueueIsLookedThroughInSlices(_ direction: Int) {
    var queue = DeadlineQueue<Int>()
    var mostLooks = 0
    let count = 50_000
    for number in 0..<count {
      queue.push(number, at: Self.moment(direction * number))
      var looks = 0
      queue.compact { _, _ in
        looks += 1
        return true
      }
      mostLooks = max(mostLooks, looks)
    }
    #expect(queue.count == count)
    // Nine in ten are over.
    for number in count..<(2 * count) {
      queue.push(number, at: Self.moment(direction * number))
      var looks = 0
      queue.compact { _, item in
        looks += 1
        return item >= count || item % 10 == 0
      }
      mostLooks = max(mostLooks, looks)
    }
    #expect(mostLooks <= 2500)
    #expect(queue.count < count * 3 / 2)
    var left: [Int] = []
    while let (_, item) = queue.popDue(Self.moment(.max)) { left.append(item) }
    let kept = (0..<count).filter { $0 % 10 == 0 } + Array(count..<(2 * count))
    #expect(left.filter { $0 >= count || $0 % 10 == 0 } == (direction > 0 ? kept : kept.reversed()))
  }

  /// Entries that come and go beside the looking are given out like those of a sorted list.
  @Test func entriesComeInTheirOrderWhateverIsDropped() {
    var random: UInt64 = 88_172_645_463_325_252
    func next(_ bound: Int) -> Int {
      random ^= random << 13
      random ^= random >> 7
      random ^= random << 17
      return Int(random % UInt64(bound))
    }
    var queue = DeadlineQueue<Int>()
    var model: [(at: Int, number: Int)] = []
    var over: Set<Int> = []
    var number = 0
    for step in 0..<24_000 {
      let isGrowing = step / 4000 % 2 == 0
      if next(10) < (isGrowing ? 8 : 3) {
        number += 1
        let at = next(4) == 0 ? step + next(5000) : step + 5000
        queue.push(number, at: Self.moment(at))
        var (low, high) = (0, model.count)
        while low < high {
          let middle = (low + high) / 2
          if model[middle].at > at { high = middle } else { low = middle + 1 }
        }
        model.insert((at, number), at: low)
        if next(3) == 0 { over.insert(number) }
      } else if let (at, item) = queue.popFirst(where: { _, _ in true }) {
        while let first = model.first, first.number != item {
          #expect(over.contains(first.number), "an entry is missing")
          model.removeFirst()
        }
        #expect(model.first?.at == Int(at.nanoseconds))
        if !model.isEmpty { model.removeFirst() }
      }
      queue.compact { _, item in !over.contains(item) }
    }
    #expect(queue.count <= model.count && queue.count >= model.count { !over.contains($0.number) })
  }

  @Test func veryManyAreDroppedInSlices() {
    var queue = DeadlineQueue<Int>()
    for number in 0..<10_000 { queue.push(number, at: Self.moment(number % 3 == 0 ? 5 : number)) }
    var slices = 0
    while queue.drop(atMost: 1000) { slices += 1 }
    #expect(slices == 9 && queue.count == 0 && queue.earliest == nil)
    queue.push(1, at: Self.moment(7))
    #expect(queue.earliest == Self.moment(7))
  }
}
