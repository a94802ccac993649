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

  private init(channel: any Channel, handler: NIOLoopBound<ConnectionHandler>) {
    self.channel = channel
    self.handler = handler
  }

  deinit {
    // Without this the descriptor, and with it every lock, would live on.
    channel.close(promise: nil)
  }

  /// Connects to a daemon.
  ///
  /// - Parameters:
  ///   - socketPath: the daemon's socket; nil to find it as ``SocketPath/find(explicit:environment:exists:)`` says.
  ///   - group: what runs the connection's I/O.
  /// - Throws: ``SidelockError``, of reason `no_daemon` or `permission`, with what to do about it.
  public static func connect(
    socketPath: String? = nil, on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) async throws -> SidelockClient {
    let path = SocketPath.find(explicit: socketPath)
    // Connecting can block for seconds when the daemon hangs, so it is kept off the event loop.
    let descriptor = try await NIOThreadPool.singleton.runIfActive { try UnixSocket.connect(path: path) }
    let eventLoop = group.next()
    let channel = try await ClientBootstrap(group: eventLoop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(ConnectionHandler()) }
      }
      .withConnectedSocket(descriptor)
      .get()
    let handler = try await channel.eventLoop.submit {
      NIOLoopBound(
        try channel.pipeline.syncOperations.handler(type: ConnectionHandler.self), eventLoop: channel.eventLoop)
    }.get()
    return SidelockClient(channel: channel, handler: handler)
  }

  /// Connects, runs `body`, and ends the connection, whatever `body` did.
  ///
  /// - Throws: what ``connect(socketPath:on:)`` or `body` throws.
  public static func withConnection<R: Sendable>(
    socketPath: String? = nil, _ body: (SidelockClient) async throws -> R
  ) async throws -> R {
    let client = try await connect(socketPath: socketPath)
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

  /// Waits for a lock and takes it.
  ///
  /// When the task is cancelled, the wait is withdrawn and the call throws `CancellationError` as soon as the daemon
  /// has confirmed that nothing is held or waited for.
  ///
  /// - Parameters:
  ///   - name: the lock's name, up to 512 bytes.
  ///   - wait: how long to wait.
  ///   - maxHold: after how long of holding the daemon takes the lock away; nil for no limit.
  ///   - meta: a note for whoever looks at the lock, up to 1 KiB.
  ///   - onLost: called once, on an I/O thread that it must not block, if the lock is lost before it is released.
  /// - Throws: ``SidelockError``; among its reasons are `busy`, `timeout`, `unavailable`, `connection_lost`.
  public func acquire(
    _ name: String, wait: Wait = .forever, maxHold: Duration? = nil, meta: String? = nil,
    onLost: (@Sendable (LostNotice) -> Void)? = nil
  ) async throws -> Lock {
    try Task.checkCancellation()
    var params = JSONObject()
    params.append("name", .string(name))
    if let milliseconds = wait.milliseconds { params.append("wait_ms", .int(milliseconds)) }
    if let maxHold { params.append("max_hold_ms", .int(maxHold.holdMilliseconds)) }
    if let meta { params.append("meta", .string(meta)) }
    let hold = Hold(onLost: onLost)
    let ticket = AcquireTicket(name: name, params: .object(params), hold: hold)
    let grant: Grant = try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        onLoop { $0.acquire(ticket, continuation) }
      }
    } onCancel: {
      onLoop { $0.cancel(ticket) }
    }
    return Lock(client: self, hold: hold, grant: grant)
  }

  /// Runs `body` while holding a lock, and releases the lock afterwards, whatever `body` did.
  ///
  /// `body` runs in a task of its own, which is cancelled when the lock is lost. It should then stop at once: another
  /// may have the lock ``LostNotice/graceMilliseconds`` later.
  ///
  /// - Throws: what ``acquire(_:wait:maxHold:meta:onLost:)`` throws; what `body` throws; ``SidelockError`` of reason
  ///   `lost` when the lock was lost before `body` had ended.
  public func withLock<R: Sendable>(
    _ name: String, wait: Wait = .forever, maxHold: Duration? = nil, meta: String? = nil,
    _ body: @escaping @Sendable (Lock) async throws -> R
  ) async throws -> R {
    let lock = try await acquire(name, wait: wait, maxHold: maxHold, meta: meta)
    let outcome = await Self.run(lock, body)
    if let notice = lock.lostNotice {
      // A body that was cancelled for it would hide the reason; any other error of its own is worth more.
      if case .failure(let error) = outcome, !(error is CancellationError) { throw error }
      throw SidelockError(lost: notice)
    }
    do {
      // The body may have released it itself.
      if !lock.hold.isReleased { try await lock.release() }
    } catch {
      // The body's own failure is what the caller must see.
      if case .failure(let bodyError) = outcome { throw bodyError }
      throw error
    }
    return try outcome.get()
  }

  /// Runs `body`, in a child task that a loss of the lock cancels.
  private static func run<R: Sendable>(
    _ lock: Lock, _ body: @escaping @Sendable (Lock) async throws -> R
  ) async -> Result<R, any Error> {
    // nil stands for the end of the watch.
    await withTaskGroup(of: Result<R, any Error>?.self) { group in
      group.addTask {
        do {
          return .success(try await body(lock))
        } catch {
          return .failure(error)
        }
      }
      group.addTask {
        for await _ in lock.hold.losses { break }
        return nil
      }
      var outcome: Result<R, any Error>?
      for await result in group {
        if let result { outcome = result }
        // The watch also ends when the body itself releases the lock, and then the body goes on.
        if outcome != nil || lock.isLost { group.cancelAll() }
      }
      return outcome ?? .failure(CancellationError())
    }
  }

  /// Gives a lock back, by name and token. ``Lock/release()`` is the usual way.
  ///
  /// - Throws: ``SidelockError``, of reason `not_held` or `lost` when this connection does not hold it.
  public func release(_ name: String, token: Int64) async throws {
    _ = try await call("release", params: ["name": .string(name), "token": .int(token)])
    onLoop { $0.released(name, token) }
  }

  // MARK: The rest of the protocol

  /// Sends a request and waits for its result. It ends with the daemon's reply or with the connection; the task's
  /// cancellation does not end it.
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

  private func onLoop(_ action: @escaping @Sendable (ConnectionHandler) -> Void) {
    let handler = handler
    channel.eventLoop.execute { action(handler.value) }
  }
}
