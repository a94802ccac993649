/// A lock of a request for several, with the token of its hold.
public struct GrantedLock: Hashable, Sendable {
  /// The lock.
  public var name: LockName
  /// The fencing token of this hold.
  public var token: Token

  /// A lock of a grant.
  public init(name: LockName, token: Token) {
    self.name = name
    self.token = token
  }
}
