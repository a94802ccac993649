/// Texts of the operating system (arguments, paths, the environment) are bytes that need not be UTF-8, and a `String`
/// would put a replacement in the place of what is not. Here each byte that is no part of valid UTF-8 becomes one of
/// 256 private-use characters at the very end of Unicode, and survives whatever is done with the string around it.
/// Those characters themselves are taken for bytes, too.
package enum SystemText {
  /// The character that stands for the byte 0.
  private static let firstStandIn: UInt32 = 0x10_FF00

  private static func isStandIn(_ scalar: Unicode.Scalar) -> Bool { scalar.value >= firstStandIn }

  /// The string for these bytes.
  package static func text(_ bytes: [UInt8]) -> String {
    if let plain = String(validating: bytes, as: UTF8.self), !plain.unicodeScalars.contains(where: isStandIn) {
      return plain
    }
    var text = String.UnicodeScalarView()
    var rest = bytes[...]
    while let first = rest.first {
      // One to four bytes make a character.
      let length = (1...4).first { count in
        guard rest.count >= count, let one = String(validating: rest.prefix(count), as: UTF8.self) else { return false }
        return !one.unicodeScalars.contains(where: isStandIn)
      }
      if let length {
        text.append(contentsOf: String(decoding: rest.prefix(length), as: UTF8.self).unicodeScalars)
      } else if let standIn = Unicode.Scalar(firstStandIn + UInt32(first)) {
        text.append(standIn)
      }
      rest = rest.dropFirst(length ?? 1)
    }
    return String(text)
  }

  /// The string for bytes that end with a zero.
  package static func text(cString: UnsafePointer<CChar>) -> String {
    var bytes: [UInt8] = []
    var position = cString
    while position.pointee != 0 {
      bytes.append(UInt8(bitPattern: position.pointee))
      position += 1
    }
    return text(bytes)
  }

  /// The bytes that ``text(_:)`` made a string of.
  package static func bytes(_ text: String) -> [UInt8] {
    var bytes: [UInt8] = []
    for scalar in text.unicodeScalars {
      if isStandIn(scalar) {
        bytes.append(UInt8(truncatingIfNeeded: scalar.value))
      } else {
        bytes.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
      }
    }
    return bytes
  }

  /// The bytes that ``text(_:)`` made a string of, ended by a zero, for a system call.
  package static func withCString<Result, Failure: Error>(
    _ text: String, _ body: (UnsafePointer<CChar>) throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes(text).count + 1)
    defer { copy.deallocate() }
    var end = copy
    for byte in bytes(text) {
      end.initialize(to: CChar(bitPattern: byte))
      end += 1
    }
    end.initialize(to: 0)
    return try body(copy)
  }

  /// The text itself; nil when its bytes are not UTF-8.
  package static func utf8(_ text: String) -> String? {
    guard text.unicodeScalars.contains(where: isStandIn) else { return text }
    return String(validating: bytes(text), as: UTF8.self)
  }

  /// The text for people: bytes that are not UTF-8 are written `\xE9`.
  package static func shown(_ text: String) -> String {
    if let plain = utf8(text) { return plain }
    var shown = ""
    for scalar in text.unicodeScalars {
      if isStandIn(scalar) {
        let digits = String(UInt8(truncatingIfNeeded: scalar.value), radix: 16, uppercase: true)
        shown += "\\x\(digits.count == 1 ? "0" : "")\(digits)"
      } else {
        shown.unicodeScalars.append(scalar)
      }
    }
    return shown
  }
}
