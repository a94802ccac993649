import Foundation
import SidelockClient

/// A daemon for one connection whose words are written down in the test: a closure that reads requests and sends
/// lines, in a thread of its own. Every read is bounded, so a client that does not do its part fails the test.
enum FakeDaemon {
  struct Unexpected: Error {
    var what: String
  }

  /// The daemon's end of the connection.
  struct Peer {
    let descriptor: CInt
    private var buffer: [UInt8] = []

    init(descriptor: CInt) {
      self.descriptor = descriptor
      var time = timeval(tv_sec: 30, tv_usec: 0)
      setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
    }

    /// The next line, nil at the end of the connection.
    mutating func line() throws -> String? {
      while true {
        if let end = buffer.firstIndex(of: 0x0A) {
          let line = String(decoding: buffer[..<end], as: UTF8.self)
          buffer.removeFirst(end + 1)
          return line
        }
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        if count == 0 { return nil }
        guard count > 0 else { throw Unexpected(what: "no line came: errno \(errno)") }
        buffer += bytes[..<count]
      }
    }

    /// The next request, which must be of that method.
    mutating func request(_ method: String) throws -> JSONValue {
      guard let line = try line() else { throw Unexpected(what: "the connection ended; expected \(method)") }
      let request = try JSONValue(parsing: line)
      guard request["jsonrpc"]?.stringValue == "2.0", request["method"]?.stringValue == method else {
        throw Unexpected(what: "expected \(method), got \(line)")
      }
      return request
    }

    /// Nothing more comes from the client but the end.
    mutating func expectEnd() throws {
      if let line = try line() { throw Unexpected(what: "expected the end, got \(line)") }
    }

    func send(_ text: String) {
      var rest = Array(text.utf8)[...]
      while !rest.isEmpty {
        let count = rest.withUnsafeBytes {
          Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
        }
        if count <= 0 { return }
        rest = rest.dropFirst(count)
      }
    }

    func send(_ message: JSONValue) {
      send(message.serialized + "\n")
    }

    func reply(to request: JSONValue, _ result: JSONValue) {
      send(["jsonrpc": "2.0", "id": request["id"] ?? .null, "result": result])
    }

    func refuse(_ request: JSONValue, code: Int64, reason: String) {
      let error: JSONValue = ["code": .int(code), "message": "refused", "data": ["reason": .string(reason)]]
      send(["jsonrpc": "2.0", "id": request["id"] ?? .null, "error": error])
    }

    /// Answers the next request, an acquire of that name, with a grant.
    @discardableResult
    mutating func grant(_ name: String, token: Int64) throws -> JSONValue {
      let request = try request("acquire")
      grant(request, name, token: token)
      return request
    }

    /// Good for so long that nobody asks how long it is while a test goes on.
    func grant(_ request: JSONValue, _ name: String, token: Int64) {
      reply(
        to: request,
        ["name": .string(name), "token": .int(token), "mode": "exclusive", "waited_ms": 7, "valid_ms": 3_600_000])
    }

    func lose(_ name: String, token: Int64) {
      send([
        "jsonrpc": "2.0", "method": "lost",
        "params": ["name": .string(name), "token": .int(token), "reason": "lease_expired", "grace_ms": 1500],
      ])
    }

    /// Answers the next request, a release of that token.
    mutating func release(_ name: String, token: Int64) throws {
      let request = try request("release")
      guard request["params"] == ["name": .string(name), "token": .int(token)] else {
        throw Unexpected(what: "another release: \(request.serialized)")
      }
      reply(to: request, ["name": .string(name), "token": .int(token), "remaining": 0])
    }
  }

  /// A socket path that nobody else has, in a directory of its own.
  static func temporaryPath() -> String {
    var template = Array("/tmp/sidelock-client-test-XXXXXX".utf8CString)
    mkdtemp(&template)
    return String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self) + "/s"
  }

  /// Runs `script` as the daemon and `body` as its client. The connection ends when the script does.
  static func run(
    answerTimeout: Duration = .seconds(30), lifetime: SidelockClient.Lifetime = .connection,
    _ script: @escaping @Sendable (inout Peer) throws -> Void,
    client body: (SidelockClient) async throws -> Void
  ) async throws {
    try await run(answerTimeout: answerTimeout, lifetime: lifetime, connections: [script], client: body)
  }

  /// The same with one connection after the other, a script each.
  static func run(
    answerTimeout: Duration = .seconds(30), lifetime: SidelockClient.Lifetime = .connection,
    connections scripts: [@Sendable (inout Peer) throws -> Void],
    client body: (SidelockClient) async throws -> Void
  ) async throws {
    let path = temporaryPath()
    defer { try? FileManager.default.removeItem(atPath: (path as NSString).deletingLastPathComponent) }
    let listener = try listen(path)
    defer { Glibc.close(listener) }
    let (results, continuation) = AsyncStream.makeStream(of: Result<Void, any Error>.self)
    Thread.detachNewThread {
      for script in scripts {
        let descriptor = accept(listener, nil, nil)
        var peer = Peer(descriptor: descriptor)
        let result = Result { try script(&peer) }
        Glibc.close(descriptor)
        continuation.yield(result)
        guard case .success = result else { break }
      }
      continuation.finish()
    }
    do {
      try await SidelockClient.withConnection(
        socketPath: path, answerTimeout: answerTimeout, lifetime: lifetime, body)
    } catch {
      // What went wrong in the script is the likelier cause.
      for await result in results { try result.get() }
      throw error
    }
    for await result in results { try result.get() }
  }

  static func listen(_ path: String) throws -> CInt {
    let listener = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let result = withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(listener, $0, socklen_t(MemoryLayout<sockaddr_un>.size))
      }
    }
    guard result == 0, Glibc.listen(listener, 8) == 0 else { throw Unexpected(what: "bind: errno \(errno)") }
    return listener
  }
}

/// A flag that a test waits for.
actor Signal {
  private var isRaised = false
  private var waiters: [CheckedContinuation<Void, Never>] = []

  func raise() {
    isRaised = true
    for waiter in waiters { waiter.resume() }
    waiters = []
  }

  func wait() async {
    if isRaised { return }
    await withCheckedContinuation { waiters.append($0) }
  }
}
