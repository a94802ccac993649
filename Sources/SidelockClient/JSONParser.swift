extension JSONValue {
  /// Parses one JSON text, which must be valid UTF-8.
  ///
  /// - Throws: ``JSONSyntaxError`` when it is not JSON or nests deeper than 64.
  public init(parsing bytes: some Sequence<UInt8>) throws(JSONSyntaxError) {
    var parser = JSONParser(Array(bytes))
    self = try parser.parseDocument()
  }

  /// Parses one JSON text.
  ///
  /// - Throws: ``JSONSyntaxError`` when it is not JSON or nests deeper than 64.
  public init(parsing text: String) throws(JSONSyntaxError) {
    try self.init(parsing: text.utf8)
  }
}

/// Why a text is not JSON.
public struct JSONSyntaxError: Error, Hashable, Sendable, CustomStringConvertible {
  /// Where, in bytes from the start of the text.
  public var offset: Int
  /// What is wrong there.
  public var problem: String

  /// What is wrong, and where.
  public var description: String {
    "\(problem) at byte \(offset)"
  }
}

/// A recursive-descent parser over the bytes of one message.
private struct JSONParser {
  static let nestingMax = 64

  let bytes: [UInt8]
  var position = 0

  init(_ bytes: [UInt8]) {
    self.bytes = bytes
  }

  var next: UInt8? {
    position < bytes.count ? bytes[position] : nil
  }

  func failure(_ problem: String) -> JSONSyntaxError {
    JSONSyntaxError(offset: position, problem: problem)
  }

  mutating func skipSpace() {
    while let byte = next, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { position += 1 }
  }

  mutating func parseDocument() throws(JSONSyntaxError) -> JSONValue {
    skipSpace()
    let value = try parseValue(depth: 0)
    skipSpace()
    guard position == bytes.count else { throw failure("something follows the value") }
    return value
  }

  mutating func parseValue(depth: Int) throws(JSONSyntaxError) -> JSONValue {
    guard depth < Self.nestingMax else { throw failure("too deeply nested") }
    guard let first = next else { throw failure("the text ends too early") }
    switch first {
    case UInt8(ascii: "{"): return .object(try parseObject(depth: depth))
    case UInt8(ascii: "["): return .array(try parseArray(depth: depth))
    case UInt8(ascii: "\""): return .string(try parseString())
    case UInt8(ascii: "t"): return try parseWord("true", .bool(true))
    case UInt8(ascii: "f"): return try parseWord("false", .bool(false))
    case UInt8(ascii: "n"): return try parseWord("null", .null)
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return try parseNumber()
    default: throw failure("no JSON value begins so")
    }
  }

  mutating func parseWord(_ word: StaticString, _ value: JSONValue) throws(JSONSyntaxError) -> JSONValue {
    let matches = word.withUTF8Buffer { bytes[position...].starts(with: $0) }
    guard matches else { throw failure("unknown word") }
    position += word.utf8CodeUnitCount
    return value
  }

  mutating func parseObject(depth: Int) throws(JSONSyntaxError) -> JSONObject {
    var object = JSONObject()
    position += 1
    skipSpace()
    if next == UInt8(ascii: "}") {
      position += 1
      return object
    }
    while true {
      guard next == UInt8(ascii: "\"") else { throw failure("a member name is expected") }
      let key = try parseString()
      skipSpace()
      guard next == UInt8(ascii: ":") else { throw failure("a colon is expected") }
      position += 1
      skipSpace()
      object.append(key, try parseValue(depth: depth + 1))
      skipSpace()
      let end = next
      guard end == UInt8(ascii: ",") || end == UInt8(ascii: "}") else { throw failure("a comma or } is expected") }
      position += 1
      if end == UInt8(ascii: "}") { return object }
      skipSpace()
    }
  }

  mutating func parseArray(depth: Int) throws(JSONSyntaxError) -> [JSONValue] {
    var elements: [JSONValue] = []
    position += 1
    skipSpace()
    if next == UInt8(ascii: "]") {
      position += 1
      return elements
    }
    while true {
      elements.append(try parseValue(depth: depth + 1))
      skipSpace()
      let end = next
      guard end == UInt8(ascii: ",") || end == UInt8(ascii: "]") else { throw failure("a comma or ] is expected") }
      position += 1
      if end == UInt8(ascii: "]") { return elements }
      skipSpace()
    }
  }

  mutating func parseString() throws(JSONSyntaxError) -> String {
    position += 1
    var content: [UInt8] = []
    while true {
      guard let byte = next else { throw failure("a string does not end") }
      switch byte {
      case UInt8(ascii: "\""):
        guard let text = String(validating: content, as: UTF8.self) else { throw failure("a string is not UTF-8") }
        position += 1
        return text
      case UInt8(ascii: "\\"):
        position += 1
        try parseEscape(into: &content)
      case 0x00..<0x20:
        throw failure("a control character in a string")
      default:
        content.append(byte)
        position += 1
      }
    }
  }

  mutating func parseEscape(into content: inout [UInt8]) throws(JSONSyntaxError) {
    guard let byte = next else { throw failure("a string does not end") }
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): content.append(byte)
    case UInt8(ascii: "b"): content.append(0x08)
    case UInt8(ascii: "f"): content.append(0x0C)
    case UInt8(ascii: "n"): content.append(0x0A)
    case UInt8(ascii: "r"): content.append(0x0D)
    case UInt8(ascii: "t"): content.append(0x09)
    case UInt8(ascii: "u"): content.append(contentsOf: String(try parseScalar()).utf8)
    default: throw failure("unknown escape")
    }
  }

  mutating func parseScalar() throws(JSONSyntaxError) -> Character {
    let first = try parseHex()
    var code = first
    if (0xD800..<0xDC00).contains(first) {
      guard position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"), bytes[position + 1] == UInt8(ascii: "u")
      else { throw failure("half a surrogate pair") }
      position += 2
      let second = try parseHex()
      guard (0xDC00..<0xE000).contains(second) else { throw failure("half a surrogate pair") }
      code = 0x10000 + (first - 0xD800) << 10 + (second - 0xDC00)
    }
    guard let scalar = Unicode.Scalar(code) else { throw failure("half a surrogate pair") }
    return Character(scalar)
  }

  mutating func parseHex() throws(JSONSyntaxError) -> UInt32 {
    var code: UInt32 = 0
    for _ in 0..<4 {
      guard let byte = next, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
        throw failure("four hexadecimal digits are expected")
      }
      code = code << 4 | UInt32(digit)
      position += 1
    }
    return code
  }

  mutating func skipDigits() throws(JSONSyntaxError) {
    let start = position
    while let byte = next, (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) { position += 1 }
    guard position > start else { throw failure("a digit is expected") }
  }

  mutating func parseNumber() throws(JSONSyntaxError) -> JSONValue {
    let start = position
    if next == UInt8(ascii: "-") { position += 1 }
    if next == UInt8(ascii: "0") { position += 1 } else { try skipDigits() }
    var isWhole = true
    if next == UInt8(ascii: ".") {
      isWhole = false
      position += 1
      try skipDigits()
    }
    if next == UInt8(ascii: "e") || next == UInt8(ascii: "E") {
      isWhole = false
      position += 1
      if next == UInt8(ascii: "+") || next == UInt8(ascii: "-") { position += 1 }
      try skipDigits()
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isWhole, let value = Int64(text) { return .int(value) }
    guard let value = Double(text), value.isFinite else { throw failure("a number is out of range") }
    return .double(value)
  }
}
