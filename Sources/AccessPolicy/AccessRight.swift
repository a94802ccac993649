/// Something that a client may want to do with a name.
public enum AccessRight: String, CaseIterable, Hashable, Sendable {
  /// To take, keep and give back the lock, and to be given it by somebody else.
  case use
  /// To see who has it and who waits for it.
  case inspect
  /// To take it away from whoever has it.
  case `break`
}

/// A set of rights.
public struct AccessRights: OptionSet, Hashable, Sendable {
  /// One bit for each right.
  public let rawValue: UInt8

  /// The rights of these bits.
  public init(rawValue: UInt8) {
    self.rawValue = rawValue
  }

  /// The set of one right.
  public init(_ right: AccessRight) {
    switch right {
    case .use: self = .use
    case .inspect: self = .inspect
    case .break: self = .break
    }
  }

  /// ``AccessRight/use``.
  public static let use = AccessRights(rawValue: 1)
  /// ``AccessRight/inspect``.
  public static let inspect = AccessRights(rawValue: 2)
  /// ``AccessRight/break``.
  public static let `break` = AccessRights(rawValue: 4)
}
