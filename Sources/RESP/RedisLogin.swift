/// What a connection logs in with.
public struct RedisLogin: Hashable, Sendable {
  /// The ACL user; nil for Redis' `default`.
  public var username: String?
  /// The password; nil: there is no login.
  public var password: RedisSecret?

  /// A login.
  public init(username: String? = nil, password: RedisSecret? = nil) {
    self.username = username
    self.password = password
  }
}

/// Where the login of connections comes from. Paths are as `SystemText` has them.
public struct RedisLoginSource: Hashable, Sendable {
  /// The ACL user for a password that does not stand in the URL; empty: that of the URL.
  public var user = ""
  /// The file with the password; empty: none.
  public var passwordFile = ""
  /// The program that writes the password, and may name the user; empty: none.
  public var command = ""
  /// What stands in the URL.
  public var inURL = RedisLogin()

  /// No login.
  public init() {}

  /// Whether it stands somewhere where it can become another one by itself.
  public var mustBeRead: Bool { !passwordFile.isEmpty || !command.isEmpty }

  /// The login with a password that was read, or that of the URL.
  public func login(_ password: RedisSecret? = nil, of named: String? = nil) -> RedisLogin {
    RedisLogin(username: named ?? (user.isEmpty ? inURL.username : user), password: password ?? inURL.password)
  }
}

/// What a program for credentials has written: the password on the first line, and on others `expires_in=SECONDS` and
/// `user=NAME`, or nothing.
public struct RedisCredentials: Equatable, Sendable {
  /// The longest user name, in bytes.
  public static let userBytesMax = 256

  /// The password.
  public var password: RedisSecret
  /// The user that it is for; nil: that of the settings.
  public var user: String?
  /// How long it is good; nil: nobody knows.
  public var expiresInSeconds: Int64?

  /// Why an output cannot be used, as the end of a sentence about the program. It repeats nothing of it.
  public struct Problem: Error, Equatable {
    /// The words.
    public var words: String
  }

  /// Reads an output.
  public init(parsing output: [UInt8]) throws(Problem) {
    var lines = output.split(separator: 0x0A, omittingEmptySubsequences: false).map { line in
      line.last == 0x0D ? line.dropLast() : line
    }[...]
    guard let first = lines.popFirst(), !first.isEmpty else {
      throw Problem(
        words: output.isEmpty ? "has written nothing" : "has written an empty first line, where the password belongs")
    }
    password = RedisSecret(Array(first))
    for (index, line) in lines.enumerated() where !line.isEmpty {
      if let value = Self.value(of: "expires_in=", in: line), expiresInSeconds == nil {
        guard let seconds = Int64(decimal: value), (1...Self.secondsMax).contains(seconds) else {
          throw Problem(words: "has written an expires_in that is no number of seconds from 1 to \(Self.secondsMax)")
        }
        expiresInSeconds = seconds
      } else if let value = Self.value(of: "user=", in: line), user == nil {
        guard (1...Self.userBytesMax).contains(value.count), value.allSatisfy({ $0 > 0x20 && $0 != 0x7F }),
          let name = String(validating: value, as: UTF8.self)
        else { throw Problem(words: "has written a user= that is no name of a user") }
        user = name
      } else {
        throw Problem(
          words: "has written a line \(index + 2) that is neither expires_in=SECONDS nor user=NAME, or is there twice")
      }
    }
  }

  /// Ten years.
  private static let secondsMax: Int64 = 315_360_000

  private static func value(of name: String, in line: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    line.starts(with: name.utf8) ? line.dropFirst(name.utf8.count) : nil
  }
}
