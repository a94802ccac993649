import SidelockClient

/// Errors in words for people: who has the lock, and the command that mends what is wrong. The stable name of the reason
/// is among them.
enum ErrorWords {
  private static let settingsFile = "/etc/sidelock/sidelockd.yaml"

  /// What to say of an error. `locks`: what is known of the locks that were asked for; `wait`: how long they were waited
  /// for, in milliseconds.
  static func text(
    _ error: SidelockError, locks: [LockDescription] = [], waited wait: Int64? = nil, enclosing: [EnclosingRun] = [],
    detail: HolderWords.Detail = .usual
  ) -> String {
    switch error.reason {
    case .busy: return "busy: \(holders(error, locks, enclosing, detail) ?? "somebody else has it")"
    case .timeout:
      let time = wait.map { "not free within \(HolderWords.limit(milliseconds: $0))" } ?? "not free in time"
      return "timeout: \(time)\(holders(error, locks, enclosing, detail).map { "; \($0)" } ?? "")"
    case .modeConflict: return modeConflict(error, holders(error, locks, enclosing, detail))
    case .deadlock: return deadlock(error)
    case .unavailable: return unavailable(error)
    case .denied: return denied(error)
    case .limit: return limit(error)
    case .underReplicated: return underReplicated(error)
    case .notHeld: return "not_held: it is not held here, or not under that token"
    case _ where error.data?["key"]?.stringValue != nil: return wrongType(error)
    case _: return "\(error)"
    }
  }

  private static func holders(
    _ error: SidelockError, _ locks: [LockDescription], _ enclosing: [EnclosingRun], _ detail: HolderWords.Detail
  ) -> String? {
    let held = locks.filter { !$0.holders.isEmpty }
    let known = held.compactMap { lock in
      HolderWords.holders(lock.holders, holding: lock.holding, enclosing: enclosing, detail: detail).map {
        locks.count > 1 ? "\(lock.name) held by \($0)" : "held by \($0)"
      }
    }
    if !known.isEmpty { return known.joined(separator: "; ") }
    let told = LockDescription(["holders": error.data?["holders"] ?? .array([])])
    return HolderWords.holders(told.holders, enclosing: enclosing, detail: detail).map { "held by \($0)" }
  }

  private static func modeConflict(_ error: SidelockError, _ holders: String?) -> String {
    let held = error.data?["held"]
    let holders = holders.map { "; \($0)" } ?? ""
    if let permits = held?["permits"]?.intValue {
      return """
        mode_conflict: it is in use as a semaphore of \(permits) permit\(permits == 1 ? "" : "s")\(holders); \
        ask for it with --permits \(permits), or wait until nobody has it
        """
    }
    let mode = held?["mode"]?.stringValue.map { "held \($0 == "shared" ? "shared" : "exclusively")" }
    return
      "mode_conflict: it is in use as a lock\(mode.map { ", \($0)" } ?? "")\(holders); ask for it without --permits, or wait until nobody has it"
  }

  private static func deadlock(_ error: SidelockError) -> String {
    let steps = (error.data?["cycle"]?.arrayValue ?? []).map { step -> String in
      let who = step["pid"]?.intValue.map { "\($0)" } ?? "session \(step["session"]?.stringValue ?? "?")"
      let command = step["command"]?.stringValue.map { " (\(HolderWords.program(of: $0)))" } ?? ""
      let host = step["host"]?.stringValue.map { " on \($0)" } ?? ""
      let wanted = step["waits_for"]?.stringValue.map { " waits for \($0)" } ?? " waits"
      return who + command + host + wanted + (step["held"]?.stringValue.map { " and holds \($0)" } ?? "")
    }
    return "deadlock: the wait would never end"
      + (steps.isEmpty ? "" : ": \(steps.joined(separator: ", ")); take the locks in the same order")
  }

  private static func unavailable(_ error: SidelockError) -> String {
    guard let detail = error.detail else { return "unavailable: \(error.message)" }
    if error.retryMilliseconds != nil { return "unavailable: \(detail); try again later" }
    return ofRedis("unavailable: Redis cannot be reached or refuses", detail)
  }

  /// What is wrong with Redis, in the daemon's words, and the command that mends it.
  static func ofRedis(_ what: String, _ detail: String?) -> String {
    guard let detail, !detail.isEmpty else { return "\(what); its log tells why" }
    return "\(what): \(printable(detail))\(remedy(detail).map { "; \($0)" } ?? "")"
  }

  /// The command that mends what is wrong with Redis, by the daemon's words for it.
  static func remedy(_ detail: String) -> String? {
    func has(_ words: String...) -> Bool { words.contains { detail.contains($0) } }
    if has("ACL SETUSER") { return nil }
    if has("redis_sentinel_password_file"), has("no password set") {
      return "take redis_sentinel_password_file out of \(settingsFile), and: systemctl restart sidelockd"
    }
    if has("redis_sentinel_password_file") {
      return "put that of the sentinels into /etc/credstore/sidelock.redis-sentinel-password, or where "
        + "redis_sentinel_password_file says, and: systemctl restart sidelockd"
    }
    if has("WRONGPASS", "refused the password", "asks for a password", "did not accept user", "no password set") {
      // systemd copies a credential at the start of the service: a reload would go on with the old one.
      return "put the right one into /etc/credstore/sidelock.redis-password, or where redis_password_file says, and: "
        + "systemctl restart sidelockd"
    }
    if has("NOPERM", "can't run this command") {
      return "what is missing tells: redis-cli ACL LOG; the rights that are enough: man sidelockd.yaml"
    }
    if has("OOM ") { return "give Redis more memory, as in: redis-cli CONFIG SET maxmemory 1gb" }
    let isClosed = detail.hasSuffix("the connection was closed") || has("reset by peer")
    if isClosed
      || has("refused", "cannot connect", "unreachable", "timed out", "timeout", "no such file", "No such file")
    {
      // The sandbox of the service drops what goes to another host.
      let isElsewhere = has("timed out", "timeout", "unreachable") && !has("localhost", "127.0.0.1", "::1", "/")
      let isOfSentinels = has("no sentinel tells", "sentinels of '")
      let dropIn = isOfSentinels ? "redis-sentinel.conf" : "remote-redis.conf"
      let elsewhere =
        isElsewhere
        ? "; one on another host is open to the service with /usr/share/doc/sidelock/examples/\(dropIn)" : ""
      return isOfSentinels
        ? "start the sentinels, as in: systemctl start redis-sentinel; or name others in \(settingsFile)\(elsewhere)"
        : "start Redis, as in: systemctl start redis-server; or name another one in \(settingsFile)\(elsewhere)"
    }
    return nil
  }

  private static func denied(_ error: SidelockError) -> String {
    guard let right = error.data?["right"]?.stringValue, let name = error.data?["name"]?.stringValue else {
      return "denied: \(error.message)"
    }
    // The daemon's words have a rule for any lock.
    let words = error.message.replacing("allow \(right) NAME to", with: "allow \(right) \(name) to")
    return "denied: \(words); then: systemctl reload-or-restart sidelockd"
  }

  private static func limit(_ error: SidelockError) -> String {
    guard let name = error.data?["limit"]?.stringValue else { return "\(error)" }
    let raise =
      limitsThatAreSet.contains(name)
      ? ", or raise \(name)_max in \(settingsFile), and: systemctl reload-or-restart sidelockd" : ""
    if name.hasPrefix("connections") {
      return "limit: \(error.message); end some, which sidelock clients shows\(raise)"
    }
    return "limit: \(name) is met; finish other requests first\(raise)"
  }

  /// The limits that are settings of the daemon, of the name with `_max` behind it.
  private static let limitsThatAreSet: Set<String> = [
    "connections", "connections_per_uid", "holds_per_session", "holds_per_uid", "waits_per_session", "waits_per_uid",
    "bytes_per_session", "bytes_per_uid", "lock_bytes_per_uid", "watches_per_uid",
  ]

  private static func underReplicated(_ error: SidelockError) -> String {
    guard let wanted = error.data?["replicas"]?.intValue, let had = error.data?["acknowledged"]?.intValue else {
      return "\(error)"
    }
    return "\(error.message): \(had) of \(wanted) had it (under_replicated)"
      + (error.detail.map { ": \($0)" } ?? "")
  }

  private static func wrongType(_ error: SidelockError) -> String {
    let key = error.data?["key"]?.stringValue ?? ""
    return "\(error): see redis-cli TYPE '\(key)'"
  }
}

extension ErrorWords {
  /// Why a lock was lost.
  static func text(_ notice: LostNotice) -> String {
    let why: String? =
      switch notice.reason {
      case "lease_expired": "Redis was out of reach for too long"
      case "data_loss": "Redis gave it to others"
      case "max_hold": "it was held for longer than --max-hold allows"
      case "shutdown": "the daemon stops"
      case "broken": "an administrator took it away"
      case _: nil
      }
    let detail = notice.detail.map { ": \($0)" } ?? ""
    return "lost \(notice.name): " + (why.map { "\($0) (\(notice.reason))" } ?? notice.reason) + detail
  }
}
