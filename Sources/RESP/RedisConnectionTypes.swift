// The vocabulary of RedisConnection: what it is told at first, and what it asks of the I/O layer.

/// A client connection as Redis knows it. Passed on to the next connection, it lets that one end this one for good.
public struct RedisClientIdentity: Hashable, Sendable {
  /// The number of the connection, from HELLO. A server counts them from 1 each time it starts.
  public var id: Int64
  /// Which run of which server gave the number, from INFO; nil if the server did not tell.
  public var runID: String?

  /// The connection `id` of the server run `runID`.
  public init(id: Int64, runID: String?) {
    self.id = id
    self.runID = runID
  }
}

/// What a connection needs to know before it is made.
public struct RedisConnectionConfiguration: Hashable, Sendable {
  /// The ACL user; nil for Redis' `default`.
  public var username: String?
  /// The password; nil when Redis asks for none.
  public var password: RedisSecret?
  /// The number of the database, 0 and up.
  public var database: Int
  /// What CLIENT LIST shows. Bytes that Redis does not take in a name become `-`.
  public var clientName: String
  /// The channel that is subscribed to, the only one; empty: none.
  public var inbox: [UInt8]
  /// The scripts that commands may name.
  public var scripts: [RedisScript]
  /// The connection before this one, which may still be open at the server's side. It is killed before anything else
  /// is done, so that no command of it is carried out late and it hears nothing that is meant for this one.
  public var previousClient: RedisClientIdentity?
  /// What is tried before anything else is done; nil: nothing.
  public var probe: RedisProbe?
  /// What shows that the server is a plain primary; nil: nothing.
  public var trial: RedisTrial?
  /// Which node of a Redis Cluster it leads to; nil: to none, and one is refused.
  public var clusterRole: ClusterRole?
  /// How much the server may send at once.
  public var limits: RESPLimits

  /// What a connection logs in with.
  public var login: RedisLogin {
    get { RedisLogin(username: username, password: password) }
    set { (username, password) = (newValue.username, newValue.password) }
  }

  /// A configuration.
  public init(
    username: String? = nil,
    password: RedisSecret? = nil,
    database: Int = 0,
    clientName: String,
    inbox: [UInt8],
    scripts: [RedisScript],
    previousClient: RedisClientIdentity? = nil,
    probe: RedisProbe? = nil,
    trial: RedisTrial? = nil,
    clusterRole: ClusterRole? = nil,
    limits: RESPLimits = RESPLimits()
  ) {
    self.probe = probe
    self.trial = trial
    self.clusterRole = clusterRole
    self.username = username
    self.password = password
    self.database = database
    self.clientName = clientName
    self.inbox = inbox
    self.scripts = scripts
    self.previousClient = previousClient
    self.limits = limits
  }
}

/// What a connection has found out when it is ready.
public struct RedisReadyInfo: Hashable, Sendable {
  /// What became of the connection before this one.
  public enum PreviousClient: Hashable, Sendable {
    /// There was none.
    case none
    /// It was still open, and was killed.
    case killed
    /// It was closed already, or belonged to another run of the server.
    case gone
    /// It could not be killed; why. It may still be open.
    case unknown(String)
  }

  /// The server's product name: `redis`, or another that speaks its protocol.
  public var server: String
  /// The server's version.
  public var version: String
  /// Usually `standalone`.
  public var mode: String
  /// This connection.
  public var client: RedisClientIdentity
  /// What became of the one before.
  public var previousClient: PreviousClient
  /// `maxmemory-policy`; nil if the server does not tell. With a policy that evicts keys without an expiry, fencing
  /// counters can vanish.
  public var evictionPolicy: String?
  /// The command that grants the rights that are missing and can be done without; nil where none is missing.
  public var missingRules: String?

  /// What a connection has found out.
  public init(
    server: String, version: String, mode: String, client: RedisClientIdentity, previousClient: PreviousClient,
    evictionPolicy: String?
  ) {
    self.server = server
    self.version = version
    self.mode = mode
    self.client = client
    self.previousClient = previousClient
    self.evictionPolicy = evictionPolicy
  }
}

/// Why a server cannot be used, or not now. No message holds the password.
public struct RedisHandshakeFailure: Error, Hashable, Sendable, CustomStringConvertible {
  /// The kinds of failure.
  public enum Reason: Hashable, Sendable {
    /// The user name or the password is wrong, missing or not wanted.
    case authenticationFailed
    /// The user lacks a right.
    case notPermitted
    /// The server is too old, or no plain primary (a Sentinel, a cluster), or lacks a command.
    case unsupportedServer
    /// The server is a replica.
    case notPrimary
    /// There is no database of that number.
    case noSuchDatabase
    /// A state that passes: the server loads its data, is out of connections, …
    case temporary
    /// An error that this program does not know.
    case refused
  }

  /// The kind.
  public var reason: Reason
  /// What is wrong and what can be done, for the operator.
  public var message: String
  /// Whether it can pass without anybody changing anything.
  public var retryMayHelp: Bool

  /// A failure.
  public init(reason: Reason, message: String, retryMayHelp: Bool) {
    self.reason = reason
    self.message = message
    self.retryMayHelp = retryMayHelp
  }

  /// The message.
  public var description: String { message }
}

/// How a server broke the protocol. The connection must be closed.
public enum RedisFault: Error, Hashable, Sendable {
  /// Bytes that are no value of the protocol, or too large a one.
  case malformed(RESPError)
  /// A reply when no command was waiting for one; its text if it was an error.
  case unsolicitedReply(String?)
  /// A reply of the wrong kind during the handshake, to the command named.
  case badHandshakeReply(to: String)
  /// A push whose parts are not what its kind has.
  case badPush
  /// The server changed the subscription to the inbox without being asked.
  case subscriptionChanged
}

extension RedisFault: CustomStringConvertible {
  /// What happened, for the operator.
  public var description: String {
    switch self {
    case .malformed(let error):
      return "the server broke the Redis protocol: \(error)"
    case .unsolicitedReply(.some(let text)):
      return "the server reported an error to nobody: \(text)"
    case .unsolicitedReply(.none):
      return "the server sent a reply to nothing"
    case .badHandshakeReply(let command):
      return "the server's reply to \(command) is not what that command replies"
    case .badPush:
      return "the server sent a push that is not what its kind has"
    case .subscriptionChanged:
      return "the server changed the subscription to the inbox"
    }
  }
}

/// What a connection asks of the I/O layer, in order.
public enum RedisConnectionAction: Hashable, Sendable {
  /// The handshake is over; commands may be submitted. Comes once at most.
  case ready(RedisReadyInfo)
  /// The handshake failed: close the connection. Nothing comes after it.
  case failed(RedisHandshakeFailure)
  /// The reply to the command submitted under that id; an error is a value.
  case reply(id: UInt64, RESPValue)
  /// A message to the inbox.
  case message(channel: [UInt8], payload: [UInt8])
  /// The server broke the protocol: close the connection. Nothing comes after it.
  case fault(RedisFault)
}
