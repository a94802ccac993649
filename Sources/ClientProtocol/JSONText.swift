/// JSON as text, by itself.
public enum JSONText {
  /// What is wrong with `text` as one JSON value under the strict rules of this protocol; nil when nothing is.
  public static func mistake(in text: UnsafeRawBufferPointer) -> JSONSyntaxError? {
    var scanner = JSONScanner(text)
    do throws(JSONSyntaxError) {
      _ = try scanner.document()
      return nil
    } catch {
      return error
    }
  }
}

/// What is wrong with a text that should be JSON, and where.
public struct JSONSyntaxError: Error, Equatable, Sendable {
  /// The kinds of mistakes.
  public enum Kind: Equatable, Sendable {
    /// The text ends in the middle of a value.
    case unexpectedEnd
    /// A byte that cannot stand there.
    case unexpectedByte
    /// Something follows after the value.
    case trailingBytes
    /// A number that is not as RFC 8259 has it: a leading zero or plus, a bare point, an empty exponent.
    case badNumber
    /// An unescaped control character inside a string.
    case controlCharacter
    /// A backslash with something after it that is no escape.
    case badEscape
    /// An escaped surrogate without its other half.
    case loneSurrogate
    /// Bytes that are not UTF-8.
    case invalidUTF8
    /// A byte order mark.
    case byteOrderMark
    /// Two members of one object have the same name.
    case duplicateMember
    /// More objects and arrays inside each other than ``Limits/nestingMax``.
    case nestingTooDeep
  }

  /// What is wrong.
  public var kind: Kind
  /// Where, in bytes from the start of the text.
  public var offset: Int

  /// What is wrong, in words that can follow "the line is not valid JSON: ".
  public var explanation: StaticString {
    switch kind {
    case .unexpectedEnd: "it ends in the middle of a value"
    case .unexpectedByte: "a character that cannot stand there"
    case .trailingBytes: "something follows after the value"
    case .badNumber: "a malformed number"
    case .controlCharacter: "a control character in a string that is not escaped"
    case .badEscape: "a backslash that begins no escape"
    case .loneSurrogate: "an escaped surrogate without its other half"
    case .invalidUTF8: "bytes that are not UTF-8"
    case .byteOrderMark: "a byte order mark"
    case .duplicateMember: "a member that the object already has"
    case .nestingTooDeep: "more than 16 objects and arrays inside each other"
    }
  }
}
