import Foundation
import Glibc

/// A real Redis on a private Unix socket, for the tests that hold the model against it.
final class RealRedis {
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  private var pid: pid_t = 0
  private let directory: URL
  private var socket: Int32 = -1
  private var buffer: [UInt8] = []
  private var at = 0

  var socketPath: String { directory.appendingPathComponent("redis.sock").path }

  /// `SIDELOCK_TEST_REDIS` names another server than that of the system.
  private static let program =
    ProcessInfo.processInfo.environment["SIDELOCK_TEST_REDIS"]
    ?? ["/usr/bin/redis-server", "/usr/local/bin/redis-server"]
    .first { FileManager.default.isExecutableFile(atPath: $0) }

  static var isInstalled: Bool { program != nil }

  /// Starts a server and connects to it.
  init() throws {
    guard let program = Self.program else { throw Failure(description: "there is no redis-server") }
    directory = FileManager.default.temporaryDirectory.appendingPathComponent("sidelock-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
    let arguments = [
      program, "--port", "0", "--unixsocket", directory.appendingPathComponent("redis.sock").path, "--save", "",
      "--appendonly", "no", "--dir", directory.path, "--logfile", directory.appendingPathComponent("log").path,
    ]
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) }
    defer { for word in words { free(word) } }
    words.append(nil)
    guard posix_spawn(&pid, program, nil, nil, words, environ) == 0 else {
      throw Failure(description: "redis-server does not start")
    }
    let limit = Date().addingTimeInterval(20)
    while true {
      if let connected = Self.connect(to: socketPath) {
        socket = connected
        return
      }
      guard Date() < limit else {
        stop()
        throw Failure(description: "redis-server does not come up")
      }
      usleep(5000)
    }
  }

  func stop() {
    if socket >= 0 { close(socket) }
    kill(pid, SIGKILL)
    var status: Int32 = 0
    waitpid(pid, &status, 0)
    try? FileManager.default.removeItem(at: directory)
  }

  private static func connect(to path: String) -> Int32? {
    let handle = Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
    guard handle >= 0 else { return nil }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: Array(path.utf8) + [0]) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.connect(handle, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    if result == 0 {
      // A server that does not answer fails the test instead of hanging it.
      var limit = timeval(tv_sec: 20, tv_usec: 0)
      setsockopt(handle, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
      return handle
    }
    close(handle)
    return nil
  }

  /// Sends a command and waits for what comes next on the connection.
  func call(_ command: [Bytes]) throws -> ServerReply {
    try send(command)
    return try receive()
  }

  func send(_ command: [Bytes]) throws {
    var bytes = Array("*\(command.count)\r\n".utf8)
    for part in command { bytes += Array("$\(part.count)\r\n".utf8) + part.array + [13, 10] }
    var start = 0
    while start < bytes.count {
      let written = bytes[start...].withUnsafeBytes { write(socket, $0.baseAddress, $0.count) }
      guard written > 0 else { throw Failure(description: "write failed") }
      start += written
    }
  }

  func receive() throws -> ServerReply {
    let line = try readLine()
    guard let kind = line.first else { throw Failure(description: "an empty line") }
    let rest = Bytes(Array(line.dropFirst()))
    switch kind {
    case UInt8(ascii: "+"): return .status(rest)
    case UInt8(ascii: "-"): return .error(rest)
    case UInt8(ascii: ":"): return .integer(rest.integer ?? 0)
    case UInt8(ascii: "_"): return .null
    case UInt8(ascii: ","): return .bulk(rest)
    case UInt8(ascii: "#"): return .integer(rest == "t" ? 1 : 0)
    case UInt8(ascii: "$"):
      guard let count = rest.integer, count >= 0 else { return .null }
      let body = try read(Int(count) + 2)
      return .bulk(Bytes(Array(body.dropLast(2))))
    case UInt8(ascii: "*"):
      guard let count = rest.integer, count >= 0 else { return .null }
      return .array(try (0..<count).map { _ in try receive() })
    case UInt8(ascii: "~"): return .array(try (0..<(rest.integer ?? 0)).map { _ in try receive() })
    case UInt8(ascii: ">"): return .push(try (0..<(rest.integer ?? 0)).map { _ in try receive() })
    case UInt8(ascii: "%"): return .map(try (0..<(rest.integer ?? 0) * 2).map { _ in try receive() })
    default: throw Failure(description: "an unknown type of reply: \(Bytes(line))")
    }
  }

  private func readLine() throws -> [UInt8] {
    while true {
      if let end = buffer[at...].firstIndex(of: 13), end + 1 < buffer.count {
        defer { at = end + 2 }
        return Array(buffer[at..<end])
      }
      try fill()
    }
  }

  private func read(_ count: Int) throws -> [UInt8] {
    while buffer.count - at < count { try fill() }
    defer { at += count }
    return Array(buffer[at..<at + count])
  }

  private func fill() throws {
    if at > 0 {
      buffer.removeFirst(at)
      at = 0
    }
    var chunk = [UInt8](repeating: 0, count: 65536)
    let count = Glibc.read(socket, &chunk, chunk.count)
    guard count > 0 else { throw Failure(description: "the server closed the connection") }
    buffer += chunk[0..<count]
  }
}
