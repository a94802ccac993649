import Logging

/// Limits how many messages of each kind are written. What others can cause at will, a lost lock or a message that
/// makes no sense, must not fill the log; what is left out is counted.
///
/// A kind is a message's text, which is constant. Each has a bucket: a burst at once, and then one in a while.
struct LogRates {
  /// Messages of one kind that are written at once.
  static let burst: Int64 = 20
  /// After a burst, one message in this many milliseconds.
  static let everyMilliseconds: Int64 = 1000
  /// How often it is reported what was left out, in milliseconds.
  static let tellEveryMilliseconds: Int64 = 10_000
  /// Kinds that are told apart; the rest are one kind.
  static let kindsMax = 256

  private struct Kind {
    /// When the bucket will be full again, in milliseconds.
    var fullAt: Int64
    var leftOut = 0
    var level: Logger.Level
  }

  private var kinds: [String: Kind] = [:]
  /// Whether anything was left out that was not reported.
  private(set) var hasLeftOut = false

  /// Whether a message is to be written; otherwise it is counted. Critical ones always are, and so are debug and trace,
  /// which only somebody who looks for a fault turns on.
  mutating func admits(_ message: String, level: Logger.Level, nowMilliseconds now: Int64) -> Bool {
    switch level {
    case .trace, .debug, .critical: return true
    case .info, .notice, .warning, .error: break
    }
    if JournalMessage.limitedElsewhere.contains(message) { return true }
    let key = kinds[message] != nil || kinds.count < Self.kindsMax ? message : ""
    var kind = kinds[key] ?? Kind(fullAt: now, level: level)
    defer { kinds[key] = kind }
    let fullAt = max(kind.fullAt, now) + Self.everyMilliseconds
    guard fullAt - now <= Self.burst * Self.everyMilliseconds else {
      kind.leftOut += 1
      kind.level = max(kind.level, level)
      hasLeftOut = true
      return false
    }
    kind.fullAt = fullAt
    return true
  }

  /// What was left out since the last time, and how severe it was.
  mutating func takeLeftOut() -> [(message: String, level: Logger.Level, count: Int)] {
    guard hasLeftOut else { return [] }
    hasLeftOut = false
    let left = kinds.filter { $0.value.leftOut > 0 }.sorted { $0.key < $1.key }
    for (key, _) in left { kinds[key]?.leftOut = 0 }
    return left.map { ($0.key, $0.value.level, $0.value.leftOut) }
  }
}
