import Glibc
import SidelockClient

/// A Unix socket in the file system that this process has made. Whose it is that stands there is never guessed: only one
/// that nobody serves is replaced, and only what was made here is removed.
struct ListenSocket {
  /// Bytes of a path; one more is its end.
  static let pathBytesMax = MemoryLayout.size(ofValue: sockaddr_un().sun_path) - 1

  /// Bound, and not listening yet. It belongs to whoever takes it.
  let descriptor: CInt
  private let path: [UInt8]
  private let made: (device: dev_t, inode: ino_t)

  /// Why none can be made, in words.
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  /// Makes one at a path of 1 to ``pathBytesMax`` bytes without a zero among them, with these rights, whatever the
  /// umask.
  init(path: [UInt8], mode: mode_t) throws(Failure) {
    self.path = path
    if let status = Self.status(path) {
      guard status.st_mode & S_IFMT == S_IFSOCK else {
        throw Failure(description: "what is there is no socket; remove it, or give --listen another path")
      }
      let error = Self.call(connect, path).error
      switch error {
      case ECONNREFUSED: _ = Self.withPath(path) { unlink($0) }
      case ENOENT: break
      case 0, EAGAIN, EPROTOTYPE, EINPROGRESS: throw Failure(description: "another process serves there")
      case _:
        throw Failure(description: "whether a process serves there cannot be known: \(UnixSocket.describe(error))")
      }
    }
    let (descriptor, error) = Self.call(bind, path, keeping: true)
    guard error == 0 else { throw Failure(description: UnixSocket.describe(error)) }
    guard Self.withPath(path, { chmod($0, mode) }) == 0, let status = Self.status(path) else {
      let error = errno
      close(descriptor)
      throw Failure(description: UnixSocket.describe(error))
    }
    self.descriptor = descriptor
    made = (status.st_dev, status.st_ino)
  }

  /// Removes it, unless somebody else's has taken its place.
  func remove() {
    guard let status = Self.status(path), (status.st_dev, status.st_ino) == made else { return }
    _ = Self.withPath(path) { unlink($0) }
  }

  private static func status(_ path: [UInt8]) -> stat? {
    var status = stat()
    return withPath(path) { lstat($0, &status) } == 0 ? status : nil
  }

  private static func withPath(_ path: [UInt8], _ body: (UnsafePointer<CChar>) -> CInt) -> CInt {
    (path + [0]).withUnsafeBytes { bytes in
      bytes.assumingMemoryBound(to: CChar.self).baseAddress.map(body) ?? -1
    }
  }

  /// Has a new stream socket bound or connected; its descriptor, which is closed unless it is kept and all went well, and
  /// the errno or 0. It does not wait for a peer whose queue is full.
  private static func call(
    _ call: (CInt, UnsafePointer<sockaddr>, socklen_t) -> CInt, _ path: [UInt8], keeping: Bool = false
  ) -> (descriptor: CInt, error: CInt) {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.prefix(pathBytesMax)) }
    let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { return (-1, errno) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        call(descriptor, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    let error = result == 0 ? 0 : errno
    if error != 0 || !keeping { close(descriptor) }
    return (descriptor, error)
  }
}
