import CLimitServer
import Glibc
import ProcessSupport
import SidelockClient

/// The yardstick for the daemon's own work: a server that answers the benchmark's lines as the daemon would, and does
/// nothing else.
enum LimitServer {
  /// Where its clients have one lock in common.
  static func pathOfOne(_ path: String) -> String { path + ".one" }

  /// Serves at `path` and ``pathOfOne(_:)`` until it is dismissed, and removes the sockets and their directory then.
  static func serve(path: String) throws(SidelockError) {
    HelperProcess.passOverSignals()
    let paths = [path, pathOfOne(path)]
    let listeners = paths.map { limit_server_listen($0) }
    defer { for path in paths { HelperProcess.remove(socket: path) } }
    guard listeners.allSatisfy({ $0 >= 0 }) else { throw failure() }
    do throws(OutputError) { try Descriptor.print("ready") } catch { return }
    guard limit_server_run(listeners[0], listeners[1], STDIN_FILENO) == 0 else { throw failure() }
  }

  private static func failure() -> SidelockError {
    SidelockError(reason: .noDaemon, message: "the limit server: \(UnixSocket.describe(errno))")
  }
}
