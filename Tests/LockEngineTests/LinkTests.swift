import LockEngine
import LockTypes
import Testing

@Suite struct LinkTests {
  let script = Script()

  // Pitfalls 2 and 4: after a cut everything is asked for again, under the same attempt.
  @Test func afterAReconnectWaitsAreAskedForAgainUnderTheSameAttempt() {
    script.open(alice)
    script.acquire(alice)
    _ = script.take()
    script.feed(.linkDown(.only))
    #expect(script.take().isEmpty)
    script.feed(.linkUp(.only))
    #expect(script.sent() == [.acquire(name: x, attempt: 1, ask: 2, isTry: false, terms: .above(0))])
    script.reply(granted(3), to: CommandID(2))
    #expect(script.take().compactMap(\.grantedToken) == [3])
  }

  // Pitfall 28: a hold is compared first, never simply resumed.
  @Test func afterAReconnectHoldsAreCheckedFirst() {
    script.open(alice)
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    let ids = script.takeSent()
    #expect(ids.count == 1)
    script.reply(.renewed([.lost]), to: ids.first)
    #expect(script.take().compactMap(\.lostReason) == [.dataLoss])
  }

  @Test func afterAReconnectNothingIsHandedOverBeforeTheStoreHasConfirmedTheLease() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    let renewal = script.takeSent().first
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.reply(.renewed([.held]), to: renewal)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func aWaiterForALeaseInDoubtIsAskedForAgainAfterTheNextCut() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.release(alice)
    script.feed(.linkDown(.only))
    _ = script.take()
    script.feed(.linkUp(.only))
    #expect(
      script.sent() == [
        .release(name: x, attempt: 1, unused: .from(101), terms: .above(100)),
        .acquire(name: x, attempt: 2, ask: 3, isTry: false, terms: .above(100)),
      ])
  }

  @Test func anIdleLeaseIsGivenUpWithTheLink() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 1000 })
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.release(alice)
    script.release(bob)
    #expect(script.sent().isEmpty)
    script.feed(.linkDown(.only))
    script.acquire(alice)
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    script.feed(.linkUp(.only))
    #expect(
      script.sent() == [
        .release(name: x, attempt: 1, unused: .from(102), terms: .above(101)),
        .acquire(name: x, attempt: 2, ask: 3, isTry: false, terms: .above(101)),
      ])
  }

  @Test func holdsStayValidWithoutTheLinkUntilTheirLeaseEnds() {
    script.open(alice, bob)
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.acquire(bob)
    script.pass(milliseconds: 5000)
    script.release(alice)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.validMilliseconds == 3500)
    script.pass(milliseconds: 3499)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  // Pitfall 5: an acquire of unknown outcome is given back when nobody wants it any more.
  @Test func aWaiterThatLeavesDuringAnOutageLeavesNothingBehind() {
    script.open(alice)
    let wait = script.acquire(alice)
    script.feed(.linkDown(.only))
    script.cancel(alice, wait)
    _ = script.take()
    script.feed(.linkUp(.only))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .all, terms: .above(0))])
  }

  @Test func aReleaseOfUnknownOutcomeIsRepeated() {
    script.open(alice)
    script.hold(alice)
    script.release(alice)
    _ = script.take()
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
    script.reply(.done, to: CommandID(3))
    #expect(script.engine.gauges.locks == 0)
  }

  @Test func aReleaseThatTheStoreRefusesIsRepeated() {
    script.open(alice)
    script.hold(alice)
    script.release(alice)
    script.reply(.failed(.transient("MISCONF")), to: script.takeSent().first)
    script.pass(milliseconds: 100)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
  }

  @Test func whatTheStoreRefusesIsAskedForAgainLessAndLessOften() {
    script.open(alice)
    script.acquire(alice)
    // Beside the asks there are heartbeats.
    func ask() -> CommandID? {
      for case .send(_, let id, .acquire) in script.take() { return id }
      return nil
    }
    for delay: Int64 in [100, 100, 200, 400, 800, 1000, 1000] {
      script.reply(.failed(.transient("NOPERM")), to: ask())
      script.pass(milliseconds: delay - 1)
      #expect(ask() == nil)
      script.pass(milliseconds: 1)
    }
    script.reply(.foreign(expiresInMilliseconds: nil), to: ask())
    script.pass(milliseconds: 100)
    script.reply(.failed(.transient("NOPERM")), to: ask())
    script.pass(milliseconds: 100)
    script.reply(granted(7), to: ask())
    #expect(script.take().compactMap(\.grantedToken) == [7])
  }

  @Test func aReleaseThatTheStoreRefusesForLongIsRepeatedLessAndLessOften() {
    script.open(alice)
    script.hold(alice)
    script.release(alice)
    for delay: Int64 in [100, 100, 200, 400, 800, 1000, 1000] {
      script.reply(.failed(.transient("NOPERM")), to: script.takeSent().first)
      script.pass(milliseconds: delay - 1)
      #expect(script.takeSent().isEmpty)
      script.pass(milliseconds: 1)
    }
    script.reply(.done, to: script.takeSent().first)
    #expect(script.engine.gauges.locks == 0)
  }

  @Test func aTryBehindAWaitThatTheStoreRefusesIsToldTheWords() {
    script.open(alice, bob)
    script.acquire(alice)
    script.reply(.failed(.transient("NOPERM")), to: script.takeSent().first)
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("NOPERM")])
    script.acquire(bob, all: ["x", "y"], wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("NOPERM")])
  }

  @Test func aTryThatWaitsForARenewalIsToldTheWordsInWhichThatIsRefused() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 60_000 })
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.release(alice)
    script.release(bob)
    script.pass(milliseconds: 3333)
    let renewal = script.takeSent().first
    script.pass(milliseconds: 4400)
    script.acquire(bob, wait: 0)
    #expect(script.take().compactMap(\.refusal).isEmpty)
    script.reply(.failed(.transient("NOPERM")), to: renewal)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("NOPERM")])
  }

  @Test(arguments: [LeaseReply.renewed([.held]), .seen(LeaseSight(holders: [], waiting: []))])
  func aReplyOfTheWrongKindMayPass(_ reply: LeaseReply) {
    script.open(alice)
    script.acquire(alice)
    script.reply(reply, to: script.takeSent().first)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 100)
    script.reply(granted(7), to: script.takeSent().first)
    #expect(script.take().compactMap(\.grantedToken) == [7])
  }

  // Pitfall 41: without the store every request is answered at its own deadline.
  @Test func withoutTheLinkTriesFailAndWaitsEndAtTheirDeadline() {
    let script = Script(linkUp: false)
    script.open(alice, bob)
    script.acquire(alice, wait: 0)
    #expect(script.take().map(\.refusal) == [.unavailable(nil)])
    script.acquire(bob, wait: 70)
    script.pass(milliseconds: 69)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().map(\.refusal) == [.unavailable(nil)])
    #expect(script.engine.gauges.locks == 0)
    #expect(script.engine.nextDeadline == nil)
  }

  /// Nobody knows that somebody else has the lock.
  @Test func aWaitThatEndsBeforeTheStoreAnswersOnANewLinkIsUnavailable() {
    script.open(alice, bob)
    script.acquire(alice, wait: 500)
    let ask = script.takeSent().last
    script.reply(.queued(holderHost: "other", holderExpiresInMilliseconds: 10_000, listeners: 0), to: ask)
    script.feed(.linkDown(.only))
    script.pass(milliseconds: 499)
    script.acquire(bob, "y", wait: 1)
    script.feed(.linkUp(.only))
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.refusal) == [.unavailable(nil), .unavailable(nil)])
  }

  /// A connection that is made anew says nothing about what was refused on the one before.
  @Test func aWaitThatWasRefusedBeforeTheLinkWentIsToldTheWords() {
    script.open(alice)
    script.acquire(alice, wait: 500)
    script.reply(.failed(.transient("NOAUTH")), to: script.takeSent().first)
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.pass(milliseconds: 500)
    #expect(script.take().compactMap(\.refusal) == [.unavailable("NOAUTH")])
  }

  @Test func aTryWhoseReplyDoesNotComeIsUnavailable() {
    script.open(alice)
    script.acquire(alice, wait: 0)
    _ = script.take()
    script.pass(milliseconds: 1999)
    #expect(!script.take().contains { $0.refusal != nil })
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.refusal) == [.unavailable(nil)])
  }

  @Test func withoutTheLinkNoTimerRunsForRenewals() {
    script.open(alice)
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.pass(milliseconds: 3400)
    let next = script.engine.nextDeadline
    #expect(next.map { $0 > script.now } == true)
  }

  @Test func aGrantPushedBeforeAnyReplyOfThisConnectionIsLeftToTheAskThatFollows() {
    script.open(alice)
    script.acquire(alice)
    script.reply(queued(), to: script.takeSent().first)
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    let ask = script.takeSent().first
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take().isEmpty)
    script.reply(granted(7), to: ask)
    #expect(script.take().compactMap(\.grantedToken) == [7])
  }

  @Test func shutdownWaitsForTheStoreToConfirm() {
    script.open(alice)
    script.hold(alice)
    script.feed(.shutdownRequested)
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.shutdown])
    #expect(!effects.contains(.shutdownCompleted))
    script.reply(.done, to: CommandID(2))
    #expect(script.take() == [.shutdownCompleted])
  }

  @Test func shutdownDoesNotWaitForAStoreThatIsGone() {
    script.open(alice)
    script.hold(alice)
    script.feed(.linkDown(.only))
    script.feed(.shutdownRequested)
    #expect(script.take().last == .shutdownCompleted)
  }

  @Test func aThousandCyclesLeaveNothingBehind() {
    script.open(alice)
    for index in 0..<1000 {
      script.acquire(alice, "n\(index)", wait: 60_000)
      script.reply(granted(Token(index + 1)), to: script.takeSent().first)
      _ = script.take()
      script.release(alice, "n\(index)")
      script.reply(.done, to: script.takeSent().first)
    }
    #expect(script.engine.gauges == EngineGauges(sessions: 1, held: 0, waiting: 0, locks: 0, commandsInFlight: 0))
  }
}
