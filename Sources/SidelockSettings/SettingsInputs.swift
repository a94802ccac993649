public import AccessPolicy
import Glibc
import ProcessSupport
import SystemStrings

/// Everything that settings are made from, gathered before any of it is judged: the judging is a pure function.
///
/// Command line and environment are bytes, kept as `SystemText` has them: a path names the file that was meant, and a
/// text that is not UTF-8 can be refused.
public struct SettingsInputs: Sendable {
  /// What was given on the command line.
  public var flags: [SettingKey: String] = [:]
  /// What was given on the command line for settings with several values, each for itself.
  public var listFlags: [SettingKey: [String]] = [:]
  /// The file named by `--config`.
  public var configFlag: String?
  /// Arguments that mean nothing.
  public var unknownArguments: [String] = []
  /// The environment.
  public var environment: [String: String] = [:]
  /// Whether the daemon runs as root; it decides where the socket is by default.
  public var isRoot = false
  /// What the system calls this host.
  public var systemHostName = ""
  /// Looks up users and groups.
  public var accounts = AccountLookup.empty
  /// Reads a small file, at most the given number of bytes.
  public var readFile: @Sendable (_ path: String, _ bytesMax: Int) -> Result<[UInt8], FileReadError>

  /// Inputs that are empty but for a way to read files.
  public init(
    readFile: @escaping @Sendable (_ path: String, _ bytesMax: Int) -> Result<[UInt8], FileReadError> = readSmallFile
  ) {
    self.readFile = readFile
  }

  /// The default socket of a daemon that a user runs; nil for the system's.
  var userSocketPath: String? {
    guard !isRoot, let runtime = environment["XDG_RUNTIME_DIR"], runtime.hasPrefix("/") else { return nil }
    return runtime + "/sidelock/sidelock.sock"
  }

  /// The file of tokens in the directory for state that systemd made, the first of them; nil where it made none.
  var stateFile: String? {
    guard let directory = environment["STATE_DIRECTORY"]?.utf8.split(separator: UInt8(ascii: ":")).first,
      directory.first == UInt8(ascii: "/")
    else { return nil }
    return String(Substring(directory)) + "/" + localStateName
  }

  /// The same for a reload: what can be read only once is refused.
  public var again: SettingsInputs {
    var inputs = self
    inputs.readFile = readSmallFileAgain
    return inputs
  }

  /// What this process was really given.
  public static func ofProcess(_ arguments: SidelockdArguments) -> SettingsInputs {
    var inputs = SettingsInputs()
    inputs.flags = arguments.flags
    inputs.listFlags = arguments.listFlags
    inputs.configFlag = arguments.config
    inputs.unknownArguments = arguments.unknown
    inputs.environment = ProcessTexts.environment
    inputs.isRoot = geteuid() == 0
    inputs.systemHostName = nameOfThisHost()
    inputs.accounts = .ofThisHost
    return inputs
  }
}

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

  var message: String {
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
  let isOpen = path == "/dev/stdin" || ["/dev/fd/", "/proc/self/fd/"].contains { path.hasPrefix($0) }
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

private func nameOfThisHost() -> String {
  var buffer = [CChar](repeating: 0, count: 256)
  guard gethostname(&buffer, buffer.count - 1) == 0 else { return "" }
  return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
