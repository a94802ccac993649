import ArgumentParser
import Glibc
import SidelockClient
import SystemStrings

/// The options of every subcommand that talks to the daemon.
struct ConnectionOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      The daemon's socket. Without it: $SIDELOCK_SOCKET, $XDG_RUNTIME_DIR/sidelock/sidelock.sock if it exists, \
      \(SocketPath.system).
      """, valueName: "path"))
  var socket: String?

  /// Where the daemon listens, as ``SystemText`` has it.
  var path: String { SocketPath.find(explicit: socket) }

  func open(within milliseconds: Int64 = DaemonConnection.answerMilliseconds) throws(SidelockError) -> DaemonConnection
  {
    try DaemonConnection(socket: path, within: milliseconds)
  }

  /// The same for somebody who waits for the lock `name`: says so when the daemon accepts no connection for a while; nil:
  /// says nothing.
  func open(within milliseconds: Int64, for name: String?) throws(SidelockError) -> DaemonConnection {
    let first = WaitNews.sayAfterMilliseconds
    guard let name, milliseconds > first else { return try open(within: milliseconds) }
    do throws(SidelockError) {
      return try open(within: first)
    } catch {
      guard error.reason == .noAnswer else { throw error }
      Descriptor.say("waiting for \(name): \(error.message)")
      return try open(within: milliseconds - first)
    }
  }

  /// Runs `body`. Says an error of the daemon or the connection on standard error, and throws the exit status for it.
  func reportingErrors<R>(_ body: () throws -> R) throws -> R {
    do {
      return try body()
    } catch let error as SidelockError {
      Descriptor.say(ErrorWords.text(error))
      sayServiceState(for: error)
      throw ExitCode(ExitStatus.status(of: error))
    }
  }

  /// Says what systemd knows of a daemon that cannot be reached.
  func sayServiceState(for error: SidelockError) {
    guard [.noDaemon, .noAnswer, .connectionLost].contains(error.reason), let words = ServiceState.words(path: path)
    else { return }
    Descriptor.say(words)
  }
}

extension SidelockError {
  /// Sends a request by `body`. When the outcome of a `break` is unknown, the error says that it may still be carried
  /// out.
  static func tellingWhatMayBeDone<R>(_ method: String, _ body: () throws -> R) throws -> R {
    do {
      return try body()
    } catch var error as SidelockError
      where method == "break" && [.noAnswer, .connectionLost, .unavailable].contains(error.reason)
    {
      error.message += "; the lock may be broken all the same, now or later: see sidelock inspect"
      throw error
    }
  }
}

/// A text for the protocol, which is UTF-8: what was given as `what` on the command line.
func protocolText(_ text: String, _ what: String) throws -> String {
  guard let text = SystemText.utf8(text) else { throw ValidationError("\(what) must be UTF-8.") }
  return text
}
