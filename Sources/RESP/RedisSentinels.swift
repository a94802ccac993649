internal import SystemStrings

/// Where a server listens.
public struct RedisAddress: Hashable, Sendable, CustomStringConvertible {
  /// A host name or address (an IPv6 address without its brackets).
  public var host: String
  /// The port.
  public var port: Int

  /// The address of these parts.
  public init(host: String, port: Int) {
    self.host = host
    self.port = port
  }

  /// As a URL has it.
  public var description: String { "\(host.contains(":") ? "[\(host)]" : host):\(port)" }

  /// What a server has told as an address; nil where it is none.
  init?(host: [UInt8]?, port: Int64?) {
    guard let host, let port, (1...65535).contains(port), (1...Self.hostBytesMax).contains(host.count),
      host.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != 0x2F && $0 != 0x40 && $0 != 0x5B && $0 != 0x5D })
    else { return nil }
    self.init(host: String(decoding: host, as: UTF8.self), port: Int(port))
  }

  private static let hostBytesMax = 255
}

/// A set of Redis Sentinels that know the primary of one name.
public struct RedisSentinels: Equatable, Sendable {
  /// Those that are asked first; what they tell of others comes behind.
  public var addresses: [RedisAddress]
  /// What they call the primary and its replicas (`sentinel monitor NAME …`).
  public var master: String
  /// The ACL user at the sentinels; nil for the default one.
  public var username: String?
  /// The password of the sentinels, which is not that of Redis; nil if there is none.
  public var password: RedisSecret?

  /// A set that asks for no login.
  public init(addresses: [RedisAddress], master: String) {
    self.addresses = addresses
    self.master = master
  }

  /// Whether both are the same, byte for byte.
  public static func == (a: RedisSentinels, b: RedisSentinels) -> Bool {
    a.addresses == b.addresses && ExactText.isSame(a.master, b.master) && ExactText.isSame(a.username, b.username)
      && a.password == b.password
  }

  /// How many a URL may name, and how many are known at a time.
  public static let addressesMax = 32
  /// The port of a Sentinel.
  public static let defaultPort = 26379
  /// What a name may have.
  static let masterBytesMax = 255
}
