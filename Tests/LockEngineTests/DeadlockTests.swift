import LockEngine
import LockTypes
import Testing

/// Waits on one host that would never end.
@Suite struct DeadlockTests {
  private func local() -> Script {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000), host: "h", inbox: "h/1"), linkUp: false)
    script.open(alice, bob, carol)
    return script
  }

  @Test func ownersThatOnlyLookAlikeAreInNoCycleTogether() {
    let script = local()
    script.acquire(alice, "a", owner: "\u{E9}")
    script.acquire(alice, "c", owner: "e\u{301}")
    script.acquire(bob, "b", owner: "t")
    script.acquire(alice, "b", owner: "e\u{301}")
    script.acquire(bob, "a", owner: "t")
    #expect(cycle(script.take()) == nil)
    let other = local()
    other.acquire(alice, "a", owner: "e\u{301}")
    other.acquire(alice, "c", owner: "\u{E9}")
    other.acquire(bob, "b", owner: "t")
    other.acquire(alice, "b", owner: "e\u{301}")
    other.acquire(bob, "a", owner: "t")
    #expect(cycle(other.take())?.map(\.owner) == ["t", "e\u{301}"])
  }

  @Test func theYoungestWaitOfACycleIsRefusedWithTheWholeOfIt() {
    let script = local()
    script.feed(.sessionDescribed(alice, pid: 7, command: "backup"))
    script.acquire(alice, "a", owner: "t1")
    script.acquire(bob, "b", owner: "t1")
    script.acquire(alice, "b", owner: "t1")
    script.pass(milliseconds: 30)
    #expect(cycle(script.take()) == nil)
    let last = script.acquire(bob, "a", owner: "t1")
    let effects = script.take()
    #expect(effects.count == 1)
    let steps = cycle(effects)
    #expect(steps?.map(\.session) == [bob.rawValue, alice.rawValue])
    #expect(steps?.map(\.waitsFor.description) == ["a", "b"])
    #expect(steps?.map { $0.holds?.description } == ["b", "a"])
    #expect(steps?.map(\.request) == [last.rawValue, 3])
    #expect(steps?.last?.pid == 7)
    #expect(steps?.last?.command == "backup")
    #expect(script.engine.statistics.deadlocks == 1)
    // The other goes on waiting, and is served.
    script.release(bob, "b")
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  @Test func aCycleOfThreeAndOneThroughSharedLocks() {
    let script = local()
    script.acquire(alice, "a", mode: .shared, owner: "t")
    script.acquire(bob, "b", owner: "t")
    script.acquire(carol, "c", owner: "t")
    script.acquire(carol, "a", mode: .shared, owner: "t")
    _ = script.take()
    script.acquire(alice, "b", mode: .shared, owner: "t")
    script.acquire(bob, "c", owner: "t")
    #expect(cycle(script.take()) == nil)
    // carol shares "a" with alice: a writer waits for both, and carol for nobody yet.
    script.acquire(carol, "b", mode: .shared, owner: "t")
    #expect(cycle(script.take())?.map(\.session) == [3, 2])
  }

  // MARK: Half-closed sessions

  @Test func aHalfClosedSessionIsAnOwner() {
    let script = local()
    script.acquire(alice, "x")
    script.acquire(bob, "y")
    let first = script.acquire(alice, "y")
    let last = script.acquire(bob, "x")
    script.halfClose(alice)
    #expect(cycle(script.take()) == nil, "bob can still release")
    script.halfClose(bob)
    #expect(cycle(script.take())?.map(\.request) == [last.rawValue, first.rawValue])
    script.feed(.inputEnded(bob, isAnswered: true))
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  @Test func aHalfClosedSessionThatKeepsWhatItHoldsIsAnOwnerToo() {
    let script = local()
    script.acquire(alice, "x")
    script.acquire(bob, "y")
    let first = script.acquire(alice, "y")
    script.halfClose(alice, keepsHolds: true)
    #expect(cycle(script.take()) == nil, "bob can still release")
    let last = script.acquire(bob, "x", owner: "t")
    #expect(cycle(script.take()) == nil, "bob has several threads")
    script.halfClose(bob, keepsHolds: true)
    #expect(cycle(script.take())?.map(\.request) == [last.rawValue, first.rawValue])
    // Nothing of it ends before the session does.
    script.feed(.inputEnded(bob, isAnswered: true, keepsHolds: true))
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.feed(.sessionClosed(bob))
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  @Test func whoKeepsWhatItHoldsCannotWaitForItself() {
    let script = local()
    script.acquire(alice, "x")
    let again = script.acquire(alice, "x")
    #expect(script.take().count == 1)
    script.halfClose(alice, keepsHolds: true)
    #expect(cycle(script.take())?.map(\.request) == [again.rawValue])

    let several = local()
    several.acquire(alice, "x")
    let all = several.acquire(alice, all: ["w", "x"])
    _ = several.take()
    several.halfClose(alice, keepsHolds: true)
    #expect(cycle(several.take())?.map(\.request) == [all.rawValue])
  }

  @Test func aCircleIsFoundWhateverTheOwnersOfAHalfClosedSessionAreCalled() {
    let script = local()
    script.acquire(alice, "x", owner: "one")
    script.acquire(bob, "y", owner: "thread")
    script.acquire(alice, "y", owner: "two")
    let last = script.acquire(bob, "x", owner: "thread")
    #expect(cycle(script.take()) == nil)
    script.halfClose(alice)
    #expect(cycle(script.take())?.first?.request == last.rawValue)
  }

  @Test func theNextWaitStandsForAHalfClosedSessionWhenTheEldestIsOver() {
    let script = local()
    script.acquire(carol, "z")
    script.acquire(alice, "x")
    script.acquire(bob, "y")
    script.acquire(alice, "z")
    script.acquire(alice, "y")
    let last = script.acquire(bob, "x")
    script.halfClose(alice, bob)
    #expect(cycle(script.take()) == nil, "alice waits for carol first")
    script.release(carol, "z")
    #expect(cycle(script.take())?.first?.request == last.rawValue)
  }

  @Test func aCircleThatBeginsWithARequestForSeveralLocksOrAHandOver() {
    let script = local()
    script.acquire(alice, "x")
    script.acquire(bob, "y")
    let several = script.acquire(alice, all: ["a", "y"])
    script.acquire(bob, "x")
    script.halfClose(alice, bob)
    #expect(cycle(script.take())?.count == 2)
    #expect(script.engine.statistics.deadlocks == 1)
    _ = several

    let other = local()
    other.acquire(carol, "x")
    other.acquire(bob, "y")
    other.acquire(alice, "y")
    other.acquire(bob, "x")
    other.halfClose(alice, bob)
    #expect(cycle(other.take()) == nil)
    other.feed(
      .transferRequested(carol, other.newRequest(), name: LockName("x"), token: nil, to: alice, isAccepting: true))
    other.feed(.inputEnded(alice, isAnswered: false))
    #expect(cycle(other.take())?.count == 2)
  }

  @Test func threadsAndRequestsWithoutAnOwnerMakeNoCycle() {
    let script = local()
    script.acquire(alice, "a")
    script.acquire(bob, "b", owner: "t1")
    script.acquire(alice, "b", owner: "t1")
    script.acquire(bob, "a", owner: "t2")
    script.acquire(bob, "a")
    #expect(cycle(script.take()) == nil)
  }

  @Test func anOwnerThatWaitsForTwoThingsMayGoOnWithOneOfThem() {
    let script = local()
    script.acquire(alice, "a", owner: "t")
    script.acquire(bob, "b", owner: "t")
    script.acquire(carol, "c")
    script.acquire(alice, "b", owner: "t")
    script.acquire(alice, "c", owner: "t")
    script.acquire(bob, "a", owner: "t")
    #expect(cycle(script.take()) == nil)
  }

  @Test(arguments: [true, false])
  func theWaitThatIsLeftOverOfTwoIsLookedAt(_ isGranted: Bool) {
    let script = local()
    script.acquire(alice, "a", owner: "t")
    script.acquire(bob, "b", owner: "t")
    script.acquire(carol, "c")
    script.acquire(alice, "b", owner: "t")
    let other = script.acquire(alice, "c", owner: "t")
    script.acquire(bob, "a", owner: "t")
    #expect(cycle(script.take()) == nil)
    if isGranted { script.release(carol, "c") } else { script.cancel(alice, other) }
    #expect(cycle(script.take())?.map(\.session) == [bob.rawValue, alice.rawValue])
    script.release(bob, "b")
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  /// What a request for several has so far comes free with that request alone, whatever else its owner waits for.
  @Test func aRequestForSeveralLocksIsAMemberBesideOtherWaitsOfItsOwner() {
    let script = local()
    script.acquire(bob, "b", owner: "t")
    script.acquire(alice, all: ["a", "b"], owner: "t")
    script.acquire(alice, all: ["a", "b"], owner: "t")
    script.acquire(carol, "z")
    _ = script.take()
    script.acquire(bob, "a", owner: "t")
    #expect(cycle(script.take())?.map(\.session) == [bob.rawValue, alice.rawValue])
  }

  @Test func aRequestForSeveralLocksIsAMemberLikeAnOwner() {
    let script = local()
    script.acquire(bob, "b", owner: "t")
    script.acquire(alice, all: ["a", "b"])
    script.acquire(carol, "z")
    _ = script.take()
    script.acquire(bob, "a", owner: "t")
    let effects = script.take()
    #expect(cycle(effects)?.map(\.session) == [bob.rawValue, alice.rawValue])
  }

  @Test func aSemaphoreWithMoreThanOnePermitIsNoProof() {
    let script = local()
    script.acquire(alice, "s", mode: .permit(of: 2), owner: "t")
    script.acquire(carol, "s", mode: .permit(of: 2))
    script.acquire(bob, "b", owner: "t")
    script.acquire(alice, "b", owner: "t")
    script.acquire(bob, "s", mode: .permit(of: 2), owner: "t")
    #expect(cycle(script.take()) == nil)
    script.release(carol, "s")
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }
}
