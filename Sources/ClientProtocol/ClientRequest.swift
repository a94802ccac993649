public import LockTypes

/// The `id` that a client gave its request. The number 1 and the string "1" are two ids.
public enum MessageID: Hashable, Sendable {
  /// An integer, negative ones included, of a magnitude up to ``Limits/integerMax``.
  case integer(Int64)
  /// A string, compared by its UTF-8 bytes.
  case string([UInt8])
}

/// A request of a client, complete and within all limits.
public enum ClientRequest: Equatable, Sendable {
  /// Tells who the client is.
  case initialize(InitializeParams)
  /// Asks for a lock.
  case acquire(AcquireParams)
  /// Gives a lock back. `token` may be absent when the session has one hold of that name.
  case release(name: LockName, token: Int64?)
  /// Sets the limit of a hold, in milliseconds from now; nil removes it.
  case extend(name: LockName, token: Int64?, maxHoldMilliseconds: Int64?)
  /// Turns an exclusive hold into a shared one.
  case downgrade(name: LockName, token: Int64?)
  /// Hands a hold to the session of this host that `initialize` gave that name.
  case transfer(name: LockName, token: Int64?, session: String)
  /// Withdraws the request with that id.
  case cancel(MessageID)
  /// Asks about one lock.
  case inspect(name: LockName)
  /// Asks about many locks.
  case list(ListParams)
  /// Starts a watch of one lock, or of all whose names begin alike.
  case watch(WatchParams)
  /// Ends the watch or the trace of that number.
  case unwatch(Int64)
  /// Asks to be shown messages of others.
  case trace(TraceTarget)
  /// Breaks all holds of the lock, or the one of `token`; those who lose it are told `reason`.
  case `break`(name: LockName, token: Int64?, reason: String?)
  /// Ends the session of this host that `initialize` gave that name.
  case kill(session: String, reason: String?)
  /// Asks who is connected.
  case clients(PageParams)
  /// Asks which hosts share the store.
  case hosts(PageParams)
  /// Asks for nothing but a reply.
  case ping
  /// Asks for counters and gauges.
  case stats
  /// Asks what Redis tells of itself.
  case redis
  /// Asks for the OpenRPC document.
  case rpcDiscover

  /// The method that was called.
  public var method: ProtocolMethod {
    switch self {
    case .initialize: .initialize
    case .acquire: .acquire
    case .release: .release
    case .extend: .extend
    case .downgrade: .downgrade
    case .transfer: .transfer
    case .cancel: .cancel
    case .inspect: .inspect
    case .list: .list
    case .watch: .watch
    case .unwatch: .unwatch
    case .trace: .trace
    case .break: .break
    case .kill: .kill
    case .clients: .clients
    case .hosts: .hosts
    case .ping: .ping
    case .stats: .stats
    case .redis: .redis
    case .rpcDiscover: .rpcDiscover
    }
  }

  /// The locks that it names.
  public var names: [LockName] {
    switch self {
    case .acquire(let params): params.more?.names ?? [params.name]
    case .release(let name, _), .extend(let name, _, _), .downgrade(let name, _), .transfer(let name, _, _),
      .inspect(let name), .break(let name, _, _), .trace(.lock(let name)):
      [name]
    case .watch(let params): if case .name(let name) = params.target { [name] } else { [] }
    case .initialize, .cancel, .list, .unwatch, .kill, .clients, .hosts, .ping, .stats, .redis, .rpcDiscover, .trace: []
    }
  }
}

/// What `initialize` says. nil: the client did not say.
public struct InitializeParams: Equatable, Sendable {
  /// What ends the session.
  public enum Lifetime: String, CaseIterable, Sendable {
    /// The last copy of the socket is closed.
    case socket
    /// The process that connected has ended, whoever still has the socket.
    case process
  }

  /// The program's name.
  public var clientName: String?
  /// The program's version.
  public var clientVersion: String?
  /// The version of the protocol that the client wants, at least 1. The caller decides whether it is spoken.
  public var protocolVersion: Int64?
  /// What becomes of the session's holds when the client closes its half of the connection.
  public enum HalfClose: String, CaseIterable, Sendable {
    /// They end when the last reply is out.
    case end
    /// They last until the connection ends.
    case hold
  }

  /// What ends the session.
  public var lifetime: Lifetime
  /// The session ends after this many milliseconds without input; nil: as it was.
  public var keepaliveMilliseconds: Int64?
  /// Turns the keepalive off.
  public var endsKeepalive: Bool
  /// What becomes of its holds when it closes its half of the connection.
  public var halfClose: HalfClose?
  /// Whether others may hand it holds for which it does not wait.
  public var acceptsTransfers: Bool?

  /// What a client says of itself.
  public init(
    clientName: String? = nil, clientVersion: String? = nil, protocolVersion: Int64? = nil,
    lifetime: Lifetime = .socket, keepaliveMilliseconds: Int64? = nil, endsKeepalive: Bool = false,
    halfClose: HalfClose? = nil,
    acceptsTransfers: Bool? = nil
  ) {
    self.clientName = clientName
    self.clientVersion = clientVersion
    self.protocolVersion = protocolVersion
    self.lifetime = lifetime
    self.keepaliveMilliseconds = keepaliveMilliseconds
    self.endsKeepalive = endsKeepalive
    self.halfClose = halfClose
    self.acceptsTransfers = acceptsTransfers
  }
}

/// What `acquire` asks for.
public struct AcquireParams: Equatable, Sendable {
  /// The lock's name, 1 to ``Limits/nameBytesMax`` bytes of UTF-8; empty when several are asked for.
  public var name: LockName
  /// How long to wait, in milliseconds; nil: no limit, 0: a try.
  public var waitMilliseconds: Int64?
  /// Milliseconds after which the hold is lost; nil: never.
  public var maxHoldMilliseconds: Int64?
  /// The client's own note.
  public var meta: String?
  /// Whether the client wants `waiting` and `contended` notifications.
  public var progress: Bool
  /// The rare options; nil when each has its default.
  public var more: AcquireOptions?

  /// A wish for the lock `name`.
  public init(
    name: LockName, waitMilliseconds: Int64? = nil, maxHoldMilliseconds: Int64? = nil, meta: String? = nil,
    progress: Bool = false, more: AcquireOptions? = nil
  ) {
    self.name = name
    self.waitMilliseconds = waitMilliseconds
    self.maxHoldMilliseconds = maxHoldMilliseconds
    self.meta = meta
    self.progress = progress
    self.more = more
  }
}

/// The rare options of an acquire. A class, so that the usual acquire carries only a nil pointer.
public final class AcquireOptions: Equatable, Sendable {
  /// Several locks, all or none: 1 to ``Limits/namesMax`` names, all different. nil: the one of ``AcquireParams/name``.
  public let names: [LockName]?
  /// How the locks are to be held.
  public let mode: HoldMode
  /// The owner that asks, 1 to ``Limits/ownerBytesMax`` bytes; nil: none.
  public let owner: String?
  /// What happens to the client's process when the hold is lost.
  public let onLost: LossAction
  /// How many replicas have to have the lease, up to ``LockTypes/ReplicaNeed/replicasMax``, and how safely.
  public let need: ReplicaNeed

  /// Options; what is left out has its default.
  public init(
    names: [LockName]? = nil, mode: HoldMode = .exclusive, owner: String? = nil, onLost: LossAction = .notify,
    need: ReplicaNeed = .none
  ) {
    self.names = names
    self.mode = mode
    self.owner = owner
    self.onLost = onLost
    self.need = need
  }

  /// Options are equal when they ask for the same.
  public static func == (a: AcquireOptions, b: AcquireOptions) -> Bool {
    a.names == b.names && a.mode == b.mode && a.owner == b.owner && a.onLost == b.onLost && a.need == b.need
  }
}

/// What a watch is about.
public enum WatchTarget: Hashable, Sendable {
  /// The lock of this name.
  case name(LockName)
  /// All locks whose name begins with these bytes; without any: all locks.
  case prefix([UInt8])
}

/// What `watch` asks for.
public struct WatchParams: Hashable, Sendable {
  /// Which locks.
  public var target: WatchTarget
  /// On which hosts.
  public var scope: HostScope

  /// A wish to be told what happens to these locks there.
  public init(_ target: WatchTarget, scope: HostScope = .host) {
    self.target = target
    self.scope = scope
  }
}

/// Which hosts a request is about.
public enum HostScope: String, CaseIterable, Sendable {
  /// The one that is asked: the locks that it holds or waits for, what happens on it.
  case host
  /// All hosts on the same Redis.
  case all
}

/// What `list` asks for.
public struct ListParams: Equatable, Sendable {
  /// Only locks whose name begins with these bytes; nil or empty: all.
  public var prefix: [UInt8]?
  /// Whose locks.
  public var scope: HostScope
  /// How many at most.
  public var limit: Int
  /// The cursor of an earlier reply, from which to go on; the caller checks it.
  public var cursor: String?

  /// A wish for a page of locks.
  public init(
    prefix: [UInt8]? = nil, scope: HostScope = .host, limit: Int = Int(Limits.listCountDefault), cursor: String? = nil
  ) {
    self.prefix = prefix
    self.scope = scope
    self.limit = limit
    self.cursor = cursor
  }
}

/// What a method asks for whose answer comes in pages.
public struct PageParams: Equatable, Sendable {
  /// How many at most.
  public var limit: Int
  /// The cursor of an earlier reply, from which to go on; the caller checks it.
  public var cursor: String?

  /// A wish for a page.
  public init(limit: Int = Int(Limits.listCountDefault), cursor: String? = nil) {
    self.limit = limit
    self.cursor = cursor
  }
}

/// What a line turned out to be.
public enum ClientMessage: Equatable, Sendable {
  /// A request, to be answered exactly once under this id.
  case request(MessageID, ClientRequest)
  /// A `cancel` without an id, of the request with this id: it is not answered.
  case cancelNotification(MessageID)
  /// No valid request: this refusal is to be sent as it is.
  case refused(RequestRefusal)
}

/// The error that answers a line which is no valid request.
public struct RequestRefusal: Error, Equatable, Sendable {
  /// A member of the error's `data`.
  public struct Detail: Equatable, Sendable {
    /// What a member of `data` can be.
    public enum Value: Equatable, Sendable {
      /// Text.
      case text(String)
      /// Several texts.
      case texts([String])
      /// A number.
      case integer(Int64)
    }

    /// The member's name.
    public var key: StaticString
    /// What it says.
    public var value: Value

    /// A member of `data`.
    public init(_ key: StaticString, _ value: Value) {
      self.key = key
      self.value = value
    }

    /// Details are equal when they say the same.
    public static func == (a: Detail, b: Detail) -> Bool {
      a.key.description == b.key.description && a.value == b.value
    }
  }

  /// The id of the request; nil when it could not be read, and is told as null.
  public var id: MessageID?
  /// The error.
  public var code: ErrorCode
  /// What is wrong and what to do about it.
  public var message: String
  /// More members of `data`, besides `reason`.
  public var details: [Detail]

  /// A refusal.
  public init(id: MessageID? = nil, code: ErrorCode, message: String, details: [Detail] = []) {
    self.id = id
    self.code = code
    self.message = message
    self.details = details
  }

  /// The answer to a line that was too long and has been skipped.
  public static let lineTooLong = RequestRefusal(
    code: .invalidRequest,
    message: "the line was longer than \(Limits.lineBytesMax) bytes and was skipped; send shorter lines",
    details: [Detail("limit", .integer(Int64(Limits.lineBytesMax)))])

  /// The last message to a client that sends no line end, before it is disconnected.
  public static let lineWithoutEnd = RequestRefusal(
    code: .invalidRequest,
    message: "\(Limits.unendedBytesMax) bytes came without a line end; the connection is closed",
    details: [Detail("limit", .integer(Int64(Limits.unendedBytesMax)))])

  /// The answer to a request whose id is still in flight. It carries no id, because a reply under that id would be
  /// taken for the answer to the first request.
  public static func idInFlight(_ id: MessageID) -> RequestRefusal {
    let shown =
      switch id {
      case .integer(let number): "\(number)"
      case .string(let bytes): "\"\(String(decoding: bytes, as: UTF8.self))\""
      }
    return RequestRefusal(
      code: .invalidRequest,
      message: "the id \(shown) belongs to a request that is not yet answered; give every request an id of its own",
      details: [Detail("field", .text("id"))])
  }
}
