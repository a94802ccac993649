// Messages from host to host, in which the store has no part: the search for deadlocks across hosts.
//
// A change to a case here needs one in Sources/RedisLeases/HostMessageCodec.swift.

public import LockTypes

/// A message from one host to another.
public enum HostMessage: Hashable, Sendable {
  /// Follow a chain of waits further: its last one waits for a lock that the receiver may hold.
  case probe(DeadlockProbe)
  /// A chain has come back to its origin: check its edges again, from number `next` on, which is the receiver's.
  case confirm(DeadlockProbe, next: Int)
  /// All edges of a chain that began with a wait of the receiver still stand.
  case confirmed(DeadlockProbe)
  /// One of them is gone.
  case refuted(DeadlockProbe)
  /// The receiver's wait, the first of the path, is the youngest of a cycle that was confirmed.
  case victim(path: [DeadlockStep])
}

/// A chain of waits that is being followed from host to host.
public struct DeadlockProbe: Hashable, Sendable {
  /// Its number, from the host where it began.
  public var number: UInt64
  /// The waits along it, from the first one on.
  public var path: [DeadlockStep]

  /// A chain.
  public init(number: UInt64, path: [DeadlockStep]) {
    self.number = number
    self.path = path
  }
}

/// One step of a chain of waits: an agent that holds what the step before waits for, and waits itself.
public struct DeadlockStep: Hashable, Sendable {
  /// The host, as others see it.
  public var host: String
  /// Its inbox.
  public var inbox: String
  /// The session that waits.
  public var session: UInt64
  /// The request that waits; by it the step is known when it is checked again.
  public var request: UInt64
  /// The process behind the session, where it is known.
  public var pid: Int32?
  /// Its command, where it is known.
  public var command: String?
  /// The owner that the client named.
  public var owner: String?
  /// What it waits for.
  public var waitsFor: LockName
  /// What it holds that the step before waits for; nil in the first, until the chain has come back.
  public var holds: LockName?
  /// The token of that hold; 0 where there is none.
  public var token: Token
  /// Since when it has waited, by the store's clock; nil where it is not dated.
  public var began: StoreInstant?
  /// Fields of a later release, passed along unread.
  public var more: [UInt8]

  /// A step.
  public init(
    host: String, inbox: String, session: UInt64, request: UInt64, pid: Int32?, command: String?, owner: String?,
    waitsFor: LockName, holds: LockName?, token: Token, began: StoreInstant?, more: [UInt8] = []
  ) {
    self.host = host
    self.inbox = inbox
    self.session = session
    self.request = request
    self.pid = pid
    self.command = command
    self.owner = owner
    self.waitsFor = waitsFor
    self.holds = holds
    self.token = token
    self.began = began
    self.more = more
  }
}
