import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// Hosts a, b and c, and two servers that are told the same: the model, and a real one where there is one. What they
/// answer and keep must be the same, but for what goes by their clocks and names.
final class TwinRedis {
  static let name = LockName("x")

  let model = RedisModel()
  private let connection: Int64
  private let real: RealRedis?
  let encoders: [LeaseCommandEncoder]
  /// The messages that the last command has sent, as the model sent them.
  private(set) var messages: [String] = []

  init(keyPrefix: String = "t:") throws {
    encoders = ["a", "b", "c"].map { LeaseCommandEncoder(keyPrefix: keyPrefix, host: $0, instance: "1f") }
    real = RealRedis.isInstalled ? try RealRedis() : nil
    connection = model.connect()
    try tell(["HELLO", "3"])
  }

  deinit { real?.stop() }

  /// A command of an operator, to both.
  func tell(_ command: [Bytes]) throws {
    try model.execute(command, from: connection)
    _ = model.takeOutput()
    _ = try real?.call(command)
  }

  func subscribe(_ host: Int) throws { try tell(["SUBSCRIBE", Bytes(encoders[host].inboxChannel)]) }

  /// A state in which both refuse; none to leave it.
  func have(_ trouble: RedisModel.Trouble) throws {
    model.trouble = trouble
    switch trouble {
    case .readOnly: _ = try real?.call(["REPLICAOF", "127.0.0.1", "1"])
    case .outOfMemory: _ = try real?.call(["CONFIG", "SET", "maxmemory", "1"])
    default:
      _ = try real?.call(["REPLICAOF", "NO", "ONE"])
      _ = try real?.call(["CONFIG", "SET", "maxmemory", "0"])
    }
  }

  /// What the user may not do from now on.
  func deny(_ command: String) throws {
    model.deniedCommand = command
    _ = try real?.call(["ACL", "SETUSER", "default", Bytes("-\(command.lowercased())")])
  }

  /// Carries out a command of a host on both, and gives the model's reply.
  @discardableResult
  func execute(_ command: LeaseCommand, from host: Int, at place: SourceLocation = #_sourceLocation) throws
    -> LeaseReply
  {
    let reply = try run(encoders[host].encode(command), at: place)
    return LeaseReplyDecoder.decode(reply, to: command)
  }

  @discardableResult
  func run(_ command: RedisCommand, at place: SourceLocation = #_sourceLocation) throws -> RESPValue {
    let script = RedisScript.leases.first { $0.name == command.script }?.source ?? []
    let parts: [Bytes] = ["EVAL", Bytes(script)] + command.parts.map { Bytes($0) }
    try model.execute(parts, from: connection)
    let own = model.takeOutput().compactMap { if case .send(_, let reply) = $0 { reply } else { nil } }
    messages = own.compactMap {
      guard case .push(let parts) = $0, parts.count == 3, case .bulk(let text) = parts[2] else { return nil }
      return text.text
    }
    if let real {
      try real.send(parts)
      try real.send(["PING"])
      var others: [ServerReply] = []
      while others.last != .status("PONG") { others.append(try real.receive()) }
      #expect(
        own.map { Self.comparable($0) } == others.dropLast().map { Self.comparable($0) }, sourceLocation: place)
      if model.deniedCommand == nil { #expect(try state() == realState(real), sourceLocation: place) }
    }
    for reply in own { if case .push = reply {} else { return reply.value } }
    throw ModelError(description: "no reply")
  }

  // MARK: What is kept

  /// What stands in a key, with T for times, C for tokens by the clock, RUN for the server's run.
  func text(_ key: [UInt8]) -> String? { state()[Bytes(key).text] }

  var epoch: String? { text(encoders[0].keys.epochKey) }
  var lock: String? { text(encoders[0].keys.lockKey(Self.name)) }
  var queue: String? { text(encoders[0].keys.queueKey(Self.name)) }
  var fence: String? { text(encoders[0].keys.fenceKey(Self.name)) }

  func put(_ key: [UInt8], _ value: String?, milliseconds: Int64? = nil) throws {
    guard let value else { return try tell(["DEL", Bytes(key)]) }
    try tell(["SET", Bytes(key), Bytes(value)] + (milliseconds.map { ["PX", Bytes($0)] } ?? []))
  }

  func putEpoch(_ value: String?) throws { try put(encoders[0].keys.epochKey, value) }

  /// Changes what stands in the epoch's key of each of the two.
  func edit(_ change: (String) -> String) throws {
    let key = Bytes(encoders[0].keys.epochKey)
    if case .string(let text)? = model.peek(key)?.value {
      model.store(key, .init(value: .string(Bytes(change(text.text))), expiresAtMilliseconds: nil))
    }
    guard let real, case .bulk(let text) = try real.call(["GET", key]) else { return }
    _ = try real.call(["SET", key, Bytes(change(text.text))])
  }

  /// With an end that is far.
  func putLock(_ value: String) throws { try put(encoders[0].keys.lockKey(Self.name), value, milliseconds: 900_000) }
  func putFence(_ value: String) throws { try put(encoders[0].keys.fenceKey(Self.name), value) }
  func putInQueue(_ entries: String...) throws {
    try tell(["RPUSH", Bytes(encoders[0].keys.queueKey(Self.name))] + entries.map { Bytes($0) })
  }

  /// How long the model's key lives; -1: for ever.
  func timeLeft(_ key: [UInt8]) throws -> Int64 {
    try model.execute(["PTTL", Bytes(key)], from: connection)
    guard case .send(_, .integer(let left))? = model.takeOutput().last else { return -3 }
    return left
  }

  private func state() -> [String: String] {
    var state: [String: String] = [:]
    for key in model.liveKeys() {
      state[key.text] =
        switch model.peek(key)?.value {
        case .string(let text): Self.comparable(text.text)
        case .list(let entries): entries.map(\.text).joined(separator: " ")
        case .hash, .sortedSet: "other"
        case nil: nil
        }
    }
    return state
  }

  private func realState(_ real: RealRedis) throws -> [String: String] {
    guard case .array(let keys) = try real.call(["KEYS", "*"]) else { return [:] }
    var state: [String: String] = [:]
    for case .bulk(let key) in keys {
      switch try real.call(["TYPE", key]) {
      case .status("string"):
        if case .bulk(let text) = try real.call(["GET", key]) { state[key.text] = Self.comparable(text.text) }
      case .status("list"):
        guard case .array(let entries) = try real.call(["LRANGE", key, "0", "-1"]) else { continue }
        state[key.text] = entries.map { if case .bulk(let text) = $0 { text.text } else { "" } }
          .joined(separator: " ")
      default: state[key.text] = "other"
      }
    }
    return state
  }

  // MARK: What is the same

  static func comparable(_ text: String) -> String {
    text.replacing(/\b\d{16}1\d{15}\b/.wordBoundaryKind(.simple), with: "M").replacing(
      /\b1\d{15}\b/.wordBoundaryKind(.simple), with: "C"
    ).replacing(
      /\b1\d{12}\b/.wordBoundaryKind(.simple), with: "T"
    )
    .replacing(/[0-9a-f]{40}-[0-9a-f]{40}/, with: "RUN")
    // How large a block of tokens is follows from how far the counter is ahead of the clock, which goes on in the real one.
    .replacing(/\bC([: ])(16|64|4096)\b/.wordBoundaryKind(.simple)) { "C\($0.output.1)B" }
  }

  private static func comparable(_ reply: ServerReply) -> ServerReply {
    switch reply {
    // A second of the clocks.
    case .integer(let value) where value > 1_000_000_000: .integer(1_000_000_000)
    // How long something lasts: the real one's clock goes on.
    case .integer(let value) where value >= 1000 && value != 65_536: .integer(1000)
    case .bulk(let text): .bulk(Bytes(comparable(text.text)))
    case .error(let text): .error(Bytes(text.text.components(before: " script: ")))
    // The last is a microsecond, or stands behind one.
    case .array(let items) where items.first == .bulk("epoch"): .array(items.dropLast().map { comparable($0) })
    case .array(let items) where items.first == .bulk("queued"):
      .array(items.prefix(5).map { comparable($0) } + items.dropFirst(6))
    case .array(let items) where items.first == .bulk("foreign"): .array([items[0]])
    // The third is the size of a block, as above.
    case .array(let items) where items.first == .bulk("granted") && items.count > 2:
      .array((items[..<2] + [.bulk("B")] + items[3...]).map { comparable($0) })
    case .array(let items): .array(items.map { comparable($0) })
    case .push(let items): .push(items.map { comparable($0) })
    case .status, .integer, .null, .map: reply
    }
  }
}

extension String {
  fileprivate func components(before mark: String) -> String {
    ranges(of: mark).first.map { String(self[..<$0.lowerBound]) } ?? self
  }
}

extension ServerReply {
  /// As the daemon's decoder would give it.
  var value: RESPValue {
    switch self {
    case .status(let text): .simpleString(text.array)
    case .error(let text): .simpleError(text.array)
    case .integer(let number): .integer(number)
    case .bulk(let bytes): .blobString(bytes.array)
    case .null: .null
    case .array(let items), .map(let items): .array(items.map(\.value))
    case .push(let items): .push(items.map(\.value))
    }
  }
}
