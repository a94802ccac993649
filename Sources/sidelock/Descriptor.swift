import Glibc
import SidelockClient
import ProcessSupport

/// Reading and writing descriptors.
enum Descriptor {
  /// Reads what is there, waiting for it; empty at the end. nil when a non-blocking descriptor has nothing.
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

  /// Writes a message of this command, with the words of others in it, to standard error, as one line. Where that fails there is nobody left to tell it; the exit
  /// status still says what happened.
  static func say(_ message: String) {
    try? write("sidelock: \(printable(message))\n", to: STDERR_FILENO)
  }

  /// Says what became of the output.
  static func say(_ error: OutputError) {
    if let words = error.words { say(words) }
  }

  /// An entry for poll that tells when nobody reads standard output any more.
  static var endOfOutput: pollfd { pollfd(fd: STDOUT_FILENO, events: 0, revents: 0) }

  /// Throws when that entry tells so.
  static func check(endOfOutput entry: pollfd) throws(OutputError) {
    if entry.revents & Int16(POLLERR | POLLHUP) != 0 { throw OutputError(code: EPIPE) }
  }
}
