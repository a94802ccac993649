import LockEngine
import LockTypes
import Testing

@Suite struct HostLeaseTests {
  let script = Script()

  @Test func theFirstAcquireAsksTheStore() {
    script.open(alice)
    let request = script.acquire(alice)
    #expect(script.sent() == [.acquire(name: x, attempt: 1, ask: 1, isTry: false, terms: .above(0))])
    script.pass(milliseconds: 3)
    script.reply(granted(100), to: CommandID(1))
    #expect(
      script.take() == [
        .reply(
          alice, request, .acquired(Acquired(name: x, token: 100, waitedMilliseconds: 3, validMilliseconds: 8497)))
      ])
  }

  @Test func neighboursHandTheLockOverWithoutTheStore() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    #expect(script.sent().isEmpty)
    script.release(alice)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [101])
    #expect(!effects.contains { if case .send = $0 { true } else { false } })
  }

  @Test func theLastReleaseIsAnsweredAtOnceAndGivesTheLeaseBack() {
    script.open(alice)
    script.hold(alice)
    let request = script.release(alice)
    #expect(
      script.take() == [
        .reply(alice, request, .released(name: x, token: 100, remaining: 0)),
        .send(.only, CommandID(2), .release(name: x, attempt: 1, unused: .from(101), terms: .above(100))),
      ])
    #expect(script.engine.gauges.locks == 1)
    script.reply(.done, to: CommandID(2))
    #expect(script.engine.gauges.locks == 0)
  }

  // Pitfall 12: a lease counts from the moment at which it was asked for.
  @Test func aReplyThatComesAfterTheLeaseEndedGrantsNothing() {
    script.open(alice)
    script.acquire(alice)
    let ids = script.takeSent()
    script.jump(milliseconds: 8500)
    script.reply(granted(100), to: ids[0])
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken).isEmpty)
    #expect(
      effects.compactMap(\.command).filter { $0 != .heartbeat } == [
        .release(name: x, attempt: 1, unused: .from(100), terms: .above(99)),
        .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(99)),
      ])
  }

  @Test func aLeaseThatHadToWaitForItsTurnOnTheLinkCountsFromThere() {
    script.open(alice)
    script.acquire(alice)
    let ids = script.takeSent()
    script.pass(milliseconds: 9000)
    script.feed(.commandSent(.only, ids[0]))
    script.pass(milliseconds: 1)
    script.reply(granted(100), to: ids[0])
    #expect(script.take().compactMap(\.grantedToken) == [100])
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.validMilliseconds == 8499)
  }

  // Pitfall 15: after a suspension, lost is told before anything else is answered.
  @Test func afterASuspensionLostComesFirst() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob, wait: 100)
    _ = script.take()
    script.jump(milliseconds: 3_600_000)
    script.acquire(bob, "y", wait: 0)
    let effects = script.take()
    #expect(effects.first == .notify(alice, .lost(name: x, token: 100, reason: .leaseExpired, graceMilliseconds: 0)))
    #expect(effects.count > 1)
  }

  @Test func aLeaseThatIsNotRenewedIsLostBeforeItsEndAndHeldBackUntilItsGraceIsOver() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    _ = script.take()
    script.pass(milliseconds: 8499)
    #expect(!script.take().contains { $0.lostReason != nil })
    script.pass(milliseconds: 1)
    #expect(
      script.take().filter { $0.lostReason != nil } == [
        .notify(alice, .lost(name: x, token: 100, reason: .leaseExpired, graceMilliseconds: 1400))
      ])
    // Until the end of the grace neither this host nor, by its doing, another one has the lock.
    script.pass(milliseconds: 1399)
    #expect(!script.sent().contains { if case .renew = $0 { false } else { $0 != .heartbeat } })
    script.pass(milliseconds: 1)
    #expect(
      script.sent() == [
        .release(name: x, attempt: 1, unused: .from(101), terms: .above(100)),
        .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(100)),
      ])
  }

  @Test func aLeaseIsRenewedAfterAThirdOfItsTime() {
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 3332)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    let effects = script.take()
    #expect(
      effects == [
        .send(.only, CommandID(2), .renew([LeaseReference(name: x, attempt: 1)], epoch: EpochSight.ofTests.id))
      ])
    script.reply(.renewed([.held]), to: CommandID(2))
    script.pass(milliseconds: 8499)
    #expect(!script.take().contains { $0.lostReason != nil })
  }

  // Pitfall 9: one failed renewal is not the end of renewing.
  @Test(arguments: [LeaseReply.failed(.transient("LOADING")), .failed(.fatal("ERR")), .renewed([]), .done])
  func aRenewalThatFailedIsTriedAgain(_ failure: LeaseReply) {
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 3333)
    script.reply(failure, to: script.takeSent().first)
    script.pass(milliseconds: 833)
    let ids = script.takeSent()
    #expect(ids.count == 1)
    script.reply(.renewed([.held]), to: ids.first)
    script.pass(milliseconds: 8400)
    #expect(!script.take().contains { $0.lostReason != nil })
  }

  // Pitfall 38: the last moments of a lease are not given to anybody.
  @Test func aLeaseOfWhichTooLittleIsLeftIsRenewedBeforeItIsUsed() {
    script.open(alice, bob, carol)
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 3333)
    let renewals = script.takeSent()
    script.pass(milliseconds: 4400)
    script.release(alice)
    script.acquire(carol, wait: 0)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.reply(.renewed([.held]), to: renewals.first)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func aLeaseOfWhichTooLittleIsLeftEndsWhenItIsNotRenewed() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 7700)
    script.release(alice)
    script.pass(milliseconds: 2200)
    #expect(script.sent().suffix(2).first == .release(name: x, attempt: 1, unused: .from(101), terms: .above(100)))
  }

  // Pitfalls 8 and 14: a renewal never brings a lease back.
  @Test func aLeaseThatTheStoreNoLongerHasIsLost() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 3333)
    script.reply(.renewed([.lost]), to: script.takeSent().first)
    let effects = script.take()
    #expect(effects.first == .notify(alice, .lost(name: x, token: 100, reason: .dataLoss, graceMilliseconds: 0)))
    #expect(effects.count == 2)
    script.release(alice, token: 100)
    #expect(script.take().map(\.refusal) == [.lost(.dataLoss)])
  }

  @Test func aRenewalThatCrossedTheReleaseChangesNothing() {
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 3333)
    let renewal = script.takeSent().first
    script.release(alice)
    let release = script.takeSent().first
    script.reply(.renewed([.held]), to: renewal)
    #expect(script.take().isEmpty)
    script.reply(.done, to: release)
    script.pass(milliseconds: 60_000)
    #expect(script.take().isEmpty)
  }

  @Test func manyRenewalsShareACommand() {
    let script = Script(EngineConfiguration(tier: .store) { $0.renewalBatchMax = 2 })
    script.open(alice)
    for name in ["a", "b", "c"] { script.hold(alice, name) }
    script.pass(milliseconds: 3333)
    #expect(
      script.sent().map { command in
        if case .renew(let leases, _, _) = command { leases.map(\.name.description) } else { [] }
      } == [["a", "b"], ["c"]])
  }

  // MARK: Waiting for another host

  @Test func aPushedGrantIsUsedAtOnceAndCountsFromTheLastAnsweredCommand() {
    script.open(alice)
    let request = script.acquire(alice)
    script.reply(queued(), to: script.takeSent().first)
    script.pass(milliseconds: 1000)
    script.reply(.done, to: script.takeSent().first)
    script.pass(milliseconds: 700)
    script.feed(
      .pushReceived(
        .only,
        .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(
      script.take() == [
        .reply(
          alice, request, .acquired(Acquired(name: x, token: 7, waitedMilliseconds: 1700, validMilliseconds: 7800)))
      ])
  }

  @Test func whileItWaitsTheLinkIsNeverSilentForMoreThanASecond() {
    script.open(alice)
    script.acquire(alice)
    script.reply(queued(), to: script.takeSent().first)
    script.pass(milliseconds: 4900)
    // The look at its place is not answered, so that there is no second one.
    #expect(script.sent() == [look(1)] + Array(repeating: .heartbeat, count: 3))
  }

  private func look(_ attempts: UInt64...) -> LeaseCommand {
    .checkPlaces(
      attempts.map { WaitingPlace(name: x, attempt: $0, mode: .exclusive, leaseMilliseconds: 10_000) },
      epoch: EpochSight.ofTests.id)
  }

  @Test func nobodyWaitsSoNothingIsSent() {
    script.open(alice)
    script.hold(alice)
    script.pass(milliseconds: 3000)
    #expect(script.sent().isEmpty)
  }

  // Pitfalls 1 and 3: no notification is relied upon.
  @Test func aWaitingHostAsksAgainWhenTheHoldersLeaseShouldHaveEnded() {
    script.open(alice)
    script.acquire(alice)
    script.reply(queued(for: 4000), to: script.takeSent().first)
    script.pass(milliseconds: 3999)
    #expect(!script.sent().contains { $0 != .heartbeat && $0 != look(1) })
    script.pass(milliseconds: 1)
    #expect(script.sent().contains(.acquire(name: x, attempt: 1, ask: 2, isTry: false, terms: .above(0))))
  }

  // Pitfalls 7 and 39.
  @Test func aGrantForAWaiterThatHasLeftIsGivenBack() {
    script.open(alice)
    let wait = script.acquire(alice)
    script.reply(queued(), to: script.takeSent().first)
    script.cancel(alice, wait)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .all, terms: .above(0))])
    script.reply(.done, to: CommandID(2))
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .all, isExact: true, terms: .above(0))])
  }

  @Test func aCancelWhileTheAskIsInFlightGivesBackWhateverComes() {
    script.open(alice)
    let wait = script.acquire(alice)
    let ask = script.takeSent().first
    script.cancel(alice, wait)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .all, terms: .above(0))])
    script.reply(granted(5), to: ask)
    #expect(script.take().isEmpty)
    script.reply(.done, to: CommandID(2))
    #expect(script.engine.gauges.locks == 0)
  }

  @Test(arguments: [
    (granted(5), UnusedTokens.from(5)), (queued(), .all), (.foreign(expiresInMilliseconds: 100), .all),
    (.conflict(.permit(of: 2), listeners: 1), .all),
  ])
  func anAskThatTheStoreExecutedAfterItsReleaseIsGivenBackAgain(_ late: LeaseReply, _ unused: UnusedTokens) {
    let script = Script()
    script.open(alice)
    let wait = script.acquire(alice)
    let ask = script.takeSent().first
    script.cancel(alice, wait)
    script.reply(.done, to: script.takeSent().first)
    #expect(script.engine.gauges.locks == 0)
    script.reply(late, to: ask)
    let again = script.take()
    let floor: Token = unused == .from(5) ? 4 : 0
    #expect(again.compactMap(\.command) == [.release(name: x, attempt: 1, unused: unused, terms: .above(floor))])
    script.reply(.done, to: CommandID(3))
    #expect(script.engine.gauges.locks == 0)
  }

  /// The store can have the lease longer than this host remembers it: its clock was set back.
  @Test func tokensOfALeaseThatIsForgottenAreNotIssuedAgain() {
    script.open(alice)
    script.acquire(alice)
    script.reply(granted(100))
    script.release(alice)
    script.reply(.failed(.transient("READONLY")))
    script.pass(milliseconds: 10_100)
    for id in script.takeSent() { script.reply(.failed(.transient("READONLY")), to: id) }
    #expect(script.engine.gauges.locks == 0)
    _ = script.take()
    script.feed(.pushReceived(.only, .contended(name: x, attempt: 1, ask: 4, isTry: false, inbox: "other/1")))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .unknown, isExact: true, terms: .above(100))])
  }

  @Test func aForeignHolderIsLookedAtTenTimesASecondAtMost() {
    script.open(alice)
    script.acquire(alice)
    script.reply(.foreign(expiresInMilliseconds: nil), to: script.takeSent().first)
    var asks = 0
    for _ in 0..<10 {
      script.pass(milliseconds: 100)
      for id in script.takeSent() {
        asks += 1
        script.reply(.foreign(expiresInMilliseconds: 60_000), to: id)
      }
    }
    #expect(asks == 10)
  }

  // Pitfall 43.
  @Test func dataThatIsNoLockIsAnErrorOfItsOwn() {
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(bob)
    let other = OtherData(part: .queue, type: "hash")
    script.reply(.failed(.wrongType(other)), to: script.takeSent().first)
    #expect(script.take().map(\.refusal) == [.wrongType(other, of: x), .wrongType(other, of: x)])
    #expect(script.engine.gauges.locks == 0)
  }

  @Test func aStateThatPassesRefusesTriesAndKeepsWaits() {
    script.open(alice, bob)
    script.acquire(alice, wait: 0)
    script.acquire(bob, "x", wait: 5000)
    let ids = script.takeSent()
    script.reply(.failed(.transient("LOADING")), to: ids.first)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("LOADING")])
    script.acquire(alice, wait: 60)
    script.pass(milliseconds: 60)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("LOADING")])
    script.pass(milliseconds: 40)
    script.reply(.failed(.transient("LOADING")), to: script.takeSent().first)
    script.pass(milliseconds: 100)
    script.reply(granted(9), to: script.takeSent().first)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test(arguments: [(1 << 53 - 5, 10), (5, 0), (5, -1), (0, 10), (-5, 10), (.max, .max), (.min, .min)])
  func tokensThatCannotBeGivenOutAreRefusedAndNotAskedForAgain(_ first: Token, _ count: Int64) {
    script.open(alice)
    script.acquire(alice)
    script.reply(
      .granted(LeaseGrant(token: first, tokenCount: count, othersWait: false)), to: script.takeSent().first)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken).isEmpty)
    #expect(effects.compactMap(\.refusal).count == 1)
    #expect(
      effects.compactMap(\.command) == [
        .release(
          name: x, attempt: 1, unused: (0...1 << 53).contains(first) ? .from(first) : .unknown, terms: .above(0))
      ])
  }

  @Test func aUsedUpBlockOfTokensIsReplacedByANewLease() {
    script.open(alice)
    script.acquire(alice)
    script.reply(.granted(LeaseGrant(token: 5, tokenCount: 1, othersWait: false)), to: script.takeSent().first)
    script.acquire(alice)
    _ = script.take()
    script.release(alice)
    #expect(
      script.sent() == [
        .release(name: x, attempt: 1, unused: .from(6), terms: .above(5)),
        .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(5)),
      ])
  }

  /// Granted by a push, gone from the store, and granted anew to an ask that was still under way: others may have had the
  /// lock in between.
  @Test func aLeaseThatTheStoreHasMadeAnewIsNotTheOneOfBefore() {
    let script = Script()
    script.open(alice, bob)
    script.acquire(alice)
    let first = script.takeSent()
    script.feed(.replyReceived(.only, first[0], queued(for: 100)))
    script.acquire(bob)
    script.pass(milliseconds: 300)
    let again = script.take().compactMap { if case .send(_, let id, .acquire) = $0 { id } else { nil } }
    #expect(again.count == 1)
    script.feed(
      .pushReceived(
        .only,
        .granted(name: LockName("x"), attempt: 1, LeaseGrant(token: 100, tokenCount: 10, othersWait: false))))
    #expect(script.take().compactMap(\.grantedToken) == [100])
    // The same lease, told once more.
    script.feed(.replyReceived(.only, again[0], granted(100)))
    #expect(script.take().isEmpty)
    script.feed(
      .pushReceived(
        .only,
        .granted(name: LockName("x"), attempt: 1, LeaseGrant(token: 500, tokenCount: 10, othersWait: false))))
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.dataLoss])
    #expect(
      effects.compactMap(\.command) == [
        .release(name: LockName("x"), attempt: 1, unused: .from(500), terms: .above(499)),
        .acquire(name: LockName("x"), attempt: 2, ask: 3, isTry: false, terms: .above(499)),
      ])
    let asked = effects.compactMap { if case .send(_, let id, .acquire) = $0 { id } else { nil } }
    script.feed(.replyReceived(.only, asked[0], granted(600)))
    #expect(script.take().compactMap(\.grantedToken) == [600])
  }

  // MARK: Forged grants

  @Test func aGrantForAnAttemptThatWasNeverMadeIsNone() {
    let begin: UInt64 = EngineConfiguration.attemptStarts.lowerBound + 12_345
    let script = Script(EngineConfiguration(tier: .store, attemptsBegin: begin))
    script.open(alice)
    script.acquire(alice)
    let attempts = script.sent().compactMap { command -> UInt64? in
      if case .acquire(_, let attempt, _, _, _, _, _, _, _) = command { attempt } else { nil }
    }
    #expect(attempts == [begin + 1])
    script.reply(queued(), to: CommandID(1))
    let forged = LeaseGrant(token: 1 << 52, tokenCount: 10, othersWait: false)
    for attempt in Array(0...2000) + [begin, begin + 2] {
      script.feed(.pushReceived(.only, .granted(name: x, attempt: attempt, forged)))
    }
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.feed(.pushReceived(.only, .granted(name: x, attempt: begin + 1, forged)))
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  /// Given back, it would be in the records of what is not confirmed, which a successor refuses as a whole.
  @Test(
    arguments: [
      (LockName("x"), 0), (LockName("x"), 1 << 53), (LockName(""), 5), (LockName(bytes: [0xFF]), 5),
      (LockName(String(repeating: "x", count: 513)), 5),
    ] as [(LockName, UInt64)])
  func whatNoHostCanHaveAskedForIsNotGivenBack(_ name: LockName, _ attempt: UInt64) {
    let script = Script(EngineConfiguration(tier: .store))
    script.feed(
      .pushReceived(
        .only,
        .granted(name: name, attempt: attempt, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take() == [])
    #expect(script.engine.gauges.locks == 0)
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 5, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take().count == 1)
  }

  @Test func attemptsStayExactInAScript() {
    #expect(EngineConfiguration.attemptStarts.upperBound <= 1 << 52)
    #expect(EngineConfiguration.attemptStarts.count >= 1 << 51)
  }
}
