import ArgumentParser
import CLinux
import Glibc
import SidelockClient
import ProcessSupport
import SystemStrings

/// The command as a whole.
struct Sidelock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sidelock",
    abstract: "Take, list and inspect the locks of this host's sidelock daemon.",
    discussion: """
      The daemon's socket is found by --socket (before or behind the subcommand), $SIDELOCK_SOCKET, \
      $XDG_RUNTIME_DIR/sidelock/sidelock.sock if it exists, and \(SocketPath.system), in this order.

      EXIT STATUS
        0     done (run: that of the command)
        1     the lock was not acquired in time, or is not held
        2     health, doctor: something is bad
        64    wrong usage
        65    the name is in use in another way
        68    Redis cannot be reached or refuses
        69    no daemon listens or answers
        70    the daemon misbehaves
        71    a limit of the daemon is met
        73    too few replicas of Redis have the lease
        74    the output could not be written
        76    the wait would never end: a deadlock
        77    the daemon, or its socket, is closed to this user
        124   run: --max-hold was over
        125   the lock was lost
        126   run: COMMAND could not be executed
        127   run: COMMAND was not found
        128+N run, hold: signal N ended it
        141   nobody reads the output

      EXAMPLES
        sidelock run deploy -- ./deploy.sh
        sidelock list
        sidelock inspect deploy
      """,
    version: sidelockVersion,
    subcommands: [
      RunCommand.self, HoldCommand.self, ListCommand.self, InspectCommand.self, ClientsCommand.self, HostsCommand.self,
      WatchCommand.self, TraceCommand.self, LogCommand.self, TopCommand.self, DashboardCommand.self, BreakCommand.self,
      KillCommand.self, HealthCommand.self, DoctorCommand.self, PingCommand.self, StatsCommand.self,
      ExporterCommand.self, CallCommand.self, BenchCommand.self,
    ])

  /// Runs the subcommand, and ends the process with its status.
  static func runToEnd(_ arguments: [String]) -> Never {
    do {
      try refuseUnknownSubcommand(arguments)
      var command = try parseAsRoot(arguments)
      switch command {
      // It reaps orphans itself (supervise_reap_others).
      case is RunCommand: break
      // They wait only for the children that they have started.
      case is BenchCommand, is HoldCommand, is LogCommand: process_1_stays_behind()
      case _: orphans_bury_themselves()
      }
      try command.run()
      Glibc.exit(0)
    } catch let error as OutputError {
      Descriptor.say(error)
      Glibc.exit(error.exitStatus)
    } catch {
      let status = exitCode(for: error).rawValue
      let text = SystemText.shown(fullMessage(for: error))
      guard !text.isEmpty else { Glibc.exit(status) }
      do throws(OutputError) {
        try Descriptor.write(text + "\n", to: status == 0 ? STDOUT_FILENO : STDERR_FILENO)
      } catch {
        // A failing status stands, whatever became of the message on standard error.
        guard status == 0 else { Glibc.exit(status) }
        Descriptor.say(error)
        Glibc.exit(error.exitStatus)
      }
      Glibc.exit(status)
    }
  }

  /// The parser shows the general help for `nonsense --help`, as if it had understood it.
  static func refuseUnknownSubcommand(_ arguments: [String]) throws {
    let words = arguments.first == "help" ? arguments.dropFirst() : arguments[...]
    guard let name = words.first, !name.hasPrefix("-") else { return }
    let names = configuration.subcommands.compactMap { $0.configuration.commandName } + ["help"]
    guard !names.contains(name) else { return }
    throw ValidationError("There is no subcommand \(name); sidelock --help lists them.")
  }

  /// Moves a `--socket PATH` from before the subcommand to behind its name, where the parser looks for it.
  static func movingSocketOption(_ arguments: [String]) -> [String] {
    var rest = arguments[...]
    var moved: [String] = []
    while let first = rest.first {
      if first == "--socket", rest.count >= 2 {
        moved += rest.prefix(2)
        rest = rest.dropFirst(2)
      } else if first.hasPrefix("--socket=") {
        moved.append(first)
        rest = rest.dropFirst()
      } else {
        break
      }
    }
    return Array(rest.prefix(1)) + moved + Array(rest.dropFirst())
  }
}
