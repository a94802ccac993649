import Glibc
import SidelockClient
import ProcessSupport

/// Reading and writing descriptors.
enum Descriptor {
  /// Waits for input and reads what is there; empty at the end. nil when a non-blocking descriptor has nothing.
  static func read(_ descriptor: CInt) throws(SidelockError) -> [UInt8]? {
    while true {
      var count = 0
      let bytes = [UInt8](unsafeUninitializedCapacity: 65_536) { buffer, initialized in
        count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
        initialized = max(0, count)
      }
      if count >= 0 { return bytes }
      switch errno {
      case EINTR: continue
      case EAGAIN: return nil
      default:
        throw SidelockError(
          reason: .connectionLost, message: "the connection to the daemon broke: \(UnixSocket.describe(errno))")
      }
    }
  }

  /// Writes all of `text`, waiting for room in it where the descriptor does not block.
  static func write(_ text: String, to descriptor: CInt) throws(OutputError) {
    try Output.write(text, to: descriptor)
  }

  /// Writes a line to standard output.
  static func print(_ line: String) throws(OutputError) {
    try write(line + "\n", to: STDOUT_FILENO)
  }

  /// Writes a message, which may contain the words of others, to standard error as one line. Nobody can be told of a
  /// failure; the exit status still says what happened.
  static func say(_ message: String) {
    try? write("sidelock: \(printable(message))\n", to: STDERR_FILENO)
  }

  /// Writes such a message if standard error has room for it; false when it has none.
  static func sayAtOnce(_ message: String) -> Bool {
    // A pipe that is writable takes PIPE_BUF bytes at once.
    let bytes = Array("sidelock: \(printable(message))".utf8.prefix(Int(PIPE_BUF) - 1)) + [0x0A]
    let sent = bytes.withUnsafeBytes {
      send(STDERR_FILENO, $0.baseAddress, $0.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
    }
    if sent >= 0 { return true }
    switch errno {
    case EAGAIN, EINTR: return false
    case ENOTSOCK: break
    // There is nobody left to tell it.
    default: return true
    }
    var entry = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
    guard poll(&entry, 1, 0) > 0 else { return false }
    let written = bytes.withUnsafeBytes { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    return written >= 0 || (errno != EAGAIN && errno != EINTR)
  }

  /// Says why the output failed.
  static func say(_ error: OutputError) {
    if let words = error.words { say(words) }
  }

  /// An entry for poll that reports when nobody reads standard output any longer.
  static var endOfOutput: pollfd { pollfd(fd: STDOUT_FILENO, events: 0, revents: 0) }

  /// Throws when that entry reports it.
  static func check(endOfOutput entry: pollfd) throws(OutputError) {
    if entry.revents & Int16(POLLERR | POLLHUP) != 0 { throw OutputError(code: EPIPE) }
  }
}
