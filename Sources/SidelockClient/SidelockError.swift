/// Why a call failed: the daemon refused it, or the client could not ask.
public struct SidelockError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The stable name of a reason. New ones may come with newer daemons.
  public struct Reason: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    /// The name as it stands in the protocol.
    public var rawValue: String

    /// The reason of this name.
    public init(rawValue: String) {
      self.rawValue = rawValue
    }

    /// The name.
    public var description: String { rawValue }

    /// A try met a lock in use.
    public static let busy = Reason(rawValue: "busy")
    /// The wait reached its limit.
    public static let timeout = Reason(rawValue: "timeout")
    /// The request was cancelled.
    public static let cancelled = Reason(rawValue: "cancelled")
    /// The lock is not held, or not under that token.
    public static let notHeld = Reason(rawValue: "not_held")
    /// The daemon cannot reach its store.
    public static let unavailable = Reason(rawValue: "unavailable")
    /// The caller lacks the right.
    public static let denied = Reason(rawValue: "denied")
    /// A limit of the daemon or of this client was met.
    public static let limit = Reason(rawValue: "limit")
    /// The daemon stops.
    public static let shuttingDown = Reason(rawValue: "shutting_down")
    /// Waiting would never end, because owners wait for each other; ``data`` has the `cycle`.
    public static let deadlock = Reason(rawValue: "deadlock")
    /// The name is in use in another mode; ``data`` says how it is `held`.
    public static let modeConflict = Reason(rawValue: "mode_conflict")
    /// Too few replicas of Redis had the lease in time, so that the lock was given back; ``data`` says how many had it.
    public static let underReplicated = Reason(rawValue: "under_replicated")
    /// The lock was lost.
    public static let lost = Reason(rawValue: "lost")
    /// The daemon speaks another version of the protocol.
    public static let unsupportedVersion = Reason(rawValue: "unsupported_version")

    /// Found by the client: no daemon can be reached at the socket.
    public static let noDaemon = Reason(rawValue: "no_daemon")
    /// Found by the client: a daemon is there, but has not answered in time.
    public static let noAnswer = Reason(rawValue: "no_answer")
    /// Found by the client: the socket's permissions shut the caller out.
    public static let permission = Reason(rawValue: "permission")
    /// Found by the client: the connection to the daemon ended.
    public static let connectionLost = Reason(rawValue: "connection_lost")
    /// Found by the client: the daemon sent something that is not the protocol.
    public static let protocolViolation = Reason(rawValue: "protocol_violation")
  }

  /// The number in the protocol: above 0 the lock service's, below 0 JSON-RPC's, 0 when the client found the fault.
  public var code: Int64
  /// The reason's stable name; for JSON-RPC's own errors it may be empty.
  public var reason: Reason
  /// The reason in prose.
  public var message: String
  /// What the daemon said beside it: an object, or nil.
  public var data: JSONValue?

  /// An error.
  public init(code: Int64 = 0, reason: Reason, message: String, data: JSONValue? = nil) {
    self.code = code
    self.reason = reason
    self.message = message
    self.data = data
  }

  /// The error that the `error` member of a reply describes.
  init(reply error: JSONValue) {
    self.code = error["code"]?.intValue ?? -32603
    self.reason = Reason(rawValue: error["data"]?["reason"]?.stringValue ?? "")
    self.message = error["message"]?.stringValue ?? "the daemon gave no message"
    self.data = error["data"]
  }

  /// With `busy` and `timeout`: who holds the lock, as far as the daemon tells.
  public var holders: [LockDescription.Participant] {
    (data?["holders"]?.arrayValue ?? []).map(LockDescription.Participant.init)
  }

  /// With `under_replicated`: how many replicas had the lease in time; 0 where the daemon does not say.
  public var acknowledged: Int64 { data?["acknowledged"]?.intValue ?? 0 }

  /// With `lost`: the reason of the loss, as in ``LostNotice/reason``; else nil.
  public var lossReason: String? { data?["lost"]?.stringValue }

  /// Redis' own words for why it refuses, as the daemon passes them on; nil where there are none.
  public var detail: String? {
    data?["detail"]?.stringValue.flatMap { $0.isEmpty ? nil : $0 }
  }

  /// With `unavailable`: after how many milliseconds the same request may succeed, where the daemon knows that.
  public var retryMilliseconds: Int64? { data?["retry_ms"]?.intValue }

  /// The prose with the reason's name and the detail.
  public var description: String {
    let prose = reason.rawValue.isEmpty ? "\(message) (\(code))" : "\(message) (\(reason))"
    return detail.map { "\(prose): \($0)" } ?? prose
  }
}
