/// The name under which a connection knows a Lua script.
public struct ScriptName: RawRepresentable, Hashable, Sendable {
  /// The name: its file's, without the suffix.
  public var rawValue: String

  /// The script of that name.
  public init(rawValue: String) {
    self.rawValue = rawValue
  }
}

/// A Lua script that a connection loads before it serves commands.
public struct RedisScript: Hashable, Sendable {
  /// What commands call it.
  public var name: ScriptName
  /// Its text.
  public var source: [UInt8]

  /// The script `name` with the text `source`.
  public init(name: ScriptName, source: [UInt8]) {
    self.name = name
    self.source = source
  }
}

/// What a connection can be told to have Redis do.
public enum RedisCommand: Hashable, Sendable {
  /// Run one of the connection's scripts.
  case script(name: ScriptName, keys: [[UInt8]], arguments: [[UInt8]])
  /// A command as it is, its name first. Not one that changes the connection's state or that replies by a push
  /// (SUBSCRIBE, MULTI, HELLO, RESET, CLIENT REPLY, …): replies are matched by order.
  case plain([[UInt8]])
}
