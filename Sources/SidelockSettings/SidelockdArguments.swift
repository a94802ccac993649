public import ArgumentParser

/// The daemon's command line. Names and help come from the table; the daemon adds nothing of its own.
public struct SidelockdArguments: ParsableArguments {
  @Option(name: SettingKey.redis.optionName, parsing: .unconditional, help: SettingKey.redis.help)
  var redis: String?

  @Flag(name: SettingKey.local.optionName, help: SettingKey.local.help)
  var local = false

  @Option(name: SettingKey.redisUser.optionName, parsing: .unconditional, help: SettingKey.redisUser.help)
  var redisUser: String?

  @Option(
    name: SettingKey.redisPasswordFile.optionName, parsing: .unconditional, help: SettingKey.redisPasswordFile.help)
  var redisPasswordFile: String?

  @Option(name: SettingKey.socket.optionName, parsing: .unconditional, help: SettingKey.socket.help)
  var socket: String?

  @Option(name: SettingKey.socketMode.optionName, parsing: .unconditional, help: SettingKey.socketMode.help)
  var socketMode: String?

  @Option(
    name: SettingKey.leaseMilliseconds.optionName, parsing: .unconditional, help: SettingKey.leaseMilliseconds.help)
  var leaseMilliseconds: String?

  @Option(
    name: SettingKey.lingerMilliseconds.optionName, parsing: .unconditional, help: SettingKey.lingerMilliseconds.help)
  var lingerMilliseconds: String?

  @Option(name: SettingKey.cohortMax.optionName, parsing: .unconditional, help: SettingKey.cohortMax.help)
  var cohortMax: String?

  @Option(
    name: SettingKey.cohortMilliseconds.optionName, parsing: .unconditional, help: SettingKey.cohortMilliseconds.help)
  var cohortMilliseconds: String?

  @Option(
    name: SettingKey.redisTimeoutMilliseconds.optionName, parsing: .unconditional,
    help: SettingKey.redisTimeoutMilliseconds.help)
  var redisTimeoutMilliseconds: String?

  @Option(name: SettingKey.keyPrefix.optionName, parsing: .unconditional, help: SettingKey.keyPrefix.help)
  var keyPrefix: String?

  @Option(name: SettingKey.host.optionName, parsing: .unconditional, help: SettingKey.host.help)
  var host: String?

  @Option(name: SettingKey.connectionsMax.optionName, parsing: .unconditional, help: SettingKey.connectionsMax.help)
  var connectionsMax: String?

  @Option(
    name: SettingKey.connectionsPerUIDMax.optionName, parsing: .unconditional,
    help: SettingKey.connectionsPerUIDMax.help)
  var connectionsPerUIDMax: String?

  @Option(
    name: SettingKey.holdsPerSessionMax.optionName, parsing: .unconditional, help: SettingKey.holdsPerSessionMax.help)
  var holdsPerSessionMax: String?

  @Option(name: SettingKey.holdsPerUIDMax.optionName, parsing: .unconditional, help: SettingKey.holdsPerUIDMax.help)
  var holdsPerUIDMax: String?

  @Option(
    name: SettingKey.waitsPerSessionMax.optionName, parsing: .unconditional, help: SettingKey.waitsPerSessionMax.help)
  var waitsPerSessionMax: String?

  @Option(name: SettingKey.waitsPerUIDMax.optionName, parsing: .unconditional, help: SettingKey.waitsPerUIDMax.help)
  var waitsPerUIDMax: String?

  @Option(
    name: SettingKey.bytesPerSessionMax.optionName, parsing: .unconditional, help: SettingKey.bytesPerSessionMax.help)
  var bytesPerSessionMax: String?

  @Option(name: SettingKey.bytesPerUIDMax.optionName, parsing: .unconditional, help: SettingKey.bytesPerUIDMax.help)
  var bytesPerUIDMax: String?

  @Option(
    name: SettingKey.lockBytesPerUIDMax.optionName, parsing: .unconditional, help: SettingKey.lockBytesPerUIDMax.help)
  var lockBytesPerUIDMax: String?

  @Option(name: SettingKey.watchesPerUIDMax.optionName, parsing: .unconditional, help: SettingKey.watchesPerUIDMax.help)
  var watchesPerUIDMax: String?

  @Option(name: SettingKey.rules.optionName, parsing: .unconditionalSingleValue, help: SettingKey.rules.help)
  var rules: [String] = []

  @Option(name: SettingKey.logLevel.optionName, parsing: .unconditional, help: SettingKey.logLevel.help)
  var logLevel: String?

  @Option(
    name: .long, parsing: .unconditional,
    help: ArgumentHelp("A YAML file with settings as \"name: value\".", valueName: "FILE"))
  var config: String?

  /// Whether to print the effective settings instead of starting.
  @Flag(name: .long, help: "Check the settings, print them with their sources, and exit.")
  public var check = false

  @Argument(parsing: .allUnrecognized, help: .hidden)
  var unknown: [String] = []

  /// An empty command line.
  public init() {}

  /// What was given for settings with several values, each for itself.
  var listFlags: [SettingKey: [String]] {
    rules.isEmpty ? [:] : [.rules: rules]
  }

  /// What was given for the others, under the table's keys.
  var flags: [SettingKey: String] {
    var result: [SettingKey: String] = [:]
    for key in SettingKey.allCases { result[key] = text(of: key) }
    return result
  }

  private func text(of key: SettingKey) -> String? {
    switch key {
    case .redis: redis
    case .local: local ? "true" : nil
    case .redisUser: redisUser
    case .redisPasswordFile: redisPasswordFile
    case .socket: socket
    case .socketMode: socketMode
    case .leaseMilliseconds: leaseMilliseconds
    case .lingerMilliseconds: lingerMilliseconds
    case .cohortMax: cohortMax
    case .cohortMilliseconds: cohortMilliseconds
    case .redisTimeoutMilliseconds: redisTimeoutMilliseconds
    case .keyPrefix: keyPrefix
    case .host: host
    case .connectionsMax: connectionsMax
    case .connectionsPerUIDMax: connectionsPerUIDMax
    case .holdsPerSessionMax: holdsPerSessionMax
    case .holdsPerUIDMax: holdsPerUIDMax
    case .waitsPerSessionMax: waitsPerSessionMax
    case .waitsPerUIDMax: waitsPerUIDMax
    case .bytesPerSessionMax: bytesPerSessionMax
    case .bytesPerUIDMax: bytesPerUIDMax
    case .lockBytesPerUIDMax: lockBytesPerUIDMax
    case .watchesPerUIDMax: watchesPerUIDMax
    case .rules: nil
    case .logLevel: logLevel
    }
  }
}

extension SettingKey {
  fileprivate var optionName: NameSpecification { .customLong(flagName) }

  fileprivate var help: ArgumentHelp {
    let row = definition
    switch row.kind {
    case .boolean: return ArgumentHelp("\(row.summary).")
    case .redisURL, .userName, .filePath, .socketPath, .mode, .integer, .keyPrefix, .hostName, .logLevel, .rules:
      return ArgumentHelp(
        "\(row.summary) (\(row.kind.allowed); default: \(row.defaultText)).", valueName: row.valueName)
    }
  }
}
