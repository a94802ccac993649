import SystemStrings

/// The systemd unit of a client's process, as far as it is known.
public enum PeerUnit: Hashable, Sendable {
  /// It cannot be told. Rules count that against the client.
  case unknown(UnitDoubt)
  /// This one.
  case named(String)

  /// Whether both are the same, byte for byte.
  public static func == (a: PeerUnit, b: PeerUnit) -> Bool {
    switch (a, b) {
    case (.unknown(let a), .unknown(let b)): a == b
    case (.named(let a), .named(let b)): ExactText.isSame(a, b)
    case (.unknown, .named), (.named, .unknown): false
    }
  }
}

/// Why nobody can tell the unit of a process.
public enum UnitDoubt: String, CaseIterable, Sendable {
  /// Its control groups cannot be read, or it has ended.
  case unreadable = "its control groups cannot be read"
  /// They name none: with systemd every process is in one, so this one is in a place that systemd does not know.
  case noUnit = "its control groups name no unit"
  /// They name several.
  case ambiguous = "its control groups do not agree on a unit"
}

/// A client as rules see it.
public struct AccessPeer: Hashable, Sendable {
  /// Its user; nil when the kernel does not tell.
  public var uid: UInt32?
  /// Its own group and its supplementary ones; nil when the kernel does not tell.
  public var groups: [UInt32]?
  /// Its unit. It makes no difference unless ``AccessPolicy/needsUnits``.
  public var unit: PeerUnit

  /// A client.
  public init(uid: UInt32?, groups: [UInt32]?, unit: PeerUnit = .unknown(.unreadable)) {
    self.uid = uid
    self.groups = groups
    self.unit = unit
  }
}

/// Who may do what with which names: the first rule that is about a client, a right and a name decides. Where none is,
/// everybody may use and inspect, and root, the daemon's own user and the administrators' group may break.
public struct AccessPolicy: Equatable, Sendable {
  /// The group whose members may break locks, unless a rule says something else.
  public static let administratorsGroup = "sidelock-admin"
  /// How many rules there may be.
  public static let rulesMax = 1000

  /// The rules in the order in which they are looked at.
  public var rules: [AccessRule]
  /// The number of the administrators' group; nil where there is no such group.
  public var administrators: UInt32?
  /// The user that the daemon runs as, who could end it anyway; nil for nobody.
  public var owner: UInt32?

  /// A policy.
  public init(rules: [AccessRule] = [], administrators: UInt32? = nil, owner: UInt32? = nil) {
    self.rules = rules
    self.administrators = administrators
    self.owner = owner
  }

  /// Whether any rule names a unit: then a client's unit must be known before anything is decided.
  public var needsUnits: Bool {
    rules.contains { rule in
      rule.subjects.contains { subject in
        switch subject {
        case .unit: true
        case .everyone, .user, .group: false
        }
      }
    }
  }

  /// What `peer` may do. It is worked out once for a client, and then asked for each name.
  public func access(of peer: AccessPeer) -> Access {
    Access(
      rules: rules.filter { rule in rule.subjects.contains { isAbout($0, peer, rule.verdict) } },
      isAdministrator: isAdministrator(peer))
  }

  private func isAdministrator(_ peer: AccessPeer) -> Bool {
    if let uid = peer.uid, uid == 0 || uid == owner { return true }
    guard let administrators, let groups = peer.groups else { return false }
    return groups.contains(administrators)
  }

  /// Whether a rule's subject is this client. What is not known about it counts against it: a rule that denies is taken
  /// to be about it, and one that allows is not.
  private func isAbout(_ subject: AccessRule.Subject, _ peer: AccessPeer, _ verdict: AccessRule.Verdict) -> Bool {
    switch subject {
    case .everyone: return true
    case .user(let uid): return peer.uid.map { $0 == uid } ?? (verdict == .deny)
    case .group(let gid): return peer.groups.map { $0.contains(gid) } ?? (verdict == .deny)
    case .unit(let name):
      switch peer.unit {
      case .unknown: return verdict == .deny
      case .named(let own): return ExactText.isSame(own, name)
      }
    }
  }
}

/// What one client may do.
public struct Access: Equatable, Sendable {
  private let rules: [AccessRule]
  private let isAdministrator: Bool

  /// Those of a policy's rules that are about the client.
  init(rules: [AccessRule], isAdministrator: Bool) {
    self.rules = rules
    self.isAdministrator = isAdministrator
  }

  /// Whether the client surely has `right` over every name.
  public func mayAlways(_ right: AccessRight) -> Bool {
    let wanted = AccessRights(right)
    for rule in rules where rule.rights.contains(wanted) {
      if rule.verdict == .deny { return false }
      if rule.names == .beginning([]) { return true }
    }
    return mayUnlessTold(right)
  }

  /// Whether the client has `right` over `name`.
  public func may(_ right: AccessRight, _ name: [UInt8]) -> Bool {
    let wanted = AccessRights(right)
    for rule in rules where rule.rights.contains(wanted) && rule.names.cover(name) { return rule.verdict == .allow }
    return mayUnlessTold(right)
  }

  private func mayUnlessTold(_ right: AccessRight) -> Bool {
    switch right {
    case .use, .inspect: true
    case .break: isAdministrator
    }
  }
}
