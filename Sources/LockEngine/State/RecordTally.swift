/// How many records the engine has in memory, whoever still refers to them.
///
/// Records refer to each other both ways, so that one that is forgotten without being taken apart stays for ever. When
/// everybody has left, the store knows what it must, and all is zero, nothing was.
public struct RecordCounts: Equatable, Sendable {
  /// Locks of which something is known.
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

/// Counts the records of one engine: each adds itself when it comes to be and takes itself away when its memory goes.
final class RecordTally {
  var counts = RecordCounts()
  /// Bytes of what all sessions hold and wait for; see ``LockBytes``.
  var lockBytes = 0
}
