extension Supervisor {
  /// What a waiting `sidelock run` says of a Redis that refuses or is out of reach: once when that has lasted for a
  /// while, and when it changes. It says nothing of a wait for other holders, as flock does not. Times are milliseconds
  /// on the boot clock.
  struct Trouble: Equatable {
    /// How long it has to last before anything is said, and the shortest time between two messages.
    static let sayAfterMilliseconds: Int64 = 3000

    /// What is wrong with Redis; nil when nothing is.
    private var words: String?
    /// When that began, or ended.
    private var since: Int64 = 0
    /// What was said of it last.
    private var said: String?
    private var saidAt: Int64?

    /// The daemon told that the request waits, and what is wrong with Redis, if anything: with `isRecovering` in words
    /// that say all of it.
    mutating func told(_ detail: String?, isRecovering: Bool, now: Int64) {
      if (words == nil) != (detail == nil) { since = now }
      words = detail.map { isRecovering ? $0 : "Redis refuses or cannot be reached: \($0)" }
    }

    /// When there is something to say.
    var deadline: Int64? {
      guard words != said else { return nil }
      let earliest = since + (said == nil ? Self.sayAfterMilliseconds : 0)
      return max(earliest, saidAt.map { $0 + Self.sayAfterMilliseconds } ?? earliest)
    }

    /// What to say of the wait for `name` now, if anything.
    mutating func message(_ name: String, now: Int64) -> String? {
      guard let deadline, now >= deadline else { return nil }
      said = words
      saidAt = now
      guard let words else { return "waiting for \(name): Redis decides again" }
      return "waiting for \(name): \(words)"
    }
  }
}
