import DequeModule
import LockEngine
import LockTypes

/// Commands that wait for room in the pipeline to Redis, in a row for each user. The rows take turns, so a user who
/// asks for very much delays nobody else; a user with a full share in flight waits until some of it is answered.
///
/// Commands about one lock keep their order: a new one joins the row in which those before it wait, whoever's it is.
struct CommandQueue {
  private var rows: [LinkCommand.User: Deque<LinkCommand>] = [:]
  /// The users that have a row, the next one first.
  private var turns: Deque<LinkCommand.User> = []
  /// Where the commands about a lock wait, and how many they are.
  private var places: [LockName: (user: LinkCommand.User, count: Int)] = [:]
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  mutating func append(_ command: LinkCommand, of user: LinkCommand.User) {
    var user = user
    if let name = command.lockName {
      let place = places[name]
      user = place?.user ?? user
      places[name] = (user, (place?.count ?? 0) + 1)
    }
    count += 1
    if rows[user, default: []].isEmpty { turns.append(user) }
    rows[user, default: []].append(command)
  }

  /// The first command of the user whose turn it is, of those who may have one more in flight.
  mutating func popFirst(where mayHave: (LinkCommand.User) -> Bool = { _ in true }) -> (
    command: LinkCommand, user: LinkCommand.User
  )? {
    for _ in 0..<turns.count {
      guard let user = turns.popFirst() else { return nil }
      if mayHave(user) { return take(of: user) }
      turns.append(user)
    }
    return nil
  }

  private mutating func take(of user: LinkCommand.User) -> (command: LinkCommand, user: LinkCommand.User)? {
    guard let command = rows[user]?.popFirst() else { return nil }
    count -= 1
    if rows[user]?.isEmpty == true { rows[user] = nil } else { turns.append(user) }
    if let name = command.lockName, let place = places[name] {
      places[name] = place.count > 1 ? (place.user, place.count - 1) : nil
    }
    return (command, user)
  }

  /// Takes out all of them.
  mutating func removeAll() -> [LinkCommand] {
    defer { self = CommandQueue() }
    return rows.values.flatMap { $0 }
  }
}
