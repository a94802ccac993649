// What the link to Redis keeps in mind.

import DequeModule
import LockEngine
import LockTypes
import RESP
import RedisLeases

/// Commands that are not answered, under ids that count up. As a rule they are answered in their order, so that they
/// stand in a row rather than in a hash table.
struct PendingCommands {
  private struct Entry {
    var pending: RedisLink.Pending
    var user: CommandQueue.User
    var weight: Int
  }

  /// nil: answered before an earlier one.
  private var entries: Deque<Entry?> = []
  private var firstID: UInt64 = 1
  private(set) var count = 0
  /// What all of them weigh; see ``RedisLink/Pending``.
  private(set) var weight = 0
  private var weights: [CommandQueue.User: Int] = [:]

  var isEmpty: Bool { count == 0 }

  /// What those of one user weigh.
  func weight(of user: CommandQueue.User) -> Int { weights[user] ?? 0 }

  /// Adds a command and gives its id.
  mutating func append(_ entry: RedisLink.Pending, of user: CommandQueue.User) -> UInt64 {
    let weight = entry.weight
    entries.append(Entry(pending: entry, user: user, weight: weight))
    count += 1
    self.weight += weight
    weights[user, default: 0] += weight
    return firstID + UInt64(entries.count - 1)
  }

  /// Takes out a command; nil when it is not there.
  mutating func remove(_ id: UInt64) -> RedisLink.Pending? {
    guard id >= firstID, let index = Int(exactly: id - firstID), index < entries.count, let entry = entries[index]
    else { return nil }
    entries[index] = nil
    count -= 1
    weight -= entry.weight
    if let left = weights[entry.user] { weights[entry.user] = left > entry.weight ? left - entry.weight : nil }
    while let first = entries.first, case nil = first {
      entries.removeFirst()
      firstID += 1
    }
    return entry.pending
  }

  /// Takes out all of them, in their order.
  mutating func removeAll() -> [RedisLink.Pending] {
    defer {
      firstID += UInt64(entries.count)
      entries = []
      count = 0
      weight = 0
      weights = [:]
    }
    return entries.compactMap { $0?.pending }
  }
}

extension RedisLink.Pending {
  /// How many commands it counts for.
  fileprivate var weight: Int {
    switch self {
    case .lease: 1
    case .query(_, let weight, _): weight
    }
  }
}

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

extension LeaseCommand {
  /// What the command is called in the log.
  var word: String {
    switch self {
    case .acquire: "acquire"
    case .release: "release"
    case .downgrade: "downgrade"
    case .reserve: "reserve"
    case .renew: "renew"
    case .answerInUse: "answer"
    case .heartbeat: "ping"
    case .checkPlaces: "places"
    case .look: "look"
    case .clock: "clock"
    case .tell: "tell"
    }
  }
}
