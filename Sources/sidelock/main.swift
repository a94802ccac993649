import ArgumentParser
import SidelockClient

struct Sidelock: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sidelock",
    abstract: "Take, list and inspect the locks of this host's sidelock daemon.",
    discussion: """
      The daemon's socket is found by --socket, $SIDELOCK_SOCKET, $XDG_RUNTIME_DIR/sidelock/sidelock.sock if it \
      exists, and \(SocketPath.system), in this order.

      EXIT STATUS
        0     done (run: that of the command)
        1     the lock was not acquired in time, or is not held
        64    wrong usage
        69    no daemon listens, or it cannot reach Redis
        70    the daemon misbehaves
        77    the daemon refused for lack of a right
        125   the lock was lost

      EXAMPLES
        sidelock run deploy -- ./deploy.sh
        sidelock list
        sidelock inspect deploy
      """,
    version: "0.1.0",
    subcommands: [
      RunCommand.self, ListCommand.self, InspectCommand.self, PingCommand.self, StatsCommand.self, CallCommand.self,
      BenchCommand.self,
    ])
}

Sidelock.main()
