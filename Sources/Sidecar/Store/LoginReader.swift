import Glibc
import ProcessSupport
import RESP
import SystemStrings

/// Reads the login of Redis from where settings have it. It blocks: a file server may be silent, and a program may take as long
/// as it is given.
enum LoginReader {
  /// How long a program may take, in seconds.
  static let commandSecondsMax = 10

  /// What is read, and which file is known already.
  struct Sources: Equatable, Sendable {
    var source: RedisLoginSource
    /// The file as it was when it was read; nil: it is read in any case.
    var known: FileStamp?
  }

  /// What was found.
  enum Found: Equatable, Sendable {
    /// The file is the one that is known.
    case unchanged
    case login(RedisLogin, expiresInSeconds: Int64?, FileStamp?)
  }

  /// Why there is no login.
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  /// A file as it was at some time.
  struct FileStamp: Equatable, Sendable {
    private var numbers: [Int]

    /// nil where there is none.
    init?(of path: String) {
      var status = stat()
      guard SystemText.withCString(path, { stat($0, &status) }) == 0 else { return nil }
      numbers = [
        Int(bitPattern: UInt(status.st_dev)), Int(bitPattern: UInt(status.st_ino)), Int(status.st_size),
        status.st_mtim.tv_sec, status.st_mtim.tv_nsec, status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
      ]
    }
  }

  static func read(_ sources: Sources) throws(Failure) -> Found {
    try sources.source.command.isEmpty ? fromFile(sources) : fromCommand(sources.source)
  }

  private static func fromFile(_ sources: Sources) throws(Failure) -> Found {
    let path = sources.source.passwordFile
    // Before it is read: what changes meanwhile is found the next time.
    let stamp = FileStamp(of: path)
    if let known = sources.known, known == stamp { return .unchanged }
    switch readSmallFileAgain(path, bytesMax: HelperProgram.outputBytesMax) {
    case .failure(let error): throw failure(ofFile: path, error.message)
    case .success(let bytes):
      guard let password = RedisSecret(line: bytes) else { throw failure(ofFile: path, "the file is empty") }
      return .login(sources.source.login(password), expiresInSeconds: nil, stamp)
    }
  }

  private static func failure(ofFile path: String, _ reason: String) -> Failure {
    Failure(
      description: "cannot read the password of Redis from \(SystemText.shown(path)) (redis_password_file): \(reason): "
        + "write it there, readable for the daemon's user, or name another file")
  }

  private static func fromCommand(_ source: RedisLoginSource) throws(Failure) -> Found {
    let path = source.command
    let output: [UInt8]
    switch HelperProgram.run(path, secondsMax: commandSecondsMax) {
    case .failure(let failure):
      let first = failure.output.prefix { $0 != 0x0A && $0 != 0x0D }
      let said = RedisErrorReply.words(
        of: Array(failure.words.prefix { $0 != 0x0A }), without: [RedisSecret(Array(first))])
      throw Self.failure(ofCommand: path, failure.problem, said: said)
    case .success(let bytes): output = bytes
    }
    do throws(RedisCredentials.Problem) {
      let found = try RedisCredentials(parsing: output)
      return .login(
        source.login(found.password, of: found.user), expiresInSeconds: found.expiresInSeconds, nil)
    } catch {
      throw failure(ofCommand: path, error.words, said: "")
    }
  }

  private static func failure(ofCommand path: String, _ problem: String, said: String) -> Failure {
    Failure(
      description: "\(SystemText.shown(path)) (redis_credentials_command) \(problem)"
        + (said.isEmpty ? "" : "; it says: \(said)") + ": run it as the daemon's user to see what is wrong")
  }
}
