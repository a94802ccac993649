import AccessPolicy
import LockEngine
import Logging
import RESP

/// The settings that a daemon serves with, in a form that can be handed to the daemon after it: whose own may be wrong.
///
/// Nothing in it has to be looked up again. The password of Redis is among it: it is for memory that nobody else reads.
public struct SettingsInForce: Sendable, Equatable {
  /// The settings.
  public var settings: Settings
  /// The values for people, without secrets.
  public var shown: [SettingKey: String]

  /// These settings.
  public init(settings: Settings, shown: [SettingKey: String]) {
    self.settings = settings
    self.shown = shown
  }

  /// What a resolution without problems says; nil with problems.
  public init?(_ resolution: SettingsResolution) {
    guard let settings = resolution.settings else { return nil }
    let shown = Dictionary(resolution.effective.map { ($0.key, $0.shown) }) { first, _ in first }
    self.init(settings: settings, shown: shown)
  }

  /// Whoever changes what is written raises it.
  private static let version: UInt64 = 2

  /// All of it as bytes.
  public var encoded: [UInt8] {
    var writer = StateWriter()
    writer.write(Self.version)
    write(settings.backend, to: &writer)
    writer.write(settings.socketPath)
    writer.write(UInt64(settings.socketMode))
    for (_, number) in Self.numbers { writer.write(Int64(settings[keyPath: number])) }
    writer.write(settings.keyPrefix)
    writer.write(settings.hostName)
    writer.write(settings.logLevel.rawValue)
    writer.write(settings.policy.administrators.map(Int64.init))
    writer.write(UInt64(settings.policy.rules.count))
    for rule in settings.policy.rules { write(rule, to: &writer) }
    writer.write(UInt64(shown.count))
    for (key, text) in shown.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
      writer.write(key.rawValue)
      writer.write(text)
    }
    return writer.bytes
  }

  /// Reads it back; nil for anything else, whatever that is, and where a number is none that its setting may have.
  public init?(encoded bytes: [UInt8]) {
    var reader = StateReader(bytes)
    do throws(StateDamage) {
      guard try reader.unsigned() == Self.version else { return nil }
      settings = Settings(
        backend: try Self.backend(&reader), socketPath: try reader.text(),
        socketMode: UInt32(truncatingIfNeeded: try reader.unsigned()) & 0o777, leaseMilliseconds: 0,
        lingerMilliseconds: 0, cohortHandOversMax: 0, cohortMilliseconds: 0, redisTimeoutMilliseconds: 0, keyPrefix: "",
        hostName: "", connectionsMax: 0, connectionsPerUIDMax: 0, holdsPerSessionMax: 0, holdsPerUIDMax: 0,
        waitsPerSessionMax: 0, waitsPerUIDMax: 0, bytesPerSessionMax: 0, bytesPerUIDMax: 0, lockBytesPerUIDMax: 0,
        watchesPerUIDMax: 0, policy: AccessPolicy(), logLevel: defaultLogLevel)
      for (key, number) in Self.numbers {
        let value = Int(clamping: try reader.signed())
        guard case .integer(let range) = key.definition.kind, range.contains(value) else { return nil }
        settings[keyPath: number] = value
      }
      guard settings.redisTimeoutMilliseconds * 2 < settings.leaseMilliseconds else { return nil }
      settings.keyPrefix = try reader.text()
      settings.hostName = try reader.text()
      guard let level = Logger.Level(rawValue: try reader.text()) else { return nil }
      settings.logLevel = level
      settings.policy.administrators = try reader.optional().map { UInt32(truncatingIfNeeded: $0) }
      for _ in 0..<(try reader.count()) { settings.policy.rules.append(try Self.rule(&reader)) }
      shown = [:]
      for _ in 0..<(try reader.count()) {
        guard let key = SettingKey(rawValue: try reader.text()) else { return nil }
        shown[key] = try reader.text()
      }
      try reader.finish()
    } catch { return nil }
  }

  private static var numbers: [(SettingKey, WritableKeyPath<Settings, Int>)] {
    [
      (.leaseMilliseconds, \.leaseMilliseconds), (.lingerMilliseconds, \.lingerMilliseconds),
      (.cohortMax, \.cohortHandOversMax), (.cohortMilliseconds, \.cohortMilliseconds),
      (.redisTimeoutMilliseconds, \.redisTimeoutMilliseconds), (.connectionsMax, \.connectionsMax),
      (.connectionsPerUIDMax, \.connectionsPerUIDMax), (.holdsPerSessionMax, \.holdsPerSessionMax),
      (.holdsPerUIDMax, \.holdsPerUIDMax), (.waitsPerSessionMax, \.waitsPerSessionMax),
      (.waitsPerUIDMax, \.waitsPerUIDMax), (.bytesPerSessionMax, \.bytesPerSessionMax),
      (.bytesPerUIDMax, \.bytesPerUIDMax), (.lockBytesPerUIDMax, \.lockBytesPerUIDMax),
      (.watchesPerUIDMax, \.watchesPerUIDMax),
    ]
  }

  // MARK: Redis

  private func write(_ backend: Settings.Backend, to writer: inout StateWriter) {
    guard case .redis(let url) = backend else { return writer.write(false) }
    writer.write(true)
    switch url.endpoint {
    case .unix(let path):
      writer.write(true)
      writer.write(path)
    case .tcp(let host, let port):
      writer.write(false)
      writer.write(host)
      writer.write(Int64(port))
    }
    writer.write(url.username)
    writer.write(url.password != nil)
    writer.write(url.password?.bytes ?? [])
    writer.write(Int64(url.database))
  }

  private static func backend(_ reader: inout StateReader) throws(StateDamage) -> Settings.Backend {
    guard try reader.bool() else { return .local }
    let endpoint: RedisURL.Endpoint =
      if try reader.bool() {
        .unix(path: try reader.text())
      } else {
        .tcp(host: try reader.text(), port: try number(1...65_535, &reader))
      }
    let username = try reader.optionalText()
    let hasPassword = try reader.bool()
    let password = try reader.bytes()
    return .redis(
      RedisURL(
        endpoint: endpoint, username: username, password: hasPassword ? RedisSecret(password) : nil,
        database: try number(0...Int(Int32.max), &reader)))
  }

  private static func number(_ range: ClosedRange<Int>, _ reader: inout StateReader) throws(StateDamage) -> Int {
    let value = Int(clamping: try reader.signed())
    guard range.contains(value) else { throw StateDamage() }
    return value
  }

  // MARK: Rules

  private func write(_ rule: AccessRule, to writer: inout StateWriter) {
    writer.write(rule.verdict.rawValue)
    writer.write(rule.rights.rawValue)
    switch rule.names {
    case .exactly(let bytes):
      writer.write(true)
      writer.write(bytes)
    case .beginning(let bytes):
      writer.write(false)
      writer.write(bytes)
    }
    writer.write(UInt64(rule.subjects.count))
    for subject in rule.subjects {
      switch subject {
      case .everyone: writer.write(UInt8(0))
      case .user(let number):
        writer.write(UInt8(1))
        writer.write(UInt64(number))
      case .group(let number):
        writer.write(UInt8(2))
        writer.write(UInt64(number))
      case .unit(let name):
        writer.write(UInt8(3))
        writer.write(name)
      }
    }
    writer.write(rule.text)
  }

  private static func rule(_ reader: inout StateReader) throws(StateDamage) -> AccessRule {
    guard let verdict = AccessRule.Verdict(rawValue: try reader.text()) else { throw StateDamage() }
    let rights = AccessRights(rawValue: try reader.byte())
    let isExact = try reader.bool()
    let bytes = try reader.bytes()
    var subjects: [AccessRule.Subject] = []
    for _ in 0..<(try reader.count()) {
      switch try reader.byte() {
      case 0: subjects.append(.everyone)
      case 1: subjects.append(.user(UInt32(truncatingIfNeeded: try reader.unsigned())))
      case 2: subjects.append(.group(UInt32(truncatingIfNeeded: try reader.unsigned())))
      case 3: subjects.append(.unit(try reader.text()))
      case _: throw StateDamage()
      }
    }
    return AccessRule(
      verdict: verdict, rights: rights, names: isExact ? .exactly(bytes) : .beginning(bytes), subjects: subjects,
      text: try reader.text())
  }
}
