import CSupervise
import Glibc
import SidelockClient

/// This program once more, as a process of its own that lives as long as this object does.
final class HelperProcess {
  private var process: pid_t = 0
  private let lifeline: CInt

  /// Starts `sidelock bench` with these arguments, and waits until it says that it is ready.
  init(_ arguments: [String]) throws(SidelockError) {
    var ends: [CInt] = [0, 0]
    guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw Self.failure("socketpair: \(UnixSocket.describe(errno))")
    }
    lifeline = ends[0]
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
    var words: [UnsafeMutablePointer<CChar>?] = (["sidelock", "bench"] + arguments).map { strdup($0) }
    words.append(nil)
    defer { for word in words { free(word) } }
    let result = posix_spawn(&process, "/proc/self/exe", &actions, nil, words, supervise_environment())
    close(ends[1])
    guard result == 0 else { throw Self.failure("posix_spawn: \(UnixSocket.describe(result))") }
    guard try Descriptor.read(lifeline)?.isEmpty == false else { throw Self.failure("it did not start") }
  }

  private static func failure(_ reason: String) -> SidelockError {
    SidelockError(reason: .noDaemon, message: "no helper process: \(reason)")
  }

  /// Sends SIGKILL.
  func kill() {
    Glibc.kill(process, SIGKILL)
  }

  /// Tells the starting process that this one is ready, and returns when that process ends or lets go of it.
  static func serveUntilDismissed() throws(SidelockError) {
    Descriptor.print("ready")
    while try Descriptor.read(STDIN_FILENO)?.isEmpty == false {}
  }

  deinit {
    // Its standard input ends, and so does it.
    close(lifeline)
    waitpid(process, nil, 0)
  }
}

/// A process that holds a lock until it is killed.
enum LockHolder {
  static func hold(_ name: String, socket: String) throws(SidelockError) {
    signal(SIGINT, SIG_IGN)
    let client = try BenchClient(path: socket)
    try client.exchange(BenchLine.acquire(name))
    try HelperProcess.serveUntilDismissed()
  }
}
