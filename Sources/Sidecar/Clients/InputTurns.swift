import DequeModule
import LockEngine
import LockTypes
import NIOCore

/// Decides whose input is dealt with in which turn. Each session has a share of a turn, and all shares together have a
/// limit: neither a client with many requests nor many clients delay the others, or a renewal.
final class InputTurns {
  /// How long a session may take in one turn, in nanoseconds.
  static let shareNanoseconds: Int64 = 1_000_000
  /// How long it may take when it had to wait for its first share, in nanoseconds: others wait behind it.
  static let firstShareNanoseconds: Int64 = 200_000
  /// How long all shares of a turn may take together, in nanoseconds; past that no other begins.
  static let turnNanoseconds: Int64 = 2_000_000
  /// Requests between two looks at the clock.
  static let requestsBetweenLooks = 8

  /// Sessions that have had no share since their input came.
  private var fresh: Deque<ClientSession> = []
  /// Sessions that have had a share and need more.
  private var others: Deque<ClientSession> = []
  private var wasFresh = false
  private var endsAt: BootInstant?

  var isWaiting: Bool { !fresh.isEmpty || !others.isEmpty }

  /// Whether input that has just come may be read: nobody waits for a first share, and the turn has room.
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

  /// The next session, and its share. Sessions that wait for a first share alternate with those that need more; both
  /// queues are first in, first out.
  func next() -> (session: ClientSession, nanoseconds: Int64)? {
    wasFresh.toggle()
    if wasFresh || others.isEmpty, let session = fresh.popFirst() { return (session, Self.firstShareNanoseconds) }
    return others.popFirst().map { ($0, Self.shareNanoseconds) }
  }
}
