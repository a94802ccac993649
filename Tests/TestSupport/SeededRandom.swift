/// SplitMix64: small, fast, and the same on every machine.
package struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64

  package init(seed: UInt64) { state = seed }

  package mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// A number from `range`. Plain modulo: the tiny bias does no harm here, and the standard library's generic way is
  /// slow in an unoptimised build.
  package mutating func pick(_ range: ClosedRange<Int64>) -> Int64 {
    range.lowerBound + Int64(next() % UInt64(range.upperBound - range.lowerBound + 1))
  }

  package mutating func pick(_ range: ClosedRange<Int>) -> Int {
    Int(pick(Int64(range.lowerBound)...Int64(range.upperBound)))
  }

  package mutating func pick<Item>(_ items: [Item]) -> Item {
    items[Int(next() % UInt64(items.count))]
  }

  package mutating func chance(_ percent: Double) -> Bool {
    Double(next() % 1_000_000) < percent * 10_000
  }
}
