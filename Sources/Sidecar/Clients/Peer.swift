import AccessPolicy
import CLinux
import Glibc
import NIOCore

/// The process that opened a connection, as the kernel knew it at that moment.
struct Peer: Sendable {
  /// Its pid; 0 for a process that the daemon cannot see, because it is in another pid namespace (a container's, say).
  let pid: pid_t
  let uid: uid_t
  let gid: gid_t

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

  init(pid: pid_t, uid: uid_t, gid: gid_t) {
    self.pid = pid
    self.uid = uid
    self.gid = gid
  }

  private init(_ credentials: peer_credentials) {
    pid = credentials.pid
    uid = credentials.uid
    gid = credentials.gid
  }

  /// Whether the process can be looked at, and be sent signals, as far as rights allow it.
  var isVisible: Bool { pid > 0 }

  /// Its pid, for people and the journal.
  var pidText: String { isVisible ? "\(pid)" : "unknown" }

  /// Why nothing is known of a process that is not visible, in words.
  static let invisible = "sidelockd cannot see the process of this client: it is in another pid namespace"

  /// Its own group and its supplementary ones, as they were when it connected; nil when the kernel does not tell.
  func groups(channel: any Channel) -> [UInt32]? {
    channel.withDescriptor { socket in
      var groups = [gid_t](repeating: 0, count: 64)
      while true {
        let count = Int(peer_groups(socket, &groups, Int32(groups.count)))
        if count < 0 { return nil }
        if count <= groups.count { return [gid] + groups.prefix(count) }
        groups = [gid_t](repeating: 0, count: count)
      }
    }
  }

  /// The systemd unit of a process. It reads from /proc, so it is never called on the event loop.
  ///
  /// - Parameter handle: the process. What was read counts only if it has not ended since: its pid may be another's by
  ///   then.
  func readUnit(_ handle: ProcessHandle?) -> PeerUnit {
    guard let handle, isVisible, let bytes = Self.readAll("/proc/\(pid)/cgroup"), !handle.hasEnded else {
      return .unknown(.unreadable)
    }
    return ControlGroup.unit(in: bytes)
  }

  /// Whether this process sees others in /proc.
  static var seesOthers: Bool { access("/proc/1/cgroup", R_OK) == 0 }

  /// What /proc says of a process, for people to read.
  struct Description: Sendable {
    /// What it runs, with its arguments; nil when it has ended or may not be looked at.
    var command: String?
    /// The systemd unit that it belongs to, from its control group.
    var unit: String?
  }

  /// Reads the description. It can block for as long as the process is stuck in the kernel with its memory map locked,
  /// so it is never called on the event loop.
  func readDescription() -> Description {
    var description = Description(command: name, unit: nil)
    guard isVisible else { return description }
    if let bytes = Self.read("/proc/\(pid)/cmdline"), !bytes.isEmpty {
      let words = String(decoding: Array(bytes.split(separator: 0).joined(separator: [0x20])), as: UTF8.self)
      if !words.isEmpty { description.command = words }
    }
    description.unit = Self.readAll("/proc/\(pid)/cgroup").flatMap { ControlGroup.innermostUnit(in: $0) }
    return description
  }

  /// The name of the program; it is read without waiting for anything.
  var name: String? { isVisible ? Self.name(of: pid) : nil }

  private static func name(of pid: pid_t) -> String? {
    let name = read("/proc/\(pid)/comm").map { String(decoding: $0.prefix { $0 != 0x0A }, as: UTF8.self) }
    // A process may have emptied its name.
    return name.flatMap { $0.isEmpty ? nil : $0 }
  }

  /// A process in words, for a message.
  static func describe(pid: pid_t) -> String {
    guard pid > 0 else { return "a process in another pid namespace, such as a container's" }
    return name(of: pid).map { "process \(pid) (\($0))" } ?? "process \(pid)"
  }

  /// A whole file of /proc; nil when it cannot be read, or is longer than any of them should be.
  private static func readAll(_ path: String) -> [UInt8]? {
    let bytesMax = 256 * 1024
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { Glibc.close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while bytes.count <= bytesMax {
      let count = Glibc.read(descriptor, &chunk, chunk.count)
      if count == 0 { return bytes }
      if count < 0, errno != EINTR { return nil }
      bytes += chunk.prefix(max(0, count))
    }
    return nil
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

extension Peer? {
  /// The pid, for people and the journal.
  var pidText: String { self?.pidText ?? "unknown" }
}

extension Channel {
  /// Calls `body` with the socket of a channel, on its loop; nil when it has none.
  func withDescriptor<Result>(_ body: (CInt) -> Result?) -> Result? {
    let found = try? pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { body($0) }
    return found ?? nil
  }
}
