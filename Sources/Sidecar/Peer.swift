import CLinux
import Glibc
import NIOCore

/// The process that opened a connection, as the kernel knew it at that moment.
struct Peer: Sendable {
  let pid: pid_t
  let uid: uid_t

  /// The process at the other end of a connected Unix socket.
  init?(socket: CInt) {
    var credentials = peer_credentials()
    var length = socklen_t(MemoryLayout<peer_credentials>.size)
    guard getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 else { return nil }
    self.init(credentials)
  }

  /// The process at the other end of a client's channel.
  init?(channel: any Channel) {
    guard let provider = channel as? any SocketOptionProvider else { return nil }
    var found: peer_credentials?
    // On the channel's own loop, so the future is complete when it is returned.
    provider.unsafeGetSocketOption(level: SocketOptionLevel(SOL_SOCKET), name: SocketOptionName(SO_PEERCRED))
      .assumeIsolated().whenSuccess { (credentials: peer_credentials) in found = credentials }
    guard let found else { return nil }
    self.init(found)
  }

  private init(_ credentials: peer_credentials) {
    pid = credentials.pid
    uid = credentials.uid
  }

  /// What the process runs, its arguments with spaces between them; nil when it has ended or may not be looked at.
  var command: String? {
    guard let bytes = Self.read("/proc/\(pid)/cmdline"), !bytes.isEmpty else { return nil }
    return String(decoding: bytes.split(separator: 0).joined(separator: [UInt8(ascii: " ")]).map(\.self), as: UTF8.self)
  }

  /// The systemd unit that the process belongs to, from its control group.
  var unit: String? {
    guard let bytes = Self.read("/proc/\(pid)/cgroup") else { return nil }
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n").reversed() {
      for part in line.split(separator: "/").reversed() where part.hasSuffix(".service") || part.hasSuffix(".scope") {
        return String(part)
      }
    }
    return nil
  }

  /// A process in words, for a message.
  static func describe(pid: pid_t) -> String {
    guard let bytes = read("/proc/\(pid)/comm") else { return "process \(pid)" }
    let name = String(decoding: bytes.prefix { $0 != 0x0A }, as: UTF8.self)
    return "process \(pid) (\(name))"
  }

  private static func read(_ path: String) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { Glibc.close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: 4096)
    let count = Glibc.read(descriptor, &bytes, bytes.count)
    return count < 0 ? nil : Array(bytes.prefix(count))
  }
}
