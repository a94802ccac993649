/// Every error of the protocol: the negative codes are JSON-RPC's own, the others are the service's. A code is never
/// used again for something else.
///
/// `protocol/errors.json` is checked against this table.
public enum ErrorCode: Int, CaseIterable, Sendable {
  /// The line is not JSON as RFC 8259 has it, or has a duplicate member or too much nesting. The id is null.
  case parseError = -32700
  /// The line is JSON but not a request of this protocol.
  case invalidRequest = -32600
  /// There is no such method.
  case methodNotFound = -32601
  /// `params` has an unknown or missing member, or one of a wrong type or out of its range.
  case invalidParams = -32602
  /// A fault of the daemon.
  case internalError = -32603

  /// A try (`wait_ms` 0) met a lock in use.
  case busy = 1
  /// The wait reached `wait_ms`.
  case timeout = 2
  /// The client withdrew the request.
  case cancelled = 3
  /// The session does not hold that name, or not under that token.
  case notHeld = 4
  /// Redis cannot be reached, or is in a state in which it refuses.
  case unavailable = 5
  /// The client lacks the right to do this.
  case denied = 6
  /// A limit on what one client or one lock may use was reached.
  case limit = 7
  /// The daemon stops.
  case shuttingDown = 8
  /// The hold was lost before the request came.
  case lost = 9
  /// The client asked for a version of the protocol that this daemon does not speak.
  case unsupportedVersion = 10
  /// Waiting would never end, because the owners wait for each other.
  case deadlock = 11
  /// The name is in use as something else, or the same owner holds it in another mode.
  case modeConflict = 12
  /// The Redis key of the lock holds data that is not a lock, or, where it is to be broken, a lock of a later release.
  case wrongType = 13
  /// Too few replicas of Redis had the lease in time, or they cannot be asked. The lock was given back.
  case underReplicated = 14

  /// Whether sending the same request once more can help.
  public enum Retry: String, CaseIterable, Sendable {
    /// Sending it again is no remedy.
    case no
    /// It may succeed after a while, unchanged.
    case later
    /// It can succeed once something else has been changed: the request, a right, a setting, the data.
    case afterChange = "after_change"
  }

  /// The stable machine name, told as `data.reason`.
  public var reason: StaticString {
    switch self {
    case .parseError: "parse_error"
    case .invalidRequest: "invalid_request"
    case .methodNotFound: "method_not_found"
    case .invalidParams: "invalid_params"
    case .internalError: "internal_error"
    case .busy: "busy"
    case .timeout: "timeout"
    case .cancelled: "cancelled"
    case .notHeld: "not_held"
    case .unavailable: "unavailable"
    case .denied: "denied"
    case .limit: "limit"
    case .shuttingDown: "shutting_down"
    case .lost: "lost"
    case .unsupportedVersion: "unsupported_version"
    case .deadlock: "deadlock"
    case .modeConflict: "mode_conflict"
    case .wrongType: "wrong_type"
    case .underReplicated: "under_replicated"
    }
  }

  /// The message where there is nothing more precise to say. It says what to do next.
  public var defaultMessage: StaticString {
    switch self {
    case .parseError: "the line is not valid JSON; send one JSON object a line, in UTF-8"
    case .invalidRequest: "this is not a request; send an object with \"id\", \"method\" and \"params\""
    case .methodNotFound: "there is no such method; rpc.discover tells which there are"
    case .invalidParams: "the params do not fit the method; rpc.discover tells what it takes"
    case .internalError: "the daemon made a mistake; its log says more"
    case .busy: "the lock is in use; try later, or give a wait_ms above 0 to wait for it"
    case .timeout: "the lock did not become free within wait_ms; try again, or wait longer"
    case .cancelled: "the request was cancelled before it was granted"
    case .notHeld: "this connection does not hold that lock; acquire it first, and release it once only"
    case .unavailable: "Redis cannot be reached or refuses; try again later"
    case .denied: "this client may not do that; ask the administrator of this host"
    case .limit: "a limit was met; finish or cancel other requests first"
    case .shuttingDown: "the daemon is stopping; connect again when it is back"
    case .lost: "the lock was lost before this request; stop the work it guarded and acquire it anew"
    case .unsupportedVersion:
      "this daemon does not speak that version of the protocol; data.supported lists those it does"
    case .deadlock: "waiting would never end, because the owners wait for each other; release something first"
    case .modeConflict: "the name is held in another way, which data.held tells; ask in that way or release it first"
    case .wrongType: "the Redis key of this lock holds other data; remove that key or choose another name"
    case .underReplicated:
      "too few replicas of Redis have the lease, so the lock was given back; look at the replicas, or ask for fewer"
    }
  }

  /// Whether the same request can succeed when it is sent again.
  public var retry: Retry {
    switch self {
    case .busy, .timeout, .unavailable, .limit, .shuttingDown, .deadlock, .underReplicated: .later
    case .parseError, .invalidRequest, .methodNotFound, .invalidParams, .notHeld, .denied, .lost, .unsupportedVersion,
      .modeConflict, .wrongType:
      .afterChange
    case .internalError, .cancelled: .no
    }
  }
}
