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
  /// Withdraws a request.
  case cancel
  /// Asks about one lock.
  case inspect
  /// Asks about many locks, a page at a time.
  case list
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
    case .cancel: "cancel"
    case .inspect: "inspect"
    case .list: "list"
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
    case .cancel: Self.cancelNames
    case .inspect: Self.inspectNames
    case .list: Self.listNames
    case .ping, .stats, .rpcDiscover: []
    }
  }

  /// The members that the protocol knows and this version does not offer yet. They are refused by name, so that a
  /// client never believes that it got what they ask for.
  public var laterParameterNames: [StaticString] {
    self == .acquire ? Self.acquireLaterNames : []
  }

  /// The methods that the protocol knows and this version does not offer yet.
  public static let laterMethodNames: [StaticString] = ["downgrade", "watch", "unwatch", "break", "transfer"]

  private static let initializeNames: [StaticString] = ["client", "protocol", "lifetime", "keepalive_ms"]
  private static let acquireNames: [StaticString] = ["name", "wait_ms", "mode", "max_hold_ms", "meta", "progress"]
  private static let acquireLaterNames: [StaticString] = ["names", "permits", "owner", "on_lost"]
  private static let releaseNames: [StaticString] = ["name", "token"]
  private static let extendNames: [StaticString] = ["name", "token", "max_hold_ms"]
  private static let cancelNames: [StaticString] = ["id"]
  private static let inspectNames: [StaticString] = ["name"]
  private static let listNames: [StaticString] = ["prefix", "scope", "limit", "cursor"]

  /// All methods, the frequent ones first.
  static let byFrequency: [ProtocolMethod] = [
    .acquire, .release, .extend, .ping, .cancel, .inspect, .list, .stats, .initialize, .rpcDiscover,
  ]
}
