// Identifiers are compared and hashed for each event, so they are inlined where they are used.

/// One client connection, for as long as it lives. The I/O layer numbers them and never uses a number twice.
public struct SessionID: Hashable, Comparable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The session of this number.
  @inlinable public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  /// Sessions are equal when their numbers are.
  @inlinable public static func == (a: SessionID, b: SessionID) -> Bool { a.rawValue == b.rawValue }

  /// Hashes the number.
  @inlinable public func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }

  /// The session that was opened later is the greater one.
  @inlinable public static func < (a: SessionID, b: SessionID) -> Bool {
    a.rawValue < b.rawValue
  }
}

/// One request, unique in the daemon's life. The JSON-RPC `id` that the client chose is the I/O layer's business.
public struct RequestID: Hashable, Sendable {
  /// The number.
  public var rawValue: UInt64

  /// The request of this number.
  @inlinable public init(_ rawValue: UInt64) {
    self.rawValue = rawValue
  }

  /// Requests are equal when their numbers are.
  @inlinable public static func == (a: RequestID, b: RequestID) -> Bool { a.rawValue == b.rawValue }

  /// Hashes the number.
  @inlinable public func hash(into hasher: inout Hasher) { hasher.combine(rawValue) }
}

/// A fencing token: greater than the token of every earlier grant of the same name, and below 2^53.
public typealias Token = Int64
