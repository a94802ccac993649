import Testing

/// Names that move between several primaries while they are asked for, held and given back.
@Suite struct ShardSimulationTests {
  @Test func whatMovesIsHeldByOneAndLostByNobody() {
    var marks: Set<String> = []
    var grants = 0
    for seed in UInt64(1)...60 {
      let world = ShardWorld(seed: seed)
      world.runPlan(cuts: false)
      marks.formUnion(world.marks)
      grants += world.grants
      if world.failure == nil, world.losses == 0 { continue }
      Issue.record("seed \(seed): \(world.failure ?? "\(world.losses) holds were lost")\n\(Self.history(seed, false))")
      return
    }
    #expect(grants > 1000)
    for mark in ["moved", "moved while it is held", "told that it has moved", "refused: busy"] {
      #expect(marks.contains(mark))
    }
  }

  @Test func whereConnectionsBreakAndPrimariesBeginAnewNobodyHoldsItTwice() {
    var marks: Set<String> = []
    for seed in UInt64(1000)...1060 {
      let world = ShardWorld(seed: seed)
      world.runPlan(cuts: true)
      marks.formUnion(world.marks)
      guard let failure = world.failure else { continue }
      Issue.record("seed \(seed): \(failure)\n\(Self.history(seed, true))")
      return
    }
    for mark in ["cut", "primary begins anew", "moved while it is held", "lost: lease_expired"] {
      #expect(marks.contains(mark))
    }
  }

  private static func history(_ seed: UInt64, _ cuts: Bool) -> String {
    let world = ShardWorld(seed: seed, isTraced: true)
    world.runPlan(cuts: cuts)
    return world.lastLines(120)
  }
}
