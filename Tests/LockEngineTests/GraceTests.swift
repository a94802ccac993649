import LockEngine
import LockTypes
import Testing

/// While the store recovers, nobody is granted anything: how long that lasts, and what people hear meanwhile.
@Suite struct GraceTests {
  private let script = Script()

  init() { script.open(alice, bob, carol, dave) }

  /// A grace that this host has just learned of.
  private static let grace = EpochSight.epoch(2, isOpen: false)
  private static let open = EpochSight.epoch(2)

  @Test func inAGraceATryIsToldWhenToComeAgain() {
    script.lose(Self.grace)
    script.pass(milliseconds: 101)
    _ = script.take()
    script.acquire(alice, wait: 0)
    let effects = script.take()
    #expect(effects.compactMap(\.refusal) == [.recovering(retryMilliseconds: 10_000)])
    #expect(effects.compactMap(\.command).isEmpty)
    script.acquire(alice, all: ["x", "y"], wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.recovering(retryMilliseconds: 10_000)])
  }

  @Test func inAGraceATryOfWhatThisHostHoldsIsBusy() {
    script.hold(alice)
    script.lose(Self.grace)
    _ = script.take()
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.busy(.local(alice, 100), of: x)])
  }

  @Test func inAGraceATryBehindAWaitIsToldToo() {
    script.lose(Self.grace)
    script.acquire(alice)
    _ = script.take()
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.recovering(retryMilliseconds: 10_101)])
  }

  /// It says where its place was until the store has it again, and not where the store knows of it.
  @Test func inAnotherEpochAWaitTellsSinceWhenItStood() throws {
    func ask() throws -> (id: CommandID, since: PlaceMoment?) {
      var asks: [(CommandID, PlaceMoment?)] = []
      for case .send(_, let id, .acquire(x, _, _, _, _, _, _, _, let since)) in script.take() {
        asks.append((id, since))
      }
      return try #require(asks.last)
    }
    let first = PlaceMoment(epoch: 1, clock: StoreInstant(microseconds: 7000))
    script.acquire(alice)
    var (id, since) = try ask()
    #expect(since == nil)
    script.reply(queued(at: 7000), to: id)
    script.lose(Self.grace)
    (id, since) = try ask()
    #expect(since == first)
    script.lose(EpochSight.epoch(3, isOpen: false), to: id)
    (id, since) = try ask()
    #expect(since == first)
    script.reply(queued(behind: "", listens: false, at: 500, isNewPlace: false), to: id)
    script.epoch = EpochSight.epoch(3)
    script.pass(milliseconds: 10_200)
    (id, since) = try ask()
    #expect(since == nil)
    // It has lost its place alone, and stands at the end from then on.
    script.reply(queued(at: 900), to: id)
    script.connectAgain(EpochSight.epoch(4, isOpen: false))
    #expect(try ask().since == PlaceMoment(epoch: 3, clock: StoreInstant(microseconds: 900)))
  }

  @Test func aTryThatTheLossHitsIsTold() {
    script.acquire(alice, wait: 0)
    script.lose(Self.grace, to: script.takeSent().last)
    #expect(script.take().compactMap(\.refusal) == [.recovering(retryMilliseconds: 10_101)])
  }

  @Test func aWaitThatEndsInAGraceIsTold() {
    script.lose(Self.grace)
    script.acquire(alice, wait: 5_000)
    script.reply(queued(behind: "", listens: false))
    script.pass(milliseconds: 5_000)
    #expect(script.take().compactMap(\.refusal).last == .recovering(retryMilliseconds: 5_101))
  }

  @Test func aWaitForWhatThisHostHoldsTimesOutInAGrace() {
    script.hold(alice)
    script.lose(Self.grace)
    script.acquire(bob, wait: 5_000)
    script.pass(milliseconds: 5_000)
    #expect(script.take().compactMap(\.refusal).last == .timeout(.local(alice, 100), of: x))
  }

  @Test func aWaitHearsOfTheGraceAndOfItsEnd() {
    script.lose(Self.grace)
    script.acquire(alice, progress: true)
    script.reply(queued(behind: "", listens: false))
    let end = script.now.adding(milliseconds: 10_101)
    #expect(
      script.take().compactMap(\.notification) == [
        .waiting(request: RequestID(2), name: x, position: 1, holder: .unknown, trouble: .recovering(until: end))
      ])
    script.epoch = Self.open
    script.pass(milliseconds: 10_101)
    script.reply(queued(behind: "other"))
    #expect(
      script.take().compactMap(\.notification) == [
        .waiting(request: RequestID(2), name: x, position: 1, holder: .host("other"), trouble: nil)
      ])
  }

  /// Whether anybody waits or not.
  @Test func theGraceIsWaitedForByTheOwnClockAndThenItsEndAskedFor() {
    script.lose(.epoch(2, isOpen: false, grace: 20_000))
    script.pass(milliseconds: 20_200)
    #expect(script.claims.allSatisfy { $0.waitedMilliseconds == 0 })
    script.epoch = Self.open
    script.pass(milliseconds: 1)
    #expect(script.claims.last?.waitedMilliseconds == 20_000 && script.claims.last?.known == Self.grace.id)
    #expect(script.engine.storeStanding() == StoreStanding(epoch: Self.open.id, graceEnds: nil))
  }

  @Test func aGraceThatWasRaisedIsWaitedForLonger() {
    script.lose(Self.grace)
    script.epoch = .epoch(2, isOpen: false, grace: 30_000)
    script.pass(milliseconds: 10_101)
    #expect(script.claims.last?.waitedMilliseconds == 10_000)
    let count = script.claims.count
    script.pass(milliseconds: 20_199)
    #expect(script.claims.count == count)
    script.pass(milliseconds: 1)
    #expect(script.claims.last?.waitedMilliseconds == 30_000)
  }

  /// A store that does not open it for whatever reason.
  @Test func aGraceThatIsNotEndedIsAskedForNowAndThen() {
    script.lose(Self.grace)
    script.pass(milliseconds: 12_000)
    #expect((10..<30).contains(script.claims.count))
  }

  @Test func aGraceIsNotCountedAnewOnTheNextConnection() {
    script.lose(Self.grace)
    script.pass(milliseconds: 9_000)
    script.connectAgain(Self.grace)
    #expect(script.claims.last?.waitedMilliseconds == 0)
    script.pass(milliseconds: 1_101)
    #expect(script.claims.last?.waitedMilliseconds == 10_000)
  }

  @Test func aHostThatWasAwayForAllOfTheGraceAsksForItsEndAtOnce() {
    script.lose(Self.grace)
    script.feed(.linkDown(.only))
    script.pass(milliseconds: 60_000)
    script.connectAgain(Self.open)
    #expect(script.claims.last.map { $0.waitedMilliseconds > 50_000 } == true)
  }

  @Test func whenItIsOpenEverythingIsAskedForAgain() {
    script.lose(Self.grace)
    for name in ["a", "b", "c"] {
      script.acquire(alice, name)
      script.reply(queued(behind: "", listens: false))
    }
    _ = script.take()
    script.epoch = Self.open
    script.pass(milliseconds: 10_100)
    _ = script.take()
    script.pass(milliseconds: 1)
    #expect(acquires(script.sent()).map(\.name) == ["a", "b", "c"].map { LockName($0) })
  }

  @Test func aTryThatIsRefusedLooksWhetherItIsOpenByNow() {
    script.lose(Self.grace)
    script.pass(milliseconds: 2_000)
    _ = script.take()
    script.epoch = Self.open
    script.acquire(alice, wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.recovering(retryMilliseconds: 8_101)])
    script.acquire(alice, wait: 0)
    #expect(acquires(script.sent()).map(\.name) == [x])
  }

  // MARK: How long a grace has to be

  @Test func aGraceIsAsLongAsTheLongestLeaseThatIsKnown() {
    script.connectAgain(.epoch(1, grace: 10_000, longest: 60_000))
    script.connectAgain(.epoch(2, isOpen: false))
    #expect(script.claims.last?.graceMilliseconds == 60_000 && script.claims.last?.longestLeaseMilliseconds == 10_000)
  }

  private func tell(_ longest: Int64, _ epoch: EpochID = EpochSight.ofTests.id) -> LeasePush {
    .epochChanged(longestLeaseMilliseconds: longest, epoch: epoch.text)
  }

  /// Another host may have told the store of its leases later than this one asked, and the store may be gone before this one
  /// asks again.
  @Test func whoBeginsAnEpochKnowsTheLengthOfLeasesThatCameLater() {
    #expect(script.engine.isAwaited(tell(60_000)))
    script.epoch = nil
    script.pass(milliseconds: 100)
    script.feed(.pushReceived(.only, tell(60_000)))
    #expect(script.isAskingForEpoch)
    #expect(script.claims.last?.graceMilliseconds == 60_000 && script.claims.last?.longestLeaseMilliseconds == 10_000)
    script.connectAgain(.epoch(2, isOpen: false))
    #expect(script.claims.last?.graceMilliseconds == 60_000)
  }

  /// Whoever can write to the inbox alone does not know the name of the epoch: he can neither have others wait, nor have this
  /// host ask all the time.
  @Test func messagesOfWhoDoesNotKnowTheEpochAreAskedAboutNowAndThen() {
    script.pass(milliseconds: 1000)
    let count = script.claims.count
    for _ in 0..<100 {
      for longest: Int64 in [.max, 0, .min, 60_000] {
        #expect(!script.engine.isAwaited(tell(longest, .none)))
        script.feed(.pushReceived(.only, tell(longest, .none)))
      }
      script.pass(milliseconds: 10)
    }
    #expect((1...12).contains(script.claims.count - count))
    #expect(script.claims.allSatisfy { $0.graceMilliseconds == 10_000 })
  }

  @Test func noMessageMakesAGraceLongerThanTheLongestLeaseThereCanBe() {
    script.epoch = nil
    script.feed(.pushReceived(.only, tell(.max)))
    script.pass(milliseconds: 100)
    #expect(script.claims.last?.graceMilliseconds == 3_600_000)
    #expect(!script.engine.isAwaited(tell(.max)))
  }

  /// An epoch that begins is joined by hosts that have nothing to do, and opened for all at once.
  @Test func aHostThatIsToldOfAnEpochAsksForIt() {
    script.pass(milliseconds: 100)
    script.epoch = Self.grace
    script.feed(.pushReceived(.only, tell(10_000, Self.grace.id)))
    script.acquire(alice, wait: nil)
    #expect(script.engine.storeStanding().graceEnds != nil)
    script.pass(milliseconds: 100)
    _ = script.take()
    script.epoch = Self.open
    script.feed(.pushReceived(.only, tell(10_000, Self.grace.id)))
    #expect(
      script.sent().contains { if case .acquire(let name, _, _, _, _, _, _, _, _) = $0 { name == x } else { false } })
  }

  @Test func aGraceThatWasNotOverIsCarriedOn() {
    script.connectAgain(.epoch(2, isOpen: false, grace: 60_000, longest: 10_000))
    script.connectAgain(.epoch(3, isOpen: false))
    #expect(script.claims.last?.graceMilliseconds == 60_000)
    script.connectAgain(.epoch(3, grace: 60_000, longest: 10_000))
    script.connectAgain(.epoch(4))
    #expect(script.claims.last?.graceMilliseconds == 10_000)
  }

  /// If the store lost its data before it was told, the next grace would be too short.
  @Test func aLongerLeaseIsAskedForOnceTheStoreWasToldOfIt() {
    script.epoch = nil
    script.reconfigure { $0.leaseMilliseconds = 60_000 }
    #expect(script.isAskingForEpoch && script.claims.last?.longestLeaseMilliseconds == 60_000)
    func length(_ name: String) -> Int64? {
      script.acquire(alice, name)
      guard case .acquire(_, _, _, _, _, _, let length, _, _)? = script.sent().last else { return nil }
      return length
    }
    #expect(length("a") == 10_000)
    script.answer(.epoch(.ofTests))
    #expect(length("b") == 60_000)
    script.reconfigure { $0.leaseMilliseconds = 5_000 }
    #expect(length("c") == 5_000)
    script.connectAgain(.ofTests)
    #expect(script.claims.last?.longestLeaseMilliseconds == 60_000)
  }

  /// The timer must not come again and again for a question that is under way.
  @Test func whatIsToBeAskedWhileTheAnswerIsAwaitedWaitsForIt() {
    script.feed(.linkDown(.only))
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.answer(.epoch(.ofTests))
    script.reconfigure { $0.leaseMilliseconds = 60_000 }
    script.reconfigure { $0.leaseMilliseconds = 70_000 }
    #expect(script.engine.nextDeadline.map { $0 > script.now } ?? true)
    script.answer(.epoch(.ofTests))
    #expect(script.claims.last?.longestLeaseMilliseconds == 70_000)
    script.acquire(alice)
    let ask = script.takeSent().last
    script.reply(.otherEpoch, to: ask)
    #expect(script.engine.nextDeadline.map { $0 > script.now } ?? true)
  }

  @Test func aLongerLeaseThatWasWantedMeanwhileIsToldBeforeItIsAskedFor() {
    script.feed(.linkDown(.only))
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.reconfigure { $0.leaseMilliseconds = 60_000 }
    script.acquire(alice)
    script.answer(.epoch(.ofTests))
    #expect(script.sent().isEmpty && script.claims.last?.longestLeaseMilliseconds == 60_000)
    script.answer(.epoch(.ofTests))
    #expect(acquires(script.sent()).count == 1)
  }

  // MARK: Tokens

  @Test func theStoreTellsOfTokensThatOthersHad() {
    script.lose(.epoch(2, floor: 5_000))
    script.acquire(alice)
    #expect(acquires(script.sent()).last?.terms.tokenFloor == 5_000)
  }

  /// Whoever had the highest tokens may be dead, and the next store's clock behind.
  @Test func anEpochBeginsAboveWhatTheClockOfTheOneBeforeShowed() {
    script.connectAgain(.epoch(1, at: 7_000_000_000))
    script.pass(milliseconds: 100_000)
    script.lose(Self.grace)
    let last: Token = 7_102_000_000
    #expect(script.claims.last?.tokenFloorOfNew == last)
  }

  /// A clock that was set back does not hide what it showed before.
  @Test func aClockThatWasSetBackIsNotFollowed() {
    script.connectAgain(.epoch(1, at: 7_000_000_000))
    script.acquire(alice)
    script.reply(queued(at: 1_000))
    script.lose(Self.grace)
    let last: Token = 7_001_000_000
    #expect(script.claims.last?.tokenFloorOfNew == last)
  }

  /// Nor does one that was set back often, by little.
  @Test func aClockThatIsSetBackBitByBitIsNotFollowed() {
    script.connectAgain(.epoch(1, at: 7_000_000_000))
    for step in 1...10 as ClosedRange<Int64> {
      script.pass(milliseconds: 100)
      script.acquire(alice, "\(step)")
      script.reply(queued(at: 7_000_000_000 + 100_000 * step - 500_000 * step))
    }
    script.lose(Self.grace)
    let last: Token = 7_000_000_000 + 1_010_000 + 1_000_000
    #expect(script.claims.last?.tokenFloorOfNew == last)
  }

  /// What was under way for long shows a clock that seems ahead; the next ones put that right.
  @Test func aClockThatSeemedAheadIsFollowedInTime() {
    script.connectAgain(.epoch(1, at: 7_000_000_000))
    script.pass(milliseconds: 60_000)
    script.acquire(alice)
    script.reply(queued(at: 7_059_500_000))
    script.lose(Self.grace)
    let last: Token = 7_059_500_000 + 1_000_000
    #expect(script.claims.last?.tokenFloorOfNew == last)
  }

  @Test(arguments: [-1, .max, 1 << 52] as [Int64]) func aClockThatMakesNoSenseIsNotFollowed(_ microseconds: Int64) {
    script.connectAgain(.epoch(1, floor: microseconds, at: microseconds))
    script.lose(Self.grace)
    #expect(script.claims.last?.tokenFloorOfNew == 1_000_000)
  }
}
