// What hosts say to each other through their inboxes, without any part of the store's: the search for deadlocks that
// cross hosts.
//
// Whoever changes a case here changes Sources/RedisLeases/HostMessageCodec.swift with it.

public import LockTypes

/// A message from one host to another.
public enum HostMessage: Hashable, Sendable {
  /// Follow a chain of waits further: its last one waits for a lock that the receiver may hold.
  case probe(DeadlockProbe)
  /// A chain has come back to where it began: look at its links again, from the receiver's, which is number `next`, on.
  case confirm(DeadlockProbe, next: Int)
  /// All the links of a chain that began with a wait of the receiver are there still.
  case confirmed(DeadlockProbe)
  /// One of them is not.
  case refuted(DeadlockProbe)
  /// The receiver's wait, the first of the path, is the youngest of a cycle that was confirmed.
  case victim(path: [DeadlockStep])
}

/// A chain of waits that is being followed from host to host.
public struct DeadlockProbe: Hashable, Sendable {
  /// The number that the host where it began has for it.
  public var number: UInt64
  /// The waits it has come along, from the first one on.
  public var path: [DeadlockStep]

  /// A chain.
  public init(number: UInt64, path: [DeadlockStep]) {
    self.number = number
    self.path = path
  }
}

/// One link of a chain of waits: somebody who holds what the one before it waits for, and waits itself.
public struct DeadlockStep: Hashable, Sendable {
  /// The host, as others see it.
  public var host: String
  /// Its inbox.
  public var inbox: String
  /// The session that waits.
  public var session: UInt64
  /// The request that waits, which is what makes this link the same one when it is seen again.
  public var request: UInt64
  /// The process behind the session, where it is known.
  public var pid: Int32?
  /// Its command, where it is known.
  public var command: String?
  /// The owner that the client named.
  public var owner: String?
  /// What it waits for.
  public var waitsFor: LockName
  /// What it holds that the one before it waits for; nil in the first, until the chain has come back.
  public var holds: LockName?
  /// The token of that hold; 0 where there is none.
  public var token: Token
  /// Since when it has waited, by the store's clock; nil where that was of no matter.
  public var began: StoreInstant?
  /// What a host of a later release says of it besides; it goes along.
  public var more: [UInt8]

  /// A link.
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
