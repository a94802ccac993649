public import LockTypes

/// What the engine is told once, at its start.
public struct EngineConfiguration: Equatable, Sendable {
  /// Where the host leases come from.
  public enum Tier: Equatable, Sendable {
    /// Nowhere: this host alone decides. Tokens count up from `firstToken`.
    case local(firstToken: Token)
    /// A store that several hosts share.
    case store
  }

  /// Where the host leases come from.
  public var tier: Tier
  /// This host's name, as others see it.
  public var host: String
  /// Where other hosts reach this one; no two daemons have the same.
  public var inbox: String
  /// The number from which attempts count up. What a host is told unasked is a grant only if it names the attempt for which
  /// it is: where others can write to the inbox, it is to be one that nobody guesses, out of ``attemptStarts``.
  public var attemptsBegin: UInt64
  /// The lengths of the stages of the leases that are asked for.
  public var timeline: LeaseTimeline
  /// How long a lease that nobody uses stays here, in milliseconds, when this host came back to its name within that
  /// time; every other lease is given back at once, and with 0 all are.
  public var lingerMilliseconds: Int64
  /// How many times a lock may pass from client to client on this host while another host waits.
  public var cohortHandoversMax: Int
  /// For how long it may, in milliseconds.
  public var cohortMilliseconds: Int64
  /// How long a try waits for any reply of the store, in milliseconds, where answers do not take longer as a rule.
  public var storeTimeoutMilliseconds: Int64
  /// How long a try waits for the holding host to say whether the lock is in use, in milliseconds, beside what an answer
  /// of the store takes as a rule. It must be more than any host's link takes.
  public var inUseTimeoutMilliseconds: Int64
  /// The shortest time between two looks at a lock that a foreign process holds, in milliseconds.
  public var foreignPollMilliseconds: Int64
  /// Waits that one session may have.
  public var waitsPerSessionMax: Int
  /// Holds that one session may have.
  public var holdsPerSessionMax: Int
  /// Waits that all sessions of one user may have.
  public var waitsPerUIDMax: Int
  /// Holds that all sessions of one user may have.
  public var holdsPerUIDMax: Int
  /// Bytes of what all sessions of one user may hold and wait for: names, notes, owners, and a part for each.
  public var lockBytesPerUIDMax: Int
  /// Bytes of what all sessions together may hold and wait for.
  public var lockBytesMax: Int
  /// Waiters that one lock may have on this host.
  public var waitersPerLockMax: Int
  /// Leases that one renewal command may name.
  public var renewalBatchMax: Int
  /// Renewal commands that may be under way at a time, as long as no lease is overdue.
  public var renewalsInFlightMax: Int
  /// Steps that are taken for one event, each of which takes about a microsecond; what is left goes on in the next turns.
  public var stepsPerSlice: Int

  /// Where attempts may begin: half of them are left to count up to 2^53, below which every number is exact in a script.
  public static let attemptStarts: Range<UInt64> = 1 << 51..<1 << 52

  /// A configuration; what is left out has the default that the daemon documents.
  public init(
    tier: Tier, leaseMilliseconds: Int64 = LeaseTimeline.standard.leaseMilliseconds, lingerMilliseconds: Int64 = 0,
    cohortHandoversMax: Int = 100,
    cohortMilliseconds: Int64 = 50, storeTimeoutMilliseconds: Int64 = 2_000, inUseTimeoutMilliseconds: Int64 = 500,
    foreignPollMilliseconds: Int64 = 100, waitsPerSessionMax: Int = 128, holdsPerSessionMax: Int = 65_536,
    waitsPerUIDMax: Int = 100_000, holdsPerUIDMax: Int = 1_000_000, lockBytesPerUIDMax: Int = 1 << 25,
    lockBytesMax: Int = .max, waitersPerLockMax: Int = 100_000,
    renewalBatchMax: Int = 500, renewalsInFlightMax: Int = 2, stepsPerSlice: Int = 512, host: String = "",
    inbox: String = "", attemptsBegin: UInt64 = 0
  ) {
    self.attemptsBegin = attemptsBegin
    self.tier = tier
    self.host = host
    self.inbox = inbox
    self.timeline = LeaseTimeline(leaseMilliseconds: leaseMilliseconds)
    self.lingerMilliseconds = lingerMilliseconds
    self.cohortHandoversMax = cohortHandoversMax
    self.cohortMilliseconds = cohortMilliseconds
    self.storeTimeoutMilliseconds = storeTimeoutMilliseconds
    self.inUseTimeoutMilliseconds = inUseTimeoutMilliseconds
    self.foreignPollMilliseconds = foreignPollMilliseconds
    self.waitsPerSessionMax = waitsPerSessionMax
    self.holdsPerSessionMax = holdsPerSessionMax
    self.waitsPerUIDMax = waitsPerUIDMax
    self.holdsPerUIDMax = holdsPerUIDMax
    self.lockBytesPerUIDMax = lockBytesPerUIDMax
    self.lockBytesMax = lockBytesMax
    self.waitersPerLockMax = waitersPerLockMax
    self.renewalBatchMax = renewalBatchMax
    self.renewalsInFlightMax = renewalsInFlightMax
    self.stepsPerSlice = stepsPerSlice
  }
}
