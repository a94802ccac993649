public import LockTypes

/// What the engine is told at its start. Only `settings` changes afterwards.
public struct EngineConfiguration: Equatable, Sendable {
  /// Where the host leases come from.
  public enum Tier: Equatable, Sendable {
    /// Nowhere: this host alone decides. Tokens count up from `firstToken`, and none is higher than `lastToken` until
    /// ``Event/localTokensReserved(through:)`` tells of more.
    case local(firstToken: Token, lastToken: Token = LockEngine.tokenMax)
    /// A store that several hosts share.
    case store
  }

  /// Where the host leases come from.
  public var tier: Tier
  /// This host's name, as others see it.
  public var host: String
  /// Where other hosts reach this one; no two daemons have the same.
  public var inbox: String
  /// The number from which attempts count up. A pushed grant counts only if it names its attempt: where others can
  /// write to the inbox, draw it at random from ``attemptStarts``, so that nobody can guess it.
  public var attemptsBegin: UInt64
  /// Which names have one home together, where the store may have several shards; nil: it has one.
  public var cells: LockCells?
  /// What may change while the engine works.
  public var settings = EngineSettings() {
    didSet { timeline = LeaseTimeline(leaseMilliseconds: settings.leaseMilliseconds) }
  }
  /// The timeline of the leases that are asked for from now on.
  public private(set) var timeline = LeaseTimeline.standard
  /// The pause between two asks for a lock that a foreign process holds, in milliseconds; less if its key ends before.
  public var foreignPollMilliseconds: Int64 = 100
  /// Bytes of what all sessions together may hold and wait for.
  public var lockBytesMax = Int.max
  /// Waiters that one lock may have on this host.
  public var waitersPerLockMax = 100_000
  /// Leases that one renewal command may name.
  public var renewalBatchMax = 500
  /// Renewal commands that may be under way at a time, as long as no lease is overdue.
  public var renewalsInFlightMax = 2
  /// Steps taken for one event, and of each kind of work in a turn; what is left goes on in the next turns. Most take a
  /// microsecond, one that sends a command up to twenty: with few of them a turn stays below 10 ms where several kinds have much
  /// to do.
  public var stepsPerSlice = 256

  /// Where attempts may begin: half of them are left to count up to 2^53, below which every number is exact in a script.
  public static let attemptStarts: Range<UInt64> = 1 << 51..<1 << 52

  /// The default configuration, changed by `change`.
  public init(
    tier: Tier, host: String = "", inbox: String = "", attemptsBegin: UInt64 = 0,
    _ change: (inout EngineConfiguration) -> Void = { _ in }
  ) {
    self.tier = tier
    self.host = host
    self.inbox = inbox
    self.attemptsBegin = attemptsBegin
    change(&self)
  }
}

/// Settings of the engine that may change while it works. The values are the defaults that the daemon documents, but for
/// ``lingerMilliseconds``.
public struct EngineSettings: Equatable, Sendable {
  /// How long a lease lasts without renewal, in milliseconds. A change is for leases that are asked for afterwards.
  public var leaseMilliseconds = LeaseTimeline.standard.leaseMilliseconds
  /// How long after its last sign of life this host may be taken for dead, in milliseconds, so that others get what it has;
  /// 0: each lease ends by itself.
  public var deadHostMilliseconds: Int64 = 0
  /// The shortest dead-host time that the setting allows for, in milliseconds.
  public static let deadHostMillisecondsMin: Int64 = 2000
  /// How long a lease that nobody uses stays here, in milliseconds, when this host came back to its name within that
  /// time; every other lease is given back at once, and with 0 all are.
  public var lingerMilliseconds: Int64 = 0
  /// For how long the leases of a name go back at once when another host wanted one that nobody used here.
  var revocationMilliseconds: Int64 { min(10 * lingerMilliseconds, 10_000) }
  /// How many times a lock may pass from client to client on this host while another host waits.
  public var cohortMax = 100
  /// For how long it may at the most, in milliseconds: as long as a hand-over to another host asks, by the round trip to
  /// the store.
  public var cohortMilliseconds: Int64 = 200
  /// How long a try waits for any reply of the store, in milliseconds; longer where the link is slow.
  public var storeTimeoutMilliseconds: Int64 = 2_000
  /// What every request needs at the least: how many replicas have to have a lease before its client is told.
  public var need = ReplicaNeed.none
  /// How long they may take, in milliseconds.
  public var replicasTimeoutMilliseconds: Int64 = 1000
  /// A hold that lasts longer, in milliseconds, is told by ``Effect/heldLong(_:_:_:since:waiters:)``; 0: none is. A change is
  /// for holds that begin afterwards, but for those that no longer last too long.
  public var warnHoldMilliseconds: Int64 = 0
  /// Waits that one session may have.
  public var waitsPerSessionMax = 128
  /// Holds that one session may have.
  public var holdsPerSessionMax = 65_536
  /// Waits that all sessions of one user may have.
  public var waitsPerUIDMax = 100_000
  /// Holds that all sessions of one user may have.
  public var holdsPerUIDMax = 1_000_000
  /// Bytes of what all sessions of one user may hold and wait for, with names, notes and owners. The memory that they
  /// take is at most about twice as much.
  public var lockBytesPerUIDMax = 1 << 27

  /// The defaults.
  public init() {}

  /// The dead-host time in force, in milliseconds: one that is not shorter than the lease is none.
  var shorterDeadHostMilliseconds: Int64 { deadHostMilliseconds < leaseMilliseconds ? deadHostMilliseconds : 0 }

  /// How long a lease is valid at most without an answer of the store, in milliseconds: what others wait for when this host
  /// is gone.
  public var goneMilliseconds: Int64 {
    shorterDeadHostMilliseconds > 0 ? shorterDeadHostMilliseconds : leaseMilliseconds
  }

  /// How long a try waits for the holding host to say whether the lock is in use, in milliseconds, beside this host's
  /// own round trip. That host's link may be as slow as a link may be: nobody is told how slow it is.
  public var inUseTimeoutMilliseconds: Int64 { max(500, storeTimeoutMilliseconds) }
}
