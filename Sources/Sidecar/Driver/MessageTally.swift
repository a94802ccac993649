import LockTypes

/// Limits how often each kind of an event is logged. What others can cause at will is logged once in a while, with its
/// count; neither a flood of one kind nor ever new kinds fill the log.
///
/// `LogRates` limits the messages of each text, too, from all callers; it knows no kinds and leaves messages out.
struct MessageTally {
  /// Kinds that are told apart; the rest are one kind.
  static let kindsMax = 32

  private struct Logged {
    var at: BootInstant
    var uncounted: Int
  }

  /// How long a kind is not logged again, in milliseconds.
  private let quietMilliseconds: Int64
  private var kinds: [String: Logged] = [:]

  /// Nothing was logged.
  init(quietMilliseconds: Int64 = 60_000) {
    self.quietMilliseconds = quietMilliseconds
  }

  /// How many of this kind there were since the last that was logged, this one included; nil while it is too early to
  /// log it again.
  mutating func toLog(kind: String = "", now: BootInstant) -> Int? {
    let kind = kinds[kind] != nil || kinds.count < Self.kindsMax ? kind : ""
    let logged = kinds[kind]
    let count = (logged?.uncounted ?? 0) + 1
    if let logged, now.milliseconds(since: logged.at) < quietMilliseconds {
      kinds[kind] = Logged(at: logged.at, uncounted: count)
      return nil
    }
    kinds[kind] = Logged(at: now, uncounted: 0)
    return count
  }
}
