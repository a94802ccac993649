import LockTypes
import Testing

@testable import Sidecar

@Suite struct MessageTallyTests {
  private let start = BootInstant(nanoseconds: 0)

  @Test func aKindIsLoggedOnceInAWhileWithItsCount() {
    var tally = MessageTally(quietMilliseconds: 100)
    #expect(tally.toLog(kind: "a", now: start) == 1)
    for moment in [0, 50, 99] as [Int64] {
      #expect(tally.toLog(kind: "a", now: start.adding(milliseconds: moment)) == nil)
    }
    #expect(tally.toLog(kind: "b", now: start) == 1)
    #expect(tally.toLog(kind: "a", now: start.adding(milliseconds: 100)) == 4)
    #expect(tally.toLog(kind: "a", now: start.adding(milliseconds: 199)) == nil)
    #expect(tally.toLog(kind: "a", now: start.adding(milliseconds: 200)) == 2)
  }

  @Test func kindsBeyondTheLimitAreOne() {
    var tally = MessageTally()
    for kind in 0..<MessageTally.kindsMax { #expect(tally.toLog(kind: "\(kind)", now: start) == 1) }
    #expect(tally.toLog(kind: "one more", now: start) == 1)
    #expect(tally.toLog(kind: "and another", now: start) == nil)
    #expect(tally.toLog(kind: "0", now: start.adding(milliseconds: 60_000)) == 1)
  }
}
