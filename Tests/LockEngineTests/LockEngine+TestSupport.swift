import LockEngine
import LockTypes
import Testing

/// Drives an engine through a script: facts in, at moments of a clock that the script moves; effects out, in order.
final class Script {
  let engine: LockEngine
  var now = BootInstant(nanoseconds: 1_000_000_000_000)
  private var effects: [Effect] = []
  private var lastRequest: UInt64 = 0

  init(_ configuration: EngineConfiguration = EngineConfiguration(tier: .store), linkUp: Bool = true) {
    engine = LockEngine(configuration: configuration)
    if linkUp { feed(.linkUp(.only)) }
    #expect(take().isEmpty)
  }

  /// Whether what is told happens in one turn of the loop.
  var isOneTurn = false

  func feed(_ event: Event) {
    engine.handle(event, now: now, into: &effects)
    if !isOneTurn { engine.handle(.turnEnded, now: now, into: &effects) }
  }

  func reconfigure(_ change: (inout EngineSettings) -> Void) {
    var settings = engine.configuration.settings
    change(&settings)
    feed(.reconfigured(settings))
  }

  /// Moves the clock, firing the engine's deadlines at their moments as a timer would.
  func pass(milliseconds: Int64) {
    let end = now.adding(milliseconds: milliseconds)
    while let next = engine.nextDeadline, next <= end {
      now = max(now, next)
      feed(.timerFired)
    }
    now = end
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
    owner: String? = nil, meta: String? = nil, progress: Bool = false, onLost: LossAction = .notify
  ) -> RequestID {
    ask(
      AcquireRequest(
        session: session, request: newRequest(), target: .one(LockName(name)), mode: mode, waitMilliseconds: wait,
        maxHoldMilliseconds: maxHold, owner: owner, meta: meta, progress: progress, onLost: onLost))
  }

  /// Asks for several locks at once.
  @discardableResult
  func acquire(
    _ session: SessionID, all names: [String], mode: HoldMode = .exclusive, wait: Int64? = nil, maxHold: Int64? = nil,
    owner: String? = nil
  ) -> RequestID {
    ask(
      AcquireRequest(
        session: session, request: newRequest(), target: .several(names.map { LockName($0) }), mode: mode,
        waitMilliseconds: wait, maxHoldMilliseconds: maxHold, owner: owner))
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
    for case .send(let id, _) in effects.reversed() { return id }
    return nil
  }

  /// Takes the effects and gives the ids of what was sent among them.
  func takeSent() -> [CommandID] {
    take().compactMap { if case .send(let id, _) = $0 { id } else { nil } }
  }

  /// Has a session hold the lock, by a grant of the store with this token.
  func hold(_ session: SessionID, _ name: String = "x", token: Token = 100, maxHold: Int64? = nil) {
    acquire(session, name, maxHold: maxHold)
    reply(.granted(LeaseGrant(token: token, tokenCount: 10, othersWait: false)))
    #expect(take().contains { $0.grantedToken == token })
  }
}

extension Effect {
  var grantedToken: Token? {
    if case .reply(_, _, .acquired(let lock)) = self { lock.token } else { nil }
  }

  var command: LeaseCommand? {
    if case .send(_, let command) = self { command } else { nil }
  }

  var commandID: CommandID? {
    if case .send(let id, _) = self { id } else { nil }
  }

  var grantedSession: SessionID? {
    switch self {
    case .reply(let session, _, .acquired), .reply(let session, _, .acquiredAll): session
    case .reply, .notify, .send, .flushSoon, .observed, .shutdownCompleted: nil
    }
  }

  var refusal: Refusal? {
    if case .reply(_, _, .refused(let refusal)) = self { refusal } else { nil }
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
  behind host: String = "other", for milliseconds: Int64 = 10_000, listens: Bool = true, at microseconds: Int64 = 1000
) -> LeaseReply {
  .queued(
    holderHost: host, holderExpiresInMilliseconds: milliseconds, listeners: listens ? 1 : 0,
    clock: StoreInstant(microseconds: microseconds))
}
