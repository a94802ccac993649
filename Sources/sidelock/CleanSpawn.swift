import CLinux
import Glibc

/// Starts other programs with an empty standard input and no signal blocked: `run`, and whatever waits by signalfd, blocks
/// some that a program may want.
enum CleanSpawn {
  /// The process; nil where it cannot be started.
  ///
  /// - Parameters:
  ///   - program: its path, or its name to be looked up in PATH.
  ///   - arguments: what it is told of itself, first of all its name.
  ///   - environment: its variables as NAME=VALUE; nil: those of this process.
  ///   - flags: of `posix_spawnattr_setflags`, beside that for the signals.
  ///   - prepare: adds what else is to be done, and the attributes that `flags` names.
  static func start(
    _ program: String, _ arguments: [String], environment: [String]? = nil, flags: Int32 = 0,
    prepare: (inout posix_spawn_file_actions_t, inout posix_spawnattr_t) -> Void
  ) -> pid_t? {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(Int32(POSIX_SPAWN_SETSIGMASK) | flags))
    prepare(&actions, &attributes)
    let words = CStrings(arguments)
    let variables = environment.map(CStrings.init)
    var process: pid_t = 0
    let result = posix_spawnp(
      &process, program, &actions, &attributes, words.pointers, variables?.pointers ?? process_environment())
    return result == 0 ? process : nil
  }
}
