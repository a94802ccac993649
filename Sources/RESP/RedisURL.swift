import SystemStrings

/// Where a Redis is and how to log in: `redis://[user:password@]host[:port][/db]`, the same with `rediss` for TLS,
/// `redis-sentinel://[user:password@]host[:port][,host[:port]…][/db]?sentinelMasterId=NAME` for the primary that
/// Sentinels know, the same with `rediss-sentinel` for TLS to both, `redis-cluster://[user:password@]host[:port][,host[:port]…]`
/// for the primaries of a Redis Cluster that any of those nodes knows, the same with `rediss-cluster` for TLS, or
/// `unix://[user:password@]/path[?db=N]`. The login is that of Redis; Sentinels may have another.
///
/// What is not a letter, a digit or one of `-._~` in a user name, a password or a path can be written as `%` and two
/// hexadecimal digits; `% / ? # @` must be, in a user name or a password, and `:` in a user name.
public struct RedisURL: Equatable, Sendable {
  /// How the server is reached.
  public enum Endpoint: Equatable, Sendable {
    /// A host name or address (an IPv6 address without its brackets), and a port.
    case tcp(host: String, port: Int)
    /// The absolute path of a socket, as `SystemText` has it.
    case unix(path: String)
    /// Where Sentinels say.
    case sentinels(RedisSentinels)
    /// The primaries of a cluster, where its nodes say.
    case cluster(RedisClusterSeeds)

    /// Whether both are the same, byte for byte.
    public static func == (a: Endpoint, b: Endpoint) -> Bool {
      switch (a, b) {
      case (.tcp(let hostA, let portA), .tcp(let hostB, let portB)): portA == portB && ExactText.isSame(hostA, hostB)
      case (.unix(let a), .unix(let b)): ExactText.isSame(a, b)
      case (.sentinels(let a), .sentinels(let b)): a == b
      case (.cluster(let a), .cluster(let b)): a == b
      case (.tcp, _), (.unix, _), (.sentinels, _), (.cluster, _): false
      }
    }
  }

  /// How the server is reached.
  public var endpoint: Endpoint
  /// Whether it is spoken with by TLS.
  public var usesTLS: Bool
  /// The ACL user; nil for the default one.
  public var username: String?
  /// The password; nil if there is none.
  public var password: RedisSecret?
  /// The number of the database.
  public var database: Int

  /// A URL of these parts.
  public init(
    endpoint: Endpoint, usesTLS: Bool = false, username: String?, password: RedisSecret?, database: Int
  ) {
    self.endpoint = endpoint
    self.usesTLS = usesTLS
    self.username = username
    self.password = password
    self.database = database
  }

  /// User and password.
  public var login: RedisLogin { RedisLogin(username: username, password: password) }

  /// The same server without them.
  public var withoutLogin: RedisURL {
    var url = self
    (url.username, url.password) = (nil, nil)
    return url
  }

  /// Whether both are the same, byte for byte.
  public static func == (a: RedisURL, b: RedisURL) -> Bool {
    a.endpoint == b.endpoint && a.usesTLS == b.usesTLS && ExactText.isSame(a.username, b.username)
      && a.password == b.password
      && a.database == b.database
  }

  /// Parses a URL, as `SystemText` has it.
  public init(parsing given: String) throws(RedisURLError) {
    let text = SystemText.utf8(given) ?? Self.escapingBytes(of: given)
    guard text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
      throw RedisURLError(.url, "contains a space or a control character")
    }
    guard let colon = text.utf8.firstIndex(of: 0x3A), text.utf8[colon...].starts(with: "://".utf8) else {
      throw RedisURLError(.scheme, "is missing: \(Self.schemes)")
    }
    let rest = text.utf8[text.utf8.index(colon, offsetBy: 3)...]
    let scheme = text[..<colon].lowercased()
    guard !rest.contains(0x23) else {
      // Other programs take the name from there.
      let isOfSentinels = scheme.hasSuffix("-sentinel")
      throw RedisURLError(
        .url,
        isOfSentinels
          ? "contains '#': write what the sentinels call the primary as ?\(Self.masterKey)=NAME, and any other '#' as %23"
          : "contains '#': write it as %23")
    }
    switch scheme {
    case "redis":
      try self.init(tcp: rest, usesTLS: false)
    case "rediss":
      try self.init(tcp: rest, usesTLS: true)
    case "unix":
      try self.init(unix: rest)
    case "redis-sentinel":
      try self.init(sentinels: rest, usesTLS: false)
    case "rediss-sentinel":
      try self.init(sentinels: rest, usesTLS: true)
    case "redis-cluster":
      try self.init(cluster: rest, usesTLS: false)
    case "rediss-cluster":
      try self.init(cluster: rest, usesTLS: true)
    default:
      throw RedisURLError(.scheme, "is not known: \(Self.schemes)")
    }
  }

  private static let schemes =
    "write redis://host:port/db, rediss://host:port/db for TLS, unix:///path, "
    + "redis-sentinel://host:port,host:port/db?sentinelMasterId=NAME, or redis-cluster://host:port,host:port"

  /// The text with each byte that is no part of UTF-8 written as `%` and two digits.
  private static func escapingBytes(of text: String) -> String {
    text.unicodeScalars.map { SystemText.utf8(String($0)) ?? encoded(String($0)) }.joined()
  }

  /// The port of Redis.
  public static let defaultPort = 6379
  /// What fits into a socket address.
  static let socketPathBytesMax = 107
}

/// What is wrong with a URL. It quotes nothing of it, because any part may hold a misplaced password.
public struct RedisURLError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The parts of a URL.
  public enum Field: String, Hashable, Sendable {
    /// The whole.
    case url = "URL"
    /// What stands before `://`.
    case scheme
    /// The user name.
    case user
    /// The password.
    case password
    /// The host.
    case host
    /// The port.
    case port
    /// The path of the socket.
    case path
    /// The number of the database.
    case database
    /// What stands after `?`.
    case query
  }

  /// The part that is wrong.
  public var field: Field
  /// What is wrong with it.
  public var problem: String

  init(_ field: Field, _ problem: String) {
    self.field = field
    self.problem = problem
  }

  /// The part and what is wrong with it.
  public var description: String { "\(field.rawValue) \(problem)" }
}

extension RedisURL: CustomStringConvertible, CustomDebugStringConvertible {
  /// The URL with `***` for the password.
  public var description: String {
    var login = ""
    if username != nil || password != nil {
      login = Self.encoded(username ?? "") + (password == nil ? "@" : ":***@")
    }
    let scheme = usesTLS ? "rediss" : "redis"
    switch endpoint {
    case .tcp(let host, let port):
      return "\(scheme)://\(login)\(Self.shown(host, port))/\(database)"
    case .sentinels(let set):
      let hosts = set.addresses.map { Self.shown($0.host, $0.port) }.joined(separator: ",")
      return "\(scheme)-sentinel://\(login)\(hosts)/\(database)?\(Self.masterKey)=\(Self.encoded(set.master))"
    case .cluster(let seeds):
      let hosts = seeds.addresses.map { Self.shown($0.host, $0.port) }.joined(separator: ",")
      return "\(scheme)-cluster://\(login)\(hosts)"
    case .unix(let path):
      return "unix://\(login)\(Self.encoded(path))\(database == 0 ? "" : "?db=\(database)")"
    }
  }

  /// The same.
  public var debugDescription: String { description }

  private static func shown(_ host: String, _ port: Int) -> String {
    host.contains(":") ? "[\(host.split(separator: "%").joined(separator: "%25"))]:\(port)" : "\(host):\(port)"
  }

  /// `text` with everything escaped that could be taken for a part of the URL.
  private static func encoded(_ text: String) -> String {
    var result = ""
    for byte in SystemText.bytes(text) {
      if isUnreserved(byte) || byte == 0x2F {
        result.unicodeScalars.append(Unicode.Scalar(byte))
      } else {
        result += "%" + (byte < 0x10 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }
    return result
  }

  private static func isUnreserved(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, 0x2D, 0x2E, 0x5F, 0x7E: return true
    default: return false
    }
  }
}

// MARK: - Parsing

extension RedisURL {
  private typealias Part = Substring.UTF8View

  private struct Login {
    var username: String?
    var password: RedisSecret?
  }

  /// `[user:password@]location`, and what begins with the first `/` or `?` behind it.
  private static func split(_ rest: Part) throws(RedisURLError) -> (login: Login, location: Part, tail: Part) {
    let authority = rest.prefix { $0 != 0x2F && $0 != 0x3F }
    let tail = rest[authority.endIndex...]
    // Checked first: the end of a password must not be taken for a port.
    guard !tail.contains(0x40) else {
      throw RedisURLError(.password, "or user has a '/' or '?': write them as %2F and %3F")
    }
    let (login, location) = try splitLogin(authority)
    return (login, location, tail)
  }

  private init(tcp rest: Part, usesTLS: Bool) throws(RedisURLError) {
    let (login, location, tail) = try Self.split(rest)
    let (host, port) = try Self.hostAndPort(location, defaultPort: Self.defaultPort)
    guard !tail.contains(0x3F) else { throw RedisURLError(.query, "is not supported: write the database as /N") }
    let digits = tail.dropFirst()
    self.endpoint = .tcp(host: host, port: port)
    self.usesTLS = usesTLS
    self.username = login.username
    self.password = login.password
    self.database = digits.isEmpty ? 0 : try Self.database(digits)
  }

  private init(sentinels rest: Part, usesTLS: Bool) throws(RedisURLError) {
    let (login, location, tail) = try Self.split(rest)
    let addresses = try Self.addresses(
      location, most: RedisSentinels.addressesMax, defaultPort: RedisSentinels.defaultPort, title: "sentinel")
    let path = tail.prefix { $0 != 0x3F }
    let digits = path.dropFirst()
    self.database = digits.isEmpty ? 0 : try Self.database(digits)
    let master = try Self.master(tail[path.endIndex...].dropFirst())
    self.endpoint = .sentinels(RedisSentinels(addresses: addresses, master: master))
    self.usesTLS = usesTLS
    self.username = login.username
    self.password = login.password
  }

  private init(cluster rest: Part, usesTLS: Bool) throws(RedisURLError) {
    let (login, location, tail) = try Self.split(rest)
    let addresses = try Self.addresses(
      location, most: RedisClusterSeeds.addressesMax, defaultPort: Self.defaultPort, title: "node")
    guard !tail.contains(0x3F) else { throw RedisURLError(.query, "is not supported with a cluster") }
    let digits = tail.dropFirst()
    let database = digits.isEmpty ? 0 : try Self.database(digits)
    guard database == 0 else {
      throw RedisURLError(.database, "must be 0: a Redis Cluster has no other")
    }
    self.endpoint = .cluster(RedisClusterSeeds(addresses: addresses))
    self.usesTLS = usesTLS
    self.username = login.username
    self.password = login.password
    self.database = 0
  }

  /// `host[:port][,host[:port]…]`, at most so many; `title`: what one of them is.
  private static func addresses(
    _ location: Part, most: Int, defaultPort: Int, title: String
  ) throws(RedisURLError) -> [RedisAddress] {
    let parts = location.split(separator: 0x2C, omittingEmptySubsequences: false)
    guard parts.count <= most else { throw RedisURLError(.host, "comes more than \(most) times") }
    var addresses: [RedisAddress] = []
    for (index, part) in parts.enumerated() {
      do throws(RedisURLError) {
        let (host, port) = try Self.hostAndPort(part, defaultPort: defaultPort)
        addresses.append(RedisAddress(host: host, port: port))
      } catch {
        guard parts.count > 1 else { throw error }
        throw RedisURLError(error.field, "\(error.problem) (\(title) \(index + 1) of \(parts.count))")
      }
    }
    return addresses
  }

  private static let masterKey = "sentinelMasterId"

  /// The name in `sentinelMasterId=NAME`.
  private static func master(_ query: Part) throws(RedisURLError) -> String {
    guard !query.isEmpty else {
      throw RedisURLError(.query, "is missing: write ?\(masterKey)=NAME, what the sentinels call the primary")
    }
    let key = query.prefix { $0 != 0x3D }
    guard String(Substring(key)).lowercased() == masterKey.lowercased(), key.endIndex != query.endIndex,
      !query.contains(0x26)
    else { throw RedisURLError(.query, "can only be \(masterKey)=NAME") }
    let bytes = try decoded(query[query.index(after: key.endIndex)...], .query)
    guard (1...RedisSentinels.masterBytesMax).contains(bytes.count), bytes.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else {
      throw RedisURLError(
        .query, "must name the master by 1 to \(RedisSentinels.masterBytesMax) printable characters without spaces")
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private init(unix rest: Part) throws(RedisURLError) {
    guard let slash = rest.firstIndex(of: 0x2F) else {
      throw RedisURLError(.path, "must be absolute: write unix:///path")
    }
    let authority = rest[..<slash]
    let (login, location) = try Self.splitLogin(authority)
    guard location.isEmpty else {
      throw RedisURLError(
        .path,
        "must be absolute, with nothing but user:password@ before it: write unix:///path; a '/' in a password is "
          + "written as %2F")
    }
    let path = rest[slash...].prefix { $0 != 0x3F }
    let query = rest[path.endIndex...].dropFirst()
    let bytes = try Self.decoded(path, .path)
    guard !bytes.contains(0) else { throw RedisURLError(.path, "has a NUL byte") }
    guard bytes.count > 1, bytes.count <= Self.socketPathBytesMax else {
      throw RedisURLError(.path, "must have 2 to \(Self.socketPathBytesMax) bytes")
    }
    if query.isEmpty {
      self.database = 0
    } else {
      guard query.starts(with: "db=".utf8) else {
        throw RedisURLError(.query, "can only be db=N; a '?' in the path is written as %3F")
      }
      self.database = try Self.database(query.dropFirst(3))
    }
    self.endpoint = .unix(path: SystemText.text(bytes))
    self.usesTLS = false
    self.username = login.username
    self.password = login.password
  }

  /// `user:password@`, if it is there, and what follows it.
  private static func splitLogin(_ authority: Part) throws(RedisURLError) -> (Login, Part) {
    guard let at = authority.firstIndex(of: 0x40) else { return (Login(), authority) }
    let userInfo = authority[..<at]
    let location = authority[authority.index(after: at)...]
    guard !location.contains(0x40) else {
      let isAmongSeveral = location.prefix { $0 != 0x40 }.contains(0x2C)
      throw RedisURLError(
        .password,
        "or user has an '@': write it as %40"
          + (isAmongSeveral ? "; with several hosts the login stands once, before the first one" : ""))
    }
    // Tools disagree whether a lone word is the user or the password.
    guard let colon = userInfo.firstIndex(of: 0x3A) else {
      throw RedisURLError(.password, "is missing: write user:password@, or :password@ for the default user")
    }
    let name = try decoded(userInfo[..<colon], .user)
    guard let username = String(validating: name, as: UTF8.self) else { throw RedisURLError(.user, "is not UTF-8") }
    let password = try decoded(userInfo[userInfo.index(after: colon)...], .password)
    guard !password.isEmpty else { throw RedisURLError(.password, "is empty: write user:password@") }
    return (Login(username: username.isEmpty ? nil : username, password: RedisSecret(password)), location)
  }

  private static func hostAndPort(_ location: Part, defaultPort: Int) throws(RedisURLError) -> (String, Int) {
    let host: String
    let tail: Part
    if location.first == 0x5B {
      guard let end = location.firstIndex(of: 0x5D) else { throw RedisURLError(.host, "has no closing ']'") }
      let address = try decoded(location[location.index(after: location.startIndex)..<end], .host)
      host = try ipv6(address)
      tail = location[location.index(after: end)...]
      guard tail.isEmpty || tail.first == 0x3A else {
        throw RedisURLError(.host, "has something other than a port after ']'")
      }
    } else {
      let name = location.prefix { $0 != 0x3A }
      tail = location[name.endIndex...]
      guard !tail.dropFirst().contains(0x3A) else {
        throw RedisURLError(.host, "has several ':': an IPv6 address stands in brackets, a login ends with '@'")
      }
      guard !name.isEmpty else { throw RedisURLError(.host, "is missing") }
      guard name.count <= 255, name.allSatisfy(isUnreserved) else {
        throw RedisURLError(.host, "has characters that no host name has, or more than 255")
      }
      host = String(Substring(name))
    }
    guard !tail.isEmpty else { return (host, defaultPort) }
    guard let port = Int64(decimal: ArraySlice(tail.dropFirst())), port >= 1, port <= 65535 else {
      throw RedisURLError(.port, "is not a number from 1 to 65535")
    }
    return (host, Int(port))
  }

  /// Checks the characters of an IPv6 address with or without a zone; whether it is one, the resolver knows.
  private static func ipv6(_ bytes: [UInt8]) throws(RedisURLError) -> String {
    let address = bytes.prefix { $0 != 0x25 }
    let zone = bytes[address.endIndex...].dropFirst()
    let isAddress = address.allSatisfy { byte in
      switch byte {
      case 0x30...0x39, 0x41...0x46, 0x61...0x66, 0x3A, 0x2E: return true
      default: return false
      }
    }
    guard isAddress, address.filter({ $0 == 0x3A }).count >= 2, address.count <= 45 else {
      throw RedisURLError(.host, "has something in brackets that is no IPv6 address")
    }
    guard zone.count <= 64, zone.allSatisfy(isUnreserved), zone.isEmpty == (address.count == bytes.count) else {
      throw RedisURLError(.host, "has a bad zone after '%'")
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func database(_ digits: Part) throws(RedisURLError) -> Int {
    guard let number = Int64(decimal: ArraySlice(digits)), number >= 0, number <= Int64(Int32.max) else {
      throw RedisURLError(.database, "is not a number from 0 up")
    }
    return Int(number)
  }

  /// `part` with every `%XX` as the byte that it stands for.
  private static func decoded(_ part: Part, _ field: RedisURLError.Field) throws(RedisURLError) -> [UInt8] {
    var bytes: [UInt8] = []
    var rest = part
    while let byte = rest.popFirst() {
      guard byte == 0x25 else {
        bytes.append(byte)
        continue
      }
      guard let high = rest.popFirst().flatMap(hexadecimal), let low = rest.popFirst().flatMap(hexadecimal) else {
        throw RedisURLError(field, "has a '%' without two hexadecimal digits; '%' itself is written as %25")
      }
      bytes.append(high << 4 | low)
    }
    return bytes
  }

  private static func hexadecimal(_ byte: UInt8) -> UInt8? {
    switch byte {
    case 0x30...0x39: return byte - 0x30
    case 0x41...0x46: return byte - 0x41 + 10
    case 0x61...0x66: return byte - 0x61 + 10
    default: return nil
    }
  }
}
