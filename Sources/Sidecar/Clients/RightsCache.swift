import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import Logging

/// Who may do what with which names, by the policy in force.
final class RightsCache {
  /// How many different clients' rights are cached.
  private static let accessesMax = 1000
  /// The least time between two messages about clients whose unit is not known, in milliseconds.
  private static let doubtsMilliseconds: Int64 = 10_000

  private let configuration: ConfigurationInForce
  private let output: TurnOutput
  private let clock: HostClock
  private let logger: Logger
  /// Whether any rule is about units.
  private(set) var needsUnits: Bool
  /// Incremented with every policy: rights cached under an older number are worked out again.
  private var policyVersion = 1
  /// What different clients may do, by policy `policyVersion`.
  private var accesses: [AccessPeer: Access] = [:]
  /// Limits the messages about clients whose unit is not known.
  private var doubts = MessageTally(quietMilliseconds: doubtsMilliseconds)

  init(configuration: ConfigurationInForce, output: TurnOutput, clock: HostClock, logger: Logger) {
    self.configuration = configuration
    self.output = output
    self.clock = clock
    self.logger = logger
    needsUnits = configuration.settings.live.policy.needsUnits
  }

  /// Uses the policy of the configuration from now on. Holds and waiters are not checked again.
  func policyChanged() {
    policyVersion += 1
    accesses = [:]
    needsUnits = configuration.settings.live.policy.needsUnits
  }

  // MARK: Rights

  /// Whether a client may take a lock, and be handed it.
  func mayUse(_ session: ClientSession, _ name: LockName) -> Bool { may(session, .use, name) }

  /// Whether a client may be told of a lock.
  func mayInspect(_ session: ClientSession, _ name: LockName) -> Bool { may(session, .inspect, name) }

  /// Whether a client may take a lock away from others.
  func mayBreak(_ session: ClientSession, _ name: LockName) -> Bool { may(session, .break, name) }

  /// Whether a client surely may inspect every lock.
  func seesAll(_ session: ClientSession) -> Bool {
    configuration.settings.live.policy.rules.isEmpty || access(of: session).mayAlways(.inspect)
  }

  /// Whether a client surely may break every lock.
  func mayBreakAll(_ session: ClientSession) -> Bool { access(of: session).mayAlways(.break) }

  private func may(_ session: ClientSession, _ right: AccessRight, _ name: LockName) -> Bool {
    if right != .break, configuration.settings.live.policy.rules.isEmpty { return true }
    return access(of: session).may(right, name.bytes)
  }

  private func access(of session: ClientSession) -> Access {
    if session.rights.version == policyVersion, let access = session.rights.access { return access }
    let peer = session.peer
    let asked = AccessPeer(
      uid: peer?.uid, groups: peer?.groups(channel: session.channel), unit: session.rights.unit ?? .unknown(.unreadable)
    )
    // Bounded: there can be many clients, and each entry holds all rules about its client.
    if accesses.count >= Self.accessesMax { accesses = [:] }
    let access = accesses[asked] ?? configuration.settings.live.policy.access(of: asked)
    accesses[asked] = access
    session.rights.access = access
    session.rights.version = policyVersion
    return access
  }

  /// The error message for a client that lacks a right.
  private func refusal(of right: AccessRight, to session: ClientSession) -> String {
    let how =
      "an administrator of this host gives it with a rule in the settings of sidelockd, such as "
      + "\"allow \(right.rawValue) NAME to user:NAME\"" + unitDoubt(of: session)
    switch right {
    case .use: return "this client has no right to use that lock; \(how)"
    case .inspect: return "this client has no right to inspect that lock; \(how)"
    case .break:
      return "this client has no right to break that lock; where no rule says otherwise, root and members of the group "
        + "\(AccessPolicy.administratorsGroup) have it, or \(how)"
    }
  }

  /// Adds that the right may be lacking because the unit is not known; empty where that is no reason.
  private func unitDoubt(of session: ClientSession) -> String {
    guard needsUnits, case .unknown(let doubt) = session.rights.unit ?? .unknown(.unreadable) else { return "" }
    let why =
      session.peer?.isVisible == true
      ? "\(doubt.rawValue); for the packaged service see show-programs.conf in "
        + "/usr/share/doc/sidelock/examples"
      : Peer.invisible
    return ". Its systemd unit is not known, so that no rule that allows a unit is for it, and every rule that denies "
      + "one is: \(why)"
  }

  /// Whether a session's requests wait until its unit is known.
  func isUnitPending(_ session: ClientSession) -> Bool { needsUnits && session.rights.unit == nil }

  /// Warns that a client's unit is not known; not often, as clients can cause it at will.
  func logDoubt(_ doubt: UnitDoubt, of session: ClientSession) {
    guard let count = doubts.toLog(now: clock.now()) else { return }
    logger.warning(
      "the unit of a client is not known; rules that allow a unit are not for it, and rules that deny one are",
      metadata: [
        "reason": "\(doubt.rawValue)", "session": "\(session.id.rawValue)", "pid": "\(session.peer.pidText)",
        "count": "\(count)",
      ])
  }

  /// Refuses what only those may do who have the right to break every lock.
  func denyBreakingAll(_ session: ClientSession, id: MessageID) {
    output.write(to: session) { writer in
      writer.failure(
        id: id, .denied, message: "this client has no right to break every lock, which that takes"
      ) { $0.member("right", AccessRight.break.rawValue) }
    }
  }

  /// Refuses what only those may do who have the right to inspect every lock.
  func denyInspectingAll(_ session: ClientSession, id: MessageID) {
    output.write(to: session) { writer in
      writer.failure(
        id: id, .denied, message: "this client has no right to inspect every lock, which that takes"
      ) { $0.member("right", AccessRight.inspect.rawValue) }
    }
  }

  /// Refuses what a client has no right to do.
  func deny(_ session: ClientSession, _ right: AccessRight, _ name: LockName, id: MessageID) {
    output.write(to: session) { writer in
      writer.failure(id: id, .denied, message: refusal(of: right, to: session)) { json in
        json.member("right", right.rawValue)
        json.member("name", utf8: name.bytes)
      }
    }
  }
}
