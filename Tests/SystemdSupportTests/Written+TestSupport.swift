import Synchronization

/// Collects what a log output writes.
final class Written: Sendable {
  private let bytes = Mutex<[UInt8]>([])

  var text: String { String(decoding: bytes.withLock { $0 }, as: UTF8.self) }

  func append(_ more: [UInt8]) { bytes.withLock { $0 += more } }
}
