import LockEngine
import LockTypes
import Testing

/// How the renewals of many leases are spread.
@Suite struct RenewalTests {
  /// How many leases each renewal among the effects names, and the command's id.
  private func renewals(_ effects: [Effect]) -> [(id: CommandID, count: Int)] {
    effects.compactMap { effect in
      guard case .send(_, let id, .renew(let leases, _, _)) = effect else { return nil }
      return (id, leases.count)
    }
  }

  private func holding(_ count: Int, batchMax: Int, inFlightMax: Int) -> Script {
    let script = Script(
      EngineConfiguration(tier: .store) {
        $0.renewalBatchMax = batchMax
        $0.renewalsInFlightMax = inFlightMax
      })
    script.open(alice)
    for index in 0..<count { script.hold(alice, "lock-\(index)") }
    return script
  }

  private func confirm(_ renewal: (id: CommandID, count: Int), _ script: Script) {
    script.reply(.renewed(Array(repeating: .held, count: renewal.count)), to: renewal.id)
  }

  @Test func manyLeasesAreRenewedAFewCommandsAtATime() throws {
    let script = holding(70, batchMax: 10, inFlightMax: 2)
    script.pass(milliseconds: 3_333)
    var underWay = renewals(script.take())
    #expect(underWay.map(\.count) == [10, 10])
    var total = 20
    while let oldest = underWay.first {
      underWay.removeFirst()
      confirm(oldest, script)
      let next = renewals(script.take())
      // Each answer makes room for one more, in the same turn, until all are renewed.
      #expect(next.map(\.count) == (total < 70 ? [10] : []))
      total += next.reduce(0) { $0 + $1.count }
      underWay += next
    }
    #expect(total == 70)
    // The next round comes a third of a lease later, and not before.
    script.pass(milliseconds: 3_332)
    #expect(renewals(script.take()).isEmpty)
    script.pass(milliseconds: 1)
    #expect(renewals(script.take()).map(\.count) == [10, 10])
  }

  @Test func leasesThatAreOverdueWaitForNobody() {
    let script = holding(70, batchMax: 10, inFlightMax: 2)
    script.pass(milliseconds: 3_400)
    #expect(renewals(script.take()).map(\.count) == [10, 10])
    // The store does not answer. A twelfth of a lease after they were due, all the others go out.
    script.pass(milliseconds: 700)
    #expect(renewals(script.take()).isEmpty)
    script.pass(milliseconds: 100)
    #expect(renewals(script.take()).map(\.count) == [10, 10, 10, 10, 10])
  }

  /// A lease's end is put off with each renewal, and it must not take the timer for each to find that.
  @Test func theTimerIsNotWantedForTheOldEndOfEachLease() throws {
    let script = Script(EngineConfiguration(tier: .store))
    script.open(alice)
    for index in 0..<300 {
      script.hold(alice, "lock-\(index)")
      script.pass(milliseconds: 1)
    }
    var fired = 0
    for _ in 0..<100 {
      let next = try #require(script.engine.nextDeadline)
      script.pass(milliseconds: max(1, next.milliseconds(since: script.now)))
      fired += 1
      for renewal in renewals(script.take()) { confirm(renewal, script) }
      if script.now.milliseconds(since: BootInstant(nanoseconds: 0)) > 40_000 { break }
    }
    #expect(script.engine.statistics.leasesLost == 0)
    // A renewal of all every 3.3 s, and a look at the ends now and then.
    #expect(fired < 50)
  }

  @Test func theTimerIsNotWantedForRenewalsThatWaitForOthers() throws {
    let script = holding(70, batchMax: 10, inFlightMax: 2)
    script.pass(milliseconds: 3_400)
    let wanted = try #require(script.engine.nextDeadline)
    #expect(wanted > script.now)
  }

  @Test func renewalsThatABrokenConnectionSwallowedMakeRoom() {
    let script = holding(70, batchMax: 10, inFlightMax: 2)
    script.pass(milliseconds: 3_400)
    #expect(renewals(script.take()).map(\.count) == [10, 10])
    script.feed(.linkDown(.only))
    script.feed(.linkUp(.only))
    // After a reconnect every lease is in doubt: all are asked for at once.
    let all = renewals(script.take())
    #expect(all.map(\.count).reduce(0, +) == 70)
    for renewal in all { confirm(renewal, script) }
    script.pass(milliseconds: 3_400)
    #expect(renewals(script.take()).map(\.count) == [10, 10])
  }

  /// The names and the length in each renewal.
  private func renewed(_ effects: [Effect]) -> [String] {
    effects.compactMap { effect in
      guard case .send(_, _, .renew(let leases, let milliseconds, _)) = effect else { return nil }
      return "\(leases.map { "\($0.name)" }.joined(separator: " ")): \(milliseconds)"
    }
  }

  @Test func aLeaseHasOneLengthForAsLongAsItLives() {
    let script = Script(EngineConfiguration(tier: .store))
    script.open(alice)
    script.hold(alice, "a")
    script.reconfigure {
      $0.leaseMilliseconds = 3_000
      $0.storeTimeoutMilliseconds = 700
    }
    script.acquire(alice, "b")
    script.reply(.granted(LeaseGrant(token: 7, tokenCount: 1000, othersWait: false)))
    #expect(
      script.sent() == [
        .acquire(
          name: LockName("b"), attempt: 2, ask: 2, isTry: false, terms: .above(100), leaseMilliseconds: 3_000)
      ])
    // Each at a third of its own length.
    script.pass(milliseconds: 1_000)
    script.reply(.renewed([.held]))
    #expect(renewed(script.take()) == ["b: 3000"])
    script.pass(milliseconds: 1_000)
    script.reply(.renewed([.held]))
    #expect(renewed(script.take()) == ["b: 3000"])
    script.pass(milliseconds: 1_340)
    #expect(renewed(script.take()) == ["b: 3000", "a: 10000"])
    // And each is lost in its own time.
    script.feed(.linkDown(.only))
    #expect(script.take().compactMap(\.lostReason) == [])
    script.pass(milliseconds: 1_220)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
    script.pass(milliseconds: 3_930)
    #expect(script.take().compactMap(\.lostReason) == [])
    script.pass(milliseconds: 20)
    #expect(script.take().compactMap(\.lostReason) == [.leaseExpired])
  }

  @Test func leasesOfTwoLengthsAreRenewedInACommandEach() {
    let script = Script(EngineConfiguration(tier: .store))
    script.open(alice)
    for index in 0..<6 {
      script.reconfigure { $0.leaseMilliseconds = index % 2 == 0 ? 10_000 : 12_000 }
      script.hold(alice, "\(index)")
    }
    script.pass(milliseconds: 4_000)
    #expect(renewed(script.take()) == ["0 2 4: 10000", "1 3 5: 12000"])
  }

  @Test func noLeaseIsLateWhenTheStoreIsSlow() {
    let script = holding(200, batchMax: 10, inFlightMax: 2)
    var underWay: [(id: CommandID, count: Int)] = []
    // Each command takes 100 ms, so that a round of one by one would take two seconds.
    for _ in 0..<600 {
      script.pass(milliseconds: 100)
      underWay += renewals(script.take())
      if !underWay.isEmpty { confirm(underWay.removeFirst(), script) }
    }
    #expect(script.engine.statistics.leasesLost == 0)
    #expect(script.engine.statistics.renewals > 200 * 10)
  }

  // MARK: An order to break

  /// Alice's hold is broken, and bob waits.
  private func waiterBehindABrokenHold() -> Script {
    let script = Script()
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.feed(.breakRequested(name: x, tokens: [100], reason: "stuck"))
    return script
  }

  /// This host was stopped, and the lock was taken from it meanwhile: nobody here may get it out of the lease of before.
  @Test func whoWaitsBehindABrokenHoldIsServedWhenTheStoreHasConfirmedTheLease() {
    let script = waiterBehindABrokenHold()
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [])
    #expect(effects.contains { if case .notify(alice, .lost) = $0 { true } else { false } })
    let renewals = effects.compactMap { if case .send(_, let id, .renew) = $0 { id } else { nil } }
    #expect(renewals.count == 1)
    script.reply(.renewed([.held]), to: renewals.first)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func whoWaitsBehindABrokenHoldOfALeaseThatIsGoneAsksAnew() {
    let script = waiterBehindABrokenHold()
    let renewals = script.takeSent()
    script.reply(.renewed([.lost]), to: renewals.first)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [])
    #expect(effects.contains { if case .send(_, _, .acquire) = $0 { true } else { false } })
  }

  /// A renewal that was under way may have been executed before the lock was taken.
  @Test func aRenewalOfBeforeSaysNothingAboutABrokenLease() {
    let script = Script()
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 3_400)
    let early = script.take().compactMap { if case .send(_, let id, .renew) = $0 { id } else { nil } }
    #expect(early.count == 1)
    script.jump(milliseconds: 5)
    script.feed(.breakRequested(name: x, tokens: [100], reason: "stuck"))
    _ = script.take()
    script.reply(.renewed([.held]), to: early.first)
    let effects = script.take()
    #expect(effects.compactMap(\.grantedSession) == [])
    let late = effects.compactMap { if case .send(_, let id, .renew) = $0 { id } else { nil } }
    script.reply(.renewed([.held]), to: late.first)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }
}
