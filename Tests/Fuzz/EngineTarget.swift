import LockEngine
import LockTypes

private let names = [LockName("a"), LockName("b"), LockName("c")]
/// Where the blocks of an honest store begin.
private let firstBlock: Token = 1_000_000
private let modes: [HoldMode] = [.exclusive, .shared, .permit(of: 1), .permit(of: 2)]

/// Clients before an engine whose store tells lies, all by choices.
///
/// Whatever the store says: each request is answered once, nobody is granted what somebody of this host has, the state that
/// is kept is understood by the next engine, nobody has anything when the host counts as dead, and when everybody has left
/// nothing is held and nobody waits.
func checkEngine(_ input: [UInt8]) {
  var choices = Choices(input)
  // Half of the hosts have a dead-host time, shorter than a lease. The last byte is the choice of it and of the last step.
  let deadHostMilliseconds: Int64 = [2_000, 0, 2_500, 0][Int(input.last ?? 1) & 3]
  var driver = EngineDriver(
    now: BootInstant(nanoseconds: 1_000_000_000_000), deadHostMilliseconds: deadHostMilliseconds)
  driver.begin(with: SavedState(), numbers: [])
  while !choices.isAtEnd { driver.step(&choices) }
  driver.finish()
}

/// An engine, what it was told, and what must be true of what it says.
struct EngineDriver {
  private struct Held {
    var session: SessionID
    var mode: HoldMode
    var owner: String?
  }

  private var engine: LockEngine
  private var now: BootInstant
  private var effects: [Effect] = []
  private var lastRequest: UInt64 = 1 << 40
  private var open: Set<SessionID> = []
  private var waiting: [RequestID: (session: SessionID, owner: String?)] = [:]
  private var held: [LockName: [Token: Held]] = [:]
  private var commands: [(id: CommandID, command: LeaseCommand)] = []
  private var acknowledgements: [AcknowledgementID] = []
  private var records: [UInt64: [SavedState.Kind: [UInt8]]] = [:]
  private var isLinkUp = false
  private var isRestored = false
  private var isStopped = false
  /// How often it may still be restarted. A restart costs as much as a hundred other steps, and what follows from one is seen
  /// in two.
  private var restartsLeft = 3
  private var lastBlock = firstBlock
  /// What the store says of its epoch when it is honest.
  private var epoch = EpochDriver()
  /// Blocks of any tokens, beside those that rise.
  private var lies: [Range<Token>] = []
  /// Two blocks have had the same tokens. Which of two holds of one token is meant nobody can say then.
  private var hasRepeatedTokens = false
  /// 0: none.
  private let deadHostMilliseconds: Int64
  /// When signs of life were sent, and the last one that was answered.
  private var signs: [CommandID: BootInstant] = [:]
  private var lastSign = BootInstant(nanoseconds: 0)

  init(now: BootInstant, deadHostMilliseconds: Int64 = 0) {
    self.now = now
    self.deadHostMilliseconds = deadHostMilliseconds
    engine = Self.makeEngine(deadHostMilliseconds: deadHostMilliseconds)
  }

  private static func makeEngine(deadHostMilliseconds: Int64) -> LockEngine {
    LockEngine(
      configuration: EngineConfiguration(tier: .store, host: "h", inbox: "h/0") {
        $0.settings.leaseMilliseconds = 3_000
        $0.settings.lingerMilliseconds = 500
        $0.settings.deadHostMilliseconds = deadHostMilliseconds
        $0.settings.waitsPerSessionMax = 8
        $0.settings.holdsPerSessionMax = 8
      })
  }

  /// Starts with what a predecessor left; its sessions 0 to 3 are there.
  mutating func begin(with state: SavedState, numbers: [UInt64]) {
    isRestored = !numbers.isEmpty
    engine.recordChanges()
    for number in 0..<4 as Range<UInt64> { feed(.sessionOpened(SessionID(number), uid: UInt32(number & 1))) }
    open = Set((0..<4 as Range<UInt64>).map { SessionID($0) })
    if isRestored {
      for request in state.waitingRequests { waiting[request] = (SessionID(.max), nil) }
      feed(.restored(state, numbers: numbers))
      isLinkUp = true
      feed(.linkUp(.only))
    }
  }

  // MARK: What clients do

  mutating func step(_ choices: inout Choices) {
    let session = SessionID(UInt64(choices.index(4)))
    switch choices.index(16) {
    case 0, 1, 2: acquire(session, &choices)
    case 3, 4: hold(session, &choices)
    case 5:
      let target = waiting.keys.sorted { $0.rawValue < $1.rawValue }
      guard open.contains(session), !target.isEmpty else { return }
      let request = newRequest(session)
      feed(.cancelRequested(session, request: request, target: target[choices.index(target.count)]))
    case 6:
      if open.contains(session) { close(session) } else { reopen(session) }
    case 7:
      feed(.breakRequested(name: names[choices.index(3)], tokens: [Token(choices.number())], reason: "r"))
    case 8, 9, 10: reply(&choices)
    case 11, 12: push(&choices)
    case 13:
      isLinkUp.toggle()
      commands = []
      feed(isLinkUp ? .linkUp(.only) : .linkDown(.only))
    case 14: pass(milliseconds: [1, 100, 900, 3_000][choices.index(4)])
    default: restart(&choices)
    }
  }

  private mutating func newRequest(_ session: SessionID, owner: String? = nil) -> RequestID {
    lastRequest += 1
    waiting[RequestID(lastRequest)] = (session, owner)
    return RequestID(lastRequest)
  }

  private mutating func acquire(_ session: SessionID, _ choices: inout Choices) {
    guard open.contains(session) else { return }
    let owner = [nil, "o", "p"][choices.index(3)]
    let request = newRequest(session, owner: owner)
    let several = choices.index(4) == 0
    let first = choices.index(3)
    let target = several ? AcquireTarget.several([names[first], names[(first + 1) % 3]]) : .one(names[first])
    feed(
      .acquireRequested(
        AcquireRequest(
          session: session, request: request, target: target, mode: modes[choices.index(4)],
          waitMilliseconds: [nil, 0, 700][choices.index(3)], maxHoldMilliseconds: [nil, 1, 400][choices.index(3)],
          owner: owner, progress: choices.bool(),
          need: choices.index(4) == 0 ? ReplicaNeed(replicas: choices.index(3), durability: .disk) : .none)))
  }

  private mutating func hold(_ session: SessionID, _ choices: inout Choices) {
    guard open.contains(session) else { return }
    let name = names[choices.index(3)]
    let tokens = held[name, default: [:]].keys.sorted()
    let token = tokens.isEmpty || choices.bool() ? nil : tokens[choices.index(tokens.count)]
    let request = newRequest(session)
    switch choices.index(4) {
    case 0, 1: feed(.releaseRequested(session, request, name: name, token: token))
    case 2: feed(.downgradeRequested(session, request, name: name, token: token))
    default:
      feed(
        .extendRequested(session, request, name: name, token: token, maxHoldMilliseconds: [nil, 5][choices.index(2)]))
    }
  }

  private mutating func close(_ session: SessionID) {
    open.remove(session)
    waiting = waiting.filter { $0.value.session != session }
    for name in names { held[name] = held[name]?.filter { $0.value.session != session } }
    feed(.sessionClosed(session))
  }

  private mutating func reopen(_ session: SessionID) {
    open.insert(session)
    feed(.sessionOpened(session, uid: 0))
  }

  // MARK: What the store says

  private mutating func reply(_ choices: inout Choices) {
    if !acknowledgements.isEmpty, choices.bool() {
      let id = acknowledgements.remove(at: choices.index(acknowledgements.count))
      let answers: [AcknowledgementAnswer] = [
        .enough(replicas: choices.index(20)), .tooFew(replicas: choices.index(3)), .refused("no"), .unknown,
      ]
      return feed(.acknowledged(.only, id, answers[choices.index(4)]))
    }
    guard isLinkUp, !commands.isEmpty else { return }
    let (id, command) = commands.remove(at: choices.index(commands.count))
    feed(.replyReceived(.only, id, answer(to: command, &choices)))
  }

  /// A reply that a decoder could give to that command: of its form, with anything in it.
  private mutating func answer(to command: LeaseCommand, _ choices: inout Choices) -> LeaseReply {
    switch choices.index(8) {
    case 0: return .failed([.wrongType(nil), .transient("t"), .fatal("f")][choices.index(3)])
    case 1:
      if case .acquire = command {
        return [
          .queued(holderHost: "o", holderExpiresInMilliseconds: max(0, choices.number()), listeners: 1),
          .foreign(expiresInMilliseconds: choices.bool() ? nil : max(0, choices.number())),
          .conflict(modes[choices.index(4)], listeners: 0), .done, .stale(attempt: UInt64(choices.index(256))),
        ][choices.index(5)]
      }
    case 2: return .otherEpoch
    default: break
    }
    switch command {
    case .acquire: return .granted(grant(&choices))
    case .reserve: return .reserved(choices.index(8) == 0 ? nil : grant(&choices))
    case .renew(let leases, _, _): return .renewed(leases.map { _ in standing(&choices) })
    case .look:
      return .seen(LeaseSight(holders: ["o/1"], waiting: [.init(inbox: "h/0", mode: modes[choices.index(4)])]))
    case .clock: return .clock(StoreInstant(microseconds: choices.number()))
    case .checkPlaces(let places, _): return .lostPlaces(choices.bool() ? [] : [choices.index(places.count + 1)])
    case .reclaim(let leases, _, _): return .renewed(leases.map { _ in standing(&choices) })
    case .confirmEpoch(let claim): return .epoch(epoch.answer(to: claim, &choices))
    case .release, .downgrade, .answerInUse, .heartbeat, .hostMessage: return .done
    }
  }

  private func standing(_ choices: inout Choices) -> LeaseStanding {
    [.held, .held, .held, .held, .held, .held, .missing, .lost][choices.index(8)]
  }

  private mutating func grant(_ choices: inout Choices) -> LeaseGrant {
    if choices.index(8) != 0 {
      lastBlock += 100
      return LeaseGrant(token: lastBlock, tokenCount: 1 + Int64(choices.index(100)), othersWait: choices.bool())
    }
    let lie = LeaseGrant(token: choices.number(), tokenCount: choices.number(), othersWait: choices.bool())
    // One without tokens is refused.
    let (end, overflows) = lie.token.addingReportingOverflow(lie.tokenCount)
    if lie.token >= 1, lie.tokenCount >= 1, !overflows {
      let block = lie.token..<end
      if ([firstBlock..<(.max)] + lies).contains(where: block.overlaps) { hasRepeatedTokens = true }
      lies.append(block)
    }
    return lie
  }

  private mutating func push(_ choices: inout Choices) {
    guard isLinkUp else { return }
    let name = names[choices.index(3)]
    let attempt = UInt64(choices.index(16))
    switch choices.index(3) {
    case 0: feed(.pushReceived(.only, .granted(name: name, attempt: attempt, grant(&choices))))
    case 1:
      feed(
        .pushReceived(
          .only,
          .contended(
            name: name, attempt: attempt, ask: 1, isTry: choices.bool(), inbox: "o/1", mode: modes[choices.index(4)])))
    default: feed(.pushReceived(.only, .inUse(name: name, ask: UInt64(choices.index(16)))))
    }
  }

  // MARK: Time

  mutating func play(seconds: Int64) { pass(milliseconds: seconds * 1000) }

  private mutating func pass(milliseconds: Int64) {
    let end = now.adding(milliseconds: milliseconds)
    var firings = 0
    while let next = engine.nextDeadline, next <= end {
      // Two events of the same moment are possible, a hundred thousand are a timer that makes no progress.
      firings += 1
      if firings > 100_000 { violated("the timer makes no progress") }
      now = max(now, next)
      feed(.timerFired)
    }
    now = end
    guard deadHostMilliseconds > 0 else { return }
    feed(.timerFired)
    guard now >= lastSign.adding(milliseconds: deadHostMilliseconds * 85 / 100) else { return }
    if !hasRepeatedTokens, held.values.contains(where: { !$0.isEmpty }) {
      violated("a host that counts as dead has something")
    }
  }

  // MARK: What it says

  private mutating func feed(_ event: Event) {
    trace("← \(event)")
    if case .replyReceived(_, let id, .epoch) = event, let sentAt = signs.removeValue(forKey: id) {
      lastSign = max(lastSign, sentAt)
    }
    engine.handle(event, now: now, into: &effects)
    engine.handle(.turnEnded, now: now, into: &effects)
    drain()
  }

  private mutating func drain() {
    for effect in effects {
      trace("  → \(effect)")
      switch effect {
      case .reply(let session, let request, let reply):
        guard let asked = waiting.removeValue(forKey: request) else { violated("a reply that nobody waits for") }
        if !isRestored && asked.session != session { violated("a reply to somebody else") }
        take(reply, of: session, owner: asked.owner)
      case .notify(let session, .lost(let name, let token, _, _, _, _)):
        held[name]?[token] = nil
        if !open.contains(session) { violated("a loss is told to who is gone") }
      case .send(_, let id, let command):
        if case .confirmEpoch = command { signs[id] = now }
        if isLinkUp { commands.append((id, command)) }
      case .shutdownCompleted: isStopped = true
      case .acknowledge(_, let id, _, _): acknowledgements.append(id)
      case .forgetAcknowledgement(_, let id): acknowledgements.removeAll { $0 == id }
      case .notify, .flushSoon, .observed, .recorded, .heldLong: break
      }
    }
    effects = []
    for change in engine.takeChanges(isKept: { _ in true }) {
      switch change {
      case .put(let kind, let id, let bytes): records[id, default: [:]][kind] = bytes
      case .remove(let kind, let id): records[id]?[kind] = nil
      }
    }
  }

  private mutating func take(_ reply: Reply, of session: SessionID, owner: String?) {
    switch reply {
    case .acquired(let grant):
      gain(grant.name, grant.token, grant.mode, session, owner)
      if deadHostMilliseconds > 0, grant.validMilliseconds ?? 0 > deadHostMilliseconds * 85 / 100 {
        violated("a grant is valid for longer than its host lives")
      }
    case .acquiredAll(let grant):
      for lock in grant.locks { gain(lock.name, lock.token, grant.mode, session, owner) }
    case .released(let name, let token, let remaining): if remaining == 0 { held[name]?[token] = nil }
    case .downgraded(let name, let token): held[name]?[token]?.mode = .shared
    case .extended, .transferred, .cancelled, .refused: break
    }
  }

  private mutating func gain(_ name: LockName, _ token: Token, _ mode: HoldMode, _ session: SessionID, _ owner: String?)
  {
    if token < 1 || token >= 1 << 53 { violated("token \(token)") }
    let others = held[name, default: [:]].filter { $0.key != token }.map(\.value)
    if let same = held[name]?[token] {
      let isReentered = owner != nil && same.owner == owner && same.session == session
      if !isReentered && !hasRepeatedTokens { violated("a token twice") }
      return
    }
    guard !hasRepeatedTokens else {
      return held[name, default: [:]][token] = Held(session: session, mode: mode, owner: owner)
    }
    // What was restored is known to the engine alone.
    switch mode {
    case .exclusive: if !others.isEmpty { violated("an exclusive hold beside another") }
    case .shared: if others.contains(where: { $0.mode != .shared }) { violated("a shared hold beside another") }
    case .permit(let capacity):
      if others.count >= capacity || others.contains(where: { $0.mode != mode }) {
        violated("more permits than there are")
      }
    }
    held[name, default: [:]][token] = Held(session: session, mode: mode, owner: owner)
  }

  // MARK: Endings

  /// The process is replaced by another one that reads what it left.
  private mutating func restart(_ choices: inout Choices) {
    guard restartsLeft > 0 else { return }
    restartsLeft -= 1
    var state = SavedState()
    for record in records.sorted(by: { $0.key < $1.key }) {
      for (kind, bytes) in record.value.sorted(by: { $0.key.rawValue < $1.key.rawValue }) {
        do { try state.add(kind, id: record.key, bytes, now: now) } catch {
          violated("its own record is not understood: \(kind) \(bytes)")
        }
      }
    }
    let numbers = engine.numbers
    // A process that ends takes its memory along. Here the records must be taken apart, unseen by the clients.
    var last = self
    for session in open.sorted() { last.close(session) }
    last.retire()
    engine = Self.makeEngine(deadHostMilliseconds: deadHostMilliseconds)
    engine.recordChanges()
    commands = []
    signs = [:]
    records = [:]
    isLinkUp = false
    for session in open.sorted() { engine.handle(.sessionOpened(session, uid: 0), now: now, into: &effects) }
    engine.handle(.restored(state, numbers: numbers), now: now, into: &effects)
    let kept = state.waitingRequests
    drain()
    if let missing = waiting.keys.first(where: { !kept.contains($0) }) { violated("request \(missing) is forgotten") }
    if choices.bool() {
      isLinkUp = true
      feed(.linkUp(.only))
    }
  }

  /// Everybody leaves, and the store tells no more lies: no record stays, and the engine stops.
  mutating func finish() {
    for session in open.sorted() { close(session) }
    let gauges = engine.gauges
    if gauges.sessions != 0 || gauges.held != 0 || gauges.waiting != 0 { violated("something is left: \(gauges)") }
    retire()
    feed(.shutdownRequested)
    settle()
    if !isRestored && !waiting.isEmpty { violated("requests without an answer: \(waiting)") }
    if !isStopped { violated("it does not stop") }
  }

  /// What is known without clients is given back.
  private mutating func retire() {
    if !isLinkUp {
      isLinkUp = true
      feed(.linkUp(.only))
    }
    settle()
    // Longer than the longest that a lease, its grace, or a foreign holder of the driver's can last is never needed: each
    // look at a lock that nobody wants ends it.
    for _ in 0..<4 {
      pass(milliseconds: 5_000)
      settle()
    }
    // What was restored may end at any time.
    var looks = 0
    while engine.recordCounts != RecordCounts(), let next = engine.nextDeadline, looks < 1000 {
      looks += 1
      now = max(now, next)
      feed(.timerFired)
      settle()
    }
    // What came of the last event is let go with the next one.
    feed(.timerFired)
    if engine.recordCounts != RecordCounts() { violated("records are left: \(engine.recordCounts)") }
  }

  /// Answers what was asked, as a store does that nobody else uses.
  private mutating func settle() {
    var answered = 0
    while !commands.isEmpty {
      answered += 1
      if answered > 100_000 { violated("commands without an end: \(commands[0].command)") }
      let (id, command) = commands.removeFirst()
      feed(.replyReceived(.only, id, honestAnswer(to: command)))
    }
  }

  private mutating func honestAnswer(to command: LeaseCommand) -> LeaseReply {
    switch command {
    case .acquire, .reserve:
      lastBlock += 100
      let grant = LeaseGrant(token: lastBlock, tokenCount: 100, othersWait: false)
      if case .reserve = command { return .reserved(grant) }
      return .granted(grant)
    case .renew(let leases, _, _): return .renewed(leases.map { _ in .held })
    case .look: return .seen(LeaseSight(holders: [], waiting: []))
    case .clock: return .clock(StoreInstant(microseconds: now.nanoseconds / 1000))
    case .checkPlaces: return .lostPlaces([])
    case .reclaim(let leases, _, _): return .renewed(leases.map { _ in .held })
    case .confirmEpoch(let claim): return .epoch(epoch.honestAnswer(to: claim))
    case .release, .downgrade, .answerInUse, .heartbeat, .hostMessage: return .done
    }
  }
}

/// What a store says of its epoch.
private struct EpochDriver {
  private var sight = EpochSight(
    id: EpochID(number: 1, text: "1:o/1:1"), isOpen: true, graceMilliseconds: 3_000, longestLeaseMilliseconds: 3_000,
    tokenFloor: 0, clock: StoreInstant(microseconds: 0))

  /// The epoch that there is, or another one, in any stage, or what is none.
  mutating func answer(to claim: EpochClaim, _ choices: inout Choices) -> EpochSight {
    switch choices.index(8) {
    case 0:
      sight.id.number = UInt64(truncatingIfNeeded: choices.number())
      sight.id.text = choices.bool() ? "" : "\(sight.id.number):o/1:1"
    case 1, 2:
      let number = max(sight.id.number, claim.known.number) &+ 1
      sight.id = EpochID(number: number, text: "\(number):h/0:\(claim.attempt)")
      sight.isOpen = false
    case 3: sight.isOpen.toggle()
    case 4:
      sight.graceMilliseconds = choices.number()
      sight.longestLeaseMilliseconds = choices.number()
    case 5:
      sight.tokenFloor = choices.number()
      sight.clock = StoreInstant(microseconds: choices.number())
    case _: return honestAnswer(to: claim)
    }
    return sight
  }

  /// An epoch that is open once it was waited for.
  mutating func honestAnswer(to claim: EpochClaim) -> EpochSight {
    if !sight.id.isSound { sight.id = EpochID(number: 1, text: "1:o/1:1") }
    sight.graceMilliseconds = min(max(sight.graceMilliseconds, claim.graceMilliseconds), 10_000)
    if claim.known == sight.id, claim.waitedMilliseconds >= sight.graceMilliseconds { sight.isOpen = true }
    return sight
  }
}
