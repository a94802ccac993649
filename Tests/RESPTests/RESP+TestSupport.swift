import RESP
import TestSupport

/// The bytes of `text`.
func bytes(_ text: String) -> [UInt8] {
  Array(text.utf8)
}

/// `bytes` as text, for failures that a person can read.
func text(_ bytes: [UInt8]) -> String {
  String(decoding: bytes, as: UTF8.self)
}

extension RESPValue {
  static func simple(_ text: String) -> RESPValue { .simpleString(Array(text.utf8)) }
  static func error(_ text: String) -> RESPValue { .simpleError(Array(text.utf8)) }
  static func blob(_ text: String) -> RESPValue { .blobString(Array(text.utf8)) }
}

/// How a stream is cut before it is fed.
enum Cut: Hashable, CaseIterable {
  case whole
  case byteByByte
  case random
}

/// The pieces of `stream`.
func pieces(of stream: [UInt8], _ cut: Cut, using generator: inout SeededRandom) -> [ArraySlice<UInt8>] {
  switch cut {
  case .whole:
    return [stream[...]]
  case .byteByByte:
    return stream.indices.map { stream[$0...$0] }
  case .random:
    var result: [ArraySlice<UInt8>] = []
    var start = 0
    while start < stream.count {
      let end = min(stream.count, start + Int.random(in: 1...40, using: &generator))
      result.append(stream[start..<end])
      start = end
    }
    return result
  }
}

/// What a decoder made of a stream.
struct Decoded: Hashable {
  var values: [RESPValue] = []
  var error: RESPError?
}

/// Decodes `stream`, cut as asked.
func decode(_ stream: [UInt8], _ cut: Cut = .whole, limits: RESPLimits = RESPLimits(), seed: UInt64 = 1) -> Decoded {
  var generator = SeededRandom(seed: seed)
  var decoder = RESPDecoder(limits: limits)
  var result = Decoded()
  for piece in pieces(of: stream, cut, using: &generator) {
    piece.withUnsafeBytes { decoder.append($0) }
    do throws(RESPError) {
      while let value = try decoder.next() { result.values.append(value) }
    } catch {
      result.error = error
      return result
    }
  }
  return result
}

/// The wire form of a command.
func command(_ parts: String...) -> [UInt8] {
  var output: [UInt8] = []
  RESPEncoder.append(command: parts.map(bytes), to: &output)
  return output
}

extension ScriptName {
  static let first = ScriptName(rawValue: "first")
  static let second = ScriptName(rawValue: "second")
}

extension RedisConnection {
  /// Feeds the bytes of `text`.
  mutating func received(_ text: String) -> [RedisConnectionAction] {
    received(bytes(text))
  }

  /// Feeds `bytes`.
  mutating func received(_ bytes: [UInt8]) -> [RedisConnectionAction] {
    bytes.withUnsafeBytes { received($0) }
  }
}

/// A server's side of a conversation, in the words of Redis 7.0.
enum Server {
  static let run = "6ba4a3dd918bf1610ee52c13ec34596424ec31a1"
  static let firstDigest = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"
  static let secondDigest = "80d15f6c748349e0ed5484b470364f85ca8e2b37"

  static func hello(id: Int = 8, mode: String = "standalone", role: String? = "master", proto: Int = 3) -> String {
    "%\(role == nil ? 6 : 7)\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$6\r\n7.0.15\r\n$5\r\nproto\r\n:\(proto)\r\n"
      + "$2\r\nid\r\n:\(id)\r\n$4\r\nmode\r\n\(blob(mode))" + (role.map { "$4\r\nrole\r\n\(blob($0))" } ?? "")
      + "$7\r\nmodules\r\n*0\r\n"
  }

  static func info(run: String = Server.run) -> String {
    let text = "txt:# Server\r\nredis_version:7.0.15\r\nrun_id:\(run)\r\ntcp_port:0\r\n"
    return "=\(text.utf8.count)\r\n\(text)\r\n"
  }

  static let policy = "%1\r\n$16\r\nmaxmemory-policy\r\n$10\r\nnoeviction\r\n"
  static let digests = blob(firstDigest) + blob(secondDigest)
  static let subscribed = ">3\r\n$9\r\nsubscribe\r\n$5\r\ninbox\r\n:1\r\n"

  static func blob(_ text: String) -> String {
    "$\(text.utf8.count)\r\n\(text)\r\n"
  }

  static func message(_ payload: String, channel: String = "inbox") -> String {
    ">3\r\n$7\r\nmessage\r\n" + blob(channel) + blob(payload)
  }

  /// All that comes before a connection without a predecessor is ready.
  static let handshake = hello() + info() + policy + digests + subscribed
}

extension RedisConnectionConfiguration {
  /// Two scripts and the channel `inbox`.
  static func testing(
    username: String? = nil, password: String? = nil, database: Int = 0, previousClient: RedisClientIdentity? = nil,
    limits: RESPLimits = RESPLimits()
  ) -> RedisConnectionConfiguration {
    RedisConnectionConfiguration(
      username: username, password: password.map { RedisSecret(bytes($0)) }, database: database,
      clientName: "sidelock a", inbox: bytes("inbox"),
      scripts: [
        RedisScript(name: .first, source: bytes("return 1")), RedisScript(name: .second, source: bytes("return 2")),
      ],
      previousClient: previousClient, limits: limits)
  }
}

extension RedisReadyInfo {
  /// What ``Server`` tells.
  static func testing(previousClient: PreviousClient = .none) -> RedisReadyInfo {
    RedisReadyInfo(
      server: "redis", version: "7.0.15", mode: "standalone",
      client: RedisClientIdentity(id: 8, runID: Server.run), previousClient: previousClient,
      evictionPolicy: "noeviction")
  }
}

/// A connection that has done its handshake and has nothing to send.
func readyConnection(limits: RESPLimits = RESPLimits()) -> RedisConnection {
  var connection = RedisConnection(configuration: .testing(limits: limits))
  connection.connected()
  _ = connection.takeOutput()
  _ = connection.received(Server.handshake)
  return connection
}
