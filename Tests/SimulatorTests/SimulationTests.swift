import Foundation
import Synchronization
import Testing

/// Random simulations, each fully determined by its seed.
///
/// `SIDELOCK_SIM_SEEDS` sets how many seeds are run, `SIDELOCK_SIM_FIRST` the first of them, and `SIDELOCK_SIM_SEED`
/// runs one seed alone and prints what happened in it (the last `SIDELOCK_SIM_LINES` lines). `SIDELOCK_SIM_MISTAKE` names
/// the one mistake that is planted.
@Suite struct SimulationTests {
  private struct Summary: Sendable {
    /// How many seeds reached each.
    var marks: [String: Int] = [:]
    var failures: [UInt64: String] = [:]
    var events = 0
    var grants = 0
  }

  /// A range of seeds, worked off by as many threads as there are cores.
  private final class Campaign: Sendable {
    private let next: Atomic<UInt64>
    private let end: UInt64
    private let summary = Mutex(Summary())

    init(first: UInt64, count: UInt64) {
      next = Atomic(first)
      end = first + count
    }

    var found: Summary { summary.withLock { $0 } }

    func work() {
      while true {
        let seed = next.wrappingAdd(1, ordering: .relaxed).oldValue
        guard seed < end else { return }
        let world = Simulation(Plan(seed: seed))
        world.runPlan()
        let (marks, failure) = (world.marks, world.failure)
        let (events, grants) = (world.eventCount, world.checker.grantCount)
        let isEnough = summary.withLock { summary in
          for mark in marks { summary.marks[mark, default: 0] += 1 }
          summary.events += events
          summary.grants += grants
          summary.failures[seed] = failure
          return summary.failures.count >= 20
        }
        if isEnough { return }
      }
    }
  }

  @Test func noSeedBreaksAnInvariant() async {
    let count = Self.setting("SIDELOCK_SIM_SEEDS") ?? 10_000
    let campaign = Campaign(first: Self.setting("SIDELOCK_SIM_FIRST") ?? 1, count: count)
    await withTaskGroup(of: Void.self) { group in
      for _ in 0..<max(1, ProcessInfo.processInfo.activeProcessorCount) {
        group.addTask { await onThread { campaign.work() } }
      }
    }
    let found = campaign.found
    print("\(count) seeds, \(found.events) events, \(found.grants) grants")
    let rarest = Self.branches.map { ($0, found.marks[$0] ?? 0) }.sorted { ($0.1, $0.0) < ($1.1, $1.0) }.prefix(12)
    print("the rarest: \(rarest.map { "\($0.0) (\($0.1))" }.joined(separator: ", "))")
    for (seed, failure) in found.failures.sorted(by: { $0.key < $1.key }) { Self.report(seed, failure) }
    if found.failures.isEmpty && count >= 10_000 {
      #expect(Self.branches.subtracting(found.marks.keys).sorted() == [], "rare branches that no seed has reached")
    }
  }

  /// The seed that the environment names, with its history; without one, the first seed, in silence.
  @Test func theSeedOfTheEnvironment() {
    let seed = Self.setting("SIDELOCK_SIM_SEED")
    let world = Simulation(Plan(seed: seed ?? 1), traced: true)
    world.runPlan()
    if seed != nil {
      print(world.plan)
      print(world.lastLines(Int(Self.setting("SIDELOCK_SIM_LINES") ?? 200)))
    }
    #expect(world.failure == nil)
  }

  @Test func oneSeedGivesOneHistory() {
    let histories = (0..<2).map { _ in
      let world = Simulation(Plan(seed: 65), traced: true)
      world.runPlan()
      return world.lastLines(.max)
    }
    #expect(histories[0] == histories[1])
  }

  /// A checker that finds nothing may be blind: each planted mistake must be found within a few seeds. One that finds
  /// something whatever is planted is no better: the same plan without the mistake must be well.
  @Test(arguments: mistakes)
  func plantedMistakeIsFound(_ mistake: Mistake) async {
    let (seed, failure, without) = await onThread { () -> (seed: UInt64, failure: String?, without: String?) in
      for seed in UInt64(1)...1000 {
        let world = Simulation(mistake.plan(seed: seed), mistake: mistake)
        world.runPlan()
        guard let failure = world.failure else { continue }
        let right = Simulation(mistake.plan(seed: seed))
        right.runPlan()
        return (seed, failure, right.failure)
      }
      return (1000, nil, nil)
    }
    guard let failure else {
      Issue.record("\(seed) seeds do not show the mistake \(mistake)")
      return
    }
    print("\(mistake): seed \(seed): \(failure)")
    if let words = mistake.mustBeFoundBy { #expect(failure.contains(words), "\(mistake): seed \(seed)") }
    #expect(without == nil, "seed \(seed) without \(mistake)")
  }

  /// The marks that all seeds together must have hit.
  private static let branches: Set<String> = Set(Fault.allCases.map { "fault: \($0.rawValue)" }).union([
    "Redis refused", "connection given up", "contended", "contended by a try", "dead waiter passed over",
    "foreign holder", "foreign holder took the lock", "granted by push", "granted while others wait",
    "granted while the last holder is suspended", "heartbeat", "in use", "late commands killed", "local hand-over",
    "local hand-over while another host waits", "lock passed to a waiting host", "lost: data_loss",
    "lost: lease_expired", "lost: max_hold", "lost: shutdown", "not held", "old connection killed",
    "command sent late", "overlap after what is unsafe", "push lost", "queued",
    "queued behind a host that is gone", "refused: busy",
    "refused: cancelled", "refused: shuttingDown", "refused: timeout", "refused: unavailable", "refused: wrongType",
    "renewal finds the lease gone", "shut down", "shut down without Redis", "waiting",
    "shared on one host", "shared between hosts", "permits on one host", "permits on several hosts", "downgraded",
    "lease shared", "queued behind its own lease", "served before a later host", "conflict", "refused: modeConflict",
    "entered again",
    "released one of several holds", "granted several", "transferred", "lost: broken", "holder told of waiters",
    "deadlock on one host", "deadlock through hosts", "granted by push with a length of before", "told by another host",
    "refused: deadlock", "fields of a later release kept", "more tokens reserved", "taken away", "places are well",
    "place lost", "taken from a dead host", "dead host passed over",
    // Epochs.
    "first start", "epoch begun", "epoch begun over nothing", "epoch begun over another",
    "epoch begun in the grace of another", "grace as long as the epoch of before needs",
    "grace as long as somebody remembers", "floor of the epoch of before", "floor by the clock of before",
    "epoch joined in its grace", "epoch joined when it was open", "grace made longer", "longer leases in an epoch",
    "floor raised", "floor raised by the clock of before", "in another epoch", "told of an epoch",
    "grace over", "grace ended by itself", "grace ended by another host", "refused: recovering",
    "granted after a grace that was waited for", "reclaimed over nothing", "reclaimed beside what stood there",
    "reclaimed in the place of another host", "reclaim finds the lock taken", "held through a loss of data",
    "unsafe: firstStart", "unsafe: lockKeyGone", "unsafe: clockForward", "unsafe: dataPutBack",
    "unsafe: highest token forgotten",
  ])

  /// The mistakes to plant: all, or the one that the environment names. That may be `none`, which must fail.
  static var mistakes: [Mistake] {
    guard let name = ProcessInfo.processInfo.environment["SIDELOCK_SIM_MISTAKE"] else {
      return Mistake.allCases.filter { $0 != .none }
    }
    return Mistake(rawValue: name).map { [$0] } ?? []
  }

  private static func setting(_ name: String) -> UInt64? {
    ProcessInfo.processInfo.environment[name].flatMap { UInt64($0) }
  }

  /// Runs a seed again, now with a record of what happens.
  private static func report(_ seed: UInt64, _ failure: String) {
    let world = Simulation(Plan(seed: seed), traced: true)
    world.runPlan()
    Issue.record(
      """
      seed \(seed): \(failure)
      \(world.plan)
      \(world.lastLines(40))
      Run it alone: SIDELOCK_SIM_SEED=\(seed) swift test --filter theSeedOfTheEnvironment
      """)
  }
}
