import AccessPolicy
import DaemonSettings
import LockEngine
import LockTypes
import Logging
import RESP
import SystemStrings

/// Every setting of the daemon. The raw value is the YAML key; the flag and the environment variable follow from it.
///
/// All about a setting stands in its row of the table below, and in the property of `Settings` to which the row leads.
/// Reading, showing, checking, reloading it and leaving it to the next daemon follow from those two.
public enum SettingKey: String, CaseIterable, Sendable {
  case redis
  case local
  case localStateFile = "local_state_file"
  case redisUser = "redis_user"
  case redisPasswordFile = "redis_password_file"
  case redisCredentialsCommand = "redis_credentials_command"
  case redisSentinelUser = "redis_sentinel_user"
  case redisSentinelPasswordFile = "redis_sentinel_password_file"
  case redisTLSCA = "redis_tls_ca"
  case redisTLSCertificate = "redis_tls_cert"
  case redisTLSKey = "redis_tls_key"
  case redisTLSServerName = "redis_tls_server_name"
  case redisTLSVerification = "redis_tls_verify"
  case socket
  case socketMode = "socket_mode"
  case socketGroup = "socket_group"
  case leaseMilliseconds = "lease_ms"
  case deadHostMilliseconds = "dead_host_ms"
  case lingerMilliseconds = "linger_ms"
  case cohortMax = "cohort_max"
  case cohortMilliseconds = "cohort_ms"
  case redisTimeoutMilliseconds = "redis_timeout_ms"
  case replicas
  case durability
  case replicasTimeoutMilliseconds = "replicas_timeout_ms"
  case keyPrefix = "key_prefix"
  case host
  case connectionsMax = "connections_max"
  case connectionsPerUIDMax = "connections_per_uid_max"
  case holdsPerSessionMax = "holds_per_session_max"
  case holdsPerUIDMax = "holds_per_uid_max"
  case waitsPerSessionMax = "waits_per_session_max"
  case waitsPerUIDMax = "waits_per_uid_max"
  case bytesPerSessionMax = "bytes_per_session_max"
  case bytesPerUIDMax = "bytes_per_uid_max"
  case lockBytesPerUIDMax = "lock_bytes_per_uid_max"
  case watchesPerUIDMax = "watches_per_uid_max"
  case rules
  case audit
  case warnHoldMilliseconds = "warn_hold_ms"
  case logLevel = "log_level"

  /// The flag without its dashes, such as `lease-ms`.
  public var flagName: String {
    // Each flag is one rule.
    self == .rules ? "rule" : String(rawValue.map { $0 == "_" ? "-" : $0 })
  }

  /// The environment variable, such as `SIDELOCK_LEASE_MS`.
  public var environmentName: String { environmentPrefix + rawValue.uppercased() }
}

/// What all of the daemon's environment variables begin with.
let environmentPrefix = "SIDELOCK_"
/// The variable that stands for `--config`. Not a setting: a file cannot name another file.
let configEnvironmentName = "SIDELOCK_CONFIG"

/// Variables with the prefix that are no settings: where the file is, and what `sidelock run` tells its command, which
/// may be a daemon. A test runs one below it.
let otherEnvironmentNames: Set<String> = [
  configEnvironmentName, "SIDELOCK_NAME", "SIDELOCK_TOKEN", "SIDELOCK_TOKENS", "SIDELOCK_RUNS",
]

/// What values a setting takes.
enum SettingKind: Sendable, Equatable {
  case redisURL
  case boolean
  case userName
  case filePath
  /// A program, which the daemon runs.
  case program
  /// A file that is read at each connection.
  case pemFile
  case stateFile
  case socketPath
  case mode
  case integer(ClosedRange<Int>)
  case keyPrefix
  case hostName
  case serverName
  case verification
  case durability
  case logLevel
  /// A list: the flag may come several times, and the file may have several lines.
  case rules
  /// The same.
  case audit

  /// Whether a setting of this kind has several values.
  var isList: Bool { self == .rules || self == .audit }

  /// The allowed values in words, for error messages and the documentation.
  var allowed: String {
    switch self {
    case .redisURL:
      "redis://[user:password@]host[:port][/db], rediss://… for TLS, unix://[user:password@]/path[?db=N], "
        + "redis-sentinel://[user:password@]host[:port][,host[:port]…][/db]?sentinelMasterId=NAME, rediss-sentinel://… for TLS, "
        + "or redis-cluster://[user:password@]host[:port][,host[:port]…], rediss-cluster://… for TLS"
    case .boolean: "true or false"
    case .userName: "1…\(userNameBytesMax) bytes without spaces and control characters"
    case .filePath: "the path of a readable file"
    case .program: "the absolute path of a program that only root and the daemon's user can change, without arguments"
    case .pemFile: "the path of a PEM file; empty: none"
    case .stateFile: "the path of a file in a directory that the daemon may write to; empty: beside the socket"
    case .socketPath: "a path of at most \(socketPathBytesMax) bytes"
    case .mode: "octal 0000…0777"
    case .integer(let range): "\(range.lowerBound)…\(range.upperBound)"
    case .keyPrefix: "at most \(keyPrefixBytesMax) bytes of printable ASCII without braces and spaces"
    case .hostName: "1…\(hostNameBytesMax) characters out of A-Z a-z 0-9 . _ -"
    case .serverName:
      "a host name or an address of at most \(serverNameBytesMax) characters; empty: the host of the URL"
    case .verification: RedisTLSOptions.Verification.allCases.map(\.rawValue).joined(separator: ", ")
    case .durability: Durability.allCases.map(\.rawValue).joined(separator: ", ")
    case .logLevel: Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
    case .rules: AccessRule.form
    case .audit: AuditRule.form
    }
  }
}

/// A Unix socket address holds 108 bytes; the last one ends the string.
let socketPathBytesMax = 107
let userNameBytesMax = 256
let keyPrefixBytesMax = 64
let hostNameBytesMax = 64
let serverNameBytesMax = 255

/// A row of the table: what help, documentation, flags, files, checks and the daemon know about a setting.
struct SettingDefinition: Sendable {
  /// What stands for the value in help texts.
  let valueName: String
  /// One sentence, without a full stop.
  let summary: String
  let kind: SettingKind
  /// Where its value and its default stand in `Settings`, and when it changes.
  let place: SettingPlace
  /// The default in words.
  let defaultText: String
  /// What stands for it in the sample file.
  let sample: String
  /// The name of the file in systemd's credentials directory that is used where nothing was given; nil: none is.
  let credential: String?

  /// The default, where it is found out at the start; nil for what stands in `Settings()`.
  let found: (@Sendable (Settings, SettingsInputs) -> SettingValue?)?
  /// Checks it against the rows above, beyond the check of a value by itself; what is wrong, or nil for nothing.
  let problem: (@Sendable (Settings) -> String?)?

  /// `defaultText` and `sample`, where not given, are what stands in `Settings()`.
  init(
    _ valueName: String, _ summary: String, _ kind: SettingKind, _ place: SettingPlace,
    default defaultText: String? = nil,
    sample: String? = nil, credential: String? = nil,
    found: (@Sendable (Settings, SettingsInputs) -> SettingValue?)? = nil,
    problem: (@Sendable (Settings) -> String?)? = nil
  ) {
    self.valueName = valueName
    self.summary = summary
    self.kind = kind
    self.place = place
    self.defaultText = defaultText ?? place.defaultValue?.shown ?? ""
    self.sample = sample ?? place.defaultValue?.shown ?? ""
    self.credential = credential
    self.found = found
    self.problem = problem
  }

  /// The default in digits; nil for what is no number.
  var defaultNumber: Int? { if case .number(let number)? = place.defaultValue { number } else { nil } }
}

/// The name of the file in systemd's credentials directory that holds the Redis password.
let passwordCredential = "sidelock.redis-password"
/// The same for the password of the Sentinels.
let sentinelPasswordCredential = "sidelock.redis-sentinel-password"

/// The name of the file in systemd's directory for state.
let localStateName = "local-tokens"

extension SettingKey {
  /// The table. Everything else is derived from it.
  var definition: SettingDefinition {
    switch self {
    case .redis:
      SettingDefinition(
        "URL", "The Redis server that keeps the leases of all hosts", .redisURL, .redis,
        default: "none: choose this or local", sample: "redis://localhost:6379/0")
    case .local:
      SettingDefinition(
        "BOOL", "Locks for this host alone, without Redis", .boolean, .local, default: "false", sample: "true")
    case .localStateFile:
      SettingDefinition(
        "FILE", "The file by which tokens of local rise over a restart, whatever the clock shows", .stateFile,
        .fixed(\.localStateFile),
        default: "$STATE_DIRECTORY/\(localStateName) if that is set, otherwise the path of the socket and .tokens",
        sample: "/var/lib/sidelock/\(localStateName)", found: { _, inputs in inputs.stateFile?.asSetting })
    case .redisUser:
      SettingDefinition(
        "NAME", "The ACL user of Redis, for a password that does not stand in the URL", .userName,
        .live(\.redisLogin.user), default: "the server's default user", sample: "locks")
    case .redisPasswordFile:
      SettingDefinition(
        "FILE", "A file with the Redis password, instead of one in the URL; it may be replaced at any time", .filePath,
        .live(\.redisLogin.passwordFile), default: "$CREDENTIALS_DIRECTORY/\(passwordCredential) if it is there",
        sample: "/etc/sidelock/redis-password", credential: passwordCredential)
    case .redisCredentialsCommand:
      SettingDefinition(
        "PROGRAM", "A program that writes the Redis password, such as a token that is good for minutes", .program,
        .live(\.redisLogin.command), default: "none", sample: "/etc/sidelock/redis-credentials")
    case .redisSentinelUser:
      SettingDefinition(
        "NAME", "The ACL user at the Sentinels, if they ask for a login; it is not that of Redis", .userName, .login,
        default: "the Sentinels' default user", sample: "locks")
    case .redisSentinelPasswordFile:
      SettingDefinition(
        "FILE", "A file with the password of the Sentinels, if they ask for one", .filePath, .login,
        default: "$CREDENTIALS_DIRECTORY/\(sentinelPasswordCredential) if it is there",
        sample: "/etc/sidelock/redis-sentinel-password")
    case .redisTLSCA:
      SettingDefinition(
        "FILE", "The certificates of the CAs to trust with rediss://, instead of those of the system", .pemFile,
        .live(\.redisTLS.caFile),
        default: "$CREDENTIALS_DIRECTORY/sidelock.redis-tls-ca if it is there, otherwise the CAs of the system",
        sample: "/etc/sidelock/redis-ca.pem", credential: "sidelock.redis-tls-ca")
    case .redisTLSCertificate:
      SettingDefinition(
        "FILE", "The certificate to show to a Redis that asks for one, and those between it and its CA", .pemFile,
        .live(\.redisTLS.certificateFile),
        default: "$CREDENTIALS_DIRECTORY/sidelock.redis-tls-cert if it is there",
        sample: "/etc/sidelock/redis-client.pem",
        credential: "sidelock.redis-tls-cert")
    case .redisTLSKey:
      SettingDefinition(
        "FILE", "The key of redis_tls_cert, if it does not stand in that file", .pemFile, .live(\.redisTLS.keyFile),
        default: "$CREDENTIALS_DIRECTORY/sidelock.redis-tls-key if it is there",
        sample: "/etc/sidelock/redis-client.key",
        credential: "sidelock.redis-tls-key")
    case .redisTLSServerName:
      SettingDefinition(
        "NAME", "The name or address that the certificate of Redis must be for", .serverName,
        .live(\.redisTLS.serverName), default: "the host of the URL", sample: "redis.example.com")
    case .redisTLSVerification:
      SettingDefinition(
        "HOW", "How the certificate of Redis is checked: who signed it, its time and its name, or nothing",
        .verification, .live(\.redisTLS.verification))
    case .socket:
      SettingDefinition(
        "PATH", "The Unix socket for clients", .socketPath, .fixed(\.socketPath),
        default:
          "\(Settings().socketPath); not as root: $XDG_RUNTIME_DIR/sidelock/sidelock.sock if that is set",
        found: { _, inputs in inputs.userSocketPath?.asSetting },
        problem: { settings in
          // Only a default can fail this: what was given has been checked.
          guard SystemText.bytes(settings.socketPath).count > socketPathBytesMax else { return nil }
          return "the default \(quoted(settings.socketPath)) is too long; allowed: \(SettingKind.socketPath.allowed)"
        })
    case .socketMode:
      SettingDefinition("MODE", "The permissions of the socket", .mode, .fixed(\.socketMode))
    case .socketGroup:
      SettingDefinition(
        "GROUP", "The group of the socket, by name or number", .userName, .fixed(\.socketGroup),
        default: "that of the daemon", sample: "1000")
    case .leaseMilliseconds:
      number(
        "How long a lease in Redis lasts without renewal; a change is for new ones",
        Int(LeaseTimeline.millisecondsRange.lowerBound)...Int(LeaseTimeline.millisecondsRange.upperBound),
        .live(\.engine.leaseMilliseconds))
    case .deadHostMilliseconds:
      number(
        "How long after its last sign of life a host is taken for dead, and others get its locks; 0: when each lease ends",
        0...Int(LeaseTimeline.millisecondsRange.upperBound), .live(\.engine.deadHostMilliseconds),
        problem: { settings in
          let engine = settings.live.engine
          let (given, least, lease) =
            (engine.deadHostMilliseconds, EngineSettings.deadHostMillisecondsMin, engine.leaseMilliseconds)
          guard given != 0, given < least || given >= lease else { return nil }
          return "\(given) must be 0, or at least \(least) and less than lease_ms, which is \(lease)"
        })
    case .lingerMilliseconds:
      number(
        "How long an unused lease of a lock that this host uses again and again is kept for the next local client; another host gets it at once",
        0...60_000, .live(\.engine.lingerMilliseconds))
    case .cohortMax:
      number(
        "How often a lock passes between local clients while another host waits", 1...1_000_000,
        .live(\.engine.cohortMax))
    case .cohortMilliseconds:
      number(
        "How long a lock passes between local clients at the most while another host waits; 40 round trips to Redis, if less",
        0...60_000,
        .live(\.engine.cohortMilliseconds))
    case .redisTimeoutMilliseconds:
      number(
        "How long Redis may take to answer; less than half of lease_ms, and of dead_host_ms", 100...60_000,
        .live(\.engine.storeTimeoutMilliseconds),
        default:
          "\(EngineSettings().storeTimeoutMilliseconds), or a quarter of lease_ms or dead_host_ms if that is less",
        // A short lease needs no second setting.
        found: { settings, _ in
          let engine = settings.live.engine
          return min(engine.storeTimeoutMilliseconds, engine.goneMilliseconds / 4).asSetting
        },
        problem: { settings in
          let engine = settings.live.engine
          guard engine.storeTimeoutMilliseconds * 2 >= engine.goneMilliseconds else { return nil }
          let name = engine.goneMilliseconds < engine.leaseMilliseconds ? "dead_host_ms" : "lease_ms"
          return
            "\(engine.storeTimeoutMilliseconds) must be less than half of \(name), which is \(engine.goneMilliseconds)"
        })
    case .replicas:
      number(
        "How many replicas of Redis must have a lease before its client is told, at the least; a request may ask for more",
        0...ReplicaNeed.replicasMax, .live(\.engine.need.replicas))
    case .durability:
      SettingDefinition(
        "WHERE", "Whether a lease must be on the disks of the primary and those replicas, or only in their memory",
        .durability, .live(\.engine.need.durability))
    case .replicasTimeoutMilliseconds:
      number(
        "How long replicas may take to acknowledge a lease before it is given back", 1...60_000,
        .live(\.engine.replicasTimeoutMilliseconds))
    case .keyPrefix:
      SettingDefinition(
        "TEXT", "What every key in Redis begins with", .keyPrefix, .fixed(\.keyPrefix),
        sample: "\"\(Settings().keyPrefix)\"")
    case .host:
      SettingDefinition(
        "NAME", "The name under which other hosts see this one", .hostName, .fixed(\.host), default: "the host name",
        sample: "host-1", found: { _, inputs in sanitisedHostName(inputs.systemHostName).asSetting })
    case .connectionsMax:
      number(
        "The most client connections at a time; fewer where the limit of open files is too low", 1...1_000_000,
        .live(\.connectionsMax))
    case .connectionsPerUIDMax:
      number("The most client connections of one user at a time", 1...1_000_000, .live(\.connectionsPerUIDMax))
    case .holdsPerSessionMax:
      number("The most locks that one connection may hold", 1...10_000_000, .live(\.engine.holdsPerSessionMax))
    case .holdsPerUIDMax:
      number(
        "The most locks that all connections of one user may hold", 1...10_000_000, .live(\.engine.holdsPerUIDMax))
    case .waitsPerSessionMax:
      number(
        "The most requests of one connection that may wait at a time", 1...65_536, .live(\.engine.waitsPerSessionMax))
    case .waitsPerUIDMax:
      number("The most requests of one user that may wait at a time", 1...10_000_000, .live(\.engine.waitsPerUIDMax))
    case .bytesPerSessionMax:
      number(
        "The most bytes that are kept for one connection, come from it or not yet taken by it",
        1_048_576...1_073_741_824, .live(\.bytesPerSessionMax))
    case .bytesPerUIDMax:
      number(
        "The most bytes that are kept for all connections of one user", 1_048_576...17_179_869_184,
        .live(\.bytesPerUIDMax))
    case .lockBytesPerUIDMax:
      number(
        "The most bytes that what all connections of one user hold and wait for counts for; its memory takes up to twice as much",
        1_048_576...17_179_869_184, .live(\.engine.lockBytesPerUIDMax))
    case .watchesPerUIDMax:
      number("The most watches that all connections of one user may have", 1...1_000_000, .live(\.watchesPerUIDMax))
    case .rules:
      SettingDefinition(
        "RULE", "Who may do what with which locks; the first rule that fits decides", .rules, .live(\.policy.rules),
        default:
          "everybody may use and inspect; root, the daemon's own user and the group \(AccessPolicy.administratorsGroup) may break",
        sample: "[" + SettingsDocument.sampleRules.map { "\"\($0)\"" }.joined(separator: ", ") + "]")
    case .audit:
      SettingDefinition(
        "RULE", "What is logged of what happens to locks and sessions; the first rule that fits decides", .audit,
        .live(\.audit), default: "nothing but losses, breaks and limits that are met",
        sample: "[" + SettingsDocument.sampleAudit.map { "\"\($0)\"" }.joined(separator: ", ") + "]")
    case .warnHoldMilliseconds:
      number(
        "How long a lock may be held before the log says who has it, and since when; a change is for new holds; 0: for ever",
        0...31_536_000_000, .live(\.engine.warnHoldMilliseconds))
    case .logLevel:
      SettingDefinition("LEVEL", "The least severe messages that are logged", .logLevel, .live(\.logLevel))
    }
  }

  private func number(
    _ summary: String, _ range: ClosedRange<Int>, _ place: SettingPlace, default text: String? = nil,
    found: (@Sendable (Settings, SettingsInputs) -> SettingValue?)? = nil,
    problem: (@Sendable (Settings) -> String?)? = nil
  ) -> SettingDefinition {
    SettingDefinition("N", summary, .integer(range), place, default: text, found: found, problem: problem)
  }
}

/// A mode as people write it, such as `0660`.
func octal(_ mode: UInt32) -> String {
  let digits = String(mode, radix: 8)
  return String(repeating: "0", count: max(0, 4 - digits.utf8.count)) + digits
}
