import LockTypes

/// Turns a line into a request or into its refusal. Between lines it keeps only memory to reuse, so one decoder serves
/// all sessions of an event loop.
///
/// The whole line is read before anything in it counts: a line that is bad at its end has no effect. Then the envelope
/// is checked, then the params. Of several mistakes the client is told the first one in this order: JSON, the
/// envelope's unknown members, `id`, `jsonrpc`, `method`, a missing id, the form of `params`, its unknown members, its
/// other members.
public struct RequestDecoder: Sendable {
  /// Room for this many members is kept between lines.
  private static let keptMembersMax = 64

  private var members: [MemberToken] = []
  private var parameters: [MemberToken] = []

  /// A decoder.
  public init() {}

  /// Reads one line without its end. No line can make it fail; what is longer than ``Limits/lineBytesMax`` is refused.
  public mutating func decode(_ line: UnsafeRawBufferPointer) -> ClientMessage {
    if line.count > Limits.lineBytesMax { return .refused(.lineTooLong) }
    var scanner = JSONScanner(line)
    swap(&scanner.members, &members)
    swap(&scanner.parameters, &parameters)
    defer {
      swap(&scanner.members, &members)
      swap(&scanner.parameters, &parameters)
      if members.capacity > Self.keptMembersMax { members = [] }
      if parameters.capacity > Self.keptMembersMax { parameters = [] }
    }
    let value: ValueToken
    do throws(JSONSyntaxError) {
      value = try scanner.document()
    } catch {
      return .refused(Self.refusal(of: error))
    }
    do throws(RequestRefusal) {
      return try Self.message(from: value, scanner)
    } catch {
      return .refused(error)
    }
  }

  /// Reads one line that is in an array; for callers to whom speed does not matter.
  public mutating func decode(_ line: [UInt8]) -> ClientMessage {
    line.withUnsafeBytes { decode($0) }
  }

  private static func refusal(of mistake: JSONSyntaxError) -> RequestRefusal {
    RequestRefusal(
      code: .parseError,
      message: "the line is not valid JSON: \(mistake.explanation), at byte \(mistake.offset); "
        + "send one JSON object a line, in UTF-8",
      details: [.init("offset", .integer(Int64(mistake.offset)))])
  }
}

// MARK: - The envelope

extension RequestDecoder {
  /// The members of the envelope that this protocol knows, as they came.
  private struct Envelope {
    var id: ValueToken?
    var jsonrpc: ValueToken?
    var method: ValueToken?
    var params: ValueToken?
    var unknown: [StringToken] = []
  }

  private static func message(
    from value: ValueToken, _ scanner: JSONScanner
  ) throws(RequestRefusal) -> ClientMessage {
    let envelope = try envelope(from: value, scanner)
    if !envelope.unknown.isEmpty {
      let names = ReportedNames(envelope.unknown, scanner, prefix: "")
      throw RequestRefusal(
        id: try? id(from: envelope.id, scanner), code: .invalidRequest,
        message: "a request has no members \(names.shown); it has jsonrpc, id, method and params",
        details: names.details(as: "unknown", count: "unknown_count"))
    }
    let id = try id(from: envelope.id, scanner)
    do throws(RequestRefusal) {
      return try message(id: id, envelope, scanner)
    } catch {
      var refusal = error
      refusal.id = id
      throw refusal
    }
  }

  private static func envelope(
    from value: ValueToken, _ scanner: JSONScanner
  ) throws(RequestRefusal) -> Envelope {
    switch value {
    case .object: break
    case .array:
      throw RequestRefusal(
        code: .invalidRequest, message: "batches are not offered; send one request a line, without waiting in between")
    case .string, .number, .bool, .null:
      throw RequestRefusal(code: .invalidRequest, message: "\(ErrorCode.invalidRequest.defaultMessage)")
    }
    var envelope = Envelope()
    for member in scanner.members {
      if scanner.text(member.key, is: "id") {
        envelope.id = member.value
      } else if scanner.text(member.key, is: "method") {
        envelope.method = member.value
      } else if scanner.text(member.key, is: "params") {
        envelope.params = member.value
      } else if scanner.text(member.key, is: "jsonrpc") {
        envelope.jsonrpc = member.value
      } else if !scanner.isIgnored(member.key) {
        envelope.unknown.append(member.key)
      }
    }
    return envelope
  }

  private static func message(
    id: MessageID?, _ envelope: Envelope, _ scanner: JSONScanner
  ) throws(RequestRefusal) -> ClientMessage {
    if let version = envelope.jsonrpc {
      guard case .string(let token) = version, scanner.text(token, is: "2.0") else {
        throw invalid("\"jsonrpc\" must be \"2.0\", or left out", field: "jsonrpc")
      }
    }
    guard case .string(let name) = envelope.method else {
      throw invalid("\"method\" must be a string: the name of a method", field: "method")
    }
    let method = ProtocolMethod.first { scanner.text(name, is: $0) }
    guard let id else {
      if method == .cancel {
        let reader = try reader(of: envelope.params, for: .cancel, scanner)
        return .cancelNotification(try target(reader))
      }
      throw invalid(
        "\"id\" is missing or null, so nothing was done; give every request an id: an integer or a string", field: "id")
    }
    guard let method else { throw unknownMethod(name, scanner) }
    return .request(id, try request(method, try reader(of: envelope.params, for: method, scanner)))
  }

  /// The id, if there is one and it is not null.
  private static func id(
    from value: ValueToken?, _ scanner: JSONScanner
  ) throws(RequestRefusal) -> MessageID? {
    switch value {
    case nil, .null: return nil
    case .number(.integer(let number)): return .integer(number)
    case .string(let token) where token.decodedCount <= Limits.idBytesMax: return .string(scanner.decode(token))
    case .string:
      throw RequestRefusal(
        code: .invalidRequest,
        message: "\"id\" is longer than \(Limits.idBytesMax) bytes of UTF-8; give a shorter one",
        details: [.init("field", .text("id")), .init("limit", .integer(Int64(Limits.idBytesMax)))])
    case .number(.outOfRange):
      throw RequestRefusal(
        code: .invalidRequest,
        message: "\"id\" must not be beyond \(Limits.integerMax) (2^53 - 1), above or below 0; give a string instead",
        details: [.init("field", .text("id")), .init("limit", .integer(Limits.integerMax))])
    case .number(.fraction), .bool, .object, .array:
      throw invalid("\"id\" must be an integer or a string", field: "id")
    }
  }

  private static func unknownMethod(_ name: StringToken, _ scanner: JSONScanner) -> RequestRefusal {
    let shown = scanner.reported(name)
    return RequestRefusal(
      code: .methodNotFound, message: "there is no method \"\(shown)\"; rpc.discover tells which there are",
      details: [.init("unknown", .texts([shown]))])
  }

  private static func invalid(_ message: String, field: String) -> RequestRefusal {
    RequestRefusal(code: .invalidRequest, message: message, details: [.init("field", .text(field))])
  }
}

// MARK: - The params

extension RequestDecoder {
  /// A reader of `params`; refuses members that `method` does not have.
  private static func reader(
    of params: ValueToken?, for method: ProtocolMethod, _ scanner: JSONScanner
  ) throws(RequestRefusal) -> ParameterReader {
    switch params {
    case nil: return ParameterReader(scanner: scanner, members: [], prefix: "")
    case .object:
      let reader = ParameterReader(scanner: scanner, members: scanner.parameters, prefix: "")
      try reader.refuseOthers(than: method.parameterNames)
      return reader
    case .array, .string, .number, .bool, .null:
      throw RequestRefusal(
        code: .invalidParams, message: "\"params\" must be an object, with members by name, or left out",
        details: [.init("field", .text("params")), .init("expected", .text("an object"))])
    }
  }

  private static func request(
    _ method: ProtocolMethod, _ params: ParameterReader
  ) throws(RequestRefusal) -> ClientRequest {
    switch method {
    case .acquire: return .acquire(try acquire(params))
    case .release: return .release(name: try params.lockName(), token: try params.token())
    case .extend: return try extend(params)
    case .downgrade: return .downgrade(name: try params.lockName(), token: try params.token())
    case .transfer: return try transfer(params)
    case .cancel: return .cancel(try target(params))
    case .inspect: return .inspect(name: try params.lockName())
    case .list: return .list(try list(params))
    case .initialize: return .initialize(try initialize(params))
    case .watch: return .watch(WatchParams(try params.watchTarget(), scope: try scope(params)))
    case .unwatch: return .unwatch(try watch(params))
    case .break: return try breaking(params)
    case .kill:
      return .kill(
        session: try session(params), reason: try params.string("reason", bytes: 0...Limits.breakReasonBytesMax))
    case .clients: return .clients(try page(params))
    case .hosts: return .hosts(try page(params))
    case .ping: return .ping
    case .stats: return .stats
    case .redis: return .redis
    case .rpcDiscover: return .rpcDiscover
    case .trace: return .trace(try traced(params))
    }
  }

  private static func acquire(_ params: ParameterReader) throws(RequestRefusal) -> AcquireParams {
    let name = try params.lockNameIfAny()
    var acquire = AcquireParams(name: name ?? LockName(bytes: []))
    var others = params.members.count - (name == nil ? 0 : 1)
    if others == 0, name != nil { return acquire }
    acquire.waitMilliseconds = try params.integer("wait_ms", 0...Limits.waitMillisecondsMax)
    if acquire.waitMilliseconds != nil { others -= 1 }
    if others == 0, name != nil { return acquire }
    acquire.maxHoldMilliseconds = try params.integer("max_hold_ms", 1...Limits.maxHoldMillisecondsMax)
    acquire.meta = try params.string("meta", bytes: 0...Limits.metaBytesMax)
    let progress = try params.bool("progress")
    acquire.progress = progress ?? false
    others -= (acquire.maxHoldMilliseconds == nil ? 0 : 1) + (acquire.meta == nil ? 0 : 1) + (progress == nil ? 0 : 1)
    if others == 0, name != nil { return acquire }
    acquire.more = try acquireOptions(params, hasName: name != nil)
    return acquire
  }

  private static let modes: [(StaticString, HoldMode)] = [("exclusive", .exclusive), ("shared", .shared)]
  private static let durabilities: [(StaticString, Durability)] = [("memory", .memory), ("disk", .disk)]
  private static let lossWords: [(StaticString, LossAction)] = [
    ("notify", .notify), ("terminate", .terminate), ("kill", .kill),
  ]

  private static func acquireOptions(
    _ params: ParameterReader, hasName: Bool
  ) throws(RequestRefusal) -> AcquireOptions? {
    let names = try params.lockNames()
    if hasName, names != nil {
      throw params.refusal("names", "excludes \"name\"; give one of the two", expected: "nothing beside name")
    }
    if !hasName, names == nil {
      throw params.missing(
        "name", expected: "\(ParameterReader.describe(bytes: 1...Limits.nameBytesMax)), or \"names\", a list of them")
    }
    let word = try params.word("mode", modes)
    let permits = try params.integer("permits", 1...Limits.permitsMax)
    if word != nil, permits != nil {
      throw params.refusal(
        "permits", "excludes \"mode\": a name is a lock or a semaphore", expected: "nothing beside mode")
    }
    let owner = try params.string("owner", bytes: 1...Limits.ownerBytesMax)
    let onLost = try params.word("on_lost", lossWords)
    let replicas = try params.integer("replicas", 0...Int64(ReplicaNeed.replicasMax))
    let need = ReplicaNeed(
      replicas: Int(replicas ?? 0), durability: try params.word("durability", durabilities) ?? .memory)
    let mode = permits.map { HoldMode.permit(of: $0) } ?? word ?? .exclusive
    if names == nil, mode == .exclusive, owner == nil, onLost ?? .notify == .notify, need.isNone { return nil }
    return AcquireOptions(names: names, mode: mode, owner: owner, onLost: onLost ?? .notify, need: need)
  }

  private static func transfer(_ params: ParameterReader) throws(RequestRefusal) -> ClientRequest {
    let name = try params.lockName()
    let token = try params.token()
    return .transfer(name: name, token: token, session: try session(params))
  }

  private static func session(_ params: ParameterReader) throws(RequestRefusal) -> String {
    if let session = try params.string("session", bytes: 1...Limits.sessionBytesMax) { return session }
    throw params.missing("session", expected: "the name of a session of this host, as initialize tells it")
  }

  private static func traced(_ params: ParameterReader) throws(RequestRefusal) -> TraceTarget {
    let targets = [
      try params.string("session", bytes: 1...Limits.sessionBytesMax).map { TraceTarget.session($0) },
      try params.integer("pid", 1...Int64(Int32.max)).map { TraceTarget.process($0) },
      try params.lockNameIfAny().map { TraceTarget.lock($0) },
    ].compactMap(\.self)
    let expected = "one of \"session\", \"pid\" and \"name\""
    guard let target = targets.first else { throw params.missing("session", expected: expected) }
    guard targets.count == 1 else {
      throw params.refusal(params.has("name") ? "name" : "pid", "is one too many; give \(expected)", expected: expected)
    }
    return target
  }

  private static func watch(_ params: ParameterReader) throws(RequestRefusal) -> Int64 {
    if let watch = try params.integer("watch", 1...Limits.integerMax) { return watch }
    throw params.missing("watch", expected: "the number that the answer to watch told")
  }

  private static func breaking(_ params: ParameterReader) throws(RequestRefusal) -> ClientRequest {
    .break(
      name: try params.lockName(), token: try params.token(),
      reason: try params.string("reason", bytes: 0...Limits.breakReasonBytesMax))
  }

  private static func extend(_ params: ParameterReader) throws(RequestRefusal) -> ClientRequest {
    let name = try params.lockName()
    let token = try params.token()
    let range = 1...Limits.maxHoldMillisecondsMax
    switch params.value("max_hold_ms") {
    case nil:
      throw params.missing("max_hold_ms", expected: "\(ParameterReader.describe(range)), or null for no limit")
    case .null: return .extend(name: name, token: token, maxHoldMilliseconds: nil)
    case .number, .string, .bool, .object, .array:
      return .extend(name: name, token: token, maxHoldMilliseconds: try params.integer("max_hold_ms", range))
    }
  }

  /// The id of the request that a `cancel` is about.
  private static func target(_ params: ParameterReader) throws(RequestRefusal) -> MessageID {
    let expected = "the id of a request: an integer, or a string of up to \(Limits.idBytesMax) bytes"
    switch params.value("id") {
    case nil: throw params.missing("id", expected: expected)
    case .number(.integer(let number)): return .integer(number)
    case .string(let token) where token.decodedCount <= Limits.idBytesMax: return .string(params.scanner.decode(token))
    case .string:
      throw params.refusal("id", "must be \(expected)", expected: expected, limit: Int64(Limits.idBytesMax))
    case .number(.outOfRange):
      throw params.refusal("id", "must be \(expected)", expected: expected, limit: Limits.integerMax)
    case .number(.fraction), .null, .bool, .object, .array:
      throw params.refusal("id", "must be \(expected)", expected: expected)
    }
  }

  private static func list(_ params: ParameterReader) throws(RequestRefusal) -> ListParams {
    let prefix = try params.bytes("prefix", bytes: 0...Limits.nameBytesMax)
    let scope = try scope(params)
    let page = try page(params)
    return ListParams(prefix: prefix, scope: scope, limit: page.limit, cursor: page.cursor)
  }

  private static func scope(_ params: ParameterReader) throws(RequestRefusal) -> HostScope {
    try params.word("scope", [("host", .host), ("all", .all)]) ?? .host
  }

  private static func page(_ params: ParameterReader) throws(RequestRefusal) -> PageParams {
    PageParams(
      limit: Int(try params.integer("limit", 1...Limits.listCountMax) ?? Limits.listCountDefault),
      cursor: try params.string("cursor", bytes: 0...Limits.cursorBytesMax))
  }

  private static func initialize(_ params: ParameterReader) throws(RequestRefusal) -> InitializeParams {
    let client = try params.object("client", prefix: "client.", known: ["name", "version"])
    let text = 1...Limits.clientTextBytesMax
    let keepalive = Limits.keepaliveMillisecondsMin...Limits.keepaliveMillisecondsMax
    let endsKeepalive =
      switch params.value("keepalive_ms") {
      case .null: true
      case nil, .number, .string, .bool, .object, .array: false
      }
    return InitializeParams(
      clientName: try client?.string("name", bytes: text),
      clientVersion: try client?.string("version", bytes: text),
      protocolVersion: try params.integer("protocol", 1...Limits.integerMax),
      lifetime: try params.word("lifetime", [("socket", .socket), ("process", .process)]) ?? .socket,
      keepaliveMilliseconds: endsKeepalive ? nil : try params.integer("keepalive_ms", keepalive),
      endsKeepalive: endsKeepalive,
      halfClose: try params.word("half_close", [("end", .end), ("hold", .hold)]),
      acceptsTransfers: try params.bool("accept_transfers"))
  }
}
