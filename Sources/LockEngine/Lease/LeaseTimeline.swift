/// The arithmetic of one host lease. Every figure follows from the lease's length, and every figure counts from the
/// moment at which the command that took or renewed it was SENT, on the boot clock, so that neither a slow reply nor a
/// suspended host can make a lease look longer than it is.
///
/// With the default of 10 s:
/// ```
///      0 ms   the command is sent; Redis executes it later, so that its TTL ends at 10 000 ms or after
///  3 333 ms   the lease is renewed; if that fails, again every 833 ms
///  8 500 ms   not renewed: the lease is LOST and its holder is told; from here on nobody on this host is granted it
///  9 900 ms   the holder's grace ends (1 % is left for clocks that run apart); this host may ask for the lock again
/// 10 000 ms   at the earliest: the key expires, and another host may have the lock
/// ```
/// Between LOST and the end of the grace `sidelock run` ends its command's process group.
public struct LeaseTimeline: Equatable, Sendable {
  /// The timeline of a lease of 10 s.
  public static let standard = LeaseTimeline(leaseMilliseconds: 10_000)

  /// Lengths that a lease may have, in milliseconds: those of the setting `lease_ms`.
  public static let millisecondsRange: ClosedRange<Int64> = 1000...3_600_000

  /// The length of a lease, in milliseconds.
  public let leaseMilliseconds: Int64

  /// The timeline of leases of this length, in milliseconds.
  public init(leaseMilliseconds: Int64) {
    self.leaseMilliseconds = leaseMilliseconds
  }

  /// From sent to the next renewal, in milliseconds.
  public var renewAfterMilliseconds: Int64 { leaseMilliseconds / 3 }
  /// From a renewal that failed to the next, in milliseconds.
  public var renewRetryMilliseconds: Int64 { leaseMilliseconds / 12 }
  /// How much earlier than necessary a lease may be renewed, to share a command with others, in milliseconds.
  public var renewSlackMilliseconds: Int64 { leaseMilliseconds / 12 }
  /// A lock is given to a client only when its lease is good for at least so long, in milliseconds: to be told of a
  /// grant and of its loss in one breath helps nobody.
  public var grantWorthMilliseconds: Int64 { leaseMilliseconds / 12 }
  /// From sent to lost, in milliseconds.
  public var lostAfterMilliseconds: Int64 { leaseMilliseconds * 85 / 100 }
  /// From sent to the end of the lost holder's grace, in milliseconds.
  public var graceEndsAfterMilliseconds: Int64 { leaseMilliseconds * 99 / 100 }
  /// The longest silence on the link while this host waits for a push: a pushed grant counts from the last command that
  /// was answered before it. In milliseconds.
  public var heartbeatMilliseconds: Int64 { min(1000, leaseMilliseconds / 5) }
}
