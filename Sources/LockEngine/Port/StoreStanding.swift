public import LockTypes

/// Which data the store has, as far as this host knows.
public struct StoreStanding: Equatable, Sendable {
  /// The epoch that this host is in; ``EpochID/none``: it was in none yet.
  public var epoch: EpochID
  /// When its grace is over, by this host's clock: nothing is granted until then. Nil: it is open.
  public var graceEnds: BootInstant?

  /// The data of `epoch`.
  public init(epoch: EpochID = .none, graceEnds: BootInstant? = nil) {
    self.epoch = epoch
    self.graceEnds = graceEnds
  }

  /// How much of the grace is left, in milliseconds; nil: nothing hinders grants.
  public func graceLeftMilliseconds(now: BootInstant) -> Int64? {
    graceEnds.map { max(0, $0.milliseconds(since: now)) }
  }
}
