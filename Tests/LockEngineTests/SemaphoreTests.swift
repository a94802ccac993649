import LockEngine
import LockTypes
import Testing

/// Counting semaphores, on one host and against the store.
@Suite struct SemaphoreTests {
  private let two = HoldMode.permit(of: 2)

  private func local() -> Script {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)
    script.open(alice, bob, carol, dave)
    return script
  }

  private func store() -> Script {
    let script = Script(EngineConfiguration(tier: .store, inbox: "me/1"))
    script.open(alice, bob, carol, dave)
    return script
  }

  private func attempts(_ commands: [LeaseCommand]) -> [UInt64] {
    commands.compactMap { if case .acquire(_, let attempt, _, _, _, _, _, _, _) = $0 { attempt } else { nil } }
  }

  // MARK: On one host

  @Test func asManyHoldAsThereArePermits() {
    let script = local()
    for session in [alice, bob, carol, dave] { script.acquire(session, mode: two) }
    #expect(script.take().compactMap(\.grantedSession) == [alice, bob])
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    script.feed(.sessionClosed(alice))
    #expect(script.take().compactMap(\.grantedSession) == [dave])
  }

  @Test func oneSessionMayHaveSeveralPermits() {
    let script = local()
    script.acquire(alice, mode: two)
    script.acquire(alice, mode: two)
    script.acquire(bob, mode: two, wait: 0)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [1000, 1001])
    #expect(effects.compactMap(\.refusal).count == 1)
  }

  @Test(arguments: [HoldMode.exclusive, .shared, .permit(of: 3)])
  func aNameThatIsInUseAsSomethingElseIsAConflict(_ mode: HoldMode) {
    let script = local()
    script.acquire(alice, mode: two)
    script.acquire(bob, mode: mode)
    script.acquire(bob, mode: mode, wait: 0)
    #expect(script.take().compactMap(\.conflict) == [two, two])
    script.release(alice)
    script.acquire(bob, mode: mode)
    #expect(script.take().last?.grantedSession == bob)
    script.acquire(alice, mode: two)
    #expect(script.take().last?.conflict == mode)
  }

  @Test func aPermitIsNotDowngraded() {
    let script = local()
    script.acquire(alice, mode: two)
    script.feed(.downgradeRequested(alice, script.newRequest(), name: x, token: nil))
    #expect(script.take().last?.conflict == two)
  }

  // MARK: With the store

  @Test func eachPermitIsALeaseOfItsOwnAndOneIsAskedForAtATime() {
    let script = store()
    for session in [alice, bob, carol] { script.acquire(session, mode: two) }
    #expect(attempts(script.sent()) == [1])
    script.feed(.replyReceived(.only, CommandID(1), granted(100)))
    var effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [100])
    #expect(attempts(effects.compactMap(\.command)) == [2])
    script.feed(.replyReceived(.only, CommandID(2), granted(500)))
    effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [500])
    // This host has all there are: carol waits for one of its own.
    #expect(effects.compactMap(\.command).isEmpty)
    script.release(alice)
    #expect(script.take().compactMap(\.grantedToken) == [101])
  }

  @Test func aPermitThatNobodyHereWantsGoesBackByItself() {
    let script = store()
    for session in [alice, bob] { script.acquire(session, mode: two) }
    script.feed(.replyReceived(.only, CommandID(1), granted(100)))
    script.feed(.replyReceived(.only, CommandID(2), granted(500)))
    _ = script.take()
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), isExact: true, terms: .above(500))])
    script.release(bob)
    #expect(script.sent() == [.release(name: x, attempt: 2, unused: .from(501), isExact: true, terms: .above(500))])
    script.feed(.replyReceived(.only, CommandID(3), .done))
    script.feed(.replyReceived(.only, CommandID(4), .done))
    #expect(script.engine.gauges.locks == 0)
  }

  @Test func aPermitWhoseLeaseIsLostTakesOnlyItsOwnHoldWithIt() {
    let script = store()
    for session in [alice, bob] { script.acquire(session, mode: two) }
    script.feed(.replyReceived(.only, CommandID(1), granted(100)))
    script.feed(.replyReceived(.only, CommandID(2), granted(500)))
    _ = script.take()
    script.pass(milliseconds: 3400)
    script.reply(.renewed([.held, .lost]))
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.dataLoss])
    #expect(
      effects.contains(.notify(bob, .lost(name: x, token: 500, reason: .dataLoss, graceMilliseconds: 0))))
    script.release(alice)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(101), isExact: true, terms: .above(500))])
  }

  @Test func aTryIsBusyOnlyWhenEveryHolderHasSaidThatItUsesItsPermit() {
    let script = store()
    script.acquire(alice, mode: .permit(of: 3), wait: 0)
    script.reply(.queued(holderHost: "b", holderExpiresInMilliseconds: 9000, listeners: 3))
    _ = script.take()
    for _ in 0..<2 {
      script.feed(.pushReceived(.only, .inUse(name: x, ask: 1)))
      #expect(script.take().isEmpty)
    }
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 1)))
    let effects = script.take()
    #expect(effects.first?.refusal == .busy(.host("b"), of: x))
    #expect(effects.last?.command == .release(name: x, attempt: 1, unused: .all, isExact: true, terms: .above(0)))
  }

  @Test func aTryIsNotBusyBecauseOfAPermitThatThisHostHasGivenBack() {
    let script = store()
    script.acquire(alice, mode: .permit(of: 1))
    script.reply(granted(100))
    script.release(alice)
    script.acquire(bob, mode: .permit(of: 1), wait: 0)
    _ = script.take()
    // The release had to be sent again, and the ask was executed before it.
    script.feed(
      .replyReceived(.only, CommandID(3), .queued(holderHost: "me", holderExpiresInMilliseconds: 9000, listeners: 0)))
    #expect(script.take().compactMap(\.refusal).isEmpty)
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 2, LeaseGrant(token: 500, tokenCount: 10, othersWait: false))))
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func aConflictElsewhereRefusesThoseWhomItConcerns() {
    let script = store()
    script.acquire(alice, mode: two)
    script.acquire(bob, mode: .permit(of: 3))
    script.feed(.replyReceived(.only, CommandID(1), .conflict(.permit(of: 3), listeners: 0)))
    let effects = script.take()
    #expect(effects.compactMap(\.conflict) == [.permit(of: 3)])
    #expect(
      effects.compactMap(\.command).last
        == .acquire(name: x, attempt: 2, ask: 2, isTry: false, terms: .above(0), mode: .permit(of: 3)))
  }

  @Test func aConflictWithWhatNobodyUsesIsNone() {
    let script = store()
    script.acquire(alice, mode: two)
    script.feed(.replyReceived(.only, CommandID(1), .conflict(.exclusive, listeners: 1)))
    #expect(script.take().compactMap(\.refusal).isEmpty)
    script.feed(
      .pushReceived(
        .only,
        .granted(name: x, attempt: 1, LeaseGrant(token: 100, tokenCount: 10, othersWait: false))))
    script.pass(milliseconds: 600)
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }

  @Test(arguments: [true, false])
  func aConflictIsToldWhenAHolderSaysThatItUsesItOrSaysNothing(_ isSaid: Bool) {
    let script = store()
    script.reconfigure { $0.storeTimeoutMilliseconds = 500 }
    script.acquire(alice, mode: two)
    script.feed(.replyReceived(.only, CommandID(1), .conflict(.exclusive, listeners: 1)))
    _ = script.take()
    if isSaid { script.feed(.pushReceived(.only, .inUse(name: x, ask: 1))) } else { script.pass(milliseconds: 500) }
    let effects = script.take()
    #expect(effects.compactMap(\.conflict) == [.exclusive])
    #expect(effects.last?.command == .release(name: x, attempt: 1, unused: .all, isExact: true, terms: .above(0)))
  }

  @Test func aConflictOfAModeWithItselfEndsTheWaitAndNotTheDaemon() {
    let script = store()
    script.acquire(alice, mode: two)
    script.feed(.replyReceived(.only, CommandID(1), .conflict(two, listeners: 0)))
    #expect(script.take().compactMap(\.refusal).count == 1)
  }

  @Test func contentionSpendsThePermitThatItNamesAndNoOther() {
    let script = store()
    for session in [alice, bob, carol, dave] { script.acquire(session, mode: two) }
    script.feed(.replyReceived(.only, CommandID(1), granted(100)))
    script.feed(.replyReceived(.only, CommandID(2), granted(500)))
    _ = script.take()
    script.feed(
      .pushReceived(.only, .contended(name: x, attempt: 1, ask: 9, isTry: false, inbox: "other/1", mode: two)))
    // Those who waited before the other host did come first; who comes later queues behind it.
    script.acquire(alice, mode: two)
    #expect(script.sent() == [.acquire(name: x, attempt: 3, ask: 3, isTry: false, terms: .above(500), mode: two)])
    script.feed(.replyReceived(.only, CommandID(3), queued()))
    script.pass(milliseconds: EngineSettings().cohortMilliseconds)
    script.release(alice)
    var effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [carol])
    #expect(effects.compactMap(\.command).isEmpty)
    script.release(bob)
    #expect(script.take().compactMap(\.grantedToken) == [501])
    // Another host waits, and its time has come: this permit goes back.
    script.release(carol)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), isExact: true, terms: .above(501))])
    // The one that nobody else waits for passes on here, and with it nobody waits here.
    script.release(dave)
    effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [502])
    #expect(
      effects.compactMap(\.command) == [.release(name: x, attempt: 3, unused: .all, isExact: true, terms: .above(502))])
  }

  @Test func oneHostHoldsSoManyPermitsAtATime() {
    let script = Script(
      EngineConfiguration(tier: .local(firstToken: 1)) { $0.settings.waitsPerSessionMax = 2000 }, linkUp: false)
    script.open(alice)
    for _ in 0..<257 { script.acquire(alice, mode: .permit(of: 1_000_000)) }
    #expect(script.take().count == 256)
    script.acquire(alice, mode: .permit(of: 1_000_000), wait: 0)
    #expect(script.take().compactMap(\.refusal).count == 1)
    script.release(alice, token: 5)
    #expect(script.take().compactMap(\.grantedSession) == [alice])
  }
}
