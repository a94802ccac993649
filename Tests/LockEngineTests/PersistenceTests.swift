import LockEngine
import LockTypes
import Testing

@Suite struct PersistenceTests {
  @Test func aHoldOutlivesTheEngineAndIsGoodOnceTheStoreHasConfirmedIt() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    try kept.restart()
    let script = kept.script
    #expect(script.take().isEmpty)
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.holders.map(\.token) == [100])
    script.feed(.linkUp(.only))
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110)])
    script.reply(.renewed([.held]), to: CommandID(1))
    script.release(alice)
    #expect(
      script.take() == [
        .reply(alice, RequestID(1), .released(name: x, token: 100, remaining: 0)),
        .send(.only, CommandID(2), .release(name: x, attempt: 1, unused: .from(101), terms: .above(100))),
      ])
  }

  @Test func aHoldThatTheStoreNoLongerKnowsIsTold() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    kept.script.reply(.renewed([.lost]))
    #expect(kept.script.take().compactMap(\.lostReason) == [.dataLoss])
    // Late, its release hears why.
    try kept.restart()
    kept.script.release(alice)
    #expect(kept.script.take().compactMap(\.refusal) == [.notHeld(heldTokens: [])])
  }

  /// What is asked for again is what stands in the store already, and what comes of it has the length of then.
  @Test func aLeaseKeepsItsLengthWhenTheNextEngineIsToldAnother() throws {
    let kept = Kept()
    kept.script.acquire(alice)
    kept.script.reply(.queued(holderHost: "b", holderExpiresInMilliseconds: 9_000, listeners: 1))
    kept.configuration.settings.leaseMilliseconds = 60_000
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    let commands = kept.script.take()
    let asked = commands.compactMap(\.command).compactMap {
      if case .acquire(_, let attempt, _, _, _, _, let milliseconds, _, _) = $0 {
        "\(attempt): \(milliseconds)"
      } else {
        nil
      }
    }
    #expect(asked == ["1: 10000"])
    kept.script.reply(.granted(LeaseGrant(token: 5, tokenCount: 1000, othersWait: false)), to: CommandID(1))
    #expect(kept.script.take().compactMap(\.grantedSession) == [alice])
    kept.script.feed(.linkDown(.only))
    kept.script.pass(milliseconds: 8_500)
    #expect(kept.script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  @Test func aHoldWhoseLeaseEndedMeanwhileIsToldBeforeAnythingElse() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    try kept.restart(after: 8_500)
    kept.script.acquire(bob)
    #expect(kept.script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  @Test func waitersKeepTheirOrderAndNothingIsGrantedInDoubt() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    for session in [bob, carol, dave] { kept.script.acquire(session) }
    _ = kept.script.take()
    try kept.restart()
    let script = kept.script
    script.release(alice)
    #expect(script.take().allSatisfy { $0.grantedSession == nil })
    script.feed(.linkUp(.only))
    _ = script.take()
    script.feed(.replyReceived(.only, CommandID(1), .renewed([.held])))
    #expect(script.take().compactMap(\.grantedToken) == [101])
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    kept.script.reply(.renewed([.held]))
    _ = kept.script.take()
    kept.script.release(carol)
    #expect(kept.script.take().compactMap(\.grantedToken) == [103])
  }

  /// What came while nobody could note it, and what changes while all is being noted anew.
  @Test func whatIsNotedAnewIsAllThatThereIs() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    kept.script.acquire(bob)
    kept.commit()
    kept.stopNoting()
    for session in [carol, dave] { kept.script.acquire(session) }
    kept.script.hold(alice, "first", token: 200)
    kept.script.hold(alice, "gone", token: 300)
    kept.script.hold(alice, "new/1", token: 400)
    kept.script.release(alice, "gone")
    kept.commit()
    #expect(kept.recordCount == 0)
    _ = kept.script.take()
    var step = 0
    kept.noteAnew {
      step += 1
      if step == 1 { kept.script.hold(alice, "after", token: 500) }
      if step == 2 { kept.script.release(alice, "first") }
      if step == 3 { kept.script.hold(alice, "z", token: 600) }
    }
    #expect(step > 4)
    _ = kept.script.take()
    try kept.restart()
    func tokens(_ name: LockName) -> [Token] {
      kept.script.engine.snapshot(of: name, waitersMax: 9, now: kept.script.now)?.holders.map(\.token) ?? []
    }
    #expect(tokens(x) == [100])
    #expect(tokens(LockName("first")) == [] && tokens(LockName("gone")) == [])
    #expect(tokens(LockName("new/1")) == [400])
    #expect(tokens(LockName("after")) == [500] && tokens(LockName("z")) == [600])
    let waiting = kept.script.engine.snapshot(of: x, waitersMax: 9, now: kept.script.now)?.waiters.map(\.session)
    #expect(waiting == [bob, carol, dave])
  }

  @Test func aWaitKeepsItsDeadlineAndItsAttempt() throws {
    let kept = Kept()
    kept.script.acquire(alice, wait: 5000)
    kept.script.reply(queued())
    try kept.restart(after: 1000)
    let script = kept.script
    script.feed(.linkUp(.only))
    #expect(
      script.sent() == [
        .acquire(name: x, attempt: 1, ask: 2, isTry: false, terms: .above(0))
      ])
    script.pass(milliseconds: 3999)
    #expect(script.take().allSatisfy { $0.refusal == nil })
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.refusal).count == 1)
  }

  @Test func aTryIsDecidedByTheNextEngine() throws {
    let kept = Kept()
    kept.script.acquire(alice, wait: 0)
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.sent() == [.acquire(name: x, attempt: 1, ask: 2, isTry: true, terms: .above(0))])
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    kept.script.reply(granted(500))
    #expect(kept.script.take().compactMap(\.grantedToken) == [500])
  }

  @Test func whatASessionThatIsGoneHadIsGivenBack() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    kept.script.acquire(bob, "y")
    try kept.restart(gone: [alice, bob])
    kept.script.feed(.linkUp(.only))
    #expect(
      Set(kept.script.sent().filter { $0 != .heartbeat }) == [
        .release(name: x, attempt: 1, unused: .from(101), terms: .above(100)),
        .release(name: LockName("y"), attempt: 2, unused: .all, terms: .above(100)),
      ])
  }

  @Test func aWaiterBehindASessionThatIsGoneIsNext() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    kept.script.acquire(bob)
    try kept.restart(gone: [alice])
    kept.script.feed(.linkUp(.only))
    kept.script.reply(.renewed([.held]))
    #expect(kept.script.take().compactMap(\.grantedToken) == [101])
  }

  @Test func whatIsNotKeptLeavesItsLeaseToBeGivenBack() throws {
    let kept = Kept()
    kept.sessions = [bob]
    kept.script.hold(alice, token: 100)
    kept.script.acquire(bob)
    kept.script.evict(alice)
    #expect(kept.script.take().compactMap(\.lostReason) == [.shutdown])
    try kept.restart()
    #expect(kept.script.engine.snapshot(of: x, waitersMax: 0, now: kept.script.now)?.holders.map(\.session) == [bob])
    kept.sessions = []
    kept.script.feed(.keepingStopped(bob))
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.sent().contains(.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))))
  }

  @Test func attemptsAndTokensAreNeverUsedTwice() throws {
    let kept = Kept()
    kept.script.acquire(alice)
    kept.script.acquire(bob, "y")
    kept.script.cancel(bob, RequestID(2))
    _ = kept.script.take()
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    kept.script.acquire(carol, "z")
    let attempts = kept.script.sent().compactMap { command -> UInt64? in
      if case .acquire(let name, let attempt, _, _, _, _, _, _, _) = command, name != x { attempt } else { nil }
    }
    #expect(attempts == [3])
  }

  @Test func attemptsGoOnWhereTheyWereWhereverTheyBegan() throws {
    let begin: UInt64 = 1 << 51 + 99
    let kept = Kept(EngineConfiguration(tier: .store, attemptsBegin: begin))
    kept.script.hold(alice, token: 100)
    kept.configuration.attemptsBegin = 0
    let numbers = kept.script.engine.numbers
    #expect(try kept.state().lastAttempt(numbers: numbers) == begin + 1)
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.sent() == [.reclaim(x, attempt: begin + 1, 100..<110)])
    kept.script.acquire(carol, "z")
    #expect(kept.script.engine.numbers[0] == begin + 2)
  }

  // MARK: The epoch of the store

  /// A daemon that follows has been in the epoch of the one before, and goes on waiting for its end.
  @Test func theEpochAndItsGraceOutliveTheEngine() throws {
    let kept = Kept()
    let grace = EpochSight.epoch(2, isOpen: false, grace: 20_000, longest: 15_000, at: 7_000_000)
    kept.script.feed(.linkDown(.only))
    kept.script.epoch = grace
    kept.script.feed(.linkUp(.only))
    kept.script.pass(milliseconds: 10_000)
    try kept.restart(after: 5_000)
    kept.script.epoch = grace
    kept.script.feed(.linkUp(.only))
    let claim = try #require(kept.script.claims.last)
    #expect(claim.known == grace.id && claim.graceMilliseconds == 20_000 && !claim.mayBeFirst)
    let floor: Token = 7_000_000 + 15_150_000 + 1_000_000
    #expect(claim.tokenFloorOfNew == floor)
    #expect(kept.script.engine.statistics.epochs == 0)
    kept.script.pass(milliseconds: 5_200)
    #expect(kept.script.claims.last?.waitedMilliseconds == 0)
    kept.script.pass(milliseconds: 1)
    #expect(kept.script.claims.last?.waitedMilliseconds == 20_000)
  }

  /// Until when this host counts as alive stands in the store, whichever process it is.
  @Test(arguments: [2000, 0]) func theLifeOfTheHostOutlivesTheEngine(_ next: Int64) throws {
    let kept = Kept(EngineConfiguration(tier: .store) { $0.settings.deadHostMilliseconds = 2000 })
    kept.script.hold(alice)
    kept.script.epoch = nil
    kept.configuration.settings.deadHostMilliseconds = next
    kept.script.pass(milliseconds: 1000)
    try kept.restart(after: 600)
    kept.script.epoch = nil
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.claims.last?.lifeSign == (next > 0 ? .dead(afterMilliseconds: next) : .never))
    kept.script.pass(milliseconds: 99)
    #expect(kept.script.take().compactMap(\.lostReason).isEmpty)
    kept.script.pass(milliseconds: 1)
    #expect(kept.script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  /// The process ends when the next life has begun, and not all have been told that the one before is over.
  @Test func whatIsOfALifeThatIsOverIsNotTakenForThatOfTheNext() throws {
    let kept = Kept(
      EngineConfiguration(tier: .store) {
        $0.settings.deadHostMilliseconds = 2000
        $0.stepsPerSlice = 2
      })
    for number in 0..<20 { kept.script.hold(alice, "n\(number)", token: 100 + 100 * Token(number)) }
    kept.script.pass(milliseconds: 0)
    _ = kept.script.take()
    kept.script.epoch = nil
    kept.script.jump(milliseconds: 1700)
    kept.script.feed(.timerFired)
    #expect(kept.script.isAskingForEpoch)
    kept.script.answer(.epoch(.ofTests))
    let told = kept.script.take().compactMap(\.lostReason).count
    #expect(told < 20)
    kept.configuration.stepsPerSlice = 512
    try kept.restart(after: 0)
    kept.script.pass(milliseconds: 0)
    #expect(told + kept.script.take().compactMap(\.lostReason).count == 20)
  }

  /// A release before epochs left leases. Whoever has some has been there before.
  @Test func whoeverLeftLeasesWasThereBefore() throws {
    let kept = Kept()
    kept.script.hold(alice)
    kept.commit()
    let state = try kept.state(withEpoch: false)
    let script = Script(linkUp: false)
    script.open(alice)
    script.restore(state, numbers: [1, 1, 1, 1])
    script.epoch = .epoch(1, isOpen: false)
    script.feed(.linkUp(.only))
    #expect(script.claims.map(\.known) == [.none] && script.claims.map(\.mayBeFirst) == [false])
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, mayReplace: true)])
  }

  /// The process ends between a reclaim and its answer, or behind that.
  @Test(arguments: [false, true]) func whatWasBeingReclaimedIsReclaimedByTheNextEngine(_ isAnswered: Bool) throws {
    let kept = Kept()
    kept.script.hold(alice)
    let grace = EpochSight.epoch(2, isOpen: false)
    kept.script.feed(.linkDown(.only))
    kept.script.epoch = grace
    kept.script.feed(.linkUp(.only))
    if isAnswered { kept.script.reply(.renewed([.held])) }
    try kept.restart()
    kept.script.epoch = grace
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.sent() == [.reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: grace.id)])
  }

  @Test func aTryThatIsTakenOverInAGraceIsToldWhenToComeAgain() throws {
    let kept = Kept()
    kept.script.acquire(alice, wait: 0)
    try kept.restart()
    kept.script.epoch = .epoch(2, isOpen: false)
    kept.script.feed(.linkUp(.only))
    kept.script.reply(queued(behind: "", listens: false))
    #expect(kept.script.take().compactMap(\.refusal) == [.recovering(retryMilliseconds: 10_101)])
  }

  @Test func localTokensGoOnIncreasing() throws {
    let configuration = EngineConfiguration(tier: .local(firstToken: 10))
    let kept = Kept(configuration)
    kept.script.acquire(alice)
    kept.script.release(alice)
    kept.script.acquire(alice)
    kept.script.acquire(bob)
    _ = kept.script.take()
    try kept.restart()
    kept.script.release(alice)
    #expect(kept.script.take().compactMap(\.grantedToken) == [12])
    try kept.restart(gone: [bob])
    kept.script.acquire(carol)
    #expect(kept.script.take().compactMap(\.grantedToken) == [13])
  }

  @Test func limitsOfHoldsGoOn() throws {
    let kept = Kept(EngineConfiguration(tier: .local(firstToken: 10)))
    kept.script.acquire(alice, maxHold: 1000)
    _ = kept.script.take()
    try kept.restart(after: 400)
    kept.script.pass(milliseconds: 599)
    #expect(kept.script.take().isEmpty)
    kept.script.pass(milliseconds: 1)
    #expect(kept.script.take().compactMap(\.lostReason) == [.maxHold])
  }

  @Test func ownersThatOnlyLookAlikeAreTwoInTheNextEngine() throws {
    let kept = Kept(EngineConfiguration(tier: .local(firstToken: 10)))
    kept.script.acquire(alice, owner: "\u{E9}")
    kept.script.acquire(alice, owner: "e\u{301}")
    _ = kept.script.take()
    try kept.restart()
    let script = kept.script
    script.acquire(alice, wait: 0, owner: "e\u{301}")
    #expect(script.take().compactMap(\.refusal).count == 1)
    script.acquire(alice, wait: 0, owner: "\u{E9}")
    #expect(script.take().compactMap(\.grantedToken) == [10])
    for _ in 0..<2 { script.release(alice) }
    #expect(script.take().compactMap(\.grantedToken) == [11])
  }

  @Test func ownersModesAndPermitsOutliveTheEngine() throws {
    let kept = Kept(EngineConfiguration(tier: .local(firstToken: 10)))
    kept.script.acquire(alice, owner: "o")
    kept.script.acquire(alice, owner: "o")
    kept.script.acquire(alice, "s", mode: .shared)
    kept.script.acquire(bob, "s", mode: .shared)
    kept.script.acquire(carol, "s")
    kept.script.acquire(alice, "p", mode: .permit(of: 2))
    kept.script.acquire(bob, "p", mode: .permit(of: 2))
    kept.script.acquire(carol, "p", mode: .permit(of: 2))
    _ = kept.script.take()
    try kept.restart()
    let script = kept.script
    script.acquire(alice, owner: "o")
    #expect(script.take().compactMap(\.grantedToken) == [10])
    for left in [2, 1, 0] {
      script.release(alice)
      #expect(
        script.take().first
          == .reply(alice, RequestID(UInt64(4 - left)), .released(name: x, token: 10, remaining: left)))
    }
    script.release(alice, "s")
    #expect(script.take().allSatisfy { $0.grantedSession == nil })
    script.release(bob, "s")
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    script.release(bob, "p")
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  @Test func aRequestForSeveralGoesOnWhereItWas() throws {
    let kept = Kept(EngineConfiguration(tier: .local(firstToken: 10)))
    kept.script.acquire(alice, "b")
    kept.script.acquire(bob, all: ["c", "a", "b"])
    kept.script.acquire(carol, "b")
    kept.script.acquire(dave, "a")
    _ = kept.script.take()
    try kept.restart()
    try kept.restart()
    kept.script.release(alice, "b")
    let taken = kept.script.take()
    #expect(taken.compactMap(\.grantedTokens) == [["a": 11, "b": 12, "c": 13]])
    kept.script.release(bob, "b")
    kept.script.release(bob, "a")
    #expect(kept.script.take().compactMap(\.grantedSession) == [carol, dave])
  }

  @Test func aReleaseThatTheStoreHasNotConfirmedIsRepeated() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100)
    kept.script.release(alice)
    _ = kept.script.take()
    try kept.restart()
    kept.script.feed(.linkUp(.only))
    #expect(kept.script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
    kept.script.reply(.done, to: CommandID(1))
    kept.commit()
    #expect(kept.recordCount == 0)
  }

  @Test func whatComesAndGoesInOneTurnLeavesNothing() throws {
    let kept = Kept(EngineConfiguration(tier: .local(firstToken: 10)))
    kept.script.acquire(alice)
    kept.script.release(alice)
    kept.script.acquire(bob)
    kept.script.acquire(alice)
    kept.script.cancel(alice, RequestID(4))
    kept.script.feed(.sessionClosed(bob))
    #expect(kept.commit() == [])
  }

  @Test func damagedRecordsNeverTrap() throws {
    let kept = Kept()
    kept.script.hold(alice, token: 100, maxHold: 100_000)
    kept.script.acquire(bob, all: ["x", "y"], mode: .permit(of: 3), wait: 1000, owner: "me")
    kept.script.acquire(carol, "z", owner: "you", progress: true)
    kept.script.acquire(carol, "w")
    kept.script.cancel(carol, RequestID(4))
    var random = SystemRandomNumberGenerator()
    var read = 0
    for change in kept.commit() {
      guard case .put(let kind, _, let good) = change else { continue }
      for _ in 0..<2000 {
        var bytes = good
        for _ in 0..<Int.random(in: 0...3, using: &random) {
          bytes[Int.random(in: bytes.indices, using: &random)] = .random(in: .min ... .max, using: &random)
        }
        if Bool.random(using: &random) { bytes.removeLast(Int.random(in: 0...bytes.count, using: &random)) }
        var state = SavedState()
        guard (try? state.add(kind, bytes, now: kept.script.now)) != nil else { continue }
        read += 1
        // Whatever could be read can be taken up.
        let script = Script(linkUp: false)
        script.open(alice, bob, carol)
        script.restore(state, numbers: [.max, .max, .max, .max])
        script.feed(.linkUp(.only))
        script.pass(milliseconds: 20_000)
        _ = script.take()
      }
    }
    #expect(read > 1000)
  }
}
