/// What still has to be told to the service manager: one slot for each kind of news, never a queue.
///
/// A newer status replaces an older one and a second watchdog ping adds nothing to a first, so a service manager that
/// does not read costs the same few words however long it takes.
struct NotifyOutbox {
  enum Step: Equatable {
    /// Send these lines, in one datagram.
    case send(String)
    /// Nothing may be sent for this long.
    case wait(milliseconds: UInt64)
    /// Nothing is left to send.
    case idle
  }

  /// The least time between two statuses: one that changes all the time must not load the service manager.
  static let statusIntervalMilliseconds: UInt64 = 1000
  /// The service manager ignores datagrams above 4096 bytes; this leaves room for the other lines.
  static let statusBytesMax = 2048

  private var readyPending = false
  private var stoppingPending = false
  private var reloadingPendingSince: UInt64?
  private var extensionPending: UInt64?
  private var watchdogPending = false
  private var statusPending: String?
  private var statusSent: String?
  private var statusSentAt: UInt64?

  mutating func ready(status: String?) {
    readyPending = true
    if let status { self.status(status) }
  }

  mutating func stopping(status: String?) {
    stoppingPending = true
    if let status { self.status(status) }
  }

  /// The settings are being read again, since that moment of the monotonic clock, in microseconds.
  mutating func reloading(since microseconds: UInt64) { reloadingPendingSince = microseconds }

  /// The start or stop that is under way takes this much longer, in microseconds from when it is sent.
  mutating func extendTimeout(microseconds: UInt64) { extensionPending = microseconds }

  mutating func watchdogTicked() { watchdogPending = true }

  mutating func status(_ text: String) {
    let line = Self.statusLine(text)
    statusPending = line == statusSent ? nil : line
  }

  /// Decides what to do at the given time, in milliseconds of a monotonic clock; what it says to send counts as sent.
  mutating func next(now: UInt64) -> Step {
    // In a datagram of its own: of reloading and ready in one, the service manager would see only one.
    if let since = reloadingPendingSince {
      reloadingPendingSince = nil
      return .send("RELOADING=1\nMONOTONIC_USEC=\(since)")
    }
    var lines: [String] = []
    if readyPending { lines.append("READY=1") }
    if stoppingPending { lines.append("STOPPING=1") }
    if let extensionPending { lines.append("EXTEND_TIMEOUT_USEC=\(extensionPending)") }
    if watchdogPending { lines.append("WATCHDOG=1") }

    var statusDelay: UInt64 = 0
    if let status = statusPending {
      // Ready and stopping are rare, and the status that comes with them belongs to them.
      if !readyPending && !stoppingPending, let last = statusSentAt, now >= last {
        let age = now - last
        statusDelay = age < Self.statusIntervalMilliseconds ? Self.statusIntervalMilliseconds - age : 0
      }
      if statusDelay == 0 {
        lines.append("STATUS=" + status)
        statusSent = status
        statusSentAt = now
        statusPending = nil
      }
    }
    readyPending = false
    stoppingPending = false
    extensionPending = nil
    watchdogPending = false
    if !lines.isEmpty { return .send(lines.joined(separator: "\n")) }
    return statusDelay > 0 ? .wait(milliseconds: statusDelay) : .idle
  }

  /// One line of bounded length: a line break inside a status would start an assignment of its own.
  private static func statusLine(_ text: String) -> String {
    var line = ""
    var bytes = 0
    for scalar in text.unicodeScalars {
      let isControl = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value)
      let kept: Unicode.Scalar = isControl ? " " : scalar
      bytes += UTF8.width(kept)
      if bytes > statusBytesMax { break }
      line.unicodeScalars.append(kept)
    }
    return line
  }
}
