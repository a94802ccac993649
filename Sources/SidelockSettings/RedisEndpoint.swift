/// A Redis server and how to log in to it.
public struct RedisEndpoint: Sendable, Equatable {
  /// How to reach the server.
  public enum Address: Sendable, Equatable {
    /// A host name or address, and a port.
    case tcp(host: String, port: Int)
    /// The path of a Unix socket.
    case unix(path: String)
  }

  /// How to reach the server.
  public var address: Address
  /// The ACL user, or nil for the server's default user.
  public var user: String?
  /// The password, or nil to send no AUTH.
  public var password: Secret?
  /// The database number for SELECT.
  public var database: Int

  /// Describes a server.
  public init(address: Address, user: String? = nil, password: Secret? = nil, database: Int = 0) {
    self.address = address
    self.user = user
    self.password = password
    self.database = database
  }

  /// The endpoint as a URL with the password blotted out, for people to read.
  public var redactedURL: String {
    var userInfo = user ?? ""
    if password != nil { userInfo += ":***" }
    if !userInfo.isEmpty { userInfo += "@" }
    switch address {
    case .tcp(let host, let port):
      let shown = host.utf8.contains(UInt8(ascii: ":")) ? "[\(host)]" : host
      return "redis://\(userInfo)\(shown):\(port)/\(database)"
    case .unix(let path):
      return "unix://\(userInfo)\(path)" + (database == 0 ? "" : "?db=\(database)")
    }
  }
}

/// Why a text is not a Redis URL. The text itself is never part of it, because it may hold a password.
public struct RedisURLError: Error, Equatable, CustomStringConvertible {
  /// What is wrong, as a half sentence.
  public let description: String
}

extension RedisEndpoint {
  /// The highest database number that is accepted; servers set their own limit, 16 unless configured.
  static let databaseMax = 65_535
  /// A Unix socket address holds 108 bytes, the last of which ends the string.
  static let socketPathBytesMax = 107

  /// Parses `redis://[user:password@]host[:port][/db]` or `unix:///path[?db=N]`.
  ///
  /// User, password and path may hold percent escapes. Errors name the part that is wrong.
  public init(url: String) throws(RedisURLError) {
    guard let schemeEnd = url.firstRange(ofASCII: "://") else {
      throw RedisURLError(description: "begin with redis:// or unix://")
    }
    let rest = url[schemeEnd.upperBound...]
    switch url[..<schemeEnd.lowerBound] {
    case "redis": self = try Self.parseTCP(rest)
    case "unix": self = try Self.parseUnix(rest)
    case "rediss": throw RedisURLError(description: "TLS (rediss://) is not supported")
    default: throw RedisURLError(description: "begin with redis:// or unix://")
    }
  }

  private static func parseTCP(_ text: Substring) throws(RedisURLError) -> RedisEndpoint {
    if text.contains("?") || text.contains("#") {
      throw RedisURLError(description: "a redis:// URL takes no query; write %3F or %23 for ? or # in a password")
    }
    let slash = text.firstIndex(of: "/") ?? text.endIndex
    let (user, password, hostAndPort) = try splitUserInfo(text[..<slash])
    var host = hostAndPort
    var port = 6379
    if host.first == "[" {
      guard let bracket = host.firstIndex(of: "]") else {
        throw RedisURLError(description: "the host's bracket is not closed")
      }
      let after = host[host.index(after: bracket)...]
      host = host[host.index(after: host.startIndex)..<bracket]
      if !after.isEmpty {
        guard after.first == ":" else { throw RedisURLError(description: "after ] only a port may follow") }
        port = try parsePort(after.dropFirst())
      }
    } else if let colon = host.firstIndex(of: ":") {
      port = try parsePort(host[host.index(after: colon)...])
      host = host[..<colon]
    }
    guard !host.isEmpty else { throw RedisURLError(description: "the host is missing") }
    guard host.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "%") }) else {
      throw RedisURLError(description: "the host holds a character that no host name has")
    }
    let path = text[slash...].dropFirst()
    let database = path.isEmpty ? 0 : try parseDatabase(path)
    return RedisEndpoint(
      address: .tcp(host: String(host), port: port), user: user, password: password, database: database)
  }

  private static func parseUnix(_ text: Substring) throws(RedisURLError) -> RedisEndpoint {
    let question = text.firstIndex(of: "?") ?? text.endIndex
    guard let slash = text[..<question].firstIndex(of: "/") else {
      throw RedisURLError(description: "the path of a unix:// URL must be absolute, as in unix:///run/redis.sock")
    }
    let (user, password, host) = try splitUserInfo(text[..<slash])
    guard host.isEmpty else {
      throw RedisURLError(description: "the path of a unix:// URL must be absolute, as in unix:///run/redis.sock")
    }
    let path = try percentDecoded(text[slash..<question], part: "path")
    guard path.utf8.count <= socketPathBytesMax else {
      throw RedisURLError(description: "the path is longer than \(socketPathBytesMax) bytes")
    }
    var database = 0
    let query = text[question...].dropFirst()
    if !query.isEmpty {
      guard query.hasPrefix("db="), !query.contains("&") else {
        throw RedisURLError(description: "the only query that a unix:// URL takes is ?db=N")
      }
      database = try parseDatabase(query.dropFirst(3))
    }
    return RedisEndpoint(address: .unix(path: path), user: user, password: password, database: database)
  }

  /// Splits at the last `@`, so that a password with an unescaped `@` is not taken for a host.
  private static func splitUserInfo(
    _ authority: Substring
  ) throws(RedisURLError) -> (user: String?, password: Secret?, host: Substring) {
    guard let at = authority.lastIndex(of: "@") else { return (nil, nil, authority) }
    let info = authority[..<at]
    let host = authority[authority.index(after: at)...]
    guard let colon = info.firstIndex(of: ":") else {
      // redis-cli takes a lone word for the password and redis-py for the user: refuse to guess.
      throw RedisURLError(description: "write user:password@ or :password@ before the host")
    }
    let user = try percentDecoded(info[..<colon], part: "user")
    let password = try percentDecoded(info[info.index(after: colon)...], part: "password")
    if password.isEmpty, user.isEmpty { return (nil, nil, host) }
    return (user.isEmpty ? nil : user, password.isEmpty ? nil : Secret(password), host)
  }

  private static func parsePort(_ text: Substring) throws(RedisURLError) -> Int {
    guard let port = decimal(text), (1...65_535).contains(port) else {
      throw RedisURLError(description: "the port must be 1…65535")
    }
    return port
  }

  private static func parseDatabase(_ text: Substring) throws(RedisURLError) -> Int {
    guard let database = decimal(text), database <= databaseMax else {
      throw RedisURLError(description: "the database must be 0…\(databaseMax)")
    }
    return database
  }

  private static func percentDecoded(_ text: Substring, part: String) throws(RedisURLError) -> String {
    var bytes: [UInt8] = []
    var iterator = text.utf8.makeIterator()
    while let byte = iterator.next() {
      guard byte == UInt8(ascii: "%") else {
        bytes.append(byte)
        continue
      }
      guard let high = iterator.next().flatMap(hexDigit), let low = iterator.next().flatMap(hexDigit) else {
        throw RedisURLError(description: "the \(part) holds a % that is not followed by two hex digits")
      }
      bytes.append(high << 4 | low)
    }
    guard !bytes.contains(0), let decoded = String(validating: bytes, as: UTF8.self) else {
      throw RedisURLError(description: "the \(part) is not valid UTF-8, or holds a NUL")
    }
    return decoded
  }

  private static func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
  }
}

/// A decimal number without sign, blanks or separators; nil for anything else and for overflow.
func decimal(_ text: some StringProtocol) -> Int? {
  guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
  return Int(text)
}

extension String {
  func firstRange(ofASCII needle: StaticString) -> Range<String.Index>? {
    let wanted = needle.withUTF8Buffer { [UInt8]($0) }
    var start = utf8.startIndex
    while start != utf8.endIndex {
      if utf8[start...].starts(with: wanted) {
        return start..<utf8.index(start, offsetBy: wanted.count)
      }
      start = utf8.index(after: start)
    }
    return nil
  }
}
