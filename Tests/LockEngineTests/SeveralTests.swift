import LockEngine
import LockTypes
import Testing

/// Several locks at once: all or none.
@Suite struct SeveralTests {
  private func local() -> Script {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)
    script.open(alice, bob, carol)
    return script
  }

  private func held(_ script: Script, _ name: String) -> SessionID? {
    script.engine.snapshot(of: LockName(name), waitersMax: 0, now: script.now)?.holders.first?.session
  }

  @Test func allAreGrantedByOneReplyInTheOrderAskedFor() {
    let script = local()
    let request = script.acquire(alice, all: ["c", "a", "b"])
    #expect(
      script.take() == [
        .reply(
          alice, request,
          .acquiredAll(
            AcquiredAll(
              locks: [
                .init(name: LockName("c"), token: 1002), .init(name: LockName("a"), token: 1000),
                .init(name: LockName("b"), token: 1001),
              ], mode: .exclusive, waitedMilliseconds: 0, validMilliseconds: nil)))
      ])
    for name in ["a", "b", "c"] { script.release(alice, name) }
    #expect(script.take().compactMap(\.refusal).isEmpty)
    #expect(script.engine.gauges.locks == 0)
  }

  @Test func itWaitsForTheOneThatIsTakenAndHoldsThoseBeforeIt() {
    let script = local()
    script.acquire(bob, "b")
    _ = script.take()
    script.acquire(alice, all: ["c", "b", "a"])
    #expect(script.take().isEmpty)
    #expect(held(script, "a") == alice)
    #expect(held(script, "c") == nil)
    // What it has so far is nothing that the client could give back.
    script.release(alice, "a")
    #expect(script.take().first?.refusal == .notHeld(heldTokens: []))
    script.release(bob, "b")
    #expect(script.take().compactMap(\.grantedTokens).first?.keys.sorted() == ["a", "b", "c"])
  }

  @Test func theTimeLimitCoversTheWhole() {
    let script = local()
    script.acquire(bob, "a")
    script.acquire(carol, "b")
    _ = script.take()
    script.acquire(alice, all: ["a", "b"], wait: 100)
    script.pass(milliseconds: 60)
    script.release(bob, "a")
    _ = script.take()
    script.pass(milliseconds: 39)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    let refusals = script.take().compactMap(\.refusal)
    #expect(refusals.count == 1)
    guard case .timeout(let holders, _)? = refusals.first else {
      Issue.record("\(refusals)")
      return
    }
    #expect(holders.local.map(\.session) == [carol])
    #expect(held(script, "a") == nil)
  }

  /// A timer that is late ends the wait before it, so that it gets a lock after its own time.
  @Test func aLockThatComesAfterItsTimeIsNotWaitedOnFrom() {
    let script = local()
    script.acquire(carol, "b")
    script.acquire(bob, all: ["a", "b"], wait: 20)
    script.jump(milliseconds: 1)
    script.acquire(alice, all: ["a", "b"], wait: 20)
    _ = script.take()
    script.jump(milliseconds: 30)
    script.feed(.timerFired)
    #expect(script.take().compactMap(\.refusal).count == 2)
    #expect(script.engine.gauges.waiting == 0)
    #expect(held(script, "a") == nil)
    #expect(held(script, "b") == carol)
  }

  @Test func aTryTakesAllOrNone() {
    let script = local()
    script.acquire(bob, "b")
    script.acquire(alice, all: ["a", "b", "c"], wait: 0)
    #expect(script.take().compactMap(\.refusal).count == 1)
    #expect(held(script, "a") == nil)
    script.release(bob, "b")
    script.acquire(alice, all: ["a", "b", "c"], wait: 0)
    #expect(script.take().last?.grantedTokens?.count == 3)
  }

  @Test func cancellingOrClosingGivesBackWhatItHadAndWakesOthers() {
    for closes in [false, true] {
      let script = local()
      script.acquire(bob, "b")
      let request = script.acquire(alice, all: ["a", "b"])
      script.acquire(carol, "a")
      _ = script.take()
      if closes { script.feed(.sessionClosed(alice)) } else { script.cancel(alice, request) }
      let effects = script.take()
      #expect(effects.compactMap(\.grantedSession) == [carol])
      #expect(effects.compactMap(\.refusal) == (closes ? [] : [.cancelled]))
      script.release(bob, "b")
      script.release(carol, "a")
      #expect(script.engine.gauges.locks == 0)
    }
  }

  @Test func oppositeOrdersNeverWaitForEachOther() {
    let script = local()
    script.acquire(alice, all: ["a", "b"])
    script.acquire(bob, all: ["b", "a"])
    script.acquire(carol, all: ["b", "a"])
    #expect(script.take().compactMap(\.grantedSession) == [alice])
    for session in [alice, bob, carol] {
      script.release(session, "b")
      script.release(session, "a")
    }
    #expect(script.take().compactMap(\.grantedSession) == [bob, carol])
  }

  @Test func theLimitOfAHoldCountsFromTheMomentAtWhichAllWereGranted() {
    let script = local()
    script.acquire(bob, "b")
    script.acquire(alice, all: ["a", "b"], maxHold: 50)
    script.pass(milliseconds: 100)
    script.release(bob, "b")
    #expect(script.take().compactMap(\.grantedTokens).count == 1)
    script.pass(milliseconds: 49)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.lostReason) == [.maxHold, .maxHold])
  }

  @Test func anOwnerEntersAgainWhatItHasAlready() {
    let script = local()
    script.acquire(alice, "b", owner: "t1")
    script.acquire(alice, all: ["a", "b"], owner: "t1")
    #expect(script.take().compactMap(\.grantedTokens) == [["a": 1001, "b": 1000]])
    script.release(alice, "b")
    script.release(alice, "b")
    let remaining = script.take().map { if case .reply(_, _, .released(_, _, let left)) = $0 { left } else { -1 } }
    #expect(remaining == [1, 0])
  }

  @Test func whatItEnteredAgainIsOnlyCountedLessWhenItGivesUp() {
    let script = local()
    script.acquire(alice, "a", owner: "t1")
    script.acquire(bob, "b")
    let request = script.acquire(alice, all: ["a", "b"], owner: "t1")
    script.cancel(alice, request)
    _ = script.take()
    #expect(held(script, "a") == alice)
    script.release(alice, "a")
    #expect(held(script, "a") == nil)
  }

  @Test func readersTakeSeveralTogether() {
    let script = local()
    script.acquire(alice, all: ["a", "b"], mode: .shared)
    script.acquire(bob, all: ["b", "a"], mode: .shared)
    script.acquire(carol, all: ["a", "b"])
    #expect(script.take().compactMap(\.grantedSession) == [alice, bob])
    for session in [alice, bob] { for name in ["a", "b"] { script.release(session, name) } }
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  @Test func whatItsOwnerHasDowngradedMeanwhileIsNotGrantedAsExclusive() {
    let script = local()
    script.acquire(alice, "a", owner: "me")
    script.acquire(bob, "b")
    _ = script.take()
    script.acquire(alice, all: ["a", "b"], owner: "me")
    script.feed(.downgradeRequested(alice, script.newRequest(), name: LockName("a"), token: nil))
    _ = script.take()
    script.release(bob, "b")
    #expect(script.take().compactMap(\.conflict) == [.shared])
    #expect(held(script, "a") == alice)
    #expect(held(script, "b") == nil)
  }

  // MARK: With the store

  @Test func aLeaseThatIsLostMeanwhileIsTakenAgainAndTheClientHearsOfNone() {
    let script = Script()
    script.open(alice)
    script.acquire(alice, all: ["a", "b"])
    script.reply(granted(100))
    script.feed(.replyReceived(.only, CommandID(2), queued()))
    _ = script.take()
    script.pass(milliseconds: 3400)
    let renewal = script.take().compactMap { if case .send(_, let id, .renew) = $0 { id } else { nil } }.first
    script.feed(.replyReceived(.only, renewal ?? CommandID(0), .renewed([.lost])))
    let effects = script.take()
    #expect(effects.compactMap(\.notification).isEmpty)
    // Out of order it could be a deadlock, so it begins again with the first.
    #expect(
      effects.compactMap(\.command) == [
        .release(name: LockName("b"), attempt: 2, unused: .all, terms: .above(100)),
        .acquire(name: LockName("a"), attempt: 3, ask: 3, isTry: false, terms: .above(100)),
      ])
  }

  /// What its owner had of it is given back meanwhile: that says nothing about the store.
  @Test func aTryThatLosesAPartBeginsAgain() {
    let script = Script()
    script.open(alice)
    script.acquire(alice, "a", owner: "t")
    script.reply(granted(100))
    script.acquire(alice, all: ["a", "b"], wait: 0, owner: "t")
    _ = script.take()
    script.release(alice, "a")
    _ = script.take()
    script.feed(.replyReceived(.only, CommandID(2), granted(200)))
    let effects = script.take()
    #expect(effects.compactMap(\.refusal).isEmpty)
    #expect(
      effects.compactMap(\.command) == [
        .release(name: LockName("b"), attempt: 2, unused: .from(201), terms: .above(200)),
        .acquire(name: LockName("a"), attempt: 3, ask: 3, isTry: true, terms: .above(200)),
      ])
    script.feed(.replyReceived(.only, CommandID(5), granted(300)))
    script.reply(granted(400))
    #expect(script.take().last?.grantedTokens == ["a": 300, "b": 400])
  }

  /// A host that was suspended: whoever was told that it holds hears first that it does not.
  @Test func lossesAreToldBeforeARequestThatLosesAPartIsAnswered() {
    let script = Script()
    script.open(alice, bob)
    script.acquire(alice, all: ["a", "b"], wait: 5000)
    script.reply(granted(100))
    script.feed(.replyReceived(.only, CommandID(2), queued()))
    script.jump(milliseconds: 1)
    script.acquire(bob, "c")
    script.feed(.replyReceived(.only, CommandID(3), granted(200)))
    _ = script.take()
    script.jump(milliseconds: 20_000)
    script.feed(.timerFired)
    let told = script.take().filter { $0.notification != nil || $0.refusal != nil }
    #expect(told.count == 2)
    guard case .lost(LockName("c"), 200, .leaseExpired, _, _, _)? = told.first?.notification,
      case .timeout? = told.last?.refusal
    else {
      Issue.record("\(told)")
      return
    }
  }

  @Test func theValidityIsThatOfTheLeaseThatEndsFirst() {
    let script = Script()
    script.open(alice)
    script.acquire(alice, all: ["a", "b"])
    script.reply(granted(100))
    script.jump(milliseconds: 500)
    script.feed(.replyReceived(.only, CommandID(2), granted(200)))
    guard case .reply(_, _, .acquiredAll(let grant))? = script.take().last else {
      Issue.record("not granted")
      return
    }
    #expect(grant.validMilliseconds == 8000)
    #expect(grant.waitedMilliseconds == 500)
  }
}
