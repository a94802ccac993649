import SystemStrings

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Connecting to a Unix domain socket.
package enum UnixSocket {
  /// How long a daemon may leave a connection unaccepted, unless told otherwise, in milliseconds.
  package static let connectMillisecondsMax: Int64 = 5000

  /// Connects to the stream socket at `path`; the descriptor is blocking and closed on exec. It waits while the
  /// daemon's queue of connections is full, but no longer than `milliseconds`.
  package static func connect(
    path: [UInt8], milliseconds: Int64 = connectMillisecondsMax
  ) throws(SidelockError) -> CInt {
    let shownPath = SystemText.shown(SystemText.text(path))
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    // One byte is the terminating zero.
    guard !path.isEmpty, path.count < capacity, !path.contains(0) else {
      throw SidelockError(
        reason: .noDaemon, message: "the socket path must have 1 to \(capacity - 1) bytes: \(shownPath)")
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path) }

    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else {
      throw SidelockError(reason: .noDaemon, message: "no socket can be made: \(describe(errno))")
    }
    let end = monotonicMilliseconds() + max(1, milliseconds)
    var result: CInt
    repeat {
      // Set anew after a signal, so that signals cannot prolong it.
      setSendTimeout(descriptor, milliseconds: max(1, end - monotonicMilliseconds()))
      result = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
          Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
        }
      }
    } while result != 0 && errno == EINTR && monotonicMilliseconds() < end
    guard result == 0 else {
      let reason = errno == EINTR ? EAGAIN : errno
      close(descriptor)
      throw connectFailure(path: path, error: reason, milliseconds: milliseconds)
    }
    setSendTimeout(descriptor, milliseconds: 0)
    return descriptor
  }

  /// Connects to the stream socket at a path that is UTF-8.
  package static func connect(path: String) throws(SidelockError) -> CInt {
    try connect(path: Array(path.utf8))
  }

  private static func monotonicMilliseconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
  }

  /// Has sends and connects fail with EAGAIN after that time (SO_SNDTIMEO); 0: never.
  package static func setSendTimeout(_ descriptor: CInt, milliseconds: Int64) {
    var time = timeval(tv_sec: Int(milliseconds / 1000), tv_usec: Int(milliseconds % 1000) * 1000)
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
  }

  /// The error for a connect that failed with `error`, with what to do about it.
  static func connectFailure(
    path: [UInt8], error: CInt, milliseconds: Int64 = connectMillisecondsMax
  ) -> SidelockError {
    let shownPath = SystemText.shown(SystemText.text(path))
    switch error {
    case ENOENT, ECONNREFUSED:
      let start =
        shownPath == SocketPath.system
        ? "start it with: systemctl start sidelockd" : "start it with: sidelockd --redis URL --socket \(shownPath)"
      return SidelockError(reason: .noDaemon, message: "no daemon listens at \(shownPath); \(start)")
    case EACCES, EPERM:
      return SidelockError(
        reason: .permission, message: "no permission to connect to \(shownPath)\(advice(path: path))")
    case EAGAIN:
      return SidelockError(
        reason: .noAnswer,
        message: "the daemon at \(shownPath) accepted no connection within \(milliseconds) ms; it may hang")
    case EPROTOTYPE, ENOTSOCK:
      return SidelockError(reason: .noDaemon, message: "\(shownPath) is no stream socket")
    default:
      return SidelockError(reason: .noDaemon, message: "no connection to \(shownPath): \(describe(error))")
    }
  }

  /// What to do about a socket that is closed to this process, as far as it may know.
  private static func advice(path: [UInt8]) -> String {
    var status = stat()
    let found = (path + [0]).withUnsafeBytes { bytes in
      bytes.assumingMemoryBound(to: CChar.self).baseAddress.map { stat($0, &status) } ?? -1
    }
    guard found == 0 else {
      return ": a directory on the way to it is closed to this user"
    }
    return advice(mode: status.st_mode, user: status.st_uid, group: status.st_gid)
  }

  static func advice(mode: mode_t, user: uid_t, group: gid_t) -> String {
    // The group of root may do much more than take locks.
    if group == 0 {
      return """
        : only \(user == 0 ? "root" : "its owner (user id \(user))") may, and the group of root; for others restart the \
        daemon with --socket-group GROUP, or for everybody with --socket-mode 0666
        """
    }
    guard mode & S_IWGRP != 0 else { return ": only its owner may (user id \(user))" }
    let name = groupName(group)
    return ": it is open to the group \(name); join it (sudo usermod -aG \(name) \(Users.ownName)) and log in anew"
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
