import ClientProtocol
import DequeModule
import Glibc
import LockEngine
import LockTypes
import Logging

/// The signals that the process of a session was sent: of very many locks that it loses at once, one says it all.
struct SessionEnforcement {
  /// Whether it was sent SIGKILL, or had ended.
  fileprivate var isKilled = false
  /// When it was last to be sent SIGKILL, and was not.
  fileprivate var notKilledAt: BootInstant?
  /// When it is killed, and whether it was sent SIGTERM; nil: it is not to be.
  fileprivate var terminated: (kill: BootInstant, isSent: Bool)?
}

/// A process that was sent SIGTERM, and is killed at `moment` unless it has ended.
private struct PendingKill {
  var moment: BootInstant
  var handle: ProcessHandle
  var session: ClientSession
}

/// Ends the processes of clients that lost a lock, as they asked for (`on_lost`).
final class LossEnforcer {
  /// After this percentage of the grace a process that was sent SIGTERM is killed. The rest is for the kernel to end
  /// it, and for the daemon to be late.
  private static let terminatePercent: Int64 = 60
  /// So many processes are killed in one turn, the others in the next ones.
  private static let killsInTurn = 64
  /// For so long a process that could not be killed is not tried again.
  private static let retryMilliseconds: Int64 = 10

  private let engine: LockEngine
  private let peers: PeerDirectory
  private let room: DescriptorRoom
  private let output: TurnOutput
  private let statistics: SidecarStatistics
  private let clock: HostClock
  private let logger: Logger
  /// What the log tells of a client.
  var who: (ClientSession) -> Logger.Metadata = { _ in [:] }
  /// Processes that were sent SIGTERM, in the order in which they are killed.
  private var pendingKills: Deque<PendingKill> = []

  init(
    engine: LockEngine, peers: PeerDirectory, room: DescriptorRoom, output: TurnOutput, statistics: SidecarStatistics,
    clock: HostClock, logger: Logger
  ) {
    self.engine = engine
    self.peers = peers
    self.room = room
    self.output = output
    self.statistics = statistics
    self.clock = clock
    self.logger = logger
  }

  /// When the next process is to be killed.
  var nextDeadline: BootInstant? { pendingKills.first?.moment }

  /// Why a client cannot have its loss enforced; nil: it can.
  enum EnforcementRefusal: Equatable {
    /// The daemon may not send signals to the client's process.
    case notAllowed
    /// The client's own user may not.
    case ofAnotherUser
    /// Whose process it is cannot be found out; the system's own words.
    case ofUnknownUser(String)
    /// The process that connected is no more.
    case ended
    /// No signal of the daemon reaches it: it is in another pid namespace.
    case invisible
    /// The system's own words.
    case failed(String)
    /// Clients have as many descriptors as they may.
    case noRoom
  }

  /// Why the daemon could not end a client's process; nil: it could.
  func enforcementRefusal(_ session: ClientSession) -> EnforcementRefusal? {
    switch peers.handle(of: session) {
    case .failure(.noRoom): return .noRoom
    case .failure(.ended): return .ended
    case .failure(.invisible): return .invisible
    case .failure(.failed(let reason)): return .failed(reason)
    case .success(let handle):
      switch handle.send(0, onBehalfOf: session.peer) {
      case .sent: return nil
      case .ended: return .ended
      case .notAllowed: return .notAllowed
      case .ofAnotherUser: return .ofAnotherUser
      case .ofUnknownUser(let reason): return .ofUnknownUser(reason)
      case .invisible: return .invisible
      case .failed(let reason): return .failed(reason)
      }
    }
  }

  /// Refuses an acquire whose loss could not be enforced.
  func refuseEnforcement(_ refusal: EnforcementRefusal, _ name: LockName, id: MessageID, to session: ClientSession) {
    if refusal == .noRoom { return room.refuse(id: id, to: session) }
    output.write(to: session) { writer in
      switch refusal {
      case .noRoom: break
      case .notAllowed:
        let message =
          "sidelockd may not send signals to the processes of this client's user, so that on_lost can only be "
          + "\"notify\"; an administrator of this host gives it the right CAP_KILL, in the packaged service with "
          + "enforce-loss.conf from /usr/share/doc/sidelock/examples"
        writer.failure(id: id, .denied, message: message) { json in
          json.member("right", "CAP_KILL")
          json.member("name", utf8: name.bytes)
        }
      case .ofAnotherUser:
        let message =
          "the process that connected belongs to another user, to whose processes this client may not send signals, so "
          + "that on_lost can only be \"notify\""
        writer.failure(id: id, .invalidParams, message: message) { $0.member("field", "on_lost") }
      case .ofUnknownUser(let reason):
        let message =
          "sidelockd cannot find out whose the process of this client is (\(reason)), so that on_lost can only be "
          + "\"notify\"; the packaged service can with enforce-loss.conf from /usr/share/doc/sidelock/examples"
        writer.failure(id: id, .invalidParams, message: message) { $0.member("field", "on_lost") }
      case .ended:
        let message = "the process that connected has ended, so that it cannot be ended when the lock is lost"
        writer.failure(id: id, .invalidParams, message: message) { $0.member("field", "on_lost") }
      case .invisible:
        let message =
          "\(Peer.invisible), so that it cannot be ended when the lock is lost, and on_lost can only be \"notify\""
        writer.failure(id: id, .invalidParams, message: message) { $0.member("field", "on_lost") }
      case .failed(let reason):
        let message = "the process of this client cannot be looked at, as on_lost needs: \(reason)"
        writer.failure(id: id, .internalError, message: message)
      }
    }
  }

  /// Ends the process of a client that has lost a lock, as it asked for.
  ///
  /// - Returns: false when it cannot, and the process goes on.
  func enforceLoss(_ action: LossAction, for session: ClientSession, graceMilliseconds: Int64) -> Bool {
    switch action {
    case .notify: return true
    case .kill: return kill(session)
    case .terminate:
      if session.enforcement.isKilled { return true }
      guard graceMilliseconds > 0, case .success(let handle) = peers.handle(of: session, isOwed: true) else {
        return kill(session)
      }
      let delay = graceMilliseconds * Self.terminatePercent / 100
      let moment = clock.now().adding(milliseconds: delay)
      if let before = session.enforcement.terminated, before.kill <= moment { return before.isSent }
      let isSent =
        session.enforcement.terminated?.isSent == true || signal(SIGTERM, handle, session)
      session.enforcement.terminated = (moment, isSent)
      let place = pendingKills.lastIndex { $0.moment <= moment }.map { $0 + 1 } ?? 0
      pendingKills.insert(PendingKill(moment: moment, handle: handle, session: session), at: place)
      output.scheduleEnd()
      return isSent
    }
  }

  /// The daemon ends a session without the client's knowledge: its locks are free at once, so its process is killed at
  /// once.
  func enforceEnd(of session: ClientSession) {
    if engine.hasEnforcedHold(session.id) { _ = kill(session) }
  }

  private func kill(_ session: ClientSession) -> Bool {
    if session.enforcement.isKilled { return true }
    let now = clock.now()
    if let before = session.enforcement.notKilledAt, now.milliseconds(since: before) < Self.retryMilliseconds {
      return false
    }
    let isKilled =
      switch peers.handle(of: session, isOwed: true) {
      case .success(let handle): signal(SIGKILL, handle, session)
      case .failure(let failure): failure == .ended
      }
    session.enforcement.isKilled = isKilled
    session.enforcement.notKilledAt = isKilled ? nil : now
    return isKilled
  }

  /// Sends a signal and logs it. False when that failed and the process goes on.
  @discardableResult
  private func signal(_ number: CInt, _ handle: ProcessHandle, _ session: ClientSession) -> Bool {
    let outcome: String
    var isSent = false
    switch handle.send(number, onBehalfOf: session.peer) {
    case .ended: return true
    case .sent:
      statistics.signalsSent += 1
      isSent = true
      outcome = "sent"
    case .notAllowed: outcome = "not allowed"
    case .ofAnotherUser: outcome = "another user's process by now"
    case .ofUnknownUser(let reason): outcome = "whose process it is is not known: \(reason)"
    case .invisible: outcome = "in another pid namespace"
    case .failed(let reason): outcome = reason
    }
    let fields: Logger.Metadata = [
      "signal": number == SIGKILL ? "SIGKILL" : "SIGTERM", "outcome": "\(outcome)",
    ]
    logger.notice(
      "signal to the process of a client that lost a lock", metadata: fields.about(who(session)))
    return isSent
  }

  /// Kills the processes whose time to end by themselves is over.
  func killThoseDue(now: BootInstant) {
    for _ in 0..<Self.killsInTurn {
      guard let pending = pendingKills.first, pending.moment <= now else { return }
      pendingKills.removeFirst()
      kill(pending)
    }
  }

  /// Kills all processes that were sent SIGTERM: the daemon ends, and nobody else would do it.
  func killAllPending() {
    for pending in pendingKills { kill(pending) }
    pendingKills = []
  }

  private func kill(_ pending: PendingKill) {
    let session = pending.session
    guard !session.enforcement.isKilled else { return }
    session.enforcement.isKilled = signal(SIGKILL, pending.handle, session)
    // Where it could not be killed, that may be possible at its next loss.
    session.enforcement.terminated = nil
  }
}
