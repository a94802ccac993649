import LockEngine
import LockTypes
import Testing

/// The store may come to have other data than those in which this host took its leases. Whoever held something keeps it, and
/// nobody is granted anything before everybody who did is there again.
@Suite struct EpochTests {
  private let script = Script()

  init() { script.open(alice, bob, carol, dave) }

  /// A grace that this host has just learned of.
  private static let grace = EpochSight.epoch(2, isOpen: false)
  private static let open = EpochSight.epoch(2)

  // MARK: Before anything else

  @Test func theEpochIsAskedForBeforeAnythingElse() {
    let script = Script(linkUp: false)
    script.open(alice)
    script.acquire(alice)
    script.epoch = nil
    script.feed(.linkUp(.only))
    #expect(script.isAskingForEpoch && script.sent().isEmpty)
    script.acquire(alice, "y")
    #expect(script.sent().isEmpty)
    script.answer(.epoch(.epoch(7)))
    let commands = script.sent()
    #expect(acquires(commands).map(\.name) == [x, LockName("y")])
    #expect(acquires(commands).allSatisfy { $0.terms.epoch == EpochSight.epoch(7).id })
  }

  @Test func aDaemonThatWasInNoEpochSaysSo() {
    #expect(
      script.claims == [
        EpochClaim(
          attempt: 1_000_000_000, known: .none, isFirstOfLink: true, longestLeaseMilliseconds: 10_000,
          graceMilliseconds: 10_000, tokenFloor: 0, waitedMilliseconds: 0, mayBeFirst: true)
      ])
  }

  /// The next name of an epoch must never be one that was used: an answer may have been lost.
  @Test func noTwoQuestionsAreAlike() {
    for _ in 0..<10 { script.connectAgain(.ofTests) }
    #expect(Set(script.claims.map(\.attempt)).count == 11)
    #expect(script.claims.dropFirst().allSatisfy { $0.known == EpochSight.ofTests.id && !$0.mayBeFirst })
    #expect(script.claims.allSatisfy { $0.isFirstOfLink })
  }

  @Test func anEpochThatIsNotToldIsAskedForAgainAndPeopleHearWhy() {
    let script = Script(linkUp: false)
    script.open(alice, bob)
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.acquire(alice, progress: true)
    script.acquire(bob, "y", wait: 250)
    script.answer(.failed(.fatal("sidelock:epoch holds other data")))
    _ = script.take()
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("sidelock:epoch holds other data")])
    script.pass(milliseconds: 99)
    #expect(!script.isAskingForEpoch)
    script.pass(milliseconds: 1)
    #expect(script.isAskingForEpoch)
    script.answer(.done)
    script.pass(milliseconds: 150)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("a reply of the wrong kind")])
    script.pass(milliseconds: 750)
    #expect(
      script.take().compactMap(\.notification) == [
        .waiting(
          request: RequestID(1), name: x, position: 1, holder: .unknown,
          trouble: .refused("a reply of the wrong kind"))
      ])
    script.answer(.epoch(.ofTests))
    #expect(acquires(script.sent()).map(\.name) == [x])
  }

  @Test(arguments: [
    EpochID(number: 0, text: "0:h/1:1"), EpochID(number: 1 << 53, text: "1"), EpochID(number: 1, text: ""),
    EpochID(number: 1, text: String(repeating: "1", count: 513)),
  ]) func whatNamesNoEpochIsNone(_ id: EpochID) {
    var sight = EpochSight.ofTests
    sight.id = id
    let script = Script(linkUp: false)
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.answer(.epoch(sight))
    #expect(script.engine.storeStanding().epoch == .none)
    script.pass(milliseconds: 100)
    #expect(script.isAskingForEpoch)
  }

  @Test func shutdownWaitsForNoEpochWhereNothingIsLeftToGiveBack() {
    script.epoch = nil
    script.connectAgain(.ofTests)
    script.feed(.linkDown(.only))
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.feed(.shutdownRequested)
    #expect(script.take() == [.shutdownCompleted])
  }

  @Test func shutdownGivesBackBehindTheEpoch() {
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.feed(.shutdownRequested)
    #expect(!script.take().contains(.shutdownCompleted))
    script.answer(.epoch(.ofTests))
    script.reply(.done)
    #expect(script.take().contains(.shutdownCompleted))
  }

  @Test func shutdownDoesNotWaitForAStoreThatDoesNotTellItsEpoch() {
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.epoch = nil
    script.feed(.linkUp(.only))
    script.answer(.failed(.transient("LOADING")))
    script.feed(.shutdownRequested)
    #expect(script.take().last == .shutdownCompleted)
  }

  // MARK: Other data

  /// Each answer of the store is of another epoch: it is asked less and less often, and what is held can be taken again.
  @Test(arguments: [(1000, 100), (2000, 200), (10_000, 1000), (60_000, 1000)])
  func aStoreWithAnotherEpochAtEachLookIsAskedNowAndThen(_ lease: Int64, _ pause: Int64) {
    var configuration = EngineConfiguration(tier: .store)
    configuration.settings.leaseMilliseconds = lease
    let script = Script(configuration)
    script.open(alice)
    script.acquire(alice)
    var moments: [BootInstant] = []
    for number in UInt64(2)...2000 {
      script.epoch = .epoch(number, isOpen: false)
      for id in script.takeSent() { script.reply(.otherEpoch, to: id) }
      while moments.count < script.claims.count { moments.append(script.now) }
      script.pass(milliseconds: 5)
    }
    let pauses = zip(moments, moments.dropFirst()).map { $1.milliseconds(since: $0) }
    #expect(pauses.prefix(4).allSatisfy { $0 <= 5 })
    #expect(pauses.suffix(5).allSatisfy { (pause...pause + 10).contains($0) }, "\(pauses)")
    // One that lasts is taken as the first.
    script.epoch = .epoch(3000, isOpen: false)
    script.pass(milliseconds: 3000)
    for id in script.takeSent() { script.reply(.otherEpoch, to: id) }
    script.pass(milliseconds: 3000)
    let count = script.claims.count
    script.lose(.epoch(3001, isOpen: false))
    #expect(script.claims.count == count + 1)
  }

  @Test func whatIsHeldIsReclaimedAndNobodyHearsOfIt() {
    script.hold(alice)
    script.acquire(bob)
    _ = script.take()
    script.lose(Self.grace)
    #expect(script.claims.last?.known == EpochSight.ofTests.id && script.claims.last?.isFirstOfLink == false)
    let effects = script.take()
    #expect(
      effects.compactMap(\.command).contains(.reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: Self.grace.id)))
    #expect(effects.compactMap(\.notification).isEmpty)
    let reclaim = effects.last { if case .reclaim = $0.command { true } else { false } }
    script.reply(.renewed([.held]), to: reclaim?.commandID)
    script.release(alice)
    // It passes on among the clients of this host as ever.
    #expect(script.take().compactMap(\.grantedSession) == [bob])
    #expect(script.engine.statistics.reclaims == 1 && script.engine.statistics.epochs == 2)
    script.pass(milliseconds: 3_333)
    #expect(
      script.sent().contains(
        .renew([LeaseReference(name: x, attempt: 1)], epoch: script.engine.grantTerms(of: x).epoch)))
  }

  @Test func whatStandsInDoubtIsNotPassedOn() {
    script.hold(alice)
    script.acquire(bob)
    script.lose(Self.grace)
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
  }

  @Test func aLeaseThatAnotherHostHasIsLost() {
    script.hold(alice)
    script.connectAgain(Self.open)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, in: Self.open.id)])
    script.reply(.renewed([.lost]), to: CommandID(2))
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
  }

  @Test func theSameEpochIsGoneOnWith() {
    script.hold(alice)
    script.connectAgain(.ofTests)
    #expect(script.sent() == [.renew([LeaseReference(name: x, attempt: 1)], epoch: EpochSight.ofTests.id)])
    #expect(script.engine.statistics.epochs == 1)
  }

  /// What was under way answers nobody any more.
  @Test func repliesOfBeforeFindNobody() {
    script.acquire(alice)
    let ask = script.takeSent().last
    script.acquire(bob, "y")
    script.lose(Self.grace, to: script.takeSent().last)
    _ = script.take()
    script.reply(granted(5), to: ask)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
  }

  /// A grant of before that comes behind the change is not dated by anything that was sent before it.
  @Test func aPushOfBeforeIsLeftToTheAskThatFollows() {
    script.acquire(alice)
    script.reply(queued())
    script.lose(.epoch(2))
    _ = script.take()
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
  }

  @Test func whatWaitsIsAskedForAgainUnderTheSameAttempt() {
    script.acquire(alice)
    script.reply(queued())
    _ = script.take()
    script.lose(Self.grace)
    let commands = script.sent()
    #expect(
      commands.contains(
        .acquire(
          name: x, attempt: 1, ask: 3, isTry: false, terms: .above(0, in: Self.grace.id),
          since: PlaceMoment(epoch: 1, clock: StoreInstant(microseconds: 1000)))))
  }

  @Test func aReleaseIsRepeated() {
    script.hold(alice)
    script.release(alice)
    _ = script.take()
    script.lose(Self.grace)
    #expect(
      script.sent().contains(.release(name: x, attempt: 1, unused: .from(101), terms: .above(100, in: Self.grace.id))))
  }

  @Test func anIdleLeaseIsGivenBack() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 60_000 })
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.release(alice)
    script.release(bob)
    script.feed(.linkDown(.only))
    script.epoch = Self.grace
    script.feed(.linkUp(.only))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101, in: Self.grace.id))])
  }

  /// One question at a time, however many commands say so.
  @Test func manyCommandsOfAnotherEpochAreOneQuestion() {
    script.acquire(alice)
    script.acquire(bob, "y")
    let asks = script.takeSent()
    script.epoch = nil
    for ask in asks { script.reply(.otherEpoch, to: ask) }
    #expect(script.claims.count == 2 && script.sent().isEmpty)
    script.answer(.epoch(Self.open))
    #expect(acquires(script.sent()).map(\.name) == [x, LockName("y")])
    #expect(script.claims.count == 2)
  }

  /// The data may have been swapped, and swapped back. Both asks are lost then.
  @Test func whatWasRefusedIsAskedForAgainInTheSameEpoch() {
    script.acquire(alice)
    script.lose(.ofTests, to: script.takeSent().last)
    #expect(acquires(script.sent()).map(\.name) == [x])
  }

  /// A store that contradicts itself is not asked all the time.
  @Test func aStoreThatContradictsItselfIsAskedNowAndThen() {
    script.acquire(alice)
    for _ in 0..<200 {
      if let ask = script.takeSent().last { script.reply(.otherEpoch, to: ask) }
      script.pass(milliseconds: 10)
    }
    #expect(script.claims.count < 20)
  }

  @Test func anEpochThatIsNotToldAnyMoreHasEverybodyWaitAndHear() {
    script.hold(alice)
    script.acquire(bob, "y", progress: true)
    let ask = script.takeSent().last
    script.epoch = nil
    script.reply(.otherEpoch, to: ask)
    script.answer(.failed(.transient("NOPERM")))
    script.pass(milliseconds: 1_000)
    let effects = script.take()
    #expect(
      effects.compactMap(\.notification) == [
        .waiting(
          request: RequestID(2), name: LockName("y"), position: 1, holder: .unknown, trouble: .refused("NOPERM"))
      ])
    // What is held is held for as long as it was.
    script.pass(milliseconds: 7_500)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  /// The link is cut while the epoch is asked for.
  @Test func aCutWhileTheEpochIsAskedForChangesNothing() {
    script.hold(alice)
    script.acquire(bob, "y")
    let ask = script.takeSent().last
    script.epoch = nil
    script.reply(.otherEpoch, to: ask)
    script.feed(.linkDown(.only))
    script.epoch = Self.grace
    script.feed(.linkUp(.only))
    #expect(script.claims.last?.isFirstOfLink == true && script.claims.last?.known == EpochSight.ofTests.id)
    let commands = script.sent()
    #expect(commands.first == .reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: Self.grace.id))
    #expect(acquires(commands).map(\.name) == [LockName("y")])
  }

  /// Set back to a state in which it had not been opened, it has lost what was granted in it since.
  @Test func anEpochThatIsNotOpenAnyMoreIsAnotherOne() {
    script.connectAgain(Self.open)
    script.hold(alice)
    script.pass(milliseconds: 2_000)
    _ = script.take()
    script.connectAgain(Self.grace)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: Self.grace.id)])
    #expect(script.engine.storeStanding().graceEnds == script.now.adding(milliseconds: 10_101))
  }

  // MARK: Reclaiming

  /// It may take the place of what is older than the epoch once.
  @Test func aLeaseThatIsMissingAgainTakesNobodysPlace() {
    script.hold(alice)
    script.connectAgain(Self.grace)
    script.reply(.renewed([.held]))
    script.pass(milliseconds: 3_400)
    script.reply(.renewed([.missing]), to: script.takeSent().last)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, in: Self.grace.id)])
  }

  @Test func aReclaimThatFailedIsRepeatedWithItsRight() {
    script.hold(alice)
    script.connectAgain(Self.grace)
    script.reply(.failed(.transient("OOM")), to: script.takeSent().last)
    script.pass(milliseconds: 834)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: Self.grace.id)])
  }

  @Test func aLeaseWhoseKeyIsGoneIsReclaimedAtOnce() {
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 3_400)
    script.reply(.renewed([.missing]), to: script.takeSent().last)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110)])
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.reply(.renewed([.held]), to: CommandID(3))
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test(arguments: [LeaseStanding.lost, .missing]) func aLeaseThatCannotBeReclaimedIsLost(_ standing: LeaseStanding) {
    script.hold(alice)
    script.pass(milliseconds: 3_400)
    script.reply(.renewed([.missing]), to: script.takeSent().last)
    script.reply(.renewed([standing]))
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
  }

  /// The lease is missing for a command that cannot be carried out without it.
  @Test func aLeaseThatHasNoRoomForTokensIsReclaimedAndGetsThem() {
    script.acquire(alice)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 3, othersWait: false)))
    script.reply(.reserved(nil))
    let reclaim = LeaseCommand.reclaim(x, attempt: 1, 100..<103)
    let sent = script.take()
    #expect(sent.compactMap(\.command).last == reclaim)
    script.reply(.renewed([.held]), to: sent.last?.commandID)
    #expect(script.sent() == [.reserve(name: x, attempt: 1, tokenEnd: 103, terms: .above(100))])
  }

  /// Nothing else about a lease is sent before it is there again.
  @Test func tokensAreReservedBehindTheReclaim() {
    script.acquire(alice)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 3, othersWait: false)))
    _ = script.take()
    script.connectAgain(Self.grace)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<103, mayReplace: true, in: Self.grace.id)])
    script.reply(.renewed([.held]), to: CommandID(3))
    #expect(script.sent() == [.reserve(name: x, attempt: 1, tokenEnd: 103, terms: .above(100, in: Self.grace.id))])
  }

  /// The whole block, also the tokens that were issued: whoever takes the lock away names one of them.
  @Test func theWholeBlockIsReclaimed() {
    script.hold(alice)
    script.acquire(bob)
    script.release(alice)
    script.connectAgain(Self.grace)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, mayReplace: true, in: Self.grace.id)])
  }

  @Test func aLeaseThatIsBeingSharedIsReclaimedAsSuchFirst() {
    script.hold(alice)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    script.feed(
      .pushReceived(.only, .contended(name: x, attempt: 1, ask: 1, isTry: false, inbox: "o/1", mode: .shared)))
    _ = script.take()
    script.connectAgain(Self.grace)
    #expect(script.sent() == [.reclaim(x, attempt: 1, 100..<110, mode: .shared, mayReplace: true, in: Self.grace.id)])
    script.reply(.renewed([.held]), to: CommandID(3))
    #expect(script.sent() == [.downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100, in: Self.grace.id))])
  }

  /// The store keeps the counter by which it knows that nobody had the lock since for a minute only.
  @Test func aLeaseThatWasConfirmedLongAgoIsNotReclaimedByItsCounter() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.leaseMilliseconds = 180_000 })
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 60_000)
    script.reply(.renewed([.missing]), to: script.takeSent().last)
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
  }

  @Test func aLeaseThatWasConfirmedLongAgoIsReclaimedInAGrace() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.leaseMilliseconds = 180_000 })
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 60_000)
    script.lose(Self.grace, to: script.takeSent().last)
    guard case .reclaim(let leases, _, _)? = script.sent().last else {
      Issue.record("nothing is reclaimed")
      return
    }
    #expect(leases.map(\.mayReplace) == [true])
  }
}
