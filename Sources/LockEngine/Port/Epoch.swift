// Which data set of the store leases were taken in, and how a host takes them over into another one.
//
// A store can come back empty, or older, or with another clock; it can be flushed, swapped or replaced while a
// connection to it stands. All of these are one event: the data set is not the one that the leases were taken in. Each
// data set has an epoch, whose name stands in one key of it; nothing is granted under another name.

public import LockTypes

/// The name of an epoch: one data set of the store, from when its loss of the one before was noticed. No two have the
/// same.
public struct EpochID: Hashable, Sendable {
  /// Counts up from epoch to epoch, below 2^50; 0 stands for none.
  public var number: UInt64
  /// What begins the value of its key, behind the format: `<number>:<host>/<instance>:<attempt>`.
  public var text: String

  /// The epoch of this number and name.
  public init(number: UInt64, text: String) {
    self.number = number
    self.text = text
  }

  /// The name of no epoch: nothing is granted under it.
  public static let none = EpochID(number: 0, text: "")
}

/// What the store may grant under: in which epoch, and above which token.
public struct GrantTerms: Hashable, Sendable {
  /// Nothing is granted in another one.
  public var epoch: EpochID
  /// The highest token that this host knows of.
  public var tokenFloor: Token

  /// What is granted belongs to `epoch` and lies above `tokenFloor`.
  public init(epoch: EpochID = .none, tokenFloor: Token = 0) {
    self.epoch = epoch
    self.tokenFloor = tokenFloor
  }
}

/// What a daemon says when it asks the store for its epoch, and begins one where the store has none that it knows.
public struct EpochClaim: Hashable, Sendable {
  /// A number of this host that was not used before: it makes the name of an epoch that begins by this unique.
  public var attempt: UInt64
  /// The epoch that this host was in last; ``EpochID/none``: it was in none.
  public var known: EpochID
  /// Whether it is the first command of its connection: only then may a later epoch that is open be joined.
  public var isFirstOfLink: Bool
  /// The longest lease that this host has or takes, in milliseconds.
  public var longestLeaseMilliseconds: Int64
  /// The grace that this host knows to be needed if an epoch begins now, in milliseconds: the longest lease of anybody.
  public var graceMilliseconds: Int64
  /// The highest token that this host knows of.
  public var tokenFloor: Token
  /// A token above all that may have been given in the known epoch, by its clock. An epoch that begins by this begins above
  /// it: its clock may be behind. One that goes on is not taken ahead of its clock, which makes up for a counter that is lost.
  public var tokenFloorOfNew: Token
  /// How long this host has waited in the grace of the known epoch, by its own clock, in milliseconds; 0: it does not
  /// ask for its end.
  public var waitedMilliseconds: Int64
  /// Whether this host never was in an epoch and has no lease of an earlier process: if nobody else is there either,
  /// nobody can have anything, and there is no grace.
  public var mayBeFirst: Bool
  /// From when on others may take this host for dead.
  public var lifeSign: LifeSign

  /// What `attempt` says of this host.
  public init(
    attempt: UInt64, known: EpochID, isFirstOfLink: Bool, longestLeaseMilliseconds: Int64, graceMilliseconds: Int64,
    tokenFloor: Token, tokenFloorOfNew: Token = 0, waitedMilliseconds: Int64, mayBeFirst: Bool,
    lifeSign: LifeSign = .none
  ) {
    self.attempt = attempt
    self.known = known
    self.isFirstOfLink = isFirstOfLink
    self.longestLeaseMilliseconds = longestLeaseMilliseconds
    self.graceMilliseconds = graceMilliseconds
    self.tokenFloor = tokenFloor
    self.tokenFloorOfNew = tokenFloorOfNew
    self.waitedMilliseconds = waitedMilliseconds
    self.mayBeFirst = mayBeFirst
    self.lifeSign = lifeSign
  }
}

/// What a host says of when it is to be taken for dead.
public enum LifeSign: Hashable, Sendable {
  /// It has never said anything. Should the store know better, it is `never`.
  case none
  /// When so many milliseconds have passed without another sign.
  case dead(afterMilliseconds: Int64)
  /// Not by this, from now on.
  case never
}

/// What stands in the store about its epoch.
public struct EpochSight: Hashable, Sendable {
  /// Which it is.
  public var id: EpochID
  /// Whether anything may be granted. Until then only those who held something take it again.
  public var isOpen: Bool
  /// How long somebody who learns of it has to wait before it may be opened, in milliseconds.
  public var graceMilliseconds: Int64
  /// The longest lease of those who joined it, in milliseconds.
  public var longestLeaseMilliseconds: Int64
  /// The highest token that anybody handed over with it.
  public var tokenFloor: Token
  /// When that was read.
  public var clock: StoreInstant

  /// The epoch `id`.
  public init(
    id: EpochID, isOpen: Bool, graceMilliseconds: Int64, longestLeaseMilliseconds: Int64, tokenFloor: Token,
    clock: StoreInstant
  ) {
    self.id = id
    self.isOpen = isOpen
    self.graceMilliseconds = graceMilliseconds
    self.longestLeaseMilliseconds = longestLeaseMilliseconds
    self.tokenFloor = tokenFloor
    self.clock = clock
  }
}

/// A lease that this host has, and takes again in a data set that may not know it.
public struct ReclaimedLease: Hashable, Sendable {
  /// The lock's name.
  public var name: LockName
  /// The attempt under which it was taken.
  public var attempt: UInt64
  /// How the store is to have it.
  public var mode: HoldMode
  /// The first token of the block that it has.
  public var firstToken: Token
  /// How many tokens the block has.
  public var tokenCount: Int64
  /// Whether it may take the place of what stands there: in the grace of an epoch, and once. Whoever is found there then
  /// is from an older data set.
  public var mayReplace: Bool

  /// The lease of `name` that `attempt` took, with `tokenCount` tokens from `firstToken` on.
  public init(
    name: LockName, attempt: UInt64, mode: HoldMode, firstToken: Token, tokenCount: Int64, mayReplace: Bool
  ) {
    self.name = name
    self.attempt = attempt
    self.mode = mode
    self.firstToken = firstToken
    self.tokenCount = tokenCount
    self.mayReplace = mayReplace
  }
}

/// What became of a lease that was to be renewed or reclaimed.
public enum LeaseStanding: Hashable, Sendable {
  /// This host has it, for as long as was asked for.
  case held
  /// Its key is not there at all.
  case missing
  /// Its key is there, and is not this host's.
  case lost
  /// Its home is another shard: nothing is known of it here.
  case elsewhere
}
