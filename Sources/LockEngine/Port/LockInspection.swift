public import LockTypes

/// What stands in the store about one lock.
public struct LockInspection: Equatable, Sendable {
  /// How a lock is held.
  public enum State: Equatable, Sendable {
    /// Nobody holds it.
    case free
    /// Sidelock hosts hold it.
    case held(HoldMode)
    /// A process that does not use sidelock holds it, or a daemon of a later release.
    case foreign
    /// The key holds data that is not a lock.
    case wrongType
  }

  /// A host that holds the lock.
  public struct Holder: Equatable, Sendable {
    /// Its name.
    public var host: String
    /// Its inbox.
    public var inbox: String
    /// The first token of its lease.
    public var token: Token
    /// As it stands there: `<host>/<instance>:<attempt>:<first token>`.
    public var entry: [UInt8]
    /// Whether it is this very daemon.
    public var isMe: Bool
    /// Whether others take it for dead, so that whoever asks for the lock may have its part.
    public var isDead: Bool

    package init(host: String, inbox: String, token: Token, entry: [UInt8], isMe: Bool, isDead: Bool = false) {
      self.host = host
      self.inbox = inbox
      self.token = token
      self.entry = entry
      self.isMe = isMe
      self.isDead = isDead
    }
  }

  /// A host that waits.
  public struct Waiting: Equatable, Sendable {
    /// Its name.
    public var host: String
    /// Its inbox.
    public var inbox: String
    /// What it waits for.
    public var mode: HoldMode

    package init(host: String, inbox: String, mode: HoldMode) {
      self.host = host
      self.inbox = inbox
      self.mode = mode
    }
  }

  /// How it is held.
  public var state: State
  /// The hosts that hold it: one for each lease, so that a host with several permits is in it as often.
  public var holders: [Holder]
  /// When the key expires, in milliseconds; nil where there is no key, or none that expires.
  public var expiresInMilliseconds: Int64?
  /// How many hosts wait.
  public var waitingHostsTotal: Int64
  /// The first of them, in their order.
  public var waiting: [Waiting]
  /// One of its keys, if it holds data of others.
  public var otherData: OtherData?

  package init(
    state: State, holders: [Holder], expiresInMilliseconds: Int64?, waitingHostsTotal: Int64, waiting: [Waiting],
    otherData: OtherData? = nil
  ) {
    self.state = state
    self.holders = holders
    self.expiresInMilliseconds = expiresInMilliseconds
    self.waitingHostsTotal = waitingHostsTotal
    self.waiting = waiting
    self.otherData = otherData
  }
}

/// What stands in the key of a lock that no host of a known format has.
public enum ForeignValue: Equatable, Sendable {
  /// A process that does not use sidelock has written this.
  case ofOthers([UInt8])
  /// A daemon of a later release holds it, in a format that only its like can read.
  case ofLaterRelease
}

/// A holder from whom a lock was taken in the store.
public struct TakenLease: Equatable, Sendable {
  /// What was seen of it: what ``LockInspection/Holder/entry`` is, or a foreign holder's value.
  public var entry: [UInt8]
  /// When its lease, or a foreign holder's key, would have ended, in milliseconds from then; nil: never.
  public var leftMilliseconds: Int64?

  package init(entry: [UInt8], leftMilliseconds: Int64?) {
    self.entry = entry
    self.leftMilliseconds = leftMilliseconds
  }
}
