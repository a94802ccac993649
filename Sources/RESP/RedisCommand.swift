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

/// What a connection can send to Redis: a command as it is, or one of the connection's scripts.
///
/// It is kept as it goes over the wire, in one piece of memory: a script may have to be sent again after NOSCRIPT.
public struct RedisCommand: Hashable, Sendable {
  /// The script that is run; nil for a plain command.
  public let script: ScriptName?
  /// How many parts ``bytes`` has.
  @usableFromInline let partCount: Int
  /// The parts as blob strings. Of a plain command all, its name first; of a script the number of keys, the keys and
  /// the arguments.
  @usableFromInline let bytes: [UInt8]

  /// Run one of the connection's scripts.
  public static func script(name: ScriptName, keys: [[UInt8]], arguments: [[UInt8]]) -> RedisCommand {
    let capacity = (keys + arguments).reduce(0) { $0 + BlobWriter.capacity($1.count) }
    return RedisCommand(script: name, keyCount: keys.count, argumentCount: arguments.count, capacity: capacity) {
      for key in keys { $0.write(key) }
      for argument in arguments { $0.write(argument) }
    }
  }

  /// A command as it is, its name first. Not one that changes the connection's state or that replies by a push
  /// (SUBSCRIBE, MULTI, HELLO, RESET, CLIENT REPLY, …): replies are matched by order.
  public static func plain(_ parts: [[UInt8]]) -> RedisCommand {
    let capacity = parts.reduce(0) { $0 + BlobWriter.capacity($1.count) }
    return RedisCommand(
      script: nil, partCount: parts.count,
      bytes: BlobWriter.bytes(capacity: capacity) {
        for part in parts { $0.write(part) }
      })
  }

  private init(script: ScriptName?, partCount: Int, bytes: [UInt8]) {
    self.script = script
    self.partCount = partCount
    self.bytes = bytes
  }

  /// A script whose keys and arguments `body` writes, so many of each and in that order; they take up to `capacity`
  /// bytes (see ``BlobWriter/capacity(_:)``).
  @inlinable package init(
    script: ScriptName, keyCount: Int, argumentCount: Int, capacity: Int, _ body: (inout BlobWriter) -> Void
  ) {
    self.script = script
    partCount = 1 + keyCount + argumentCount
    bytes = BlobWriter.bytes(capacity: BlobWriter.decimalCapacity + capacity) {
      $0.write(decimal: keyCount)
      body(&$0)
    }
  }

  /// What the command is called in the log: its script, or its name.
  public var word: String {
    script?.rawValue ?? parts.first.map { String(decoding: $0, as: UTF8.self).lowercased() } ?? ""
  }

  /// The parts, one by one: see ``bytes``. For tests and for people; it costs an allocation for each.
  public var parts: [[UInt8]] {
    var parts: [[UInt8]] = []
    var rest = bytes[...]
    while let end = rest.firstIndex(of: 0x0A), let length = Int64(decimal: rest[(rest.startIndex + 1)..<(end - 1)]) {
      parts.append(Array(rest[(end + 1)...].prefix(Int(length))))
      rest = rest[(end + 1)...].dropFirst(Int(length) + 2)
    }
    return parts
  }
}
