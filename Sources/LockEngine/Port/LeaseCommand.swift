// What the engine says to the store of host leases (Redis), and what it hears from it.
//
// Whoever changes a case here changes with it: LeaseCommandEncoder.swift and LeaseReplyDecoder.swift in
// Sources/RedisLeases (how it is put into Redis' words), Sources/RedisLeases/Scripts/*.lua (what Redis does), and the
// section on Redis in protocol/README.md.

public import LockTypes

/// One command that was sent to the lease store, unique in the daemon's life.
public struct CommandID: Hashable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The command of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }
}

/// A command to the store of host leases. Every one of them may be executed twice, or late, without harm: an
/// acquire, a release and a grant all name the *attempt* that they belong to, and an attempt is never used again.
public enum LeaseCommand: Hashable, Sendable {
  /// Take the lease of `name` for this host, or stand in the queue for it.
  ///
  /// - `attempt`: this host's number for it; the same number asks again for the same thing.
  /// - `ask`: comes back in the holder's `inUse`, so that an old answer is not taken for a new one.
  /// - `isTry`: the holder is to answer `inUse` if it does not give the lease up; behind a holder that is not a
  ///   sidelock host the try does not queue.
  /// - `terms`: the epoch that this host is in, and the highest token that it knows of, of all locks.
  /// - `mode`: an exclusive lease, one that other hosts may share, or one permit of a semaphore.
  /// - `leaseMilliseconds`: how long the lease lasts, from when it is granted. An attempt never asks for another length.
  /// - `keeping`: the first attempt under which this host still has the lock; nil: it has given up all earlier ones.
  /// - `since`: where the place of this attempt was in the queue of an epoch before; nil: it was in none, or is known to
  ///   be in that of this epoch.
  case acquire(
    name: LockName, attempt: UInt64, ask: UInt64, isTry: Bool, terms: GrantTerms, mode: HoldMode = .exclusive,
    leaseMilliseconds: Int64 = LeaseTimeline.standard.leaseMilliseconds, keeping: UInt64? = nil,
    since: PlaceMoment? = nil)

  /// Neither hold `name` nor wait for it under this attempt; hand it to the next host if it was held.
  ///
  /// - `unused`: what of the reserved block was not issued; it may be reserved again.
  /// - `isExact`: only this attempt is given up; otherwise every earlier one of this host is too. A host has one lease
  ///   of a lock, but may have several permits of a semaphore, each under an attempt of its own.
  /// - `terms`: as in `acquire`, for the host that it is handed to. In another epoch it is not handed on.
  case release(
    name: LockName, attempt: UInt64, unused: UnusedTokens, isExact: Bool = false, terms: GrantTerms = GrantTerms())

  /// Share the exclusive lease that this attempt took, from now on, with the same end and the tokens below `tokenEnd`.
  /// `terms`: as in `acquire`, for the hosts that are let in.
  case downgrade(name: LockName, attempt: UInt64, tokenEnd: Token, terms: GrantTerms = GrantTerms())

  /// Reserve another block of tokens, under `terms`, for the lease that this attempt took, if the block that it has
  /// still ends before `tokenEnd`; otherwise this came twice, and the reply gives the block that it has.
  case reserve(name: LockName, attempt: UInt64, tokenEnd: Token, terms: GrantTerms)

  /// Extend each lease that this host still holds under that attempt: it lasts for `leaseMilliseconds` from then on.
  /// `epoch`: in another one nothing is done.
  case renew(
    [LeaseReference], leaseMilliseconds: Int64 = LeaseTimeline.standard.leaseMilliseconds, epoch: EpochID = .none)

  /// Ask for the epoch of the store, and begin one, or open the one that there is, where the claim allows for it. It comes
  /// before everything else on a connection.
  case confirmEpoch(EpochClaim)

  /// Have each lease that this host has in the store as well, under its attempt and tokens, for `leaseMilliseconds` from
  /// then on: where it is free, or `mayReplace` what stands there. `epoch`: in another one nothing is done.
  case reclaim([ReclaimedLease], leaseMilliseconds: Int64, epoch: EpochID)

  /// Tell the host behind `inbox` that the lock it tried for is in use.
  case answerInUse(name: LockName, ask: UInt64, inbox: String)

  /// Do nothing but reply, which dates the pushes that come after it.
  case heartbeat

  /// Tell which of these waits of this host have to be asked for again: what was to wake them may be lost. It changes
  /// neither locks nor queues. `epoch`: what is found in another one means nothing.
  case checkPlaces([WaitingPlace], epoch: EpochID = .none)

  /// Tell the time.
  case clock

  /// Tell which hosts hold `name` and which wait for it. It changes nothing.
  case look(name: LockName)

  /// Tell the host behind `inbox` something that the store has no part in.
  case hostMessage(inbox: String, HostMessage)
}

/// A moment by the store's clock. Hosts have no clock in common; this is the one that all of them are told.
public struct StoreInstant: Hashable, Comparable, Sendable {
  /// Microseconds since 1970, by that clock.
  public var microseconds: Int64

  /// The moment of so many microseconds.
  public init(microseconds: Int64) {
    self.microseconds = microseconds
  }

  /// The earlier one is the smaller one.
  public static func < (a: Self, b: Self) -> Bool { a.microseconds < b.microseconds }
}

/// When a host took its place in the store's queue. Of two places, the one of the earlier epoch is the older one,
/// whatever clocks show; of one epoch, the one that the clock of that epoch's store dates earlier.
public struct PlaceMoment: Hashable, Sendable {
  /// The number of the epoch.
  public var epoch: UInt64
  /// What the store's clock showed.
  public var clock: StoreInstant

  /// The moment at which the store of epoch number `epoch` showed `clock`.
  public init(epoch: UInt64, clock: StoreInstant) {
    self.epoch = epoch
    self.clock = clock
  }
}

/// What the store says of a host's place in the queue.
public struct PlaceSight: Hashable, Sendable {
  /// When that was.
  public var clock: StoreInstant
  /// Whether it was taken just now, at the end of the queue. Otherwise it stood there, or was put where the ask had told.
  public var isNew: Bool

  /// A place that the store has seen at `clock`.
  public init(clock: StoreInstant, isNew: Bool = true) {
    self.clock = clock
    self.isNew = isNew
  }
}

/// Which tokens of the block that was reserved for a lease were not issued.
public enum UnusedTokens: Hashable, Sendable {
  /// All of them: this host never heard of a grant under this attempt.
  case all
  /// This one and those above it.
  case from(Token)
  /// This host does not know. None of them may be issued again.
  case unknown
}

/// A lease as this host took it.
public struct LeaseReference: Hashable, Sendable {
  /// The lock's name.
  public var name: LockName
  /// The attempt under which it was taken.
  public var attempt: UInt64

  /// The lease of `name` that `attempt` took.
  public init(name: LockName, attempt: UInt64) {
    self.name = name
    self.attempt = attempt
  }
}

/// A place in the store's queue, as this host asked for it.
public struct WaitingPlace: Hashable, Sendable {
  /// The lock's name.
  public var name: LockName
  /// The attempt under which it was asked for.
  public var attempt: UInt64
  /// What was asked for.
  public var mode: HoldMode
  /// How long the lease would last, in milliseconds.
  public var leaseMilliseconds: Int64

  /// The place of `attempt`, which asked for `name` in `mode`, for so long.
  public init(name: LockName, attempt: UInt64, mode: HoldMode, leaseMilliseconds: Int64) {
    self.name = name
    self.attempt = attempt
    self.mode = mode
    self.leaseMilliseconds = leaseMilliseconds
  }
}

/// A lease that the store has granted.
public struct LeaseGrant: Hashable, Sendable {
  /// The first token of the block that is reserved for this lease.
  public var token: Token
  /// How many tokens the block has.
  public var tokenCount: Int64
  /// Whether other hosts stood in the queue at that moment.
  public var othersWait: Bool

  /// A grant with a block of `tokenCount` tokens from `token` on.
  public init(token: Token, tokenCount: Int64, othersWait: Bool) {
    self.token = token
    self.tokenCount = tokenCount
    self.othersWait = othersWait
  }
}

/// The reply to a ``LeaseCommand``.
public enum LeaseReply: Hashable, Sendable {
  /// To `acquire`: this host has the lease.
  case granted(LeaseGrant)
  /// To `acquire`: others have it, or this host does itself, and it stands in the queue. `holderHost` is another host
  /// that has it, empty where there is none; the first of their leases ends in `holderExpiresInMilliseconds` unless it is
  /// renewed. `listeners`: how many holders received the announcement; with 0 no `inUse` can come. `place`: nil from a store
  /// that does not say.
  case queued(holderHost: String, holderExpiresInMilliseconds: Int64, listeners: Int, place: PlaceSight? = nil)
  /// To `acquire` and `reserve`: the key is held by a process that does not use sidelock; it expires in that many milliseconds,
  /// or never (nil). `place`: where this host stands in the queue; nil: it does not, or the store does not say.
  case foreign(expiresInMilliseconds: Int64?, place: PlaceSight? = nil)
  /// To `acquire`: other hosts have the name as something else than was asked for (a lock, or a semaphore of that many
  /// permits). This host stands in the queue, and the holders are asked whether they use it; `listeners` as in `queued`.
  case conflict(HoldMode, listeners: Int)
  /// To `acquire`: this later attempt of this host has the lock. Nothing can be had under the one that asked.
  case stale(attempt: UInt64)
  /// To `checkPlaces`: which of them have to be asked for again, by their numbers in the command, from 0 on.
  case lostPlaces([Int])
  /// To `release`, `downgrade`, `answerInUse`, `heartbeat` and `hostMessage`.
  case done
  /// To `look`.
  case seen(LeaseSight)
  /// To `clock`.
  case clock(StoreInstant)
  /// To `renew` and `reclaim`: for each lease, in the order of the command, what became of it.
  case renewed([LeaseStanding])
  /// To `confirmEpoch`: the epoch as it is now.
  case epoch(EpochSight)
  /// To whatever names an epoch: it is not that of the store. Nothing was changed.
  case otherEpoch
  /// To `reserve`: the block that the lease has now; nil: this host does not have the lease.
  case reserved(LeaseGrant?)
  /// The store refused or could not carry it out. Nothing was changed by the command.
  case failed(LeaseFailure)
}

extension LeaseReply {
  /// Why the command failed; nil if it was carried out.
  public var failure: LeaseFailure? {
    switch self {
    case .failed(let failure): failure
    case .granted, .queued, .foreign, .conflict, .stale, .lostPlaces, .done, .seen, .clock, .renewed, .reserved, .epoch,
      .otherEpoch:
      nil
    }
  }

  /// The store's words for a failure; for a reply that the command does not have, words that say so.
  var words: String {
    switch failure {
    case .transient(let words)?, .fatal(let words)?: words
    case .wrongType(let other)?:
      other.map { "the key of the \($0.part.rawValue) holds data of another type" }
        ?? "a key holds data of another type"
    case nil: "a reply of the wrong kind"
    }
  }
}

/// Data of others in a key of a lock.
public struct OtherData: Hashable, Sendable {
  /// The keys of a lock.
  public enum Part: String, Sendable {
    case lock, queue, fence
  }

  /// The key.
  public var part: Part
  /// What the store calls data of that type; nil where it is not known.
  public var type: String?

  /// Data of `type` in the key of `part`.
  public init(part: Part, type: String?) {
    self.part = part
    self.type = type
  }
}

/// Why the store failed a command.
public enum LeaseFailure: Hashable, Sendable {
  /// A key of the lock holds data that are not sidelock's (WRONGTYPE): which one, where that is known. Asking again does
  /// not help.
  case wrongType(OtherData?)
  /// A state that passes or may pass: everything that is not known to stay; the store's own words. Asking again can help.
  case transient(String)
  /// What is known to stay as it is until this host is told otherwise; the words. Asking again does not help.
  case fatal(String)
}

/// What the store tells this host unasked, through its inbox.
public enum LeasePush: Hashable, Sendable {
  /// The lease was handed to this host, which waited for it under `attempt`.
  case granted(name: LockName, attempt: UInt64, LeaseGrant)
  /// Another host waits for the lease that this one took under `attempt`, and wants it in `mode`. With `isTry` it wants
  /// to know whether the lock is in use, by `answerInUse` with this `ask` to its `inbox`.
  case contended(
    name: LockName, attempt: UInt64, ask: UInt64, isTry: Bool, inbox: String, mode: HoldMode = .exclusive)
  /// A holder keeps the lock for which this host tried with `ask`.
  case inUse(name: LockName, ask: UInt64)
  /// The store's epoch is another one, or has been opened, or somebody takes longer leases from now on: of
  /// `longestLeaseMilliseconds`, in the epoch named `epoch`. It comes before everything that the store does afterwards.
  case epochChanged(longestLeaseMilliseconds: Int64, epoch: String)
  /// Another host says something that the store has no part in.
  case hostMessage(HostMessage)
}

/// Which hosts the store knows in connection with one lock, by their inboxes.
public struct LeaseSight: Hashable, Sendable {
  /// Those that hold it, the host that asks included.
  public var holders: [String]
  /// Those that stand in the queue, the longest waiting first, each with what it wants.
  public var waiting: [Waiting]

  /// A host that stands in the queue.
  public struct Waiting: Hashable, Sendable {
    /// Its inbox.
    public var inbox: String
    /// What it waits for.
    public var mode: HoldMode

    /// The host behind `inbox`, which waits for `mode`.
    public init(inbox: String, mode: HoldMode) {
      self.inbox = inbox
      self.mode = mode
    }
  }

  /// What the store knows.
  public init(holders: [String], waiting: [Waiting]) {
    self.holders = holders
    self.waiting = waiting
  }
}
