import LockEngine
import LockTypes
import Testing

@Suite struct HistoryTests {
  private let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)

  private func want(_ kinds: HistoryKinds, in script: Script) {
    script.feed(.historyWanted(kinds))
    script.open(alice, bob, carol)
  }

  private func deeds(_ script: Script) -> [LockHistory.Deed] { told(script).map(\.deed) }

  private func told(_ script: Script) -> [LockHistory] {
    script.take().compactMap { if case .recorded(let history) = $0 { history } else { nil } }
  }

  private static let all: HistoryKinds = [.grants, .releases, .waits, .failures, .losses]

  @Test func nothingIsToldUnlessItIsWanted() {
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(bob, wait: 1)
    script.pass(milliseconds: 1)
    script.release(alice)
    #expect(deeds(script) == [])
  }

  @Test func aGrantAndAReleaseHaveAllThatIsKnown() {
    want(Self.all, in: script)
    script.acquire(alice, owner: "o", meta: "m")
    script.pass(milliseconds: 7)
    script.release(alice)
    var history = LockHistory(
      name: x, session: alice, token: 1000, mode: .exclusive, owner: "o", meta: "m",
      deed: .granted(waitedMilliseconds: 0))
    var wanted = [history]
    history.deed = .released(heldMilliseconds: 7, .released)
    wanted.append(history)
    #expect(told(script) == wanted)
  }

  @Test func onlyTheKindsThatAreWantedAreTold() {
    want([.releases], in: script)
    script.acquire(alice)
    script.acquire(bob)
    script.release(alice)
    #expect(deeds(script) == [.released(heldMilliseconds: 0, .released)])
  }

  @Test func aWaitIsToldWithThoseThatItIsForAndHowItEnds() {
    want([.waits, .failures, .grants], in: script)
    script.acquire(alice)
    script.acquire(bob, wait: 5)
    script.acquire(carol)
    script.pass(milliseconds: 5)
    script.release(alice)
    let holder = HolderSummary.local(alice, 1000)
    #expect(
      deeds(script) == [
        .granted(waitedMilliseconds: 0), .waits(holder, waiters: 1), .waits(holder, waiters: 2),
        .failed(waitedMilliseconds: 5, .timeout(holder, of: x)), .granted(waitedMilliseconds: 5),
      ])
  }

  @Test func aTryIsNoWait() {
    want([.waits, .failures], in: script)
    script.acquire(alice)
    script.acquire(bob, wait: 0)
    #expect(deeds(script) == [.failed(waitedMilliseconds: 0, .busy(.local(alice, 1000), of: x))])
  }

  @Test func whatEndsWithASessionIsTold() {
    want(Self.all, in: script)
    script.acquire(alice)
    script.acquire(bob)
    _ = script.take()
    script.pass(milliseconds: 3)
    script.feed(.sessionClosed(bob))
    script.feed(.sessionClosed(alice))
    #expect(deeds(script) == [.leftQueue(waitedMilliseconds: 3), .released(heldMilliseconds: 3, .sessionEnded)])
  }

  @Test func aLossIsToldBeforeTheClientIs() {
    want([.losses, .releases], in: script)
    script.acquire(alice, maxHold: 4)
    _ = script.take()
    script.pass(milliseconds: 4)
    let effects = script.take()
    guard case .recorded(let history)? = effects.first, case .notify(alice, .lost)? = effects.dropFirst().first else {
      Issue.record("it is told otherwise: \(effects)")
      return
    }
    #expect(history.deed == .lost(heldMilliseconds: 4, .maxHold))
  }

  @Test func whatIsHeldAgainByItsOwnerIsNoGrant() {
    want(Self.all, in: script)
    script.acquire(alice, owner: "o")
    script.acquire(alice, owner: "o")
    script.release(alice)
    script.release(alice)
    #expect(deeds(script) == [.granted(waitedMilliseconds: 0), .released(heldMilliseconds: 0, .released)])
  }

  /// Its client hears of none before it has all.
  @Test func aRequestForSeveralIsToldWhenItHasAll() {
    want(Self.all, in: script)
    script.acquire(alice, "b")
    _ = script.take()
    script.acquire(bob, all: ["a", "b"])
    #expect(told(script).map(\.deed) == [.waits(.local(alice, 1000), waiters: 1)])
    script.release(alice, "b")
    #expect(
      Set(told(script).filter { $0.session == bob }.map(\.name)) == [LockName("a"), LockName("b")])
    script.acquire(carol, "c")
    script.acquire(bob, all: ["0", "c"], wait: 1)
    _ = script.take()
    script.pass(milliseconds: 1)
    // "0" was given back, and nobody had been told of it.
    #expect(told(script).map(\.name) == [LockName("c")])
  }

  @Test func aTransferIsAReleaseAndAGrant() {
    want([.grants, .releases], in: script)
    script.acquire(alice)
    _ = script.take()
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: nil, to: bob))
    #expect(deeds(script) == [.released(heldMilliseconds: 0, .transferred), .granted(waitedMilliseconds: 0)])
  }

  @Test func aWaitForAnotherHostIsToldOnceThatIsKnown() {
    let script = Script()
    want([.waits], in: script)
    script.acquire(alice)
    script.reply(.queued(holderHost: "b", holderExpiresInMilliseconds: 9000, listeners: 1))
    script.acquire(bob)
    #expect(deeds(script) == [.waits(.host("b"), waiters: 1), .waits(.host("b"), waiters: 2)])
  }

  @Test func whoOnlyAsksTheStoreDoesNotWait() {
    let script = Script()
    want([.waits, .grants], in: script)
    script.acquire(alice)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 10, othersWait: false)))
    #expect(deeds(script) == [.granted(waitedMilliseconds: 0)])
  }

  @Test func whoAsksTheStoreForAFreePermitDoesNotWait() {
    let script = Script()
    want(Self.all, in: script)
    for (session, token) in [(alice, 100), (bob, 200)] as [(SessionID, Token)] {
      script.acquire(session, mode: .permit(of: 5))
      script.reply(granted(token))
    }
    #expect(deeds(script) == [.granted(waitedMilliseconds: 0), .granted(waitedMilliseconds: 0)])
  }
}
