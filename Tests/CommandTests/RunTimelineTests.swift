import Foundation
import LockEngine
import TestSupport
import Testing

@testable import sidelock

/// Holds the numbers of `sidelock run`, of the daemon's leases and of the packaged service together: each of them is
/// right by itself, and together they decide whether a daemon that hangs is replaced before a command is ended for it.
struct RunTimelineTests {
  /// A time of the service in milliseconds, such as `500ms` or `3s`.
  func milliseconds(_ key: String) throws -> Int64 {
    let lines = try Repository.text("packaging/systemd/sidelockd.service").split(separator: "\n")
    let values = lines.compactMap { $0.hasPrefix("\(key)=") ? $0.dropFirst(key.count + 1) : nil }
    let value = try #require(values.count == 1 ? values[0] : nil, "\(key)")
    if value.hasSuffix("ms") { return try #require(Int64(value.dropLast(2))) }
    return try #require(value.hasSuffix("s") ? Int64(value.dropLast()) : nil) * 1000
  }

  @Test func aDaemonThatHangsIsReplacedBeforeTheLockIsGivenUp() throws {
    let lease = LeaseTimeline.standard
    let replaced =
      try milliseconds("WatchdogSec") + milliseconds("TimeoutAbortSec") + milliseconds("RestartSec")
      + RunTimeline.startMilliseconds
    #expect(replaced <= lease.leaseMilliseconds * RunTimeline.askAtPercent / 100)
    // By the latest question the lease has been renewed, if the daemon lived.
    #expect(
      lease.lostAfterMilliseconds - lease.renewAfterMilliseconds
        >= lease.leaseMilliseconds * RunTimeline.askAtPercent / 100)
    // Whoever waits without a limit is as patient.
    #expect(Supervisor.Patience.silenceWithoutLimitMilliseconds > replaced)
    #expect(Supervisor.resumeMilliseconds > replaced)
  }

  @Test(arguments: [1000, 3000, 10_000, 3_600_000] as [Int64])
  func theGroupIsGoneBeforeAnotherHostCanHaveTheLock(milliseconds: Int64) {
    let timeline = LeaseTimeline(leaseMilliseconds: milliseconds)
    // Granted in the moment in which the command that took the lease was sent.
    let lease = Supervisor.Lease(
      validMilliseconds: timeline.lostAfterMilliseconds, asked: 0, length: timeline.leaseMilliseconds)
    #expect(lease.validUntil == timeline.lostAfterMilliseconds)
    let grace = timeline.graceEndsAfterMilliseconds - timeline.lostAfterMilliseconds
    #expect(grace == timeline.leaseMilliseconds * RunTimeline.gracePercentOfLease / 100)
    #expect(lease.killAt == timeline.lostAfterMilliseconds + grace * RunTimeline.killPercentOfGrace / 100)
    #expect(lease.killAt < timeline.graceEndsAfterMilliseconds)
  }

  /// A reload has made the lease last for 2 s or less: with `dead_host_ms`, what is held ends with its host. It is asked for in
  /// time from the first answer that shows it on, and the group is gone before another host can have the lock.
  @Test func aLeaseThatHasBecomeShorterIsAskedForInTime() {
    var lease = Supervisor.Lease(validMilliseconds: 51_000, asked: 0, length: 60_000)
    #expect(lease.deadline == 21_000)
    var now: Int64 = 21_000
    for valid: Int64 in [1700, 1300, 1050, 1690] {
      lease.asked(now: now)
      lease.answered(validMilliseconds: valid, now: now + 1)
      #expect(lease.validUntil == now + valid && lease.deadline < lease.validUntil - 500)
      #expect(lease.killAt <= lease.validUntil + 2000 * 15 / 100)
      now = lease.deadline
    }
    // And it has become longer again.
    lease.asked(now: now)
    lease.answered(validMilliseconds: 51_000, now: now)
    #expect(lease.length == 60_000 && lease.deadline == now + 21_000)
  }

  /// Half of a lease is left at least while it is renewed: then its length is the one that was told.
  @Test(arguments: [5000, 5167, 7000, 8500] as [Int64]) func aLeaseThatIsRenewedKeepsItsLength(_ valid: Int64) {
    var lease = Supervisor.Lease(validMilliseconds: 8500, asked: 0, length: 10_000)
    lease.asked(now: 3500)
    lease.answered(validMilliseconds: valid, now: 3500)
    #expect(lease.length == 10_000)
  }

  @Test func theWordsOfTheTimelineAreItsNumbers() {
    let lease = LeaseTimeline.standard
    #expect(lease.renewAfterMilliseconds == 3333)
    #expect(lease.lostAfterMilliseconds == 8500)
    #expect(
      Supervisor.Lease(validMilliseconds: 8500, asked: 0, length: 10_000).killAt == 9340)
  }

  /// A session that waits is not ended while its process is only slow.
  @Test func theKeepaliveIsFedInTime() {
    #expect(Supervisor.Patience.keepaliveMilliseconds >= 3 * Supervisor.Patience.askMilliseconds)
    #expect(Supervisor.Patience.keepaliveMilliseconds >= 1000)
  }
}
