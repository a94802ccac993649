import SystemStrings

/// The client's half of the protocol without any I/O: it numbers and writes requests, cuts input into lines, and says
/// what each line means.
package struct ClientMachine: Sendable {
  /// The longest line that is taken from a daemon, in bytes. The protocol promises 64 KiB; only the description of
  /// the protocol itself may be longer.
  package static let lineBytesMax = 1 << 20

  /// What a line says.
  package enum Event: Hashable, Sendable {
    /// The reply to a request.
    case reply(id: Int64, Result<JSONValue, SidelockError>)
    /// A hold is lost.
    case lost(LostNotice)
    /// Any other notification.
    case notification(method: String, params: JSONValue)
    /// The peer has not said anything of the protocol yet, and says something else; a line has no end; or the peer
    /// refused a line under a null id. The connection is of no more use.
    case violated(SidelockError)
  }

  private var lastID: Int64 = 0
  private var buffer: [UInt8] = []
  /// Bytes of `buffer` that are known to hold no line end: a line which comes in small pieces is searched once.
  private var searched = 0
  private var isViolated = false
  /// Whether a message of the protocol has come. From then on a line that is none is passed over: it costs no lock.
  private var hasSpoken = false

  /// A machine for a new connection.
  package init() {}

  /// Writes a request under the next id.
  package mutating func request(_ method: String, _ params: JSONValue?) -> (id: Int64, line: [UInt8]) {
    lastID += 1
    var message = JSONObject()
    message.append("jsonrpc", "2.0")
    message.append("id", .int(lastID))
    message.append("method", .string(method))
    if let params { message.append("params", params) }
    return (lastID, Self.line(message))
  }

  /// Writes the notification that cancels the request `id`.
  package func cancellation(of id: Int64) -> [UInt8] {
    var message = JSONObject()
    message.append("jsonrpc", "2.0")
    message.append("method", "cancel")
    message.append("params", ["id": .int(id)])
    return Self.line(message)
  }

  private static func line(_ message: JSONObject) -> [UInt8] {
    var bytes: [UInt8] = []
    JSONValue.object(message).write(to: &bytes)
    bytes.append(0x0A)
    return bytes
  }

  /// Takes bytes that came in. After ``Event/violated(_:)`` nothing more comes out.
  package mutating func received(_ bytes: some Sequence<UInt8>) -> [Event] {
    guard !isViolated else { return [] }
    buffer.append(contentsOf: bytes)
    var events: [Event] = []
    var start = 0
    while let end = buffer[searched...].firstIndex(of: 0x0A) {
      let line = interpret(buffer[start..<end])
      start = end + 1
      searched = start
      let problem: SidelockError
      switch line {
      case .event(let event):
        hasSpoken = true
        events.append(event)
        continue
      case .empty: continue
      case .nonsense where hasSpoken: continue
      case .nonsense(let what): problem = Self.violation(what)
      case .refusal(let error): problem = error
      }
      isViolated = true
      events.append(.violated(problem))
      buffer = []
      searched = 0
      return events
    }
    buffer.removeFirst(start)
    searched = buffer.count
    if buffer.count > Self.lineBytesMax {
      isViolated = true
      events.append(.violated(Self.violation("a line of more than \(Self.lineBytesMax) bytes")))
      buffer = []
      searched = 0
    }
    return events
  }

  private static func violation(_ what: String) -> SidelockError {
    SidelockError(reason: .protocolViolation, message: "the peer does not speak sidelock's protocol: \(what)")
  }

  private enum Line {
    case event(Event)
    case empty
    case nonsense(String)
    /// Without saying of what: that request would wait for ever.
    case refusal(SidelockError)
  }

  private func interpret(_ line: ArraySlice<UInt8>) -> Line {
    if line.allSatisfy({ $0 == 0x20 || $0 == 0x0D || $0 == 0x09 }) { return .empty }
    let message: JSONValue
    do {
      message = try JSONValue(parsing: line)
    } catch {
      return .nonsense("\(error)")
    }
    guard case .object(let object) = message else { return .nonsense("a message that is no object") }
    if let method = object["method"] {
      guard let method = method.stringValue else { return .nonsense("a method that is no string") }
      let params = object["params"] ?? .null
      if method == "lost", let notice = LostNotice(params: params) { return .event(.lost(notice)) }
      return .event(.notification(method: method, params: params))
    }
    guard let id = object["id"]?.intValue else {
      if object["id"]?.isNull ?? true, let error = object["error"] { return .refusal(SidelockError(reply: error)) }
      return .nonsense("a message with neither method nor id")
    }
    if let error = object["error"] { return .event(.reply(id: id, .failure(SidelockError(reply: error)))) }
    guard let result = object["result"] else {
      return .event(.reply(id: id, .failure(Self.violation("a reply with neither result nor error"))))
    }
    return .event(.reply(id: id, .success(result)))
  }
}

/// The notice that a hold is lost.
public struct LostNotice: Hashable, Sendable {
  /// The lock.
  public var name: String
  /// The token of the hold.
  public var token: Int64
  /// The stable name of the reason: `lease_expired`, which the client finds, too, where the daemon does not answer; `broken`,
  /// `max_hold`, `data_loss`, `half_closed`, `shutdown`; or, found by the client, `connection_ended`.
  public var reason: String
  /// How many milliseconds after the notice another could be granted the lock, at the earliest; nil when not known.
  public var graceMilliseconds: Int64?
  /// With `broken`: the administrator's words; nil where there are none.
  public var detail: String?

  /// Compares texts byte for byte: names of locks are bytes.
  public static func == (a: LostNotice, b: LostNotice) -> Bool {
    a.token == b.token && a.graceMilliseconds == b.graceMilliseconds && ExactText.isSame(a.name, b.name)
      && ExactText.isSame(a.reason, b.reason) && ExactText.isSame(a.detail, b.detail)
  }

  /// Hashes what tells most of them apart.
  public func hash(into hasher: inout Hasher) {
    hasher.combine(ExactText(name))
    hasher.combine(token)
  }

  /// A notice.
  public init(
    name: String, token: Int64, reason: String, graceMilliseconds: Int64? = nil, detail: String? = nil
  ) {
    self.name = name
    self.token = token
    self.reason = reason
    self.graceMilliseconds = graceMilliseconds
    self.detail = detail
  }

  init?(params: JSONValue) {
    guard let name = params["name"]?.stringValue, let token = params["token"]?.intValue else { return nil }
    self.init(
      name: name, token: token, reason: params["reason"]?.stringValue ?? "unknown",
      graceMilliseconds: params["grace_ms"]?.intValue,
      detail: params["detail"]?.stringValue.flatMap { $0.isEmpty ? nil : $0 })
  }
}
