import LockEngine
import LockTypes
import Testing

@testable import Sidecar

@Suite struct TurnTimesTests {
  private func at(_ microseconds: Int64) -> BootInstant { BootInstant(nanoseconds: microseconds * 1000) }

  @Test func theLongestTurnIsToldWithWhatTookLongestInIt() {
    var turns = TurnTimes()
    turns.begin(.acquire, now: at(0))
    turns.begin(.release, now: at(10))
    turns.begin(.send, now: at(70_010))
    let long = turns.end(now: at(70_020), processorTime: 60_000_000)
    #expect(
      long
        == TurnTimes.Turn(
          nanoseconds: 70_020_000, processorNanoseconds: 60_000_000, work: .release, workNanoseconds: 70_000_000))
    #expect(turns.longest == long)
    // A shorter one is counted, and not told.
    turns.begin(.timer, now: at(80_000))
    #expect(turns.end(now: at(80_090), processorTime: 60_050_000) == nil)
    #expect(turns.longest == long)
    #expect(turns.counts == [1, 0, 0, 0, 0, 0, 1, 0, 0, 0])
  }

  /// While others have the processor a turn is long and nobody's work is to blame for it.
  @Test func theLongestIsTheOneThatTookTheProcessorForLongest() {
    var turns = TurnTimes()
    turns.begin(.acquire, now: at(0))
    #expect(turns.end(now: at(400_000), processorTime: 1_000_000)?.processorNanoseconds == 1_000_000)
    turns.begin(.redis, now: at(500_000))
    #expect(turns.end(now: at(502_000), processorTime: 3_000_000) == nil)
    #expect(turns.longest.work == .redis)
    #expect(turns.counts == [0, 0, 0, 1, 0, 0, 0, 0, 1, 0])
  }

  @Test func whatTakesLongerThanEveryClassIsCountedToo() {
    var turns = TurnTimes()
    turns.begin(.acquire, now: at(0))
    _ = turns.end(now: at(5_000_000), processorTime: 0)
    #expect(turns.counts.last == 1)
    #expect(turns.end(now: at(6_000_000), processorTime: 0) == nil, "no turn has begun")
  }
}

@Suite struct InboxShareTests {
  private func at(_ microseconds: Int64) -> BootInstant { BootInstant(nanoseconds: microseconds * 1000) }

  @Test func messagesHaveAMillisecondAtOnceAndAQuarterOfTheTime() {
    var share = InboxShare()
    var now: Int64 = 1_000_000
    var used: Int64 = 0
    /// Takes 10 µs for each message as long as there is room.
    func flood(until end: Int64) {
      while now < end {
        if share.hasRoom(now: at(now)) {
          share.used(processorNanoseconds: 10_000, from: at(now), to: at(now + 10))
          used += 10
          now += 10
        } else {
          now += 1
        }
      }
    }
    flood(until: 1_001_000)
    #expect((900...1000).contains(used))
    // For a second.
    flood(until: 2_001_000)
    #expect((245_000...255_000).contains(used))
    // Who has been quiet has a millisecond again, and no more.
    now += 10_000_000
    used = 0
    flood(until: now + 2000)
    #expect((1250...1600).contains(used))
    // One that took long does not keep out those behind it for long.
    share.used(processorNanoseconds: 100_000_000, from: at(now), to: at(now + 100_000))
    now += 104_001
    #expect(share.hasRoom(now: at(now)))
  }

  /// Another process had the processor in the middle of a message.
  @Test func aLoopThatWasNotScheduledHasSpentNothing() {
    var share = InboxShare()
    share.used(processorNanoseconds: 10_000, from: at(1_000_000), to: at(1_100_000))
    #expect(share.hasRoom(now: at(1_100_000)))
  }
}
