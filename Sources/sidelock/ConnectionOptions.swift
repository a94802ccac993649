import ArgumentParser
import Glibc
import SidelockClient

/// The options of every subcommand that talks to the daemon.
struct ConnectionOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The daemon's socket. Without it: $SIDELOCK_SOCKET, $XDG_RUNTIME_DIR/sidelock/sidelock.sock if it exists, \
      \(SocketPath.system).
      """, valueName: "path"))
  var socket: String?

  func open() throws(SidelockError) -> DaemonConnection {
    try DaemonConnection(socket: socket)
  }
}

/// Runs `body`; an error of the daemon or of the connection is said on standard error and ends the process with the
/// status that stands for it.
func reportingErrors<R>(_ body: () throws -> R) throws -> R {
  do {
    return try body()
  } catch let error as SidelockError {
    Descriptor.say("\(error)")
    throw ExitCode(ExitStatus.status(of: error))
  }
}
