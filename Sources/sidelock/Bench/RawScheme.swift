import Glibc
import SidelockClient
import SystemStrings

/// A lock without a daemon, as it is written by hand: SET NX PX takes it, a script compares and deletes. One round trip
/// each, and nothing else: nobody waits, and a lost lock is not told.
struct RawScheme {
  static let release = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"

  /// What Redis calls the script.
  private let digest: String

  /// Has the server at that socket load the script.
  init(redis path: String) throws(SidelockError) {
    let descriptor = try UnixSocket.connect(path: SystemText.bytes(path))
    defer { close(descriptor) }
    try? Descriptor.write(Self.command("SCRIPT", "LOAD", Self.release), to: descriptor)
    var answer: [UInt8] = []
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    while answer.count(where: { $0 == 0x0A }) < 2, answer.first != UInt8(ascii: "-"),
      poll(&entry, 1, CInt(DaemonConnection.answerMilliseconds)) > 0
    {
      var bytes = [UInt8](repeating: 0, count: 256)
      let count = recv(descriptor, &bytes, bytes.count, 0)
      guard count > 0 else { break }
      answer += bytes[..<count]
    }
    let lines = String(decoding: answer, as: UTF8.self).split(separator: "\r\n")
    guard lines.count == 2, lines[0] == "$40" else {
      throw SidelockError(
        reason: .unavailable,
        message: "Redis at \(path) does not load a script: \(printable(String(decoding: answer, as: UTF8.self)))")
    }
    digest = String(lines[1])
  }

  /// The two commands of a cycle.
  func lines(connection: Int) -> [[UInt8]] {
    let (key, token) = (BenchLine.name("raw-\(connection)"), "\(getpid())-\(connection)")
    return [
      Array(Self.command("SET", key, token, "NX", "PX", "30000").utf8),
      Array(Self.command("EVALSHA", digest, "1", key, token).utf8),
    ]
  }

  private static func command(_ words: String...) -> String {
    "*\(words.count)\r\n" + words.map { "$\($0.utf8.count)\r\n\($0)\r\n" }.joined()
  }
}
