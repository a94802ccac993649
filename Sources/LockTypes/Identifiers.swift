/// One client connection, for as long as it lives. The I/O layer numbers them and never uses a number twice.
public struct SessionID: Hashable, Comparable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The session of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  /// The session that was opened later is the greater one.
  public static func < (a: SessionID, b: SessionID) -> Bool {
    a.rawValue < b.rawValue
  }
}

/// One request, unique in the daemon's life. The JSON-RPC `id` that the client chose is the I/O layer's business.
public struct RequestID: Hashable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The request of this number.
  public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }
}

/// A fencing token: greater than the token of every earlier grant of the same name, and below 2^53.
public typealias Token = Int64
