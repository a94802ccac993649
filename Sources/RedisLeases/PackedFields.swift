public import LockTypes
import RESP

/// Fields in a row, each as `<length>:<bytes>`, for messages between daemons: names, owners, commands and notes may
/// hold any bytes.
public enum PackedFields {
  /// The longest message that is read, in bytes.
  public static let bytesMax = 65_536

  /// Appends a field.
  public static func append(_ field: some Collection<UInt8>, to bytes: inout [UInt8]) {
    bytes.append(contentsOf: String(field.count).utf8)
    bytes.append(0x3A)
    bytes.append(contentsOf: field)
  }

  /// Appends a text.
  public static func append(_ text: String, to bytes: inout [UInt8]) { append(text.utf8, to: &bytes) }

  /// Appends a number, in decimal.
  public static func append(_ number: some BinaryInteger, to bytes: inout [UInt8]) {
    append(String(number), to: &bytes)
  }
}

/// Reads ``PackedFields``. Whatever another daemon sends, nothing here can trap; what is no field is nil.
public struct PackedFieldReader: Sendable {
  /// What was not read yet.
  public private(set) var rest: ArraySlice<UInt8>

  /// A reader of what is left in `bytes`; of what is longer than ``PackedFields/bytesMax`` it reads nothing.
  public init(_ bytes: ArraySlice<UInt8>) {
    rest = bytes.count <= PackedFields.bytesMax ? bytes : []
  }

  /// Whether there is nothing more to read.
  public var isAtEnd: Bool { rest.isEmpty }

  /// The next field.
  public mutating func bytes() -> ArraySlice<UInt8>? {
    guard let colon = rest.prefix(6).firstIndex(of: 0x3A), let count = Int64(decimal: rest[..<colon]),
      count >= 0, count < rest.endIndex - colon
    else { return nil }
    let end = colon + 1 + Int(count)
    defer { rest = rest[end...] }
    return rest[(colon + 1)..<end]
  }

  /// The next field as text.
  public mutating func text() -> String? { bytes().map { String(decoding: $0, as: UTF8.self) } }

  /// The next field as a lock's name.
  public mutating func name() -> LockName? { bytes().map { LockName(bytes: Array($0)) } }

  /// The next field as a number that fits.
  public mutating func number<Number: BinaryInteger>() -> Number? {
    bytes().flatMap { Int64(decimal: $0) }.flatMap { Number(exactly: $0) }
  }
}
