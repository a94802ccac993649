#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Connecting to a Unix domain socket.
package enum UnixSocket {
  /// How long a daemon may leave a connection unaccepted, in seconds.
  static let connectSecondsMax = 5

  /// Connects to the stream socket at `path`; the descriptor is blocking and closed on exec. It waits while the
  /// daemon's queue of connections is full, but no longer than ``connectSecondsMax``.
  package static func connect(path: String) throws(SidelockError) -> CInt {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    let bytes = Array(path.utf8)
    // One byte is the terminating zero.
    guard !bytes.isEmpty, bytes.count < capacity, !bytes.contains(0) else {
      throw SidelockError(
        reason: .noDaemon, message: "the socket path must have 1 to \(capacity - 1) bytes: \(path)")
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }

    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else {
      throw SidelockError(reason: .noDaemon, message: "no socket can be made: \(describe(errno))")
    }
    setSendTimeout(descriptor, seconds: connectSecondsMax)
    var result: CInt
    repeat {
      result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
    } while result != 0 && errno == EINTR
    guard result == 0 else {
      let reason = errno
      close(descriptor)
      throw connectFailure(path: path, error: reason)
    }
    setSendTimeout(descriptor, seconds: 0)
    return descriptor
  }

  private static func setSendTimeout(_ descriptor: CInt, seconds: Int) {
    var time = timeval(tv_sec: seconds, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
  }

  /// The error for a connect that failed with `error`, with what to do about it.
  static func connectFailure(path: String, error: CInt) -> SidelockError {
    switch error {
    case ENOENT, ECONNREFUSED:
      let start =
        path == SocketPath.system
        ? "start it with: systemctl start sidelockd" : "start it with: sidelockd --redis URL --socket \(path)"
      return SidelockError(reason: .noDaemon, message: "no daemon listens at \(path); \(start)")
    case EACCES, EPERM:
      return SidelockError(
        reason: .permission, message: "no permission to connect to \(path)\(groupAdvice(path: path))")
    case EAGAIN:
      return SidelockError(
        reason: .noDaemon,
        message: "the daemon at \(path) accepted no connection within \(connectSecondsMax) s; it may hang")
    case EPROTOTYPE, ENOTSOCK:
      return SidelockError(reason: .noDaemon, message: "\(path) is no stream socket")
    default:
      return SidelockError(reason: .noDaemon, message: "no connection to \(path): \(describe(error))")
    }
  }

  /// Which group may use the socket, as far as this process may know.
  private static func groupAdvice(path: String) -> String {
    var status = stat()
    guard stat(path, &status) == 0 else {
      return ": a directory on the way to it is closed to this user"
    }
    guard status.st_mode & S_IWGRP != 0 else {
      return ": only its owner may (user id \(status.st_uid))"
    }
    let group = groupName(status.st_gid)
    return ": it is open to the group \(group); join it (usermod -aG \(group) USER) and log in anew"
  }

  private static func groupName(_ id: gid_t) -> String {
    var entry = group()
    var found: UnsafeMutablePointer<group>?
    var buffer = [CChar](repeating: 0, count: 16_384)
    guard getgrgid_r(id, &entry, &buffer, buffer.count, &found) == 0, found != nil, let name = entry.gr_name else {
      return "\(id)"
    }
    return String(cString: name)
  }

  /// The system's words for an errno.
  package static func describe(_ error: CInt) -> String {
    var buffer = [CChar](repeating: 0, count: 256)
    strerror_r(error, &buffer, buffer.count)
    return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }
}
