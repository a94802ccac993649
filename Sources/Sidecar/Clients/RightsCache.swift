import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import Logging

/// Who may do what with which names, by the policy in force.
final class RightsCache {
  /// Different clients whose rights are remembered.
  private static let accessesMax = 1000
  /// The least time between two messages about clients whose unit is not known, in milliseconds.
  private static let doubtsMilliseconds: Int64 = 10_000

  private let configuration: ConfigurationInForce
  private let output: TurnOutput
  private let clock: HostClock
  private let logger: Logger
  /// Whether any rule is about units.
  private(set) var needsUnits: Bool
  /// Counts the policies that were in force, so that what was worked out by an earlier one is known.
  private var policyVersion = 1
  /// What different clients may do, by that version.
  private var accesses: [AccessPeer: Access] = [:]
  /// When it was logged that a client's unit is not known.
  private var doubts = MessageTally(quietMilliseconds: doubtsMilliseconds)

  init(configuration: ConfigurationInForce, output: TurnOutput, clock: HostClock, logger: Logger) {
    self.configuration = configuration
    self.output = output
    self.clock = clock
    self.logger = logger
    needsUnits = configuration.settings.live.policy.needsUnits
  }

  /// Uses the policy of the configuration from now on. What is held or waits is not asked about again.
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

  /// Whether there is no lock that a client may not be told of.
  func seesAll(_ session: ClientSession) -> Bool {
    configuration.settings.live.policy.rules.isEmpty || access(of: session).isDefault
  }

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
    // It holds the rules that are about the client, which can be many, and clients as well.
    if accesses.count >= Self.accessesMax { accesses = [:] }
    let access = accesses[asked] ?? configuration.settings.live.policy.access(of: asked)
    accesses[asked] = access
    session.rights.access = access
    session.rights.version = policyVersion
    return access
  }

  /// What a client is told that lacks a right.
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

  /// That a client lacks a right may come from what is not known of it; empty: all is known.
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

  /// Whether nothing of what a session asks may be decided yet.
  func isUnitPending(_ session: ClientSession) -> Bool { needsUnits && session.rights.unit == nil }

  /// Whoever wrote a rule about a unit wants to know when it meets somebody of whom that cannot be said; but clients can
  /// make it happen as often as they like.
  func logDoubt(_ doubt: UnitDoubt, of session: ClientSession) {
    guard let count = doubts.toLog(now: clock.now()) else { return }
    logger.warning(
      "the unit of a client is not known; rules that allow a unit are not for it, and rules that deny one are",
      metadata: [
        "reason": "\(doubt.rawValue)", "session": "\(session.id.rawValue)", "pid": "\(session.peer.pidText)",
        "count": "\(count)",
      ])
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
