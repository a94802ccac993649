public import LockTypes

/// How long the store takes to answer, as TCP reckons it (RFC 6298): the smoothed time, and how much it varies.
/// Timeouts follow it, so that a slow link is not taken for a silent one.
public struct RoundTrip: Equatable, Sendable {
  /// Longer samples do not count: the host was suspended meanwhile, or the store was. In milliseconds.
  static let sampleMillisecondsMax: Int64 = 10_000

  /// The smoothed time, in nanoseconds; nil before anything was answered.
  private(set) var smoothedNanoseconds: Int64?
  private var variationNanoseconds: Int64 = 0
  /// What half of the answers take at the most, in nanoseconds; nil before anything was answered. It goes to and fro about
  /// the median in steps of its sixteenth part, so that one answer that took long for once counts as one and no more.
  private(set) var typicalNanoseconds: Int64?

  /// An estimate of a link on which nothing has been answered.
  public init() {}

  /// Something that was sent at `sentAt` was answered at `now`.
  public mutating func answered(sentAt: BootInstant, now: BootInstant) {
    guard sentAt <= now, now.milliseconds(since: sentAt) < Self.sampleMillisecondsMax else { return }
    let sample = now.nanoseconds - sentAt.nanoseconds
    guard let smoothed = smoothedNanoseconds, let typical = typicalNanoseconds else {
      (smoothedNanoseconds, typicalNanoseconds) = (sample, sample)
      variationNanoseconds = sample / 2
      return
    }
    variationNanoseconds += (abs(smoothed - sample) - variationNanoseconds) / 4
    smoothedNanoseconds = smoothed + (sample - smoothed) / 8
    let step = max(typical / 16, 1)
    typicalNanoseconds = sample > typical ? min(typical + step, sample) : max(typical - step, sample)
  }

  /// The smoothed time, in milliseconds; nil before anything was answered.
  public var smoothedMilliseconds: Int64? { smoothedNanoseconds.map { $0 / 1_000_000 } }

  /// By when an answer has come unless something is wrong, in milliseconds; 0 before anything was answered.
  public var timeoutMilliseconds: Int64 {
    guard let smoothedNanoseconds else { return 0 }
    return (smoothedNanoseconds + 4 * variationNanoseconds + 999_999) / 1_000_000
  }
}
