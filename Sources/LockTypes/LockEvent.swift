/// What happened to a lock on a host, or what that host has come to know.
public enum LockEvent: Hashable, Sendable {
  /// A session got it.
  case acquired(SessionID, Token, HoldMode)
  /// A session gave it back, or ended.
  case released(SessionID, Token)
  /// A session lost it.
  case lost(SessionID, Token, LostReason)
  /// A session began to wait; so many wait now.
  case waiting(SessionID, waiters: Int)
  /// A session's wait ended without success; so many wait now.
  case gaveUp(SessionID, waiters: Int)
  /// Another host holds it, by what this one has just heard.
  case remote(host: String)
}
