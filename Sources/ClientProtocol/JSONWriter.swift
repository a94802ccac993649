/// Appends JSON to a reused array of bytes: once that has grown, writing allocates nothing.
///
/// It sets the commas. The caller must end every object and array, and write members in objects only.
public struct JSONWriter: Sendable {
  /// What was written so far.
  public private(set) var bytes: [UInt8] = []
  /// Whether the next value or member has one before it in the same object or array.
  private var needsComma = false

  /// A position to which ``rewind(to:)`` goes back.
  public struct Mark: Sendable {
    fileprivate let count: Int
    fileprivate let needsComma: Bool
  }

  /// A writer with room for `capacity` bytes.
  public init(capacity: Int = 1_024) {
    bytes.reserveCapacity(capacity)
  }

  /// Bytes written so far.
  public var count: Int { bytes.count }

  /// Forgets what was written and keeps the memory, unless it has grown beyond `keptCapacityMax` bytes.
  public mutating func removeAll(keptCapacityMax: Int = 262_144) {
    bytes.removeAll(keepingCapacity: bytes.capacity <= keptCapacityMax)
    needsComma = false
  }

  /// The current position.
  public var mark: Mark { Mark(count: bytes.count, needsComma: needsComma) }

  /// Takes back what was written since `mark`.
  public mutating func rewind(to mark: Mark) {
    if bytes.count > mark.count { bytes.removeLast(bytes.count - mark.count) }
    needsComma = mark.needsComma
  }

  // MARK: Objects and arrays

  /// Begins an object.
  public mutating func beginObject() {
    begin(0x7B)
  }

  /// Ends the innermost object.
  public mutating func endObject() {
    bytes.append(0x7D)
    needsComma = true
  }

  /// Begins an array.
  public mutating func beginArray() {
    begin(0x5B)
  }

  /// Ends the innermost array.
  public mutating func endArray() {
    bytes.append(0x5D)
    needsComma = true
  }

  /// Writes an object with the members that `body` writes.
  @inlinable
  public mutating func object(_ body: (inout JSONWriter) -> Void) {
    beginObject()
    body(&self)
    endObject()
  }

  /// Writes an array with the values that `body` writes.
  @inlinable
  public mutating func array(_ body: (inout JSONWriter) -> Void) {
    beginArray()
    body(&self)
    endArray()
  }

  /// Begins a member of an object; its value must follow. `key` is written as it stands and must need no escapes.
  public mutating func key(_ key: StaticString) {
    comma()
    bytes.append(0x22)
    append(key)
    bytes.append(0x22)
    bytes.append(0x3A)
    needsComma = false
  }

  /// Begins a member of an object, of any name; its value must follow.
  public mutating func key(_ key: String) {
    value(key)
    bytes.append(0x3A)
    needsComma = false
  }

  // MARK: Values

  /// Writes a string.
  public mutating func value(_ text: String) {
    comma()
    var text = text
    text.withUTF8 { appendString(UnsafeRawBufferPointer($0)) }
  }

  /// Writes a string, given as UTF-8; what is not UTF-8 becomes U+FFFD.
  public mutating func value(utf8 text: [UInt8]) {
    comma()
    text.withUnsafeBytes { appendString($0) }
  }

  /// Writes a string that needs no escapes.
  public mutating func value(literal text: StaticString) {
    comma()
    bytes.append(0x22)
    append(text)
    bytes.append(0x22)
    needsComma = true
  }

  /// Writes an integer.
  public mutating func value(_ number: Int64) {
    comma()
    appendDecimal(number)
    needsComma = true
  }

  /// Writes `true` or `false`.
  public mutating func value(_ flag: Bool) {
    comma()
    append(flag ? "true" : "false")
    needsComma = true
  }

  /// Writes `null`.
  public mutating func null() {
    comma()
    append("null")
    needsComma = true
  }

  /// Writes a value that is JSON already and has no line feed in it.
  public mutating func raw(_ json: UnsafeRawBufferPointer) {
    comma()
    bytes.append(contentsOf: json)
    needsComma = true
  }

  /// Writes a value that is JSON already and has no line feed in it.
  public mutating func raw(_ json: [UInt8]) {
    json.withUnsafeBytes { raw($0) }
  }

  // MARK: Members

  /// Writes a member that is a string.
  public mutating func member(_ key: StaticString, _ text: String) {
    self.key(key)
    value(text)
  }

  /// Writes a member that is a string, given as UTF-8; what is not UTF-8 becomes U+FFFD.
  public mutating func member(_ key: StaticString, utf8 text: [UInt8]) {
    self.key(key)
    value(utf8: text)
  }

  /// Writes a member that is a string that needs no escapes.
  public mutating func member(_ key: StaticString, literal text: StaticString) {
    self.key(key)
    value(literal: text)
  }

  /// Writes a member that is an integer.
  public mutating func member(_ key: StaticString, _ number: Int64) {
    self.key(key)
    value(number)
  }

  /// Writes a member that is an integer, or null.
  public mutating func member(_ key: StaticString, orNull number: Int64?) {
    self.key(key)
    if let number { value(number) } else { null() }
  }

  /// Writes a member that is `true` or `false`.
  public mutating func member(_ key: StaticString, _ flag: Bool) {
    self.key(key)
    value(flag)
  }

  /// Writes a member that is an object.
  @inlinable
  public mutating func object(_ key: StaticString, _ body: (inout JSONWriter) -> Void) {
    self.key(key)
    object(body)
  }

  /// Writes a member that is an array.
  @inlinable
  public mutating func array(_ key: StaticString, _ body: (inout JSONWriter) -> Void) {
    self.key(key)
    array(body)
  }

  // MARK: Bytes

  /// Writes a string that may need escapes.
  mutating func value(escaping text: StaticString) {
    comma()
    appendString(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// Begins a line with JSON that ends just before the value of a member.
  mutating func beginLine(_ text: StaticString) {
    append(text)
    needsComma = false
  }

  /// Ends a line; the next value takes no comma.
  mutating func endLine() {
    bytes.append(0x0A)
    needsComma = false
  }

  @inline(__always)
  private mutating func comma() {
    if needsComma { bytes.append(0x2C) }
  }

  private mutating func begin(_ bracket: UInt8) {
    comma()
    bytes.append(bracket)
    needsComma = false
  }

  private mutating func append(_ text: StaticString) {
    bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  private mutating func appendString(_ text: UnsafeRawBufferPointer) {
    bytes.append(0x22)
    var index = 0
    // Start of the run of bytes that need no escape and are not copied yet.
    var plain = 0
    while index < text.count {
      let byte = text[index]
      if byte < 0x80 {
        if byte >= 0x20, byte != 0x22, byte != 0x5C {
          index += 1
          continue
        }
        bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: text[plain..<index]))
        appendEscape(byte)
        index += 1
        plain = index
      } else {
        let length = UTF8Sequence.length(in: text, at: index)
        if length > 0 {
          index += length
          continue
        }
        bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: text[plain..<index]))
        UTF8Sequence.append(0xFFFD, to: &bytes)
        index -= length
        plain = index
      }
    }
    bytes.append(contentsOf: UnsafeRawBufferPointer(rebasing: text[plain..<index]))
    bytes.append(0x22)
    needsComma = true
  }

  private mutating func appendEscape(_ byte: UInt8) {
    bytes.append(0x5C)
    switch byte {
    case 0x22, 0x5C: bytes.append(byte)
    case 0x08: bytes.append(0x62)
    case 0x09: bytes.append(0x74)
    case 0x0A: bytes.append(0x6E)
    case 0x0C: bytes.append(0x66)
    case 0x0D: bytes.append(0x72)
    default:
      append("u00")
      bytes.append(0x30 + (byte >> 4))
      let low = byte & 0x0F
      bytes.append(low < 10 ? 0x30 + low : 0x61 + low - 10)
    }
  }

  private mutating func appendDecimal(_ number: Int64) {
    // The longest is Int64.min: nineteen digits and a sign.
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 20) { digits in
      var rest = number.magnitude
      var index = digits.count
      repeat {
        let (quotient, digit) = rest.quotientAndRemainder(dividingBy: 10)
        index -= 1
        digits[index] = 0x30 + UInt8(truncatingIfNeeded: digit)
        rest = quotient
      } while rest > 0
      if number < 0 {
        index -= 1
        digits[index] = 0x2D
      }
      bytes.append(contentsOf: UnsafeRawBufferPointer(UnsafeBufferPointer(rebasing: digits[index...])))
    }
  }
}
