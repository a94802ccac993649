import CLinux
import CSupervise
import Glibc
import SidelockClient

/// What systemd knows of the daemon's service, for somebody who cannot reach the daemon.
enum ServiceState {
  static let unit = "sidelockd.service"
  /// How long systemd may take to answer, in milliseconds.
  static let answerMilliseconds: Int64 = 1000

  /// A sentence about the service; nil where there is no systemd, where it does not know the service, or where the
  /// service has nothing to do with the socket at `path`.
  static func words(path: String) -> String? {
    guard let answer = ask() else { return nil }
    return words(answer, isSystemSocket: path == SocketPath.system)
  }

  /// The sentence for what `systemctl show` printed.
  static func words(_ answer: String, isSystemSocket: Bool) -> String? {
    var properties: [Substring: Substring] = [:]
    for line in answer.split(separator: "\n") {
      guard let end = line.firstIndex(of: "=") else { continue }
      properties[line[..<end]] = line[line.index(after: end)...]
    }
    guard properties["LoadState"] == "loaded", let state = properties["ActiveState"] else { return nil }
    let isAtWork = state == "active"
    // A service that runs, or is inactive, says nothing about a daemon at another socket.
    if !isSystemSocket, isAtWork || state == "inactive" { return nil }
    var detail = properties["SubState"].map(String.init) ?? ""
    if detail == state { detail = "" }
    if !isAtWork, let status = properties["ExecMainStatus"], status != "0", !status.isEmpty {
      // 1: it ended by itself; else a signal ended it.
      detail = ["1", "0", nil].contains(properties["ExecMainCode"]) ? "exit \(status)" : "signal \(status)"
    }
    if let result = properties["Result"], !["success", "exit-code", "signal", "core-dump", ""].contains(result) {
      detail += detail.isEmpty ? result : ", \(result)"
    }
    let more = detail.isEmpty ? "" : " (\(detail))"
    let words = "\(unit) is \(state)\(more): see systemctl status sidelockd"
    // The status of sidelockd for settings that are wrong.
    guard !isAtWork, detail.hasPrefix("exit 78") else { return words }
    return words + "; what is wrong in its settings tells: sidelockd --config /etc/sidelock/sidelockd.yaml --check"
  }

  /// What systemctl says within its time.
  private static func ask() -> String? {
    var ends: [CInt] = [-1, -1]
    guard pipe(&ends) == 0 else { return nil }
    defer { close(ends[0]) }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
    // `run` blocks signals that systemctl may want.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    let arguments = CStrings([
      "systemctl", "show", unit, "--property=LoadState,ActiveState,SubState,Result,ExecMainCode,ExecMainStatus",
    ])
    var process: pid_t = 0
    let result = posix_spawnp(
      &process, "systemctl", &actions, &attributes, arguments.pointers, process_environment())
    close(ends[1])
    guard result == 0 else { return nil }
    let answer = readAll(ends[0], until: supervise_boot_milliseconds() + answerMilliseconds)
    kill(process, SIGKILL)
    waitpid(process, nil, 0)
    return answer
  }

  /// Everything up to the end of input; nil when the end does not come in time.
  private static func readAll(_ descriptor: CInt, until end: Int64) -> String? {
    var bytes: [UInt8] = []
    while bytes.count < 1 << 16 {
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      let left = end - supervise_boot_milliseconds()
      guard left > 0, poll(&entry, 1, CInt(left)) > 0, let more = try? Descriptor.read(descriptor) else { return nil }
      if more.isEmpty { return String(decoding: bytes, as: UTF8.self) }
      bytes += more
    }
    return nil
  }
}
