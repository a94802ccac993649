import LockEngine
import LockTypes
import Testing

@Suite struct RoundTripTests {
  private func estimate(_ samples: [Int64]) -> RoundTrip {
    var trip = RoundTrip()
    for sample in samples {
      trip.answered(sentAt: BootInstant(nanoseconds: 0), now: BootInstant(nanoseconds: 0).adding(milliseconds: sample))
    }
    return trip
  }

  @Test func nothingIsKnownBeforeTheFirstAnswer() {
    #expect(RoundTrip().timeoutMilliseconds == 0)
    #expect(RoundTrip().smoothedMilliseconds == nil)
  }

  // The numbers of RFC 6298.
  @Test func theFirstAnswerCountsThreeTimes() {
    #expect(estimate([500]).smoothedMilliseconds == 500)
    #expect(estimate([500]).timeoutMilliseconds == 1500)
  }

  @Test func aSteadyLinkComesToItsOwnTime() {
    #expect((500...510).contains(estimate(Array(repeating: 500, count: 40)).timeoutMilliseconds))
  }

  @Test func aLinkThatBecomesSlowIsFollowedAtOnce() {
    let trip = estimate(Array(repeating: 10, count: 40) + [500, 500])
    #expect(trip.timeoutMilliseconds > 500)
  }

  @Test func whatNoLinkTakesIsNotReckonedWith() {
    #expect(estimate([5, 10_000, 600_000]) == estimate([5]))
    var trip = RoundTrip()
    trip.answered(sentAt: BootInstant(nanoseconds: .max), now: BootInstant(nanoseconds: 0))
    trip.answered(sentAt: BootInstant(nanoseconds: 0), now: BootInstant(nanoseconds: .max))
    #expect(trip == RoundTrip())
  }

  @Test func aHolderIsWaitedForLongerWhereAnswersTakeLonger() {
    let script = Script()
    script.reconfigure { $0.storeTimeoutMilliseconds = 500 }
    script.open(alice)
    script.acquire(alice, wait: 0)
    let ask = script.takeSent().first
    script.jump(milliseconds: 400)
    script.reply(queued(), to: ask)
    // 500, and what an answer takes: 400 + 4 * 200.
    script.pass(milliseconds: 1699)
    #expect(script.take().compactMap(\.refusal).isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().compactMap(\.refusal).count == 1)
  }

  @Test func theStoreIsWaitedForLongerWhereAnswersTakeLonger() {
    let script = Script()
    script.open(alice, bob)
    for name in ["a", "b", "c"] {
      script.acquire(alice, name)
      let ask = script.takeSent().first
      script.jump(milliseconds: 1500)
      script.reply(granted(7), to: ask)
      _ = script.take()
    }
    script.acquire(bob, wait: 0)
    _ = script.takeSent()
    script.pass(milliseconds: 2500)
    #expect(script.take().compactMap(\.refusal).isEmpty)
  }
}
