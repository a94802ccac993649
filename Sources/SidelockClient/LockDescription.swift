/// A lock as `inspect` and `list` tell of it. What an older daemon does not say is nil or empty.
public struct LockDescription: Hashable, Sendable {
  /// Somebody who holds the lock or waits for it.
  public struct Participant: Hashable, Sendable {
    /// The host.
    public var host: String?
    /// The process.
    public var pid: Int64?
    /// The user of the process.
    public var uid: Int64?
    /// The name of the process.
    public var command: String?
    /// The systemd unit of the process.
    public var unit: String?
    /// What the client says of itself.
    public var client: String?
    /// How it holds the lock, or wants to.
    public var mode: LockMode?
    /// The thread or task inside the connection.
    public var owner: String?
    /// How often its owner has acquired it and not released it.
    public var count: Int64?
    /// The daemon's name for the connection.
    public var session: String?
    /// Whether it is a process that does not use sidelock.
    public var isForeign: Bool
    /// Whether it is a host that is gone, and whose part whoever asks for the lock may have.
    public var isDead: Bool
    /// The client's own note.
    public var meta: String?
    /// The fencing token; nil for one who waits.
    public var token: Int64?
    /// For how long the lock has been held.
    public var heldMilliseconds: Int64?
    /// For how long it has been waited for.
    public var waitedMilliseconds: Int64?

    package init(_ value: JSONValue) {
      host = value["host"]?.stringValue
      pid = value["pid"]?.intValue
      uid = value["uid"]?.intValue
      command = value["command"]?.stringValue
      unit = value["unit"]?.stringValue
      client = value["client"]?.stringValue
      mode = LockMode(value)
      owner = value["owner"]?.stringValue
      count = value["count"]?.intValue
      session = value["session"]?.stringValue
      isForeign = value["foreign"]?.boolValue ?? false
      isDead = value["dead"]?.boolValue ?? false
      meta = value["meta"]?.stringValue
      token = value["token"]?.intValue
      heldMilliseconds = value["held_ms"]?.intValue
      waitedMilliseconds = value["waited_ms"]?.intValue
    }
  }

  /// The lock's name.
  public var name: String
  /// How it is held, in the protocol's word.
  public var mode: String?
  /// The capacity of a semaphore that is held.
  public var permits: Int64?
  /// Who holds it.
  public var holders: [Participant]
  /// How many hold it on this host.
  public var holding: Int64
  /// How many wait for it on this host.
  public var waiting: Int64
  /// The first of those who wait on this host, in their order; `list` leaves them out.
  public var waiters: [Participant]
  /// The state of this host's lease; `idle` is one that nobody uses: the lock is free.
  public var leaseState: String?
  /// For how many milliseconds the lease is valid without renewal.
  public var leaseValidMilliseconds: Int64?
  /// All that the daemon said.
  public var json: JSONValue

  /// The lock that a part of a reply describes.
  package init(_ value: JSONValue) {
    name = value["name"]?.stringValue ?? ""
    mode = value["mode"]?.stringValue
    permits = value["permits"]?.intValue
    holding = value["holding"]?.intValue ?? 0
    holders = (value["holders"]?.arrayValue ?? []).map(Participant.init)
    waiting = value["waiting"]?.intValue ?? 0
    waiters = (value["waiters"]?.arrayValue ?? []).map(Participant.init)
    leaseState = value["lease"]?["state"]?.stringValue
    leaseValidMilliseconds = value["lease"]?["valid_ms"]?.intValue
    json = value
  }
}

/// The pages of a `list`.
package struct ListQuery: Sendable {
  private let prefix: String?
  private let allHosts: Bool
  private var cursor: JSONValue?
  /// Whether there is another page to ask for.
  package private(set) var hasMore = true

  /// A query from the first page on.
  package init(prefix: String?, allHosts: Bool) {
    self.prefix = prefix
    self.allHosts = allHosts
  }

  /// The parameters of the next request.
  package var params: JSONValue {
    var params = JSONObject()
    if let prefix { params.append("prefix", .string(prefix)) }
    params.append("scope", .string(allHosts ? "all" : "host"))
    if let cursor { params.append("cursor", cursor) }
    return .object(params)
  }

  /// Takes a page and gives what is on it.
  package mutating func received(_ result: JSONValue) -> [LockDescription] {
    let next = result["cursor"].flatMap { $0.isNull ? nil : $0 }
    // A cursor that does not move would ask for the same page for ever.
    hasMore = next != nil && next != cursor
    cursor = next
    return (result["locks"]?.arrayValue ?? []).map(LockDescription.init)
  }
}
