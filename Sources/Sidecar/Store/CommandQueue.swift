import DequeModule
import LockEngine
import LockTypes

/// Commands that wait for room in the pipeline to Redis, in a row for each user. The rows take turns, so that whoever has
/// asked for very much waits for it, and nobody else does; and whoever has his share in flight waits until it is answered.
///
/// What is about one lock keeps its order: it comes behind what waits for the same lock, in whose row that may be.
struct CommandQueue {
  /// Whose row it is; nil: what the daemon does by itself.
  typealias User = UInt32?

  private var rows: [User: Deque<RedisLink.Pending>] = [:]
  /// The users that have a row, the next one first.
  private var turns: Deque<User> = []
  /// Where the commands about a lock wait, and how many they are.
  private var places: [LockName: (user: User, count: Int)] = [:]
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ entry: RedisLink.Pending, of user: User) {
    var user = user
    if let name = entry.lockName {
      let place = places[name]
      user = place?.user ?? user
      places[name] = (user, (place?.count ?? 0) + 1)
    }
    count += 1
    if rows[user, default: []].isEmpty { turns.append(user) }
    rows[user, default: []].append(entry)
  }

  /// The first command of the user whose turn it is, of those who may have one more in flight.
  mutating func popFirst(where mayHave: (User) -> Bool = { _ in true }) -> (entry: RedisLink.Pending, user: User)? {
    for _ in 0..<turns.count {
      guard let user = turns.popFirst() else { return nil }
      if mayHave(user) { return take(of: user) }
      turns.append(user)
    }
    return nil
  }

  private mutating func take(of user: User) -> (entry: RedisLink.Pending, user: User)? {
    guard let entry = rows[user]?.popFirst() else { return nil }
    count -= 1
    if rows[user]?.isEmpty == true { rows[user] = nil } else { turns.append(user) }
    if let name = entry.lockName, let place = places[name] {
      places[name] = place.count > 1 ? (place.user, place.count - 1) : nil
    }
    return (entry, user)
  }

  /// Takes out all of them.
  mutating func removeAll() -> [RedisLink.Pending] {
    defer { self = CommandQueue() }
    return rows.values.flatMap { $0 }
  }
}

extension RedisLink.Pending {
  /// The lock that the command is about; nil where its order is of no matter.
  fileprivate var lockName: LockName? {
    guard case .lease(_, let command) = self else { return nil }
    switch command {
    case .acquire(let name, _, _, _, _, _, _, _): return name
    case .release(let name, _, _, _): return name
    case .downgrade(let name, _, _): return name
    case .reserve(let name, _, _, _): return name
    case .answerInUse(let name, _, _): return name
    case .look(let name): return name
    case .renew, .heartbeat, .checkPlaces, .clock, .tell: return nil
    }
  }
}
