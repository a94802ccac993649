import ClientProtocol
import LockEngine
import LockTypes
import RedisLeases

/// What comes back from other daemons is shown to clients only after it has been looked at.
enum HostAnswer {
  /// Whether these bytes are one JSON object without a line break, so that they can stand inside a line as they are.
  static func isObjectOnOneLine(_ bytes: [UInt8]) -> Bool {
    guard bytes.first == 0x7B, !bytes.contains(where: { $0 < 0x20 }) else { return false }
    return bytes.withUnsafeBytes { JSONText.mistake(in: $0) == nil }
  }

  /// The answer to ``HostQuestion/breakHolds(_:token:reason:by:)``: what was broken.
  static func encoding(tokens: [Token]) -> [UInt8] {
    var bytes: [UInt8] = []
    PackedFields.append(tokens.count, to: &bytes)
    for token in tokens { PackedFields.append(token, to: &bytes) }
    return bytes
  }

  /// The answer to ``HostQuestion/about``.
  static func encoding(version: String) -> [UInt8] {
    var bytes: [UInt8] = []
    PackedFields.append(version, to: &bytes)
    PackedFields.append(tellsEvents, to: &bytes)
    return bytes
  }

  /// What a host says that can be asked for events.
  private static let tellsEvents = "events"

  /// Whether the host that answers ``HostQuestion/about`` so can be asked for events.
  static func tellsEvents(_ answer: ArraySlice<UInt8>) -> Bool {
    var fields = PackedFieldReader(answer)
    guard fields.text() != nil else { return false }
    return fields.text() == tellsEvents
  }

  /// The version in an answer to ``HostQuestion/about``.
  static func version(in answer: ArraySlice<UInt8>) -> String? {
    var fields = PackedFieldReader(answer)
    return fields.text()
  }

  /// The tokens in an answer to ``HostQuestion/breakHolds(_:token:reason:by:)``.
  static func tokens(in answer: ArraySlice<UInt8>) -> [Token] {
    var fields = PackedFieldReader(answer)
    guard let count: Int = fields.number() else { return [] }
    var tokens: [Token] = []
    while tokens.count < count, let token: Token = fields.number() { tokens.append(token) }
    return tokens
  }
}
