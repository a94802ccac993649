/// A string inside the text: where it stands without its quotes, and what it will be.
struct StringToken {
  var start: Int
  var end: Int
  /// Bytes after unescaping.
  var decodedCount: Int
  var hasEscapes: Bool
}

/// A number, as far as this protocol has use for it: no member of it is a fraction.
enum JSONNumber: Equatable {
  /// An integer within ±``Limits/integerMax``, however it was written (`1000`, `1e3`, `1000.0`).
  case integer(Int64)
  /// An integer beyond that.
  case outOfRange
  /// Not an integer.
  case fraction
}

/// A value inside the text.
enum ValueToken {
  case string(StringToken)
  case number(JSONNumber)
  case bool(Bool)
  case null
  case object(start: Int, end: Int)
  case array(start: Int)
}

/// A member of an object.
struct MemberToken {
  var key: StringToken
  var value: ValueToken
}

/// Reads a JSON text once, by RFC 8259, and strictly where that leaves a choice: UTF-8 only, no duplicate members, no
/// lone surrogates, bounded nesting.
///
/// It leaves the members of the outermost object and of its `params` behind as tokens: only arrays and objects inside
/// `params` are scanned again, and nothing is copied before it is wanted. Recursion is bounded by
/// ``Limits/nestingMax``. No byte is read without `position < bytes.count` having been tested just before.
struct JSONScanner {
  /// What the members of an object are wanted for.
  enum Role {
    case envelope
    case parameters
    case other
  }

  let bytes: UnsafeRawBufferPointer
  private(set) var position = 0
  /// The members of the objects that are open, and after ``document()`` those of the outermost one.
  var members: [MemberToken] = []
  /// The members of the outermost object's `params`.
  var parameters: [MemberToken] = []

  /// Up to this many members of an object are compared pairwise, more of them by hash.
  private static let pairwiseMax = 8

  init(_ bytes: UnsafeRawBufferPointer, at position: Int = 0) {
    self.bytes = bytes
    self.position = position
  }

  /// Reads the whole text: one value with nothing but white space around it.
  mutating func document() throws(JSONSyntaxError) -> ValueToken {
    members.removeAll(keepingCapacity: true)
    parameters.removeAll(keepingCapacity: true)
    if bytes.count >= 3, bytes[0] == 0xEF, bytes[1] == 0xBB, bytes[2] == 0xBF { throw mistake(.byteOrderMark) }
    skipSpace()
    let value = try value(depth: 0, role: .envelope)
    skipSpace()
    if position < bytes.count { throw mistake(.trailingBytes) }
    return value
  }

  /// Reads the object at the position as the outermost one.
  mutating func outermostObject() throws(JSONSyntaxError) {
    members.removeAll(keepingCapacity: true)
    _ = try value(depth: 0, role: .envelope)
  }

  /// Reads the first `count` elements of the array at the position.
  mutating func elements(_ count: Int) throws(JSONSyntaxError) -> [ValueToken] {
    var elements: [ValueToken] = []
    position += 1
    skipSpace()
    while elements.count < count, try peek() != 0x5D {
      elements.append(try value(depth: 0, role: .other))
      skipSpace()
      if try peek() == 0x2C { position += 1 }
      skipSpace()
    }
    return elements
  }

  private func mistake(_ kind: JSONSyntaxError.Kind) -> JSONSyntaxError {
    JSONSyntaxError(kind: kind, offset: position)
  }

  @inline(__always)
  private func peek() throws(JSONSyntaxError) -> UInt8 {
    if position < bytes.count { return bytes[position] }
    throw mistake(.unexpectedEnd)
  }

  @inline(__always)
  private mutating func skipSpace() {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x09, 0x0A, 0x0D: position += 1
      default: return
      }
    }
  }

  private mutating func value(depth: Int, role: Role) throws(JSONSyntaxError) -> ValueToken {
    switch try peek() {
    case 0x22:
      position += 1
      return .string(try string())
    case 0x7B: return try object(depth: depth + 1, role: role)
    case 0x5B: return try array(depth: depth + 1)
    case 0x2D, 0x30...0x39: return .number(try number())
    case 0x74:
      try literal("true")
      return .bool(true)
    case 0x66:
      try literal("false")
      return .bool(false)
    case 0x6E:
      try literal("null")
      return .null
    default: throw mistake(.unexpectedByte)
    }
  }

  private mutating func literal(_ word: StaticString) throws(JSONSyntaxError) {
    for offset in 0..<word.utf8CodeUnitCount {
      if try peek() != word.utf8Start[offset] { throw mistake(.unexpectedByte) }
      position += 1
    }
  }

  private mutating func array(depth: Int) throws(JSONSyntaxError) -> ValueToken {
    if depth > Limits.nestingMax { throw mistake(.nestingTooDeep) }
    let start = position
    position += 1
    skipSpace()
    if try peek() == 0x5D {
      position += 1
      return .array(start: start)
    }
    while true {
      _ = try value(depth: depth, role: .other)
      skipSpace()
      switch try peek() {
      case 0x2C: position += 1
      case 0x5D:
        position += 1
        return .array(start: start)
      default: throw mistake(.unexpectedByte)
      }
      skipSpace()
    }
  }

  private mutating func object(depth: Int, role: Role) throws(JSONSyntaxError) -> ValueToken {
    if depth > Limits.nestingMax { throw mistake(.nestingTooDeep) }
    let start = position
    let base = members.count
    position += 1
    skipSpace()
    if try peek() == 0x7D {
      position += 1
    } else {
      try objectMembers(depth: depth, role: role)
    }
    try refuseDuplicates(from: base)
    switch role {
    case .envelope: break
    case .parameters:
      // A second `params` in the envelope is refused as a duplicate, so nothing is lost here.
      parameters.removeAll(keepingCapacity: true)
      parameters.append(contentsOf: members[base...])
      members.removeLast(members.count - base)
    case .other: members.removeLast(members.count - base)
    }
    return .object(start: start, end: position)
  }

  private mutating func objectMembers(depth: Int, role: Role) throws(JSONSyntaxError) {
    while true {
      if try peek() != 0x22 { throw mistake(.unexpectedByte) }
      position += 1
      let key = try string()
      skipSpace()
      if try peek() != 0x3A { throw mistake(.unexpectedByte) }
      position += 1
      skipSpace()
      let isParameters = role == .envelope && depth == 1 && self.text(key, is: "params")
      members.append(MemberToken(key: key, value: try value(depth: depth, role: isParameters ? .parameters : .other)))
      skipSpace()
      switch try peek() {
      case 0x2C: position += 1
      case 0x7D:
        position += 1
        return
      default: throw mistake(.unexpectedByte)
      }
      skipSpace()
    }
  }

  private func refuseDuplicates(from base: Int) throws(JSONSyntaxError) {
    let count = members.count - base
    if count < 2 { return }
    if count <= Self.pairwiseMax {
      for later in (base + 1)..<members.count {
        for earlier in base..<later where text(members[earlier].key, equals: members[later].key) {
          throw JSONSyntaxError(kind: .duplicateMember, offset: members[later].key.start)
        }
      }
      return
    }
    // Swift's hashes are seeded, so a client cannot choose names that make this slow.
    var names = Set<[UInt8]>(minimumCapacity: count)
    for member in members[base...] where !names.insert(decode(member.key)).inserted {
      throw JSONSyntaxError(kind: .duplicateMember, offset: member.key.start)
    }
  }
}

// MARK: - Strings

extension JSONScanner {
  /// Reads a string; the position is behind its opening quote.
  private mutating func string() throws(JSONSyntaxError) -> StringToken {
    let start = position
    var saved = 0
    while position < bytes.count {
      let byte = bytes[position]
      if byte == 0x22 {
        let end = position
        position += 1
        return StringToken(start: start, end: end, decodedCount: end - start - saved, hasEscapes: saved > 0)
      }
      if byte == 0x5C {
        let before = position
        let scalar = try escape()
        // Every escape is longer than what it stands for.
        saved += position - before - UTF8Sequence.length(of: scalar)
      } else if byte < 0x20 {
        throw mistake(.controlCharacter)
      } else if byte < 0x80 {
        position += 1
      } else {
        let length = UTF8Sequence.length(in: bytes, at: position)
        if length < 0 { throw mistake(.invalidUTF8) }
        position += length
      }
    }
    throw mistake(.unexpectedEnd)
  }

  /// Reads an escape, both halves of an escaped surrogate pair at once; the position is at the backslash.
  private mutating func escape() throws(JSONSyntaxError) -> UInt32 {
    position += 1
    let letter = try peek()
    let scalar: UInt32
    switch letter {
    case 0x22, 0x5C, 0x2F: scalar = UInt32(letter)
    case 0x62: scalar = 0x08
    case 0x66: scalar = 0x0C
    case 0x6E: scalar = 0x0A
    case 0x72: scalar = 0x0D
    case 0x74: scalar = 0x09
    case 0x75:
      position += 1
      return try escapedScalar()
    default: throw mistake(.badEscape)
    }
    position += 1
    return scalar
  }

  private mutating func escapedScalar() throws(JSONSyntaxError) -> UInt32 {
    let first = try fourHexDigits()
    switch first {
    case 0xDC00...0xDFFF: throw mistake(.loneSurrogate)
    case 0xD800...0xDBFF:
      guard bytes.count - position >= 2, bytes[position] == 0x5C, bytes[position + 1] == 0x75 else {
        throw mistake(.loneSurrogate)
      }
      position += 2
      let second = try fourHexDigits()
      guard case 0xDC00...0xDFFF = second else { throw mistake(.loneSurrogate) }
      return 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
    default: return first
    }
  }

  private mutating func fourHexDigits() throws(JSONSyntaxError) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<4 {
      let byte = try peek()
      let digit: UInt8
      switch byte {
      case 0x30...0x39: digit = byte - 0x30
      case 0x41...0x46: digit = byte - 0x41 + 10
      case 0x61...0x66: digit = byte - 0x61 + 10
      default: throw mistake(.badEscape)
      }
      value = value << 4 | UInt32(digit)
      position += 1
    }
    return value
  }

  /// The bytes of a string, unescaped.
  func decode(_ token: StringToken) -> [UInt8] {
    let raw = UnsafeRawBufferPointer(rebasing: bytes[token.start..<token.end])
    if !token.hasEscapes { return [UInt8](raw) }
    var decoded: [UInt8] = []
    decoded.reserveCapacity(token.decodedCount)
    var scanner = JSONScanner(raw)
    while scanner.position < raw.count {
      let byte = raw[scanner.position]
      if byte != 0x5C {
        decoded.append(byte)
        scanner.position += 1
      } else if let scalar = try? scanner.escape() {
        UTF8Sequence.append(scalar, to: &decoded)
      } else {
        // Unreachable, because the token was valid when it was read; stopping is safe all the same.
        break
      }
    }
    return decoded
  }

  /// The text of a string, unescaped.
  func decodeText(_ token: StringToken) -> String {
    if token.hasEscapes { return String(decoding: decode(token), as: UTF8.self) }
    return String(decoding: UnsafeRawBufferPointer(rebasing: bytes[token.start..<token.end]), as: UTF8.self)
  }

  /// Whether a string is `word` after unescaping.
  @inline(__always)
  func text(_ token: StringToken, is word: StaticString) -> Bool {
    let count = word.utf8CodeUnitCount
    if token.decodedCount != count { return false }
    if token.hasEscapes { return decode(token).elementsEqual(UnsafeBufferPointer(start: word.utf8Start, count: count)) }
    for offset in 0..<count where bytes[token.start + offset] != word.utf8Start[offset] { return false }
    return true
  }

  /// Whether two strings are the same after unescaping.
  private func text(_ one: StringToken, equals other: StringToken) -> Bool {
    if one.decodedCount != other.decodedCount { return false }
    if one.hasEscapes || other.hasEscapes { return decode(one) == decode(other) }
    for offset in 0..<one.decodedCount where bytes[one.start + offset] != bytes[other.start + offset] { return false }
    return true
  }
}

// MARK: - Numbers

extension JSONScanner {
  /// Reads a number of any length exactly, without floating point. The coefficient is kept without trailing zeros: the
  /// number is then an integer if and only if its power of ten is not negative.
  private mutating func number() throws(JSONSyntaxError) -> JSONNumber {
    var coefficient = Coefficient()
    let isNegative = try peek() == 0x2D
    if isNegative { position += 1 }
    if position < bytes.count, bytes[position] == 0x30 {
      position += 1
      if position < bytes.count, case 0x30...0x39 = bytes[position] { throw mistake(.badNumber) }
    } else {
      _ = try digits { coefficient.append($0) }
    }
    var power = 0
    if position < bytes.count, bytes[position] == 0x2E {
      position += 1
      power = -(try digits { coefficient.append($0) })
    }
    if position < bytes.count, bytes[position] | 0x20 == 0x65 {
      position += 1
      power += try exponent()
    }
    return coefficient.scaled(power: power, isNegative: isNegative)
  }

  private mutating func exponent() throws(JSONSyntaxError) -> Int {
    let sign = try peek()
    if sign == 0x2B || sign == 0x2D { position += 1 }
    var exponent = 0
    _ = try digits { digit in
      // Already greater than the length of any text: further digits change nothing.
      if exponent < 100_000_000_000_000_000 { exponent = exponent * 10 + Int(digit) }
    }
    return sign == 0x2D ? -exponent : exponent
  }

  /// Reads one or more digits and returns how many.
  @inline(__always)
  private mutating func digits(_ body: (UInt8) -> Void) throws(JSONSyntaxError) -> Int {
    let start = position
    while position < bytes.count, case 0x30...0x39 = bytes[position] {
      body(bytes[position] - 0x30)
      position += 1
    }
    if position == start { throw mistake(position < bytes.count ? .badNumber : .unexpectedEnd) }
    return position - start
  }
}

/// The digits of a number without its leading and trailing zeros.
private struct Coefficient {
  private var value: UInt64 = 0
  private var trailingZeros = 0
  private var isHuge = false

  @inline(__always)
  mutating func append(_ digit: UInt8) {
    if digit == 0 {
      if value != 0 { trailingZeros += 1 }
      return
    }
    if isHuge {
      trailingZeros = 0
      return
    }
    multiply(by: trailingZeros + 1)
    trailingZeros = 0
    let (sum, overflow) = value.addingReportingOverflow(UInt64(digit))
    value = sum
    if overflow { isHuge = true }
    if isHuge { value = 1 }
  }

  /// Multiplies by ten to the `power`. Of a value that does not fit, only `isHuge` is kept.
  private mutating func multiply(by power: Int) {
    if value == 0 { return }
    for _ in 0..<power {
      let (product, overflow) = value.multipliedReportingOverflow(by: 10)
      if overflow {
        isHuge = true
        return
      }
      value = product
    }
  }

  consuming func scaled(power: Int, isNegative: Bool) -> JSONNumber {
    if value == 0 { return .integer(0) }
    let (scale, _) = power.addingReportingOverflow(trailingZeros)
    if scale < 0 { return .fraction }
    multiply(by: min(scale, 20))
    if isHuge || value > UInt64(Limits.integerMax) { return .outOfRange }
    let magnitude = Int64(truncatingIfNeeded: value)
    return .integer(isNegative ? -magnitude : magnitude)
  }
}
