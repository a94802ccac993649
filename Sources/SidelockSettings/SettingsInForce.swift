import AccessPolicy
public import DaemonSettings
import LockEngine
import RESP

/// The settings that a daemon serves with, in a form for the daemon after it, whose own may be wrong.
///
/// Nothing in it has to be looked up again, but the password of Redis where that does not stand in the URL. It is for memory
/// that nobody else reads.
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

  /// Goes up when the encoding changes. A setting more or less is no change: each stands there with its name.
  private static let version: UInt64 = 3

  /// The settings that are written as texts. The others would need lookups (accounts) to be read back.
  private static var texts: [(key: SettingKey, place: SettingPlace.Access)] {
    SettingKey.allCases.compactMap { key in
      key.definition.kind == .rules ? nil : key.definition.place.value.map { (key, $0) }
    }
  }

  /// All of it as bytes.
  public var encoded: [UInt8] {
    var writer = StateWriter()
    writer.write(Self.version)
    write(settings.backend, to: &writer)
    // An empty text that stands for nothing is none that may be given.
    let texts = Self.texts.filter { _, place in
      !place.read(settings).text.isEmpty || !place.read(Settings()).text.isEmpty
    }
    writer.write(UInt64(texts.count))
    for (key, place) in texts {
      writer.write(key.rawValue)
      writer.write(place.read(settings).text)
    }
    writer.write(settings.live.policy.administrators.map(Int64.init))
    writer.write(UInt64(settings.live.policy.rules.count))
    for rule in settings.live.policy.rules { write(rule, to: &writer) }
    writer.write(UInt64(shown.count))
    for (key, text) in shown.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
      writer.write(key.rawValue)
      writer.write(text)
    }
    return writer.bytes
  }

  /// Reads ``encoded``; nil for anything else, and where a value is none that its setting may have. A setting that is
  /// missing has its default, and an unknown one is passed over.
  public init?(encoded bytes: [UInt8]) {
    var reader = StateReader(bytes)
    settings = Settings()
    shown = [:]
    do {
      guard try reader.unsigned() == Self.version else { return nil }
      if let url = try Self.url(&reader) {
        settings.backend = .redis(url.withoutLogin)
        settings.live.redisLogin.inURL = url.login
      }
      for _ in 0..<(try reader.count()) {
        let name = try reader.text()
        let text = try reader.text()
        guard let key = SettingKey(rawValue: name), let place = key.definition.place.value else { continue }
        place.write(try key.definition.parse(text), &settings)
      }
      for key in SettingKey.allCases where key.definition.problem?(settings) != nil { return nil }
      settings.live.policy.administrators = try reader.optional().map { UInt32(truncatingIfNeeded: $0) }
      for _ in 0..<(try reader.count()) { settings.live.policy.rules.append(try Self.rule(&reader)) }
      for _ in 0..<(try reader.count()) {
        let name = try reader.text()
        let text = try reader.text()
        if let key = SettingKey(rawValue: name) { shown[key] = text }
      }
      try reader.finish()
    } catch { return nil }
  }

  // MARK: Redis

  private enum EndpointKind: UInt8 {
    case tcp = 0
    case unix = 1
    case tls = 2
    case sentinels = 3
    case sentinelsTLS = 4
    case cluster = 5
    case clusterTLS = 6
  }

  private func write(_ backend: Settings.Backend, to writer: inout StateWriter) {
    guard case .redis(let url) = backend else { return writer.write(false) }
    writer.write(true)
    switch url.endpoint {
    case .unix(let path):
      writer.write(EndpointKind.unix.rawValue)
      writer.write(path)
    case .tcp(let host, let port):
      writer.write((url.usesTLS ? EndpointKind.tls : .tcp).rawValue)
      writer.write(host)
      writer.write(Int64(port))
    case .sentinels(let set):
      writer.write((url.usesTLS ? EndpointKind.sentinelsTLS : .sentinels).rawValue)
      writer.write(set.master)
      write(set.addresses, to: &writer)
      writer.write(set.username)
      writer.write(set.password != nil)
      writer.write(set.password?.bytes ?? [])
    case .cluster(let seeds):
      writer.write((url.usesTLS ? EndpointKind.clusterTLS : .cluster).rawValue)
      write(seeds.addresses, to: &writer)
    }
    let login = settings.live.redisLogin.inURL
    writer.write(login.username)
    writer.write(login.password != nil)
    writer.write(login.password?.bytes ?? [])
    writer.write(Int64(url.database))
  }

  /// nil: there is none.
  private static func url(_ reader: inout StateReader) throws(StateDamage) -> RedisURL? {
    guard try reader.bool() else { return nil }
    guard let kind = EndpointKind(rawValue: try reader.byte()) else { throw StateDamage() }
    let endpoint: RedisURL.Endpoint =
      switch kind {
      case .unix: .unix(path: try reader.text())
      case .tcp, .tls: .tcp(host: try reader.text(), port: try number(1...65_535, &reader))
      case .sentinels, .sentinelsTLS: .sentinels(try sentinels(&reader))
      case .cluster, .clusterTLS:
        .cluster(RedisClusterSeeds(addresses: try addresses(&reader, atMost: RedisClusterSeeds.addressesMax)))
      }
    let username = try reader.optionalText()
    let hasPassword = try reader.bool()
    let password = try reader.bytes()
    return RedisURL(
      endpoint: endpoint, usesTLS: [.tls, .sentinelsTLS, .clusterTLS].contains(kind), username: username,
      password: hasPassword ? RedisSecret(password) : nil, database: try number(0...Int(Int32.max), &reader))
  }

  private static func sentinels(_ reader: inout StateReader) throws(StateDamage) -> RedisSentinels {
    var set = RedisSentinels(addresses: [], master: try reader.text())
    set.addresses = try addresses(&reader, atMost: RedisSentinels.addressesMax)
    set.username = try reader.optionalText()
    let hasPassword = try reader.bool()
    let password = try reader.bytes()
    set.password = hasPassword ? RedisSecret(password) : nil
    return set
  }

  private func write(_ addresses: [RedisAddress], to writer: inout StateWriter) {
    writer.write(UInt64(addresses.count))
    for address in addresses {
      writer.write(address.host)
      writer.write(Int64(address.port))
    }
  }

  private static func addresses(
    _ reader: inout StateReader, atMost most: Int
  ) throws(StateDamage) -> [RedisAddress] {
    var addresses: [RedisAddress] = []
    for _ in 0..<(try reader.count()) {
      let host = try reader.text()
      addresses.append(RedisAddress(host: host, port: try number(1...65_535, &reader)))
    }
    guard (1...most).contains(addresses.count) else { throw StateDamage() }
    return addresses
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
