import LockEngine
import LockTypes
import Testing

/// Readers and writers of one lock, on one host and against the store.
@Suite struct SharedTests {
  private func local() -> Script {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)
    script.open(alice, bob, carol, dave)
    return script
  }

  private func store(cohortMilliseconds: Int64 = 50, lingerMilliseconds: Int64 = 0) -> Script {
    let script = Script(
      EngineConfiguration(tier: .store, inbox: "me/1") {
        $0.settings.lingerMilliseconds = lingerMilliseconds
        $0.settings.cohortMilliseconds = cohortMilliseconds
      })
    script.open(alice, bob, carol, dave)
    return script
  }

  private func contended(_ attempt: UInt64, isTry: Bool = false, mode: HoldMode = .exclusive) -> Event {
    .pushReceived(
      .only,
      .contended(name: x, attempt: attempt, ask: 9, isTry: isTry, inbox: "other/1", mode: mode))
  }

  /// Alice shares, another host wants the lock alone, and then bob and carol ask to share it, too.
  private func readersBesideAWriterElsewhere() -> Script {
    let script = store(cohortMilliseconds: 0)
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.feed(contended(1))
    script.acquire(bob, mode: .shared)
    script.acquire(carol, mode: .shared)
    return script
  }

  // MARK: On one host

  @Test func readersHoldTogetherUnderTokensOfTheirOwn() {
    let script = local()
    script.acquire(alice, mode: .shared)
    script.acquire(bob, mode: .shared)
    #expect(script.take().compactMap(\.grantedToken) == [1000, 1001])
    script.release(alice)
    script.release(bob)
    script.acquire(carol, wait: 0)
    #expect(script.take().last?.grantedToken == 1002)
  }

  @Test func aWriterWaitsForAllReadersAndLaterReadersWaitForIt() {
    let script = local()
    script.acquire(alice, mode: .shared)
    script.acquire(bob)
    script.acquire(carol, mode: .shared)
    #expect(script.take().compactMap(\.grantedSession) == [alice])
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  @Test func readersThatStandTogetherEnterTogether() {
    let script = local()
    script.acquire(alice)
    script.acquire(bob, mode: .shared)
    script.acquire(carol, mode: .shared)
    script.acquire(dave)
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession) == [alice, bob, carol])
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.release(carol)
    #expect(script.take().compactMap(\.grantedSession) == [dave])
  }

  @Test func readersBehindAWriterThatGivesUpEnterAtOnce() {
    let script = local()
    script.acquire(alice, mode: .shared)
    let writer = script.acquire(bob)
    script.acquire(carol, mode: .shared)
    _ = script.take()
    script.cancel(bob, writer)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    script.acquire(bob, wait: 30)
    script.acquire(dave, mode: .shared)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 30)
    let effects = script.take()
    #expect(effects.compactMap(\.refusal).count == 1)
    #expect(effects.compactMap(\.grantedSession) == [dave])
  }

  @Test func aTryIsBusyWhereItDoesNotFitAndGrantedWhereItDoes() {
    let script = local()
    script.acquire(alice, mode: .shared)
    script.acquire(bob, mode: .shared, wait: 0)
    script.acquire(carol, wait: 0)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [alice, bob])
    guard case .busy(let holders, _)? = effects.last?.refusal else {
      Issue.record("\(effects)")
      return
    }
    #expect(holders.local.map(\.session) == [alice, bob])
  }

  @Test func oneSessionMayShareTwiceAndThenMustSayWhichHoldItMeans() {
    let script = local()
    script.acquire(alice, mode: .shared)
    script.acquire(alice, mode: .shared)
    #expect(script.take().compactMap(\.grantedToken) == [1000, 1001])
    script.release(alice)
    #expect(script.take().first?.refusal == .notHeld(heldTokens: [1000, 1001]))
    script.release(alice, token: 1000)
    script.release(alice)
    let released = script.take().compactMap { effect -> Token? in
      if case .reply(_, _, .released(_, let token, _)) = effect { token } else { nil }
    }
    #expect(released == [1000, 1001])
  }

  @Test func closingASessionEndsAllItsShares() {
    let script = local()
    script.acquire(alice, mode: .shared)
    script.acquire(alice, mode: .shared)
    script.acquire(bob)
    script.feed(.sessionClosed(alice))
    #expect(script.take().compactMap(\.grantedSession) == [alice, alice, bob])
  }

  @Test func aDowngradeLetsReadersInAndKeepsTheToken() {
    let script = local()
    script.acquire(alice)
    script.acquire(bob, mode: .shared)
    script.acquire(carol)
    _ = script.take()
    let request = script.newRequest()
    script.feed(.downgradeRequested(alice, request, name: x, token: nil))
    let effects = script.take()
    #expect(effects.first == .reply(alice, request, .downgraded(name: x, token: 1000)))
    #expect(effects.compactMap(\.grantedSession) == [bob])
    // Once more changes nothing; what is not held is refused.
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: 1000))
    script.feed(.downgradeRequested(carol, script.newRequest(), name: x, token: nil))
    #expect(script.take().last?.refusal == .notHeld(heldTokens: []))
    script.release(alice)
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  // MARK: With the store

  @Test func readersOfOneHostShareOneLease() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.acquire(bob, mode: .shared)
    #expect(
      script.take().compactMap(\.command) == [
        .acquire(name: x, attempt: 1, ask: 1, isTry: false, terms: .above(0), mode: .shared)
      ])
    script.feed(.replyReceived(.only, CommandID(1), granted(100)))
    script.acquire(carol, mode: .shared)
    #expect(script.take().compactMap(\.grantedToken) == [100, 101, 102])
    script.release(alice)
    script.release(bob)
    #expect(script.sent().isEmpty)
    script.release(carol)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(103), terms: .above(102))])
  }

  /// Other hosts share the lock, too: whoever comes to them later must not pass it.
  @Test func aWriterBehindReadersOfItsOwnHostStandsInTheQueueOfAllHosts() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal).count == 1)
    let writer = script.acquire(bob)
    let ask = LeaseCommand.acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(100), keeping: 1)
    #expect(script.sent() == [ask])
    // One place for all who wait here.
    script.acquire(carol)
    script.acquire(dave, mode: .shared)
    #expect(script.sent().isEmpty)
    script.feed(.replyReceived(.only, CommandID(2), queued(behind: "")))
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 2, LeaseGrant(token: 300, tokenCount: 10, othersWait: false))))
    #expect(script.take().compactMap(\.grantedSession) == [bob])
    script.cancel(bob, writer)
  }

  @Test func aWriterThatGivesUpBehindReadersOfItsOwnHostLeavesTheLeaseAlone() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    let writer = script.acquire(bob)
    script.acquire(carol, mode: .shared)
    _ = script.take()
    script.feed(.replyReceived(.only, CommandID(2), queued(behind: "")))
    script.cancel(bob, writer)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [carol])
    #expect(
      effects.compactMap(\.command) == [.release(name: x, attempt: 2, unused: .all, isExact: true, terms: .above(101))])
  }

  /// After a reconnect it stands there again, and its host still has what it had.
  @Test func thePlaceOfAWriterBehindItsOwnHostsReadersIsTakenAgainAfterAReconnect() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.acquire(bob)
    script.reply(queued(behind: ""))
    _ = script.take()
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    let again = script.sent().filter { if case .acquire = $0 { true } else { false } }
    #expect(again == [.acquire(name: x, attempt: 2, ask: 3, isTry: false, terms: .above(100), keeping: 1)])
  }

  /// The reader elsewhere came when the writer here was waiting: it gets nothing of the lease before the writer has.
  @Test func whoWaitedHereBeforeAnotherHostDidIsServedBeforeIt() {
    let script = store(cohortMilliseconds: 0)
    script.hold(alice)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    script.acquire(bob)
    script.acquire(carol)
    _ = script.take()
    script.feed(contended(1, mode: .shared))
    // Who comes now has to queue behind the other host.
    script.acquire(dave)
    #expect(script.sent() == [.acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(100), keeping: 1)])
    script.feed(.replyReceived(.only, CommandID(2), queued(behind: "")))
    for (session, next) in [(alice, bob), (bob, carol)] {
      script.pass(milliseconds: 100)
      script.release(session)
      let effects = script.take()
      #expect(effects.compactMap(\.grantedSession) == [next])
      #expect(effects.compactMap(\.command).isEmpty)
    }
    script.release(carol)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(103), terms: .above(102))])
  }

  /// The reader elsewhere came first, so that the lease is shared with it although a writer waits here meanwhile.
  @Test func aWriterHereThatCameLaterKeepsNoReadersElsewhereOut() {
    let script = store()
    script.hold(alice)
    script.feed(contended(1, mode: .shared))
    script.acquire(bob)
    #expect(script.sent().count == 1)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    #expect(script.sent() == [.downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100))])
  }

  @Test func whoHasTheExclusiveLeaseSharesItWithReadersHere() {
    let script = store()
    script.acquire(alice)
    script.acquire(bob, mode: .shared)
    script.reply(granted(100), to: CommandID(1))
    script.release(alice)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [alice, bob])
    #expect(effects.compactMap(\.command).count == 1)
  }

  @Test func anExclusiveLeaseThatIsOnlySharedHereIsSharedWithOthersWhoWait() {
    let script = store(lingerMilliseconds: 1000)
    script.hold(alice)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    #expect(script.sent().isEmpty)
    script.feed(contended(1, isTry: true, mode: .shared))
    #expect(
      script.take().compactMap(\.command) == [
        .downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100)),
        .answerInUse(name: x, ask: 9, inbox: "other/1"),
      ])
    script.reply(.failed(.transient("LOADING")), to: CommandID(2))
    script.pass(milliseconds: 100)
    #expect(script.takeSent() == [CommandID(4)])
    script.reply(.done, to: CommandID(4))
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    #expect(!script.sent().contains(.downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100))))
  }

  @Test func aLeaseThatIsSharedIsToldAgainAfterAReconnectUntilItIsConfirmed() {
    let script = store()
    script.hold(alice)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    script.feed(contended(1))
    #expect(script.sent().contains(.downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100))))
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    #expect(script.sent().contains(.downgrade(name: x, attempt: 1, tokenEnd: 110, terms: .above(100))))
  }

  @Test func whileAWriterElsewhereWaitsNewReadersStayOutAfterTheCohortsTime() {
    let script = store(cohortMilliseconds: 50)
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.feed(contended(1))
    script.acquire(bob, mode: .shared)
    #expect(script.take().compactMap(\.grantedSession) == [alice, bob])
    script.pass(milliseconds: 50)
    script.acquire(carol, mode: .shared)
    // It queues behind the writer.
    #expect(
      script.take().compactMap(\.command) == [
        .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(101), mode: .shared, keeping: 1)
      ])
    script.feed(.replyReceived(.only, CommandID(2), queued()))
    script.release(alice)
    script.release(bob)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))])
  }

  @Test func aWriterElsewhereThatGaveUpDoesNotKeepReadersOut() {
    let script = readersBesideAWriterElsewhere()
    #expect(
      script.take().compactMap(\.command).suffix(1) == [
        .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(100), mode: .shared, keeping: 1)
      ])
    // The writer has gone, so that this host has the lock twice. What it held before moves to the new lease when it is
    // known that it still had the old one then.
    script.feed(.replyReceived(.only, CommandID(2), granted(300)))
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [bob, carol])
    #expect(
      effects.compactMap(\.command) == [.renew([LeaseReference(name: x, attempt: 1)], epoch: EpochSight.ofTests.id)])
    script.feed(.replyReceived(.only, CommandID(3), .renewed([.held])))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(301))])
    for session in [alice, bob] { script.release(session) }
    #expect(script.sent().isEmpty)
    script.release(carol)
    #expect(script.sent() == [.release(name: x, attempt: 2, unused: .from(302), terms: .above(301))])
  }

  /// Somebody else can have had it in between.
  @Test func aLeaseThatWasGoneWhenItsSuccessorCameIsLost() {
    let script = readersBesideAWriterElsewhere()
    script.feed(.replyReceived(.only, CommandID(2), granted(300)))
    _ = script.take()
    script.feed(.replyReceived(.only, CommandID(3), .renewed([.lost])))
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
    script.release(bob)
    script.release(carol)
    #expect(script.sent() == [.release(name: x, attempt: 2, unused: .from(302), terms: .above(301))])
  }

  /// A renewal that was under way when the successor came proves nothing.
  @Test func aLeaseIsReplacedOnlyByARenewalThatWasSentAfterItsSuccessorCame() {
    let script = readersBesideAWriterElsewhere()
    script.pass(milliseconds: 3334)
    let renewal = script.take().compactMap { effect -> CommandID? in
      if case .send(_, let id, .renew) = effect { id } else { nil }
    }
    script.feed(.replyReceived(.only, CommandID(2), granted(300)))
    script.pass(milliseconds: 5)
    // The new one counts from its ask, so that it is due, too.
    let own = script.takeSent()
    script.feed(.replyReceived(.only, renewal[0], .renewed([.held])))
    let again = script.take()
    #expect(
      again.compactMap(\.command) == [.renew([LeaseReference(name: x, attempt: 1)], epoch: EpochSight.ofTests.id)])
    script.feed(.replyReceived(.only, own[0], .renewed([.held])))
    #expect(script.sent().isEmpty)
    script.pass(milliseconds: 5)
    script.feed(.replyReceived(.only, again.compactMap(\.commandID)[0], .renewed([.held])))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(301))])
  }

  @Test func aLostLeaseIsLostForEveryReader() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.acquire(bob, mode: .shared)
    _ = script.take()
    script.feed(.linkDown(.only))
    script.pass(milliseconds: 8500)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired, .leaseExpired])
    // Until the grace ends nobody here gets it.
    script.feed(.linkUp(.only))
    script.acquire(carol, mode: .shared)
    #expect(script.take().compactMap(\.command).isEmpty)
    script.pass(milliseconds: 1400)
    #expect(script.sent().contains { if case .acquire(_, 2, _, _, _, .shared, _, _, _) = $0 { true } else { false } })
  }

  // MARK: Tokens

  /// A reader that stays keeps the lease from being taken anew, however many others come and go.
  private func nearlyUsedUp() -> Script {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    for _ in 0..<6 {
      #expect(!script.sent().contains { if case .reserve = $0 { true } else { false } })
      script.acquire(bob, mode: .shared)
      script.release(bob)
    }
    return script
  }

  @Test func moreTokensAreReservedBeforeTheyAreUsedUp() {
    let script = nearlyUsedUp()
    #expect(script.sent() == [.reserve(name: x, attempt: 1, tokenEnd: 110, terms: .above(106))])
    for _ in 0..<3 { script.acquire(bob, mode: .shared) }
    #expect(script.take().compactMap(\.grantedToken) == [107, 108, 109])
    // There are none, and it is not known yet whether there will be.
    script.acquire(bob, mode: .shared, wait: 0)
    script.acquire(carol, mode: .shared)
    #expect(script.take().isEmpty)
    script.reply(reserved(500), to: CommandID(2))
    #expect(script.take().compactMap(\.grantedToken) == [500, 501])
    script.release(alice)
    #expect(script.sent().isEmpty)
  }

  @Test func tokensAreAskedForAgainUntilThereAreSome() {
    let script = nearlyUsedUp()
    let again = LeaseCommand.reserve(name: x, attempt: 1, tokenEnd: 110, terms: .above(106))
    #expect(script.sent() == [again])
    script.reply(.failed(.transient("OOM")), to: CommandID(2))
    script.pass(milliseconds: 100)
    #expect(script.sent() == [again])
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    #expect(script.sent().contains(again))
    // It was carried out before, and nothing is left of that block.
    script.reply(.reserved(LeaseGrant(token: 300, tokenCount: 0, othersWait: false)), to: CommandID(5))
    #expect(script.sent() == [.reserve(name: x, attempt: 1, tokenEnd: 300, terms: .above(106))])
  }

  @Test func tokensWantedForALeaseThatIsGoneShowThatItIsLost() {
    let script = nearlyUsedUp()
    _ = script.take()
    script.reply(.reserved(nil), to: CommandID(2))
    script.reply(.renewed([.lost]))
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
  }

  @Test func aLeaseIsNotSharedWithOthersWhileItsBlockChanges() {
    let script = store()
    script.hold(alice)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    for _ in 0..<6 {
      script.acquire(bob, mode: .shared)
      script.release(bob)
    }
    #expect(script.sent() == [.reserve(name: x, attempt: 1, tokenEnd: 110, terms: .above(106))])
    script.feed(contended(1, mode: .shared))
    #expect(script.sent().isEmpty)
    script.reply(reserved(500), to: CommandID(2))
    #expect(script.sent() == [.downgrade(name: x, attempt: 1, tokenEnd: 510, terms: .above(499))])
  }

  @Test func aLeaseThatVanishedIsLostForEveryReaderAtOnce() {
    let script = store()
    script.acquire(alice, mode: .shared)
    script.reply(granted(100))
    script.acquire(bob, mode: .shared)
    _ = script.take()
    script.pass(milliseconds: 3400)
    script.reply(.renewed([.lost]))
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss, .dataLoss])
  }
}
