import Glibc
import SidelockClient

/// What was to be written could not be: a full disk, a pipe that nobody reads, a descriptor that was closed.
struct OutputError: Error {
  /// The errno.
  var code: CInt

  /// Nobody wants the output, which is no fault and needs no word.
  var isBrokenPipe: Bool { code == EPIPE }

  var exitStatus: Int32 { isBrokenPipe ? ExitStatus.brokenPipe : ExitStatus.output }
}

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
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count >= 0 {
        rest = rest.dropFirst(count)
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN:
        // Whoever else has it has made it non-blocking.
        var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = poll(&entry, 1, -1)
      default: throw OutputError(code: errno)
      }
    }
  }

  /// Writes a line to standard output.
  static func print(_ line: String) throws(OutputError) {
    try write(line + "\n", to: STDOUT_FILENO)
  }

  /// Writes a message of this command to standard error. Where that fails there is nobody left to tell it; the exit
  /// status still says what happened.
  static func say(_ message: String) {
    try? write("sidelock: \(message)\n", to: STDERR_FILENO)
  }

  /// Says what became of the output.
  static func say(_ error: OutputError) {
    if !error.isBrokenPipe { say("standard output: \(UnixSocket.describe(error.code))") }
  }

  /// An entry for poll that tells when nobody reads standard output any more.
  static var endOfOutput: pollfd { pollfd(fd: STDOUT_FILENO, events: 0, revents: 0) }

  /// Throws when that entry tells so.
  static func check(endOfOutput entry: pollfd) throws(OutputError) {
    if entry.revents & Int16(POLLERR | POLLHUP) != 0 { throw OutputError(code: EPIPE) }
  }
}
