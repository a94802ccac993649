public import AccessPolicy
import Glibc
import ProcessSupport
import SystemStrings

/// Everything that settings are made from, gathered before any of it is judged, so that the judging is a pure function.
///
/// Command line and environment are bytes. Here they stand as `SystemText` has them, so that a path is that of the file
/// which was meant, and a text that is not UTF-8 can be refused.
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

  var message: String {
    switch self {
    case .missing: "there is no such file"
    case .tooLong(let bytesMax): "the file is longer than \(bytesMax) bytes"
    case .failed(let reason): reason
    }
  }
}

/// Reads a whole file of at most `bytesMax` bytes, at a path as `SystemText` has it. Pipes work too, so a shell's `<(…)` can be given for a file.
@Sendable public func readSmallFile(_ path: String, bytesMax: Int) -> Result<[UInt8], FileReadError> {
  let descriptor = SystemText.withCString(path) { open($0, O_RDONLY | O_CLOEXEC | O_NOCTTY) }
  guard descriptor >= 0 else {
    return .failure(errno == ENOENT ? .missing : .failed(String(cString: strerror(errno))))
  }
  defer { close(descriptor) }
  var bytes: [UInt8] = []
  var chunk = [UInt8](repeating: 0, count: 16 * 1024)
  while true {
    let count = read(descriptor, &chunk, chunk.count)
    if count < 0 && errno == EINTR { continue }
    if count < 0 { return .failure(.failed(String(cString: strerror(errno)))) }
    if count == 0 { return .success(bytes) }
    bytes.append(contentsOf: chunk[..<count])
    if bytes.count > bytesMax { return .failure(.tooLong(bytesMax: bytesMax)) }
  }
}

private func nameOfThisHost() -> String {
  var buffer = [CChar](repeating: 0, count: 256)
  guard gethostname(&buffer, buffer.count - 1) == 0 else { return "" }
  return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
