import LockEngine
import LockTypes
import Testing

@Suite struct LocalTierTests {
  let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)

  @Test func aFreeLockIsGrantedAtOnce() {
    script.open(alice)
    let request = script.acquire(alice)
    #expect(
      script.take() == [
        .reply(
          alice, request,
          .acquired(Acquired(name: x, token: 1000, waitedMilliseconds: 0, validMilliseconds: nil)))
      ])
  }

  @Test func waitersAreServedFirstComeFirstServed() {
    script.open(alice, bob, carol)
    script.acquire(alice)
    script.acquire(bob)
    script.acquire(carol)
    _ = script.take()
    script.pass(milliseconds: 5)
    let release = script.release(alice)
    let effects = script.take()
    #expect(effects.first == .reply(alice, release, .released(name: x, token: 1000, remaining: 0)))
    #expect(effects.compactMap(\.grantedSession) == [bob])
    #expect(effects.compactMap(\.grantedToken) == [1001])
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  @Test func aTryMeetsAHolder() {
    script.open(alice, bob)
    script.acquire(alice)
    _ = script.take()
    script.acquire(bob, wait: 0)
    #expect(script.take().map(\.refusal) == [.busy(.local(alice, 1000), of: x)])
  }

  @Test func aWaitEndsAtItsDeadlineAndNotBefore() {
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(bob, wait: 50)
    _ = script.take()
    script.pass(milliseconds: 49)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().map(\.refusal) == [.timeout(.local(alice, 1000), of: x)])
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    #expect(script.engine.gauges.locks == 0)
  }

  // Pitfall 27: closing one client must not touch another's hold.
  @Test func aClosedSessionLosesItsOwnLocksOnly() {
    script.open(alice, bob, carol)
    script.acquire(alice, "x")
    script.acquire(bob, "y")
    script.acquire(carol, "x")
    _ = script.take()
    script.feed(.sessionClosed(alice))
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    script.feed(.sessionClosed(alice))
    #expect(script.take().isEmpty)
    #expect(script.engine.gauges.held == 2)
  }

  // Pitfall 39: a grant does not go to a waiter that has just left.
  @Test func aWaiterThatLeftIsPassedOver() {
    script.open(alice, bob, carol)
    script.acquire(alice)
    script.acquire(bob)
    script.acquire(carol)
    _ = script.take()
    script.feed(.sessionClosed(bob))
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  @Test func aSessionThatHoldsAndWaitsForOneNameGivesItToOthersWhenItCloses() {
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(alice)
    script.acquire(bob)
    _ = script.take()
    script.feed(.sessionClosed(alice))
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  // Pitfall 6: a stale token is refused.
  @Test func aStaleTokenDoesNotFreeANewerHold() {
    script.open(alice)
    script.acquire(alice)
    script.release(alice, token: 1000)
    script.acquire(alice)
    _ = script.take()
    script.release(alice, token: 1000)
    #expect(script.take().map(\.refusal) == [.notHeld(heldTokens: [1001])])
    #expect(script.engine.gauges.held == 1)
  }

  @Test func aCancelledWaitIsAnsweredBeforeTheCancel() {
    script.open(alice, bob)
    script.acquire(alice)
    let wait = script.acquire(bob)
    _ = script.take()
    let cancel = script.cancel(bob, wait)
    #expect(script.take() == [.reply(bob, wait, .refused(.cancelled)), .reply(bob, cancel, .cancelled(true))])
    let again = script.cancel(bob, wait)
    #expect(script.take() == [.reply(bob, again, .cancelled(false))])
  }

  @Test func aHoldEndsAtItsOwnLimit() {
    script.open(alice, bob)
    script.acquire(alice, maxHold: 100)
    script.acquire(bob)
    _ = script.take()
    script.pass(milliseconds: 100)
    let effects = script.take()
    #expect(effects.first == .notify(alice, .lost(name: x, token: 1000, reason: .maxHold, graceMilliseconds: 0)))
    #expect(effects.compactMap(\.grantedSession) == [bob])
    script.release(alice, token: 1000)
    #expect(script.take().map(\.refusal) == [.lost(.maxHold)])
    script.release(alice)
    #expect(script.take().map(\.refusal) == [.lost(.maxHold)])
    script.release(alice, token: 999)
    #expect(script.take().map(\.refusal) == [.notHeld(heldTokens: [])])
    script.release(bob)
    script.acquire(alice)
    _ = script.take()
    // A newer hold of the name is what a release without a token means.
    script.release(alice)
    #expect(script.take().map(\.refusal) == [nil])
  }

  @Test func extendSetsTheLimitAnewOrTakesItAway() {
    script.open(alice)
    script.acquire(alice, maxHold: 100)
    _ = script.take()
    let request = RequestID(77)
    script.feed(.extendRequested(alice, request, name: x, token: nil, maxHoldMilliseconds: 200))
    #expect(script.take() == [.reply(alice, request, .extended(name: x, token: 1000, maxHoldMilliseconds: 200))])
    script.pass(milliseconds: 199)
    #expect(script.take().isEmpty)
    script.feed(.extendRequested(alice, request, name: x, token: 1000, maxHoldMilliseconds: nil))
    _ = script.take()
    script.pass(milliseconds: 100_000)
    #expect(script.take().isEmpty)
  }

  @Test func theLimitOfWaitsIsMetAndNotPassed() {
    let script = Script(
      EngineConfiguration(tier: .local(firstToken: 1)) { $0.settings.waitsPerSessionMax = 2 }, linkUp: false)
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(bob)
    script.acquire(bob)
    _ = script.take()
    script.acquire(bob)
    #expect(script.take().map(\.refusal) == [.limit(.waitsPerSession)])
  }

  @Test func theLimitOfWaitersOfALockIsMetAndNotPassed() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)) { $0.waitersPerLockMax = 1 }, linkUp: false)
    script.open(alice, bob, carol)
    script.acquire(alice)
    script.acquire(bob)
    _ = script.take()
    script.acquire(carol)
    #expect(script.take().map(\.refusal) == [.limit(.waitersPerLock)])
  }

  @Test func theLimitOfHoldsIsMetAndNotPassed() {
    let script = Script(
      EngineConfiguration(tier: .local(firstToken: 1)) { $0.settings.holdsPerSessionMax = 1 }, linkUp: false)
    script.open(alice)
    script.acquire(alice, "x")
    _ = script.take()
    script.acquire(alice, "y")
    #expect(script.take().map(\.refusal) == [.limit(.holdsPerSession)])
  }

  // Pitfall 25: names are compared byte for byte, also where Unicode calls them equal.
  @Test func namesThatOnlyLookTheSameAreTwoLocks() {
    script.open(alice, bob)
    script.acquire(alice, "caf\u{E9}")
    script.acquire(bob, "cafe\u{301}")
    #expect(script.take().compactMap(\.grantedSession) == [alice, bob])
  }

  @Test func placesInTheQueueAreToldAtMostOnceASecond() {
    script.open(alice, bob, carol)
    script.acquire(alice)
    script.acquire(bob)
    _ = script.take()
    let request = script.acquire(carol, progress: true)
    func waiting(_ position: Int, _ holder: HolderSummary) -> Effect {
      .notify(carol, .waiting(request: request, name: x, position: position, holder: holder))
    }
    #expect(script.take() == [waiting(2, .local(alice, 1000))])
    script.pass(milliseconds: 400)
    script.release(alice)
    script.pass(milliseconds: 599)
    #expect(!script.take().contains(waiting(1, .local(bob, 1001))))
    script.pass(milliseconds: 1)
    #expect(script.take() == [waiting(1, .local(bob, 1001))])
  }

  @Test func shutdownTellsEverybody() {
    script.open(alice, bob)
    script.acquire(alice)
    let wait = script.acquire(bob)
    _ = script.take()
    script.feed(.shutdownRequested)
    #expect(
      script.take() == [
        .reply(bob, wait, .refused(.shuttingDown)),
        .notify(alice, .lost(name: x, token: 1000, reason: .shutdown, graceMilliseconds: 0)),
        .shutdownCompleted,
      ])
    script.acquire(bob)
    #expect(script.take().map(\.refusal) == [.shuttingDown])
  }

  @Test func withoutATokenNobodyIsGrantedAndNobodyWaitsForOne() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 7, lastToken: 9)), linkUp: false)
    script.open(alice, bob, carol)
    script.acquire(alice, "a")
    script.acquire(alice, "b", owner: "o")
    script.acquire(alice, "x")
    #expect(script.take().compactMap(\.grantedToken) == [7, 8, 9])
    let isUnavailable = { (effects: [Effect]) in
      effects.compactMap(\.refusal).map { if case .unavailable = $0 { true } else { false } }
    }
    // A free lock, a try, several at once, a hand-over, and who waits when a lock becomes free.
    script.acquire(bob, "c")
    script.acquire(bob, "c", wait: 0)
    script.acquire(bob, all: ["c", "d"])
    script.feed(
      .transferRequested(alice, script.newRequest(), name: LockName("a"), token: nil, to: bob, isAccepting: true))
    #expect(isUnavailable(script.take()) == [true, true, true, true])
    script.acquire(bob)
    script.acquire(carol)
    #expect(script.take().isEmpty)
    script.release(alice)
    #expect(isUnavailable(script.take()) == [true, true])
    // What needs no token goes on.
    script.acquire(alice, "b", owner: "o")
    #expect(script.take().compactMap(\.grantedToken) == [8])
    #expect(script.engine.gauges.locks == 2)
    script.feed(.localTokensReserved(through: 10))
    script.acquire(bob, "c")
    script.acquire(bob, "d")
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [10])
    #expect(isUnavailable(effects) == [true])
  }

  @Test func noTokenIsAbove2To53() {
    let last: Token = 1 << 53 - 1
    let script = Script(EngineConfiguration(tier: .local(firstToken: last)), linkUp: false)
    script.open(alice)
    script.feed(.localTokensReserved(through: .max))
    script.acquire(alice, "a")
    script.acquire(alice, "b")
    #expect(script.take().compactMap(\.grantedToken) == [last])
  }
}
