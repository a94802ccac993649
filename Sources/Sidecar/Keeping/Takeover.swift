import ClientProtocol
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix

/// Goes on with the clients and locks of the daemon before this one.
final class Takeover {
  private let loop: any EventLoop
  private let logger: Logger
  private let sessions: SessionTable
  private let engine: LockEngine
  private let output: TurnOutput
  private let door: EngineDoor
  private let keeper: SessionKeeper?
  private let limits: SessionLimits
  private let lifetimes: SessionLifetimes
  private let watches: WatchBook
  private let peers: PeerDirectory
  private let input: ClientInput
  private let registry: ClientRegistry

  init(
    loop: any EventLoop, logger: Logger, sessions: SessionTable, engine: LockEngine, output: TurnOutput,
    door: EngineDoor, keeper: SessionKeeper?, limits: SessionLimits, lifetimes: SessionLifetimes, watches: WatchBook,
    peers: PeerDirectory, input: ClientInput, registry: ClientRegistry
  ) {
    self.loop = loop
    self.logger = logger
    self.sessions = sessions
    self.engine = engine
    self.output = output
    self.door = door
    self.keeper = keeper
    self.limits = limits
    self.lifetimes = lifetimes
    self.watches = watches
    self.peers = peers
    self.input = input
    self.registry = registry
  }

  /// Goes on with the sessions that were left; complete when they are kept, and are read from again.
  func takeOver(_ predecessor: SavedDaemon?) -> EventLoopFuture<Void> {
    guard let predecessor else {
      output.scheduleEnd()
      return loop.makeSucceededVoidFuture()
    }
    let takeover = NIOLoopBound(self, eventLoop: loop)
    var connections: [EventLoopFuture<(SessionID, NIOLoopBound<TakenOver>)?>] = []
    for (id, descriptor) in predecessor.connections.sorted(by: { $0.key < $1.key }) {
      let handler = NIOLoopBound(
        ClientChannelHandler(registry: registry, input: input, isTakenOver: true), eventLoop: loop)
      let connection = ClientBootstrap(group: loop)
        .channelOption(.autoRead, value: false)
        .channelOption(.allowRemoteHalfClosure, value: true)
        .channelOption(.maxMessagesPerRead, value: 1)
        .channelOption(.recvAllocator, value: ClientInput.readSizes)
        .channelOption(
          .writeBufferWaterMark,
          value: .init(low: TurnOutput.unreadResumeBytes, high: TurnOutput.unreadPauseBytes)
        )
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler.value) }
        }
        .withConnectedSocket(descriptor)
        .map { channel -> (SessionID, NIOLoopBound<TakenOver>)? in
          (id, NIOLoopBound(TakenOver(channel: channel, handler: handler.value), eventLoop: takeover.value.loop))
        }
        .recover { _ in nil }
      connections.append(connection)
    }
    let state = NIOLoopBound(Box(predecessor), eventLoop: loop)
    return EventLoopFuture.whenAllSucceed(connections, on: loop).flatMap { taken in
      let taken = taken.compactMap { $0 }.map { ($0.0, $0.1.value) }
      let kept = NIOLoopBound(takeover.value.takeOver(state.value.value, taken), eventLoop: takeover.value.loop)
      // After the end of this turn: only then is what was taken over safe.
      return takeover.value.loop.submit { takeover.value.proceed(with: kept.value) }
    }
  }

  private func takeOver(_ state: SavedDaemon, _ taken: [(SessionID, TakenOver)]) -> [ClientSession] {
    sessions.last = max(sessions.last, state.lastSession)
    door.go(behind: state.lastRequest)
    var kept: [ClientSession] = []
    for (id, connection) in taken {
      guard let record = state.sessions[id], connection.channel.isActive else { continue }
      let session = ClientSession(id: id, channel: connection.channel, peer: Peer(channel: connection.channel))
      session.charges.account = limits.openAccount(uid: session.peer?.uid)
      session.keeping.cookie = record.cookie
      session.input.hasSpoken = true
      session.input.hasEnded = record.inputEnded
      session.lifetime.keepsHoldsHalfClosed = record.keepsHoldsHalfClosed
      session.acceptsTransfers = record.acceptsTransfers
      session.client = record.client
      session.input.framer.position = record.framer
      if !record.unreadInput.isEmpty { session.input.unread = ByteBuffer(bytes: record.unreadInput) }
      if !record.unsent.isEmpty { session.output.bytes = ByteBuffer(bytes: record.unsent) }
      for (request, message) in record.inFlight { session.began(request, as: message) }
      session.input.isPaused = true
      session.keeping.isChanged = true
      connection.handler.take(session)
      sessions.add(session)
      keeper?.adopt(session)
      door.feed(.sessionOpened(id, uid: session.peer?.uid))
      watches.takeOver(session, record)
      takeOverEnd(of: session, record)
      var losses = StateReader(record.losses)
      door.feed(.lossesRestored(id, LostHold.all(from: &losses)))
      peers.lookUpUnit(of: session)
      kept.append(session)
    }
    takeOverInputs(of: state)
    for (id, bytes) in state.outputs {
      guard let session = sessions[id] else { continue }
      if session.output.bytes == nil { session.output.bytes = ByteBuffer() }
      session.output.bytes?.writeBytes(bytes)
    }
    for session in kept {
      // Nobody knows what was said meanwhile.
      for watch in (state.sessions[session.id]?.traces ?? []).sorted() {
        output.write(to: session) { $0.traced(watch: watch, .over, session: nil) }
      }
      // What other hosts had for the daemon before this one is not told again.
      if session.watches.targets.values.contains(where: { $0.scope == .all }) {
        output.write(to: session) { $0.missed(count: 1) }
      }
    }
    for session in kept where session.output.bytes != nil { output.touch(session) }
    door.feed(.restored(state.engine, numbers: state.numbers))
    keeper?.begin()
    answerLostQueries(of: kept, state)
    logger.notice(
      "took over clients and locks",
      metadata: [
        "clients": "\(kept.count)", "gone": "\(state.sessions.count - kept.count)",
        "held": "\(engine.gauges.held)", "waiting": "\(engine.gauges.waiting)",
      ])
    return kept
  }

  /// What ends the session. A process that has ended meanwhile is noticed now. On a kernel without SO_PEERPIDFD (before
  /// 6.5) its pid may be another's by now, so only the socket ends the session.
  private func takeOverEnd(of session: ClientSession, _ record: SavedSession) {
    if record.keepaliveMilliseconds > 0 { lifetimes.keepAlive(session, milliseconds: record.keepaliveMilliseconds) }
    guard record.endsWithProcess else { return }
    guard ProcessHandle.kernelKnowsPeers else {
      return logger.warning(
        "a session that was to end with its process ends with its socket after a restart",
        metadata: ["session": "\(session.id.rawValue)"])
    }
    if let problem = lifetimes.endWithProcess(session) {
      logger.warning(
        "a session that was to end with its process ends with its socket after a restart",
        metadata: ["session": "\(session.id.rawValue)", "reason": "\(problem.description)"])
    }
  }

  /// The input that the daemon before took from its sockets and did not deal with. It stands in the records of its
  /// sessions from the first commit on, until this process has dealt with it.
  private func takeOverInputs(of state: SavedDaemon) {
    for (index, input) in state.inputs.enumerated() {
      guard let session = sessions[input.session] else { continue }
      let isLast = !state.inputs[(index + 1)...].contains { $0.session == input.session }
      if isLast, input.isPeeked, session.hasUnread(input.bytes) { continue }
      if session.input.unread == nil { session.input.unread = ByteBuffer() }
      session.input.unread?.writeBytes(input.bytes)
    }
  }

  /// Queries to Redis or other hosts ended with the daemon before: they are answered `unavailable`.
  private func answerLostQueries(of kept: [ClientSession], _ state: SavedDaemon) {
    let waiting = state.engine.waitingRequests
    for session in kept {
      for (message, request) in session.requests.inFlight.sorted(by: { $0.value.rawValue < $1.value.rawValue })
      where !waiting.contains(request) {
        _ = session.ended(request)
        output.write(to: session) { writer in
          writer.failure(id: message, .unavailable) { $0.member("detail", "the daemon was restarted") }
        }
      }
    }
  }

  private func proceed(with kept: [ClientSession]) {
    for session in kept where sessions.has(session) {
      if !engine.isIdle(session.id) { peers.describe(session) }
      input.readLines(of: session)
      // Reads again, unless unread output holds the session back.
      input.resumeReading(of: session)
      if session.input.hasEnded { output.touch(session) }
    }
  }
}

extension ClientSession {
  /// Whether these bytes are the next that will be read from the socket.
  fileprivate func hasUnread(_ bytes: [UInt8]) -> Bool {
    var room = [UInt8](repeating: 0, count: bytes.count)
    let count = withSocket { recv($0, &room, room.count, peekFlags) }
    return count == bytes.count && room == bytes
  }
}

/// A connection of a daemon before this one.
private struct TakenOver {
  let channel: any Channel
  let handler: ClientChannelHandler
}

private final class Box<Value> {
  let value: Value
  init(_ value: Value) { self.value = value }
}
