public import LockTypes

/// What the engine has done since it started.
public struct EngineCounters: Equatable, Sendable {
  /// Grants to clients.
  public var grants: UInt64 = 0
  /// Grants that needed nothing from the store.
  public var grantsWithoutStore: UInt64 = 0
  /// Holds that were lost.
  public var lost: UInt64 = 0
  /// The same, by reason.
  public var losses = LossCounts()
  /// Holds that were told to last long.
  public var heldLong: UInt64 = 0
  /// Requests that ended at their time limit.
  public var timeouts: UInt64 = 0
  /// Requests whose wait would never have ended.
  public var deadlocks: UInt64 = 0
  /// Tries that met a lock in use.
  public var busy: UInt64 = 0
  /// Leases granted by the store.
  public var leases: UInt64 = 0
  /// Leases that could not be renewed in time, or that the store no longer had.
  public var leasesLost: UInt64 = 0
  /// Renewals, one for each lease.
  public var renewals: UInt64 = 0
  /// Epochs of the store that this host was not in before.
  public var epochs: UInt64 = 0
  /// Leases that this host took over into another epoch.
  public var reclaims: UInt64 = 0
  /// Requests whose grant enough replicas had when their clients were told.
  public var acknowledged: UInt64 = 0
  /// How long those took beyond the grant, all together, in milliseconds.
  public var acknowledgedMilliseconds: UInt64 = 0
  /// Requests that had to give back what they were granted, because too few replicas had it.
  public var underReplicated: UInt64 = 0
  /// Requests that were granted, from the request to the grant.
  public var acquires = TimeHistogram()
  /// Those of them that somebody was ahead of.
  public var waits = TimeHistogram()
  /// Holds that are over, from the grant to the end.
  public var holds = TimeHistogram()
  /// Locks that passed to another client of this host, from the end of the hold before.
  public var handovers = TimeHistogram()
  /// Leases that another host handed to this one, from the first ask.
  public var leaseHandovers = TimeHistogram()
  /// Commands, from sending to the store's answer.
  public var answers = TimeHistogram()
}

/// How many holds were lost for each reason.
public struct LossCounts: Equatable, Sendable {
  private var counts = [UInt64](repeating: 0, count: LostReason.allCases.count)

  mutating func count(_ reason: LostReason) {
    if let place = LostReason.allCases.firstIndex(of: reason) { counts[place] += 1 }
  }

  /// All reasons, each with its count.
  public var all: [(reason: LostReason, count: UInt64)] { zip(LostReason.allCases, counts).map { ($0, $1) } }
}
