public import NIOCore
public import NIOPosix

/// A connection to the sidelock daemon of this host.
///
/// Locks belong to the connection: when it ends, for whatever reason, they are free at once, and every ``Lock`` of it
/// counts as lost. It does not reconnect by itself, since that could not bring a lock back. Many tasks may share one;
/// a second acquire of a name that the connection holds waits like anybody else's.
public final class SidelockClient: Sendable {
  /// How long to wait for a lock.
  public enum Wait: Hashable, Sendable {
    /// Without limit.
    case forever
    /// Not at all: have it now, or fail with reason `busy`.
    case `try`
    /// No longer than that, else fail with reason `timeout`. It is counted in milliseconds, rounded up, and a year at
    /// most.
    case limit(Duration)

    /// The protocol's `wait_ms`.
    package var milliseconds: Int64? {
      switch self {
      case .forever: nil
      case .try: 0
      case .limit(let duration): min(duration.wholeMilliseconds, Duration.protocolMillisecondsMax)
      }
    }
  }

  private let channel: any Channel
  private let handler: NIOLoopBound<ConnectionHandler>

  private let handed: AsyncStream<HandedLock>

  private init(
    channel: any Channel, handler: NIOLoopBound<ConnectionHandler>, handed: AsyncStream<HandedLock>
  ) {
    self.channel = channel
    self.handler = handler
    self.handed = handed
  }

  deinit {
    // Without this the descriptor, and with it every lock, would live on.
    channel.close(promise: nil)
  }

  /// Connects to a daemon.
  ///
  /// A daemon that is stopped, or that hangs, blocks nobody: a call that it does not answer in time fails with reason
  /// `no_answer`, and a late grant is given back. Only a wait without limit (``Wait/forever``) has none here, too.
  ///
  /// - Parameters:
  ///   - socketPath: the daemon's socket; nil to find it as ``SocketPath/find(explicit:environment:exists:)`` says.
  ///   - answerTimeout: how long the daemon may take to accept the connection, and to answer: counted from the limit of
  ///     a wait for a lock, and from the request of anything else.
  ///   - group: what runs the connection's I/O.
  /// - Throws: ``SidelockError``, of reason `no_daemon`, `no_answer` or `permission`, with what to do about it.
  public static func connect(
    socketPath: String? = nil, answerTimeout: Duration = .seconds(5),
    on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) async throws -> SidelockClient {
    let path = SocketPath.bytes(explicit: socketPath)
    let answerMilliseconds = min(max(1, answerTimeout.wholeMilliseconds), Duration.protocolMillisecondsMax)
    // Connecting can block for seconds when the daemon hangs, so it is kept off the event loop.
    let descriptor = try await NIOThreadPool.singleton.runIfActive {
      try UnixSocket.connect(path: path, milliseconds: answerMilliseconds)
    }
    let eventLoop = group.next()
    let (handed, continuation) = AsyncStream<HandedLock>.makeStream()
    let channel = try await ClientBootstrap(group: eventLoop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(
            ConnectionHandler(handed: continuation, answerMilliseconds: answerMilliseconds))
        }
      }
      .withConnectedSocket(descriptor)
      .get()
    let handler = try await channel.eventLoop.submit {
      NIOLoopBound(
        try channel.pipeline.syncOperations.handler(type: ConnectionHandler.self), eventLoop: channel.eventLoop)
    }.get()
    return SidelockClient(channel: channel, handler: handler, handed: handed)
  }

  /// Connects, runs `body`, and ends the connection, whatever `body` did.
  ///
  /// - Throws: what ``connect(socketPath:answerTimeout:on:)`` or `body` throws.
  public static func withConnection<R: Sendable>(
    socketPath: String? = nil, answerTimeout: Duration = .seconds(5), _ body: (SidelockClient) async throws -> R
  ) async throws -> R {
    let client = try await connect(socketPath: socketPath, answerTimeout: answerTimeout)
    let result: R
    do {
      result = try await body(client)
    } catch {
      await client.close()
      throw error
    }
    await client.close()
    return result
  }

  /// Ends the connection. Its locks are free, and whatever is pending fails with reason `connection_lost`.
  public func close() async {
    channel.close(promise: nil)
    try? await channel.closeFuture.get()
  }

  // MARK: Locks

  /// Sends an acquire for these names and waits for its reply; gives the locks in their order.
  func acquire(_ ticket: AcquireTicket) async throws -> [Lock] {
    let grants: [Grant] = try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        onLoop { $0.acquire(ticket, continuation) }
      }
    } onCancel: {
      onLoop { $0.cancel(ticket) }
    }
    return zip(grants, ticket.holds).map { Lock(client: self, hold: $1, grant: $0) }
  }

  /// Sends a request that ends a hold of that name and token; `hold`: which one of an owner's.
  func end(
    _ method: String, _ name: String, _ token: Int64, hold: Hold? = nil, session: String? = nil
  ) async throws -> JSONValue {
    var params = JSONObject()
    params.append("name", .string(name))
    params.append("token", .int(token))
    if let session { params.append("session", .string(session)) }
    let message = JSONValue.object(params)
    return try await withCheckedThrowingContinuation { continuation in
      onLoop { $0.end(method, message, name, token, hold, continuation) }
    }
  }

  /// Gives a lock back, by name and token. ``Lock/release()`` is the usual way.
  ///
  /// - Throws: ``SidelockError``, of reason `not_held` or `lost` when this connection does not hold it.
  public func release(_ name: String, token: Int64) async throws {
    _ = try await end("release", name, token)
  }

  // MARK: Other sessions

  /// The daemon's name for this connection, for others to hand it their locks: from this call on it accepts them.
  ///
  /// - Throws: ``SidelockError``.
  public func session() async throws -> String {
    var params = JSONObject()
    params.append("accept_transfers", .bool(true))
    let result = try await call("initialize", params: .object(params))
    guard let session = result["session"]?.stringValue else {
      throw SidelockError(reason: .protocolViolation, message: "the daemon gave the session no name")
    }
    return session
  }

  /// The locks that other connections hand to this one, as they come, until it ends. For one reader.
  public var handedLocks: some AsyncSequence<Lock, Never> & Sendable {
    handed.map { Lock(client: self, hold: $0.hold, grant: $0.grant) }
  }

  /// Breaks the holds of a lock; for administrators.
  ///
  /// - Parameters:
  ///   - name: the lock.
  ///   - token: only the hold of this token; nil for all.
  ///   - reason: words for those who lose it and for the daemon's log, up to 256 bytes.
  /// - Returns: the tokens of the lost holds. A holder whose host is gone, or that does not use sidelock, has lost the
  ///   lock, too, and is not among them.
  /// - Throws: ``SidelockError``, of reason `denied` without the right.
  @discardableResult
  public func breakLock(_ name: String, token: Int64? = nil, reason: String? = nil) async throws -> [Int64] {
    var params = JSONObject()
    params.append("name", .string(name))
    if let token { params.append("token", .int(token)) }
    if let reason { params.append("reason", .string(reason)) }
    let result = try await call("break", params: .object(params))
    return (result["broken"]?.arrayValue ?? []).compactMap(\.intValue)
  }

  /// Starts a watch of locks on this host. It ends with its reader or with the connection.
  ///
  /// - Throws: ``SidelockError``, of reason `limit` when the connection watches as much as it may.
  public func watch(_ target: WatchTarget) async throws -> Watch {
    let (events, continuation) = AsyncStream<WatchEvent>.makeStream(
      bufferingPolicy: .bufferingNewest(Watch.bufferedEventsMax))
    let watch: Int64 = try await withCheckedThrowingContinuation { reply in
      onLoop { $0.watch(target, continuation, reply) }
    }
    continuation.onTermination = { [weak self] _ in self?.onLoop { $0.unwatch(watch) } }
    return Watch(events: events)
  }

  // MARK: The rest of the protocol

  /// Sends a request and waits for its result. It ends with the daemon's reply, after the answer timeout, or with the
  /// connection; the task's cancellation does not end it.
  ///
  /// - Parameter params: an object, or nil for none.
  /// - Throws: ``SidelockError``.
  public func call(_ method: String, params: JSONValue? = nil) async throws -> JSONValue {
    try await withCheckedThrowingContinuation { continuation in
      onLoop { $0.call(method, params, continuation) }
    }
  }

  /// Sends a request whose parameters are JSON text, and waits for its result as JSON text.
  ///
  /// - Throws: ``JSONSyntaxError`` when `paramsJSON` is not JSON, else ``SidelockError``.
  public func call(_ method: String, paramsJSON: String) async throws -> String {
    try await call(method, params: JSONValue(parsing: paramsJSON)).serialized
  }

  /// Asks whether the daemon answers.
  ///
  /// - Throws: ``SidelockError`` when it does not.
  public func ping() async throws {
    _ = try await call("ping")
  }

  /// The daemon's counters and gauges.
  ///
  /// - Throws: ``SidelockError``.
  public func stats() async throws -> JSONValue {
    try await call("stats")
  }

  /// Who holds a lock and who waits for it.
  ///
  /// - Throws: ``SidelockError``.
  public func inspect(_ name: String) async throws -> LockDescription {
    LockDescription(try await call("inspect", params: ["name": .string(name)]))
  }

  /// The locks whose names begin with `prefix`, all pages of them.
  ///
  /// - Parameters:
  ///   - prefix: the beginning of the names; nil for all.
  ///   - allHosts: the locks of every host that uses the same store, not only this one's.
  /// - Throws: ``SidelockError``.
  public func list(prefix: String? = nil, allHosts: Bool = false) async throws -> [LockDescription] {
    var query = ListQuery(prefix: prefix, allHosts: allHosts)
    var locks: [LockDescription] = []
    repeat {
      locks += query.received(try await call("list", params: query.params))
    } while query.hasMore
    return locks
  }

  func onLoop(_ action: @escaping @Sendable (ConnectionHandler) -> Void) {
    let handler = handler
    channel.eventLoop.execute { action(handler.value) }
  }
}
