/// The methods of this version of the protocol, in the order in which the decoder tries their names: the frequent ones
/// first. All facts about a method stand in one row.
///
/// `protocol/openrpc.json` is checked against this table.
public enum ProtocolMethod: Int, CaseIterable, Sendable {
  /// Asks for a lock.
  case acquire
  /// Gives a lock back.
  case release
  /// Sets the limit of a hold.
  case extend
  /// Asks for nothing but a reply.
  case ping
  /// Withdraws a request.
  case cancel
  /// Asks about one lock.
  case inspect
  /// Asks about many locks, a page at a time.
  case list
  /// Asks for counters and gauges.
  case stats
  /// Tells who the client is and asks who the daemon is; optional.
  case initialize
  /// Turns an exclusive hold into a shared one.
  case downgrade
  /// Hands a hold to another session.
  case transfer
  /// Starts a watch of locks.
  case watch
  /// Ends a watch.
  case unwatch
  /// Breaks holds.
  case `break`
  /// Ends a session.
  case kill
  /// Asks who is connected, a page at a time.
  case clients
  /// Asks which hosts share the store, a page at a time.
  case hosts
  /// Asks what Redis tells of itself.
  case redis
  /// Asks for the OpenRPC document.
  case rpcDiscover
  /// Asks to be shown messages of others.
  case trace

  private var row: Row {
    switch self {
    case .acquire:
      .byEngine(
        "acquire", "name", "wait_ms", "mode", "max_hold_ms", "meta", "progress", "owner", "names", "permits", "on_lost",
        "replicas", "durability")
    case .release: .byEngine("release", "name", "token")
    case .extend: .byEngine("extend", "name", "token", "max_hold_ms")
    case .ping: .byDriver("ping")
    case .cancel: .byEngine("cancel", "id")
    case .inspect: .byDriver("inspect", "name")
    case .list: .byDriver("list", "prefix", "scope", "limit", "cursor")
    case .stats: .byDriver("stats")
    case .initialize:
      .byDriver("initialize", "client", "protocol", "lifetime", "keepalive_ms", "half_close", "accept_transfers")
    case .downgrade: .byEngine("downgrade", "name", "token")
    case .transfer: .byEngine("transfer", "name", "token", "session")
    case .watch: .byDriver("watch", "name", "prefix", "scope")
    case .unwatch: .byDriver("unwatch", "watch")
    case .break: .byDriver("break", "name", "token", "reason")
    case .kill: .byDriver("kill", "session", "reason")
    case .clients: .byDriver("clients", "limit", "cursor")
    case .hosts: .byDriver("hosts", "limit", "cursor")
    case .redis: .byDriver("redis")
    case .rpcDiscover: .byDriver("rpc.discover")
    case .trace: .byDriver("trace", "session", "pid", "name")
    }
  }

  /// The rows of all methods, in the order of the methods.
  private static let rows = allCases.map(\.row)

  /// The first method whose name `isMatch` accepts.
  static func first(where isMatch: (StaticString) -> Bool) -> Self? {
    rows.firstIndex { isMatch($0.name) }.flatMap(Self.init(rawValue:))
  }

  /// The name on the wire.
  public var name: StaticString { Self.rows[rawValue].name }

  /// The members that `params` may have.
  public var parameterNames: [StaticString] { Self.rows[rawValue].parameterNames }

  /// Whether the lock engine decides what is answered, and the driver only passes the request on.
  public var isDecidedByEngine: Bool { Self.rows[rawValue].isDecidedByEngine }
}

private struct Row {
  var name: StaticString
  var parameterNames: [StaticString]
  var isDecidedByEngine: Bool

  static func byEngine(_ name: StaticString, _ parameterNames: StaticString...) -> Row {
    Row(name: name, parameterNames: parameterNames, isDecidedByEngine: true)
  }

  static func byDriver(_ name: StaticString, _ parameterNames: StaticString...) -> Row {
    Row(name: name, parameterNames: parameterNames, isDecidedByEngine: false)
  }
}
