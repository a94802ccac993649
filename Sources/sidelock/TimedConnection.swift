import SidelockClient

/// A connection to the daemon whose calls together take no longer than told.
struct TimedConnection: Asking {
  private let daemon: DaemonConnection
  private let end: ContinuousClock.Instant

  /// Connects to the daemon at `socket`, as ``ConnectionOptions/path`` gives it.
  init(socket: String, milliseconds: Int64) throws(SidelockError) {
    end = .now + .milliseconds(milliseconds)
    daemon = try DaemonConnection(socket: socket, within: milliseconds)
  }

  private var left: Int64 { max(1, Int64((end - .now) / .milliseconds(1))) }

  func call(_ method: String, _ params: JSONValue? = nil) throws(SidelockError) -> JSONValue {
    try daemon.call(method, params, within: left)
  }

  /// Sends requests all at once, and gives the results in their order; nil for one that is refused, or has not been
  /// answered in that time or in what is left.
  func replies(to requests: [(String, JSONValue)], within milliseconds: Int64) -> [JSONValue?] {
    daemon.replies(to: requests, within: min(milliseconds, left))
  }
}
