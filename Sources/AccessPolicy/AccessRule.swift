import SystemStrings

/// One line of the policy: who may, or may not, do what with which names.
public struct AccessRule: Equatable, Sendable {
  /// What a rule says about those whom it is about.
  public enum Verdict: String, CaseIterable, Sendable {
    /// They may.
    case allow
    /// They may not.
    case deny
  }

  /// The names that a rule is about.
  public enum Names: Equatable, Sendable {
    /// This one.
    case exactly([UInt8])
    /// Those that begin so; with no bytes, all.
    case beginning([UInt8])

    /// Whether the rule is about `name`.
    public func cover(_ name: [UInt8]) -> Bool {
      switch self {
      case .exactly(let bytes): name == bytes
      case .beginning(let bytes): name.starts(with: bytes)
      }
    }
  }

  /// Whom a rule is about.
  public enum Subject: Equatable, Sendable {
    /// Every client that can connect.
    case everyone
    /// The processes of a user.
    case user(UInt32)
    /// The processes that have a group, as their own or as a supplementary one.
    case group(UInt32)
    /// The processes of a systemd unit of the system.
    case unit(String)

    /// Whether both are the same; units byte for byte.
    public static func == (a: Subject, b: Subject) -> Bool {
      switch (a, b) {
      case (.everyone, .everyone): true
      case (.user(let a), .user(let b)), (.group(let a), .group(let b)): a == b
      case (.unit(let a), .unit(let b)): ExactText.isSame(a, b)
      case (.everyone, _), (.user, _), (.group, _), (.unit, _): false
      }
    }
  }

  /// What it says.
  public var verdict: Verdict
  /// What it is about.
  public var rights: AccessRights
  /// The names that it is about.
  public var names: Names
  /// Whom it is about: clients that are any of these.
  public var subjects: [Subject]
  /// The rule as it was written.
  public var text: String

  /// A rule.
  public init(verdict: Verdict, rights: AccessRights, names: Names, subjects: [Subject], text: String = "") {
    self.verdict = verdict
    self.rights = rights
    self.names = names
    self.subjects = subjects
    self.text = text
  }
}
