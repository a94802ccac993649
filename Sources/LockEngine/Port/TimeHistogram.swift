import LockTypes

/// How long something of one kind took, since the start: how often that was in each class, and all times together. It takes
/// the same memory however often that was.
public struct TimeHistogram: Equatable, Sendable {
  /// The upper ends of the classes, in microseconds; what is longer comes into one more.
  public static let classes: [Int64] = [
    30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000,
    100_000_000, 300_000_000, 1_000_000_000, 3_000_000_000,
  ]

  private var inClass = InlineArray<18, UInt64>(repeating: 0)
  private var nanoseconds: UInt64 = 0

  /// One of nothing.
  public init() {}

  /// Something took from `since` until `now`; nothing where the times are the wrong way round.
  @inline(__always)
  mutating func count(since: BootInstant, now: BootInstant) {
    let taken = UInt64(max(0, now.nanoseconds &- since.nanoseconds))
    nanoseconds &+= taken
    // Fast path: most locks are granted in the event that asks for them, during which no time passes.
    inClass[taken == 0 ? 0 : Self.place(of: taken)] &+= 1
  }

  @inline(never)
  private static func place(of nanoseconds: UInt64) -> Int {
    let microseconds = Int64(nanoseconds / 1000) + (nanoseconds % 1000 > 0 ? 1 : 0)
    return classes.firstIndex { microseconds <= $0 } ?? classes.count
  }

  /// How many there were in each class, in the order of ``classes``, with that of the longer ones at the end.
  public var counts: [UInt64] { inClass.indices.map { inClass[$0] } }

  /// How many there were.
  public var total: UInt64 { counts.reduce(0, &+) }

  /// How long all of them took together, in microseconds.
  public var sumMicroseconds: UInt64 { nanoseconds / 1000 }

  /// Histograms are equal when they are of the same times.
  public static func == (a: TimeHistogram, b: TimeHistogram) -> Bool {
    a.nanoseconds == b.nanoseconds && a.counts == b.counts
  }
}
