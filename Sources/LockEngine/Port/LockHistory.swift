public import LockTypes

/// Kinds of what happens to locks, of which the engine tells (``Effect/recorded(_:)``).
public struct HistoryKinds: OptionSet, Hashable, Sendable {
  /// One bit for each kind.
  public let rawValue: UInt8

  /// The kinds of these bits.
  public init(rawValue: UInt8) {
    self.rawValue = rawValue
  }

  /// A client got a lock, and was told so.
  public static let grants = HistoryKinds(rawValue: 1)
  /// A hold ended by its client's will or with its session.
  public static let releases = HistoryKinds(rawValue: 2)
  /// A client waits for a lock that others are known to have or to wait for.
  public static let waits = HistoryKinds(rawValue: 4)
  /// A client asked for a lock and did not get it.
  public static let failures = HistoryKinds(rawValue: 8)
  /// A hold ended against its client's will.
  public static let losses = HistoryKinds(rawValue: 16)
}

/// Why a hold ended that was not lost.
public enum ReleaseCause: String, Hashable, Sendable, CaseIterable {
  /// Its client gave it back.
  case released
  /// The connection of its client has ended.
  case sessionEnded = "session_ended"
  /// Its client handed it to another session.
  case transferred
}

/// Something that happened to a lock, with all that is known of it at that moment.
public struct LockHistory: Equatable, Sendable {
  /// What happened.
  public enum Deed: Equatable, Sendable {
    /// The session got it after that time, in milliseconds.
    case granted(waitedMilliseconds: Int64)
    /// The session had it for that time, in milliseconds.
    case released(heldMilliseconds: Int64, ReleaseCause)
    /// The session had it for that time, in milliseconds, and lost it.
    case lost(heldMilliseconds: Int64, LostReason)
    /// The session waits for those; so many wait on this host.
    case waits(HolderSummary, waiters: Int)
    /// The session did not get it; it has waited for that time, in milliseconds.
    case failed(waitedMilliseconds: Int64, Refusal)
    /// The session ended while it waited, after that time in milliseconds.
    case leftQueue(waitedMilliseconds: Int64)
  }

  /// The lock.
  public var name: LockName
  /// Whose hold or request it was.
  public var session: SessionID
  /// The hold's token; nil where there is no hold.
  public var token: Token?
  /// How it was held or asked for.
  public var mode: HoldMode
  /// The owner inside the session, as the client calls it.
  public var owner: String?
  /// The client's own words.
  public var meta: String?
  /// What happened.
  public var deed: Deed

  /// Something that happened.
  public init(
    name: LockName, session: SessionID, token: Token?, mode: HoldMode, owner: String?, meta: String?, deed: Deed
  ) {
    self.name = name
    self.session = session
    self.token = token
    self.mode = mode
    self.owner = owner
    self.meta = meta
    self.deed = deed
  }
}

extension LockEngine {
  func record(_ hold: Hold, _ kind: HistoryKinds, _ deed: @autoclosure () -> LockHistory.Deed) {
    guard historyKinds.contains(kind) else { return }
    record(
      LockHistory(
        name: hold.lock.name, session: hold.session, token: hold.token, mode: hold.mode, owner: hold.owner,
        meta: hold.meta, deed: deed()))
  }

  func record(
    _ request: AcquireRequest, of name: LockName, _ kind: HistoryKinds, _ deed: @autoclosure () -> LockHistory.Deed
  ) {
    guard historyKinds.contains(kind) else { return }
    record(
      LockHistory(
        name: name, session: request.session, token: nil, mode: request.mode, owner: request.owner, meta: request.meta,
        deed: deed()))
  }

  /// A waiter stands behind others. Told once for each wait, and not of one that only asks the store.
  func recordWait(_ waiter: Waiter) {
    guard historyKinds.contains(.waits), !waiter.isRecorded, !waiter.isOver, !waiter.isTry else { return }
    waiter.isRecorded = true
    record(
      waiter.request, of: waiter.lock.name, .waits,
      .waits(holderSummary(of: waiter.lock), waiters: waiter.lock.queue.count))
  }

  func recordFailure(_ request: AcquireRequest, _ refusal: Refusal, waitedMilliseconds: Int64) {
    guard historyKinds.contains(.failures) else { return }
    let name: LockName? =
      switch refusal {
      case .busy(_, let name), .timeout(_, let name), .wrongType(_, let name): name
      case .cancelled, .notHeld, .lost, .unavailable, .recovering, .modeConflict, .deadlock, .noSuchSession,
        .notAccepted, .limit, .underReplicated, .shuttingDown:
        request.names.first
      }
    guard let name else { return }
    record(request, of: name, .failures, .failed(waitedMilliseconds: waitedMilliseconds, refusal))
  }

  func recordRelease(_ hold: Hold, _ cause: ReleaseCause, now: BootInstant) {
    record(hold, .releases, .released(heldMilliseconds: now.milliseconds(since: hold.since), cause))
  }

  /// The session of a waiter is gone.
  func recordEnd(of waiter: Waiter, now: BootInstant) {
    guard !waiter.isTry else { return }
    record(
      waiter.request, of: waiter.lock.name, .failures,
      .leftQueue(waitedMilliseconds: now.milliseconds(since: waiter.since)))
  }

  private func record(_ history: LockHistory) { effects.append(.recorded(history)) }
}
