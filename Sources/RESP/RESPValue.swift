/// One value of the Redis serialization protocol, version 3 (and what version 2 has of it).
///
/// Errors are values here: a reply that is an error is still a reply, and it is the caller who knows what it means.
public enum RESPValue: Hashable, Sendable {
  /// `+OK`: a short line.
  case simpleString([UInt8])
  /// `-ERR …`, and RESP3's blob error: the code word first, then prose.
  case simpleError([UInt8])
  /// `$5`: any bytes; RESP3's verbatim strings too, without their three-letter prefix.
  case blobString([UInt8])
  /// `:12`
  case integer(Int64)
  /// `,1.5`
  case double(Double)
  /// `#t`
  case boolean(Bool)
  /// `_`, and RESP2's `$-1` and `*-1`.
  case null
  /// `(123…`: the digits, with their sign.
  case bigNumber([UInt8])
  /// `*2`
  case array([RESPValue])
  /// `%2`: the pairs in the order in which they came; a key that comes twice is there twice.
  case map([RESPPair])
  /// `~2`: the members in the order in which they came.
  case set([RESPValue])
  /// `>2`: what the server says unasked. It never answers a command.
  case push([RESPValue])
}

/// A key of a map, and what it stands for.
public struct RESPPair: Hashable, Sendable {
  /// The key.
  public var key: RESPValue
  /// The value.
  public var value: RESPValue

  /// The pair of `key` and `value`.
  public init(_ key: RESPValue, _ value: RESPValue) {
    self.key = key
    self.value = value
  }
}

// Inlinable, because other targets read every part of every reply with them.
extension RESPValue {
  /// The bytes of a string of either kind; nil for everything else, errors included.
  @inlinable public var bytes: [UInt8]? {
    switch self {
    case .simpleString(let bytes), .blobString(let bytes):
      return bytes
    case .simpleError, .integer, .double, .boolean, .null, .bigNumber, .array, .map, .set, .push:
      return nil
    }
  }

  /// The text of a string of either kind; nil for everything else, and when the bytes are not UTF-8.
  public var string: String? {
    guard let bytes else { return nil }
    return String(validating: bytes, as: UTF8.self)
  }

  /// Whether this is a string of either kind that spells `text`, which is ASCII.
  @inlinable package func isText(_ text: StaticString) -> Bool {
    switch self {
    case .simpleString(let bytes), .blobString(let bytes):
      return bytes.elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    case .simpleError, .integer, .double, .boolean, .null, .bigNumber, .array, .map, .set, .push:
      return false
    }
  }

  /// The number of an integer, or of a string that is one in decimal digits (a Lua script may give either).
  @inlinable public var integer: Int64? {
    switch self {
    case .integer(let number):
      return number
    case .simpleString(let bytes), .blobString(let bytes):
      return Int64(decimal: bytes[...])
    case .simpleError, .double, .boolean, .null, .bigNumber, .array, .map, .set, .push:
      return nil
    }
  }

  /// The bytes of an error; nil for everything else.
  @inlinable public var error: [UInt8]? {
    if case .simpleError(let bytes) = self { return bytes }
    return nil
  }

  /// The elements of an array or a set; nil for everything else.
  @inlinable public var elements: [RESPValue]? {
    switch self {
    case .array(let elements), .set(let elements):
      return elements
    case .simpleString, .simpleError, .blobString, .integer, .double, .boolean, .null, .bigNumber, .map, .push:
      return nil
    }
  }

  /// What the string `key` stands for in a map, or in an array that alternates keys and values as RESP2 has it;
  /// the first one if there are several.
  public func value(forKey key: String) -> RESPValue? {
    let wanted = Array(key.utf8)
    switch self {
    case .map(let pairs):
      return pairs.first { $0.key.bytes == wanted }?.value
    case .array(let elements):
      var index = 0
      while index + 1 < elements.count {
        if elements[index].bytes == wanted { return elements[index + 1] }
        index += 2
      }
      return nil
    case .simpleString, .simpleError, .blobString, .integer, .double, .boolean, .null, .bigNumber, .set, .push:
      return nil
    }
  }

  /// Whether this is the plain `OK`.
  public var isOK: Bool {
    self == .simpleString([0x4F, 0x4B])
  }
}

extension Int64 {
  /// The number that `digits` spell: an optional minus sign, then decimal digits and nothing else, without leading
  /// zeros or a plus sign. Nil for anything else and for what does not fit.
  @usableFromInline package init?(decimal digits: ArraySlice<UInt8>) {
    var rest = digits
    let isNegative = rest.first == 0x2D
    if isNegative { rest.removeFirst() }
    guard let first = rest.first, first != 0x30 || (rest.count == 1 && !isNegative) else { return nil }
    // Counted downwards, because the negative numbers reach one further.
    var number: Int64 = 0
    for byte in rest {
      guard byte >= 0x30, byte <= 0x39 else { return nil }
      let (product, tooLarge) = number.multipliedReportingOverflow(by: 10)
      let (difference, stillTooLarge) = product.subtractingReportingOverflow(Int64(byte - 0x30))
      guard !tooLarge, !stillTooLarge else { return nil }
      number = difference
    }
    if !isNegative {
      guard number != .min else { return nil }
      number = -number
    }
    self = number
  }
}
