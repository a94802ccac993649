/// A bound on what clients may make grow inside the engine.
public enum LimitName: String, Equatable, Sendable {
  /// Waits of one session.
  case waitsPerSession = "waits_per_session"
  /// Holds of one session.
  case holdsPerSession = "holds_per_session"
  /// Waits of all sessions of one user.
  case waitsPerUID = "waits_per_uid"
  /// Holds of all sessions of one user.
  case holdsPerUID = "holds_per_uid"
  /// Waiters of one lock on this host.
  case waitersPerLock = "waiters_per_lock"
  /// Bytes of what all sessions of one user hold and wait for.
  case lockBytesPerUID = "lock_bytes_per_uid"
  /// Bytes of what is held and waited for.
  case lockBytes = "lock_bytes"
}
