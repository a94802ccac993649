// What the replies about locks and about the daemon show. Where nothing else is said, a nil member is unknown or was
// not given, and is left out of the JSON.

public import LockTypes

/// A session, as holders and waiters are shown.
public struct SessionInfo: Equatable, Sendable {
  /// The name of its host.
  public var host: String
  /// Its name on that host.
  public var session: String
  /// The process that connected.
  public var pid: Int64?
  /// The user of that process.
  public var uid: Int64?
  /// What that process runs.
  public var command: String?
  /// The systemd unit of that process.
  public var unit: String?
  /// What the client says of itself.
  public var client: String?

  /// A session.
  public init(
    host: String, session: String, pid: Int64? = nil, uid: Int64? = nil, command: String? = nil, unit: String? = nil,
    client: String? = nil
  ) {
    self.host = host
    self.session = session
    self.pid = pid
    self.uid = uid
    self.command = command
    self.unit = unit
    self.client = client
  }
}

/// Who holds a lock.
public enum HolderInfo: Equatable, Sendable {
  /// A session of this host. `mode`: how it holds; `owner`: the thread or task that the client named; `meta`: the
  /// client's own note; `token`: the fencing token; `count`: how often the owner has acquired it and not released it;
  /// `heldMilliseconds`: for how long it holds.
  case session(
    SessionInfo, mode: HoldMode? = nil, owner: String? = nil, meta: String? = nil, token: Int64, count: Int64? = nil,
    heldMilliseconds: Int64? = nil)
  /// Another host, which alone knows more. `isDead`: it has given no sign of life for so long that others may have its part.
  case host(String, isDead: Bool = false)
  /// A session of another host, as that host describes it: a JSON object on one line, which the caller has checked.
  case told([UInt8])
  /// A process that does not use sidelock.
  case foreign
}

/// A holder that `break` took a lock from and could not tell.
public struct TakenInfo: Equatable, Sendable {
  /// Why nobody told it.
  public enum Reason: String, Equatable, Sendable, CaseIterable {
    /// Its host does not listen: it has died, or is cut off.
    case hostGone = "host_gone"
    /// Its host is connected and does not answer.
    case hostSilent = "host_silent"
    /// It is a process that does not use sidelock.
    case foreign
    /// The key had lost its TTL, and its host knew nothing of it.
    case noTTL = "no_ttl"
  }

  /// Its host; nil for a process that does not use sidelock.
  public var host: String?
  /// Why nobody told it.
  public var reason: Reason
  /// For how many more milliseconds it may believe that it holds the lock; nil where that has no end.
  public var mightRunMilliseconds: Int64?

  /// A holder that was not told.
  public init(host: String?, reason: Reason, mightRunMilliseconds: Int64?) {
    self.host = host
    self.reason = reason
    self.mightRunMilliseconds = mightRunMilliseconds
  }
}

/// Who waits for a lock, on this host.
public struct WaiterInfo: Equatable, Sendable {
  /// The session.
  public var session: SessionInfo
  /// How it wants to hold the lock.
  public var mode: HoldMode
  /// The thread or task that the client named as the owner.
  public var owner: String?
  /// The client's own note.
  public var meta: String?
  /// For how many milliseconds it waits.
  public var waitedMilliseconds: Int64

  /// A waiter.
  public init(
    session: SessionInfo, mode: HoldMode = .exclusive, owner: String? = nil, meta: String? = nil,
    waitedMilliseconds: Int64
  ) {
    self.session = session
    self.mode = mode
    self.owner = owner
    self.meta = meta
    self.waitedMilliseconds = waitedMilliseconds
  }
}

/// One wait of a deadlock.
public struct DeadlockInfo: Equatable, Sendable {
  /// Who waits; nil: the client may not know.
  public var session: SessionInfo?
  /// The thread or task that the client named.
  public var owner: String?
  /// The lock that it waits for; nil: the client may not know.
  public var waitsFor: LockName?
  /// The lock that it holds and the wait before it is for (before the first comes the last); nil: the client may not
  /// know.
  public var held: LockName?

  /// A wait.
  public init(session: SessionInfo?, owner: String? = nil, waitsFor: LockName?, held: LockName?) {
    self.session = session
    self.owner = owner
    self.waitsFor = waitsFor
    self.held = held
  }
}

/// Whether Redis can be reached, and decides. Sessions with a watch are told when it changes.
public enum BackendState: String, CaseIterable, Sendable {
  /// It can.
  case connected
  /// It cannot.
  case disconnected
  /// It can, but has other data than before: who holds a lock keeps it, and nothing is granted yet.
  case recovering
}

/// Whether what happens on another host is told here. Sessions that watch all hosts are told when it changes.
public enum HeardState: String, CaseIterable, Sendable {
  /// It is, from now on.
  case heard
  /// It does not answer.
  case silent
  /// Its release does not tell it.
  case older
  /// It tells it to as many hosts as it can, or as many are heard as can be.
  case leftOut = "left_out"
  /// It listens no more.
  case gone
  /// Of the host itself: it cannot find out which others there are.
  case alone
}

/// A lock as `inspect` shows it, and without its waiters as `list` does.
public struct LockInfo: Equatable, Sendable {
  /// The name's bytes.
  public var name: LockName
  /// How it is held; nil, told as null, when nobody holds it.
  public var mode: HoldMode?
  /// Who holds it. Those who have held it longest are shown; there may be more.
  public var holders: [HolderInfo]
  /// How many sessions of this host hold it; told as `holding`.
  public var holdingCount: Int64
  /// Who waits for it on this host, first come first. At most ``Limits/shownWaitersMax`` are shown, so there need not
  /// be more.
  public var waiters: [WaiterInfo]
  /// Those who wait for it on other hosts, as those hosts describe them: JSON objects on one line, which the caller has
  /// checked. They are shown behind those of this host.
  public var toldWaiters: [[UInt8]]
  /// How many wait for it on this host; told as `waiting`.
  public var waitingCount: Int64
  /// This host's lease.
  public var lease: LeaseState
  /// For how many milliseconds from now the lease is safe without renewal; nil, told as null, where there is no lease
  /// or nothing to renew.
  public var leaseValidMilliseconds: Int64?

  /// A lock.
  public init(
    name: LockName, mode: HoldMode? = nil, holders: [HolderInfo] = [], holdingCount: Int64 = 0,
    waiters: [WaiterInfo] = [], toldWaiters: [[UInt8]] = [], waitingCount: Int64 = 0, lease: LeaseState,
    leaseValidMilliseconds: Int64? = nil
  ) {
    self.name = name
    self.mode = mode
    self.holders = holders
    self.holdingCount = holdingCount
    self.waiters = waiters
    self.toldWaiters = toldWaiters
    self.waitingCount = waitingCount
    self.lease = lease
    self.leaseValidMilliseconds = leaseValidMilliseconds
  }
}

/// What `initialize` answers.
public struct ServerInfo: Equatable, Sendable {
  /// Where the locks live.
  public enum Backend: String, Sendable {
    /// In Redis, for all hosts.
    case redis
    /// In the daemon, for this host.
    case local
  }

  /// The daemon's version.
  public var version: String
  /// Names this run of the daemon.
  public var instance: String
  /// Names the session within this run.
  public var session: String
  /// The host's name.
  public var host: String
  /// Where the locks live.
  public var backend: Backend
  /// How long a lease lasts without renewal, in milliseconds; nil, told as null, without Redis.
  public var leaseMilliseconds: Int64?
  /// Requests that one session may have unanswered.
  public var requestsInFlightMax: Int64

  /// What the daemon says of itself.
  public init(
    version: String, instance: String, session: String, host: String, backend: Backend, leaseMilliseconds: Int64?,
    requestsInFlightMax: Int64 = Int64(Limits.requestsInFlightMax)
  ) {
    self.version = version
    self.instance = instance
    self.session = session
    self.host = host
    self.backend = backend
    self.leaseMilliseconds = leaseMilliseconds
    self.requestsInFlightMax = requestsInFlightMax
  }
}

/// A figure, or a group of them, as `stats` shows it.
public indirect enum StatValue: Equatable, Sendable {
  /// A counter or a gauge.
  case integer(Int64)
  /// A word.
  case text(String)
  /// A yes or no.
  case flag(Bool)
  /// Figures under names of their own, in this order.
  case group([Stat])
}

/// A figure with its name.
public struct Stat: Equatable, Sendable {
  /// The name, which no other figure of the same group has.
  public var name: String
  /// The figure.
  public var value: StatValue

  /// A figure with its name.
  public init(_ name: String, _ value: StatValue) {
    self.name = name
    self.value = value
  }
}
