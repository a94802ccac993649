import AccessPolicy
import Logging

/// Every setting of the daemon. The raw value is the YAML key; the flag and the environment variable follow from it,
/// so a new case here is all that a new setting needs to exist everywhere (the compiler asks for the rest).
public enum SettingKey: String, CaseIterable, Sendable {
  case redis
  case local
  case redisUser = "redis_user"
  case redisPasswordFile = "redis_password_file"
  case socket
  case socketMode = "socket_mode"
  case leaseMilliseconds = "lease_ms"
  case lingerMilliseconds = "linger_ms"
  case cohortMax = "cohort_max"
  case cohortMilliseconds = "cohort_ms"
  case redisTimeoutMilliseconds = "redis_timeout_ms"
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
  configEnvironmentName, "SIDELOCK_NAME", "SIDELOCK_TOKEN", "SIDELOCK_TOKENS",
]

/// What values a setting takes.
enum SettingKind: Sendable, Equatable {
  case redisURL
  case boolean
  case userName
  case filePath
  case socketPath
  case mode
  case integer(ClosedRange<Int>)
  case keyPrefix
  case hostName
  case logLevel
  /// A list: the flag may come several times, and the file may have several lines.
  case rules

  /// Whether a setting of this kind has several values.
  var isList: Bool { self == .rules }

  /// The allowed values in words, for error messages and the documentation.
  var allowed: String {
    switch self {
    case .redisURL: "redis://[user:password@]host[:port][/db] or unix://[user:password@]/path[?db=N]"
    case .boolean: "true or false"
    case .userName: "1…\(userNameBytesMax) bytes without spaces and control characters"
    case .filePath: "the path of a readable file"
    case .socketPath: "a path of at most \(socketPathBytesMax) bytes"
    case .mode: "octal 0000…0777"
    case .integer(let range): "\(range.lowerBound)…\(range.upperBound)"
    case .keyPrefix: "at most \(keyPrefixBytesMax) bytes of printable ASCII without braces and spaces"
    case .hostName: "1…\(hostNameBytesMax) characters out of A-Z a-z 0-9 . _ -"
    case .logLevel: Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
    case .rules: AccessRule.form
    }
  }
}

/// A Unix socket address holds 108 bytes, the last of which ends the string.
let socketPathBytesMax = 107
let userNameBytesMax = 256
let keyPrefixBytesMax = 64
let hostNameBytesMax = 64

/// A row of the table: what help, documentation, flags, files and checks know about a setting.
struct SettingDefinition: Sendable {
  /// What stands for the value in help texts.
  let valueName: String
  /// One sentence, without a full stop.
  let summary: String
  let kind: SettingKind
  /// The default in words.
  let defaultText: String
  /// The default in digits; nil for one that is found out at start.
  var defaultNumber: Int?
}

let defaultKeyPrefix = "sidelock:"
let defaultSocketMode: UInt32 = 0o660
let defaultLogLevel = Logger.Level.info
let systemSocketPath = "/run/sidelock/sidelock.sock"
/// The name of the file in systemd's credentials directory that holds the Redis password.
let passwordCredential = "sidelock.redis-password"

extension SettingKey {
  /// The table. Everything else is derived from it.
  var definition: SettingDefinition {
    switch self {
    case .redis:
      SettingDefinition(
        valueName: "URL", summary: "The Redis server that keeps the leases of all hosts", kind: .redisURL,
        defaultText: "none: choose this or local")
    case .local:
      SettingDefinition(
        valueName: "BOOL", summary: "Locks for this host alone, without Redis", kind: .boolean, defaultText: "false")
    case .redisUser:
      SettingDefinition(
        valueName: "NAME", summary: "The ACL user of Redis, for a password that does not stand in the URL",
        kind: .userName, defaultText: "the server's default user")
    case .redisPasswordFile:
      SettingDefinition(
        valueName: "FILE", summary: "A file with the Redis password, instead of one in the URL", kind: .filePath,
        defaultText: "$CREDENTIALS_DIRECTORY/\(passwordCredential) if it is there")
    case .socket:
      SettingDefinition(
        valueName: "PATH", summary: "The Unix socket for clients", kind: .socketPath,
        defaultText: "\(systemSocketPath); not as root: $XDG_RUNTIME_DIR/sidelock/sidelock.sock if that is set")
    case .socketMode:
      SettingDefinition(
        valueName: "MODE", summary: "The permissions of the socket", kind: .mode,
        defaultText: octal(defaultSocketMode))
    case .leaseMilliseconds:
      number(
        "How long a lease in Redis lasts without renewal; a change is for new ones", 1000...3_600_000, default: 10_000)
    case .lingerMilliseconds:
      number("How long an unused lease is kept for the next local client", 0...60_000, default: 0)
    case .cohortMax:
      number("How often a lock passes between local clients while another host waits", 1...1_000_000, default: 100)
    case .cohortMilliseconds:
      number("How long a lock passes between local clients while another host waits", 0...60_000, default: 50)
    case .redisTimeoutMilliseconds:
      SettingDefinition(
        valueName: "N", summary: "How long Redis may take to answer; less than half of lease_ms",
        kind: .integer(100...60_000), defaultText: "2000, or a quarter of lease_ms if that is less",
        defaultNumber: 2000)
    case .keyPrefix:
      SettingDefinition(
        valueName: "TEXT", summary: "What every key in Redis begins with", kind: .keyPrefix,
        defaultText: defaultKeyPrefix)
    case .host:
      SettingDefinition(
        valueName: "NAME", summary: "The name under which other hosts see this one", kind: .hostName,
        defaultText: "the host name")
    case .connectionsMax:
      number(
        "The most client connections at a time; fewer where the limit of open files is too low", 1...1_000_000,
        default: 16_384)
    case .connectionsPerUIDMax:
      number("The most client connections of one user at a time", 1...1_000_000, default: 12_288)
    case .holdsPerSessionMax:
      number("The most locks that one connection may hold", 1...10_000_000, default: 65_536)
    case .holdsPerUIDMax:
      number("The most locks that all connections of one user may hold", 1...10_000_000, default: 1_000_000)
    case .waitsPerSessionMax:
      number("The most requests of one connection that may wait at a time", 1...65_536, default: 128)
    case .waitsPerUIDMax:
      number("The most requests of one user that may wait at a time", 1...10_000_000, default: 100_000)
    case .bytesPerSessionMax:
      number(
        "The most bytes that are kept for one connection, come from it or not yet taken by it",
        1_048_576...1_073_741_824, default: 4_194_304)
    case .bytesPerUIDMax:
      number(
        "The most bytes that are kept for all connections of one user", 1_048_576...17_179_869_184,
        default: 67_108_864)
    case .lockBytesPerUIDMax:
      number(
        "The most bytes of names, notes and owners of what all connections of one user hold and wait for",
        1_048_576...17_179_869_184, default: 33_554_432)
    case .watchesPerUIDMax:
      number("The most watches that all connections of one user may have", 1...1_000_000, default: 256)
    case .rules:
      SettingDefinition(
        valueName: "RULE", summary: "Who may do what with which locks; the first rule that fits decides",
        kind: .rules,
        defaultText:
          "everybody may use and inspect; root, the daemon's own user and the group \(AccessPolicy.administratorsGroup) may break"
      )
    case .logLevel:
      SettingDefinition(
        valueName: "LEVEL", summary: "The least severe messages that are logged", kind: .logLevel,
        defaultText: defaultLogLevel.rawValue)
    }
  }

  private func number(_ summary: String, _ range: ClosedRange<Int>, default value: Int) -> SettingDefinition {
    SettingDefinition(
      valueName: "N", summary: summary, kind: .integer(range), defaultText: String(value), defaultNumber: value)
  }
}

/// A mode as people write it, such as `0660`.
func octal(_ mode: UInt32) -> String {
  let digits = String(mode, radix: 8)
  return String(repeating: "0", count: max(0, 4 - digits.utf8.count)) + digits
}
