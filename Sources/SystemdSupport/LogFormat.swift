import Glibc
import Logging

/// How a log line looks.
public enum LogFormat: Sendable, Equatable {
  /// For the journal: it keeps the time, and takes the severity from a prefix (sd-daemon(3)).
  case journal
  /// For a terminal or a file.
  case plain

  /// The format that standard error wants: the journal announces itself with the device and inode of its stream, so
  /// that a daemon whose output was redirected later does not write prefixes into a file.
  static func ofStandardError(journalStream: String?) -> LogFormat {
    var status = stat()
    guard let journalStream, fstat(STDERR_FILENO, &status) == 0 else { return .plain }
    return journalStream == "\(status.st_dev):\(status.st_ino)" ? .journal : .plain
  }

  /// One line with its end. Whatever the message and the metadata hold, it stays one line.
  func line(_ entry: LogEntry) -> String {
    let head =
      switch self {
      case .journal: "<\(entry.priority)>"
      case .plain: "\(Self.timestamp(entry.time)) \(Self.padded(entry.level)) "
      }
    return head + Self.text(message: entry.message, metadata: entry.metadata) + "\n"
  }

  /// The message with its data as `key=value` behind it, in one line without its end.
  static func text(message: String, metadata: [(String, String)]) -> String {
    var line = ""
    appendEscaped(message, to: &line)
    for (key, value) in metadata {
      line += " "
      appendEscaped(key, to: &line)
      line += "="
      let isBare = !value.isEmpty && value.utf8.allSatisfy { $0 > 0x20 && $0 != 0x22 && $0 != 0x3D && $0 != 0x7F }
      if !isBare { line += "\"" }
      appendEscaped(value, to: &line, quoted: !isBare)
      if !isBare { line += "\"" }
    }
    return line
  }

  private static func appendEscaped(_ text: String, to line: inout String, quoted: Bool = false) {
    for scalar in text.unicodeScalars {
      if isControl(scalar) || (quoted && (scalar == "\"" || scalar == "\\")) {
        line += scalar.escaped(asASCII: true)
      } else {
        line.unicodeScalars.append(scalar)
      }
    }
  }

  /// Whether a character begins a line, steers a terminal, or turns the order of those beside it around.
  private static func isControl(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.value {
    case 0..<0x20, 0x7F...0x9F, 0x61C, 0x200E...0x200F, 0x2028...0x202E, 0x2066...0x2069: true
    case _: false
    }
  }

  private static func padded(_ level: Logger.Level) -> String {
    let name = level.rawValue
    return name + String(repeating: " ", count: max(0, 8 - name.utf8.count))
  }

  private static func timestamp(_ time: timespec) -> String {
    timestamp(milliseconds: Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000)
  }

  /// A moment in UTC, such as `2026-01-31T23:59:59.000Z`, from the milliseconds since 1970.
  public static func timestamp(milliseconds: Int64) -> String {
    var seconds = time_t(milliseconds / 1000)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    func digits(_ value: some BinaryInteger, _ width: Int) -> String {
      let text = String(value)
      return String(repeating: "0", count: max(0, width - text.utf8.count)) + text
    }
    let day = "\(digits(parts.tm_year + 1900, 4))-\(digits(parts.tm_mon + 1, 2))-\(digits(parts.tm_mday, 2))"
    let clock = "\(digits(parts.tm_hour, 2)):\(digits(parts.tm_min, 2)):\(digits(parts.tm_sec, 2))"
    return "\(day)T\(clock).\(digits(milliseconds % 1000, 3))Z"
  }
}
