import SidelockClient

/// The exit statuses of the command itself, from sysexits.h and env(1) where these have one.
enum ExitStatus {
  /// Not acquired within the time that was allowed; `--conflict-exit-code` sets another one.
  static let conflict: Int32 = 1
  /// Wrong options or arguments.
  static let usage: Int32 = 64
  /// No daemon, or it does not answer, or Redis cannot be reached or refuses, or too few replicas have the lease.
  static let unavailable: Int32 = 69
  /// The daemon said something that it must not, or the system refused what must work.
  static let software: Int32 = 70
  /// The daemon refused for lack of a right.
  static let denied: Int32 = 77
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
    case .noDaemon, .noAnswer, .permission, .connectionLost, .unavailable, .shuttingDown: unavailable
    case .denied: denied
    case .lost: lost
    case .limit, .underReplicated: unavailable
    default: error.code == -32602 ? usage : software
    }
  }
}
