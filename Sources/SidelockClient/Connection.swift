import NIOConcurrencyHelpers
import NIOCore
import NIOPosix

/// One connection to the daemon, and what is asked over it. It ends at the latest when nobody has it any more.
final class Connection: Sendable {
  /// How to connect.
  struct Settings: Sendable {
    var path: [UInt8]
    var answerMilliseconds: Int64
    var lifetime: SidelockClient.Lifetime
    var group: any EventLoopGroup
  }

  private let channel: any Channel
  private let handler: NIOLoopBound<ConnectionHandler>
  private let hasFailed: NIOLockedValueBox<Bool>
  /// What other connections hand to this one.
  let handed: AsyncStream<HandedLock>

  private init(
    channel: any Channel, handler: NIOLoopBound<ConnectionHandler>, hasFailed: NIOLockedValueBox<Bool>,
    handed: AsyncStream<HandedLock>
  ) {
    self.channel = channel
    self.handler = handler
    self.hasFailed = hasFailed
    self.handed = handed
  }

  deinit {
    // Without this the descriptor, and with it every lock, would live on.
    channel.close(promise: nil)
  }

  /// - Throws: ``SidelockError``.
  static func open(_ settings: Settings) async throws -> Connection {
    // Connecting can block for seconds when the daemon hangs, so it is kept off the event loop.
    let descriptor = try await NIOThreadPool.singleton.runIfActive {
      try UnixSocket.connect(path: settings.path, milliseconds: settings.answerMilliseconds)
    }
    let eventLoop = settings.group.next()
    let (handed, continuation) = AsyncStream<HandedLock>.makeStream()
    let channel = try await ClientBootstrap(group: eventLoop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(
            ConnectionHandler(handed: continuation, answerMilliseconds: settings.answerMilliseconds))
        }
      }
      .withConnectedSocket(descriptor)
      .get()
    let (handler, hasFailed) = try await channel.eventLoop.submit {
      let handler = try channel.pipeline.syncOperations.handler(type: ConnectionHandler.self)
      return (NIOLoopBound(handler, eventLoop: channel.eventLoop), handler.hasFailed)
    }.get()
    let connection = Connection(channel: channel, handler: handler, hasFailed: hasFailed, handed: handed)
    if settings.lifetime == .process { try await connection.bindToProcess() }
    return connection
  }

  /// Has the daemon end the session with this process. A daemon that cannot see the process refuses that.
  private func bindToProcess() async throws {
    do {
      _ = try await call("initialize", params: ["protocol": 1, "lifetime": "process"])
    } catch let error as SidelockError where error.data?["field"]?.stringValue == "lifetime" {
      return
    }
  }

  /// Whether it can be used, as far as is known.
  var isOpen: Bool { channel.isActive && !hasFailed.withLockedValue { $0 } }

  func close() async {
    channel.close(promise: nil)
    try? await channel.closeFuture.get()
  }

  // MARK: Requests

  /// Sends an acquire for these names and waits for its reply; gives the locks in their order.
  func acquire(_ ticket: AcquireTicket) async throws -> [Lock] {
    let grants: [Grant] = try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        onLoop { $0.acquire(ticket, continuation) }
      }
    } onCancel: {
      onLoop { $0.cancel(ticket) }
    }
    return zip(grants, ticket.holds).map { Lock(connection: self, hold: $1, grant: $0) }
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

  func watch(_ target: WatchTarget) async throws -> Watch {
    let (events, continuation) = AsyncStream<WatchEvent>.makeStream(
      bufferingPolicy: .bufferingNewest(Watch.bufferedEventsMax))
    let watch: Int64 = try await withCheckedThrowingContinuation { reply in
      onLoop { $0.watch(target, continuation, reply) }
    }
    continuation.onTermination = { [weak self] _ in self?.onLoop { $0.unwatch(watch) } }
    return Watch(events: events)
  }

  func call(_ method: String, params: JSONValue?) async throws -> JSONValue {
    try await withCheckedThrowingContinuation { continuation in
      onLoop { $0.call(method, params, continuation) }
    }
  }

  private func onLoop(_ action: @escaping @Sendable (ConnectionHandler) -> Void) {
    let handler = handler
    channel.eventLoop.execute { action(handler.value) }
  }
}
