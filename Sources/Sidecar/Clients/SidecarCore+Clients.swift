// What comes from clients.

import ClientProtocol
import Dispatch
import Glibc
import LockEngine
import LockTypes
import NIOCore

extension SidecarCore {
  /// Questions to Redis that one session may have open before it is not read from any more.
  static let queriesPerSessionMax = 16

  // MARK: Connections

  func accepted(_ channel: any Channel, from peer: Peer?) -> ClientSession? {
    let limit = limits.connectionLimit(uid: peer?.uid)
    // One that comes while clients are left to the daemon that follows is left to it, too, as long as there is room.
    let isLeft = stage == .handingOver && keeper?.hasRoom == true
    guard stage == .serving || isLeft, limit == nil else {
      statistics.connectionsRefused += 1
      let buffer = output.message(on: channel) { writer in
        guard stage == .serving, let limit else { return writer.failure(id: nil, .shuttingDown) }
        limitCounts.met(limit)
        let message = limit == .connections ? room.tooManyConnections : nil
        writer.failure(id: nil, .limit, message: message) { $0.member("limit", limit.rawValue) }
      }
      channel.writeAndFlush(buffer).assumeIsolated().whenComplete { _ in channel.close(promise: nil) }
      return nil
    }
    statistics.connections += 1
    let session = ClientSession(id: SessionID(sessions.last + 1), channel: channel, peer: peer)
    session.charges.account = limits.openAccount(uid: peer?.uid)
    if !ProcessHandle.kernelKnowsPeers { session.handle = try? ProcessHandle.opened(channel, peer: peer).get() }
    sessions.add(session)
    tell(.sessionOpened(session.id, uid: peer?.uid))
    if isLeft { leave(session) } else { peers.lookUpUnit(of: session) }
    return session
  }

  func closed(_ session: ClientSession) {
    guard stage != .handedOver, sessions.remove(session) else { return }
    session.isClosing = true
    session.input.unread = nil
    watches.endAll(of: session)
    keeper?.closed(session)
    session.handle = nil
    lifetimes.endKeepalive(of: session)
    limits.closeAccount(of: session)
    tell(.sessionClosed(session.id), of: session.peer?.uid)
  }

  /// Closes a connection once the client has taken what it was sent.
  func closeAfterOutput(_ session: ClientSession) {
    session.isClosing = true
    session.closesAfterOutput = true
    let channel = session.channel
    // An empty write is complete when everything before it is.
    channel.writeAndFlush(channel.allocator.buffer(capacity: 0)).assumeIsolated().whenComplete { _ in
      session.disconnect()
    }
  }

  /// Half-closed, and nothing is pending, held or watched: nobody will ever hear or ask anything on this connection again.
  func isThrough(_ session: ClientSession) -> Bool {
    session.input.hasEnded && session.input.unread == nil && !session.input.isPutOff && session.output.bytes == nil
      && session.requests.queries == 0
      && session.watches.targets.isEmpty && engine.isIdle(session.id)
  }

  /// A client that has closed its half of the connection can neither release what it holds nor say that it is alive: a
  /// program that ended its output and goes on would hold it for ever. So its holds end behind the last reply, and
  /// before that those that its own requests wait for. Where it has asked for something else they stay, but it can be in a
  /// deadlock from now on.
  func endHoldsOfHalfClosed(_ session: ClientSession) {
    guard !session.lifetime.isEndingHolds, session.input.hasEnded, session.input.unread == nil,
      !session.input.isPutOff,
      session.output.bytes == nil,
      !session.input.framer.isInsideLine, !rights.isUnitPending(session), engine.hasHolds(session.id)
    else { return }
    let isAnswered = session.requests.inFlight.isEmpty && session.requests.queries == 0
    tell(.inputEnded(session.id, isAnswered: isAnswered, keepsHolds: session.lifetime.keepsHoldsHalfClosed))
    guard engine.isEndPutOff(session.id) else { return }
    session.lifetime.isEndingHolds = true
    endingHolds.append(session)
  }

  /// Goes on with the half-closed sessions that hold very much, when the loop has looked at everybody else.
  func goOnWithHalfClosed() {
    for _ in 0..<endingHolds.count {
      guard inputs.hasRoom(now: clock.now()), let session = endingHolds.popFirst() else { break }
      session.lifetime.isEndingHolds = false
      if sessions.has(session), !session.isClosing { endHoldsOfHalfClosed(session) }
    }
    if !endingHolds.isEmpty { output.scheduleEnd() }
  }

  // MARK: Input

  /// Goes on with a session that nothing could be decided of.
  func unitIsKnown(of session: ClientSession) {
    // The last line may have come without its end, and then there is nothing else to go on with.
    if session.input.unread == nil { readLines(of: session) }
    resumeReading(of: session)
    output.touch(session)
  }

  func received(_ buffer: ByteBuffer, from session: ClientSession) {
    guard !session.isClosing else { return }
    statistics.bytesIn += UInt64(buffer.readableBytes)
    session.input.hasSpoken = true
    keeper?.received(buffer, from: session)
    if session.lifetime.keepaliveMilliseconds != nil { session.lifetime.heardAt = clock.now() }
    if var unread = session.input.unread {
      unread.writeImmutableBuffer(buffer)
      session.input.unread = unread
    } else {
      session.input.unread = buffer
    }
    readLines(of: session)
  }

  func inputEnded(of session: ClientSession) {
    session.input.hasEnded = true
    session.keeping.isChanged = true
    readLines(of: session)
    output.touch(session)
  }

  func writabilityChanged(of session: ClientSession) {
    session.output.isWritable = session.channel.isWritable
    guard session.output.isWritable else { return updateReading(of: session) }
    output.tellMissed(session)
    resumeReading(of: session)
    // The rest of its input may have been nothing that is answered, and then it is through.
    if session.input.hasEnded { output.touch(session) }
  }

  /// Takes lines until there are none or the session has enough on its hands, or has had its share of the turn.
  ///
  /// - Parameter share: how long it may take, in nanoseconds, when it has waited for its turn.
  func readLines(of session: ClientSession, share: Int64? = nil) {
    keeper?.touch(session)
    if session.input.isPutOff { return }
    guard var buffer = session.input.unread else {
      if rights.isUnitPending(session) { return }
      return finishInput(of: session)
    }
    let began = clock.now()
    turns.begin(.input, now: began)
    guard share != nil || inputs.mayBegin(now: began) else {
      putOffInput(of: session, isFresh: true)
      return updateReading(of: session)
    }
    // The turn's end makes room for the next one.
    output.scheduleEnd()
    session.input.unread = nil
    var isPaused = false
    var requestsLeft = requestsBetweenLooks
    buffer.readWithUnsafeReadableBytes { bytes in
      var rest = bytes
      while !session.isClosing {
        if mustPause(session) {
          isPaused = true
          break
        }
        if requestsLeft == 0 {
          let taken = clock.now().nanoseconds - began.nanoseconds
          if taken >= share ?? InputTurns.shareNanoseconds {
            putOffInput(of: session, isFresh: false)
            isPaused = true
            break
          }
          requestsLeft = requestsBetweenLooks
        }
        requestsLeft -= 1
        switch session.input.framer.next(from: &rest, { decoder.decode($0) }) {
        case .line(let message): received(message, from: session)
        case .tooLong: refuse(.lineTooLong, to: session)
        case .hopeless:
          refuse(.lineWithoutEnd, to: session)
          session.isClosing = true
        case .needsInput:
          return bytes.count - rest.count
        }
      }
      return bytes.count - rest.count
    }
    if isPaused, buffer.readableBytes > 0 { session.input.unread = buffer }
    if !isPaused { finishInput(of: session) }
    limits.chargeInput(of: session)
    updateReading(of: session)
  }

  private func finishInput(of session: ClientSession) {
    guard session.input.hasEnded, !session.isClosing else { return }
    switch session.input.framer.finish({ decoder.decode($0) }) {
    case .line(let message): received(message, from: session)
    case .tooLong: refuse(.lineTooLong, to: session)
    case .hopeless, .needsInput: break
    }
  }

  private func mustPause(_ session: ClientSession) -> Bool {
    session.input.isPutOff || rights.isUnitPending(session) || !session.output.isWritable
      || session.requests.queries >= Self.queriesPerSessionMax
      || session.output.count >= TurnOutput.unreadPauseBytes
  }

  /// Stops or resumes reading from the socket, so that the kernel's buffer, and then the client, holds the rest.
  func updateReading(of session: ClientSession) {
    let mustPause = !session.isClosing && mustPause(session)
    guard mustPause != session.input.isPaused else { return }
    session.input.isPaused = mustPause
    try? session.channel.syncOptions?.setOption(.autoRead, value: !mustPause)
  }

  /// Goes on with a session that had enough on its hands, when it has not any more.
  func resumeReading(of session: ClientSession) {
    guard session.input.isPaused || session.input.unread != nil else { return }
    readLines(of: session)
    updateReading(of: session)
  }

  // MARK: Requests

  private func refuse(_ refusal: RequestRefusal, to session: ClientSession) {
    statistics.refusedLines += 1
    output.write(to: session) { $0.refusal(refusal) }
  }

  private func received(_ message: ClientMessage, from session: ClientSession) {
    switch message {
    case .refused(let refusal):
      refuse(refusal, to: session)
    case .cancelNotification(let target):
      tell(.cancelRequested(session.id, request: nil, target: session.requests.inFlight[target]))
    case .request(let id, let request):
      statistics.requests += 1
      guard session.requests.inFlight.isEmpty || session.requests.inFlight[id] == nil else {
        return refuse(.idInFlight(id), to: session)
      }
      received(request, id: id, from: session)
    }
  }

  private func received(_ request: ClientRequest, id: MessageID, from session: ClientSession) {
    let session = session
    if !request.method.isDecidedByEngine { tellWhatIsDue(before: .query) }
    switch request {
    case .initialize(let params):
      initialize(params, id: id, session)
    case .acquire(let params):
      acquire(params, id: id, session)
    case .release(let name, let token):
      tell(session, id) { .releaseRequested(session.id, $0, name: name, token: token) }
    case .extend(let name, let token, let maximum):
      tell(session, id) {
        .extendRequested(session.id, $0, name: name, token: token, maxHoldMilliseconds: maximum)
      }
    case .downgrade(let name, let token):
      tell(session, id) { .downgradeRequested(session.id, $0, name: name, token: token) }
    case .transfer(let name, let token, let target):
      transfer(name, token, to: target, id: id, session)
    case .cancel(let target):
      let target = session.requests.inFlight[target]
      tell(session, id) { .cancelRequested(session.id, request: $0, target: target) }
    case .inspect(let name):
      inspect(name, id: id, session)
    case .list(let params):
      list(params, id: id, session)
    case .watch(let target):
      watches.watch(target, id: id, session)
    case .unwatch(let watch):
      watches.unwatch(watch, id: id, session)
    case .break(let name, let token, let reason):
      breakHolds(of: name, token: token, reason: reason, id: id, session)
    case .ping:
      let valid = engine.validMilliseconds(of: session.id, now: clock.now())
      output.write(to: session) { $0.pong(id: id, validMilliseconds: valid) }
    case .stats:
      output.write(to: session) { $0.stats(id: id, stats) }
    case .rpcDiscover:
      output.write(to: session) { $0.discovered(id: id, document: document) }
    }
  }

  private func acquire(_ params: AcquireParams, id: MessageID, _ session: ClientSession) {
    peers.describe(session)
    guard let options = params.more else {
      let name = params.name
      guard rights.mayUse(session, name) else { return rights.deny(session, .use, name, id: id) }
      return tell(session, id) { request in
        .acquireRequested(
          AcquireRequest(
            session: session.id, request: request, target: .one(name), waitMilliseconds: params.waitMilliseconds,
            maxHoldMilliseconds: params.maxHoldMilliseconds, meta: params.meta, progress: params.progress))
      }
    }
    let names = options.names ?? [params.name]
    for name in names where !rights.mayUse(session, name) { return rights.deny(session, .use, name, id: id) }
    if options.onLost != .notify, let refusal = losses.enforcementRefusal(session) {
      return losses.refuseEnforcement(refusal, names[0], id: id, to: session)
    }
    tell(session, id) { request in
      .acquireRequested(
        AcquireRequest(
          session: session.id, request: request,
          target: options.names == nil ? .one(params.name) : .several(names),
          mode: options.mode, waitMilliseconds: params.waitMilliseconds,
          maxHoldMilliseconds: params.maxHoldMilliseconds, owner: options.owner, meta: params.meta,
          progress: params.progress, onLost: options.onLost))
    }
  }

  private func transfer(
    _ name: LockName, _ token: Int64?, to target: String, id: MessageID, _ session: ClientSession
  ) {
    guard let number = UInt64(target), "\(number)" == target, let receiver = sessions[SessionID(number)],
      !receiver.isClosing
    else { return output.write(to: session) { writeNoSuchSession(id: id, to: &$0) } }
    guard rights.mayUse(receiver, name) else { return rights.deny(session, .use, name, id: id) }
    peers.describe(receiver)
    tell(session, id) {
      .transferRequested(
        session.id, $0, name: name, token: token, to: receiver.id,
        isAccepting: receiver.acceptsTransfers && !output.isBehind(receiver))
    }
  }

  private func initialize(_ params: InitializeParams, id: MessageID, _ session: ClientSession) {
    if let version = params.protocolVersion, version != Limits.protocolVersion {
      return output.write(to: session) { writer in
        writer.failure(id: id, .unsupportedVersion) { json in
          json.array("supported") { $0.value(Limits.protocolVersion) }
        }
      }
    }
    if params.lifetime == .process, let failure = lifetimes.endWithProcess(session) {
      return lifetimes.refuseLifetime(failure, id: id, to: session)
    }
    if let milliseconds = params.keepaliveMilliseconds { lifetimes.keepAlive(session, milliseconds: milliseconds) }
    if params.endsKeepalive { lifetimes.forgetKeepalive(of: session) }
    if let accepts = params.acceptsTransfers {
      session.acceptsTransfers = accepts
      session.keeping.isChanged = true
    }
    if let halfClose = params.halfClose {
      session.lifetime.keepsHoldsHalfClosed = halfClose == .hold
      session.keeping.isChanged = true
    }
    logger.debug(
      "client introduced itself",
      metadata: [
        "session": "\(session.id.rawValue)", "client": "\(params.clientName ?? "")",
        "version": "\(params.clientVersion ?? "")", "pid": "\(session.peer.pidText)",
      ])
    let isLocal = configuration.settings.backend == .local
    let info = ServerInfo(
      version: configuration.version, instance: instance, session: "\(session.id.rawValue)",
      host: configuration.settings.host,
      backend: isLocal ? .local : .redis,
      leaseMilliseconds: isLocal ? nil : configuration.settings.live.engine.leaseMilliseconds,
      requestsInFlightMax: Int64(configuration.settings.live.engine.waitsPerSessionMax))
    output.write(to: session) { $0.initialized(id: id, info) }
  }
}

/// Hands what a client's channel hears to the core.
final class ClientChannelHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  private let core: SidecarCore
  private var session: ClientSession?
  /// The connection was made to a daemon before this one; its session is given later.
  private let isTakenOver: Bool
  private let peer: (any Channel) -> Peer?

  /// - Parameter peer: tells who is at the other end of a channel.
  init(
    core: SidecarCore, isTakenOver: Bool = false, peer: @escaping (any Channel) -> Peer? = { Peer(channel: $0) }
  ) {
    self.core = core
    self.isTakenOver = isTakenOver
    self.peer = peer
  }

  func channelActive(context: ChannelHandlerContext) {
    if !isTakenOver { session = core.accepted(context.channel, from: peer(context.channel)) }
  }

  /// The session of a connection that was taken over.
  func take(_ session: ClientSession) {
    self.session = session
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if let session { core.received(unwrapInboundIn(data), from: session) }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if let event = event as? ChannelEvent, event == .inputClosed, let session { core.inputEnded(of: session) }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if let session { core.writabilityChanged(of: session) }
  }

  func channelInactive(context: ChannelHandlerContext) {
    if let session { core.closed(session) }
    session = nil
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
