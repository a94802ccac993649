import LockTypes
import Testing

@testable import LockEngine

/// Holds that last longer than the settings have it.
@Suite struct HeldLongTests {
  let script = Script(
    EngineConfiguration(tier: .local(firstToken: 1000)) { $0.settings.warnHoldMilliseconds = 500 }, linkUp: false)

  private func told() -> [Token] {
    script.take().compactMap { if case .heldLong(_, _, let token, _, _) = $0 { token } else { nil } }
  }

  @Test func oneIsToldOnceWithWhoWaits() {
    script.open(alice, bob)
    let since = script.now
    script.acquire(alice)
    script.acquire(bob)
    script.pass(milliseconds: 499)
    #expect(told().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take() == [.heldLong(alice, x, 1000, since: since, waiters: 1)])
    script.pass(milliseconds: 10_000)
    #expect(told().isEmpty)
    #expect(script.engine.statistics.heldLong == 1)
  }

  @Test func shortOnesAreNotTold() {
    script.open(alice)
    for _ in 0..<10 {
      script.acquire(alice)
      script.pass(milliseconds: 400)
      script.release(alice)
    }
    script.pass(milliseconds: 10_000)
    #expect(told().isEmpty)
  }

  @Test func aTransferBeginsANewHold() {
    script.open(alice, bob)
    script.acquire(alice)
    script.pass(milliseconds: 400)
    script.feed(.transferRequested(alice, RequestID(900), name: x, token: nil, to: bob, isAccepting: true))
    script.pass(milliseconds: 499)
    #expect(told().isEmpty)
    script.pass(milliseconds: 1)
    #expect(told() == [1001])
  }

  @Test func aLongerTimeIsForThoseThatAreThere() {
    script.open(alice)
    script.acquire(alice)
    script.pass(milliseconds: 400)
    script.reconfigure { $0.warnHoldMilliseconds = 1000 }
    script.pass(milliseconds: 599)
    #expect(told().isEmpty)
    script.pass(milliseconds: 1)
    #expect(told() == [1000])
  }

  @Test func noneIsToldWhenItIsOff() {
    script.open(alice)
    script.acquire(alice)
    script.reconfigure { $0.warnHoldMilliseconds = 0 }
    script.acquire(alice, "y")
    script.pass(milliseconds: 10_000)
    #expect(told().isEmpty && script.engine.statistics.heldLong == 0)
  }

  /// Its client has none of them before it has all.
  @Test func aRequestForSeveralLocksHoldsThemFromItsGrantOn() {
    script.open(alice, bob)
    script.acquire(bob, "b")
    script.acquire(alice, all: ["a", "b"])
    script.pass(milliseconds: 400)
    script.release(bob, "b")
    script.pass(milliseconds: 499)
    #expect(told().isEmpty)
    script.pass(milliseconds: 1)
    #expect(told().count == 2)
  }
}
