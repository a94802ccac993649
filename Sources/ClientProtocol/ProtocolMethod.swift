/// The methods of this version of the protocol, with the members that their `params` may have.
///
/// `protocol/openrpc.json` is checked against this table.
public enum ProtocolMethod: CaseIterable, Sendable {
  /// Tells who the client is and asks who the daemon is; optional.
  case initialize
  /// Asks for a lock.
  case acquire
  /// Gives a lock back.
  case release
  /// Sets the limit of a hold anew.
  case extend
  /// Shares from now on what was held exclusively.
  case downgrade
  /// Hands a hold to another session.
  case transfer
  /// Withdraws a request.
  case cancel
  /// Asks about one lock.
  case inspect
  /// Asks about many locks, a page at a time.
  case list
  /// Wants to be told what happens to locks.
  case watch
  /// Ends a watch.
  case unwatch
  /// Takes holds away.
  case `break`
  /// Asks for nothing but a reply.
  case ping
  /// Asks for counters and gauges.
  case stats
  /// Asks for the OpenRPC document.
  case rpcDiscover

  /// The name on the wire.
  public var name: StaticString {
    switch self {
    case .initialize: "initialize"
    case .acquire: "acquire"
    case .release: "release"
    case .extend: "extend"
    case .downgrade: "downgrade"
    case .transfer: "transfer"
    case .cancel: "cancel"
    case .inspect: "inspect"
    case .list: "list"
    case .watch: "watch"
    case .unwatch: "unwatch"
    case .break: "break"
    case .ping: "ping"
    case .stats: "stats"
    case .rpcDiscover: "rpc.discover"
    }
  }

  /// The members that `params` may have.
  public var parameterNames: [StaticString] {
    switch self {
    case .initialize: Self.initializeNames
    case .acquire: Self.acquireNames
    case .release: Self.releaseNames
    case .extend: Self.extendNames
    case .downgrade: Self.releaseNames
    case .transfer: Self.transferNames
    case .cancel: Self.cancelNames
    case .inspect: Self.inspectNames
    case .list: Self.listNames
    case .watch: Self.watchNames
    case .unwatch: Self.unwatchNames
    case .break: Self.breakNames
    case .ping, .stats, .rpcDiscover: []
    }
  }

  private static let initializeNames: [StaticString] = [
    "client", "protocol", "lifetime", "keepalive_ms", "half_close", "accept_transfers",
  ]
  private static let acquireNames: [StaticString] = [
    "name", "wait_ms", "mode", "max_hold_ms", "meta", "progress", "owner", "names", "permits", "on_lost",
  ]
  private static let releaseNames: [StaticString] = ["name", "token"]
  private static let extendNames: [StaticString] = ["name", "token", "max_hold_ms"]
  private static let transferNames: [StaticString] = ["name", "token", "session"]
  private static let cancelNames: [StaticString] = ["id"]
  private static let inspectNames: [StaticString] = ["name"]
  private static let listNames: [StaticString] = ["prefix", "scope", "limit", "cursor"]
  private static let watchNames: [StaticString] = ["name", "prefix"]
  private static let unwatchNames: [StaticString] = ["watch"]
  private static let breakNames: [StaticString] = ["name", "token", "reason"]

  /// All methods, the frequent ones first.
  static let byFrequency: [ProtocolMethod] = [
    .acquire, .release, .extend, .ping, .cancel, .inspect, .list, .stats, .initialize, .downgrade, .transfer, .watch,
    .unwatch, .break, .rpcDiscover,
  ]
}
