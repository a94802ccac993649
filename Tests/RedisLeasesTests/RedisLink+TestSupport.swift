import LockEngine
import LockTypes
import RESP

@testable import RedisLeases

/// A link, and a server that reads what it sends and answers when it is told to.
struct ScriptedLink {
  /// A command as the server reads it: `acquire a`, `renew a b`, `PING`.
  struct Asked: Equatable {
    var words: String
    /// The server's answer, unless a test has another one.
    var answer: String
  }

  static let timeoutMilliseconds: Int64 = 1000
  static let handshakeMilliseconds: Int64 = 1200
  private static let encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "a", instance: "1f")

  var machine: RedisLinkMachine
  var now = BootInstant(nanoseconds: 1_000_000_000)
  /// The connection that is there, or that was there last.
  var number: UInt64 = 0
  /// What the server has read and not answered.
  var asked: [Asked] = []
  /// What connections log in with.
  var login = RedisLogin()
  private let hasProbe: Bool

  /// - Parameter hasProbe: whether the rights of the user are tried.
  init(hasProbe: Bool = false) {
    self.hasProbe = hasProbe
    machine = RedisLinkMachine(
      configuration: RedisConnectionConfiguration(
        clientName: "sidelock", inbox: Self.encoder.inboxChannel, scripts: RedisScript.leases,
        probe: hasProbe ? Self.encoder.probe : nil),
      encoder: Self.encoder, timeoutMilliseconds: Self.timeoutMilliseconds)
  }

  /// A link that is up, and whose server has shown that it answers.
  static func proven(login: RedisLogin = RedisLogin(), hasProbe: Bool = false) -> ScriptedLink {
    var link = ScriptedLink(hasProbe: hasProbe)
    link.login = login
    link.number = link.machine.start() ?? 0
    _ = link.up()
    link.read()
    _ = link.answer()
    return link
  }

  // MARK: The connection

  /// The connection that was begun is made.
  mutating func connect() {
    _ = machine.connected(number, login: login, handshakeMilliseconds: Self.handshakeMilliseconds, now: now)
    asked = []
  }

  /// Connects and does the handshake; gives the events.
  mutating func up() -> [RedisLinkMachine.Event] {
    beginHandshake()
    return hear(Self.subscribed)
  }

  /// Connects, and does the handshake up to its last word. It is another run of the server each time, so that it has no
  /// connection of before.
  mutating func beginHandshake() {
    connect()
    _ = hear(Self.replies(run: 10_000_000 + number))
    if hasProbe { _ = hear("$40\r\n\(String(repeating: "e", count: 40))\r\n*0\r\n") }
    machine.drainOutput { _ in }
  }

  /// The server's answers in the handshake, but for the last.
  static func replies(run: UInt64) -> String {
    "%5\r\n+server\r\n+redis\r\n+version\r\n+7.0.15\r\n+proto\r\n:3\r\n+id\r\n:8\r\n+mode\r\n+standalone\r\n"
      + "$15\r\nrun_id:\(run)\r\n%0\r\n"
      + RedisScript.leases.indices.map { "$40\r\n\(String(repeating: String($0, radix: 16), count: 40))\r\n" }.joined()
  }

  /// The last one.
  static let subscribed =
    ">3\r\n+subscribe\r\n$\(encoder.inboxChannel.count)\r\n\(text(encoder.inboxChannel))\r\n:1\r\n"

  static func info(run: UInt64, previousClient: RedisReadyInfo.PreviousClient = .none) -> RedisReadyInfo {
    RedisReadyInfo(
      server: "redis", version: "7.0.15", mode: "standalone", client: RedisClientIdentity(id: 8, runID: "\(run)"),
      previousClient: previousClient, evictionPolicy: nil)
  }

  static func message(_ payload: String) -> String {
    ">3\r\n$7\r\nmessage\r\n$\(encoder.inboxChannel.count)\r\n\(text(encoder.inboxChannel))\r\n"
      + "$\(payload.utf8.count)\r\n\(payload)\r\n"
  }

  /// Ends the connection and begins the next one at once.
  mutating func end(_ reason: String = "gone", random: UInt64 = 0) -> RedisLinkMachine.Outage? {
    let outage = machine.ended(number, reason: reason, isRoundOver: true, random: random)
    if let outage, let next = machine.retryDue(outage.number) { number = next }
    return outage
  }

  // MARK: Bytes

  /// The server says `wire`; gives the events.
  mutating func hear(_ wire: String) -> [RedisLinkMachine.Event] { hear(Array(wire.utf8)) }

  mutating func hear(_ wire: [UInt8]) -> [RedisLinkMachine.Event] {
    wire.withUnsafeBytes { machine.received($0, from: number, now: now) }
    return events()
  }

  mutating func events() -> [RedisLinkMachine.Event] {
    var events: [RedisLinkMachine.Event] = []
    while let event = machine.nextEvent(now: now) { events.append(event) }
    return events
  }

  /// The server reads what was sent; gives what is new.
  @discardableResult
  mutating func read() -> [String] {
    var decoder = RESPDecoder()
    machine.drainOutput { decoder.append($0) }
    var words: [String] = []
    while let value = try? decoder.next() {
      let command = Self.asked((value.elements ?? []).compactMap(\.bytes).map(text))
      asked.append(command)
      words.append(command.words)
    }
    return words
  }

  private static func asked(_ parts: [String]) -> Asked {
    switch parts.first {
    case "AUTH": return Asked(words: parts.joined(separator: " "), answer: "+OK\r\n")
    case "SCRIPT": return Asked(words: "load", answer: "$40\r\n\(String(repeating: "e", count: 40))\r\n")
    case "EVALSHA" where parts[1] == text(encoder.probe.digest): return Asked(words: "probe", answer: "*0\r\n")
    case _: break
    }
    guard parts.first == "EVALSHA", let digit = parts[1].first?.hexDigitValue, let keyCount = Int(parts[2]) else {
      return Asked(words: parts.joined(separator: " "), answer: parts == ["PING"] ? "+PONG\r\n" : ":1\r\n")
    }
    let script = RedisScript.leases[digit].name
    let names = parts[3..<(3 + keyCount)].filter { $0.hasSuffix("}") }.map { $0.dropFirst(4).dropLast() }
    let words = "\(script.rawValue) \(names.joined(separator: " "))"
    switch script {
    case .acquire: return Asked(words: words, answer: "*4\r\n$7\r\ngranted\r\n:7\r\n:65536\r\n:0\r\n")
    case .renew: return Asked(words: words, answer: "*\(keyCount)\r\n" + String(repeating: ":1\r\n", count: keyCount))
    default: return Asked(words: words, answer: ":1\r\n")
    }
  }

  /// The server answers the first commands that it has read; gives the events.
  mutating func answer(_ count: Int = 1) -> [RedisLinkMachine.Event] {
    let wire = asked.prefix(count).map(\.answer).joined()
    asked.removeFirst(min(count, asked.count))
    return hear(wire)
  }

  // MARK: Commands

  mutating func acquire(_ id: UInt64, _ name: String, of user: UInt32? = nil) {
    machine.submit(
      .acquire(name: LockName(name), attempt: id, ask: id, isTry: false, terms: GrantTerms(tokenFloor: 0)),
      id: CommandID(id), of: user,
      now: now)
  }

  mutating func release(_ id: UInt64, _ name: String, of user: UInt32? = nil) {
    machine.submit(.release(name: LockName(name), attempt: id, unused: .all), id: CommandID(id), of: user, now: now)
  }

  mutating func renew(_ id: UInt64, _ names: String...) {
    let leases = names.map { LeaseReference(name: LockName($0), attempt: id) }
    machine.submit(.renew(leases), id: CommandID(id), of: nil, now: now)
  }

  mutating func reclaim(_ id: UInt64, _ names: String...) {
    let leases = names.map {
      ReclaimedLease(
        name: LockName($0), attempt: id, mode: .exclusive, firstToken: 1, tokenCount: 1, mayReplace: true)
    }
    machine.submit(.reclaim(leases, leaseMilliseconds: 1000, epoch: .none), id: CommandID(id), of: nil, now: now)
  }

  mutating func confirmEpoch(_ id: UInt64) {
    let claim = EpochClaim(
      attempt: id, known: .none, isFirstOfLink: true, longestLeaseMilliseconds: 1, graceMilliseconds: 1, tokenFloor: 0,
      waitedMilliseconds: 0, mayBeFirst: true)
    machine.submit(.confirmEpoch(claim), id: CommandID(id), of: 1000, now: now)
  }

  mutating func query(_ id: UInt64, _ words: String, of user: UInt32? = nil, weight: Int = 1) -> Bool {
    let parts = words.split(separator: " ").map { Array($0.utf8) }
    return machine.query(.plain(parts), id: id, of: user, weight: weight, now: now)
  }

  /// Acquires, until nothing more may be in flight; their ids are 1…1024, and their names `f1`….
  mutating func fill() {
    for id in 1...UInt64(1024) { acquire(id, "f\(id)", of: 1 + UInt32((id - 1) / 256)) }
  }

  mutating func pass(milliseconds: Int64) { now = now.adding(milliseconds: milliseconds) }

  mutating func checkLiveness(answerMilliseconds: Int64 = 0) -> RedisLinkMachine.Ending? {
    machine.checkLiveness(answerMilliseconds: answerMilliseconds, now: now)
  }
}

func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

extension RedisLinkMachine.Event {
  /// The event in a word, for scripts.
  var words: String {
    switch self {
    case .up: "up"
    case .reply(let id, .failed, _): "\(id.rawValue) failed"
    case .reply(let id, _, _): "\(id.rawValue) replied"
    case .answered(let id, _): "query \(id) answered"
    case .refused(_, let command, _): "\(command) refused"
    case .message(let payload): "message \(text(payload))"
    case .proved: "proved"
    case .sent(let id, _): "\(id.rawValue) sent"
    case .login(.done): "login"
    case .login(.refused(let failure)): "login refused: \(failure.message)"
    case .login(.lacksRights(let failure)): "rights missing: \(failure.message)"
    case .ended(let ending): "ended: \(ending.reason)"
    }
  }
}

extension [RedisLinkMachine.Event] {
  var words: [String] { map(\.words) }
}
