import CLinux
import CSupervise
import Glibc

/// What another program writes to its standard output, within a time.
enum ProgramOutput {
  private static let bytesMax = 1 << 20

  /// Runs a program and gives all that it has written; nil where it cannot be started or has not ended its output in time.
  ///
  /// - Parameters:
  ///   - program: its path, or its name to be looked up in PATH.
  ///   - arguments: what it is told of itself, first of all its name.
  ///   - environment: its variables as NAME=VALUE; nil: those of this process.
  ///   - directory: where it runs; nil: where this process does.
  static func of(
    _ program: String, _ arguments: [String], environment: [String]? = nil, directory: String? = nil,
    milliseconds: Int64
  ) -> [UInt8]? {
    var ends: [CInt] = [-1, -1]
    guard pipe(&ends) == 0 else { return nil }
    defer { close(ends[0]) }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    let process = CleanSpawn.start(program, arguments, environment: environment) { actions, _ in
      posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
      posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
      if let directory { _ = spawn_in_directory(&actions, directory) }
    }
    close(ends[1])
    guard let process else { return nil }
    let answer = readAll(ends[0], until: supervise_boot_milliseconds() + milliseconds)
    kill(process, SIGKILL)
    waitpid(process, nil, 0)
    return answer
  }

  /// Everything up to the end of input; nil when the end does not come in time.
  private static func readAll(_ descriptor: CInt, until end: Int64) -> [UInt8]? {
    var bytes: [UInt8] = []
    while bytes.count < bytesMax {
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      let left = end - supervise_boot_milliseconds()
      guard left > 0, poll(&entry, 1, CInt(min(left, 1 << 30))) > 0, let more = try? Descriptor.read(descriptor) else {
        return nil
      }
      if more.isEmpty { return bytes }
      bytes += more
    }
    return nil
  }
}
