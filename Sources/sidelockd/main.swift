import ArgumentParser
import CLinux
import Glibc
import Logging
import ProcessSupport
import Sidecar
import SidelockSettings
import SystemStrings
import SystemdSupport

/// How the process ends; service managers and scripts tell the cases apart by these.
enum ExitStatus {
  static let stopped: Int32 = 0
  static let failure: Int32 = 1
  // An output that cannot be written ends it as OutputError says.
  /// EX_TEMPFAIL: another daemon has the socket. Trying again can help once that one has stopped.
  static let socketInUse: Int32 = 75
  /// EX_TEMPFAIL: another daemon has the file of the tokens.
  static let tokensInUse: Int32 = 75
  /// EX_TEMPFAIL: the users and groups of this host cannot be looked up. Trying again can help.
  static let accountsUnknown: Int32 = 75
  /// EX_TEMPFAIL: the daemon cannot begin, and what clients have is left to one that can, when the mistake is mended.
  static let leftToTheNext: Int32 = 75
  /// EX_CONFIG: the command line, the environment or the file is wrong, or the limit of open files, or the file of the
  /// tokens. Trying again cannot help.
  static let settings: Int32 = 78
}

struct Options: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sidelockd",
    abstract: "Locks for the processes of this host, shared with other hosts through Redis.",
    usage: "sidelockd (--redis URL | --local) [--socket PATH] [--config FILE] [--check] [OPTION…]",
    discussion: """
      Every option but --check is also an environment variable (--lease-ms is SIDELOCK_LEASE_MS) and, but for \
      --config, a key in the YAML file (lease_ms). An option wins over the environment, the environment over the \
      file, the file over the default.

      SIGTERM and SIGINT stop the daemon: it gives up every lock in Redis, tells its clients, and ends. A second one \
      ends it at once, unless it comes within half a second of the first. Where a service manager keeps clients and \
      locks for the daemon that follows (see FileDescriptorStoreMax= in its unit), they leave both to that one, and \
      \(SignalOrder.stopName) stops the daemon. \(SignalOrder.handOverName) leaves clients and locks to the one that follows, and does nothing where \
      nobody keeps them. SIGHUP reads the settings again: those of clients and logging change at once, the others at \
      the next restart; wrong ones change nothing. The file must be a regular one, but at the start /dev/stdin and a shell's \
      <(…) will do.

      Exit status: 0 stopped, 1 failure, 74 the output of --check, --help or --version cannot be written, 75 another \
      daemon has the socket or the file of the tokens, or users and groups cannot be looked up, or it cannot begin and what clients hold is left to \
      the next attempt, 78 the settings are wrong, the limit of open files is too low, or the file of the tokens is damaged, 141 nobody reads the output.
      """,
    version: sidelockVersion)

  @OptionGroup var settings: SidelockdArguments
}

/// The daemon cannot begin: the clients of the one before are left to the next attempt while they have lost nothing.
/// Otherwise they are disconnected, and clients that wait to be accepted are told.
///
/// - Returns: the exit status, by which a service manager tries again or not.
func giveUp(_ handedOver: HandedOver, because reason: String) -> Int32 {
  if handedOver.left.isOfUse {
    complain("sidelockd: what clients hold is left to the next attempt")
    return ExitStatus.leftToTheNext
  }
  handedOver.left.disconnect()
  if let listener = try? handedOver.listener() { refuseWaitingClients(on: listener, because: reason) }
  return ExitStatus.settings
}

/// Command line problems end in the same status as other wrong settings; asking for help or the version is none.
func parseOptions() -> Options {
  let arguments = ProcessTexts.arguments
  do {
    // The completions of the shells offer it.
    return try Options.parse(arguments == ["help"] ? ["--help"] : arguments)
  } catch {
    let text = SystemText.shown(Options.fullMessage(for: error))
    guard Options.exitCode(for: error).isSuccess else {
      complain(withoutValues(text, of: arguments))
      exit(giveUp(.taken(), because: "its command line is wrong, and its log says how"))
    }
    exit(printResult(text) ?? ExitStatus.stopped)
  }
}

/// The message about a command line, without the values behind `=`: one may be a password.
func withoutValues(_ message: String, of arguments: [String]) -> String {
  arguments.reduce(message) { text, argument in
    guard argument.hasPrefix("--"), let end = argument.firstIndex(of: "=") else { return text }
    let value = SystemText.shown(String(argument[argument.index(after: end)...]))
    return value.isEmpty
      ? text : text.split(separator: "'\(value)'", omittingEmptySubsequences: false).joined(separator: "'***'")
  }
}

/// Writes what was asked for to standard output.
///
/// - Returns: the exit status for an output that could not be written, which is said; nil when it was.
func printResult(_ text: String) -> Int32? {
  do throws(OutputError) {
    // What stands in the place of a closed stream takes everything.
    guard closedStreams & 1 << STDOUT_FILENO == 0 else { throw OutputError(code: EBADF) }
    try Output.write(text.hasSuffix("\n") ? text : text + "\n", to: STDOUT_FILENO)
    return nil
  } catch {
    if let words = error.words { complain("sidelockd: \(words)") }
    return error.exitStatus
  }
}

/// Writes to standard error. If that fails there is nobody left to tell; the exit status still says what happened.
func complain(_ text: String) {
  try? Output.write(text.hasSuffix("\n") ? text : text + "\n", to: STDERR_FILENO)
}

/// Says what is wrong with the settings: lines for people, or in the journal a message each.
func report(_ resolution: SettingsResolution) {
  guard LogOutput.isJournal else {
    return complain(resolution.problemLines.joined(separator: "\n"))
  }
  let output = LogOutput()
  let logger = Logger(label: "sidelockd") { _ in SidelockLogHandler(output: output) }
  for problem in resolution.problems {
    logger.critical(
      "settings are wrong", metadata: ["setting": "\(problem.setting ?? "")", "problem": "\(problem.description)"])
  }
  output.flush(withinMilliseconds: 1000)
}

/// Reports wrong settings, also to the clients that they concern.
///
/// - Returns: the exit status.
func refuseToStart(_ resolution: SettingsResolution, _ handedOver: HandedOver) -> Int32 {
  report(resolution)
  guard resolution.mayPass else {
    return giveUp(handedOver, because: "its settings are wrong, and its log says how")
  }
  handedOver.left.disconnectUnlessOfUse()
  return ExitStatus.accountsUnknown
}

/// Reports that the limit of open files is too low, also to the clients that it concerns.
///
/// - Returns: the exit status.
func refuseToStart(_ shortage: DescriptorShortage, _ handedOver: HandedOver) -> Int32 {
  let output = LogOutput()
  Logger(label: "sidelockd") { _ in SidelockLogHandler(output: output) }.critical(
    "the limit of open files is too low to serve with",
    metadata: [
      "limit": "\(shortage.limit)", "needed": "\(shortage.needed)",
      "help": "raise LimitNOFILE= of the service, or the hard limit of who starts it (ulimit -Hn)",
    ])
  output.flush(withinMilliseconds: 1000)
  return giveUp(
    handedOver, because: "its limit of open files is \(shortage.limit), and it needs \(shortage.needed)")
}

// Before anything is opened, and before anything can go wrong.
/// A bit for each of the standard streams that the daemon was started without.
let closedStreams = standard_descriptors_open(0)
guard closedStreams >= 0 else { _exit(ExitStatus.failure) }
crashes_end_at_once(1)
file_size_limit_is_an_error()
aborts_tell_work()
process_1_ends_by_signals()
orphans_bury_themselves()

let options = parseOptions()
let inputs = SettingsInputs.ofProcess(options.settings)
let resolution = SettingsResolution(inputs)

if options.settings.check {
  let failure = printResult(isatty(STDOUT_FILENO) == 1 ? resolution.table : resolution.json)
  if resolution.settings == nil, isatty(STDOUT_FILENO) != 1 { report(resolution) }
  exit(resolution.settings == nil ? ExitStatus.settings : failure ?? ExitStatus.stopped)
}

let handedOver = HandedOver.taken()
if let settings = SettingsInForce(resolution) {
  exit(runDaemon(settings, found: resolution, inputs: inputs, handedOver: handedOver))
}
// A restart with a mistake in the file must not cost every lock of the host.
if let settings = handedOver.left.settings.flatMap({ SettingsInForce(encoded: $0) }) {
  exit(runDaemon(settings, found: resolution, inputs: inputs, handedOver: handedOver))
}
exit(refuseToStart(resolution, handedOver))
