/// How many records the engine has in memory; a leak shows here.
///
/// Records refer to each other both ways: one that is forgotten with its references intact stays for ever. When all
/// sessions have left and the store has been told everything, any count but zero is a leak.
public struct RecordCounts: Equatable, Sendable {
  /// Locks that have a record.
  public var locks = 0
  /// Leases, from the first ask to the end.
  public var leases = 0
  /// Holds.
  public var holds = 0
  /// Requests that wait for a lock.
  public var waiters = 0
  /// Requests for several locks.
  public var severalRequests = 0
  /// Sessions.
  public var sessions = 0

  /// No records.
  public init() {}
}

/// Counts the records of one engine: each adds itself in `init` and subtracts itself in `deinit`.
final class RecordTally {
  var counts = RecordCounts()
  /// Bytes of what all sessions hold and wait for; see ``LockBytes``.
  var lockBytes = 0
}
