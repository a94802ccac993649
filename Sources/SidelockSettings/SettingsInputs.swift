public import AccessPolicy
import Glibc
public import ProcessSupport
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
  /// Whether every user of the host may read a file.
  public var isReadableByAll: @Sendable (_ path: String) -> Bool = ProcessSupport.isReadableByAll
  /// Why a program is not to be run; nil: it may be.
  public var refusalOfProgram: @Sendable (_ path: String) -> String? = HelperProgram.refusal
  /// The time, in seconds since 1970.
  public var now: Int = time(nil)

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

private func nameOfThisHost() -> String {
  var buffer = [CChar](repeating: 0, count: 256)
  guard gethostname(&buffer, buffer.count - 1) == 0 else { return "" }
  return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
}
