/// Where a daemon listens.
public enum SocketPath {
  /// The system daemon's socket.
  public static let system = "/run/sidelock/sidelock.sock"

  /// The socket to connect to: `explicit`, else `$SIDELOCK_SOCKET`, else `$XDG_RUNTIME_DIR/sidelock/sidelock.sock` if
  /// it exists, else the system daemon's. Empty texts count as not given.
  ///
  /// - Parameters:
  ///   - environment: the value of an environment variable.
  ///   - exists: whether there is anything at a path.
  public static func find(
    explicit: String? = nil, environment: (String) -> String? = processEnvironment,
    exists: (String) -> Bool = pathExists
  ) -> String {
    if let explicit, !explicit.isEmpty { return explicit }
    if let path = environment("SIDELOCK_SOCKET"), !path.isEmpty { return path }
    if let directory = environment("XDG_RUNTIME_DIR"), !directory.isEmpty {
      let path = directory + "/sidelock/sidelock.sock"
      if exists(path) { return path }
    }
    return system
  }

  /// The value of a variable of this process' environment.
  public static func processEnvironment(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }
  }

  /// Whether there is anything at `path`, or this process may not look.
  public static func pathExists(_ path: String) -> Bool {
    access(path, F_OK) == 0 || errno == EACCES
  }
}

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif
