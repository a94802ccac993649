import LockEngine
import LockTypes
import RESP

/// A command that the link sends to Redis, and what the link has to know of it.
enum LinkCommand: Equatable {
  /// `of`: the shard whose locks it is about.
  case lease(CommandID, LeaseCommand, of: ShardID = .only)
  /// `weight`: how many commands it counts for, by what it takes and what comes back.
  case query(UInt64, RedisCommand, weight: Int)
  /// Asks for a sign of life. Nobody waits for the answer.
  case ping
  /// A step to another login.
  case relogin(RedisRelogin.Step)

  /// On whose behalf it is sent; nil: what the daemon does by itself.
  typealias User = UInt32?

  /// How many commands it counts for.
  var weight: Int {
    switch self {
    case .lease, .ping, .relogin: 1
    case .query(_, _, let weight): weight
    }
  }

  /// About how much memory it takes until it is answered, with what is known of its lock, in bytes.
  var memory: Int {
    switch self {
    case .lease: 512 + 2 * (lockName?.bytes.count ?? 0)
    case .query, .ping, .relogin: 512
    }
  }

  /// The lock that it is about; nil where its order is of no matter.
  var lockName: LockName? {
    guard case .lease(_, let command, _) = self else { return nil }
    switch command {
    case .acquire(let name, _, _, _, _, _, _, _, _): return name
    case .release(let name, _, _, _, _): return name
    case .downgrade(let name, _, _, _): return name
    case .reserve(let name, _, _, _): return name
    case .answerInUse(let name, _, _): return name
    case .look(let name): return name
    case .renew, .heartbeat, .checkPlaces, .clock, .hostMessage, .confirmEpoch, .reclaim: return nil
    }
  }

  /// The shard that it is about; nil: none.
  var shard: ShardID? {
    if case .lease(_, _, let shard) = self { shard } else { nil }
  }

  /// Whether it is what each connection begins with.
  var isOfBeginning: Bool {
    if case .lease(_, .confirmEpoch, _) = self { true } else { false }
  }

  /// What it is called in the log.
  var word: String {
    switch self {
    case .lease(_, let command, _): command.word
    case .query(_, let command, _): command.word
    case .ping: "ping"
    case .relogin: "auth"
    }
  }
}

extension LeaseCommand {
  /// What the command is called in the log.
  fileprivate var word: String {
    switch self {
    case .acquire: "acquire"
    case .release: "release"
    case .downgrade: "downgrade"
    case .reserve: "reserve"
    case .renew: "renew"
    case .confirmEpoch: "confirm"
    case .reclaim: "reclaim"
    case .answerInUse: "answer"
    case .heartbeat: "ping"
    case .checkPlaces: "places"
    case .look: "look"
    case .clock: "clock"
    case .hostMessage: "tell"
    }
  }

  /// Whether somebody waits for it. A release is not urgent by itself: ``Effect/flushSoon`` says when another host
  /// waits for the lock.
  var isUrgent: Bool {
    switch self {
    case .release: false
    case .acquire, .downgrade, .reserve, .renew, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage,
      .confirmEpoch, .reclaim:
      true
    }
  }
}
