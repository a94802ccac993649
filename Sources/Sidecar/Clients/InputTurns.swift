import DequeModule
import LockEngine
import LockTypes
import NIOCore

/// Whose input is dealt with in which turn of the loop. Each session has a share of a turn, and a turn has an end, so that
/// neither one client with many requests nor many clients keep the others waiting, or a renewal.
final class InputTurns {
  /// How long a session may take in one turn, in nanoseconds.
  static let shareNanoseconds: Int64 = 1_000_000
  /// How long it may take when it had to wait for its first share, in nanoseconds: others wait behind it.
  static let firstShareNanoseconds: Int64 = 200_000
  /// How long all sessions may take in one turn, in nanoseconds, before the next share begins.
  static let turnNanoseconds: Int64 = 2_000_000
  /// Requests after which the clock is looked at again.
  static let requestsBetweenLooks = 8

  /// Those that have not been looked at since their input came.
  private var fresh: Deque<ClientSession> = []
  /// Those that have had a share and need more.
  private var others: Deque<ClientSession> = []
  private var wasFresh = false
  private var endsAt: BootInstant?

  var isWaiting: Bool { !fresh.isEmpty || !others.isEmpty }

  /// Whether input that has just come may be looked at: who came before has been, and the turn has room.
  func mayBegin(now: BootInstant) -> Bool { fresh.isEmpty && hasRoom(now: now) }

  /// Whether the turn has room for one more share.
  func hasRoom(now: BootInstant) -> Bool {
    guard let endsAt else {
      self.endsAt = BootInstant(nanoseconds: now.nanoseconds + Self.turnNanoseconds)
      return true
    }
    return now < endsAt
  }

  func turnEnded() { endsAt = nil }

  func append(_ session: ClientSession, isFresh: Bool) {
    if isFresh { fresh.append(session) } else { others.append(session) }
  }

  /// The session whose turn it is, and its share. One that has had nothing yet and one that has had much take turns; those
  /// that have had nothing come in the order in which their input came.
  func next() -> (session: ClientSession, nanoseconds: Int64)? {
    wasFresh.toggle()
    if wasFresh || others.isEmpty, let session = fresh.popFirst() { return (session, Self.firstShareNanoseconds) }
    return others.popFirst().map { ($0, Self.shareNanoseconds) }
  }
}
