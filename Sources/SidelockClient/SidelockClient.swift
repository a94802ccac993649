import NIOConcurrencyHelpers
public import NIOCore
public import NIOPosix

/// A client of the sidelock daemon of this host, over one connection that many tasks may share.
///
/// Locks belong to the connection: when it ends, for whatever reason, they are free at once, and every ``Lock`` of it
/// counts as lost, for ever. The next request connects anew, and watches have to be started again. A second acquire of
/// a name that the connection holds waits like anybody else's, where no `owner` is named.
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

  /// With what the daemon ends a connection and its locks.
  public enum Lifetime: Hashable, Sendable {
    /// With the connection, whoever has it: also a process that was forked without exec.
    case connection
    /// Also with the process that connected. Where the daemon cannot see the process, as from within some containers,
    /// it is as with ``connection``.
    case process
  }

  private struct State {
    /// The last one; nil before the first request.
    var connection: Connection?
    /// A new connection in the making.
    var connecting: Task<Connection, any Error>?
    var isClosed = false
  }

  private let settings: Connection.Settings
  private let state: NIOLockedValueBox<State>

  /// A client that connects with its first request; else as ``connect(socketPath:answerTimeout:lifetime:on:)``.
  public init(
    socketPath: String? = nil, answerTimeout: Duration = .seconds(5), lifetime: Lifetime = .connection,
    on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) {
    settings = Connection.Settings(
      path: SocketPath.bytes(explicit: socketPath),
      answerMilliseconds: min(max(1, answerTimeout.wholeMilliseconds), Duration.protocolMillisecondsMax),
      lifetime: lifetime, group: group)
    state = NIOLockedValueBox(State())
  }

  /// Connects to a daemon. When the connection ends later, the next request connects anew, to the same socket.
  ///
  /// A daemon that is stopped, or that hangs, blocks nobody: a call that it does not answer in time, and no ping either,
  /// fails with reason `no_answer`, and a late grant is given back. Only a wait without limit (``Wait/forever``) has
  /// none here, too. A daemon that answers the ping waits for its store: then the call goes on.
  ///
  /// - Parameters:
  ///   - socketPath: the daemon's socket; nil to find it as ``SocketPath/find(explicit:environment:exists:)`` says.
  ///   - answerTimeout: how long the daemon may take to accept the connection, and to answer: counted from the limit of
  ///     a wait for a lock, and from the request of anything else. A ping has as long again.
  ///   - lifetime: with what the daemon ends each connection.
  ///   - group: what runs the connection's I/O.
  /// - Throws: ``SidelockError``, of reason `no_daemon`, `no_answer` or `permission`, with what to do about it.
  public static func connect(
    socketPath: String? = nil, answerTimeout: Duration = .seconds(5), lifetime: Lifetime = .connection,
    on group: any EventLoopGroup = MultiThreadedEventLoopGroup.singleton
  ) async throws -> SidelockClient {
    let client = SidelockClient(
      socketPath: socketPath, answerTimeout: answerTimeout, lifetime: lifetime, on: group)
    _ = try await client.connection()
    return client
  }

  /// Connects, runs `body`, and ends the connection, whatever `body` did.
  ///
  /// - Throws: what ``connect(socketPath:answerTimeout:lifetime:on:)`` or `body` throws.
  public static func withConnection<R: Sendable>(
    socketPath: String? = nil, answerTimeout: Duration = .seconds(5), lifetime: Lifetime = .connection,
    _ body: (SidelockClient) async throws -> R
  ) async throws -> R {
    let client = try await connect(socketPath: socketPath, answerTimeout: answerTimeout, lifetime: lifetime)
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

  /// Ends the connection. Its locks are free, and whatever is pending, or is asked later, fails with reason
  /// `connection_lost`.
  public func close() async {
    let connection = state.withLockedValue { state in
      state.isClosed = true
      return state.connection
    }
    await connection?.close()
  }

  /// The connection, made anew where it has ended. All who ask meanwhile wait for the same one.
  func connection() async throws -> Connection {
    enum Found {
      case open(Connection)
      case connecting(Task<Connection, any Error>)
      case closed
    }
    let found: Found = state.withLockedValue { state in
      if state.isClosed { return .closed }
      if let task = state.connecting { return .connecting(task) }
      if let connection = state.connection, connection.isOpen { return .open(connection) }
      let task = Task { try await reconnect() }
      state.connecting = task
      return .connecting(task)
    }
    switch found {
    case .open(let connection): return connection
    case .connecting(let task): return try await task.value
    case .closed: throw Self.closed
    }
  }

  private func reconnect() async throws -> Connection {
    let result: Result<Connection, any Error>
    do {
      result = .success(try await Connection.open(settings))
    } catch {
      result = .failure(error)
    }
    let isClosed = state.withLockedValue { state in
      state.connecting = nil
      if case .success(let connection) = result, !state.isClosed { state.connection = connection }
      return state.isClosed
    }
    let connection = try result.get()
    guard !isClosed else {
      await connection.close()
      throw Self.closed
    }
    return connection
  }

  private static var closed: SidelockError {
    SidelockError(reason: .connectionLost, message: "the client is closed")
  }

  // MARK: Locks

  /// Gives a lock back, by name and token. ``Lock/release()`` is the usual way.
  ///
  /// - Throws: ``SidelockError``, of reason `not_held` or `lost` when this connection does not hold it.
  public func release(_ name: String, token: Int64) async throws {
    _ = try await connection().end("release", name, token)
  }

  // MARK: Other sessions

  /// The daemon's name for this connection, for others to hand it their locks: from this call on it accepts them. A
  /// later connection has another name, and has to be asked again.
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

  /// The locks that other connections hand to this one, as they come, until it ends. For one reader. Ask for them after
  /// ``session()``.
  public var handedLocks: some AsyncSequence<Lock, Never> & Sendable {
    let connection = state.withLockedValue { $0.connection }
    let handed = connection?.handed ?? AsyncStream { $0.finish() }
    return handed.compactMap { handed in
      connection.map { Lock(connection: $0, hold: handed.hold, grant: handed.grant) }
    }
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
    try await connection().watch(target)
  }

  // MARK: The rest of the protocol

  /// Sends a request and waits for its result. It ends with the daemon's reply, after the answer timeout, or with the
  /// connection; the task's cancellation does not end it.
  ///
  /// - Parameter params: an object, or nil for none.
  /// - Throws: ``SidelockError``.
  public func call(_ method: String, params: JSONValue? = nil) async throws -> JSONValue {
    try await connection().call(method, params: params)
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
}
