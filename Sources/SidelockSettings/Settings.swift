public import AccessPolicy
public import Logging
public import RESP

/// Everything that a daemon needs to know before it starts: checked, complete, and with the defaults filled in.
public struct Settings: Sendable, Equatable {
  /// Where the host's leases live.
  public enum Backend: Sendable, Equatable {
    /// A Redis server, shared with other hosts; the login is complete.
    case redis(RedisURL)
    /// Nowhere: the locks concern this host alone. Chosen explicitly, never a fallback.
    case local
  }

  /// Where the host's leases live.
  public var backend: Backend
  /// The Unix socket that clients connect to, as `SystemText` has it.
  public var socketPath: String
  /// The permission bits of the socket.
  public var socketMode: UInt32
  /// How long a lease in Redis lasts without renewal, in milliseconds.
  public var leaseMilliseconds: Int
  /// How long an unused lease is kept for the next local user, in milliseconds.
  public var lingerMilliseconds: Int
  /// How often a lock may pass between local clients while another host waits.
  public var cohortHandOversMax: Int
  /// How long a lock may pass between local clients while another host waits, in milliseconds.
  public var cohortMilliseconds: Int
  /// How long Redis may take to answer before the connection is given up, in milliseconds.
  public var redisTimeoutMilliseconds: Int
  /// What every key in Redis begins with.
  public var keyPrefix: String
  /// The name under which other hosts see this one.
  public var hostName: String
  /// The most client connections at a time.
  public var connectionsMax: Int
  /// The most client connections of one user at a time.
  public var connectionsPerUIDMax: Int
  /// The most locks that one connection may hold.
  public var holdsPerSessionMax: Int
  /// The most locks that all connections of one user may hold.
  public var holdsPerUIDMax: Int
  /// The most requests of one connection that may wait at a time.
  public var waitsPerSessionMax: Int
  /// The most requests of one user that may wait at a time.
  public var waitsPerUIDMax: Int
  /// The most bytes that are kept for one connection.
  public var bytesPerSessionMax: Int
  /// The most bytes that are kept for all connections of one user.
  public var bytesPerUIDMax: Int
  /// The most bytes of names, notes and owners of what all connections of one user hold and wait for.
  public var lockBytesPerUIDMax: Int
  /// The most watches that all connections of one user may have.
  public var watchesPerUIDMax: Int
  /// Who may do what with which locks, with the numbers of the accounts as they were when the settings were read.
  public var policy: AccessPolicy
  /// The least severe level that is logged.
  public var logLevel: Logger.Level
}
