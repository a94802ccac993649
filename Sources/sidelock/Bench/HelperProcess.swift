import CLinux
import CSupervise
import Glibc
import SidelockClient
import ProcessSupport

/// A process that lives no longer than this object.
final class HelperProcess {
  private var process: pid_t = 0
  /// The other end is the process's standard output, and nothing else.
  private let lifeline: CInt

  /// Starts the program at `path`. Its standard input is `input`, or the lifeline, which ends with this object.
  init(_ path: String, _ words: [String], input: CInt? = nil) throws(SidelockError) {
    var ends: [CInt] = [0, 0]
    guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
      throw Self.failure("socketpair: \(UnixSocket.describe(errno))")
    }
    lifeline = ends[0]
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, input ?? ends[1], STDIN_FILENO)
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
    let arguments = CStrings(words)
    let result = posix_spawnp(&process, path, &actions, nil, arguments.pointers, process_environment())
    close(ends[1])
    guard result == 0 else { throw Self.failure("\(path): \(UnixSocket.describe(result))") }
  }

  /// Starts this program as `sidelock bench` with these arguments, and waits until it says that it is ready.
  convenience init(bench arguments: [String]) throws(SidelockError) {
    try self.init("/proc/self/exe", ["sidelock", "bench"] + arguments)
    guard try Descriptor.read(lifeline)?.isEmpty == false else { throw Self.failure("it did not start") }
  }

  private static func failure(_ reason: String) -> SidelockError {
    SidelockError(reason: .noDaemon, message: "no helper process: \(reason)")
  }

  /// Sends SIGKILL.
  func kill() {
    Glibc.kill(process, SIGKILL)
  }

  /// Returns when the process runs `program` and sleeps, so that what it does at its start disturbs no measurement.
  func waitUntilAsleep(as program: String) throws(SidelockError) {
    let end = BenchClock.now() + UInt64(BenchClient.answerSecondsMax) * 1_000_000_000
    while BenchClock.now() < end {
      // "PID (NAME) STATE …"
      if let fields = DaemonProbe.read("/proc/\(process)/stat")?.split(separator: " "), fields.count > 2,
        fields[1] == "(\(program))", fields[2] == "S"
      {
        return
      }
      usleep(200)
    }
    throw Self.failure("\(program) does not come to rest")
  }

  /// All that it prints until it ends.
  func output() throws(SidelockError) -> [UInt8] {
    var bytes: [UInt8] = []
    while let more = try Descriptor.read(lifeline), !more.isEmpty { bytes += more }
    return bytes
  }

  /// Returns when the kernel has closed the process' descriptors.
  func waitUntilClosed() throws(SidelockError) {
    while try Descriptor.read(lifeline)?.isEmpty == false {}
  }

  /// Tells the starting process that this one is ready, and returns when that process ends or lets go of it.
  static func serveUntilDismissed() throws(SidelockError) {
    do throws(OutputError) { try Descriptor.print("ready") } catch { return }
    while try Descriptor.read(STDIN_FILENO)?.isEmpty == false {}
  }

  /// Has a server of the benchmark pass over the signals that a terminal or `timeout` sends to all of its processes: the
  /// benchmark's end dismisses the server, which must still remove its socket.
  static func passOverSignals() {
    for number in [SIGINT, SIGTERM, SIGHUP] { signal(number, SIG_IGN) }
  }

  /// Removes the socket of a server that ends, and its directory when it was the last one there.
  static func remove(socket path: String) {
    unlink(path)
    if let end = path.lastIndex(of: "/") { rmdir(String(path[..<end])) }
  }

  deinit {
    close(lifeline)
    // 0 would stand for every child.
    if process > 0 { waitpid(process, nil, 0) }
  }
}

/// A process whose connection holds a lock. It is small, since the kernel frees a process's memory before it closes its
/// sockets.
final class LockHolder {
  private let process: HelperProcess

  init(_ name: String, socket: String) throws(SidelockError) {
    let client = try BenchClient(path: socket)
    try client.exchange(BenchLine.acquire(name))
    // This process's copy is closed at the end of this; the connection lives on in the other process.
    process = try HelperProcess("sleep", ["sleep", "infinity"], input: client.descriptor)
    try process.waitUntilAsleep(as: "sleep")
  }

  /// Sends SIGKILL.
  func kill() {
    process.kill()
  }

  /// Returns when the kernel has closed the process' descriptors.
  func waitUntilClosed() throws(SidelockError) {
    try process.waitUntilClosed()
  }

  deinit {
    process.kill()
  }
}
