import ClientProtocol
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import SystemStrings

/// Another daemon serves on the socket.
public struct SocketInUse: Error, CustomStringConvertible {
  /// The socket's path, as `SystemText` has it.
  public let path: String
  /// Who has it, in words.
  public let owner: String

  /// What happened and what to do.
  public var description: String {
    "\(SystemText.shown(path)) is in use by \(owner); stop that one first, or choose another path with --socket"
  }
}

/// The socket cannot be made.
public struct SocketUnavailable: Error, CustomStringConvertible {
  /// What happened and what to do.
  public let description: String
}

/// A Unix socket that is bound, and the claim on its path; or one that the service manager handed over.
///
/// The claim is a `flock` on `<path>.lock`, which ends with the process: of two daemons that start at once only one
/// gets the path, and a socket file that a crash left behind is known to be nobody's.
struct ListeningSocket: Sendable {
  /// Connections that the kernel keeps until they are accepted.
  static let backlog: Int32 = 4096

  /// As `SystemText` has it.
  let path: String
  /// The socket. It listens already: clients that connect before the daemon serves wait for it.
  let descriptor: CInt
  /// The descriptor of the claim; nil for a socket that the service manager made.
  private let claim: CInt?
  private let device: UInt64
  private let inode: UInt64
  /// Whether nobody but root may connect.
  let isForRootAlone: Bool

  /// Claims `path`, replaces what an ended daemon left there, and binds.
  ///
  /// - Parameter group: the socket's group, by name or number; empty: that of the daemon.
  init(path: String, mode: UInt32, group: String = "") throws {
    guard let address = sockaddr_un(path: path) else {
      let (count, room) = (SystemText.bytes(path).count, sockaddr_un.pathBytesMax)
      throw SocketUnavailable(
        description: "the socket path has \(count) bytes and may have \(room); choose a shorter one")
    }
    // First, so that a mistyped path leaves nothing behind.
    try Self.refuseOtherFile(path)
    let madeDirectory = try Self.makeDirectory(of: path)
    do {
      let (claim, isNew) = try Self.claim(path)
      do {
        try Self.removeStale(path, address)
        descriptor = try Self.bind(path, address, mode: mode, group: group)
      } catch {
        // While the lock is ours nobody else relies on its file.
        if isNew { SystemText.withCString(path + ".lock") { _ = unlink($0) } }
        Glibc.close(claim)
        throw error
      }
      self.claim = claim
    } catch {
      if let madeDirectory { SystemText.withCString(madeDirectory) { _ = rmdir($0) } }
      throw error
    }
    self.path = path
    let status = Self.status(of: path) ?? stat()
    device = UInt64(status.st_dev)
    inode = UInt64(status.st_ino)
    isForRootAlone = status.st_uid == 0 && status.st_gid == 0 && status.st_mode & S_IWOTH == 0
  }

  /// Takes over a socket that listens already. It outlives the daemon, and so does its file.
  init(handedOver descriptor: CInt) {
    var address = sockaddr_un()
    var length = socklen_t(MemoryLayout<sockaddr_un>.size)
    _ = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
    }
    path = withUnsafeBytes(of: &address.sun_path) { SystemText.text($0.prefix { $0 != 0 }.map { $0 }) }
    self.descriptor = descriptor
    claim = nil
    device = 0
    inode = 0
    isForRootAlone = false
  }

  /// Removes the socket file, unless the service manager made it or somebody has put another one in its place.
  func remove() {
    guard let claim else { return }
    if let status = Self.status(of: path), UInt64(status.st_dev) == device, UInt64(status.st_ino) == inode {
      SystemText.withCString(path) { _ = unlink($0) }
    }
    Glibc.close(claim)
  }

  /// Refuses a path at which something other than a socket stands: it is probably mistyped.
  private static func refuseOtherFile(_ path: String) throws {
    let shown = SystemText.shown(path)
    guard path.utf8.last != UInt8(ascii: "/") else {
      throw SocketUnavailable(description: "\(shown) names a directory; give --socket the path of a file in it")
    }
    guard let status = status(of: path), status.st_mode & S_IFMT != S_IFSOCK else { return }
    let (kind, remedy) =
      switch status.st_mode & S_IFMT {
      case S_IFREG: ("a regular file", "move that file away if nothing needs it")
      case S_IFDIR: ("a directory", "give the path of a file in it")
      case S_IFLNK: ("a symbolic link", "give the path of the socket itself, or remove the link")
      case S_IFIFO: ("a named pipe", "remove it if nothing needs it")
      default: ("a device", "choose a path that is free")
      }
    throw SocketUnavailable(
      description: "\(shown) is \(kind) and not a socket, and is left as it is; choose another --socket, or \(remedy)")
  }

  /// Makes the directory if it is missing, but not its parents: a mistyped path should not grow a tree. Returns what it
  /// made.
  private static func makeDirectory(of path: String) throws -> String? {
    guard let directory = directory(of: path) else { return nil }
    if SystemText.withCString(directory, { mkdir($0, 0o755) }) == 0 { return directory }
    // Some file systems check the right to write before they see that the directory exists.
    let failure = errno
    var status = stat()
    if SystemText.withCString(directory, { stat($0, &status) }) == 0 {
      guard status.st_mode & S_IFMT == S_IFDIR else {
        throw SocketUnavailable(
          description: "\(SystemText.shown(directory)) is not a directory; choose another --socket")
      }
      return nil
    }
    errno = failure
    let reason = failure == EEXIST ? "a symbolic link leads nowhere" : errorText()
    throw SocketUnavailable(
      description: "cannot make the directory \(SystemText.shown(directory)): \(reason); make it, or choose "
        + "another --socket")
  }

  /// The directory of a path; nil for the working directory and the root.
  private static func directory(of path: String) -> String? {
    // By bytes: a slash with a combining accent behind it is another Character.
    guard let slash = path.utf8.lastIndex(of: UInt8(ascii: "/")), slash != path.startIndex else { return nil }
    return String(path[..<slash])
  }

  /// What there is at a path; nil for nothing.
  private static func status(of path: String) -> stat? {
    var status = stat()
    return SystemText.withCString(path) { lstat($0, &status) } == 0 ? status : nil
  }

  /// Takes the lock; tells whether its file is new.
  private static func claim(_ path: String) throws -> (CInt, isNew: Bool) {
    let lockPath = path + ".lock"
    while true {
      let (descriptor, isNew) = try openLock(lockPath, of: path)
      guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
        let failure = errno
        Glibc.close(descriptor)
        guard failure == EWOULDBLOCK else {
          errno = failure
          throw SocketUnavailable(
            description: "cannot lock \(SystemText.shown(lockPath)): \(errorText()); choose another --socket")
        }
        throw SocketInUse(path: path, owner: listener(at: path) ?? "another daemon")
      }
      // A daemon that failed to start may have removed the file between the two calls: then this lock guards nothing.
      var opened = stat()
      guard fstat(descriptor, &opened) == 0, let status = status(of: lockPath), status.st_ino == opened.st_ino,
        status.st_dev == opened.st_dev
      else {
        Glibc.close(descriptor)
        continue
      }
      ftruncate(descriptor, 0)
      let pid = Array("\(getpid())\n".utf8)
      pwrite(descriptor, pid, pid.count, 0)
      return (descriptor, isNew)
    }
  }

  private static func openLock(_ lockPath: String, of path: String) throws -> (CInt, isNew: Bool) {
    let flags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK
    var descriptor = SystemText.withCString(lockPath) { open($0, flags | O_EXCL, 0o600) }
    let isNew = descriptor >= 0
    if !isNew, errno == EEXIST { descriptor = SystemText.withCString(lockPath) { open($0, flags, 0o600) } }
    guard descriptor >= 0 else {
      let failure = errno
      // If its lock is closed to us, its socket may still be open.
      if failure == EACCES, let owner = listener(at: path) { throw SocketInUse(path: path, owner: owner) }
      let remedy =
        switch failure {
        case EACCES, EPERM, EROFS:
          status(of: lockPath).flatMap { strangersRemedy($0, "the daemon that uses it") }
            ?? "the directory of the socket must be writable for this user"
        case ENOENT: "no file can be made in that directory"
        default: "it must be a file of its own"
        }
      errno = failure
      throw SocketUnavailable(
        description: "cannot open \(SystemText.shown(lockPath)): \(errorText()); \(remedy), or choose another --socket")
    }
    return (descriptor, isNew)
  }

  /// Who listens at a path, in words, by SO_PEERCRED: a pid in the lock's file could be of another pid namespace.
  private static func listener(at path: String) -> String? {
    guard let address = sockaddr_un(path: path) else { return nil }
    let probe = socket(
      AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    defer { Glibc.close(probe) }
    guard withAddress(address, { connect(probe, $0, $1) }) == 0 else { return nil }
    return (Peer(socket: probe)?.pid).map(Peer.describe(pid:))
  }

  /// Removes a socket file that nobody listens on. Anything else at the path is left alone.
  private static func removeStale(_ path: String, _ address: sockaddr_un) throws {
    guard let status = status(of: path) else { return }
    try refuseOtherFile(path)
    let shown = SystemText.shown(path)
    let probe = socket(
      AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue), 0)
    defer { Glibc.close(probe) }
    // EAGAIN: somebody listens, and is too busy to accept.
    if withAddress(address, { connect(probe, $0, $1) }) == 0 || errno == EAGAIN {
      let pid = Peer(socket: probe)?.pid
      throw SocketInUse(path: path, owner: pid.map(Peer.describe(pid:)) ?? "another process")
    }
    guard errno == ECONNREFUSED else {
      let reason = errorText()
      let remedy = strangersRemedy(status, "the daemon that has it").map { "; \($0), or choose another --socket" } ?? ""
      throw SocketUnavailable(description: "cannot tell whether \(shown) is in use: \(reason)\(remedy)")
    }
    guard SystemText.withCString(path, { unlink($0) }) != 0, errno != ENOENT else { return }
    let reason = errorText()
    let remedy =
      strangersRemedy(status, "the daemon that had it") ?? "the directory of the socket must be writable for this user"
    throw SocketUnavailable(
      description: "cannot remove \(shown), on which nobody listens: \(reason); \(remedy), or choose another --socket")
  }

  /// What to do about another user's file in a directory that all share; nil for one of our own.
  private static func strangersRemedy(_ status: stat, _ daemon: String) -> String? {
    guard status.st_uid != geteuid() else { return nil }
    let owner = UserNames.ask(status.st_uid).map { "\($0) (user id \(status.st_uid))" } ?? "user id \(status.st_uid)"
    return "it belongs to \(owner): stop \(daemon), or if there is none have that user or root remove it"
  }

  private static func bind(_ path: String, _ address: sockaddr_un, mode: UInt32, group: String) throws -> CInt {
    let flags = Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue) | Int32(SOCK_NONBLOCK.rawValue)
    let descriptor = socket(AF_UNIX, flags, 0)
    // umask, not a later chmod: at no moment may the socket be open to more users than it should be.
    let previous = umask(mode_t(~(group.isEmpty ? mode : mode & 0o700) & 0o777))
    let result = withAddress(address) { Glibc.bind(descriptor, $0, $1) }
    let failure = errno
    umask(previous)
    if result == 0, !group.isEmpty {
      do {
        try give(path, to: group, mode: mode)
      } catch {
        Glibc.close(descriptor)
        SystemText.withCString(path) { _ = unlink($0) }
        throw error
      }
    }
    guard result == 0, listen(descriptor, backlog) == 0 else {
      if result != 0 { errno = failure }
      let reason = errorText()
      Glibc.close(descriptor)
      throw SocketUnavailable(description: "cannot bind \(SystemText.shown(path)): \(reason)")
    }
    return descriptor
  }

  private static func give(_ path: String, to group: String, mode: UInt32) throws {
    let shown = SystemText.shown(path)
    guard let number = try groupNumber(group) else {
      throw SocketUnavailable(description: "this host has no group \(group); name another one with --socket-group")
    }
    let isGiven = SystemText.withCString(path) { lchown($0, uid_t.max, number) == 0 && chmod($0, mode_t(mode)) == 0 }
    guard isGiven else {
      throw SocketUnavailable(
        description: "cannot give \(shown) to the group \(group): \(errorText()); the daemon's user must be root, or a "
          + "member of it")
    }
  }

  private static func groupNumber(_ name: String) throws -> gid_t? {
    if name.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt32(name) {
      // To chown that means: leave the group as it is.
      guard number != gid_t.max else {
        throw SocketUnavailable(description: "no group has the number \(name); name another one with --socket-group")
      }
      return number
    }
    var entry = group()
    var found: UnsafeMutablePointer<group>?
    var buffer = [CChar](repeating: 0, count: 1 << 20)
    guard getgrnam_r(name, &entry, &buffer, buffer.count, &found) == 0, found != nil else { return nil }
    return entry.gr_gid
  }

  private static func withAddress<Result>(
    _ address: sockaddr_un, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Result
  ) -> Result {
    withUnsafePointer(to: address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
  }
}

extension sockaddr_un {
  /// How many bytes a path may have; one more ends it.
  fileprivate static var pathBytesMax: Int { MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1 }

  /// The address of a socket at a path as `SystemText` has it; nil when that is too long.
  init?(path: String) {
    let bytes = SystemText.bytes(path)
    guard bytes.count <= sockaddr_un.pathBytesMax else { return nil }
    self.init()
    sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &sun_path) { $0.copyBytes(from: bytes) }
  }
}

/// What `errno` means.
func errorText() -> String {
  String(cString: strerror(errno))
}

/// Accepts and refuses the clients that wait, with `reason`: otherwise they would go on waiting, and the service
/// manager would start the daemon again and again for them.
public func refuseWaitingClients(on listener: Int32, because reason: String) {
  var writer = MessageWriter()
  writer.failure(id: nil, .shuttingDown, message: "sidelockd cannot start: \(reason)")
  _ = fcntl(listener, F_SETFL, fcntl(listener, F_GETFL) | O_NONBLOCK)
  while true {
    let client = accept(listener, nil, nil)
    guard client >= 0 else {
      if errno == EINTR || errno == ECONNABORTED { continue }
      return
    }
    _ = writer.bytes.withUnsafeBytes {
      send(client, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
    }
    Glibc.close(client)
  }
}

/// Pauses accepting when descriptors or memory have run out: the listener stays readable, and the loop would spin.
/// Clients that wait are accepted once there is room.
final class AcceptPauseHandler: ChannelInboundHandler {
  typealias InboundIn = any Channel

  /// How long a pause lasts, in milliseconds.
  static let pauseMilliseconds: Int64 = 100
  private let logger: Logger
  private let clock: HostClock
  private var isPaused = false
  private var shortages = MessageTally()

  init(logger: Logger, clock: HostClock) {
    self.logger = logger
    self.clock = clock
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard let code = (error as? IOError)?.errnoCode, [EMFILE, ENFILE, ENOBUFS, ENOMEM].contains(code) else {
      return context.fireErrorCaught(error)
    }
    guard !isPaused else { return }
    isPaused = true
    if let count = shortages.toLog(now: clock.now()) {
      logger.error(
        "connections cannot be accepted",
        metadata: ["reason": "\(String(cString: strerror(code)))", "count": "\(count)"])
    }
    let options = context.channel.syncOptions
    try? options?.setOption(.autoRead, value: false)
    context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(Self.pauseMilliseconds)) {
      self.isPaused = false
      try? options?.setOption(.autoRead, value: true)
    }
  }
}
