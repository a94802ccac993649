import LockEngine
import LockTypes
import Testing

@testable import LockEngine

/// While this host waits it looks at its places in the store's queue, and asks again for what is not as it should be.
@Suite struct PlacesTests {
  private let script = Script()

  init() { script.open(alice, bob) }

  private func look(_ attempts: UInt64..., name: LockName = x) -> LeaseCommand {
    .checkPlaces(
      attempts.map { WaitingPlace(name: name, attempt: $0, mode: .exclusive, leaseMilliseconds: 10_000) },
      epoch: EpochSight.ofTests.id)
  }

  /// Has alice wait in the store's queue.
  private func wait(_ name: String = "x") {
    script.acquire(alice, name)
    script.reply(queued(), to: script.takeSent().first)
    #expect(script.take().isEmpty)
  }

  private func ask(_ number: UInt64, attempt: UInt64 = 1) -> LeaseCommand {
    .acquire(name: x, attempt: attempt, ask: number, isTry: false, terms: .above(0))
  }

  /// What is never left out of a flood of messages, however much of them there is.
  @Test func aMessageThatIsWaitedForIsToldFromOthers() {
    let script = Script()
    script.open(alice, bob)
    script.hold(alice, "held", token: 100)
    script.acquire(bob, "wanted")
    script.reply(.queued(holderHost: "b", holderExpiresInMilliseconds: 9_000, listeners: 1))
    let attempts = (held: UInt64(1), wanted: UInt64(2))
    let grant = LeaseGrant(token: 500, tokenCount: 10, othersWait: false)
    func granted(_ name: String, _ attempt: UInt64) -> Bool {
      script.engine.isAwaited(.granted(name: LockName(name), attempt: attempt, grant))
    }
    #expect(granted("wanted", attempts.wanted) && granted("held", attempts.held))
    #expect(!granted("wanted", 77) && !granted("held", attempts.wanted) && !granted("other", 1))
    func contended(_ name: String, _ attempt: UInt64) -> LeasePush {
      .contended(name: LockName(name), attempt: attempt, ask: 1, isTry: true, inbox: "b/1")
    }
    #expect(script.engine.isAwaited(contended("held", attempts.held)))
    #expect(
      !script.engine.isAwaited(contended("held", 77)) && !script.engine.isAwaited(contended("wanted", attempts.wanted)))
    script.feed(.pushReceived(.only, contended("held", attempts.held)))
    #expect(!script.engine.isAwaited(contended("held", attempts.held)))
    #expect(!script.engine.isAwaited(.inUse(name: LockName("wanted"), ask: 2)))
    script.acquire(bob, "tried", wait: 0)
    let ask = script.take().compactMap(\.command).compactMap {
      if case .acquire(_, _, let ask, true, _, _, _, _, _) = $0 { ask } else { nil }
    }.last
    #expect(script.engine.isAwaited(.inUse(name: LockName("tried"), ask: ask ?? 0)))
    #expect(!script.engine.isAwaited(.inUse(name: LockName("tried"), ask: 99)))
    #expect(!script.engine.isAwaited(.hostMessage(.victim(path: []))))
  }

  /// Whoever is kept out by this host takes it for gone unless it looks at that place.
  @Test func aPlaceBehindWhichOthersWaitIsLookedAtAtOnce() {
    wait("y")
    wait()
    script.pass(milliseconds: 200)
    #expect(script.sent().isEmpty)
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 0)))
    script.pass(milliseconds: 0)
    guard case .checkPlaces(let places, _)? = script.sent().first else {
      Issue.record("nothing was looked at")
      return
    }
    #expect(places.map(\.name) == [x, LockName("y")])
    script.feed(.pushReceived(.only, .inUse(name: LockName("z"), ask: 0)))
    script.pass(milliseconds: 0)
    #expect(script.sent().isEmpty)
  }

  @Test func aPlaceIsLookedAtEachSecondAndNothingElseIsSaid() {
    wait()
    for _ in 0..<5 {
      script.pass(milliseconds: 999)
      #expect(script.take().isEmpty)
      script.pass(milliseconds: 1)
      let effects = script.take()
      #expect(effects.compactMap(\.command) == [look(1)])
      script.reply(.lostPlaces([]), to: effects.first?.commandID)
    }
  }

  @Test func allPlacesOfThisHostAreInOneCommand() {
    wait()
    script.pass(milliseconds: 400)
    for name in ["y", "z"] { wait(name) }
    script.pass(milliseconds: 600)
    let effects = script.take()
    guard case .checkPlaces(let places, _)? = effects.first?.command else {
      Issue.record("\(effects)")
      return
    }
    #expect(places.map(\.name) == [x, LockName("y"), LockName("z")] && effects.count == 1)
    script.reply(.lostPlaces([]), to: effects.first?.commandID)
    script.pass(milliseconds: 999)
    #expect(script.take().isEmpty)
  }

  @Test func aBusyHostLooksToo() {
    wait()
    for step in 1...10 {
      script.pass(milliseconds: 100)
      let isLook = script.sent().contains(look(1))
      #expect(isLook == (step == 10))
      script.acquire(bob, "other-\(step)")
      script.reply(granted(7))
    }
  }

  @Test func whatIsLostIsAskedForAgainUnderTheSameAttempt() {
    wait()
    script.pass(milliseconds: 1000)
    script.reply(.lostPlaces([0]), to: script.takeSent().first)
    #expect(script.sent() == [ask(2)])
  }

  /// The answer is older than what this host knows by now.
  @Test func anOldAnswerIsNotHeard() {
    wait()
    script.pass(milliseconds: 1000)
    var asked = script.takeSent().first
    // Asked for again since.
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    let again = script.take()
    #expect(again.compactMap(\.command) == [ask(2)])
    script.reply(.lostPlaces([0]), to: asked)
    #expect(script.take().isEmpty)
    script.reply(queued(), to: again.first?.commandID)
    // Granted since.
    script.pass(milliseconds: 1000)
    asked = script.takeSent().last
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take().contains { $0.grantedToken == 7 })
    script.reply(.lostPlaces([0]), to: asked)
    #expect(script.take().isEmpty)
  }

  @Test func aWaitThatLeftIsNotAskedFor() {
    script.acquire(alice, wait: 1100)
    script.reply(queued(), to: script.takeSent().first)
    script.pass(milliseconds: 1000)
    let asked = script.takeSent().last
    script.pass(milliseconds: 200)
    #expect(script.take().contains { $0.refusal != nil })
    script.reply(.lostPlaces([0]), to: asked)
    #expect(!script.sent().contains { if case .acquire = $0 { true } else { false } })
  }

  @Test(arguments: [
    LeaseReply.failed(.transient("NOPERM")), .done, .lostPlaces([7, -1]), .lostPlaces([]),
    .stale(attempt: 9), .renewed([.held]),
  ])
  func anAnswerThatSaysNothingIsFollowedByTheNextLook(_ answer: LeaseReply) {
    wait()
    script.pass(milliseconds: 1000)
    script.reply(answer, to: script.takeSent().first)
    script.pass(milliseconds: 1000)
    #expect(script.sent() == [look(1)])
  }

  @Test func manyPlacesAreLookedAtInTurn() {
    let session = SessionID(9)
    script.reconfigure {
      $0.waitsPerSessionMax = 10_000
      $0.lockBytesPerUIDMax = 1 << 27
    }
    script.open(session)
    let count = 1200
    for index in 0..<count {
      script.acquire(session, "n\(index)")
      script.reply(queued(for: 60_000), to: script.takeSent().first)
    }
    _ = script.take()
    var seen: Set<LockName> = []
    var commands = 0
    for _ in 0..<130 where seen.count < count {
      script.pass(milliseconds: 10)
      for effect in script.take() {
        guard case .checkPlaces(let places, _)? = effect.command else { continue }
        #expect(places.count <= LockEngine.placesPerCommandMax)
        #expect(seen.isDisjoint(with: places.map(\.name)))
        seen.formUnion(places.map(\.name))
        commands += 1
        script.reply(.lostPlaces([]), to: effect.commandID)
      }
    }
    #expect(seen.count == count && commands == 3)
  }

  // MARK: Attempts

  /// The store knows a later attempt of this host than this host does.
  @Test func aStaleAttemptIsFollowedByOneAboveTheOneThatTheStoreKnows() {
    script.acquire(alice)
    script.reply(.stale(attempt: 40), to: script.takeSent().first)
    let effects = script.take()
    #expect(
      effects.compactMap(\.command) == [
        .release(name: x, attempt: 1, unused: .all, terms: .above(0)), ask(2, attempt: 41),
      ])
    script.reply(granted(7), to: effects.last?.commandID)
    #expect(script.take().contains { $0.grantedToken == 7 })
  }

  @Test func aTryUnderAStaleAttemptIsDecided() {
    script.acquire(alice, wait: 0)
    script.reply(.stale(attempt: 40), to: script.takeSent().first)
    script.reply(granted(7))
    #expect(script.take().contains { $0.grantedToken == 7 })
  }

  /// What cannot be is not believed, and not asked for in a circle.
  @Test(arguments: [UInt64(0), 1, 1 << 53, .max]) func aStaleAttemptThatCannotBeIsAskedForLater(_ attempt: UInt64) {
    script.acquire(alice)
    script.reply(.stale(attempt: attempt), to: script.takeSent().first)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 100)
    #expect(script.sent() == [ask(2)])
  }
}
