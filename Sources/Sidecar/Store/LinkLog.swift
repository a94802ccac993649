import LockTypes
import Logging
import RESP
import RedisLeases

/// Logs what happens to the link to Redis: now and then what others can cause at will, and an outage of hours once for each of
/// its reasons.
struct LinkLog {
  private let logger: Logger
  private let url: RedisURL
  /// So many reasons of one outage are logged.
  static let reasonsMax = 16
  /// Those that were logged since there was a connection.
  private var reasons: Set<String> = []
  /// What Redis has refused, by kinds of errors, and what was left out.
  private var tally = MessageTally()

  init(logger: Logger, url: RedisURL) {
    self.logger = logger
    self.url = url
  }

  /// `primary`: where Sentinels say that it is.
  mutating func connected(_ info: RedisReadyInfo, primary: RedisAddress?) {
    reasons = []
    var metadata: Logger.Metadata = ["server": "\(info.server) \(info.version)", "url": "\(url)"]
    if let primary { metadata["primary"] = "\(primary)" }
    logger.info("connected to Redis", metadata: metadata)
    if let policy = info.evictionPolicy, policy.hasPrefix("allkeys-") {
      logger.warning(
        "Redis may evict locks when its memory is full; set maxmemory-policy to noeviction",
        metadata: ["maxmemory-policy": "\(policy)"])
    }
    lacks(info.missingRules)
  }

  private func lacks(_ rules: String?) {
    guard let rules else { return }
    logger.warning(
      "Redis does not let this user do all that list of all hosts, some errors and short graces need",
      metadata: ["allow": "\(rules)"])
  }

  /// The connection has got another login, or should have.
  mutating func loginChanged(_ outcome: RedisRelogin.Outcome, now: BootInstant) {
    switch outcome {
    case .done(let missingRules):
      logger.info("Redis has taken other credentials")
      lacks(missingRules)
    case .refused(let failure):
      warn(
        "Redis has refused other credentials; the connection goes on with those of before", failure.message, now: now)
    case .lacksRights(let failure):
      warn("other credentials lack rights; the connection goes back to those of before", failure.message, now: now)
    }
  }

  mutating func loginUnread(_ reason: String, now: BootInstant) {
    warn("the credentials of Redis could not be read anew; those of before are used", reason, now: now)
  }

  /// It is tried again and again, so each reason is logged now and then.
  private mutating func warn(_ message: Logger.Message, _ reason: String, now: BootInstant) {
    guard let count = tally.toLog(kind: reason, now: now) else { return }
    logger.warning(message, metadata: ["url": "\(url)", "reason": "\(reason)", "count": "\(count)"])
  }

  /// Sentinels tell of a failover; who wants to can have them tell of many.
  mutating func switched(from old: RedisAddress?, to new: RedisAddress, now: BootInstant) {
    guard let count = tally.toLog(kind: "switched \(new)", now: now) else { return }
    logger.notice(
      "the sentinels have made another server the primary",
      metadata: ["from": "\(old.map { "\($0)" } ?? "")", "to": "\(new)", "count": "\(count)"])
  }

  func notVerified() {
    logger.warning(
      "the certificate of Redis is not checked: whoever answers is taken for it",
      metadata: ["setting": "redis_tls_verify", "url": "\(url)"])
  }

  /// The connection has ended, or was not made. With an address left to try, only the end of one in use is logged.
  mutating func ended(_ reason: String, wasReady: Bool, isRoundOver: Bool) {
    guard isRoundOver || wasReady, reasons.count < Self.reasonsMax, reasons.insert(reason).inserted else { return }
    logger.warning(
      wasReady ? "lost the connection to Redis" : "no connection to Redis",
      metadata: ["url": "\(url)", "reason": "\(reason)"])
  }

  /// Gives whether it was logged.
  mutating func refused(_ error: [UInt8], _ command: String, now: BootInstant) -> Bool {
    guard let count = tally.toLog(kind: RedisErrorReply.kind(of: error), now: now) else { return false }
    logger.warning(
      "Redis refused a command",
      metadata: [
        "url": "\(url)", "error": "\(RedisErrorReply.words(of: error))", "command": "\(command)",
        "count": "\(count)",
      ])
    return true
  }

  /// The user of a connection that serves has fewer rights than before.
  mutating func lacksRights(_ reason: String, now: BootInstant) {
    warn("a right was taken from the user of Redis; locks are lost without it", reason, now: now)
  }

  mutating func leftOut(now: BootInstant) {
    guard let count = tally.toLog(kind: "inbox", now: now) else { return }
    logger.warning("too many messages to the inbox; some were left out", metadata: ["count": "\(count)"])
  }

  /// No connection on which replicas can be waited for.
  mutating func noReplicas(_ reason: String, now: BootInstant) {
    guard let count = tally.toLog(kind: "replicas", now: now) else { return }
    logger.warning(
      "no second connection to Redis, on which replicas are waited for",
      metadata: ["url": "\(url)", "reason": "\(reason)", "count": "\(count)"])
  }

  /// What the server says of its replicas, where every lease needs some.
  func learned(_ facts: ReplicaRounds.Facts, need: ReplicaNeed) {
    if let connected = facts.connected, connected < need.replicas {
      logger.warning(
        "Redis has fewer replicas than the setting replicas asks for: it can grant no lock",
        metadata: ["url": "\(url)", "connected": "\(connected)", "replicas": "\(need.replicas)"])
    }
    if let least = facts.leastToWrite, least < need.replicas {
      logger.warning(
        "a primary that has lost its replicas goes on to renew leases; set min-replicas-to-write in Redis",
        metadata: ["url": "\(url)", "min-replicas-to-write": "\(least)", "replicas": "\(need.replicas)"])
    }
  }

  func notUnderstood() { logger.warning("a message to the inbox was not understood") }
}
