/// Bytes that no description, dump or log message shows.
public struct RedisSecret: Hashable, Sendable {
  /// The bytes themselves.
  public var bytes: [UInt8]

  /// Keeps `bytes` out of sight.
  public init(_ bytes: [UInt8]) {
    self.bytes = bytes
  }
}

extension RedisSecret: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
  /// A placeholder.
  public var description: String { "***" }

  /// A placeholder.
  public var debugDescription: String { "***" }

  /// Nothing.
  public var customMirror: Mirror { Mirror(self, children: EmptyCollection()) }
}
