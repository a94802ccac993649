/// A bound on what clients may make grow: its name in errors, in the journal and in `stats`, in the order of `stats`.
public enum LimitName: String, CaseIterable, Sendable {
  /// Connections.
  case connections
  /// Connections of one user.
  case connectionsPerUID = "connections_per_uid"
  /// Holds of one session.
  case holdsPerSession = "holds_per_session"
  /// Holds of all sessions of one user.
  case holdsPerUID = "holds_per_uid"
  /// Waits of one session.
  case waitsPerSession = "waits_per_session"
  /// Waits of all sessions of one user.
  case waitsPerUID = "waits_per_uid"
  /// Waiters of one lock on this host.
  case waitersPerLock = "waiters_per_lock"
  /// Watches of one session.
  case watchesPerSession = "watches_per_session"
  /// Bytes that one session has the daemon keep: input that is no request yet, output that is not taken yet, and questions
  /// to Redis and to other hosts that are not answered.
  case bytesPerSession = "bytes_per_session"
  /// Bytes that all sessions of one user have the daemon keep.
  case bytesPerUID = "bytes_per_uid"
  /// Bytes of what is held and waited for.
  case lockBytes = "lock_bytes"
  /// Bytes of what all sessions of one user hold and wait for.
  case lockBytesPerUID = "lock_bytes_per_uid"
  /// Watches of all sessions of one user.
  case watchesPerUID = "watches_per_uid"
  /// Questions to other hosts on behalf of one user.
  case hostQuestionsPerUID = "host_questions_per_uid"
}
