public import LockTypes

/// What the engine wants done. Effects are carried out in their order.
public enum Effect: Equatable, Sendable {
  /// Answer a request. A request is answered exactly once, or its session is gone.
  case reply(SessionID, RequestID, Reply)
  /// Tell a client something unasked.
  case notify(SessionID, Notification)
  /// Send a command to a shard of the store. Its reply comes back as ``Event/replyReceived(_:_:_:)``.
  case send(ShardID, CommandID, LeaseCommand)
  /// Find out how many replicas have everything that the store has replied so far, and answer with
  /// ``Event/acknowledged(_:_:_:)`` when those are enough, or not by `until`. Unlike a command it may take long, so it must
  /// not keep back the commands behind it.
  case acknowledge(ShardID, AcknowledgementID, ReplicaNeed, until: BootInstant)
  /// Nobody waits for that answer any more.
  case forgetAcknowledgement(ShardID, AcknowledgementID)
  /// Another host waits for what the release before this gives back: send it before output that frees nobody.
  case flushSoon
  /// Something happened to a lock, for those who watch. Only while there are any (``Event/watched(steps:)``).
  case observed(LockName, LockEvent)
  /// Something happened to a lock of a kind that is wanted (``Event/historyWanted(_:)``).
  indirect case recorded(LockHistory)
  /// After ``Event/shutdownRequested``: everything has been given back and confirmed.
  case shutdownCompleted
  /// A session has had a lock for longer than ``EngineSettings/warnHoldMilliseconds``, and so many wait for it here. Said once
  /// of each hold.
  case heldLong(SessionID, LockName, Token, since: BootInstant, waiters: Int)
}

/// The answer to a request.
public enum Reply: Equatable, Sendable {
  /// The lock is the client's.
  case acquired(Acquired)
  /// All the locks of one request are the client's.
  case acquiredAll(AcquiredAll)
  /// The lock was given back. `remaining`: holds of the same owner that are left.
  case released(name: LockName, token: Token, remaining: Int)
  /// The hold's limit was set.
  case extended(name: LockName, token: Token, maxHoldMilliseconds: Int64?)
  /// The hold is shared from now on.
  case downgraded(name: LockName, token: Token)
  /// The hold is another session's, under this fresh token.
  case transferred(name: LockName, token: Token, to: SessionID)
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
  /// How it is held.
  public var mode: HoldMode
  /// How long the request waited, in milliseconds.
  public var waitedMilliseconds: Int64
  /// For how many milliseconds from now the hold is safe without any renewal; nil in the local tier, where it does
  /// not end by itself.
  public var validMilliseconds: Int64?

  /// A grant.
  public init(
    name: LockName, token: Token, mode: HoldMode = .exclusive, waitedMilliseconds: Int64, validMilliseconds: Int64?
  ) {
    self.name = name
    self.token = token
    self.mode = mode
    self.waitedMilliseconds = waitedMilliseconds
    self.validMilliseconds = validMilliseconds
  }
}

/// A grant of several locks at once.
public struct AcquiredAll: Equatable, Sendable {
  /// The locks, in the order in which they were asked for.
  public var locks: [GrantedLock]
  /// How they are held.
  public var mode: HoldMode
  /// How long the request waited, in milliseconds.
  public var waitedMilliseconds: Int64
  /// For how many milliseconds from now all of them are safe without any renewal; nil in the local tier.
  public var validMilliseconds: Int64?

  /// A grant.
  public init(locks: [GrantedLock], mode: HoldMode, waitedMilliseconds: Int64, validMilliseconds: Int64?) {
    self.locks = locks
    self.mode = mode
    self.waitedMilliseconds = waitedMilliseconds
    self.validMilliseconds = validMilliseconds
  }
}

/// Why the store does not say who has a lock.
public enum StoreTrouble: Hashable, Sendable {
  /// It cannot be reached.
  case unreachable
  /// It refuses, in these words.
  case refused(String)
  /// It has other data than before, and grants nothing until then.
  case recovering(until: BootInstant)
}

/// Why a request had no success.
public enum Refusal: Equatable, Sendable {
  /// A try met a lock in use: who has it, and which lock that is.
  case busy(HolderSummary, of: LockName)
  /// The wait for a lock reached its limit.
  case timeout(HolderSummary, of: LockName)
  /// The client withdrew it.
  case cancelled
  /// The session does not hold that name, or not under that token. `heldTokens`: what it does hold of that name.
  case notHeld(heldTokens: [Token])
  /// The session held it and lost it before this request came.
  case lost(LostReason)
  /// The store cannot be reached or is in a state in which it refuses; its own words where it said any.
  case unavailable(String?)
  /// The store has other data than before: who holds a lock keeps it, and nothing is granted for so long.
  case recovering(retryMilliseconds: Int64)
  /// A key of this lock holds data of others: which one, where that is known.
  case wrongType(OtherData?, of: LockName)
  /// The name is in use as something else, or its owner has it in another mode: how it is held, and who has it where
  /// that may be others.
  case modeConflict(HoldMode, HolderSummary = .unknown, of: LockName? = nil)
  /// The wait would never have ended: who holds what and waits for what, the refused request first.
  case deadlock([DeadlockStep])
  /// There is no such session to hand a lock to.
  case noSuchSession
  /// The receiver of a transfer neither waits for the lock nor accepts transfers.
  case notAccepted
  /// A limit was reached.
  case limit(LimitName)
  /// Too few replicas have acknowledged the grant in time, so that it was given back. `words`: why it cannot be had at all.
  case underReplicated(ReplicaNeed, acknowledged: Int, String?)
  /// The daemon stops.
  case shuttingDown
}

/// Who has the lock, as far as this host knows; nobody at all when it was changing hands.
public struct HolderSummary: Equatable, Sendable {
  /// A session of this host that holds it.
  public struct Local: Equatable, Sendable {
    /// The session.
    public var session: SessionID
    /// The token of its hold.
    public var token: Token
  }

  /// How many sessions of this host it names at the most.
  public static let localMax = 16

  /// Sessions of this host, those that have held it longest.
  public var local: [Local] = []
  /// Other sidelock hosts.
  public var hosts: [String] = []
  /// Whether a process that does not use sidelock has it.
  public var isForeign = false

  /// Nobody is known.
  public static let unknown = HolderSummary()
  /// A process that does not use sidelock.
  public static let foreign = HolderSummary(isForeign: true)
  /// One session of this host, with its token.
  public static func local(_ session: SessionID, _ token: Token) -> HolderSummary {
    HolderSummary(local: [Local(session: session, token: token)])
  }
  /// One other sidelock host.
  public static func host(_ host: String) -> HolderSummary { HolderSummary(hosts: [host]) }
}

/// What a client is told unasked.
public enum Notification: Equatable, Sendable {
  /// A hold is no more.
  ///
  /// - `graceMilliseconds`: how long from now until another could be granted the lock.
  /// - `onLost`: what its client asked for in this case.
  /// - `detail`: the words of the administrator who took it.
  case lost(
    name: LockName, token: Token, reason: LostReason, graceMilliseconds: Int64, onLost: LossAction = .notify,
    detail: String? = nil)
  /// A request waits at `position`, from 1 on, of this host's queue; with `trouble` it waits for the store.
  case waiting(
    request: RequestID, name: LockName, position: Int, holder: HolderSummary, trouble: StoreTrouble? = nil)
  /// Others wait for what the client holds. `waiters` counts those of this host, and one more where another host waits.
  case contended(name: LockName, token: Token, waiters: Int)
  /// Another session of this host has handed its hold to this one.
  case transferred(name: LockName, token: Token, mode: HoldMode, from: SessionID)
}
