// Who may do what with which names.

import AccessPolicy
import ClientProtocol
import Dispatch
import LockEngine
import LockTypes
import NIOCore

extension SidecarCore {
  /// Where units are looked up. It is not the queue of descriptions, which a client could hold up.
  private static let units = DispatchQueue(label: "sidelock.units")
  private static let unitsBeingReadMax = 4
  /// Different clients whose rights are remembered.
  private static let accessesMax = 1000
  /// The least time between two messages about clients whose unit is not known, in milliseconds.
  private static let doubtsMilliseconds: Int64 = 10_000

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
  func refusal(of right: AccessRight, to session: ClientSession) -> String {
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

  // MARK: Units

  /// Whether nothing of what a session asks may be decided yet.
  func isUnitPending(_ session: ClientSession) -> Bool { needsUnits && session.rights.unit == nil }

  /// Has the unit of a session's process looked up, if any rule needs it. Until it is known, nothing is read from the
  /// session.
  func lookUpUnit(of session: ClientSession) {
    guard needsUnits, session.rights.unit == nil, !session.rights.isUnitAsked else { return }
    session.rights.isUnitAsked = true
    unitsToRead.append(session)
    readUnits()
  }

  /// Each takes a descriptor while it lasts, so that few go on at a time.
  private func readUnits() {
    while unitsBeingRead < Self.unitsBeingReadMax, let session = unitsToRead.popFirst() {
      if sessions.has(session) { readUnit(of: session) }
    }
  }

  private func readUnit(of session: ClientSession) {
    guard let peer = session.peer, case .success(let handle) = handle(of: session, isOwed: true) else {
      return loop.assumeIsolated().execute { self.found(.unknown(.unreadable), of: session) }
    }
    unitsBeingRead += 1
    let found = NIOLoopBound((core: self, session: session), eventLoop: loop)
    let loop = loop
    Self.units.async {
      let unit = peer.readUnit(handle)
      loop.execute {
        found.value.core.unitsBeingRead -= 1
        found.value.core.found(unit, of: found.value.session)
        found.value.core.readUnits()
      }
    }
  }

  private func found(_ unit: PeerUnit, of session: ClientSession) {
    session.rights.unit = unit
    session.rights.access = nil
    guard sessions.has(session) else { return }
    // The handle is not kept for those who do not need it longer: it is a descriptor.
    if ProcessHandle.kernelKnowsPeers, !session.lifetime.endsWithProcess { session.handle = nil }
    if case .unknown(let doubt) = unit { tellDoubt(doubt, of: session) }
    // The last line may have come without its end, and then there is nothing else to go on with.
    if session.input.unread == nil { readLines(of: session) }
    resumeReading(of: session)
    output.touch(session)
  }

  /// Whoever wrote a rule about a unit wants to know when it meets somebody of whom that cannot be said; but clients can
  /// make it happen as often as they like.
  private func tellDoubt(_ doubt: UnitDoubt, of session: ClientSession) {
    let now = clock.now()
    doubtsUntold += 1
    guard now >= nextDoubtTold else { return }
    nextDoubtTold = now.adding(milliseconds: Self.doubtsMilliseconds)
    logger.warning(
      "the unit of a client is not known; rules that allow a unit are not for it, and rules that deny one are",
      metadata: [
        "reason": "\(doubt.rawValue)", "session": "\(session.id.rawValue)", "pid": "\(session.peer.pidText)",
        "count": "\(doubtsUntold)",
      ])
    doubtsUntold = 0
  }

  // MARK: Changes

  /// Uses the policy of the configuration from now on. What is held or waits is not asked about again.
  func policyChanged() {
    policyVersion += 1
    accesses = [:]
    needsUnits = configuration.settings.live.policy.needsUnits
    guard needsUnits else {
      for session in sessions.values { resumeReading(of: session) }
      return
    }
    for session in sessions.values { lookUpUnit(of: session) }
    let logger = logger
    Self.units.async {
      guard !Peer.seesOthers else { return }
      logger.warning(
        "rules name units, and other processes cannot be seen",
        metadata: ["help": "show-programs.conf in /usr/share/doc/sidelock/examples"])
    }
  }
}
