// What happens to the process of a client that loses a lock.

import ClientProtocol
import Glibc
import LockEngine

/// A process that has been told to end, and is killed unless it has.
struct PendingKill {
  var moment: BootInstant
  var handle: ProcessHandle
  var session: SessionID
}

extension SidecarCore {
  /// The part of the time until another could have the lock after which a process that was asked to end is killed, in
  /// hundredths. The rest is for the kernel to end it, and for the daemon to be late.
  static let terminatePercent: Int64 = 60

  /// Why a client cannot have its loss enforced; nil: it can.
  enum EnforcementRefusal: Equatable {
    /// The daemon may not send signals to the client's process.
    case notAllowed
    /// The process that connected is no more.
    case ended
    /// No signal of the daemon reaches it: it is in another pid namespace.
    case invisible
    /// The system's own words.
    case failed(String)
    /// Clients have as many descriptors as they may.
    case noRoom
  }

  /// Whether the daemon could end the process of a client.
  func enforcementRefusal(_ session: ClientSession) -> EnforcementRefusal? {
    switch handle(of: session) {
    case .failure(.noRoom): return .noRoom
    case .failure(.ended): return .ended
    case .failure(.invisible): return .invisible
    case .failure(.failed(let reason)): return .failed(reason)
    case .success(let handle):
      switch handle.send(0) {
      case .sent: return nil
      case .ended: return .ended
      case .notAllowed: return .notAllowed
      case .invisible: return .invisible
      case .failed(let reason): return .failed(reason)
      }
    }
  }

  /// Refuses an acquire whose loss could not be enforced.
  func refuseEnforcement(_ refusal: EnforcementRefusal, _ name: LockName, id: MessageID, to session: ClientSession) {
    if refusal == .noRoom { return refuseConnections(id: id, to: session) }
    write(to: session) { writer in
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
  func enforceLoss(_ action: LossAction, for session: ClientSession, graceMilliseconds: Int64) {
    switch action {
    case .notify: return
    case .kill: kill(session)
    case .terminate:
      guard graceMilliseconds > 0, case .success(let handle) = handle(of: session, isOwed: true) else {
        return kill(session)
      }
      signal(SIGTERM, handle, session.id)
      let delay = graceMilliseconds * Self.terminatePercent / 100
      let moment = BootClock.now().adding(milliseconds: delay)
      pendingKills.append(PendingKill(moment: moment, handle: handle, session: session.id))
      scheduleTurnEnd()
    }
  }

  /// The daemon ends a session whose client does not know that: its locks are free at once, so that there is no time
  /// for a process to end by itself.
  func enforceEnd(of session: ClientSession) {
    if engine.hasEnforcedHold(session.id) { kill(session) }
  }

  private func kill(_ session: ClientSession) {
    guard case .success(let handle) = handle(of: session, isOwed: true) else { return }
    signal(SIGKILL, handle, session.id)
  }

  private func signal(_ number: CInt, _ handle: ProcessHandle, _ session: SessionID) {
    let outcome: String
    switch handle.send(number) {
    case .ended: return
    case .sent:
      statistics.signalsSent += 1
      outcome = "sent"
    case .notAllowed: outcome = "not allowed"
    case .invisible: outcome = "in another pid namespace"
    case .failed(let reason): outcome = reason
    }
    logger.notice(
      "signal to the process of a client that lost a lock",
      metadata: [
        "signal": number == SIGKILL ? "SIGKILL" : "SIGTERM", "session": "\(session.rawValue)",
        "pid": "\((sessions[session]?.peer).pidText)", "outcome": "\(outcome)",
      ])
  }

  /// Kills the processes whose time to end by themselves is over.
  func killThoseDue(now: BootInstant) {
    guard !pendingKills.isEmpty else { return }
    let due = pendingKills.filter { $0.moment <= now }
    pendingKills.removeAll { $0.moment <= now }
    for pending in due { signal(SIGKILL, pending.handle, pending.session) }
  }

  /// The daemon ends, and nobody else would do it.
  func killAllPending() {
    for pending in pendingKills { signal(SIGKILL, pending.handle, pending.session) }
    pendingKills = []
  }
}
