import DequeModule
import LockEngine
import LockTypes

/// Commands that wait for room in the pipeline to Redis, in a row for each user. The rows take turns, so a user who
/// asks for very much delays nobody else; a user with a full share in flight waits until some of it is answered.
///
/// Commands about one lock keep their order: a new one joins the row in which those before it wait, whoever's it is.
struct CommandQueue {
  private struct Entry {
    var command: LinkCommand
    /// Who has asked for it, whoever's row it is in.
    var asker: LinkCommand.User
  }

  private var rows: [LinkCommand.User: Deque<Entry>] = [:]
  /// Memory of all that a user has asked for.
  private var memory: [LinkCommand.User: Int] = [:]
  /// The users that have a row, the next one first.
  private var turns: Deque<LinkCommand.User> = []
  /// Where the commands about a lock wait, and how many they are.
  private var places: [LockName: (user: LinkCommand.User, count: Int)] = [:]
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  /// About how much memory the commands take that a user has asked for, in bytes.
  func memory(of user: LinkCommand.User) -> Int { memory[user] ?? 0 }

  mutating func append(_ command: LinkCommand, of asker: LinkCommand.User) {
    var user = asker
    if let name = command.lockName {
      let place = places[name]
      user = place?.user ?? user
      places[name] = (user, (place?.count ?? 0) + 1)
    }
    count += 1
    if rows[user, default: []].isEmpty { turns.append(user) }
    rows[user, default: []].append(Entry(command: command, asker: asker))
    memory[asker, default: 0] += command.memory
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
    guard let entry = rows[user]?.popFirst() else { return nil }
    let command = entry.command
    count -= 1
    if let left = memory[entry.asker] { memory[entry.asker] = left > command.memory ? left - command.memory : nil }
    if rows[user]?.isEmpty == true { rows[user] = nil } else { turns.append(user) }
    if let name = command.lockName, let place = places[name] {
      places[name] = place.count > 1 ? (place.user, place.count - 1) : nil
    }
    return (command, user)
  }

  /// Takes out all of them.
  mutating func removeAll() -> [LinkCommand] {
    defer { self = CommandQueue() }
    return rows.values.flatMap { $0.map(\.command) }
  }
}
