import CSupervise
import SidelockClient

/// What the page is told of the daemon. Each answer has a connection of its own, and may take a while; so the page goes
/// on when the daemon is another one.
struct DashboardSource: Sendable {
  /// The daemon's socket, as ``ConnectionOptions/path`` gives it.
  let socket: String
  /// How long the daemon may take for all of a look.
  var milliseconds = DaemonConnection.answerMilliseconds

  /// Locks that are looked through in one look.
  static let locksMax = 20_000
  /// Locks that are told of in one answer.
  static let shownMax = 1000
  /// Locks of which it is told who waits for them: those that most wait for.
  static let waitsMax = 40

  /// What the page may ask.
  enum Call: String, Sendable {
    /// Figures, locks, and who waits.
    case look
    /// The hosts that share Redis.
    case hosts
    /// To break a lock.
    case `break`
  }

  func answer(to call: Call, _ params: JSONValue) -> WebAnswer {
    do {
      switch call {
      case .look: return Self.json(try look(params))
      case .hosts:
        let hosts = try TimedConnection(socket: socket, milliseconds: milliseconds).pages(of: "hosts")
        return Self.json(["hosts": .array(hosts)])
      case .break: return Self.json(try breaking(params))
      }
    } catch let error as SidelockError {
      return Self.refusal(error)
    } catch let error {
      return Self.json(Self.told("invalid", "\(error)"), status: 400)
    }
  }

  /// What is wrong with what the page asks.
  private struct Invalid: Error, CustomStringConvertible {
    var description: String
  }

  // MARK: A look

  private struct Wish {
    var allHosts = false
    var filter = ""
    var order = ListCommand.Order.held
    var count = 100
    var name: String?

    init(_ params: JSONValue) throws {
      for member in params.objectValue?.members ?? [] {
        switch (member.key, member.value) {
        case ("all", .bool(let flag)): allHosts = flag
        case ("filter", .string(let words)): filter = words
        case ("sort", .string(let word)):
          guard let known = ListCommand.Order(rawValue: word) else { throw Invalid(description: "no such sort") }
          order = known
        case ("count", .int(let number)): count = Int(max(1, min(number, Int64(DashboardSource.shownMax))))
        case ("inspect", .string(let text)): name = text
        case ("inspect", .null): break
        case (let key, _): throw Invalid(description: "\(printable(key)) is not known, or of another kind")
        }
      }
    }
  }

  private func look(_ params: JSONValue) throws -> JSONValue {
    let wish = try Wish(params)
    let daemon = try TimedConnection(socket: socket, milliseconds: milliseconds)
    let (server, stats) = (try daemon.call("initialize"), try daemon.call("stats"))
    var look = JSONObject()
    look.append("at", .int(supervise_boot_milliseconds()))
    for key in ["host", "instance", "backend", "lease_ms"] { look.append(key, server[key] ?? .null) }
    look.append("version", server["server"]?["version"] ?? .null)
    let verdict = HealthCommand.Verdict(stats: stats, isReadiness: true)
    look.append("state", .string(verdict.state.rawValue))
    look.append("why", .string(verdict.why))
    look.append("stats", stats)
    // Redis may be away, or refuse; the figures are here.
    var locks: [LockDescription] = []
    var trouble = JSONValue.null
    do {
      locks = try daemon.locks(allHosts: wish.allHosts, max: Self.locksMax)
    } catch let error as SidelockError where error.code > 0 {
      trouble = .string(printable(ErrorWords.text(error)))
    }
    look.append("trouble", trouble)
    append(locks, wish, daemon, to: &look)
    return .object(look)
  }

  private func append(_ locks: [LockDescription], _ wish: Wish, _ daemon: TimedConnection, to look: inout JSONObject) {
    var users = KnownUsers()
    let chosen = ListCommand.sorted(locks.filter { $0.mentions(wish.filter) }, by: wish.order)
    look.append("locks", .array(chosen.prefix(wish.count).map { users.named(inLock: $0.json) }))
    look.append("matching", .int(Int64(chosen.count)))
    look.append("known", .int(Int64(locks.count)))
    look.append("isCut", .bool(locks.count >= Self.locksMax))
    let awaited = ListCommand.sorted(locks.filter { $0.waiting > 0 }, by: .waiting)
    look.append("awaited", .int(Int64(awaited.count)))
    var names = awaited.prefix(Self.waitsMax).map(\.name)
    if let name = wish.name { names.append(name) }
    // Another host may let them wait.
    var replies = daemon.replies(to: names.map { ("inspect", ["name": .string($0)]) }, within: milliseconds / 2)
    if let name = wish.name {
      // Why there is no answer is told by one more question.
      look.append("inspected", inspected(name, replies.removeLast(), daemon, &users))
    }
    look.append("waits", .array(replies.compactMap { $0.map { users.named(inLock: $0) } }))
  }

  private func inspected(
    _ name: String, _ reply: JSONValue?, _ daemon: TimedConnection, _ users: inout KnownUsers
  ) -> JSONValue {
    if let reply { return users.named(inLock: reply) }
    do throws(SidelockError) {
      return users.named(inLock: try daemon.call("inspect", ["name": .string(name)]))
    } catch {
      return Self.told(error.reason.rawValue, printable(ErrorWords.text(error)))
    }
  }

  // MARK: Breaking a lock

  private func breaking(_ params: JSONValue) throws -> JSONValue {
    for member in params.objectValue?.members ?? [] where !["name", "token", "reason"].contains(member.key) {
      throw Invalid(description: "\(printable(member.key)) is not known")
    }
    guard let name = params["name"]?.stringValue else { throw Invalid(description: "name is missing") }
    let token = params["token"]?.intValue
    let reason = params["reason"]?.stringValue.flatMap { $0.isEmpty ? nil : $0 }
    // Hosts that do not answer are waited for; how long the daemon decides.
    let daemon = try DaemonConnection(socket: socket)
    daemon.endsWithOutput = false
    let result = try SidelockError.tellingWhatMayBeDone("break") {
      try daemon.call("break", BreakCommand.params(name: name, token: token, reason: reason))
    }
    let broken = result["broken"]?.arrayValue ?? []
    let warnings = (result["taken"]?.arrayValue ?? []).map { BreakCommand.warning(of: $0) }
    let words =
      broken.isEmpty && warnings.isEmpty
      ? BreakCommand.nobody(holds: name, under: token)
      : "\(printable(name)) is taken from \(broken.count + warnings.count) holder\(broken.count + warnings.count == 1 ? "" : "s")"
    return [
      "broken": .array(broken), "words": .string(words), "warnings": .array(warnings.map { .string($0) }),
    ]
  }

  // MARK: Answers

  private static func json(_ value: JSONValue, status: Int = 200) -> WebAnswer {
    WebAnswer(status: status, type: "application/json", text: value.serialized + "\n")
  }

  /// An error with its stable name, and in words.
  private static func told(_ reason: String, _ words: String) -> JSONValue {
    ["error": ["reason": .string(reason), "words": .string(words)]]
  }

  /// 503 where the daemon cannot be asked, and 409 for what it refuses.
  private static func refusal(_ error: SidelockError) -> WebAnswer {
    let isAway = [.noDaemon, .noAnswer, .connectionLost, .shuttingDown].contains(error.reason)
    return json(told(error.reason.rawValue, printable(ErrorWords.text(error))), status: isAway ? 503 : 409)
  }
}
