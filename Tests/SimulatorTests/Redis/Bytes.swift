/// A byte string as Redis has it: compared byte for byte, hashed as a whole (arrays hash element by element, which an
/// unoptimised build feels).
struct Bytes: Hashable, ExpressibleByStringLiteral, CustomStringConvertible, Sendable {
  var array: [UInt8]

  init(_ array: [UInt8]) { self.array = array }

  init(_ string: String) { self.array = Array(string.utf8) }

  init(stringLiteral value: String) { self.init(value) }

  init(_ number: Int64) { self.init(String(number)) }

  static func == (a: Bytes, b: Bytes) -> Bool {
    // Array's own comparison of bytes is compiled with optimisation, inside the standard library.
    a.array == b.array
  }

  func hash(into hasher: inout Hasher) {
    array.withUnsafeBytes { hasher.combine(bytes: $0) }
  }

  var text: String { String(decoding: array, as: UTF8.self) }

  var description: String { text }

  var count: Int { array.count }

  /// Whether `part` stands anywhere in it. The standard library's search is generic, and took a fifth of a simulation's time.
  func contains(_ part: [UInt8]) -> Bool {
    guard let first = part.first else { return true }
    return array.withUnsafeBufferPointer { bytes in
      var start = 0
      while bytes.count - start >= part.count {
        if bytes[start] == first, bytes[start..<start + part.count].elementsEqual(part) { return true }
        start += 1
      }
      return false
    }
  }

  /// What stands between `separator`, as text.
  func fields(_ separator: Unicode.Scalar) -> [String] {
    array.split(separator: UInt8(ascii: separator), omittingEmptySubsequences: false)
      .map { String(decoding: $0, as: UTF8.self) }
  }

  /// The number that Redis would read: no blanks, no plus sign, no leading zeros.
  var integer: Int64? {
    if let value = Int64(text), String(value) == text { return value }
    return nil
  }
}

/// What a server sends to a client.
indirect enum ServerReply: Equatable, CustomStringConvertible, Sendable {
  case status(Bytes)
  case error(Bytes)
  case integer(Int64)
  case bulk(Bytes)
  case null
  case array([ServerReply])
  /// Keys and values in turn.
  case map([ServerReply])
  case push([ServerReply])

  static let ok = ServerReply.status("OK")
  static let wrongType = ServerReply.error("WRONGTYPE Operation against a key holding the wrong kind of value")
  static let notAnInteger = ServerReply.error("ERR value is not an integer or out of range")
  static let syntaxError = ServerReply.error("ERR syntax error")

  var description: String {
    switch self {
    case .status(let text): "+\(text)"
    case .error(let text): "-\(text)"
    case .integer(let value): ":\(value)"
    case .bulk(let bytes): "\"\(bytes)\""
    case .null: "(nil)"
    case .array(let items): "[" + items.map(\.description).joined(separator: " ") + "]"
    case .map(let items): "%[" + items.map(\.description).joined(separator: " ") + "]"
    case .push(let items): ">[" + items.map(\.description).joined(separator: " ") + "]"
    }
  }
}
