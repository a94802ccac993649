/// What the engine wants done. Effects are carried out in their order.
public enum Effect: Equatable, Sendable {
  /// Answer a request. A request is answered exactly once, or its session is gone.
  case reply(SessionID, RequestID, Reply)
  /// Tell a client something unasked.
  case notify(SessionID, Notification)
  /// Send a command to the store. Its reply comes back as ``Event/replyReceived(_:_:)``.
  case send(CommandID, LeaseCommand)
  /// After ``Event/shutdownRequested``: everything has been given back and confirmed.
  case shutdownCompleted
}

/// The answer to a request.
public enum Reply: Equatable, Sendable {
  /// The lock is the client's.
  case acquired(Acquired)
  /// The lock was given back. `remaining`: holds of the same owner that are left.
  case released(name: LockName, token: Token, remaining: Int)
  /// The hold's limit was set.
  case extended(name: LockName, token: Token, maxHoldMilliseconds: Int64?)
  /// Whether there was a waiting request to cancel.
  case cancelled(Bool)
  /// The request had no success.
  case refused(Refusal)
}

/// A grant as the client is told of it.
public struct Acquired: Equatable, Sendable {
  /// The lock.
  public var name: LockName
  /// The fencing token of this hold.
  public var token: Token
  /// How long the request waited, in milliseconds.
  public var waitedMilliseconds: Int64
  /// For how many milliseconds from now the hold is safe without any renewal; nil in the local tier, where it does
  /// not end by itself.
  public var validMilliseconds: Int64?

  /// A grant.
  public init(name: LockName, token: Token, waitedMilliseconds: Int64, validMilliseconds: Int64?) {
    self.name = name
    self.token = token
    self.waitedMilliseconds = waitedMilliseconds
    self.validMilliseconds = validMilliseconds
  }
}

/// Why a request had no success.
public enum Refusal: Equatable, Sendable {
  /// A try met a lock in use.
  case busy(HolderSummary)
  /// The wait reached its limit.
  case timeout(HolderSummary)
  /// The client withdrew it.
  case cancelled
  /// The session does not hold that name, or not under that token. `heldTokens`: what it does hold of that name.
  case notHeld(heldTokens: [Token])
  /// The session held it and lost it before this request came.
  case lost(LostReason)
  /// The store cannot be reached or is in a state in which it refuses; its own words where it said any.
  case unavailable(String?)
  /// The store's key holds data that is not a lock.
  case wrongType
  /// A bound of the engine was met.
  case limit(LimitName)
  /// The daemon stops.
  case shuttingDown
}

/// A bound on what clients may make grow inside the engine.
public enum LimitName: String, Equatable, Sendable {
  /// Waits of one session.
  case waitsPerSession = "waits_per_session"
  /// Holds of one session.
  case holdsPerSession = "holds_per_session"
  /// Waiters of one lock on this host.
  case waitersPerLock = "waiters_per_lock"
}

/// Who has the lock, as far as this host knows.
public enum HolderSummary: Equatable, Sendable {
  /// A session of this host, with its token.
  case local(SessionID, Token)
  /// Another sidelock host.
  case host(String)
  /// A process that does not use sidelock.
  case foreign
  /// Not known: the lock was changing hands.
  case unknown
}

/// What a client is told unasked.
public enum Notification: Equatable, Sendable {
  /// A hold is no more. `graceMilliseconds`: how long from now until another could be granted the lock.
  case lost(name: LockName, token: Token, reason: LostReason, graceMilliseconds: Int64)
  /// A request waits, `position` from 1 on in this host's queue.
  case waiting(request: RequestID, name: LockName, position: Int, holder: HolderSummary)
}

/// Why a hold was lost.
public enum LostReason: String, Equatable, Sendable {
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
}
