import LockEngine
import LockTypes

/// How much of the loop's time messages to the inbox may take that nobody waits for.
///
/// Whoever may PUBLISH there can send as many as he likes, and each may have the daemon look up locks, ask Redis and write
/// down what it did. They are hints: what they tell is told again, or found out otherwise. So they have a share of the
/// time, and what comes beyond it is left out. It is not put off: a grant must not be dated by what came after it.
struct InboxShare {
  /// Of so many nanoseconds they have one.
  static let nanosecondsForOne: Int64 = 4
  /// What they may take at once when there was nothing before, in nanoseconds.
  static let burstNanoseconds: Int64 = 1_000_000

  /// Until then their share is used up.
  private var usedUntil: Int64 = 0

  /// Whether one more may be looked at.
  func hasRoom(now: BootInstant) -> Bool {
    usedUntil - now.nanoseconds < Self.burstNanoseconds * Self.nanosecondsForOne
  }

  /// One was. Whoever comes behind one that took long waits for no longer than behind many that did not.
  mutating func used(from begin: BootInstant, to end: BootInstant) {
    let until =
      max(usedUntil, begin.nanoseconds) + max(0, end.nanoseconds - begin.nanoseconds) * Self.nanosecondsForOne
    usedUntil = min(until, end.nanoseconds + 2 * Self.burstNanoseconds * Self.nanosecondsForOne)
  }
}
