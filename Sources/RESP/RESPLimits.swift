/// How much of the client's memory one value from Redis may take. A value beyond a limit is an error.
///
/// Nothing is allocated on the strength of an announced length: memory follows the bytes that really came.
public struct RESPLimits: Hashable, Sendable {
  /// The longest blob, in bytes.
  public var blobBytesMax: Int
  /// The longest simple string, simple error or big number, in bytes.
  public var lineBytesMax: Int
  /// The most values within one top-level value, at all depths together; a pair of a map counts as two.
  public var elementCountMax: Int
  /// The most bytes on the wire of one top-level value, its attributes included.
  public var replyBytesMax: Int
  /// How deep aggregates may lie in one another; an aggregate of scalars has depth 1.
  public var depthMax: Int

  /// Limits; the defaults are far above anything that scripts with short answers give.
  public init(
    blobBytesMax: Int = 16 << 20,
    lineBytesMax: Int = 64 << 10,
    elementCountMax: Int = 1 << 20,
    replyBytesMax: Int = 32 << 20,
    depthMax: Int = 32
  ) {
    self.blobBytesMax = blobBytesMax
    self.lineBytesMax = lineBytesMax
    self.elementCountMax = elementCountMax
    self.replyBytesMax = replyBytesMax
    self.depthMax = depthMax
  }
}

/// Why bytes are not a value of the protocol, or one that is refused. Nothing can be read after it: where the next
/// value would begin is not known. The descriptions name no byte that a server sent but the type byte.
public enum RESPError: Error, Hashable, Sendable {
  /// A value begins with a byte that is no type.
  case unknownType(UInt8)
  /// A line ends with a bare line feed, or a carriage return stands alone.
  case badLineEnd
  /// A blob is not followed by a line end.
  case badBlobEnd
  /// A length or count is not a plain decimal number (empty, signed, with leading zeros or other bytes).
  case badLength(type: UInt8)
  /// The text of a number, a boolean or a null is not one.
  case badScalar(type: UInt8)
  /// A verbatim string does not begin with three letters and a colon.
  case badVerbatimString
  /// A streamed string or aggregate, whose length is not announced. Redis does not send them.
  case streamed
  /// A push within another value.
  case nestedPush
  /// A line is longer than that many bytes.
  case lineTooLong(bytesMax: Int)
  /// A blob is longer than that many bytes.
  case blobTooLong(bytesMax: Int)
  /// A value has more elements than that.
  case tooManyElements(countMax: Int)
  /// A value has more bytes than that.
  case replyTooLong(bytesMax: Int)
  /// Aggregates lie deeper in one another than that.
  case tooDeep(depthMax: Int)
}

extension RESPError: CustomStringConvertible {
  /// What is wrong, for the operator.
  public var description: String {
    switch self {
    case .unknownType(let byte) where byte == 0x15 || byte == 0x16:
      return "the server does not speak the Redis protocol but TLS, as it seems"
    case .unknownType(let byte):
      return "a value begins with byte 0x\(String(byte, radix: 16)), which is no type of the Redis protocol"
    case .badLineEnd:
      return "a line does not end with CR LF"
    case .badBlobEnd:
      return "a blob is not followed by CR LF"
    case .badLength(let type):
      return "the length of a value of type \(Self.name(type)) is not a plain decimal number"
    case .badScalar(let type):
      return "the text of a value of type \(Self.name(type)) is not one"
    case .badVerbatimString:
      return "a verbatim string has no format"
    case .streamed:
      return "streamed strings and aggregates are not supported"
    case .nestedPush:
      return "a push lies within another value"
    case .lineTooLong(let bytesMax):
      return "a line is longer than \(bytesMax) bytes"
    case .blobTooLong(let bytesMax):
      return "a blob is longer than \(bytesMax) bytes"
    case .tooManyElements(let countMax):
      return "a value has more than \(countMax) elements"
    case .replyTooLong(let bytesMax):
      return "a value has more than \(bytesMax) bytes"
    case .tooDeep(let depthMax):
      return "values lie more than \(depthMax) deep in one another"
    }
  }

  /// A type byte as it is written in the protocol's specification.
  private static func name(_ type: UInt8) -> String {
    "'\(Character(Unicode.Scalar(type)))'"
  }
}
