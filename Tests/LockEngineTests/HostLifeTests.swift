import LockEngine
import LockTypes
import Testing

/// With a dead-host time others may have what this host has when it has not said for so long that it is alive: nothing here
/// is valid for longer than that, however long its lease lasts.
@Suite struct HostLifeTests {
  /// Leases of 10 s; a host is dead after 2 s, so that its life ends 1.7 s after its last sign.
  private let script = Script(
    EngineConfiguration(tier: .store) { $0.settings.deadHostMilliseconds = 2000 })

  init() { script.open(alice, bob, carol) }

  private func signs(_ script: Script) -> [LifeSign] { script.claims.map(\.lifeSign) }

  // MARK: Signs

  @Test func aSignGoesWithEachQuestionAndAnotherWhenAThirdIsOver() {
    #expect(signs(script) == [.dead(afterMilliseconds: 2000)])
    script.pass(milliseconds: 665)
    #expect(signs(script).count == 1)
    script.pass(milliseconds: 2)
    #expect(signs(script).count == 2)
    script.pass(milliseconds: 20_000)
    #expect(signs(script).count == 32)
    #expect(signs(script).allSatisfy { $0 == .dead(afterMilliseconds: 2000) })
  }

  @Test func withoutADeadHostTimeOrWithOneThatIsNoShorterThanTheLeaseThereIsNone() {
    for milliseconds: Int64 in [0, 10_000, 60_000] {
      let script = Script(
        EngineConfiguration(tier: .store) { $0.settings.deadHostMilliseconds = milliseconds })
      script.open(alice)
      script.hold(alice)
      script.pass(milliseconds: 20_000)
      #expect(signs(script).allSatisfy { $0 == .none } && !signs(script).isEmpty)
      #expect(script.engine.configuration.settings.goneMilliseconds == 10_000)
    }
    #expect(script.engine.configuration.settings.goneMilliseconds == 2000)
  }

  // MARK: The end

  @Test func aClientIsToldHowLongItsLockIsValidByTheShorterOfTheTwo() {
    script.acquire(alice)
    let ask = script.takeSent().last
    script.pass(milliseconds: 100)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 10, othersWait: false)), to: ask)
    #expect(script.take().compactMap(\.acquired).map(\.validMilliseconds) == [1600])
    #expect(script.engine.validMilliseconds(of: alice, now: script.now) == 1600)
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.validMilliseconds == 1600)
  }

  @Test func nobodyIsGivenALockThatIsValidForNoMillisecond() {
    script.hold(alice)
    script.acquire(bob)
    _ = script.take()
    script.epoch = nil
    let end = script.now.adding(milliseconds: 1700)
    script.pass(milliseconds: 1699)
    script.now = BootInstant(nanoseconds: end.nanoseconds - 1)
    script.release(alice)
    #expect(script.take().compactMap(\.acquired).isEmpty)
  }

  @Test func everythingIsLostWhenNoSignIsAnswered() {
    script.hold(alice)
    script.hold(bob, "y", token: 200)
    _ = script.take()
    script.epoch = nil
    let start = script.now
    script.pass(milliseconds: 1699)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
    script.pass(milliseconds: 1)
    let lost = script.take().compactMap(\.lost)
    #expect(lost.map(\.reason) == [.leaseExpired, .leaseExpired])
    // The grace ends with the life, long before the leases.
    #expect(lost.map(\.graceMilliseconds) == [280, 280])
    #expect(script.now == start.adding(milliseconds: 1700))
    #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.holdersTotal == 0)
  }

  @Test func aHostThatSleptTellsOfTheLossFirst() {
    script.hold(alice)
    _ = script.take()
    script.jump(milliseconds: 1700)
    script.acquire(alice, wait: 0)
    let effects = script.take()
    #expect(effects.first?.lost?.reason == .leaseExpired)
    #expect(effects.compactMap(\.acquired).isEmpty)
  }

  /// The store may have executed the sign before others took the host for dead, or after.
  @Test func anAnswerThatComesTooLateGivesNothingBackAndGrantsNothing() {
    script.hold(alice)
    script.epoch = nil
    script.pass(milliseconds: 667)
    #expect(script.isAskingForEpoch)
    script.pass(milliseconds: 1100)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
    // Its answer is from within the life that this sign begins.
    script.answer(.epoch(.ofTests))
    script.acquire(bob, "y")
    #expect(acquires(script.sent()).map(\.name) == [LockName("y")])
    script.pass(milliseconds: 650)
    // And this one's is not: what is asked for waits for the next.
    #expect(script.isAskingForEpoch)
    script.pass(milliseconds: 3000)
    script.acquire(carol, "z")
    #expect(acquires(script.sent()).isEmpty)
    script.answer(.epoch(.ofTests))
    #expect(acquires(script.sent()).isEmpty && script.isAskingForEpoch)
    script.answer(.epoch(.ofTests))
    #expect(Set(acquires(script.sent()).map(\.name)) == [LockName("y"), LockName("z")])
  }

  @Test func whatWasLostIsGivenBackAndNothingIsRenewed() {
    script.hold(alice)
    script.epoch = nil
    script.pass(milliseconds: 1700)
    _ = script.take()
    script.pass(milliseconds: 300)
    script.epoch = .ofTests
    script.answer(.epoch(.ofTests))
    let commands = script.sent()
    #expect(commands.contains { if case .release(x, attempt: 1, _, _, _) = $0 { true } else { false } })
    #expect(!commands.contains { if case .renew = $0 { true } else { false } })
  }

  @Test func aTryIsUnavailableWhileTheHostCountsAsDead() {
    script.hold(alice)
    script.epoch = nil
    script.pass(milliseconds: 1700)
    _ = script.take()
    script.acquire(bob, "y", wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.unavailable(nil)])
  }

  /// Very many leases end in slices; one that is asked about ends first.
  @Test func veryManyAreLostInTheirTurns() {
    let script = Script(
      EngineConfiguration(tier: .store) {
        $0.settings.deadHostMilliseconds = 2000
        $0.stepsPerSlice = 2
      })
    script.open(alice, bob)
    for number in 0..<20 { script.hold(alice, "n\(number)", token: 100 + 100 * Token(number)) }
    _ = script.take()
    script.epoch = nil
    script.jump(milliseconds: 1700)
    script.acquire(bob, "n19", wait: 0)
    let first = script.take()
    #expect(first.compactMap(\.lost).contains { $0.name == LockName("n19") })
    #expect(first.compactMap(\.lost).count < 20)
    script.pass(milliseconds: 0)
    #expect(first.compactMap(\.lost).count + script.take().compactMap(\.lost).count == 20)
  }

  /// With pauses that grow to a second, a life of two would end before Redis is asked again.
  @Test func aSignThatIsRefusedIsSentAgainBeforeTheLifeEnds() {
    script.hold(alice)
    script.epoch = nil
    script.pass(milliseconds: 700)
    var tries = 0
    let end = script.now.adding(milliseconds: 900)
    while script.now < end {
      if script.isAskingForEpoch {
        tries += 1
        script.answer(.failed(.transient("OOM")))
      }
      script.pass(milliseconds: 10)
    }
    #expect(tries >= 8 && script.take().compactMap(\.lostReason).isEmpty)
    script.epoch = .ofTests
    script.pass(milliseconds: 5_000)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
  }

  // MARK: Changes

  @Test func itIsTurnedOnWhileLocksAreHeld() {
    let script = Script()
    script.open(alice)
    script.hold(alice)
    script.epoch = nil
    script.reconfigure { $0.deadHostMilliseconds = 2000 }
    #expect(script.claims.last?.lifeSign == .dead(afterMilliseconds: 2000))
    // The sign may have been executed.
    script.pass(milliseconds: 1700)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  @Test func turnedOffItHoldsUntilTheStoreKnows() {
    script.hold(alice)
    script.epoch = nil
    script.reconfigure { $0.deadHostMilliseconds = 0 }
    #expect(script.claims.last?.lifeSign == .never)
    script.pass(milliseconds: 1600)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
    script.answer(.epoch(.ofTests))
    script.pass(milliseconds: 1700)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
    #expect((script.engine.validMilliseconds(of: alice, now: script.now) ?? 0) > 1700)
    script.epoch = .ofTests
    script.connectAgain(.ofTests)
    #expect(script.claims.last?.lifeSign == LifeSign.none)
  }

  /// What stood in the store before may have been deleted, or have been "never".
  @Test(arguments: [false, true]) func aShorterTimeIsInForceFromTheSendingOfItsSign(_ isTurnedOffBetween: Bool) {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.deadHostMilliseconds = 6000 })
    script.open(alice)
    script.hold(alice)
    _ = script.take()
    script.epoch = nil
    if isTurnedOffBetween {
      script.reconfigure { $0.deadHostMilliseconds = 0 }
      #expect(script.claims.last?.lifeSign == .never)
      // It was executed, but the answer is lost.
      script.feed(.linkDown(.only))
    }
    script.reconfigure { $0.deadHostMilliseconds = 2000 }
    if isTurnedOffBetween { script.feed(.linkUp(.only)) }
    #expect(script.claims.last?.lifeSign == .dead(afterMilliseconds: 2000))
    script.pass(milliseconds: 1699)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  /// Without another sign others would wait for the end of the leases, should this host be gone.
  @Test func whatChangesWhileASignIsUnderWayIsSaidAtOnceBehindIt() {
    let script = Script(linkUp: false)
    script.open(alice)
    script.epoch = nil
    script.feed(.linkUp(.only))
    #expect(script.isAskingForEpoch)
    script.reconfigure { $0.deadHostMilliseconds = 2000 }
    script.answer(.epoch(.ofTests))
    #expect(script.claims.last?.lifeSign == .dead(afterMilliseconds: 2000))
    script.reconfigure { $0.deadHostMilliseconds = 0 }
    script.answer(.epoch(.ofTests))
    #expect(script.claims.last?.lifeSign == .never)
    script.reconfigure { $0.deadHostMilliseconds = 2000 }
    script.answer(.epoch(.ofTests))
    #expect(script.claims.last?.lifeSign == .dead(afterMilliseconds: 2000))
  }

  /// The link has gone down, and the turns for that are not over when the life ends.
  @Test func theGraceIsThatOfTheLifeAlsoDuringAnotherWalk() {
    let script = Script(
      EngineConfiguration(tier: .store) {
        $0.settings.deadHostMilliseconds = 2000
        $0.stepsPerSlice = 2
      })
    script.open(alice)
    for number in 0..<20 { script.hold(alice, "n\(number)", token: 100 + 100 * Token(number)) }
    script.pass(milliseconds: 0)
    _ = script.take()
    script.epoch = nil
    let end = script.now.adding(milliseconds: 1700)
    script.jump(milliseconds: 1699)
    script.feed(.linkDown(.only))
    script.jump(milliseconds: 1)
    script.acquire(alice, "other", wait: 0)
    script.pass(milliseconds: 0)
    #expect(script.now == end)
    #expect(script.take().compactMap(\.lost).map(\.graceMilliseconds) == Array(repeating: 280, count: 20))
  }
}

extension Effect {
  fileprivate var lost: (name: LockName, reason: LostReason, graceMilliseconds: Int64)? {
    guard case .notify(_, .lost(let name, _, let reason, let grace, _, _)) = self else { return nil }
    return (name, reason, grace)
  }

  fileprivate var acquired: Acquired? {
    if case .reply(_, _, .acquired(let lock)) = self { lock } else { nil }
  }
}
