import DequeModule
import LockTypes

/// Names to which something happened a short while ago.
struct RecentNames {
  /// The most names that are remembered; the oldest are forgotten first.
  static let countMax = 16_384

  /// How long a name is remembered; a change holds for those remembered already, too.
  var milliseconds: Int64
  private var times: [LockName: BootInstant] = [:]
  private var order: Deque<(name: LockName, at: BootInstant)> = []

  /// Remembers each name for so many milliseconds; 0: none.
  init(milliseconds: Int64) {
    self.milliseconds = milliseconds
  }

  func contains(_ name: LockName, now: BootInstant) -> Bool {
    times[name].map { now < $0.adding(milliseconds: milliseconds) } ?? false
  }

  mutating func insert(_ name: LockName, now: BootInstant) {
    guard milliseconds > 0 else { return }
    while let oldest = order.first,
      order.count >= Self.countMax || oldest.at.adding(milliseconds: milliseconds) <= now
    {
      order.removeFirst()
      // A name that came again since then is remembered by its later entry.
      if times[oldest.name] == oldest.at { times[oldest.name] = nil }
    }
    times[name] = now
    order.append((name, now))
  }
}
