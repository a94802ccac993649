import SystemStrings

/// Where a daemon listens.
public enum SocketPath {
  /// The system daemon's socket.
  public static let system = "/run/sidelock/sidelock.sock"

  /// The socket to connect to: `explicit`, else `$SIDELOCK_SOCKET`, else `$XDG_RUNTIME_DIR/sidelock/sidelock.sock` if
  /// it exists, else the system daemon's. Empty texts count as not given. Each byte of the environment that is not
  /// UTF-8 becomes a character from U+10FF00 on; connecting turns it back.
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
    getenv(name).map { SystemText.text(cString: $0) }
  }

  /// Whether there is anything at `path`, or this process may not look.
  public static func pathExists(_ path: String) -> Bool {
    (SystemText.bytes(path) + [0]).withUnsafeBytes { bytes in
      guard let start = bytes.assumingMemoryBound(to: CChar.self).baseAddress else { return false }
      return access(start, F_OK) == 0 || errno == EACCES
    }
  }

  /// The bytes of the path to connect to: those of `explicit`, else what ``find(explicit:environment:exists:)`` finds.
  package static func bytes(explicit: String?) -> [UInt8] {
    if let explicit, !explicit.isEmpty { return Array(explicit.utf8) }
    return SystemText.bytes(find())
  }
}

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif
