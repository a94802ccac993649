public import AccessPolicy
import LockEngine
public import RESP
import SystemdSupport

/// What a sidecar is told once, at its start.
public struct SidecarConfiguration: Sendable {
  /// Where the host leases come from.
  public enum Backend: Sendable, Equatable {
    /// Locks of this host alone.
    case local
    /// A Redis primary that all hosts share.
    case redis(RedisURL)

    /// Where the data set is, for a successor that must go on with the same one.
    var place: String {
      switch self {
      case .local: ""
      case .redis(let url):
        switch url.endpoint {
        case .tcp(let host, let port): "tcp \(host) \(port) \(url.database)"
        case .unix(let path): "unix \(path) \(url.database)"
        }
      }
    }
  }

  /// Where the host leases come from.
  public var backend: Backend
  /// The path of the Unix socket that clients connect to, as `SystemText` has it.
  public var socketPath: String
  /// A listening socket that the service manager made, instead of a path; nil: the daemon makes its own.
  public var listeningDescriptor: Int32?
  /// The permission bits of that socket.
  public var socketMode: UInt32
  /// The length of a host lease, in milliseconds.
  public var leaseMilliseconds: Int64
  /// How long an unused lease stays on this host, in milliseconds.
  public var lingerMilliseconds: Int64
  /// Local hand-overs of one lock while another host waits.
  public var cohortHandoversMax: Int
  /// How long local hand-overs go on while another host waits, in milliseconds.
  public var cohortMilliseconds: Int64
  /// How long Redis may be silent with a command in flight before the connection counts as dead, in milliseconds.
  public var redisTimeoutMilliseconds: Int64
  /// What stands before every key and channel in Redis.
  public var keyPrefix: String
  /// This host's name, as other hosts are told it: letters, digits, `.`, `_` and `-`.
  public var host: String
  /// Clients that may be connected at a time.
  public var connectionsMax: Int
  /// Clients of one user that may be connected at a time.
  public var connectionsPerUIDMax = 12_288
  /// Locks that one session may hold.
  public var holdsPerSessionMax = 65_536
  /// Locks that all sessions of one user may hold.
  public var holdsPerUIDMax = 1_000_000
  /// Requests of one session that may wait.
  public var waitsPerSessionMax = 128
  /// Requests of one user that may wait.
  public var waitsPerUIDMax = 100_000
  /// Bytes that are kept for one session.
  public var bytesPerSessionMax = 4_194_304
  /// Bytes that are kept for all sessions of one user.
  public var bytesPerUIDMax = 67_108_864
  /// Bytes of what all sessions of one user hold and wait for.
  public var lockBytesPerUIDMax = 33_554_432
  /// Watches that all sessions of one user may have.
  public var watchesPerUIDMax = 256
  /// Who may do what with which names.
  public var policy = AccessPolicy()
  /// The settings that all of this comes from, for the daemon that follows; see ``LeftDescriptors/settings``.
  public var settings: [UInt8] = []
  /// What the status line says about them at first; nil for nothing.
  public var settingsNote: String?
  /// The size of the memory that outlives the daemon, of which only what is written takes any, in bytes.
  var stateBytes = StateMemory.bytesDefault
  /// The version that clients are told.
  public var version: String

  /// A configuration.
  public init(
    backend: Backend, socketPath: String, socketMode: UInt32, leaseMilliseconds: Int64, lingerMilliseconds: Int64,
    cohortHandoversMax: Int, cohortMilliseconds: Int64, redisTimeoutMilliseconds: Int64, keyPrefix: String,
    host: String, connectionsMax: Int, version: String, listeningDescriptor: Int32? = nil
  ) {
    self.backend = backend
    self.socketPath = socketPath
    self.socketMode = socketMode
    self.leaseMilliseconds = leaseMilliseconds
    self.lingerMilliseconds = lingerMilliseconds
    self.cohortHandoversMax = cohortHandoversMax
    self.cohortMilliseconds = cohortMilliseconds
    self.redisTimeoutMilliseconds = redisTimeoutMilliseconds
    self.keyPrefix = keyPrefix
    self.host = host
    self.connectionsMax = connectionsMax
    self.version = version
    self.listeningDescriptor = listeningDescriptor
  }

  /// What of it the engine goes by.
  var engineSettings: EngineSettings {
    var settings = EngineSettings()
    settings.leaseMilliseconds = leaseMilliseconds
    settings.lingerMilliseconds = lingerMilliseconds
    settings.cohortMax = cohortHandoversMax
    settings.cohortMilliseconds = cohortMilliseconds
    settings.storeTimeoutMilliseconds = redisTimeoutMilliseconds
    settings.waitsPerSessionMax = waitsPerSessionMax
    settings.holdsPerSessionMax = holdsPerSessionMax
    settings.waitsPerUIDMax = waitsPerUIDMax
    settings.holdsPerUIDMax = holdsPerUIDMax
    settings.lockBytesPerUIDMax = lockBytesPerUIDMax
    return settings
  }
}
