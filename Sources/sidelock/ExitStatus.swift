import SidelockClient

/// The exit statuses of the command itself, from sysexits.h and env(1) where these have one.
enum ExitStatus {
  /// Not acquired within the time that was allowed; `--conflict-exit-code` sets another one.
  static let conflict: Int32 = 1
  /// Wrong options or arguments.
  static let usage: Int32 = 64
  /// The name is in use in another way, or its key in Redis holds other data.
  static let otherUse: Int32 = 65
  /// Redis cannot be reached or refuses.
  static let noRedis: Int32 = 68
  /// No daemon listens, or it does not answer.
  static let unavailable: Int32 = 69
  /// The daemon said something that it must not, or the system refused what must work.
  static let software: Int32 = 70
  /// A limit of the daemon was met.
  static let limit: Int32 = 71
  /// Too few replicas of Redis have the lease.
  static let underReplicated: Int32 = 73
  /// The wait would never end.
  static let deadlock: Int32 = 76
  /// The daemon, or its socket, is closed to this user.
  static let denied: Int32 = 77
  /// --max-hold was over; as with timeout(1).
  static let heldTooLong: Int32 = 124
  /// The lock was lost while COMMAND ran.
  static let lost: Int32 = 125
  /// COMMAND could not be executed.
  static let cannotExecute: Int32 = 126
  /// COMMAND was not found.
  static let notFound: Int32 = 127

  /// What a failure to get the lock, or to keep it, makes of the command.
  static func status(of error: SidelockError) -> Int32 {
    switch error.reason {
    case .busy, .timeout, .notHeld: conflict
    case .noDaemon, .noAnswer, .connectionLost, .shuttingDown: unavailable
    case .unavailable: noRedis
    case .denied, .permission: denied
    case .lost: lost
    case .limit: limit
    case .underReplicated: underReplicated
    case .modeConflict, SidelockError.Reason(rawValue: "wrong_type"): otherUse
    case .deadlock: deadlock
    default: error.code == -32602 ? usage : software
    }
  }
}
