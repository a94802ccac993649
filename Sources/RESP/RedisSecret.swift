/// Bytes that no description, dump or log message shows.
public struct RedisSecret: Hashable, Sendable {
  /// The bytes themselves.
  public var bytes: [UInt8]

  /// Keeps `bytes` out of sight.
  public init(_ bytes: [UInt8]) {
    self.bytes = bytes
  }

  /// The secret in a file that may end with a line end; nil where there is none.
  public init?(line: [UInt8]) {
    bytes = line
    if bytes.last == 0x0A { bytes.removeLast() }
    if bytes.last == 0x0D { bytes.removeLast() }
    if bytes.isEmpty { return nil }
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
