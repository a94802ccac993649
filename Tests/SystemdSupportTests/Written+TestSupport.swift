import NIOConcurrencyHelpers

/// Collects what a log output writes.
final class Written: Sendable {
  private let bytes = NIOLockedValueBox<[UInt8]>([])

  var text: String { String(decoding: bytes.withLockedValue { $0 }, as: UTF8.self) }

  func append(_ more: [UInt8]) { bytes.withLockedValue { $0 += more } }
}
