internal import DequeModule
public import LockEngine
public import LockTypes
public import RESP

/// Finds out how many replicas have what Redis has done, as a state machine without I/O. It has a connection of its own,
/// since WAIT blocks the connection that it is sent on.
///
/// WAIT counts the replicas that have everything up to the last write of its own connection. So a round writes something
/// small first, behind whatever the questions are about, and one round answers for all of them. While it is under way new
/// questions gather for the next one. But to Redis 7.0 each command is a write: a further WAIT is about all that anybody has
/// written before the one ahead of it. A replica that takes longer than one WAIT lasts is never counted while others write.
///
/// So there are two of these, with a connection each. The WAITs of the first are short: who asks for more replicas than there
/// are, or for one that is slower than others, delays nobody for longer. What it does not answer in that time it passes on
/// (``passesOn``) to the second, whose WAITs last until they are answered, or until it is time for others.
///
/// ```
/// question ─▶ SET, WAIT 1 ── 1 or more ─▶ answered
///              ▲     │ fewer                                      ── the time of a question is over ─▶ answered: too few
///              │     ├─▶ the first: passed on to the second
///              │     └─▶ the second: WAIT n again ──┐
///              │              ▲                      │ nobody else asks
///              │              └──────────────────────┤
///              └─────────────────────────────────────┘ others ask, and this round has had its time
/// ```
///
/// The connection has to lead to the very process that the link leads to, which INFO shows. When the link goes down nothing
/// is known any more.
public struct ReplicaRounds: Sendable {
  /// The longest WAIT of the first, in milliseconds, and the time of its rounds.
  public static let waitMilliseconds: Int64 = 50
  /// How long a round of the second lasts beside which others ask, in milliseconds, unless nobody was answered by the one before.
  static let patienceMilliseconds: Int64 = 1000

  /// What the server says of its replicas.
  public struct Facts: Equatable, Sendable {
    /// How many are connected; nil: it does not tell.
    public var connected: Int?
    /// With how many it takes writes at all (`min-replicas-to-write`); nil: it does not tell.
    public var leastToWrite: Int?
  }

  /// Whether that many replicas have what the link was answered when it was asked.
  public struct Question: Equatable, Sendable {
    /// Which one it is.
    public var id: AcknowledgementID
    /// How many have to have it.
    public var replicas: Int
    /// When it is too late.
    public var until: BootInstant
    /// How many are known to have it.
    public var known: Int

    /// A question.
    public init(id: AcknowledgementID, replicas: Int, until: BootInstant, known: Int = 0) {
      self.id = id
      self.replicas = replicas
      self.until = until
      self.known = known
    }
  }

  private enum State: Sendable {
    case none
    /// A connection is wanted, and nobody makes it yet.
    case wanted
    case connecting
    case handshaking
    case ready
    /// The connection is over; the next one has to wait.
    case pausing(until: BootInstant)
  }

  /// What was sent and is not answered, in order.
  private enum Sent: Sendable {
    case write, wait(replicas: Int)
    case replication, leastToWrite
  }

  private struct Round: Sendable {
    /// Questions up to this one were there when it was written.
    let covers: AcknowledgementID
    let at: BootInstant
    /// The most replicas that had it so far; -1: not even the primary's disk.
    var replicas = -1
    /// A WAIT has ended with fewer than it waited for.
    var hasTimedOut = false
    /// How long after it was written somebody was answered last, in milliseconds.
    var answeredAfter: Int64?
    /// The longest that others are kept waiting for it, in milliseconds: half of what the last one who asked has.
    let longest: Int64
    /// Why it was not written.
    var refusal: String?
  }

  private let durability: Durability
  /// What is written to before it is asked who has it.
  public var key: [UInt8]
  private var configuration: RedisConnectionConfiguration
  private var connection: RedisConnection
  private var state = State.none
  private var sent: Deque<Sent> = []
  private var lastCommand: UInt64 = 0
  /// By when something has to be answered.
  private var answerDue: BootInstant?
  private var backoff = LinkBackoff()

  /// Whether the link is up, and which run of the server it leads to.
  private var link: (isUp: Bool, run: String?) = (false, nil)
  /// Questions that are not answered, with the number of replicas that each needs, and that of those that are known to have it.
  private var open: [AcknowledgementID: (need: Int, known: Int)] = [:]
  /// The same by that number, in their order, and some that are answered.
  private var byNeed = [Deque<AcknowledgementID>](repeating: [], count: ReplicaNeed.replicasMax + 1)
  /// The same by their ends, and some that are answered.
  private var ends: Deque<(id: AcknowledgementID, until: BootInstant)> = []
  private var settled: Deque<(AcknowledgementID, AcknowledgementAnswer)> = []
  private var last = AcknowledgementID(0)
  private var round: Round?
  /// How long a round lasts that answers nobody, in milliseconds.
  private var patience = ReplicaRounds.patienceMilliseconds
  /// The longest that the server may keep back the answer to what was sent, in milliseconds.
  private var keptBack: Int64 = 0
  /// What was found out, and what of it is not given yet.
  private var seen = Facts()
  private var facts: Facts?

  /// Why there is no connection; nil where there is one, or none was needed.
  public private(set) var trouble: String?
  /// How long the server may take to answer, in milliseconds.
  public var timeoutMilliseconds: Int64
  /// Whether to connect before anybody asks, and to find out the ``Facts``.
  public var isExpected = false
  /// Whether questions are passed on that a round has not answered when it gives way.
  public let passesOn: Bool
  private var passedOn: Deque<Question> = []

  /// For questions of that kind. `configuration` names neither an inbox nor scripts.
  public init(
    _ durability: Durability, passesOn: Bool, key: [UInt8], configuration: RedisConnectionConfiguration,
    timeoutMilliseconds: Int64
  ) {
    self.durability = durability
    self.passesOn = passesOn
    self.key = key
    self.configuration = configuration
    self.timeoutMilliseconds = timeoutMilliseconds
    connection = RedisConnection(configuration: configuration)
  }
}

// MARK: - Questions

extension ReplicaRounds {
  /// The link is up; `run`: which run of the server it leads to, nil where that is not known.
  public mutating func linkUp(run: String?) {
    link = (true, run)
    trouble = nil
    wantIfNeeded()
  }

  /// The link is down. The connection is to be closed.
  public mutating func linkDown() {
    link = (false, nil)
    state = .none
    forgetConnection()
    for id in open.keys.sorted() { settled.append((id, .unknown)) }
    forgetQuestions()
  }

  /// Asks whether so many replicas have all that the link was answered by now, until then.
  public mutating func ask(_ question: Question) {
    let id = question.id
    guard link.isUp else { return settled.append((id, .unknown)) }
    let need = min(max(question.replicas, 0), ReplicaNeed.replicasMax)
    open[id] = (need, question.known)
    last = max(last, id)
    forgetAnswered(need)
    byNeed[need].append(id)
    ends.append((id, question.until))
    wantIfNeeded()
  }

  /// Nobody waits for that answer any more.
  public mutating func forget(_ id: AcknowledgementID) { open[id] = nil }

  /// The next answer; nil when that is all.
  public mutating func nextAnswer() -> (AcknowledgementID, AcknowledgementAnswer)? { settled.popFirst() }

  /// The next question that another one of these is to answer; nil when that is all.
  public mutating func nextPassedOn() -> Question? { passedOn.popFirst() }

  /// Whether there are answers to be taken.
  public var hasAnswers: Bool { !settled.isEmpty }

  /// What was found out about the replicas; given once for each connection.
  public mutating func takeFacts() -> Facts? {
    defer { facts = nil }
    return facts
  }

  /// Lists hold questions that were forgotten; very many of them would take memory.
  private mutating func forgetAnswered(_ need: Int) {
    if byNeed[need].count > 2 * open.count + 64 { byNeed[need].removeAll { open[$0] == nil } }
    if ends.count > 2 * open.count + 64 { ends.removeAll { open[$0.id] == nil } }
  }

  /// Entries of the lists, for tests.
  var listedCount: Int { byNeed.reduce(ends.count) { $0 + $1.count } }

  private mutating func forgetQuestions() {
    open = [:]
    for need in byNeed.indices { byNeed[need] = [] }
    ends = []
  }

  /// The smallest number of replicas that a question of this round waits for; nil: all are answered.
  private mutating func smallestNeed(coveredBy round: Round) -> Int? {
    for need in byNeed.indices {
      while let first = byNeed[need].first, open[first] == nil { byNeed[need].removeFirst() }
      if let first = byNeed[need].first, first <= round.covers { return need }
    }
    return nil
  }

  /// Answers those of the round that need no more than so many.
  private mutating func settle(_ round: Round, upTo replicas: Int, _ answer: AcknowledgementAnswer) -> Bool {
    var isAny = false
    for need in byNeed.indices where need <= replicas {
      while let first = byNeed[need].first, first <= round.covers {
        byNeed[need].removeFirst()
        guard open.removeValue(forKey: first) != nil else { continue }
        settled.append((first, answer))
        isAny = true
      }
    }
    return isAny
  }

  /// Gives away what the round has not answered.
  private mutating func passOn(_ round: Round) {
    for (id, until) in ends where id <= round.covers {
      guard let (need, known) = open.removeValue(forKey: id) else { continue }
      passedOn.append(Question(id: id, replicas: need, until: until, known: max(known, round.replicas)))
    }
  }

  /// Answers those whose time is over.
  private mutating func end(now: BootInstant) {
    while let (id, until) = ends.first, until <= now || open[id] == nil {
      ends.removeFirst()
      guard let (_, known) = open.removeValue(forKey: id) else { continue }
      if let round, id <= round.covers {
        settled.append((id, .tooFew(replicas: max(known, round.replicas))))
      } else if let trouble {
        settled.append((id, .refused("no second connection to Redis, on which replicas are waited for: \(trouble)")))
      } else {
        settled.append((id, .tooFew(replicas: known)))
      }
    }
  }
}

// MARK: - The connection

extension ReplicaRounds {
  /// Whether a connection is to be made; true once for each.
  public mutating func mustConnect() -> Bool {
    guard case .wanted = state else { return false }
    state = .connecting
    return true
  }

  private mutating func wantIfNeeded() {
    guard case .none = state, link.isUp, isExpected || !open.isEmpty else { return }
    state = .wanted
  }

  /// There is one: the handshake begins, with `login`. False: it is not wanted any more.
  public mutating func connected(login: RedisLogin = RedisLogin(), now: BootInstant) -> Bool {
    guard case .connecting = state else { return false }
    configuration.login = login
    state = .handshaking
    connection = RedisConnection(configuration: configuration)
    connection.connected()
    answerDue = now.adding(milliseconds: timeoutMilliseconds)
    return true
  }

  /// It is over, or was not made; why. What was written on it has to be written again.
  public mutating func ended(_ reason: String, random: UInt64, now: BootInstant) {
    switch state {
    case .none, .wanted, .pausing: return
    case .connecting, .handshaking, .ready: break
    }
    trouble = trouble ?? reason
    forgetConnection()
    state = .none
    if isExpected || !open.isEmpty { state = .pausing(until: now.adding(milliseconds: backoff.next(random: random))) }
  }

  private mutating func forgetConnection() {
    _ = connection.closed()
    sent = []
    round = nil
    answerDue = nil
  }

  /// Bytes came. Gives why the connection is to be closed; nil: it is not.
  public mutating func received(_ bytes: UnsafeRawBufferPointer, random: UInt64, now: BootInstant) -> String? {
    for action in connection.received(bytes) {
      switch action {
      case .ready(let info):
        if let problem = problem(with: info) { return problem }
        state = .ready
        trouble = nil
        backoff.reset()
        answerDue = nil
        if isExpected {
          send(.replication, "INFO", "replication", now: now)
          send(.leastToWrite, "CONFIG", "GET", "min-replicas-to-write", now: now)
        }
      case .failed(let failure): return failure.message
      case .fault(let fault): return fault.description
      case .reply(_, let value):
        guard let what = sent.popFirst() else { continue }
        if let problem = replied(value, to: what, now: now) { return problem }
        answerDue = sent.isEmpty ? nil : now.adding(milliseconds: keptBack + timeoutMilliseconds)
      case .message: break
      }
    }
    return nil
  }

  /// Why a connection is of no use: it leads elsewhere, or nobody knows.
  private func problem(with info: RedisReadyInfo) -> String? {
    guard let run = link.run, let own = info.client.runID else {
      return
        "Redis does not tell its run_id, so nobody knows whether two connections lead to the same server; allow +info"
    }
    return run == own ? nil : "a second connection to the same address leads to another server"
  }

  private mutating func replied(_ reply: RESPValue, to what: Sent, now: BootInstant) -> String? {
    switch what {
    case .replication:
      seen.connected = reply.bytes.flatMap { Self.number("connected_slaves", ofInfo: $0) }
    case .leastToWrite:
      seen.leastToWrite = reply.value(forKey: "min-replicas-to-write")?.string.flatMap { Int($0) }
      facts = seen
    case .write:
      guard let error = reply.error else { break }
      if RedisErrorReply.demandsReconnect(error: error) { return RedisErrorReply.words(of: error) }
      let words = words(of: error)
      round?.refusal = words
    case .wait(let wanted):
      waited(reply, wanted, now: now)
    }
    return nil
  }

  private mutating func waited(_ reply: RESPValue, _ wanted: Int, now: BootInstant) {
    guard var round else { return }
    defer { self.round = round }
    if let refusal = round.refusal ?? reply.error.map({ words(of: $0) }) {
      _ = settle(round, upTo: ReplicaNeed.replicasMax, .refused(refusal))
      return
    }
    let count: Int
    switch durability {
    case .memory: count = Int(clamping: reply.integer ?? 0)
    case .disk:
      let parts = reply.elements ?? []
      let isHere = (parts.first?.integer ?? 0) > 0
      count = isHere && parts.count > 1 ? Int(clamping: parts[1].integer ?? 0) : -1
    }
    round.replicas = max(round.replicas, count)
    if count < wanted { round.hasTimedOut = true }
    if settle(round, upTo: count, .enough(replicas: count)) {
      round.answeredAfter = max(0, now.milliseconds(since: round.at))
      patience = Self.patienceMilliseconds
    } else if round.answeredAfter == nil, patience <= round.longest {
      patience *= 2
    }
  }

  private static func number(_ name: String, ofInfo text: [UInt8]) -> Int? {
    let prefix = Array("\(name):".utf8)
    for line in text.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }) where line.starts(with: prefix) {
      return Int(String(decoding: line.dropFirst(prefix.count), as: UTF8.self))
    }
    return nil
  }

  /// The server's words, and what can be done.
  private func words(of error: [UInt8]) -> String {
    let words = RedisErrorReply.words(of: error)
    if error.starts(with: "NOPERM ".utf8) {
      return "\(words): allow +wait, and +waitaof for durability \"disk\""
    }
    guard durability == .disk else { return words }
    if words.contains("unknown command") { return "\(words): durability \"disk\" needs Redis 7.2 or later" }
    if words.contains("appendonly") {
      return "\(words): durability \"disk\" needs appendonly yes on the primary and on its replicas"
    }
    return words
  }
}

// MARK: - Rounds

extension ReplicaRounds {
  /// When something is to be done next; nil: not before something else has happened.
  public var nextDeadline: BootInstant? {
    var next = answerDue
    if case .pausing(let until) = state { next = min(next ?? until, until) }
    if let end = ends.first?.until { next = min(next ?? end, end) }
    return next
  }

  /// Time has passed. Gives why the connection is to be closed; nil: it is not.
  public mutating func timePassed(now: BootInstant) -> String? {
    end(now: now)
    if case .pausing(let until) = state, until <= now {
      state = .none
      wantIfNeeded()
    }
    guard let due = answerDue, due <= now else { return nil }
    return "Redis has not answered within \(timeoutMilliseconds) ms"
  }

  /// Sends what is due. Call it at the end of a turn, and after ``received(_:random:now:)``.
  public mutating func goOn(now: BootInstant) {
    end(now: now)
    guard case .ready = state, sent.isEmpty, !open.isEmpty else { return }
    if let round, let need = smallestNeed(coveredBy: round) {
      let isOver = passesOn || last > round.covers && now.milliseconds(since: round.at) >= time(of: round)
      guard round.hasTimedOut, isOver else { return wait(for: need, now: now) }
      if passesOn { passOn(round) }
      guard !open.isEmpty else { return }
    }
    let left = ends.last?.until.milliseconds(since: now) ?? 0
    let next = Round(covers: last, at: now, longest: max(left / 2, Self.waitMilliseconds))
    round = next
    guard let need = smallestNeed(coveredBy: next) else { return }
    // It ends by itself where nobody writes it again.
    send(.write, [Array("SET".utf8), key, Array("1".utf8), Array("PX".utf8), Array("60000".utf8)], now: now)
    wait(for: need, now: now)
  }

  /// How long a round lasts beside which others ask, in milliseconds.
  private func time(of round: Round) -> Int64 {
    if passesOn { return Self.waitMilliseconds }
    let time = round.answeredAfter.map { max(2 * $0, Self.waitMilliseconds) } ?? patience
    return min(time, round.longest)
  }

  private mutating func wait(for need: Int, now: BootInstant) {
    guard let round else { return }
    // Not beyond the time of the round: others may come.
    let (age, time) = (now.milliseconds(since: round.at), self.time(of: round))
    keptBack = age < time ? time - age : passesOn ? 1 : time
    // Nor beyond the time of all: others are answered in time, whatever it does.
    if let end = ends.last?.until.milliseconds(since: now) { keptBack = max(1, min(keptBack, end)) }
    let milliseconds = "\(keptBack)"
    answerDue = nil
    switch durability {
    case .memory: send(.wait(replicas: need), "WAIT", "\(need)", milliseconds, now: now)
    case .disk: send(.wait(replicas: need), "WAITAOF", "1", "\(need)", milliseconds, now: now)
    }
  }

  private mutating func send(_ what: Sent, _ parts: String..., now: BootInstant) {
    send(what, parts.map { Array($0.utf8) }, now: now)
  }

  private mutating func send(_ what: Sent, _ parts: [[UInt8]], now: BootInstant) {
    lastCommand += 1
    guard connection.submit(.plain(parts), id: lastCommand) else { return }
    sent.append(what)
    if answerDue == nil { answerDue = now.adding(milliseconds: keptBack + timeoutMilliseconds) }
  }

  /// Whether there are bytes to send.
  public var hasOutput: Bool { connection.hasOutput }

  /// Takes the bytes to send.
  public mutating func takeOutput() -> [UInt8] { connection.takeOutput() }
}
