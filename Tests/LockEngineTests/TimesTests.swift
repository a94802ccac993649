import LockTypes
import Testing

@testable import LockEngine

/// What the engine counts by time, and by reason.
@Suite struct TimesTests {
  let script = Script()

  private var counters: EngineCounters { script.engine.statistics }

  /// How many there were of one kind in each class that has any, by its upper end in milliseconds; nil is the last class.
  private func classes(_ times: TimeHistogram) -> [Double?: UInt64] {
    let ends = TimeHistogram.classes.map { Double($0) / 1000 as Double? } + [nil]
    return Dictionary(uniqueKeysWithValues: zip(ends, times.counts).filter { $1 > 0 })
  }

  @Test func classesAreByTheirUpperEnds() {
    var times = TimeHistogram()
    let since = BootInstant(nanoseconds: 7)
    for (nanoseconds, place) in [(0, 0), (1, 0), (30_000, 0), (30_001, 1), (100_000, 1), (3_000_000_000_000, 16)] {
      let before = times.counts[place]
      times.count(since: since, now: BootInstant(nanoseconds: 7 + Int64(nanoseconds)))
      #expect(times.counts[place] == before + 1, "\(nanoseconds)")
    }
    times.count(since: since, now: BootInstant(nanoseconds: .max))
    #expect(times.counts.last == 1)
    // A clock that went back, and records that were damaged.
    times.count(since: since, now: BootInstant(nanoseconds: 0))
    times.count(since: BootInstant(nanoseconds: .min), now: BootInstant(nanoseconds: .max))
    #expect(times.total == 9 && times.counts.count == TimeHistogram.classes.count + 1)
    #expect(zip(TimeHistogram.classes, TimeHistogram.classes.dropFirst()).allSatisfy { $0 < $1 })
  }

  @Test func whoMeetsNobodyHasNotWaited() {
    script.open(alice)
    script.acquire(alice)
    script.pass(milliseconds: 2)
    script.reply(granted(100))
    script.pass(milliseconds: 250)
    script.release(alice)
    #expect(classes(counters.acquires) == [3: 1])
    #expect(classes(counters.answers) == [3: 1])
    #expect(classes(counters.holds) == [300: 1])
    #expect(counters.waits.total == 0 && counters.handovers.total == 0 && counters.leaseHandovers.total == 0)
    #expect(counters.acquires.sumMicroseconds == 2000 && counters.holds.sumMicroseconds == 250_000)
  }

  @Test func whoFindsTheLockInUseHasWaited() {
    script.open(alice, bob)
    script.hold(alice)
    script.acquire(bob)
    script.pass(milliseconds: 20)
    script.release(alice)
    #expect(classes(counters.waits) == [30: 1])
    #expect(classes(counters.acquires) == [0.03: 1, 30: 1])
    #expect(classes(counters.handovers) == [0.03: 1])
  }

  @Test func aLockThatCameBackFromAnotherHostWasNotHandedOverHere() {
    let script = Script(EngineConfiguration(tier: .store) { $0.settings.cohortMilliseconds = 0 })
    script.open(alice, bob)
    script.hold(alice)
    script.feed(
      .pushReceived(.only, .contended(name: x, attempt: 1, ask: 1, isTry: false, inbox: "other/1")))
    script.acquire(bob)
    script.reply(queued())
    _ = script.take()
    script.pass(milliseconds: 20)
    script.release(alice)
    #expect(script.take().compactMap(\.grantedToken).isEmpty)
    script.pass(milliseconds: 20)
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 2, LeaseGrant(token: 200, tokenCount: 1, othersWait: false))))
    #expect(script.take().compactMap(\.grantedToken) == [200])
    let counters = script.engine.statistics
    #expect(counters.handovers.total == 0 && classes(counters.leaseHandovers) == [100: 1])
  }

  @Test func aGrantThatIsPushedCountsFromTheFirstAsk() {
    script.open(alice)
    script.acquire(alice)
    script.reply(queued())
    script.pass(milliseconds: 70)
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 9, tokenCount: 1, othersWait: false))))
    #expect(script.take().contains { $0.grantedToken == 9 })
    #expect(classes(counters.leaseHandovers) == [100: 1])
    #expect(classes(counters.waits) == [100: 1])
    #expect(counters.handovers.total == 0)
  }

  @Test func aRequestForSeveralLocksCountsOnce() {
    script.open(alice, bob)
    script.hold(bob, "a")
    script.acquire(alice, all: ["a", "b"])
    script.pass(milliseconds: 20)
    script.release(bob, "a")
    script.pass(milliseconds: 1)
    script.reply(granted(200))
    #expect(script.take().contains { $0.grantedTokens?.count == 2 })
    #expect(classes(counters.acquires) == [0.03: 1, 30: 1])
    #expect(classes(counters.waits) == [30: 1])
  }

  @Test func whatAClientWasNeverToldIsNoHold() {
    script.open(alice, bob)
    script.hold(bob, "b")
    script.acquire(alice, all: ["a", "b"], wait: 20)
    script.reply(granted(200))
    script.pass(milliseconds: 30)
    #expect(script.take().contains { if case .timeout = $0.refusal { true } else { false } })
    #expect(counters.holds.total == 0)
  }

  @Test func lossesAreCountedByReason() {
    script.open(alice, bob)
    script.hold(alice, maxHold: 50)
    script.hold(bob, "y")
    script.pass(milliseconds: 60)
    script.feed(.breakRequested(name: LockName("y"), tokens: [100], reason: ""))
    let losses = counters.losses.all.filter { $0.count > 0 }
    #expect(losses.map(\.reason) == [.maxHold, .broken] && losses.map(\.count) == [1, 1])
    #expect(counters.lost == 2 && classes(counters.holds) == [100: 2])
  }

  @Test func aRequestThatEndsWithItsClientHasHeldNothing() {
    script.open(alice, bob)
    script.hold(bob, "b")
    script.acquire(alice, all: ["a", "b"])
    script.reply(granted(200))
    script.pass(milliseconds: 30)
    script.feed(.sessionClosed(alice))
    #expect(counters.holds.total == 0)
  }

  @Test func severalLocksAreHeldFromTheGrantOfAllOn() {
    script.open(alice, bob)
    script.hold(bob, "b")
    script.acquire(alice, all: ["a", "b"])
    script.reply(granted(200))
    script.pass(milliseconds: 3000)
    script.release(bob, "b")
    script.pass(milliseconds: 20)
    script.release(alice, "a")
    script.release(alice, "b")
    #expect(classes(counters.holds) == [30: 2, 3000: 1])
  }

  /// Nobody is waited for who shares the lock with those that go on holding it.
  @Test func whoJoinsThoseWhoShareALockIsHandedNothing() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)
    script.open(alice, bob, carol)
    script.acquire(alice, mode: .shared)
    script.acquire(bob, mode: .shared)
    script.acquire(carol, wait: 500)
    script.acquire(carol, mode: .shared)
    script.release(alice)
    script.pass(milliseconds: 600)
    #expect(script.take().compactMap(\.grantedToken).count == 3)
    #expect(script.engine.statistics.handovers.total == 0)
  }

  @Test func whatATransferHasFreedIsNotHandedOverLater() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1000)), linkUp: false)
    script.open(alice, bob, carol)
    script.acquire(alice)
    script.acquire(bob, mode: .shared)
    script.feed(.transferRequested(alice, script.newRequest(), name: x, token: nil, to: carol, isAccepting: true))
    script.pass(milliseconds: 1000)
    script.feed(.downgradeRequested(carol, script.newRequest(), name: x, token: nil))
    #expect(script.take().compactMap(\.grantedToken).count == 2)
    #expect(script.engine.statistics.handovers.total == 0)
  }
}
