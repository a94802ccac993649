public import AccessPolicy
public import LockEngine
public import Logging
public import RESP

/// The settings of a daemon: checked, complete, with the defaults filled in.
/// `Sources/SidelockSettings/SettingTable.swift` says what each means and which values it takes; the values here are
/// the defaults that it documents.
///
/// ``live`` changes when the daemon reads its settings again, and the rest at its next start.
public struct Settings: Sendable, Equatable {
  /// Where the host's leases live.
  public enum Backend: Sendable, Equatable {
    /// A Redis server, shared with other hosts. Its login is ``LiveSettings/redisLogin``.
    case redis(RedisURL)
    /// Nowhere: the locks concern this host alone. Chosen explicitly, never a fallback.
    case local

    /// Names the data set, without the login: a successor must go on with the same one. Sentinels are not named: they come
    /// and go, and so does the server that they lead to. A cluster has no name but the nodes that the URL gives.
    public var place: String {
      switch self {
      case .local: ""
      case .redis(let url):
        switch url.endpoint {
        case .tcp(let host, let port): "tcp \(host) \(port) \(url.database)"
        case .unix(let path): "unix \(path) \(url.database)"
        case .sentinels(let set): "sentinel \(set.master) \(url.database)"
        case .cluster(let seeds): "cluster \(seeds.place)"
        }
      }
    }
  }

  /// Where the host's leases live.
  public var backend = Backend.local
  /// The path of the Unix socket, as `SystemText` has it.
  public var socketPath = "/run/sidelock/sidelock.sock"
  /// The permission bits of the socket.
  public var socketMode: UInt32 = 0o660
  /// The group of the socket, by name or number; empty: that of the daemon.
  public var socketGroup = ""
  /// The file that says how far tokens without Redis may have gone, as `SystemText` has it; empty: beside the socket.
  public var localStateFile = ""
  /// What every key and channel in Redis begins with.
  public var keyPrefix = "sidelock:"
  /// This host's name, as other hosts are told it; it is found out at the start.
  public var host = ""
  /// What changes while clients are served.
  public var live = LiveSettings()

  /// The defaults.
  public init() {}
}

/// The settings that change while clients are served, always as a whole.
public struct LiveSettings: Sendable, Equatable {
  /// Those of the engine.
  public var engine = Self.engine
  /// Where the login of Redis comes from.
  public var redisLogin = RedisLoginSource()
  /// How Redis is spoken with by TLS, at the next connection.
  public var redisTLS = RedisTLSOptions()
  /// Connections at a time.
  public var connectionsMax = 16_384
  /// Connections of one user at a time.
  public var connectionsPerUIDMax = 12_288
  /// Bytes that are kept for one session.
  public var bytesPerSessionMax = 4_194_304
  /// Bytes that are kept for all sessions of one user.
  public var bytesPerUIDMax = 67_108_864
  /// Watches that all sessions of one user may have.
  public var watchesPerUIDMax = 256
  /// Who may do what with which locks, with the numbers of the accounts as they were when the settings were read.
  public var policy = AccessPolicy()
  /// What is written to the log of what happens to locks and sessions.
  public var audit: [AuditRule] = []
  /// The least severe level that is logged.
  public var logLevel = Logger.Level.info

  /// A process that takes a lock again and again pauses for less than a second in between, and its lock is then one round trip
  /// of the socket away instead of two more of Redis. For as long as that, a host that dies leaves behind a lock that nobody
  /// has, and a process without sidelock finds it taken.
  private static var engine: EngineSettings {
    var engine = EngineSettings()
    engine.lingerMilliseconds = 1000
    return engine
  }

  /// The defaults.
  public init() {}
}
