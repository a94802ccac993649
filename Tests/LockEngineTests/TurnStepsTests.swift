import LockEngine
import LockTypes
import Testing

/// The events of one turn share its steps: one read from the store brings hundreds of them, and each finds that much is due.
@Suite struct TurnStepsTests {
  private static let steps = 16
  private static let locks = 640
  private static let events = 100

  private let script: Script

  init() {
    script = Script(.withSlices(of: Self.steps, .store) { $0.renewalBatchMax = Self.steps })
    script.open(alice, bob, carol)
  }

  private func holdAll() {
    for index in 0..<Self.locks { script.hold(alice, "x\(index)") }
  }

  /// One turn in which so many events come that say nothing.
  private func turn(_ event: Event = .sessionDescribed(carol, pid: 1, command: "c"), times: Int = events) -> [Effect] {
    script.isOneTurn = true
    for _ in 0..<times { script.feed(event) }
    script.isOneTurn = false
    script.feed(.turnEnded)
    return script.take()
  }

  /// Counts what each turn brings until nothing is due any more. Each brings as much as there is room for.
  private func eachTurn(brings most: ClosedRange<Int>, _ event: Event? = nil, _ count: ([Effect]) -> Int) -> Int {
    var all = 0
    var turns = 0
    while turns < 10_000 {
      let number = count(event.map { turn($0) } ?? turn())
      all += number
      if number == 0 { break }
      #expect(most.contains(number))
      turns += 1
    }
    return all
  }

  @Test func waitsThatEnd() {
    holdAll()
    for index in 0..<Self.locks { script.acquire(bob, "x\(index)", wait: 1_000) }
    for command in script.takeSent() { script.reply(queued(), to: command) }
    _ = script.take()
    script.now = script.now.adding(milliseconds: 1_001)
    let ended = eachTurn(brings: 1...Self.steps) { $0.count { $0.refusal != nil } }
    #expect(ended == Self.locks)
  }

  @Test func leasesThatEnd() {
    holdAll()
    _ = script.take()
    script.now = script.now.adding(milliseconds: 60_000)
    let lost = eachTurn(brings: 1...Self.steps) { $0.compactMap(\.lostReason).count }
    #expect(lost == Self.locks)
  }

  @Test func renewals() {
    holdAll()
    _ = script.take()
    script.now = script.now.adding(milliseconds: 8_000)
    let renewed = eachTurn(brings: 1...(2 * Self.steps)) { effects in
      effects.reduce(0) { sum, effect in
        guard case .send(_, _, .renew(let leases, _, _)) = effect else { return sum }
        return sum + leases.count
      }
    }
    #expect(renewed == Self.locks)
  }

  /// The timer may fire before each request that is answered without the engine.
  @Test func whatWasPutOff() {
    holdAll()
    _ = script.take()
    script.feed(.watched(steps: 1))
    script.feed(.sessionClosed(alice))
    let before = script.take().count { if case .observed = $0 { true } else { false } }
    let released = eachTurn(brings: 1...Self.steps, .timerFired) {
      $0.count { if case .observed = $0 { true } else { false } }
    }
    #expect(before + released == Self.locks)
    #expect(script.engine.gauges.held == 0)
  }

  /// An event whose turn has no steps left does what nearly all need, and puts the rest off.
  @Test func eventsOfTheirOwn() {
    let script = Script(.withSlices(of: Self.steps, .local(firstToken: 1)), linkUp: false)
    script.open(alice, bob)
    script.acquire(alice)
    for _ in 0..<Self.locks { script.acquire(bob, mode: .shared) }
    for index in 1...40 { script.acquire(alice, "y\(index)") }
    _ = script.take()
    script.isOneTurn = true
    script.release(alice)
    let first = script.take().count { $0.grantedSession != nil }
    #expect(first > 0 && first <= Self.steps)
    for index in 1...40 { script.acquire(bob, "y\(index)") }
    for index in 1...40 { script.release(alice, "y\(index)") }
    #expect(script.take().count { $0.grantedSession == bob } == 40)
    script.isOneTurn = false
    script.feed(.turnEnded)
    while let next = script.engine.nextDeadline, next <= script.now { script.feed(.timerFired) }
    #expect(first + script.take().count { $0.grantedSession == bob } == Self.locks)
  }
}
