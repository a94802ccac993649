/// How long the link waits before it connects again. The pause doubles with each useless round, and has jitter, so that
/// a Redis that comes back does not meet every host at one moment.
struct LinkBackoff: Equatable {
  /// The longest first pause, in milliseconds.
  static let millisecondsMin: Int64 = 50
  /// The longest pause, in milliseconds.
  static let millisecondsMax: Int64 = 2000

  /// Pauses since a connection has proved good for something.
  private var pauses: Int64 = 0

  /// The next pause, in milliseconds. `random`, any number, decides about its second half.
  mutating func next(random: UInt64) -> Int64 {
    let ceiling = min(Self.millisecondsMax, Self.millisecondsMin << min(pauses, 10))
    pauses += 1
    let least = ceiling / 2
    return least + Int64(random % UInt64(ceiling - least + 1))
  }

  /// A connection is good for something: the next one begins without a pause.
  mutating func reset() { pauses = 0 }
}
