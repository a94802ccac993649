import DequeModule
import LockEngine
import LockTypes
import NIOCore

/// Decides whose input is dealt with in which turn. Users take turns, and so do the sessions of a user; all shares of a
/// turn have a limit together. Neither a client with many requests, nor a user with many clients, nor many users delay
/// the others, or a renewal.
final class InputTurns {
  /// How long a user, and a session, may take before it is the next one's turn, in nanoseconds.
  static let shareNanoseconds: Int64 = 1_000_000
  /// How long they may take when they had to wait for their first share, in nanoseconds: others wait behind them.
  static let firstShareNanoseconds: Int64 = 200_000
  /// How long all shares of a turn may take together, in nanoseconds; past that no other begins.
  static let turnNanoseconds: Int64 = 2_000_000
  /// Requests between two looks at the clock.
  static let requestsBetweenLooks = 8

  /// The sessions of each user that wait. Those whose user is not known are one user's.
  private var rows: [UInt32?: ShareQueue<ClientSession>] = [:]
  /// The users that have a row, all but the one whose turn it is.
  private var users = ShareQueue<UInt32?>()
  /// Whose turn it is, whether or not it has a row, until the next one's begins.
  private var current: (user: UInt32?, endsAt: BootInstant)?
  private var endsAt: BootInstant?

  var isWaiting: Bool { !rows.isEmpty }

  /// Whether input of a session that has just come may be read: the turn has room, no user waits for a first share, and
  /// neither does a session of the same user. A user who waits begins nothing beside that while others wait as well.
  func mayBegin(_ session: ClientSession, now: BootInstant) -> Bool {
    if isWaiting {
      if users.hasFresh { return false }
      if let row = rows[session.peer?.uid], row.hasFresh || rows.count > 1 { return false }
    }
    return hasRoom(now: now)
  }

  /// Whether the turn has room for one more share.
  func hasRoom(now: BootInstant) -> Bool {
    guard let endsAt else {
      self.endsAt = BootInstant(nanoseconds: now.nanoseconds + Self.turnNanoseconds)
      return true
    }
    return now < endsAt
  }

  func turnEnded() { endsAt = nil }

  /// - Parameter isFresh: whether the session has had no share since its input came.
  func append(_ session: ClientSession, isFresh: Bool) {
    let user = session.peer?.uid
    if rows[user] == nil {
      // Who has just had a share in its turn goes on with that turn.
      let hasTurn = current.map { $0.user == user } ?? false
      if isFresh || !hasTurn { users.append(user, isFresh: isFresh) }
      if isFresh, hasTurn { current = nil }
    }
    rows[user, default: ShareQueue()].append(session, isFresh: isFresh)
  }

  /// The next session, and its share: one more of the same user, or the first one of the next user when the time of
  /// that one is over.
  func next(now: BootInstant) -> (session: ClientSession, nanoseconds: Int64)? {
    if let last = current, now >= last.endsAt || rows[last.user] == nil {
      if rows[last.user] != nil { users.append(last.user, isFresh: false) }
      current = nil
    }
    if current == nil, let (user, isFresh) = users.popFirst() {
      current = (user, BootInstant(nanoseconds: now.nanoseconds + Self.share(isFresh: isFresh)))
    }
    guard let current, let (session, isFresh) = rows[current.user]?.popFirst() else { return nil }
    if rows[current.user]?.isEmpty == true { rows[current.user] = nil }
    return (session, min(Self.share(isFresh: isFresh), current.endsAt.nanoseconds - now.nanoseconds))
  }

  private static func share(isFresh: Bool) -> Int64 { isFresh ? firstShareNanoseconds : shareNanoseconds }
}

/// What waits for a share of turns. What waits for its first one and what needs more take turns, so that both have the
/// same time; both are first in, first out.
private struct ShareQueue<Element> {
  /// How many first shares take as long as another one.
  private static var firstShares: Int64 { InputTurns.shareNanoseconds / InputTurns.firstShareNanoseconds }

  /// What has had no share since it began to wait.
  private var fresh: Deque<Element> = []
  /// What has had a share and needs more.
  private var others: Deque<Element> = []
  /// First shares since the last other one.
  private var taken: Int64 = 0

  var isEmpty: Bool { fresh.isEmpty && others.isEmpty }
  var hasFresh: Bool { !fresh.isEmpty }

  mutating func append(_ element: Element, isFresh: Bool) {
    if isFresh { fresh.append(element) } else { others.append(element) }
  }

  mutating func popFirst() -> (element: Element, isFresh: Bool)? {
    if taken < Self.firstShares || others.isEmpty, let element = fresh.popFirst() {
      taken = min(taken + 1, Self.firstShares)
      return (element, true)
    }
    taken = 0
    return others.popFirst().map { ($0, false) }
  }
}
