import LockEngine
import LockTypes
import RESP

/// What Redis said when it last refused a lease, and has granted none since.
struct RefusedLease {
  /// For how long a refusal counts while nobody asks for a lease, in milliseconds.
  private static let millisecondsMax: Int64 = 60_000

  private var last: (words: String, at: BootInstant)?

  /// Redis has refused a command. What it says of data of others concerns one name.
  mutating func refused(_ error: [UInt8], _ command: String, now: BootInstant) {
    guard command == "acquire", !error.starts(with: "WRONGTYPE".utf8) else { return }
    last = (RedisErrorReply.words(of: error), now)
  }

  /// It has said what is missing.
  mutating func explained(_ words: String) { last?.words = words }

  mutating func replied(_ reply: LeaseReply) {
    if case .granted = reply { last = nil }
  }

  func words(now: BootInstant) -> String? {
    last.flatMap { now.milliseconds(since: $0.at) < Self.millisecondsMax ? $0.words : nil }
  }
}
