import AccessPolicy
import DaemonSettings
import LockTypes
import Logging
import RESP
import SystemStrings

/// Where the value of a setting stands in `Settings`, and so whether a running daemon takes over a new one.
struct SettingPlace: Sendable {
  /// Whether it changes while the daemon serves. The others need a restart.
  let isLive: Bool
  /// Whether two settings differ in it.
  let differs: @Sendable (_ old: Settings, _ new: Settings) -> Bool
  /// Its value; nil for what is a part of the backend.
  let value: Access?

  /// Its value where nothing was given; nil for what is a part of the backend.
  var defaultValue: SettingValue? { value?.read(Settings()) }

  /// How a value is read and written.
  struct Access: Sendable {
    let read: @Sendable (Settings) -> SettingValue
    let write: @Sendable (SettingValue, inout Settings) -> Void
  }

  /// One of those that change while the daemon serves.
  static func live<Value: SettingRepresentable>(_ path: any WritableKeyPath<LiveSettings, Value> & Sendable) -> Self {
    Self(isLive: true, Access(read: { $0.live[keyPath: path].asSetting }) { $1.live[keyPath: path].take($0) })
  }

  /// One of those that change at a restart.
  static func fixed<Value: SettingRepresentable>(_ path: any WritableKeyPath<Settings, Value> & Sendable) -> Self {
    Self(isLive: false, Access(read: { $0[keyPath: path].asSetting }) { $1[keyPath: path].take($0) })
  }

  /// The server. The login in its URL is a part of ``LiveSettings/redisLogin``.
  static let redis = Self(isLive: false, value: nil) { $0.backend != $1.backend && $1.backend != .local }
  /// The login of Sentinels, which is a part of `redis`.
  static let login = Self(isLive: false, value: nil) { _, _ in false }
  /// Locks without a server.
  static let local = Self(isLive: false, value: nil) { $0.backend != $1.backend && $1.backend == .local }

  private init(isLive: Bool, _ value: Access) {
    self.init(isLive: isLive, value: value) { value.read($0) != value.read($1) }
  }

  private init(isLive: Bool, value: Access?, differs: @escaping @Sendable (Settings, Settings) -> Bool) {
    self.isLive = isLive
    self.value = value
    self.differs = differs
  }
}

/// A type in `Settings` that a setting may have.
protocol SettingRepresentable: SendableMetatype {
  /// It as the value of a setting.
  var asSetting: SettingValue { get }
  /// Becomes the value of a setting. One of another kind changes nothing; the setting's check never gives one.
  mutating func take(_ value: SettingValue)
}

extension Int: SettingRepresentable {
  var asSetting: SettingValue { .number(self) }
  mutating func take(_ value: SettingValue) { if case .number(let number) = value { self = number } }
}

extension Int64: SettingRepresentable {
  var asSetting: SettingValue { .number(Int(self)) }
  mutating func take(_ value: SettingValue) { if case .number(let number) = value { self = Int64(number) } }
}

extension UInt32: SettingRepresentable {
  var asSetting: SettingValue { .mode(self) }
  mutating func take(_ value: SettingValue) { if case .mode(let mode) = value { self = mode } }
}

extension String: SettingRepresentable {
  var asSetting: SettingValue { .text(ExactText(self)) }
  mutating func take(_ value: SettingValue) { if case .text(let text) = value { self = text.text } }
}

extension Logger.Level: SettingRepresentable {
  var asSetting: SettingValue { .level(self) }
  mutating func take(_ value: SettingValue) { if case .level(let level) = value { self = level } }
}

extension RedisTLSOptions.Verification: SettingRepresentable {
  var asSetting: SettingValue { .verification(self) }
  mutating func take(_ value: SettingValue) { if case .verification(let verification) = value { self = verification } }
}

extension Durability: SettingRepresentable {
  var asSetting: SettingValue { .durability(self) }
  mutating func take(_ value: SettingValue) { if case .durability(let durability) = value { self = durability } }
}

/// A rule that is a value of a list.
protocol SettingListItem: Sendable {
  /// Some of them as the value of a setting.
  static func setting(_ items: [Self]) -> SettingValue
  /// Those that a value has; nil for one of another kind.
  static func items(of value: SettingValue) -> [Self]?
}

extension AccessRule: SettingListItem {
  static func setting(_ items: [AccessRule]) -> SettingValue { .rules(items) }
  static func items(of value: SettingValue) -> [AccessRule]? {
    if case .rules(let rules) = value { rules } else { nil }
  }
}

extension AuditRule: SettingListItem {
  static func setting(_ items: [AuditRule]) -> SettingValue { .audit(items) }
  static func items(of value: SettingValue) -> [AuditRule]? { if case .audit(let rules) = value { rules } else { nil } }
}

extension Array: SettingRepresentable where Element: SettingListItem {
  var asSetting: SettingValue { Element.setting(self) }
  mutating func take(_ value: SettingValue) { if let items = Element.items(of: value) { self = items } }
}
