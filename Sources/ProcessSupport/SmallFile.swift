import Glibc
import SystemStrings

/// Why a file could not be read.
public enum FileReadError: Error, Equatable, Sendable {
  /// There is no such file.
  case missing
  /// The file is longer than it may be, given in bytes.
  case tooLong(bytesMax: Int)
  /// The system's own words.
  case failed(String)

  /// What the system said.
  static func ofSystem(_ code: Int32) -> FileReadError {
    code == ENOENT ? .missing : .failed(String(cString: strerror(code)))
  }

  /// Why, for people.
  public var message: String {
    switch self {
    case .missing: "there is no such file"
    case .tooLong(let bytesMax): "the file is longer than \(bytesMax) bytes"
    case .failed(let reason): reason
    }
  }
}

/// Reads a whole file of at most `bytesMax` bytes, at a path as `SystemText` has it, at the start: a regular one, or
/// one that is open already (`/dev/stdin`, a shell's `<(…)`). Anything else may block or never end, and is refused.
@Sendable public func readSmallFile(_ path: String, bytesMax: Int) -> Result<[UInt8], FileReadError> {
  read(path, bytesMax: bytesMax, isAgain: false)
}

/// The same for a reload: what was open at the start has been read to its end, and is refused.
@Sendable public func readSmallFileAgain(_ path: String, bytesMax: Int) -> Result<[UInt8], FileReadError> {
  read(path, bytesMax: bytesMax, isAgain: true)
}

private func read(_ path: String, bytesMax: Int, isAgain: Bool) -> Result<[UInt8], FileReadError> {
  let failure = { Result<[UInt8], FileReadError>.failure(.ofSystem(errno)) }
  var status = stat()
  // Before it is opened: opening alone does something to some devices.
  guard SystemText.withCString(path, { stat($0, &status) }) == 0 else { return failure() }
  if let refusal = refusal(of: status, at: path, isAgain: isAgain) { return .failure(refusal) }
  // O_NONBLOCK: a pipe that has taken its place meanwhile must not block.
  let descriptor = SystemText.withCString(path) { open($0, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK) }
  guard descriptor >= 0 else { return failure() }
  defer { close(descriptor) }
  guard fstat(descriptor, &status) == 0 else { return failure() }
  if let refusal = refusal(of: status, at: path, isAgain: isAgain) { return .failure(refusal) }
  // What is open already may block.
  guard fcntl(descriptor, F_SETFL, 0) == 0 else { return failure() }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 16 * 1024)
  while true {
    let count = read(descriptor, &chunk, chunk.count)
    if count < 0 && errno == EINTR { continue }
    if count < 0 { return failure() }
    if count == 0 { return .success(bytes) }
    bytes.append(contentsOf: chunk[..<count])
    if bytes.count > bytesMax { return .failure(.tooLong(bytesMax: bytesMax)) }
  }
}

/// Why something is not read; nil: it may be.
private func refusal(of status: stat, at path: String, isAgain: Bool) -> FileReadError? {
  let isOpen = isOpenAlready(path)
  let what: String
  switch status.st_mode & S_IFMT {
  case S_IFREG: return nil
  case S_IFDIR: return .ofSystem(EISDIR)
  case S_IFIFO: what = "pipe"
  case S_IFSOCK: what = "socket"
  case S_IFCHR where status.st_rdev == nullDevice: return nil
  case _: what = "device"
  }
  guard isOpen else { return .failed("it is a \(what), and no regular file") }
  return isAgain ? .failed("it is a \(what), which can be read only once, at the start") : nil
}

/// `/dev/null`: a file that is always empty.
private let nullDevice: dev_t = 1 << 8 | 3

/// Whether a path names what is open already, which may be a pipe that can be read only once.
public func isOpenAlready(_ path: String) -> Bool {
  path == "/dev/stdin" || ["/dev/fd/", "/proc/self/fd/"].contains { path.hasPrefix($0) }
}

/// Whether every user of the host may read a file, by its permissions; false where there is none.
@Sendable public func isReadableByAll(_ path: String) -> Bool {
  var status = stat()
  return SystemText.withCString(path, { stat($0, &status) }) == 0 && status.st_mode & S_IROTH != 0
}
