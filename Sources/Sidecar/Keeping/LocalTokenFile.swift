import CLinux
import Glibc
import LockEngine
import LockTypes
import SystemStrings

/// Why it cannot be had that tokens of `--local` rise over a restart.
public struct LocalTokensUnavailable: Error, CustomStringConvertible {
  /// What can help.
  public enum Remedy: Sendable {
    /// The other daemon ends.
    case otherDaemon
    /// Time, or a change of the host: another attempt to start may succeed.
    case attempt
    /// Somebody looks after the file.
    case repair
  }

  /// What can help.
  public let remedy: Remedy
  /// What happened and what to do.
  public let description: String
}

/// The file in which it is written how far the tokens of `--local` may have gone, and the claim on it.
///
/// The claim is a `flock` on the file, which ends with the process. A new content is another file in its place, which is
/// locked before it gets there: so whatever stands there is locked as long as the daemon lives.
struct LocalTokenFile: Sendable {
  /// As `SystemText` has it.
  let path: String
  /// Closing it, as the end of the process does, gives the file to others.
  let claim: CInt

  /// A system call on the file that failed.
  struct Failure: Error {
    let call: String
    let code: Int32
  }

  private static let mark = "sidelock-local-tokens"
  private static let version = "1"
  private static let bytesMax = 256

  // MARK: What stands in it

  /// The content of a file that says that tokens up to `last` may have been given.
  static func content(_ last: Token) -> [UInt8] {
    let text = "\(mark) \(version) \(last)"
    var sum: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in text.utf8 { sum = (sum ^ UInt64(byte)) &* 0x100_0000_01B3 }
    return Array("\(text) \(String(sum, radix: 16))\n".utf8)
  }

  /// The highest token that may have been given, as ``content(_:)`` has it; nil for anything else.
  static func last(in bytes: [UInt8]) -> Token? {
    let words = bytes.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
    guard words.count == 4, let last = Token(String(decoding: words[2], as: UTF8.self)),
      (1...LockEngine.tokenMax).contains(last), content(last) == bytes
    else { return nil }
    return last
  }

  /// Whether a daemon of another version, which knows another form, wrote it.
  private static func isOfOtherVersion(_ bytes: [UInt8]) -> Bool {
    let words = bytes.split(separator: UInt8(ascii: " "))
    return words.count > 2 && words[0].elementsEqual(mark.utf8) && !words[1].elementsEqual(version.utf8)
      && words[1].allSatisfy { (0x30...0x39).contains($0) }
  }

  // MARK: Opening it

  /// Claims the file of a path; nil when there is none.
  static func open(_ path: String) throws(LocalTokensUnavailable) -> (file: LocalTokenFile, last: Token)? {
    while true {
      let flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY
      let descriptor = SystemText.withCString(path) { Glibc.open($0, flags) }
      if descriptor < 0, errno == ENOENT { return nil }
      guard descriptor >= 0 else { throw unavailable(path, Failure(call: "open", code: errno)) }
      let file = LocalTokenFile(path: path, claim: descriptor)
      do throws(LocalTokensUnavailable) {
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
          throw refusal(of: path, "is no regular file; choose another path with --local-state-file")
        }
        // Before it is locked, which a stranger might have done.
        if let words = strangersWords(status) { throw refusal(of: path, words) }
        try file.lock()
        // Its daemon may have put another file in its place, and ended.
        guard isAt(path, status) else {
          Glibc.close(descriptor)
          continue
        }
        return (file, try file.read())
      } catch {
        Glibc.close(descriptor)
        throw error
      }
    }
  }

  /// What is wrong with a file that another user could set back; nil: nobody could.
  private static func strangersWords(_ status: stat) -> String? {
    let help = "for the daemon's user alone (chown, chmod 0600), or choose another file with --local-state-file"
    if status.st_uid != geteuid(), status.st_uid != 0 {
      return
        "belongs to another user (user id \(status.st_uid)), who could set it back; look at it, and have it be \(help)"
    }
    let isOwnGroup = status.st_gid == getegid()
    guard status.st_mode & S_IWOTH != 0 || (status.st_mode & S_IWGRP != 0 && !isOwnGroup) else { return nil }
    return "can be written by other users, who could set it back; look at it, and have it be \(help)"
  }

  /// Why another user could put another file in the place of one, in words about its directory; nil: nobody could.
  static func strangersPlace(of path: String) -> String? {
    let directory = directory(of: path)
    var status = stat()
    guard SystemText.withCString(directory, { stat($0, &status) }) == 0 else { return nil }
    if status.st_uid != geteuid(), status.st_uid != 0 {
      return "its directory \(SystemText.shown(directory)) belongs to another user (user id \(status.st_uid))"
    }
    guard status.st_mode & S_IWOTH != 0, status.st_mode & S_ISVTX == 0 else { return nil }
    return "every user can write to its directory \(SystemText.shown(directory))"
  }

  private func lock() throws(LocalTokensUnavailable) {
    guard flock(claim, LOCK_EX | LOCK_NB) != 0 else { return }
    guard errno == EWOULDBLOCK else { throw Self.unavailable(path, Failure(call: "lock", code: errno)) }
    throw Self.inUse(path)
  }

  private static func inUse(_ path: String) -> LocalTokensUnavailable {
    LocalTokensUnavailable(
      remedy: .otherDaemon,
      description: "another daemon gives tokens by \(SystemText.shown(path)); stop that one first, or choose another "
        + "file with --local-state-file")
  }

  private static func isAt(_ path: String, _ opened: stat) -> Bool {
    var status = stat()
    return SystemText.withCString(path) { lstat($0, &status) } == 0 && status.st_ino == opened.st_ino
      && status.st_dev == opened.st_dev
  }

  private func read() throws(LocalTokensUnavailable) -> Token {
    var bytes = [UInt8](repeating: 0, count: Self.bytesMax)
    let count = pread(claim, &bytes, bytes.count, 0)
    guard count >= 0 else { throw Self.unavailable(path, Failure(call: "read", code: errno)) }
    let content = Array(bytes.prefix(count))
    if let last = Self.last(in: content) { return last }
    if Self.isOfOtherVersion(content) {
      throw Self.refusal(
        of: path, "is of another version of sidelock; start that one, or choose another file with --local-state-file")
    }
    throw Self.refusal(
      of: path,
      "is damaged, so nobody knows how high tokens were; put a copy of it in its place, or see that the clock of this "
        + "host is right and remove it: tokens then begin at the clock")
  }

  // MARK: Writing it

  /// Writes a file where there is none, and claims it.
  static func make(_ path: String, last: Token) throws -> LocalTokenFile {
    while true {
      let (descriptor, temporary) = try openNew(beside: path)
      let file = LocalTokenFile(path: path, claim: descriptor)
      do {
        try file.lock()
        var status = stat()
        guard fstat(descriptor, &status) == 0, isAt(temporary, status) else {
          Glibc.close(descriptor)
          continue
        }
        try check("write", ftruncate(descriptor, 0))
        try file.fill(last)
        // Not a rename: it would take the place of a file that another daemon has made meanwhile.
        let linked = SystemText.withCString(temporary) { old in SystemText.withCString(path) { link(old, $0) } }
        let code = errno
        SystemText.withCString(temporary) { _ = unlink($0) }
        if linked != 0, code == EEXIST { throw inUse(path) }
        guard linked == 0 else { throw Failure(call: "make", code: code) }
        return file
      } catch {
        if !(error is LocalTokensUnavailable) { SystemText.withCString(temporary) { _ = unlink($0) } }
        Glibc.close(descriptor)
        throw error
      }
    }
  }

  /// The file with another content, which is on the disk when this returns; this one is over then. When it throws, the
  /// old content stands there, and its claim.
  func replaced(last: Token) throws -> LocalTokenFile {
    let plain = path + ".new"
    // One that a crash left behind.
    SystemText.withCString(plain) { _ = unlink($0) }
    let (descriptor, temporary) = try Self.create(plain, "write")
    let file = LocalTokenFile(path: path, claim: descriptor)
    do {
      try file.lock()
      try file.fill(last)
      let renamed = SystemText.withCString(temporary) { old in SystemText.withCString(path) { rename(old, $0) } }
      try Self.check("write", renamed)
    } catch {
      SystemText.withCString(temporary) { _ = unlink($0) }
      Glibc.close(descriptor)
      throw error
    }
    Glibc.close(claim)
    return file
  }

  private static let flagsOfNew = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY

  /// Opens the file beside a path that gets there when it is written: one that a crash left behind, if nobody else can
  /// have put it there or has it open for writing, or a new one.
  private static func openNew(beside path: String) throws -> (descriptor: CInt, name: String) {
    let name = path + ".new"
    let descriptor = SystemText.withCString(name) { Glibc.open($0, flagsOfNew, 0o600) }
    guard descriptor >= 0 else {
      // A link leads elsewhere; it is of no worth itself.
      if errno == ELOOP { SystemText.withCString(name) { _ = unlink($0) } }
      return try create(name, "make")
    }
    var status = stat()
    if fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_uid == geteuid(),
      status.st_mode & (S_IWGRP | S_IWOTH) == 0, status.st_nlink == 1
    {
      return (descriptor, name)
    }
    Glibc.close(descriptor)
    // Not to be written to: it may be another name of a file that is of worth.
    SystemText.withCString(name) { _ = unlink($0) }
    return try create(name, "make")
  }

  /// Creates a file of that name, or of a longer one where another user keeps the name from us: in a directory that all
  /// share, what is in the way cannot be removed.
  private static func create(_ name: String, _ call: String) throws -> (descriptor: CInt, name: String) {
    var name = name
    var descriptor = SystemText.withCString(name) { Glibc.open($0, flagsOfNew | O_EXCL, 0o600) }
    let failure = Failure(call: call, code: errno)
    var status = stat()
    if descriptor < 0, SystemText.withCString(name, { lstat($0, &status) }) == 0, status.st_uid != geteuid() {
      name += "." + String(UInt64.random(in: .min ... .max), radix: 16)
      descriptor = SystemText.withCString(name) { Glibc.open($0, flagsOfNew | O_EXCL, 0o600) }
    }
    guard descriptor >= 0 else { throw failure }
    return (descriptor, name)
  }

  private func fill(_ last: Token) throws {
    let content = Self.content(last)
    var written = 0
    while written < content.count {
      let count = content.withUnsafeBytes { bytes in
        pwrite(claim, bytes.baseAddress! + written, bytes.count - written, off_t(written))
      }
      if count < 0, errno == EINTR { continue }
      // A disk that takes nothing, and says no more.
      guard count > 0 else { throw Failure(call: "write", code: count < 0 ? errno : ENOSPC) }
      written += count
    }
    try Self.check("write", fsync(claim))
  }

  private static func check(_ call: String, _ result: Int32) throws {
    guard result == 0 else { throw Failure(call: call, code: errno) }
  }

  private static func directory(of path: String) -> String {
    let slash = path.utf8.lastIndex(of: UInt8(ascii: "/"))
    return slash.map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
  }

  /// Has the name of the file outlive a loss of power.
  static func syncDirectory(of path: String) throws {
    let descriptor = SystemText.withCString(directory(of: path)) { Glibc.open($0, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    guard descriptor >= 0 else { throw Failure(call: "write", code: errno) }
    defer { Glibc.close(descriptor) }
    // Some file systems have no such call for directories.
    guard fsync(descriptor) == 0 || errno == EINVAL else { throw Failure(call: "write", code: errno) }
  }

  /// Whether it is kept in memory, and gone after a reboot.
  var isInMemory: Bool { file_is_in_memory(claim) == 1 }

  // MARK: Words

  static func unavailable(_ path: String, _ failure: Failure) -> LocalTokensUnavailable {
    let remedy =
      switch failure.code {
      case ENOSPC, EDQUOT: "make room for it"
      case EFBIG: "raise the limit of file sizes (ulimit -f)"
      case EROFS: "its file system must be writable"
      case EACCES, EPERM: "the file and its directory must be writable for the daemon's user"
      case ENOENT: "make its directory"
      case ELOOP: "it must be no symbolic link"
      case EISDIR, ENOTDIR: "it must be a file in a directory"
      case ENXIO: "it must be a regular file"
      case EEXIST: "remove what stands at \(SystemText.shown(path + ".new"))"
      case ENAMETOOLONG: "its name must be shorter"
      default: "see to it"
      }
    errno = failure.code
    return LocalTokensUnavailable(
      remedy: .attempt,
      description: "cannot \(failure.call) \(SystemText.shown(path)), by which tokens rise over a restart: "
        + "\(errorText()); \(remedy), or choose another file with --local-state-file")
  }

  private static func refusal(of path: String, _ words: String) -> LocalTokensUnavailable {
    LocalTokensUnavailable(
      remedy: .repair, description: "\(SystemText.shown(path)), by which tokens rise over a restart, \(words)")
  }
}
