import AccessPolicy
import DaemonSettings
import LockEngine
import LockTypes
import RESP

@testable import SidelockSettings

extension SettingKey {
  /// A value that is not the default, and is good beside the defaults of the others.
  var anotherValue: String {
    switch definition.kind {
    case .redisURL: "redis://elsewhere"
    case .boolean: "true"
    case .userName where self == .socketGroup: "100"
    case .userName: "u"
    case .filePath: "/password"
    case .program: "/credentials"
    case .pemFile: "/\(rawValue).pem"
    case .stateFile: "/tokens"
    case .socketPath: "/s"
    case .mode: "0600"
    // It is 0, or far from it.
    case .integer where self == .deadHostMilliseconds: "9000"
    case .integer: String((definition.defaultNumber ?? 0) + 1)
    case .keyPrefix: "k:"
    case .hostName: "other"
    case .serverName: "other.test"
    case .verification: "none"
    case .durability: "disk"
    case .logLevel: "error"
    case .rules: "deny use a to unit:x.service"
    case .audit: "record grant a"
    }
  }
}

/// All leaves of a value, by their paths: `live.engine.waitsPerUIDMax`.
func leaves(_ value: Any, _ path: String = "") -> [String: String] {
  let children = Mirror(reflecting: value).children
  switch value {
  case is Settings, is LiveSettings, is EngineSettings, is AccessPolicy, is RedisTLSOptions, is RedisLoginSource,
    is ReplicaNeed:
    return children.reduce(into: [:]) { all, child in
      all.merge(leaves(child.value, path + (path.isEmpty ? "" : ".") + (child.label ?? ""))) { first, _ in first }
    }
  case _: return [path: "\(value)"]
  }
}
