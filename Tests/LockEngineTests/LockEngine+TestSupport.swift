import LockEngine
import LockTypes
import Testing

/// Drives an engine through a script: facts in, at moments of a clock that the script moves; effects out, in order.
final class Script: EngineDriving {
  let engine: LockEngine
  var now = BootInstant(nanoseconds: 1_000_000_000_000)
  private var effects: [Effect] = []
  private var lastRequest: UInt64 = 0
  /// What the store says of its epoch; nil: it does not answer. Tests see nothing of the questions, and number the other
  /// commands as if there were none.
  var epoch: EpochSight? = .ofTests
  /// The questions for the epoch that were asked, and the last one that is not answered.
  private(set) var claims: [EpochClaim] = []
  private var openClaim: CommandID?
  private var numbers: [CommandID: CommandID] = [:]
  private var lastNumber: UInt64 = 0

  init(_ configuration: EngineConfiguration = EngineConfiguration(tier: .store), linkUp: Bool = true) {
    engine = LockEngine(configuration: configuration)
    if linkUp { feed(.linkUp(.only)) }
    #expect(take().isEmpty)
  }

  /// Whether what is told happens in one turn of the loop.
  var isOneTurn = false

  func feed(_ event: Event) {
    var event = event
    switch event {
    case .replyReceived(let shard, let command, let reply):
      event = .replyReceived(shard, numbers[command] ?? command, reply)
    case .linkDown: openClaim = nil
    case .commandSent(let shard, let command): event = .commandSent(shard, numbers[command] ?? command)
    case _: break
    }
    tell(event)
    while let epoch, openClaim != nil { answer(.epoch(epoch)) }
  }

  private func tell(_ event: Event) {
    var added: [Effect] = []
    engine.handle(event, now: now, into: &added)
    if !isOneTurn { engine.handle(.turnEnded, now: now, into: &added) }
    for effect in added {
      switch effect {
      case .send(_, let id, .confirmEpoch(let claim)):
        claims.append(claim)
        openClaim = id
      case .send(_, let id, let command):
        lastNumber += 1
        numbers[CommandID(lastNumber)] = id
        effects.append(.send(.only, CommandID(lastNumber), command))
      case .reply, .notify, .acknowledge, .forgetAcknowledgement, .flushSoon, .observed, .recorded, .shutdownCompleted,
        .heldLong:
        effects.append(effect)
      }
    }
  }

  /// Answers the question for the epoch. Fails the test when there is none.
  func answer(_ reply: LeaseReply) {
    guard let id = openClaim else {
      Issue.record("the epoch was not asked for")
      return
    }
    openClaim = nil
    tell(.replyReceived(.only, id, reply))
  }

  /// Whether the epoch was asked for, and the answer has not come.
  var isAskingForEpoch: Bool { openClaim != nil }

  func reconfigure(_ change: (inout EngineSettings) -> Void) {
    var settings = engine.configuration.settings
    change(&settings)
    feed(.reconfigured(settings))
    if let next = engine.nextDeadline, next <= now { feed(.timerFired) }
  }

  /// Moves the clock without the timer, as a suspended host sees it.
  func jump(milliseconds: Int64) {
    now = now.adding(milliseconds: milliseconds)
  }

  func open(_ sessions: SessionID...) {
    for session in sessions { feed(.sessionOpened(session)) }
  }

  @discardableResult
  func acquire(
    _ session: SessionID, _ name: String = "x", mode: HoldMode = .exclusive, wait: Int64? = nil, maxHold: Int64? = nil,
    owner: String? = nil, meta: String? = nil, progress: Bool = false, onLost: LossAction = .notify,
    need: ReplicaNeed = .none
  ) -> RequestID {
    ask(
      AcquireRequest(
        session: session, request: newRequest(), target: .one(LockName(name)), mode: mode, waitMilliseconds: wait,
        maxHoldMilliseconds: maxHold, owner: owner, meta: meta, progress: progress, onLost: onLost, need: need))
  }

  /// Asks for several locks at once.
  @discardableResult
  func acquire(
    _ session: SessionID, all names: [String], mode: HoldMode = .exclusive, wait: Int64? = nil, maxHold: Int64? = nil,
    owner: String? = nil, meta: String? = nil, need: ReplicaNeed = .none
  ) -> RequestID {
    ask(
      AcquireRequest(
        session: session, request: newRequest(), target: .several(names.map { LockName($0) }), mode: mode,
        waitMilliseconds: wait, maxHoldMilliseconds: maxHold, owner: owner, meta: meta, need: need))
  }

  private func ask(_ request: AcquireRequest) -> RequestID {
    feed(.acquireRequested(request))
    return request.request
  }

  func newRequest() -> RequestID {
    lastRequest += 1
    return RequestID(lastRequest)
  }

  @discardableResult
  func release(_ session: SessionID, _ name: String = "x", token: Token? = nil) -> RequestID {
    lastRequest += 1
    let request = RequestID(lastRequest)
    feed(.releaseRequested(session, request, name: LockName(name), token: token))
    return request
  }

  @discardableResult
  func cancel(_ session: SessionID, _ target: RequestID?) -> RequestID {
    lastRequest += 1
    let request = RequestID(lastRequest)
    feed(.cancelRequested(session, request: request, target: target))
    return request
  }

  /// Takes up what an engine before this one left.
  func restore(_ state: SavedState, numbers: [UInt64]) {
    feed(.restored(state, numbers: numbers))
  }

  /// The clients end their input.
  func halfClose(_ sessions: SessionID..., keepsHolds: Bool = false) {
    for session in sessions { feed(.inputEnded(session, isAnswered: false, keepsHolds: keepsHolds)) }
  }

  /// Ends what a session has, as before a restart that its connection does not outlive.
  func evict(_ session: SessionID) {
    feed(.sessionEvicted(session))
  }

  /// What the engine wanted since the last time.
  func take() -> [Effect] {
    defer { effects = [] }
    return effects
  }

  /// What was sent to the store since the last time; everything else is dropped.
  func sent() -> [LeaseCommand] {
    take().compactMap(\.command)
  }

  /// Answers the command that was sent last and is not answered. Fails the test when there was none.
  func reply(_ reply: LeaseReply, to command: CommandID? = nil) {
    guard let id = command ?? lastSent else {
      Issue.record("nothing was sent")
      return
    }
    feed(.replyReceived(.only, id, reply))
  }

  private var lastSent: CommandID? {
    for case .send(_, let id, _) in effects.reversed() { return id }
    return nil
  }

  /// Takes the effects and gives the ids of what was sent among them.
  func takeSent() -> [CommandID] {
    take().compactMap { if case .send(_, let id, _) = $0 { id } else { nil } }
  }

  /// Has a session hold the lock, by a grant of the store with this token.
  func hold(_ session: SessionID, _ name: String = "x", token: Token = 100, maxHold: Int64? = nil) {
    acquire(session, name, maxHold: maxHold)
    reply(.granted(LeaseGrant(token: token, tokenCount: 10, othersWait: false)))
    #expect(take().contains { $0.grantedToken == token })
  }
}

extension Script {
  /// The store has other data, of which it says `sight`: `command`, or what is asked of it next, is answered that its epoch
  /// is another one.
  func lose(_ sight: EpochSight, to command: CommandID? = nil) {
    epoch = sight
    if let command { return reply(.otherEpoch, to: command) }
    acquire(dave, "sounding", wait: 1)
    reply(.otherEpoch)
  }

  /// The link goes down and comes up, and the store says `sight` of its epoch.
  func connectAgain(_ sight: EpochSight) {
    feed(.linkDown(.only))
    epoch = sight
    feed(.linkUp(.only))
  }
}

/// What is asked for in these commands.
func acquires(_ commands: [LeaseCommand]) -> [(name: LockName, terms: GrantTerms)] {
  commands.compactMap { if case .acquire(let name, _, _, _, let terms, _, _, _, _) = $0 { (name, terms) } else { nil } }
}

/// The cycle for which a wait was refused.
func cycle(_ effects: [Effect]) -> [DeadlockStep]? {
  for case .deadlock(let steps)? in effects.map(\.refusal) { return steps }
  return nil
}

extension Effect {
  var grantedToken: Token? {
    if case .reply(_, _, .acquired(let lock)) = self { lock.token } else { nil }
  }

  var command: LeaseCommand? {
    if case .send(_, _, let command) = self { command } else { nil }
  }

  var acknowledgement: (shard: ShardID, id: AcknowledgementID)? {
    if case .acknowledge(let shard, let id, _, _) = self { (shard, id) } else { nil }
  }

  var commandID: CommandID? {
    if case .send(_, let id, _) = self { id } else { nil }
  }

  var grantedSession: SessionID? {
    switch self {
    case .reply(let session, _, .acquired), .reply(let session, _, .acquiredAll): session
    case .reply, .notify, .send, .acknowledge, .forgetAcknowledgement, .flushSoon, .observed, .recorded,
      .shutdownCompleted, .heldLong:
      nil
    }
  }

  var refusal: Refusal? {
    if case .reply(_, _, .refused(let refusal)) = self { refusal } else { nil }
  }

  /// How a lock is held that was asked for in another way.
  var conflict: HoldMode? {
    if case .modeConflict(let held, _, _)? = refusal { held } else { nil }
  }

  /// The tokens of a grant of several locks, by name.
  var grantedTokens: [String: Token]? {
    guard case .reply(_, _, .acquiredAll(let grant)) = self else { return nil }
    return Dictionary(uniqueKeysWithValues: grant.locks.map { ($0.name.description, $0.token) })
  }

  var notification: Notification? {
    if case .notify(_, let notification) = self { notification } else { nil }
  }

  var lostReason: LostReason? {
    if case .notify(_, .lost(_, _, let reason, _, _, _)) = self { reason } else { nil }
  }
}

let alice = SessionID(1)
let bob = SessionID(2)
let carol = SessionID(3)
let dave = SessionID(4)
let x = LockName("x")

func granted(_ token: Token, othersWait: Bool = false) -> LeaseReply {
  .granted(LeaseGrant(token: token, tokenCount: 10, othersWait: othersWait))
}

/// More tokens, as ``granted(_:othersWait:)`` has them.
func reserved(_ token: Token) -> LeaseReply {
  .reserved(LeaseGrant(token: token, tokenCount: 10, othersWait: false))
}

func queued(
  behind host: String = "other", for milliseconds: Int64 = 10_000, listens: Bool = true, at microseconds: Int64 = 1000,
  isNewPlace: Bool = true
) -> LeaseReply {
  .queued(
    holderHost: host, holderExpiresInMilliseconds: milliseconds, listeners: listens ? 1 : 0,
    place: PlaceSight(clock: StoreInstant(microseconds: microseconds), isNew: isNewPlace))
}

extension GrantTerms {
  /// In the epoch of these tests, above that token.
  static func above(_ tokenFloor: Token, in epoch: EpochID = EpochSight.ofTests.id) -> GrantTerms {
    GrantTerms(epoch: epoch, tokenFloor: tokenFloor)
  }
}

extension LeaseCommand {
  /// Has the store take a lease again, with these tokens.
  static func reclaim(
    _ name: LockName, attempt: UInt64, _ tokens: Range<Token>, mode: HoldMode = .exclusive, mayReplace: Bool = false,
    in epoch: EpochID = EpochSight.ofTests.id
  ) -> LeaseCommand {
    .reclaim(
      [
        ReclaimedLease(
          name: name, attempt: attempt, mode: mode, firstToken: tokens.lowerBound, tokenCount: Token(tokens.count),
          mayReplace: mayReplace)
      ], leaseMilliseconds: 10_000, epoch: epoch)
  }
}

extension EpochSight {
  /// An epoch that is open.
  static let ofTests = EpochSight.epoch(1)

  /// Epoch `number`, of an `instance`.
  static func epoch(
    _ number: UInt64, of instance: String = "h/1", isOpen: Bool = true, grace: Int64 = 10_000, longest: Int64 = 10_000,
    floor: Token = 0, at microseconds: Int64 = 0
  ) -> EpochSight {
    EpochSight(
      id: EpochID(number: number, text: "\(number):\(instance):1"), isOpen: isOpen, graceMilliseconds: grace,
      longestLeaseMilliseconds: longest, tokenFloor: floor, clock: StoreInstant(microseconds: microseconds))
  }
}

/// What tells an engine events, and has its clock.
protocol EngineDriving: AnyObject {
  var engine: LockEngine { get }
  var now: BootInstant { get set }
  func feed(_ event: Event)
}

extension EngineDriving {
  /// Moves the clock, firing the engine's deadlines at their moments as a timer would.
  func pass(milliseconds: Int64) {
    let end = now.adding(milliseconds: milliseconds)
    while let next = engine.nextDeadline, next <= end {
      now = max(now, next)
      feed(.timerFired)
    }
    now = end
  }
}

extension EngineConfiguration {
  /// Little room in a turn, and nobody is refused for having very many waits and holds.
  static func withSlices(of steps: Int, _ tier: Tier, _ change: (inout EngineConfiguration) -> Void = { _ in })
    -> EngineConfiguration
  {
    EngineConfiguration(tier: tier) {
      $0.settings.waitsPerSessionMax = 1 << 20
      $0.settings.holdsPerSessionMax = 1 << 20
      $0.stepsPerSlice = steps
      change(&$0)
    }
  }
}
