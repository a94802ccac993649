import LockTypes

/// Which kinds of errors were told when, so that neither a flood of one kind nor one kind after the other fills the log.
struct RefusalTally {
  /// How long a kind is not told again, in milliseconds.
  static let quietMilliseconds: Int64 = 60_000
  /// Kinds that are told apart; the rest are one kind.
  static let kindsMax = 32

  private struct Told {
    var at: BootInstant
    var untold: Int
  }

  private var kinds: [String: Told] = [:]

  /// How many errors of this kind there were since the last that was told, this one included; nil while it is too early
  /// to tell it again.
  mutating func toTell(kind: String, now: BootInstant) -> Int? {
    let kind = kinds[kind] != nil || kinds.count < Self.kindsMax ? kind : ""
    let told = kinds[kind]
    let count = (told?.untold ?? 0) + 1
    if let told, now.milliseconds(since: told.at) < Self.quietMilliseconds {
      kinds[kind] = Told(at: told.at, untold: count)
      return nil
    }
    kinds[kind] = Told(at: now, untold: 0)
    return count
  }
}
