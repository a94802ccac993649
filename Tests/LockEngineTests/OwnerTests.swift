import LockEngine
import LockTypes
import Testing

/// Owners inside a session, and what a session can do with what it holds.
@Suite struct OwnerTests {
  private func local(_ configure: (inout EngineConfiguration) -> Void = { _ in }) -> Script {
    var configuration = EngineConfiguration(tier: .local(firstToken: 1000))
    configure(&configuration)
    let script = Script(configuration, linkUp: false)
    script.open(alice, bob, carol)
    return script
  }

  private func released(_ effects: [Effect]) -> [Int] {
    effects.compactMap { if case .reply(_, _, .released(_, _, let remaining)) = $0 { remaining } else { nil } }
  }

  // MARK: Reentrancy

  @Test func theSameOwnerGetsTheSameTokenAgainAndReleasesAsOften() {
    let script = local()
    for _ in 0..<3 { script.acquire(alice, owner: "t1") }
    script.acquire(bob)
    #expect(script.take().compactMap(\.grantedToken) == [1000, 1000, 1000])
    for _ in 0..<3 { script.release(alice, token: 1000) }
    let effects = script.take()
    #expect(released(effects) == [2, 1, 0])
    #expect(effects.compactMap(\.grantedSession) == [bob])
    script.release(alice, token: 1000)
    #expect(script.take().first?.refusal == .notHeld(heldTokens: []))
  }

  @Test func anotherOwnerAnotherSessionAndNobodyInParticularWait() {
    let script = local()
    script.acquire(alice, owner: "t1")
    script.acquire(alice, wait: 0, owner: "t2")
    script.acquire(alice, wait: 0)
    script.acquire(bob, wait: 0, owner: "t1")
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [1000])
    #expect(effects.compactMap(\.refusal).count == 3)
  }

  /// They are equal as strings, and nobody's name for the other.
  @Test func ownersThatOnlyLookAlikeAreTwo() {
    let script = local()
    script.acquire(alice, owner: "\u{E9}")
    script.acquire(alice, wait: 0, owner: "e\u{301}")
    script.acquire(alice, owner: "e\u{301}")
    script.acquire(alice, wait: 0, owner: "\u{E9}")
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [1000, 1000])
    #expect(effects.compactMap(\.refusal).count == 1)
    for _ in 0..<2 { script.release(alice, token: 1000) }
    #expect(script.take().compactMap(\.grantedToken) == [1001])
    script.acquire(alice, wait: 0, owner: "\u{E9}")
    script.acquire(alice, wait: 0, owner: "e\u{301}")
    #expect(script.take().compactMap(\.grantedToken) == [1001])
  }

  @Test func anOwnerIsNotKeptOutByThoseWhoWaitForIt() {
    let script = local()
    script.acquire(alice, owner: "t1")
    script.acquire(bob)
    script.acquire(alice, wait: 0, owner: "t1")
    #expect(script.take().compactMap(\.grantedToken) == [1000, 1000])
  }

  @Test func requestsOfAnOwnerThatWaitTogetherEnterTogether() {
    let script = local()
    script.acquire(bob)
    script.acquire(alice, owner: "t1")
    script.acquire(carol)
    script.acquire(alice, owner: "t1")
    script.acquire(alice, mode: .shared, owner: "t1")
    _ = script.take()
    script.release(bob)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [1001, 1001])
    #expect(effects.compactMap(\.conflict) == [.exclusive])
  }

  @Test func anOwnerCannotHoldInTwoWaysAtOnce() {
    let script = local()
    script.acquire(alice, mode: .shared, owner: "t1")
    script.acquire(alice, owner: "t1")
    script.acquire(alice, mode: .shared, owner: "t1")
    let effects = script.take()
    #expect(effects.compactMap(\.conflict) == [.shared])
    #expect(effects.compactMap(\.grantedToken) == [1000, 1000])
  }

  @Test func aSessionThatEndsOrAnAdministratorTakesAllOfIt() {
    let script = local()
    for _ in 0..<2 { script.acquire(alice, owner: "t1") }
    script.acquire(bob)
    _ = script.take()
    script.feed(.breakRequested(name: x, tokens: [999, 1000], reason: "stuck"))
    let effects = script.take()
    #expect(
      effects.first
        == .notify(alice, .lost(name: x, token: 1000, reason: .broken, graceMilliseconds: 0, detail: "stuck")))
    #expect(effects.compactMap(\.grantedSession) == [bob])
    script.release(alice, token: 1000)
    #expect(script.take().first?.refusal == .lost(.broken))
  }

  @Test func breakingWhatNobodyHoldsDoesNothing() {
    let script = local()
    script.feed(.breakRequested(name: x, tokens: [1], reason: "stuck"))
    script.acquire(alice)
    script.feed(.breakRequested(name: x, tokens: [], reason: "stuck"))
    #expect(script.take().compactMap(\.grantedSession) == [alice])
    #expect(script.engine.gauges.held == 1)
  }

  // MARK: Transfer

  @Test func whatIsHandedOverHasAFreshTokenAndIsTheOthersFromThenOn() {
    let script = local()
    script.acquire(alice, maxHold: 500, owner: "t1")
    script.acquire(carol)
    _ = script.take()
    let request = script.newRequest()
    script.feed(.transferRequested(alice, request, name: x, token: nil, to: bob))
    #expect(
      script.take() == [
        .reply(alice, request, .transferred(name: x, token: 1001, to: bob)),
        .notify(bob, .transferred(name: x, token: 1001, mode: .exclusive, from: alice)),
      ])
    script.release(alice, token: 1000)
    #expect(script.take().first?.refusal == .notHeld(heldTokens: []))
    script.feed(.sessionClosed(alice))
    #expect(script.take().isEmpty)
    // The limit of the hold goes with it.
    script.pass(milliseconds: 500)
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.maxHold])
    #expect(effects.compactMap(\.grantedSession) == [carol])
  }

  @Test func nothingIsHandedToASessionThatIsNotThereOrHasTooMuch() {
    let script = local { $0.settings.holdsPerSessionMax = 1 }
    script.acquire(alice)
    script.acquire(bob, "y")
    _ = script.take()
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: 1000, to: SessionID(77)))
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: 1000, to: bob))
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: 1, to: bob))
    #expect(
      script.take().compactMap(\.refusal) == [
        .noSuchSession, .limit(.holdsPerSession), .notHeld(heldTokens: [1000]),
      ])
  }

  /// Who has not asked for it is handed nothing; who waits for it gets what it asked for, before those ahead of it.
  @Test func aHoldIsHandedToWhoAskedForIt() {
    let script = local()
    script.acquire(alice)
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: nil, to: bob, isAccepting: false))
    #expect(script.take().compactMap(\.refusal) == [.notAccepted])
    script.acquire(carol)
    let wish = script.acquire(bob, owner: "o")
    let shared = script.acquire(bob, mode: .shared)
    let handing = script.newRequest()
    script.feed(.transferRequested(alice, handing, name: x, token: nil, to: bob, isAccepting: false))
    let effects = script.take()
    #expect(effects.first == .reply(alice, handing, .transferred(name: x, token: 1001, to: bob)))
    #expect(effects.compactMap(\.grantedToken) == [1001])
    #expect(effects.compactMap(\.notification).isEmpty)
    #expect(script.engine.snapshot(of: x, waitersMax: 9, now: script.now)?.holders.first?.owner == "o")
    #expect(wish.rawValue < shared.rawValue)
    // It does not wait for itself: carol is next, and then the reader.
    script.release(bob)
    #expect(script.take().compactMap(\.grantedSession) == [carol])
    script.feed(.transferRequested(carol, script.newRequest(), name: x, token: nil, to: bob, isAccepting: false))
    #expect(script.take().compactMap(\.grantedSession) == [bob])
    // A reader cannot hand over what a writer waits for.
    script.acquire(alice, mode: .shared)
    script.acquire(carol)
    _ = script.take()
    script.feed(.transferRequested(bob, script.newRequest(), name: x, token: nil, to: carol, isAccepting: true))
    #expect(script.take().compactMap(\.conflict) == [.shared])
  }

  @Test func aTransferDrawsFromTheLeaseAndNeedsNoStore() {
    let script = Script()
    script.open(alice, bob)
    script.hold(alice)
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: 100, to: bob))
    #expect(script.take().compactMap(\.command).isEmpty)
    script.release(bob, token: 101)
    #expect(script.sent() == [.release(name: x, attempt: 1, unused: .from(102), terms: .above(101))])
  }

  @Test func onlyWhoAskedForItHasItsLossEnforced() {
    let script = local()
    script.acquire(alice, onLost: .kill)
    #expect(script.engine.hasEnforcedHold(alice) && !script.engine.hasEnforcedHold(bob))
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: nil, to: bob))
    #expect(!script.engine.hasEnforcedHold(alice) && !script.engine.hasEnforcedHold(bob))
  }

  // MARK: Limits of a user

  @Test func theLimitsOfAUserCountAllItsSessions() {
    let script = local {
      $0.settings.holdsPerUIDMax = 3
      $0.settings.waitsPerUIDMax = 1
    }
    let first = SessionID(11)
    let second = SessionID(12)
    script.feed(.sessionOpened(first, uid: 1000))
    script.feed(.sessionOpened(second, uid: 1000))
    script.acquire(first, "a")
    script.acquire(carol, "b")
    _ = script.take()
    script.acquire(first, "b")
    script.acquire(second, "b")
    #expect(script.take().compactMap(\.refusal) == [.limit(.waitsPerUID)])
    script.feed(.sessionClosed(first))
    script.acquire(second, "d")
    script.acquire(second, "e")
    script.acquire(second, "f")
    script.acquire(second, "g")
    #expect(script.take().compactMap(\.refusal) == [.limit(.holdsPerUID)])
    // Nobody else is concerned.
    script.acquire(carol, "h")
    #expect(script.take().compactMap(\.grantedSession) == [carol])
  }

  /// Each way in which something comes to be held or waited for, and each in which it ends, with long texts.
  @Test func whatAUserHoldsAndWaitsForIsCountedInBytes() {
    let script = local { $0.settings.lockBytesPerUIDMax = 19_000 }
    let first = SessionID(11)
    let second = SessionID(12)
    script.feed(.sessionOpened(first, uid: 1000))
    script.feed(.sessionOpened(second, uid: 1000))
    let meta = String(repeating: "m", count: 1000)
    let names = (0..<3).map { "\($0)" + String(repeating: "n", count: 499) }
    // 1024 for each, 1500 for each name, and twice the texts; 256 more for an owner.
    for name in names { script.acquire(first, name, owner: "o", meta: meta) }
    script.acquire(carol, "x")
    script.acquire(second, "x", meta: meta)
    #expect(script.take().compactMap(\.refusal) == [])
    #expect(script.engine.lockBytes(uid: 1000) == 3 * (1024 + 1500 + 2000 + 258) + 1027 + 2000)
    script.acquire(second, names[0], wait: 0, meta: meta)
    script.acquire(second, all: names)
    #expect(script.take().compactMap(\.refusal) == [.limit(.lockBytesPerUID), .limit(.lockBytesPerUID)])
    // A wait that is granted counts as a hold.
    script.release(carol, "x")
    #expect(script.engine.lockBytes(uid: 1000) == 3 * (1024 + 1500 + 2000 + 258) + 1027 + 2000)
    script.release(first, names[0])
    script.acquire(second, names[0], meta: meta)
    script.feed(.sessionClosed(first))
    #expect(script.engine.lockBytes(uid: 1000) == 1024 + 1500 + 2000 + 1027 + 2000)
    script.release(second, names[0])
    script.release(second, "x")
    #expect(script.take().compactMap(\.refusal) == [])
    #expect(script.engine.lockBytes(uid: 1000) == 0)
  }

  @Test func lossesThatAreRememberedAreCountedUntilTheSessionEnds() {
    let script = local()
    let session = SessionID(11)
    script.feed(.sessionOpened(session, uid: 1000))
    script.feed(.sessionOpened(SessionID(12), uid: 1000))
    for number in 0..<70 {
      script.acquire(session, "\(100 + number)", maxHold: 1)
      script.pass(milliseconds: 1)
    }
    #expect(script.engine.lockBytes(uid: 1000) == 64 * (128 + 2 * 3))
    script.feed(.sessionClosed(session))
    #expect(script.engine.lockBytes(uid: 1000) == 0)
  }

  @Test func whatAllHoldTogetherIsCountedInBytes() {
    let script = local { $0.lockBytesMax = 2400 }
    script.acquire(alice, "a")
    script.acquire(bob, "b")
    script.acquire(carol, "c")
    #expect(script.take().compactMap(\.refusal) == [.limit(.lockBytes)])
    #expect(script.engine.lockBytes == 2 * 1027)
    script.feed(.sessionClosed(alice))
    script.acquire(carol, "c")
    #expect(script.take().compactMap(\.refusal) == [])
  }

  // MARK: Telling

  @Test func holdersWhoAskedForItHearThatSomebodyWaitsAndAtMostOnceASecond() {
    let script = local()
    script.acquire(alice, progress: true)
    script.acquire(bob)
    _ = script.take()
    script.feed(.timerFired)
    #expect(script.take().compactMap(\.notification) == [.contended(name: x, token: 1000, waiters: 1)])
    let wait = script.acquire(carol)
    script.pass(milliseconds: 999)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.notification) == [.contended(name: x, token: 1000, waiters: 2)])
    script.cancel(carol, wait)
    script.pass(milliseconds: 1000)
    #expect(script.take().compactMap(\.notification) == [.contended(name: x, token: 1000, waiters: 1)])
  }

  @Test func whoOnlyWaitsForTheStoreIsToldNothing() {
    let script = Script()
    script.open(alice)
    let request = script.acquire(alice, progress: true)
    script.feed(.timerFired)
    script.pass(milliseconds: 100)
    #expect(script.take().compactMap(\.notification).isEmpty)
    script.reply(queued(), to: CommandID(1))
    #expect(
      script.take().compactMap(\.notification)
        == [.waiting(request: request, name: x, position: 1, holder: .host("other"))])
  }

  @Test func whoWaitsBecauseOfTroubleWithTheStoreIsToldAndWhenItIsOver() {
    let script = Script()
    script.open(alice)
    let request = script.acquire(alice, progress: true)
    func told() -> [Notification] { script.take().compactMap(\.notification) }
    func waiting(_ holder: HolderSummary = .unknown, _ trouble: StoreTrouble? = nil) -> [Notification] {
      [.waiting(request: request, name: x, position: 1, holder: holder, trouble: trouble)]
    }
    script.reply(.failed(.transient("OOM no")), to: script.takeSent().first)
    // It was looked at a moment ago, and is again after a second. Meanwhile the store is asked again.
    script.pass(milliseconds: 1000)
    #expect(told() == waiting(.unknown, .refused("OOM no")))
    // The same words are not told again.
    script.reply(.failed(.transient("OOM no")), to: CommandID(2))
    script.pass(milliseconds: 2000)
    #expect(told() == [])
    script.feed(.linkDown(.only))
    script.pass(milliseconds: 2000)
    #expect(told() == waiting(.unknown, .unreachable))
    script.feed(.linkUp(.only))
    let ask = script.takeSent().first
    script.pass(milliseconds: 2000)
    #expect(told() == [], "nobody knows yet")
    script.reply(queued(), to: ask)
    #expect(told() == waiting(.host("other")))
    // What is held here is waited for whatever the store says.
    let other = Script()
    other.open(alice, bob)
    other.hold(alice)
    other.acquire(bob, progress: true)
    _ = other.take()
    other.feed(.linkDown(.only))
    other.pass(milliseconds: 1500)
    #expect(other.take().compactMap(\.notification).isEmpty)
  }

  @Test func aWaitWithoutTheStoreIsToldSoFromItsBeginning() {
    let script = Script()
    script.open(alice)
    script.feed(.linkDown(.only))
    let request = script.acquire(alice, progress: true)
    #expect(
      script.take().compactMap(\.notification)
        == [.waiting(request: request, name: x, position: 1, holder: .unknown, trouble: .unreachable)])
  }

  @Test func aWaiterElsewhereCountsForOne() {
    let script = Script()
    script.open(alice)
    script.acquire(alice, progress: true)
    script.reply(granted(100))
    _ = script.take()
    script.feed(.pushReceived(.only, .contended(name: x, attempt: 1, ask: 1, isTry: false, inbox: "other/1")))
    script.pass(milliseconds: 1000)
    #expect(script.take().compactMap(\.notification) == [.contended(name: x, token: 100, waiters: 1)])
  }

  @Test func whatHappensIsTreatedAsNewsOnlyWhileSomebodyWatches() {
    let script = local()
    script.acquire(alice)
    script.feed(.watched(steps: 1))
    let wait = script.acquire(bob)
    script.cancel(bob, wait)
    script.acquire(carol)
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: nil, to: bob))
    script.feed(.breakRequested(name: x, tokens: [1001], reason: "stuck"))
    script.release(carol)
    script.feed(.watched(steps: 0))
    script.acquire(alice)
    let news = script.take().compactMap { if case .observed(_, let event) = $0 { event } else { nil } }
    #expect(
      news == [
        .waiting(bob, waiters: 1), .gaveUp(bob, waiters: 0), .waiting(carol, waiters: 1), .released(alice, 1000),
        .acquired(bob, 1001, .exclusive), .lost(bob, 1001, .broken), .acquired(carol, 1002, .exclusive),
        .released(carol, 1002),
      ])
  }

  @Test func aWaitIsObservedWhenItIsOne() {
    func watched() -> Script {
      let script = Script()
      script.open(alice, bob)
      script.feed(.watched(steps: 1))
      return script
    }
    func news(_ effects: [Effect]) -> [LockEvent] {
      effects.compactMap { if case .observed(_, let event) = $0 { event } else { nil } }
    }
    // The store grants it when it is asked.
    let free = watched()
    free.acquire(alice)
    free.reply(granted(100))
    #expect(news(free.take()) == [.acquired(alice, 100, .exclusive)])
    // Another host has it.
    let taken = watched()
    let wait = taken.acquire(alice)
    #expect(news(taken.take()) == [])
    taken.reply(queued(), to: CommandID(1))
    #expect(news(taken.take()) == [.remote(host: "other"), .waiting(alice, waiters: 1)])
    taken.acquire(bob)
    taken.cancel(alice, wait)
    #expect(news(taken.take()) == [.waiting(bob, waiters: 2), .gaveUp(alice, waiters: 1)])
    // The store refuses, or cannot be reached.
    let refused = watched()
    refused.acquire(alice)
    refused.reply(.failed(.transient("OOM no")))
    #expect(news(refused.take()) == [.waiting(alice, waiters: 1)])
    let cutOff = watched()
    cutOff.acquire(alice)
    cutOff.feed(.linkDown(.only))
    #expect(news(cutOff.take()) == [.waiting(alice, waiters: 1)])
    // A wait ends with its session, too.
    let gone = watched()
    gone.acquire(alice)
    gone.reply(granted(100))
    gone.acquire(bob)
    gone.feed(.sessionClosed(bob))
    #expect(
      news(gone.take()) == [
        .acquired(alice, 100, .exclusive), .waiting(bob, waiters: 1), .gaveUp(bob, waiters: 0),
      ])
    // What was no wait has no end either.
    let short = watched()
    short.cancel(alice, short.acquire(alice))
    #expect(news(short.take()) == [])
  }
}
