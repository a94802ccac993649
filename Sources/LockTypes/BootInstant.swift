/// A moment on the host's boot clock (`CLOCK_BOOTTIME`: monotonic, and it counts while the host is suspended).
public struct BootInstant: Hashable, Comparable, Sendable {
  /// Nanoseconds since the host booted.
  public var nanoseconds: Int64

  /// A moment, from the clock's reading in nanoseconds.
  @inlinable public init(nanoseconds: Int64) {
    self.nanoseconds = nanoseconds
  }

  /// Moments are equal when they are the same nanosecond.
  @inlinable public static func == (a: BootInstant, b: BootInstant) -> Bool { a.nanoseconds == b.nanoseconds }

  /// Hashes the nanoseconds.
  @inlinable public func hash(into hasher: inout Hasher) { hasher.combine(nanoseconds) }

  /// The later of two moments is the greater one.
  @inlinable public static func < (a: BootInstant, b: BootInstant) -> Bool {
    a.nanoseconds < b.nanoseconds
  }

  /// The moment `milliseconds` after this one; it saturates, so no figure that a client sends can overflow it.
  @inlinable public func adding(milliseconds: Int64) -> BootInstant {
    let (scaled, overflow) = milliseconds.multipliedReportingOverflow(by: 1_000_000)
    let step = overflow ? (milliseconds < 0 ? Int64.min : Int64.max) : scaled
    let (sum, sumOverflow) = nanoseconds.addingReportingOverflow(step)
    return BootInstant(nanoseconds: sumOverflow ? (step < 0 ? Int64.min : Int64.max) : sum)
  }

  /// Whole milliseconds from `earlier` to this moment, rounded down; negative when `earlier` is later.
  @inlinable public func milliseconds(since earlier: BootInstant) -> Int64 {
    let (difference, overflow) = nanoseconds.subtractingReportingOverflow(earlier.nanoseconds)
    if overflow { return nanoseconds < earlier.nanoseconds ? Int64.min / 1_000_000 : Int64.max / 1_000_000 }
    return difference >= 0 ? difference / 1_000_000 : -((-difference + 999_999) / 1_000_000)
  }
}
