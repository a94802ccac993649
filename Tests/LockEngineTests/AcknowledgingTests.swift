import LockEngine
import LockTypes
import Testing

/// Grants of which clients are told when enough replicas have them.
@Suite struct AcknowledgingTests {
  private static let two = ReplicaNeed(replicas: 2)

  private func store(_ change: (inout EngineSettings) -> Void = { _ in }) -> Script {
    let script = Script(EngineConfiguration(tier: .store) { change(&$0.settings) })
    script.open(alice, bob, carol)
    return script
  }

  private func isHeld(_ script: Script, _ name: String = "x") -> Bool {
    script.engine.snapshot(of: LockName(name), waitersMax: 0, now: script.now)?.holders.isEmpty == false
  }

  @Test func aClientIsToldWhenEnoughReplicasHaveIt() {
    let script = store()
    let request = script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    #expect(asked.map(\.need) == [Self.two])
    #expect(asked.first?.until == script.now.adding(milliseconds: 1000))
    #expect(isHeld(script))
    #expect(script.engine.gauges.waiting == 1)
    script.pass(milliseconds: 30)
    script.answer(asked, .enough(replicas: 3))
    #expect(
      script.take() == [
        .reply(
          alice, request,
          .acquired(Acquired(name: x, token: 100, waitedMilliseconds: 30, validMilliseconds: 8470)))
      ])
    #expect(script.engine.gauges.waiting == 0)
    #expect(script.engine.statistics.acknowledged == 1)
    #expect(script.engine.statistics.acknowledgedMilliseconds == 30)
  }

  @Test func withTooFewTheLockIsGivenBackAndGoesToOthers() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.acquire(bob)
    #expect(script.take().isEmpty)
    script.answer(asked, .tooFew(replicas: 1))
    let effects = script.take()
    #expect(effects.compactMap(\.refusal) == [.underReplicated(Self.two, acknowledged: 1, nil)])
    #expect(effects.compactMap(\.grantedToken) == [101])
    #expect(script.engine.statistics.underReplicated == 1)
    script.release(bob)
    #expect(!isHeld(script))
  }

  @Test func theWordsOfARefusalArePassedOn() {
    let script = store()
    script.acquire(alice, need: ReplicaNeed(replicas: 0, durability: .disk))
    script.reply(granted(100))
    script.answer(script.takeAsked(), .refused("no disk"))
    #expect(
      script.take().compactMap(\.refusal) == [
        .underReplicated(ReplicaNeed(replicas: 0, durability: .disk), acknowledged: 0, "no disk")
      ])
    #expect(!isHeld(script))
  }

  /// An owner that waits for replicas, too, may go on without the lock that somebody else has.
  @Test func aWaitForReplicasIsAWaitOfItsOwner() {
    let script = store()
    for (number, (session, name)) in [(alice, "a"), (bob, "b")].enumerated() {
      script.acquire(session, name, owner: "t")
      script.reply(granted(100), to: CommandID(UInt64(number) + 1))
    }
    script.acquire(alice, "c", owner: "t", need: Self.two)
    script.reply(granted(100), to: CommandID(3))
    let asked = script.takeAsked(ignoringOthers: true)
    script.acquire(alice, "b", owner: "t")
    script.acquire(bob, "a", owner: "t")
    #expect(cycle(script.take()) == nil)
    script.answer(asked, .tooFew(replicas: 1))
    // Now there is nothing else that could help.
    #expect(cycle(script.take())?.map(\.session) == [bob.rawValue, alice.rawValue])
  }

  @Test func severalAreAskedAboutTogether() {
    let script = store()
    script.acquire(alice, all: ["b", "a"], need: Self.two)
    script.reply(granted(100))
    #expect(script.takeAsked(ignoringOthers: true).isEmpty)
    script.reply(granted(200), to: CommandID(2))
    let asked = script.takeAsked()
    #expect(asked.count == 1)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedTokens) == [["a": 100, "b": 200]])
  }

  @Test func whatReplicasHaveIsNotAskedForAgain() {
    let script = store()
    script.acquire(alice, owner: "o", need: ReplicaNeed(replicas: 1))
    script.reply(granted(100))
    script.answer(script.takeAsked(), .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [100])
    // The owner enters it again.
    script.acquire(alice, owner: "o", need: Self.two)
    #expect(script.take().compactMap(\.grantedToken) == [100])
    script.release(alice)
    script.acquire(bob, need: Self.two)
    _ = script.take()
    script.release(alice)
    #expect(script.take().compactMap(\.grantedToken) == [101])
    // More replicas, and the disk, are another question.
    for need in [ReplicaNeed(replicas: 3), ReplicaNeed(replicas: 1, durability: .disk)] {
      script.acquire(carol, need: need)
      script.release(bob)
      let asked = script.takeAsked(ignoringOthers: true)
      #expect(asked.map(\.need) == [need])
      script.answer(asked, .tooFew(replicas: 0))
      #expect(script.take().compactMap(\.refusal) == [.underReplicated(need, acknowledged: 0, nil)])
      script.acquire(bob)
      script.reply(granted(300))
      _ = script.take()
    }
  }

  @Test func tokensThatAreReservedAreANewWrite() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 2, othersWait: false)))
    let effects = script.take()
    script.answer(effects.compactMap(\.asked), .enough(replicas: 2))
    _ = script.take()
    let reserve = effects.first { if case .send(_, _, .reserve) = $0 { true } else { false } }
    guard let id = reserve?.commandID else {
      Issue.record("no tokens were reserved: \(effects)")
      return
    }
    script.reply(reserved(500), to: id)
    script.acquire(bob, need: Self.two)
    script.release(alice)
    #expect(script.takeAsked(ignoringOthers: true).count == 1)
  }

  /// The first token of a permit is the last of its block, so that more are reserved while replicas are waited for.
  @Test func tokensThatAreReservedMeanwhileAreNothingToTheRequest() {
    let script = store()
    script.acquire(alice, mode: .shared, need: Self.two)
    script.reply(.granted(LeaseGrant(token: 100, tokenCount: 1, othersWait: false)))
    let effects = script.take()
    let asked = effects.compactMap(\.asked)
    #expect(asked.count == 1)
    let reserve = effects.first { if case .send(_, _, .reserve) = $0 { true } else { false } }
    script.reply(reserved(500), to: reserve?.commandID)
    // Whoever has one of them relies on them.
    script.acquire(bob, mode: .shared, need: Self.two)
    let other = script.takeAsked(ignoringOthers: true)
    #expect(other.count == 1)
    script.pass(milliseconds: 1000)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().map { $0.grantedToken ?? 0 } == [100])
    script.answer(other, .enough(replicas: 2))
    #expect(script.take().map { $0.grantedToken ?? 0 } == [500])
  }

  /// What is known of a lease is the answer of those that were asked last. They may be other ones than a request needs.
  @Test func whatAnotherRequestFindsOutIsNothingToTheRequest() {
    let script = store()
    script.acquire(alice, "a", mode: .shared, need: Self.two)
    script.reply(granted(100))
    script.answer(script.takeAsked(ignoringOthers: true), .enough(replicas: 2))
    _ = script.take()
    script.acquire(bob, all: ["a", "b"], mode: .shared, need: Self.two)
    let acquire = script.take().first { if case .send(_, _, .acquire) = $0 { true } else { false } }
    script.reply(granted(200), to: acquire?.commandID)
    let asked = script.takeAsked(ignoringOthers: true)
    script.acquire(carol, "a", mode: .shared, need: ReplicaNeed(replicas: 1, durability: .disk))
    script.answer(script.takeAsked(ignoringOthers: true), .enough(replicas: 1))
    #expect(script.take().compactMap(\.grantedToken) == [102])
    script.pass(milliseconds: 1000)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedTokens) == [["a": 101, "b": 200]])
  }

  @Test(arguments: [false, true]) func aLeaseThatIsWrittenAnewIsAskedAboutAgain(_ isLate: Bool) {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.replicasTimeoutMilliseconds = 5000 })
    script.open(alice)
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.pass(milliseconds: 4000)
    script.reply(.renewed([.missing]), to: script.takeSent().first)
    script.reply(.renewed([.held]), to: script.takeSent().first)
    if isLate { script.pass(milliseconds: 1000) }
    _ = script.take()
    script.answer(asked, .enough(replicas: 2))
    if isLate {
      #expect(script.take().compactMap(\.refusal) == [.underReplicated(Self.two, acknowledged: 0, nil)])
      #expect(!isHeld(script))
    } else {
      script.answer(script.takeAsked(), .enough(replicas: 2))
      #expect(script.take().compactMap(\.grantedToken) == [100])
    }
  }

  @Test func theSettingsAreTheLeast() {
    let script = store { $0.need = ReplicaNeed(replicas: 1, durability: .disk) }
    script.acquire(alice)
    script.reply(granted(100))
    #expect(script.takeAsked().map(\.need) == [ReplicaNeed(replicas: 1, durability: .disk)])
    script.acquire(bob, "y", need: ReplicaNeed(replicas: 3))
    script.reply(granted(200))
    #expect(script.takeAsked().map(\.need) == [ReplicaNeed(replicas: 3, durability: .disk)])
    script.reconfigure { $0.need = .none }
    script.acquire(carol, "z")
    script.reply(granted(300))
    #expect(script.take().compactMap(\.grantedToken) == [300])
  }

  @Test func withoutAStoreThereIsNothingToReplicate() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)), linkUp: false)
    script.open(alice)
    script.acquire(alice, need: Self.two)
    guard case .underReplicated(Self.two, 0, .some)? = script.take().first?.refusal else {
      Issue.record("a local lock was granted with replicas")
      return
    }
    #expect(script.engine.gauges.locks == 0)
  }

  enum Ending: CaseIterable { case cancelled, closed, evicted, shutDown }

  @Test(arguments: Ending.allCases) func whoIsGoneIsNotWaitedFor(_ ending: Ending) {
    let script = store()
    let request = script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    switch ending {
    case .cancelled: script.cancel(alice, request)
    case .closed: script.feed(.sessionClosed(alice))
    case .evicted: script.evict(alice)
    case .shutDown: script.feed(.shutdownRequested)
    }
    let effects = script.take()
    #expect(effects.contains(.forgetAcknowledgement(.only, asked[0].id)))
    let refusals = effects.compactMap(\.refusal)
    switch ending {
    case .cancelled: #expect(refusals == [.cancelled])
    case .closed: #expect(refusals == [])
    case .evicted, .shutDown: #expect(refusals == [.shuttingDown])
    }
    #expect(effects.compactMap(\.lostReason).isEmpty)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().isEmpty)
    #expect(script.engine.gauges.held == 0 && script.engine.gauges.waiting == 0)
  }

  @Test func itCountsAsAWait() {
    let script = store { $0.waitsPerSessionMax = 1 }
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.acquire(alice, "y")
    #expect(script.take().compactMap(\.refusal) == [.limit(.waitsPerSession)])
    script.answer(asked, .enough(replicas: 2))
    _ = script.take()
    script.acquire(alice, "y")
    script.reply(granted(200))
    #expect(script.take().compactMap(\.grantedToken) == [200])
  }

  @Test func aHalfClosedSessionHearsOfIt() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.halfClose(alice)
    #expect(script.take().isEmpty)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [100])
  }

  /// The answer may come before the link goes down, or not at all.
  @Test func afterTheLinkWasDownItAsksAgainWhenTheLeaseIsConfirmed() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.feed(.linkDown(.only))
    script.answer(asked, .unknown)
    #expect(script.take().isEmpty)
    script.feed(.linkUp(.only))
    #expect(script.takeAsked(ignoringOthers: true).isEmpty)
    script.reply(.renewed([.held]), to: CommandID(2))
    let again = script.takeAsked()
    #expect(again.count == 1)
    // An answer to the first question says nothing about this data set.
    script.answer(asked, .enough(replicas: 9))
    #expect(script.take().isEmpty)
    script.answer(again, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [100])
  }

  @Test func anAnswerOfTheLastLinkGrantsNothing() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken).isEmpty)
  }

  @Test func whileTheLinkIsDownItWaitsNoLongerThanReplicasMayTake() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.feed(.linkDown(.only))
    script.answer(asked, .unknown)
    script.pass(milliseconds: 999)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.refusal) == [.unavailable(nil)])
    #expect(!isHeld(script))
  }

  @Test func aHoldThatIsLostMeanwhileIsTakenAnew() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.feed(.breakRequested(name: x, tokens: [100], reason: ""))
    let effects = script.take()
    #expect(effects.contains(.forgetAcknowledgement(.only, asked[0].id)))
    // The client knew nothing of it, and is told nothing.
    #expect(effects.compactMap(\.notification).isEmpty)
    script.reply(
      granted(200), to: effects.last { if case .send(_, _, .acquire) = $0 { true } else { false } }?.commandID)
    let again = script.takeAsked(ignoringOthers: true)
    #expect(again.count == 1 && again.first?.id != asked[0].id)
    script.answer(again, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [200])
  }

  enum EndOfHold: CaseIterable { case released, broken, maxHold, transferred }

  /// The question for replicas may stay open for long, and is not asked at all while the link is down.
  @Test(arguments: EndOfHold.allCases, [false, true])
  func aReenteredHoldThatEndsMeanwhileIsTakenAnew(_ ending: EndOfHold, _ isLinkDown: Bool) {
    let script = store()
    script.acquire(alice, maxHold: ending == .maxHold ? 50 : nil, owner: "o")
    script.reply(granted(100))
    _ = script.take()
    let request = script.acquire(alice, wait: 30, owner: "o", need: Self.two)
    let asked = script.takeAsked()
    #expect(asked.count == 1)
    if isLinkDown {
      script.feed(.linkDown(.only))
      script.answer(asked, .unknown)
    }
    script.pass(milliseconds: 49)
    #expect(script.take().isEmpty)
    switch ending {
    case .released: script.release(alice)
    case .broken: script.feed(.breakRequested(name: x, tokens: [100], reason: ""))
    case .maxHold: script.pass(milliseconds: 1)
    case .transferred:
      script.feed(
        .transferRequested(alice, script.newRequest(), name: x, token: nil, to: bob, isAccepting: true))
    }
    let effects = script.take()
    if !isLinkDown { #expect(effects.contains(.forgetAcknowledgement(.only, asked[0].id))) }
    let refused = effects.filter { $0.refusal != nil }
    #expect(refused.count == 1, "\(effects)")
    if case .reply(alice, request, _)? = refused.first {} else { Issue.record("\(effects)") }
    #expect(script.engine.gauges.waiting == 0)
  }

  @Test(arguments: [false, true]) func noReenteredHoldOutlivesAShutdown(_ isLinkDown: Bool) {
    let script = store()
    script.acquire(alice, owner: "o")
    script.reply(granted(100))
    _ = script.take()
    let requests = (0..<2).map { _ in script.acquire(alice, owner: "o", need: Self.two) }
    let asked = script.takeAsked()
    #expect(asked.count == 2)
    if isLinkDown {
      script.feed(.linkDown(.only))
      script.answer(asked, .unknown)
    }
    script.feed(.shutdownRequested)
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.shutdown])
    let refused = effects.compactMap { effect -> RequestID? in
      if case .reply(alice, let request, .refused(.shuttingDown)) = effect { request } else { nil }
    }
    #expect(refused == requests)
    #expect(script.engine.gauges.waiting == 0 && script.engine.gauges.held == 0)
  }

  /// The hold of a half-closed session ends for its own wait also when its client hears of it late.
  @Test func aWaitOfAHalfClosedSessionGetsWhatItWasToldOf() {
    let script = store()
    script.acquire(alice, need: Self.two)
    script.reply(granted(100))
    let asked = script.takeAsked()
    script.acquire(alice)
    script.halfClose(alice)
    #expect(script.take().allSatisfy { $0.command != nil })
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [100])
    script.halfClose(alice)
    let effects = script.take()
    #expect(effects.compactMap(\.lostReason) == [.halfClosed])
    #expect(effects.compactMap(\.grantedToken) == [101])
  }

  @Test(arguments: [false, true]) func itOutlivesTheEngine(_ isReentered: Bool) throws {
    let kept = Kept()
    if isReentered {
      kept.script.acquire(alice, owner: "o")
      kept.script.reply(granted(100))
      _ = kept.script.take()
    }
    let request = kept.script.acquire(alice, wait: 5000, owner: "o", need: Self.two)
    if !isReentered { kept.script.reply(granted(100)) }
    #expect(kept.script.takeAsked().count == 1)
    try kept.restart()
    let script = kept.script
    #expect(script.take().isEmpty)
    #expect(script.engine.gauges.waiting == 1)
    script.feed(.linkUp(.only))
    _ = script.take()
    script.reply(.renewed([.held]), to: CommandID(1))
    let asked = script.takeAsked(ignoringOthers: true)
    #expect(asked.map(\.need) == [Self.two])
    script.answer(asked, .enough(replicas: 2))
    let effects = script.take()
    #expect(effects.compactMap(\.grantedToken) == [100])
    #expect(effects.contains { if case .reply(alice, request, _) = $0 { true } else { false } })
    kept.commit()
    #expect(try kept.state().waitingRequests.isEmpty)
  }

  @Test func itIsNotedAnew() throws {
    let kept = Kept()
    kept.script.acquire(alice, owner: "o")
    kept.script.reply(granted(100))
    let request = kept.script.acquire(alice, owner: "o", need: Self.two)
    kept.commit()
    kept.stopNoting()
    kept.noteAnew()
    #expect(try kept.state().waitingRequests == [request])
  }
}

extension Script {
  /// The questions for replicas since the last time. Fails the test when anything else was wanted, unless that is ignored.
  func takeAsked(ignoringOthers: Bool = false) -> [AskedReplicas] {
    let effects = take()
    let asked = effects.compactMap(\.asked)
    if !ignoringOthers { #expect(asked.count == effects.filter { $0.command == nil }.count, "\(effects)") }
    return asked
  }

  func answer(_ asked: [AskedReplicas], _ answer: AcknowledgementAnswer) {
    for question in asked { feed(.acknowledged(.only, question.id, answer)) }
  }
}

struct AskedReplicas {
  var id: AcknowledgementID
  var need: ReplicaNeed
  var until: BootInstant
}

extension Effect {
  var asked: AskedReplicas? {
    guard case .acknowledge(_, let id, let need, let until) = self else { return nil }
    return AskedReplicas(id: id, need: need, until: until)
  }
}
