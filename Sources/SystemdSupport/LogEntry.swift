import Glibc
import Logging

/// A message on its way to wherever the log goes.
struct LogEntry: Sendable {
  let level: Logger.Level
  let message: String
  /// In the order in which it is shown.
  let metadata: [(String, String)]
  /// The wall clock when it was logged.
  let time: timespec

  /// What it takes of the queue's room, in bytes: its text, and a little for what stands around each part.
  var cost: Int {
    metadata.reduce(message.utf8.count + 4) { $0 + $1.0.utf8.count + $1.1.utf8.count + 4 }
  }

  /// syslog(3)'s number for the level.
  var priority: Int {
    switch level {
    case .trace, .debug: 7
    case .info: 6
    case .notice: 5
    case .warning: 4
    case .error: 3
    case .critical: 2
    }
  }
}
