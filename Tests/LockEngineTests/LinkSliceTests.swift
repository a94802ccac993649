import LockEngine
import LockTypes
import Testing

/// With very many locks, the going down and the coming up of the link, and the end of all leases at once, take so many steps
/// in each turn and no more. What happens about a lock in between sees it as if its turn had come.
@Suite struct LinkSliceTests {
  private static let steps = 16
  private static let locks = 10_000

  private let script: Script

  init() {
    script = Script(
      .withSlices(of: Self.steps, .store) {
        $0.settings.lingerMilliseconds = 60_000
        $0.renewalBatchMax = Self.steps
      })
    script.open(alice, bob, carol)
  }

  private func name(_ index: Int) -> String { "x\(index)" }

  /// Has alice hold so many locks, each of which the store granted a little later than the one before.
  private func hold(_ count: Int) {
    for index in 0..<count {
      script.hold(alice, name(index))
      script.jump(milliseconds: index % 100 == 99 ? 1 : 0)
    }
  }

  /// Has the lease of a lock be idle.
  private func idle(_ name: String) {
    script.hold(alice, name)
    script.acquire(bob, name)
    script.release(alice, name)
    script.release(bob, name)
    #expect(script.engine.snapshot(of: LockName(name), waitersMax: 0, now: script.now)?.leaseState == .idle)
    _ = script.take()
  }

  /// Tells an event, and fires the timer until the engine does not ask for it at once. The effects of each turn.
  private func turns(_ event: Event, eachTime check: (Int) -> Void = { _ in }) -> [[Effect]] {
    script.feed(event)
    var turns = [script.take()]
    check(1)
    while let next = script.engine.nextDeadline, next <= script.now, turns.count < 100_000 {
      script.feed(.timerFired)
      turns.append(script.take())
      check(turns.count)
    }
    return turns
  }

  private func renewals(_ effects: [Effect]) -> [(id: CommandID, names: [LockName])] {
    effects.compactMap { effect in
      guard case .send(_, let id, .renew(let leases, _, _)) = effect else { return nil }
      return (id, leases.map(\.name))
    }
  }

  private func most(_ turns: [[Effect]], _ count: ([Effect]) -> Int) -> Int { turns.map(count).max() ?? 0 }

  private func lostNames(_ effects: [Effect]) -> [LockName] {
    effects.compactMap { if case .lost(let name, _, _, _, _, _) = $0.notification { name } else { nil } }
  }

  private func confirm(_ turns: [[Effect]]) {
    for renewal in turns.flatMap(renewals) {
      script.reply(.renewed(Array(repeating: .held, count: renewal.names.count)), to: renewal.id)
    }
  }

  // MARK: The link

  @Test func theLinkGoesDownAndComesUpInSlices() {
    hold(Self.locks)
    let down = turns(.linkDown(.only))
    #expect(down.count >= Self.locks / Self.steps)
    #expect(down.count <= 2 * Self.locks / Self.steps)
    #expect(down.flatMap { $0 }.isEmpty)
    let up = turns(.linkUp(.only))
    #expect(most(up) { renewals($0).flatMap(\.names).count } <= 2 * Self.steps)
    // Each once, and those first that end first.
    #expect(up.flatMap(renewals).flatMap(\.names) == (0..<Self.locks).map { LockName(name($0)) })
    confirm(up)
    #expect(script.engine.statistics.leasesLost == 0)
    script.pass(milliseconds: 3_000)
    #expect(script.take().compactMap(\.lostReason).isEmpty)
  }

  /// As the link would go down and come up, and the store begins to grant at the end.
  @Test func otherDataAreTakenUpInSlices() {
    hold(Self.locks)
    for index in 0..<1_000 {
      script.acquire(alice, "w\(index)")
      script.reply(queued(), to: script.takeSent().last)
    }
    script.acquire(bob, "sounding")
    let grace = EpochSight.epoch(2, isOpen: false)
    script.epoch = grace
    let id = script.takeSent().last
    #expect(id != nil)
    guard let id else { return }
    let change = turns(.replyReceived(.only, id, .otherEpoch))
    #expect(change.count >= 2 * Self.locks / Self.steps)
    #expect(most(change) { $0.count } <= 3 * Self.steps)
    let reclaims = change.flatMap { $0 }.compactMap { effect -> (id: CommandID, names: [LockName])? in
      guard case .send(_, let id, .reclaim(let leases, _, grace.id)) = effect else { return nil }
      return (id, leases.map(\.name))
    }
    #expect(reclaims.flatMap(\.names) == (0..<Self.locks).map { LockName(name($0)) })
    for reclaim in reclaims {
      script.reply(.renewed(Array(repeating: .held, count: reclaim.names.count)), to: reclaim.id)
    }
    #expect(script.engine.statistics.leasesLost == 0 && script.engine.statistics.reclaims == UInt64(Self.locks))
    // Somebody else has opened it.
    script.jump(milliseconds: 1_000)
    script.epoch = .epoch(2)
    let open = turns(
      .acquireRequested(
        AcquireRequest(
          session: carol, request: script.newRequest(), target: .one(LockName("other")), waitMilliseconds: 0)))
    #expect(most(open) { $0.count } <= 3 * Self.steps)
    #expect(Set(acquires(open.flatMap { $0 }.compactMap(\.command)).map(\.name)).count == 1_001)
  }

  /// Not one after the other, each when the one before is answered: an answer can take long.
  @Test func noLeaseInDoubtWaitsForTheAnswerToAnother() {
    hold(500)
    script.jump(milliseconds: 8_000)
    _ = turns(.linkDown(.only))
    script.jump(milliseconds: 480)
    let up = turns(.linkUp(.only))
    #expect(up.flatMap(renewals).flatMap(\.names).count == 500)
    confirm(up)
    script.pass(milliseconds: 1_000)
    #expect(script.engine.statistics.leasesLost == 0)
  }

  @Test func waitsAndReleasesAreSentInSlicesAndInTheirOrder() {
    var expected: [String] = []
    for index in 0..<2_000 {
      script.acquire(alice, name(index))
      if index % 2 == 0 {
        script.reply(granted(7), to: script.takeSent().last)
        script.release(alice, name(index))
        script.acquire(alice, name(index), wait: 0)
        expected.append("release \(name(index))")
      } else {
        script.reply(queued(), to: script.takeSent().last)
        expected.append("acquire \(name(index))")
      }
      _ = script.take()
    }
    let down = turns(.linkDown(.only))
    // The tries are told, some in each turn.
    #expect(most(down) { $0.compactMap(\.refusal).count } <= Self.steps)
    #expect(down.flatMap { $0 }.compactMap(\.refusal).count == 1_000)
    let up = turns(.linkUp(.only))
    let sent = up.flatMap { $0 }.compactMap { effect -> String? in
      switch effect.command {
      case .acquire(let name, _, _, _, _, _, _, _, _): "acquire \(name)"
      case .release(let name, _, _, _, _): "release \(name)"
      case .heartbeat, nil: nil
      case let other?: "\(other)"
      }
    }
    #expect(sent == expected)
    #expect(most(up) { $0.count } <= 3 * Self.steps)
  }

  @Test func veryManyTriesForOneLockAreToldInSlices() {
    for _ in 0..<500 { script.acquire(bob, wait: 0) }
    _ = script.take()
    let down = turns(.linkDown(.only))
    #expect(down.flatMap { $0 }.compactMap(\.refusal) == Array(repeating: .unavailable(nil), count: 500))
    #expect(most(down) { $0.count } <= Self.steps)
    #expect(script.engine.gauges.waiting == 0)
  }

  // MARK: What happens in between

  @Test func anIdleLeaseOfALinkThatIsGoneIsNotGivenOut() {
    hold(200)
    idle("z")
    script.feed(.linkDown(.only))
    // Its turn has not come.
    #expect(script.engine.nextDeadline.map { $0 <= script.now } == true)
    script.acquire(bob, "z")
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    let up = turns(.linkUp(.only))
    let commands = up.flatMap { $0 }.compactMap(\.command)
    #expect(commands.contains { if case .release(LockName("z"), _, _, _, _) = $0 { true } else { false } })
    #expect(commands.contains { if case .acquire(LockName("z"), _, _, _, _, _, _, _, _) = $0 { true } else { false } })
  }

  /// What it went down for comes to all locks before anything is sent on the new one.
  @Test func aLinkThatIsBackAtOnceWaitsUntilAllLocksKnowThatItWasGone() {
    hold(200)
    idle("z")
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    #expect(script.take().isEmpty)
    script.acquire(bob, "y", wait: 0)
    #expect(script.take().compactMap(\.refusal) == [.unavailable(nil)])
    // A word of the store for one of them meanwhile.
    script.feed(
      .pushReceived(
        .only,
        .contended(name: LockName(name(199)), attempt: 200, ask: 1, isTry: true, inbox: "other", mode: .exclusive)))
    #expect(script.sent() == [.answerInUse(name: LockName(name(199)), ask: 1, inbox: "other")])
    let up = turns(.timerFired)
    #expect(up.flatMap(renewals).flatMap(\.names).count == 200)
    #expect(up.flatMap { $0 }.compactMap(\.command).count { if case .release = $0 { true } else { false } } == 1)
    confirm(up)
    // And once more, before it has come up for the engine.
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.feed(.linkDown(.only))
    #expect(turns(.timerFired).flatMap { $0 }.isEmpty)
    #expect(turns(.shutdownRequested).flatMap { $0 }.contains(.shutdownCompleted))
  }

  /// A lease of the link of before is not taken for confirmed, whether or not its turn has come.
  @Test func nothingIsHandedOverUnderALeaseThatIsNotConfirmedYet() {
    hold(200)
    script.acquire(bob, name(199))
    script.acquire(carol, name(0))
    _ = turns(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.release(alice, name(199))
    script.release(alice, name(0))
    var effects = script.take()
    effects += turns(.timerFired).flatMap { $0 }
    #expect(effects.compactMap(\.grantedSession).isEmpty)
    confirm([effects])
    #expect(Set(script.take().compactMap(\.grantedSession)) == [bob, carol])
  }

  /// The answer to what was sent before the walk came by.
  @Test func whoComesBeforeTheWalkIsAskedForOnce() {
    hold(200)
    script.acquire(bob, "z")
    _ = script.take()
    _ = turns(.linkDown(.only))
    script.feed(.linkUp(.only))
    script.acquire(carol, "z")
    var effects = script.take()
    effects += turns(.timerFired).flatMap { $0 }
    let asks = effects.filter { if case .send(_, _, .acquire) = $0 { true } else { false } }
    #expect(asks.count == 1)
    script.reply(granted(7), to: asks.first?.commandID)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func aLinkThatComesAndGoesFasterThanTheWalkLeavesNothingBehind() {
    hold(300)
    idle("z")
    script.acquire(bob, name(5))
    _ = script.take()
    for _ in 0..<20 {
      script.feed(.linkDown(.only))
      for _ in 0..<3 { script.feed(.timerFired) }
      script.feed(.linkUp(.only))
      for _ in 0..<7 { script.feed(.timerFired) }
    }
    _ = script.take()
    _ = turns(.linkDown(.only))
    confirm(turns(.linkUp(.only)))
    #expect(script.take().compactMap(\.lostReason).isEmpty)
    for session in [alice, bob, carol] { script.feed(.sessionClosed(session)) }
    _ = turns(.linkDown(.only))
    let releases = turns(.linkUp(.only)).flatMap { $0 }.compactMap(\.commandID)
    for release in releases { script.reply(.done, to: release) }
    _ = script.take()
    script.pass(milliseconds: 100_000)
    _ = turns(.linkDown(.only))
    #expect(script.engine.recordCounts == RecordCounts())
  }

  // MARK: The end of leases

  @Test func allLeasesEndInSlices() {
    hold(Self.locks)
    _ = turns(.linkDown(.only))
    script.jump(milliseconds: 9_000)
    let lost = turns(.timerFired)
    #expect(most(lost) { $0.compactMap(\.lostReason).count } <= Self.steps)
    #expect(lost.flatMap(lostNames) == (0..<Self.locks).map { LockName(name($0)) })
    script.jump(milliseconds: 2_000)
    let over = turns(.timerFired)
    #expect(over.count >= Self.locks / Self.steps)
    #expect(script.engine.snapshot(of: LockName(name(0)), waitersMax: 0, now: script.now)?.isInUse == false)
  }

  /// Who was not told yet hears of its loss before anything else about that lock.
  @Test func aLeaseThatHasEndedIsOverBeforeItsTurn() {
    hold(300)
    script.acquire(alice, "owned", owner: "o")
    script.reply(granted(7), to: script.takeSent().last)
    script.acquire(alice, all: ["owned2", "owned3"])
    _ = turns(.linkDown(.only))
    script.jump(milliseconds: 9_000)
    script.feed(.timerFired)
    let first = lostNames(script.take())
    #expect(first == (0..<Self.steps).map { LockName(name($0)) })
    let last = LockName(name(299))
    #expect(script.engine.snapshot(of: last, waitersMax: 0, now: script.now)?.leaseState == .lost)
    #expect(script.engine.snapshot(of: last, waitersMax: 0, now: script.now)?.holdersTotal == 0)

    func lostThenRefused(_ effects: [Effect], _ name: String) {
      let told = effects.firstIndex {
        if case .lost(LockName(name), _, .leaseExpired, _, _, _) = $0.notification { true } else { false }
      }
      let answered = effects.firstIndex { $0.refusal == .lost(.leaseExpired) }
      #expect(told != nil && answered != nil && told! < answered!, "\(name)")
    }
    script.release(alice, name(299))
    lostThenRefused(script.take(), name(299))
    script.feed(
      .extendRequested(alice, script.newRequest(), name: LockName(name(298)), token: nil, maxHoldMilliseconds: 9))
    lostThenRefused(script.take(), name(298))
    script.feed(
      .transferRequested(alice, script.newRequest(), name: LockName(name(297)), token: nil, to: bob))
    lostThenRefused(script.take(), name(297))
    // An owner does not enter again what it has no more.
    script.acquire(alice, "owned", owner: "o")
    let again = script.take()
    #expect(lostNames(again).contains(LockName("owned")))
    #expect(again.compactMap(\.grantedSession).isEmpty)
    // Nor does anybody else get it, before its grace is over.
    script.acquire(bob, name(296))
    #expect(script.take().compactMap(\.grantedSession).isEmpty)
    // A lost lease that was ended out of its turn is not given back before its grace is over.
    _ = turns(.timerFired)
    #expect(script.engine.snapshot(of: last, waitersMax: 0, now: script.now)?.leaseState == .lost)
  }

  // MARK: Many holds of one lock

  /// Alice and bob share a lock, each with so many holds. The tokens, in their order.
  private func share(_ count: Int) -> [Token] {
    script.acquire(alice, mode: .shared)
    script.reply(.granted(LeaseGrant(token: 1, tokenCount: 1 << 20, othersWait: false)))
    for index in 1..<count { script.acquire(index % 2 == 0 ? alice : bob, mode: .shared) }
    return script.take().compactMap(\.grantedToken)
  }

  @Test(arguments: [LostReason.broken, .leaseExpired, .dataLoss])
  func veryManyHoldsOfOneLockAreLostInSlices(_ reason: LostReason) throws {
    let count = 1_000
    let tokens = share(count)
    script.acquire(carol)
    _ = script.take()
    let first: [Effect]
    switch reason {
    case .broken:
      script.feed(.breakRequested(name: x, tokens: tokens, reason: "stuck"))
      first = script.take()
    case .leaseExpired:
      _ = turns(.linkDown(.only))
      script.jump(milliseconds: 9_000)
      script.feed(.timerFired)
      first = script.take()
    default:
      script.jump(milliseconds: 4_000)
      script.feed(.timerFired)
      let renewal = try #require(renewals(script.take()).first)
      script.reply(.renewed([.lost]), to: renewal.id)
      first = script.take()
    }
    var lost = first.compactMap(\.lostReason).count
    #expect(lost > 0 && lost <= 2 * Self.steps)
    // Nobody is shown as a holder any more.
    let snapshot = script.engine.snapshot(of: x, waitersMax: 0, now: script.now)
    #expect(snapshot?.holdersTotal == 0 && snapshot?.mode == nil)
    // Whoever gives back, or prolongs, what is lost hears of it first.
    script.release(bob, token: tokens[count - 1])
    var effects = script.take()
    #expect(effects.contains { $0.refusal == .lost(reason) })
    #expect(effects.compactMap(\.lostReason).contains(reason))
    lost += effects.compactMap(\.lostReason).count
    script.feed(
      .extendRequested(bob, script.newRequest(), name: x, token: tokens[count - 3], maxHoldMilliseconds: 10))
    effects = script.take()
    #expect(effects.contains { $0.refusal == .lost(reason) })
    lost += effects.compactMap(\.lostReason).count
    // One that would be looked at next leaves meanwhile.
    script.feed(.sessionClosed(alice))
    effects = script.take()
    lost += effects.compactMap(\.lostReason).count
    #expect(effects.compactMap(\.grantedSession).isEmpty)
    let rest = turns(.timerFired)
    #expect(most(rest) { $0.compactMap(\.lostReason).count } <= 2 * Self.steps)
    lost += rest.flatMap { $0 }.compactMap(\.lostReason).count
    #expect(lost > count / 2 && lost <= count)
    #expect(script.engine.gauges.held == 0)
    // Who waits comes next, as soon as that is safe.
    switch reason {
    case .broken:
      let all = first + effects + rest.flatMap { $0 }
      #expect(all.compactMap(\.grantedSession).isEmpty)
      // Carol stands in the queue already, and the lease was shared, so that it goes back.
      #expect(all.contains { if case .send(_, _, .release) = $0 { true } else { false } })
    case .leaseExpired:
      #expect(script.engine.snapshot(of: x, waitersMax: 0, now: script.now)?.waitersTotal == 1)
    default:
      #expect((rest.flatMap { $0 } + effects).contains { if case .send(_, _, .acquire) = $0 { true } else { false } })
    }
  }

  /// The lease is not given back before the last holder has heard of its loss, however long that takes.
  @Test func aLostLeaseIsKeptUntilAllHaveHeardOfIt() {
    _ = share(1_000)
    script.jump(milliseconds: 20_000)
    var lost = 0
    for effects in turns(.timerFired) {
      lost += effects.compactMap(\.lostReason).count
      if effects.contains(where: { if case .send(_, _, .release) = $0 { true } else { false } }) {
        #expect(lost == 1_000)
      }
    }
    #expect(lost == 1_000)
    #expect(script.engine.gauges.held == 0)
  }

  @Test func leasesThatAreOverdueAreRenewedInSlices() {
    hold(500)
    script.jump(milliseconds: 5_000)
    let renewed = turns(.timerFired)
    #expect(renewed.flatMap(renewals).flatMap(\.names).count == 500)
    #expect(most(renewed) { renewals($0).flatMap(\.names).count } <= 2 * Self.steps)
  }
}
