import LockEngine
import LockTypes
import TestSupport

/// Several hosts and one Redis in virtual time. All that happens follows from the plan and its seed.
final class Simulation {
  let plan: Plan
  let mistake: Mistake
  var random: SeededRandom
  /// True time, in microseconds.
  private(set) var now: Int64 = 0
  private(set) var failure: String?
  private(set) var marks: Set<String> = []
  private(set) var eventCount = 0
  /// Turns that only an engine's timer caused, to find an engine that never sleeps.
  var timerTurns = 0
  private(set) var hosts: [SimulatedHost] = []
  private(set) var server: SimulatedServer!
  private(set) var checker: Checker!
  var clients: [SimulatedClient] = []
  var faultsAreOn = false
  /// While it is false clients ask for nothing new and give back what they get.
  var clientsAct = false
  var actCount = 0
  var latencyFactor: Int64 = 1
  /// Whether the next lease that a host hears of is forgotten at once.
  var forgetsNextLease = false
  /// From when on a fault may begin an epoch.
  var nextEpochFrom: Int64 = 0

  private var queue = EventQueue()
  private var wireCount = 0
  private var lastID: UInt64 = 0
  private var lines: [String]?
  /// What each engine was told, and said to it; empty unless that is recorded.
  var records: [EventRecord] = []
  let isRecorded: Bool

  /// `traced`: keep a history of everything, which is slow; a seed that has failed is run again that way. `recorded`: keep
  /// what the engines are told.
  init(_ plan: Plan, mistake: Mistake = .none, traced: Bool = false, recorded: Bool = false) {
    self.plan = plan
    isRecorded = recorded
    self.mistake = mistake
    random = SeededRandom(seed: plan.seed &* 0x9e37_79b9 &+ 1)
    if traced { lines = [] }
    server = SimulatedServer(world: self)
    checker = Checker(world: self)
    hosts = (0..<plan.hostCount).map { SimulatedHost(world: self, index: $0) }
    if !plan.beginsAtOnce {
      // It finds nothing and nobody, so that there is no grace.
      hosts[0].start()
      _ = run(milliseconds: 20 + 20 * plan.latencyMicroseconds.upperBound / 1000) { checker.epoch != nil }
    }
    for host in hosts where !host.isRunning { host.start() }
  }

  /// Nothing goes wrong in this simulation.
  var isCalm: Bool { plan.faults.isEmpty && mistake == .none && !isScripted }
  var isScripted: Bool { plan.clientsPerHost == 0 }

  // MARK: Time

  func schedule(at time: Int64, _ action: @escaping () -> Void) { queue.push(at: max(time, now), action) }

  func schedule(after span: Int64, _ action: @escaping () -> Void) { queue.push(at: now + max(0, span), action) }

  /// Lets time pass until `end`, or until something is wrong.
  func run(until end: Int64) {
    while failure == nil, let next = queue.next, next <= end, let (time, action) = queue.pop() {
      now = time
      eventCount += 1
      action()
      if eventCount > 400_000 { fail("more than 400,000 events: something never sleeps") }
    }
    if failure == nil { now = max(now, end) }
  }

  func run(milliseconds: Int64) { run(until: now + milliseconds * 1000) }

  /// Lets time pass until `condition` holds; false when it does not within `milliseconds`.
  func run(milliseconds: Int64, until condition: () -> Bool) -> Bool {
    let end = now + milliseconds * 1000
    while failure == nil {
      if condition() { return true }
      guard let next = queue.next, next <= end else { break }
      run(until: next)
    }
    return condition()
  }

  /// What is still scheduled holds the simulation alive.
  func end() { queue.removeAll() }

  // MARK: Chance

  func latency() -> Int64 { min(random.pick(plan.latencyMicroseconds) * latencyFactor, Self.latencyMax) }

  /// The longest that bytes are under way, even in a latency spike: a second, in microseconds.
  static let latencyMax: Int64 = 1_000_000

  func split(_ bytes: [UInt8]) -> [[UInt8]] {
    guard plan.splitPercent > 0, bytes.count > 1, random.chance(plan.splitPercent) else { return [bytes] }
    let at = random.pick(1...bytes.count - 1)
    return [Array(bytes[..<at]), Array(bytes[at...])]
  }

  func newID() -> UInt64 {
    lastID += 1
    return lastID
  }

  func newWire(_ host: SimulatedHost) -> Wire {
    wireCount += 1
    return Wire(id: wireCount, world: self, host: host)
  }

  // MARK: Clients

  func clientReplied(_ session: SessionID, _ request: RequestID, _ reply: Reply) {
    client(session)?.replied(request, reply)
  }

  func clientNotified(_ session: SessionID, _ notification: Notification) {
    client(session)?.notified(notification)
  }

  private func client(_ session: SessionID) -> SimulatedClient? { clients.first { $0.session == session } }

  /// A daemon that was told to stop has stopped; the service manager starts it again.
  func hostShutDown(_ host: SimulatedHost) {
    if isScripted { return }
    schedule(after: 100_000) { if !host.isRunning { host.start() } }
  }

  // MARK: Findings

  func fail(_ words: String) {
    guard failure == nil else { return }
    failure = words
    trace("FAILED: \(words)")
  }

  func mark(_ branch: String) { marks.insert(branch) }

  func trace(_ line: @autoclosure () -> String) {
    if lines != nil { lines?.append("\(now / 1000).\(String(now % 1000 + 1000).dropFirst()) ms  \(line())") }
  }

  /// The last events, for a report.
  func lastLines(_ count: Int) -> String { (lines ?? []).suffix(count).joined(separator: "\n") }
}
