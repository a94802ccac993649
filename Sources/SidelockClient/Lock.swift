import NIOConcurrencyHelpers
import SystemStrings

/// A lock that a client holds, from its grant until it is released or lost.
///
/// The hold does not end with the last reference to this object: release it, or use
/// ``SidelockClient/withLock(_:mode:wait:maxHold:owner:meta:replicas:durability:onLost:_:)``. It does end with the client's connection.
public final class Lock: Sendable {
  /// The lock's name.
  public let name: String
  /// The fencing token: greater than that of every earlier grant of this name. Hand it to what the lock protects.
  public let token: Int64
  /// How it was granted.
  public let mode: LockMode
  /// How long the request waited.
  public let waited: Duration
  /// For how long from the grant the hold was safe without any renewal; nil where a hold does not end by itself.
  public let validity: Duration?

  /// The one that it was granted on, and belongs to.
  let connection: Connection
  let hold: Hold

  init(connection: Connection, hold: Hold, grant: Grant) {
    self.connection = connection
    self.hold = hold
    self.name = grant.name
    self.token = grant.token
    self.mode = grant.mode
    self.waited = .milliseconds(grant.waitedMilliseconds)
    self.validity = grant.validMilliseconds.map { .milliseconds($0) }
  }

  /// Whether the lock is held, as far as the client has been told; no longer than it is good without an answer of the
  /// daemon. Where both were stopped together, as with the whole machine, it is false until the daemon has answered.
  public var isHeld: Bool {
    hold.isHeld
  }

  /// For how long from now the lock is held for certain, whatever becomes of the daemon; nil where a hold does not end by
  /// itself. The client asks the daemon anew in good time.
  public var valid: Duration? {
    guard hold.isOpen else { return .zero }
    return hold.validity.map { .milliseconds(max(0, $0.deadline - Validity.now)) }
  }

  /// Whether the daemon, or the end of the connection, has taken the lock away; or the time for which it is good is over,
  /// and the daemon does not answer.
  public var isLost: Bool {
    hold.notice != nil
  }

  /// Why the lock is lost; nil while it is not.
  public var lostNotice: LostNotice? {
    hold.notice
  }

  /// Has `action` called once, on an I/O thread that it must not block, if the lock is lost before it is released; at once
  /// where it is lost already. For locks that come by ``SidelockClient/handedLocks``, which no acquire says it of.
  public func onLost(_ action: @escaping @Sendable (LostNotice) -> Void) {
    hold.onLost(action)
  }

  /// Gives the lock back. The next in the queue has it when this returns.
  ///
  /// - Throws: ``SidelockError``, of reason `lost` when the lock was lost before, `not_held` when it was released.
  public func release() async throws {
    // An owner may have the lock twice under this token, and keeps the other hold.
    guard !hold.isReleased else {
      throw SidelockError(reason: .notHeld, message: "the lock \(name) was released before")
    }
    _ = try await whileHeld { try await $0.end("release", self.name, self.token, hold: self.hold) }
    hold.release()
  }

  /// Asks for something for which the lock has to be held. Where it is lost meanwhile, that is the error.
  private func whileHeld(_ ask: (Connection) async throws -> JSONValue) async throws -> JSONValue {
    if let notice = hold.notice { throw SidelockError(lost: notice) }
    do {
      return try await ask(connection)
    } catch {
      throw hold.notice.map { SidelockError(lost: $0) } ?? error
    }
  }

  /// Sets how long from now the lock may be held; it is lost then. nil removes the limit.
  ///
  /// - Throws: ``SidelockError``, of reason `lost` when the lock was lost before.
  public func extend(maxHold: Duration?) async throws {
    let limit: JSONValue = maxHold.map { .int($0.holdMilliseconds) } ?? .null
    let params: JSONValue = ["name": .string(name), "token": .int(token), "max_hold_ms": limit]
    _ = try await whileHeld { try await $0.call("extend", params: params) }
  }
}

extension Lock {
  /// Turns an exclusive hold into a shared one. Nobody else can have had the lock in between.
  ///
  /// - Throws: ``SidelockError``, of reason `lost` when the lock was lost before, `mode_conflict` for a permit.
  public func downgrade() async throws {
    let params: JSONValue = ["name": .string(name), "token": .int(token)]
    _ = try await whileHeld { try await $0.call("downgrade", params: params) }
  }

  /// Hands the lock to another connection of this host, without anybody else getting it in between. That connection
  /// finds it in its ``SidelockClient/handedLocks``.
  ///
  /// - Parameter session: the other connection's ``SidelockClient/session()``.
  /// - Returns: the token of its hold.
  /// - Throws: ``SidelockError``, of reason `lost` when the lock was lost before.
  @discardableResult
  public func transfer(to session: String) async throws -> Int64 {
    let result = try await whileHeld {
      try await $0.end("transfer", self.name, self.token, hold: self.hold, session: session)
    }
    hold.release()
    return result["token"]?.intValue ?? 0
  }
}

extension SidelockError {
  /// The error for the use of a lost lock.
  init(lost notice: LostNotice) {
    self.init(
      reason: .lost, message: "the lock \(notice.name) was lost: \(notice.reason)",
      data: [
        "reason": "lost", "name": .string(notice.name), "token": .int(notice.token), "lost": .string(notice.reason),
      ])
  }
}

extension Duration {
  /// The longest time that the protocol accepts: a year of 365 days, in milliseconds.
  package static let protocolMillisecondsMax: Int64 = 31_536_000_000
}

/// What a grant says.
struct Grant: Sendable {
  var name: String
  var token: Int64
  var mode: LockMode
  var waitedMilliseconds: Int64
  var validMilliseconds: Int64?

  private init(name: String, token: Int64, _ message: JSONValue) {
    self.name = name
    self.token = token
    self.mode = LockMode(message) ?? .exclusive
    self.waitedMilliseconds = message["waited_ms"]?.intValue ?? 0
    self.validMilliseconds = message["valid_ms"]?.intValue
  }

  /// The grants of an acquire, in the order of `names`; nil when the result is none of them.
  static func grants(result: JSONValue, names: [String]) -> [Grant]? {
    if names.count == 1, let token = result["token"]?.intValue {
      return [Grant(name: names[0], token: token, result)]
    }
    let locks = result["locks"]?.arrayValue ?? []
    guard locks.count == names.count else { return nil }
    var grants: [Grant] = []
    for (name, lock) in zip(names, locks) {
      guard ExactText.isSame(lock["name"]?.stringValue, name), let token = lock["token"]?.intValue else { return nil }
      grants.append(Grant(name: name, token: token, result))
    }
    return grants
  }

  /// What a `transferred` notification grants.
  init?(transferred params: JSONValue) {
    guard let name = params["name"]?.stringValue, let token = params["token"]?.intValue else { return nil }
    self.init(name: name, token: token, params)
  }
}

/// Whether a lock is lost; shared by the connection, which learns it, and the lock's user.
final class Hold: Sendable {
  private enum State {
    case held([@Sendable (LostNotice) -> Void])
    case released
    case lost(LostNotice)
  }

  /// Gives the notice if the lock is lost, and ends with the hold. For one reader.
  let losses: AsyncStream<LostNotice>

  private let continuation: AsyncStream<LostNotice>.Continuation
  /// With whom to tell of a loss.
  private let state: NIOLockedValueBox<State>
  private let validityBox = NIOLockedValueBox<Validity?>(nil)
  private let onContended: (@Sendable (Int) -> Void)?

  init(onLost: (@Sendable (LostNotice) -> Void)? = nil, onContended: (@Sendable (Int) -> Void)? = nil) {
    (losses, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(1))
    state = NIOLockedValueBox(.held(onLost.map { [$0] } ?? []))
    self.onContended = onContended
  }

  /// Has a loss told also to `action`: at once where it has come already.
  func onLost(_ action: @escaping @Sendable (LostNotice) -> Void) {
    let notice: LostNotice? = state.withLockedValue { state in
      switch state {
      case .held(let actions):
        state = .held(actions + [action])
        return nil
      case .released: return nil
      case .lost(let notice): return notice
      }
    }
    if let notice { action(notice) }
  }

  func contended(waiters: Int) {
    onContended?(waiters)
  }

  var notice: LostNotice? {
    state.withLockedValue { if case .lost(let notice) = $0 { notice } else { nil } }
  }

  /// nil where it does not end by itself, or nothing is known of it yet.
  var validity: Validity? {
    get { validityBox.withLockedValue { $0 } }
    set { validityBox.withLockedValue { $0 = newValue } }
  }

  var isOpen: Bool {
    state.withLockedValue { if case .held = $0 { true } else { false } }
  }

  var isHeld: Bool {
    isOpen && validity.map { $0.deadline > Validity.now } ?? true
  }

  var isReleased: Bool {
    state.withLockedValue { if case .released = $0 { true } else { false } }
  }

  func lose(_ notice: LostNotice) {
    let actions: [@Sendable (LostNotice) -> Void]? = state.withLockedValue { state in
      guard case .held(let actions) = state else { return nil }
      state = .lost(notice)
      return actions
    }
    guard let actions else { return }
    for action in actions { action(notice) }
    continuation.yield(notice)
    continuation.finish()
  }

  func release() {
    state.withLockedValue { if case .held = $0 { $0 = .released } }
    continuation.finish()
  }
}

extension Duration {
  /// The time as a `max_hold_ms`.
  package var holdMilliseconds: Int64 {
    min(max(wholeMilliseconds, 1), Self.protocolMillisecondsMax)
  }

  /// Whole milliseconds, rounded up so that a short wait does not become a try, and at least 0.
  package var wholeMilliseconds: Int64 {
    let (seconds, attoseconds) = components
    guard seconds >= 0, attoseconds >= 0 else { return 0 }
    let rest = (attoseconds + 999_999_999_999_999) / 1_000_000_000_000_000
    let (scaled, overflow) = seconds.multipliedReportingOverflow(by: 1000)
    let (sum, sumOverflow) = scaled.addingReportingOverflow(rest)
    return overflow || sumOverflow ? Int64.max : sum
  }
}
