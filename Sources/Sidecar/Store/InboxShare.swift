import LockEngine
import LockTypes

/// Limits the loop's time for messages to the inbox that nobody waits for.
///
/// Anyone with the right to PUBLISH there can send any number, and each may have the daemon look up locks, ask Redis
/// and write down what it did. They are hints: what they tell is told again, or found out otherwise. So what goes
/// beyond their share is left out. It is not put off: a grant must not be dated by what came after it.
struct InboxShare {
  /// Their share: one nanosecond in this many.
  static let nanosecondsForOne: Int64 = 4
  /// What they may take at once when there was nothing before, in nanoseconds.
  static let burstNanoseconds: Int64 = 1_000_000

  /// Up to this moment their share is used up, in nanoseconds of the boot clock.
  private var usedUntil: Int64 = 0

  /// Whether one more may be looked at.
  func hasRoom(now: BootInstant) -> Bool {
    usedUntil - now.nanoseconds < Self.burstNanoseconds * Self.nanosecondsForOne
  }

  /// One was looked at. Its processor time counts: a loop that was not scheduled meanwhile has spent nothing. The debt
  /// is capped: behind one that took long, the next ones wait no longer than behind many.
  mutating func used(processorNanoseconds: Int64, from begin: BootInstant, to end: BootInstant) {
    let until = max(usedUntil, begin.nanoseconds) + max(0, processorNanoseconds) * Self.nanosecondsForOne
    usedUntil = min(until, end.nanoseconds + 2 * Self.burstNanoseconds * Self.nanosecondsForOne)
  }
}
