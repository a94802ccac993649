import LockEngine
import LockTypes
import Testing

/// Another host waits for what this one has.
@Suite struct ContendedLeaseTests {
  let script = Script()

  func contended(isTry: Bool = false, ask: UInt64 = 9, attempt: UInt64 = 1) -> Event {
    .pushReceived(.only, .contended(name: x, attempt: attempt, ask: ask, isTry: isTry, inbox: "other/1"))
  }

  /// With other bounds of a cohort.
  private static func script(cohortMax: Int, milliseconds: Int64) -> Script {
    Script(
      EngineConfiguration(tier: .store) {
        $0.settings.cohortMax = cohortMax
        $0.settings.cohortMilliseconds = milliseconds
      })
  }

  @Test func aTryOfAnotherHostIsToldThatTheLockIsInUse() {
    script.open(alice)
    script.hold(alice)
    script.feed(contended(isTry: true))
    #expect(script.sent() == [.answerInUse(name: x, ask: 9, inbox: "other/1")])
    script.feed(contended())
    #expect(script.sent().isEmpty)
  }

  // Pitfall 37.
  @Test func handOversEndWithTheirNumberOrTheirTime() {
    let script = Self.script(cohortMax: 2, milliseconds: 50)
    script.open(alice, bob)
    script.hold(alice)
    script.feed(contended())
    let ask = LeaseCommand.acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(100), keeping: 1)
    // When there are no more hand-overs, whoever comes next comes behind all who wait anywhere.
    let leave = LeaseCommand.release(name: x, attempt: 2, unused: .all, isExact: true, terms: .above(102))
    for (next, commands) in [(bob, [ask]), (alice, [leave])] {
      script.acquire(next)
      script.release(next == bob ? alice : bob)
      let effects = script.take()
      #expect(effects.compactMap(\.grantedSession) == [next])
      // It stands in the queue from the first wait on that may have to come behind the other host.
      #expect(effects.compactMap(\.command) == commands)
    }
    script.acquire(bob)
    script.release(alice)
    #expect(
      script.sent() == [
        .acquire(name: x, attempt: 3, ask: 3, isTry: false, terms: .above(102), keeping: 1),
        .release(name: x, attempt: 1, unused: .from(103), terms: .above(102)),
      ])
    let slow = Self.script(cohortMax: 100, milliseconds: 50)
    slow.open(alice, bob)
    slow.hold(alice)
    slow.feed(contended())
    slow.acquire(bob)
    slow.pass(milliseconds: 50)
    #expect(slow.sent().count == 1)
    slow.release(alice)
    #expect(slow.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
  }

  /// As long as a hand-over to another host asks: 40 round trips to the store, and no longer than the setting.
  @Test(arguments: [(0, 50), (400, 16), (5_000, 50)])
  func aCohortLastsAsLongAsAHandOverAsks(tripMicroseconds: Int64, endsAfter milliseconds: Int64) {
    for (passed, isOver) in [(milliseconds - 2, false), (milliseconds, true)] {
      let script = Self.script(cohortMax: 100, milliseconds: 50)
      func answer(_ reply: LeaseReply) {
        script.now = BootInstant(nanoseconds: script.now.nanoseconds + tripMicroseconds * 1000)
        script.reply(reply)
        _ = script.take()
      }
      script.open(alice, bob)
      for round in 1...50 {
        script.acquire(alice)
        // One answer that takes long says nothing of a hand-over.
        if round == 49 { script.jump(milliseconds: 30) }
        answer(.granted(LeaseGrant(token: Token(100 * round), tokenCount: 10, othersWait: false)))
        guard round < 50 else { break }
        script.release(alice)
        answer(.done)
      }
      script.feed(contended(attempt: 50))
      script.jump(milliseconds: passed)
      script.acquire(bob)
      script.release(alice)
      #expect(script.take().compactMap(\.grantedSession).isEmpty == isOver)
    }
  }

  /// Only while clients here may have the lock from each other.
  @Test func aPlaceInTheQueueThatNobodyNeedsIsNotKeptLong() {
    let script = Self.script(cohortMax: 100, milliseconds: 50)
    script.open(alice, bob)
    script.hold(alice)
    script.feed(contended())
    let wait = script.acquire(bob)
    script.cancel(bob, wait)
    #expect(script.sent().count == 1)
    script.pass(milliseconds: 49)
    #expect(script.sent().isEmpty)
    script.pass(milliseconds: 1)
    let leave = LeaseCommand.release(name: x, attempt: 2, unused: .all, isExact: true, terms: .above(100))
    #expect(script.sent() == [leave])
    // Later there is nothing to wait for.
    script.cancel(bob, script.acquire(bob))
    #expect(script.sent().suffix(1) == [.release(name: x, attempt: 3, unused: .all, isExact: true, terms: .above(100))])
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
  }

  /// The host would be taken to stand in the queue, and whoever comes next would sleep beside a free lock.
  @Test func aKeptPlaceThatTheStoreRefusedIsAskedForAgain() {
    let script = Self.script(cohortMax: 100, milliseconds: 10_000)
    script.open(alice, bob)
    script.hold(alice)
    script.feed(contended())
    let wait = script.acquire(bob)
    let ask = script.takeSent().last
    script.cancel(bob, wait)
    script.reply(.failed(.transient("OOM")), to: ask)
    #expect(script.sent().isEmpty)
    script.acquire(bob)
    script.pass(milliseconds: 1000)
    #expect(
      script.sent().first { if case .acquire = $0 { true } else { false } }
        == .acquire(name: x, attempt: 2, ask: 3, isTry: false, terms: .above(100), keeping: 1))
  }

  @Test func aLeaseThatCameWithOthersWaitingIsUsedOnceAtLeast() {
    let script = Self.script(cohortMax: 0, milliseconds: 0)
    script.open(alice, bob)
    script.acquire(alice)
    script.acquire(bob)
    script.reply(granted(5, othersWait: true), to: script.takeSent().first)
    #expect(script.take().compactMap(\.grantedSession) == [alice])
    script.release(alice)
    #expect(script.sent().first == .release(name: x, attempt: 1, unused: .from(6), terms: .above(5)))
  }

  @Test func aLeaseLingersOnlyWhenTheHostComesBackToIt() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 200 })
    func state() -> LeaseState? {
      script.engine.snapshot(of: x, waitersMax: 1, now: script.now)?.leaseState
    }
    script.open(alice)
    script.hold(alice, token: 100)
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), terms: .above(100))])
    // Too late to count as coming back.
    script.pass(milliseconds: 200)
    script.hold(alice, token: 200)
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 2, unused: .from(201), terms: .above(200))])
    script.pass(milliseconds: 199)
    script.hold(alice, token: 300)
    script.release(alice)
    #expect(script.sent().isEmpty)
    #expect(state() == .idle)
    script.acquire(alice)
    #expect(script.take().compactMap(\.grantedToken) == [301])
    script.release(alice)
    script.pass(milliseconds: 199)
    #expect(script.sent().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.sent() == [.release(name: x, attempt: 3, unused: .from(302), terms: .above(301))])
  }

  @Test func newLimitsCountFromTheNextDecisionOn() {
    let script = Self.script(cohortMax: 100, milliseconds: 50)
    script.open(alice, bob)
    script.hold(alice)
    script.feed(contended())
    script.acquire(bob)
    script.reconfigure {
      $0.lingerMilliseconds = 200
      $0.cohortMax = 0
    }
    script.release(alice)
    #expect(script.sent().last == .release(name: x, attempt: 1, unused: .from(101), terms: .above(100)))

    let lingering = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 0 })
    lingering.open(alice, bob)
    lingering.reconfigure { $0.lingerMilliseconds = 200 }
    lingering.hold(alice)
    lingering.acquire(bob)
    lingering.release(alice)
    lingering.reconfigure { $0.lingerMilliseconds = 300 }
    lingering.release(bob)
    #expect(lingering.sent().isEmpty)
    // What lingers already keeps its end.
    lingering.reconfigure { $0.lingerMilliseconds = 0 }
    lingering.pass(milliseconds: 299)
    #expect(lingering.sent().isEmpty)
    lingering.pass(milliseconds: 1)
    #expect(lingering.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))])
  }

  @Test func anIdleLeaseIsRevokedAtOnce() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 200 })
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.release(alice)
    script.release(bob)
    #expect(script.sent().isEmpty)
    script.feed(contended(isTry: true))
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))])
  }

  /// Two hosts that use a lock by turns would have to ask each other for it each time.
  @Test func whatAnotherHostWantedWhileItLingeredGoesBackAtOnceForAWhile() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.lingerMilliseconds = 200 })
    script.open(alice, bob)
    func use(token: Token) -> [LeaseCommand] {
      script.hold(alice, token: token)
      script.acquire(bob)
      script.release(alice)
      script.release(bob)
      return script.sent()
    }
    #expect(use(token: 100).isEmpty)
    script.feed(contended())
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))])
    #expect(use(token: 200) == [.release(name: x, attempt: 2, unused: .from(202), terms: .above(201))])
    script.pass(milliseconds: 1_999)
    #expect(use(token: 300) == [.release(name: x, attempt: 3, unused: .from(302), terms: .above(301))])
    script.pass(milliseconds: 1)
    #expect(use(token: 400).isEmpty)
    // One that was in use when another host came does not count.
    script.acquire(alice)
    script.feed(contended(attempt: 4))
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 4, unused: .from(403), terms: .above(402))])
    #expect(use(token: 500).isEmpty)
  }
}
