/// What happens to the process of a client that loses a lock.
public enum LossAction: String, Hashable, Sendable, CaseIterable {
  /// It is told.
  case notify
  /// It gets SIGTERM, and SIGKILL before anybody else can have the lock.
  case terminate
  /// It gets SIGKILL.
  case kill
}

/// Why a hold was lost.
public enum LostReason: String, CaseIterable, Equatable, Sendable {
  /// The lease could not be renewed in time.
  case leaseExpired = "lease_expired"
  /// The hold reached its own limit.
  case maxHold = "max_hold"
  /// The store no longer had the lease, before its time.
  case dataLoss = "data_loss"
  /// The daemon stopped.
  case shutdown = "shutdown"
  /// An administrator took it.
  case broken = "broken"
  /// The client has closed its half: it can neither give it back nor ask for anything else.
  case halfClosed = "half_closed"
}
