import CAllocations

/// Something whose cost is measured: what is done once, and what is done again and again and leaves things as they
/// were, so that every round costs the same.
struct Measurement {
  var name: String
  /// Makes what the rounds need, and gives the round.
  var prepare: () -> () -> Void

  /// Rounds before the ones that count: memory that is used again has grown by then.
  static let warmUpRounds = 64

  /// The number of allocations that `rounds` rounds take. The boundary before and after them is where callgrind writes
  /// down its count of instructions.
  func run(rounds: Int) -> UInt64 {
    let round = prepare()
    for _ in 0..<Self.warmUpRounds { round() }
    let before = allocations_total()
    measurement_boundary()
    for _ in 0..<rounds { round() }
    measurement_boundary()
    return allocations_total() - before
  }
}

/// Keeps what was computed from being left out because nobody looks at it.
@inline(never)
func use<Value>(_ value: borrowing Value) {}
