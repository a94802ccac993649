import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import SystemStrings

/// Writes the engine's replies in the protocol's words.
struct ReplyWriter {
  /// Waits of a cycle that `deadlock` names, at most.
  private static let cycleShownMax = 1024

  let queries: LockQueries
  let rights: RightsCache
  let counts: LimitCounts

  /// Writes the answer to a request.
  func write(_ reply: Reply, id: MessageID, for session: ClientSession, to writer: inout MessageWriter) {
    switch reply {
    case .acquired(let lock):
      writer.acquired(
        id: id, name: lock.name, token: lock.token, mode: lock.mode,
        waitedMilliseconds: lock.waitedMilliseconds, validMilliseconds: lock.validMilliseconds)
    case .acquiredAll(let several):
      writer.acquiredSeveral(
        id: id, locks: several.locks,
        mode: several.mode, waitedMilliseconds: several.waitedMilliseconds,
        validMilliseconds: several.validMilliseconds)
    case .released(let name, let token, let remaining):
      writer.released(id: id, name: name, token: token, remaining: Int64(remaining))
    case .extended(let name, let token, let maximum):
      writer.extended(id: id, name: name, token: token, maxHoldMilliseconds: maximum)
    case .downgraded(let name, let token):
      writer.downgraded(id: id, name: name, token: token)
    case .transferred(let name, let token, let session):
      writer.transferred(id: id, name: name, token: token, session: "\(session.rawValue)")
    case .cancelled(let cancelled):
      writer.cancelled(id: id, cancelled)
    case .refused(let refusal):
      write(refusal, id: id, for: session, to: &writer)
    }
  }

  private func write(
    _ refusal: Refusal, id: MessageID, for session: ClientSession, to writer: inout MessageWriter
  ) {
    switch refusal {
    case .busy(let holder, let name):
      let holders = queries.holders(of: holder, of: name, for: session)
      writer.failure(id: id, .busy) { MessageWriter.writeHolders(holders, to: &$0) }
    case .timeout(let holder, let name):
      let holders = queries.holders(of: holder, of: name, for: session)
      writer.failure(id: id, .timeout) { MessageWriter.writeHolders(holders, to: &$0) }
    case .cancelled:
      writer.failure(id: id, .cancelled)
    case .notHeld(let tokens):
      let isUnclear = tokens.count > 1
      let message = "this connection holds that lock several times; name the hold by its token, one of data.tokens"
      writer.failure(id: id, .notHeld, message: isUnclear ? message : nil) { json in
        json.array("tokens") { json in
          for token in tokens.prefix(Limits.toldTokensMax) { json.value(token) }
        }
      }
    case .lost(let reason):
      writer.failure(id: id, .lost) { $0.member("lost", reason.rawValue) }
    case .unavailable(let words):
      writer.failure(id: id, .unavailable) { json in
        if let detail = LockQueries.said(words) ?? LockQueries.said(queries.store?.downReason) {
          json.member("detail", detail)
        }
      }
    case .recovering(let retry):
      writer.failure(id: id, .unavailable, message: RecoveryNews.words(leftMilliseconds: retry)) {
        $0.member("retry_ms", retry)
      }
    case .wrongType(let other, let name):
      queries.writeWrongType(other, of: name, id: id, to: &writer)
    case .modeConflict(let held, let holder, let name):
      let holders = name.map { queries.holders(of: holder, of: $0, for: session) }
      writer.failure(id: id, .modeConflict) { json in
        MessageWriter.writeHeld(held, to: &json)
        if let holders { MessageWriter.writeHolders(holders, to: &json) }
      }
    case .deadlock(let steps):
      // More have no room in a line.
      let cycle = steps.prefix(Self.cycleShownMax).map { info($0, for: session) }
      writer.failure(id: id, .deadlock) { MessageWriter.writeCycle(cycle, to: &$0) }
    case .underReplicated(let need, let acknowledged, let words):
      writer.failure(id: id, .underReplicated) { json in
        json.member("replicas", Int64(need.replicas))
        json.member("acknowledged", Int64(acknowledged))
        json.member("durability", need.durability.rawValue)
        if let words { json.member("detail", words) }
      }
    case .noSuchSession:
      Self.writeNoSuchSession(id: id, to: &writer)
    case .notAccepted:
      let message =
        "that session neither waits for this lock nor has said that it accepts transfers, or it does not read what it is sent"
      writer.failure(id: id, .invalidParams, message: message) { json in
        json.member("field", "session")
        json.member("expected", "a session that waits for the lock, or that sent accept_transfers to initialize")
      }
    case .limit(let limit):
      counts.met(limit, by: session)
      writer.failure(id: id, .limit) { $0.member("limit", limit.rawValue) }
    case .shuttingDown:
      writer.failure(id: id, .shuttingDown)
    }
  }

  /// Refuses a `transfer` to a session that this host does not have.
  static func writeNoSuchSession(id: MessageID, to writer: inout MessageWriter) {
    let message = "this host has no session of that name; initialize tells a client its own, and list those of holders"
    writer.failure(id: id, .invalidParams, message: message) { json in
      json.member("field", "session")
      json.member("expected", "the name of a session of this host")
    }
  }

  /// A wait of a cycle, as far as the client may see it: its own in full, of others only locks that it may inspect. It
  /// sees who waits only if it may inspect both the lock that is waited for and the one that is held.
  private func info(_ step: DeadlockStep, for session: ClientSession) -> DeadlockInfo {
    let isHere = ExactText.isSame(step.inbox, queries.inbox)
    let isOwn = isHere && step.session == session.id.rawValue
    let waitsFor = isOwn || rights.mayInspect(session, step.waitsFor) ? step.waitsFor : nil
    let holds = step.holds.flatMap { isOwn || rights.mayInspect(session, $0) ? $0 : nil }
    guard waitsFor != nil, holds != nil || step.holds == nil else {
      return DeadlockInfo(session: nil, waitsFor: waitsFor, held: holds)
    }
    let who =
      isHere
      ? queries.info(SessionID(step.session))
      : SessionInfo(host: step.host, session: "\(step.session)", pid: step.pid.map(Int64.init), command: step.command)
    return DeadlockInfo(session: who, owner: step.owner, waitsFor: waitsFor, held: holds)
  }
}
