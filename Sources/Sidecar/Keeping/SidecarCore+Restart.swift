// What is taken over from the daemon before this one, and left to the next.

import CLinux
import ClientProtocol
import DaemonSettings
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
public import SystemdSupport

/// What the service manager kept of a daemon before this one.
public struct LeftDescriptors: Sendable {
  /// The memory with the state of the daemon before, and connections of its clients.
  public let descriptors: [HandedOverDescriptor]

  /// The names under which such descriptors are stored begin with one of these.
  public static var namePrefixes: [String] { [KeptDescriptors.memoryName, KeptDescriptors.clientPrefix] }

  /// What was handed over at the start under names that begin with ``namePrefixes``.
  public init(_ descriptors: [HandedOverDescriptor]) {
    self.descriptors = descriptors
  }

  /// The settings that the daemon before had in force, as it was given them; nil when nothing can be made out.
  public var settings: [UInt8]? {
    for descriptor in descriptors where descriptor.name == KeptDescriptors.memoryName {
      // The descriptor itself is for whoever takes everything over.
      guard let memory = StateMemory(borrowing: descriptor.descriptor),
        let settings = try? StateImage.record(
          StateLog.Key(kind: KeptKind.settings, id: 0), in: UnsafeRawBufferPointer(memory.bytes))
      else { continue }
      return settings
    }
    return nil
  }

  /// Whether a daemon that begins now could go on with it, and nobody has lost anything yet: somebody holds a lock or waits
  /// for one, and no lease of a lock that is held has ended.
  public var isOfUse: Bool {
    descriptors.contains { descriptor in
      guard descriptor.name == KeptDescriptors.memoryName,
        let memory = StateMemory(borrowing: descriptor.descriptor), let state = try? KeptState(memory)
      else { return false }
      return state.engine.isWhole(at: BootClock.now())
    }
  }

  /// Has clients know that they have lost their locks, unless the next attempt to start a daemon may go on with them.
  public func disconnectUnlessOfUse() {
    if !isOfUse { disconnect() }
  }

  /// Ends the connections of clients, because nobody will take them over: they are to know that they have lost their
  /// locks.
  public func disconnect() {
    for descriptor in descriptors { shutdown(descriptor.descriptor, Int32(SHUT_RDWR)) }
  }
}

extension SidecarCore {
  /// Attempts to begin with what was left, after which it is given up: something in it may be what ends the daemon.
  static let attemptsMax: UInt64 = 2
  /// How long it must have served to have begun well, in milliseconds, and with what Redis says of what was left: at the
  /// most for so long.
  static let begunWellMilliseconds: Int64 = 50
  static let begunWellMillisecondsMax: Int64 = 5000
  /// How long the service manager may take to read what it is told at the end, in milliseconds.
  static let storeFlushMilliseconds = 1000

  /// A number that no other daemon has.
  static func newInstance() -> String {
    let digits = String(UInt64.random(in: .min ... .max), radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// Who this daemon is, and what its locks are worth something for.
  var identity: KeptIdentity { KeptIdentity(instance: instance, configuration.settings) }

  /// Has what this turn has changed outlive the process, before anything of it is sent.
  func keepTurn(_ writers: [ClientSession]) {
    guard let keeper else { return }
    guard keeper.isRecording else { return engine.stopRecordingChanges() }
    for session in writers { keeper.touch(session) }
    keeper.commit(writers: writers)
  }

  /// What a session is to be sent now: of one that is kept, no more than was committed.
  func takeOutput(of session: ClientSession) -> ByteBuffer? {
    guard var output = session.output.bytes else { return nil }
    session.output.bytes = nil
    guard session.keeping.isKept, keeper?.isUsable == true, output.readableBytes > session.keeping.notedBytes else {
      return output
    }
    let committed = output.readSlice(length: session.keeping.notedBytes)
    session.output.bytes = output
    self.output.touch(session)
    return committed?.readableBytes == 0 ? nil : committed
  }

  // MARK: What was left

  /// Reads what the daemon before left, if it can be used. The connections of clients that cannot go on are closed, and
  /// everything that is of no use is taken out of the store.
  static func readPredecessor(
    _ left: LeftDescriptors, _ configuration: SidecarConfiguration, _ store: DescriptorStore?, logger: Logger
  ) -> KeptState? {
    guard !left.descriptors.isEmpty else { return nil }
    guard let store else {
      // Nothing could be taken out of it any more.
      left.disconnect()
      return nil
    }
    let witnesses = left.descriptors.filter { $0.name == KeptDescriptors.witnessName }
    for witness in witnesses { KeptDescriptors.discard(witness, from: store) }
    let left = LeftDescriptors(left.descriptors.filter { $0.name != KeptDescriptors.witnessName })
    if left.descriptors.isEmpty { return nil }
    var found: KeptState?
    var problem = "there is none"
    var memories = 0
    for descriptor in left.descriptors where descriptor.name == KeptDescriptors.memoryName {
      memories += 1
      do {
        let state = try read(descriptor, configuration)
        if found == nil { found = state }
      } catch {
        problem = "\(error)"
      }
    }
    if memories != (found == nil ? 0 : 1) {
      store.remove(KeptDescriptors.memoryName)
      if let found { store.add(found.memory.descriptor, as: KeptDescriptors.memoryName) }
    }
    var discarded = 0
    for descriptor in left.descriptors where descriptor.name != KeptDescriptors.memoryName {
      if let id = UInt64(descriptor.name.dropFirst(KeptDescriptors.clientPrefix.count)).map({ SessionID($0) }),
        let session = found?.sessions[id], found?.connections[id] == nil, isUsable(descriptor.descriptor, session)
      {
        found?.connections[id] = descriptor.descriptor
      } else {
        shutdown(descriptor.descriptor, Int32(SHUT_RDWR))
        KeptDescriptors.discard(descriptor, from: store)
        discarded += 1
      }
    }
    if found == nil {
      logger.warning(
        "what the daemon before left cannot be used; its locks end by their leases",
        metadata: ["reason": "\(problem)", "clients": "\(discarded)"])
    }
    return found
  }

  private static func read(
    _ descriptor: HandedOverDescriptor, _ configuration: SidecarConfiguration
  ) throws -> KeptState {
    guard let memory = StateMemory(owning: descriptor.descriptor) else {
      throw StateUnreadable.damaged("it is no memory of fixed size")
    }
    guard StateLog.countAttempt(memory.bytes) < attemptsMax else {
      throw StateUnreadable.damaged("the daemon has ended \(attemptsMax) times with it")
    }
    let state = try KeptState(memory)
    guard state.identity == KeptIdentity(instance: state.identity.instance, configuration.settings) else {
      throw StateUnreadable.damaged("host, key_prefix or the Redis server are others now")
    }
    return state
  }

  /// Whether the session can go on with this connection.
  private static func isUsable(_ descriptor: CInt, _ session: KeptSession) -> Bool {
    guard socket_cookie(descriptor) == session.cookie, session.cookie != 0, !session.isUncertain else { return false }
    var state = pollfd(fd: descriptor, events: 0, revents: 0)
    return poll(&state, 1, 0) >= 0 && state.revents & Int16(POLLHUP | POLLERR | POLLNVAL) == 0
  }

  // MARK: Taking over

  /// Goes on with the sessions that were left; complete when that is kept, and clients are read from again.
  func takeOver(_ predecessor: KeptState?) -> EventLoopFuture<Void> {
    guard let predecessor else {
      output.scheduleEnd()
      return loop.makeSucceededVoidFuture()
    }
    let core = NIOLoopBound(self, eventLoop: loop)
    var connections: [EventLoopFuture<(SessionID, NIOLoopBound<TakenOver>)?>] = []
    for (id, descriptor) in predecessor.connections.sorted(by: { $0.key < $1.key }) {
      let handler = NIOLoopBound(
        ClientChannelHandler(registry: registry, input: input, isTakenOver: true), eventLoop: loop)
      let connection = ClientBootstrap(group: loop)
        .channelOption(.autoRead, value: false)
        .channelOption(.allowRemoteHalfClosure, value: true)
        .channelOption(
          .writeBufferWaterMark,
          value: .init(low: TurnOutput.unreadResumeBytes, high: TurnOutput.unreadPauseBytes)
        )
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(handler.value) }
        }
        .withConnectedSocket(descriptor)
        .map { channel -> (SessionID, NIOLoopBound<TakenOver>)? in
          (id, NIOLoopBound(TakenOver(channel: channel, handler: handler.value), eventLoop: core.value.loop))
        }
        .recover { _ in nil }
      connections.append(connection)
    }
    let state = NIOLoopBound(Box(predecessor), eventLoop: loop)
    return EventLoopFuture.whenAllSucceed(connections, on: loop).flatMap { taken in
      let taken = taken.compactMap { $0 }.map { ($0.0, $0.1.value) }
      let kept = NIOLoopBound(core.value.takeOver(state.value.value, taken), eventLoop: core.value.loop)
      // After the end of this turn: only then is what was taken over safe.
      return core.value.loop.submit { core.value.proceed(with: kept.value.sessions, kept.value.inputs) }
    }
  }

  private func takeOver(
    _ state: KeptState, _ taken: [(SessionID, TakenOver)]
  ) -> (sessions: [ClientSession], inputs: [KeptInput]) {
    sessions.last = max(sessions.last, state.lastSession)
    lastRequest = max(lastRequest, state.lastRequest)
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
      session.input.framer.position = record.framer
      if !record.unreadInput.isEmpty { session.input.unread = ByteBuffer(bytes: record.unreadInput) }
      if !record.unsent.isEmpty { session.output.bytes = ByteBuffer(bytes: record.unsent) }
      for (request, message) in record.inFlight { session.began(request, as: message) }
      session.input.isPaused = true
      session.keeping.isChanged = true
      connection.handler.take(session)
      sessions.add(session)
      keeper?.adopt(session)
      tell(.sessionOpened(id, uid: session.peer?.uid))
      watches.takeOver(session, record)
      takeOverEnd(of: session, record)
      var losses = StateReader(record.losses)
      tell(.lossesRestored(id, LostHold.all(from: &losses)))
      peers.lookUpUnit(of: session)
      kept.append(session)
    }
    let inputs = takenInputs(of: state)
    keeper?.adopt(inputs)
    for (id, bytes) in state.outputs {
      guard let session = sessions[id] else { continue }
      if session.output.bytes == nil { session.output.bytes = ByteBuffer() }
      session.output.bytes?.writeBytes(bytes)
    }
    for session in kept where session.output.bytes != nil { output.touch(session) }
    let now = clock.now()
    tell(.restored(state.engine, numbers: state.numbers), now: now)
    keeper?.begin()
    answerLostQueries(of: kept, state)
    logger.notice(
      "took over clients and locks",
      metadata: [
        "clients": "\(kept.count)", "gone": "\(state.sessions.count - kept.count)",
        "held": "\(engine.gauges.held)", "waiting": "\(engine.gauges.waiting)",
      ])
    return (kept, inputs)
  }

  /// What ends the session. A process that has ended meanwhile is found now. On a kernel that does not know who is at the
  /// other end of a socket (before 6.5) its number may be another's by now, and then only its socket ends a session.
  private func takeOverEnd(of session: ClientSession, _ record: KeptSession) {
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

  /// The input that the daemon before took from its sockets and did not deal with.
  private func takenInputs(of state: KeptState) -> [KeptInput] {
    state.inputs.enumerated().filter { index, input in
      guard let session = sessions[input.session] else { return false }
      let isLast = !state.inputs[(index + 1)...].contains { $0.session == input.session }
      return !(isLast && input.isPeeked && session.hasUnread(input.bytes))
    }.map(\.element)
  }

  /// What was asked of Redis on behalf of a client has no answer any more.
  private func answerLostQueries(of kept: [ClientSession], _ state: KeptState) {
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

  private func proceed(with kept: [ClientSession], _ inputs: [KeptInput]) {
    for input in inputs {
      guard let session = sessions[input.session] else { continue }
      // It is noted already.
      session.keeping.peekedBytes = input.bytes.count
      self.input.received(ByteBuffer(bytes: input.bytes), from: session)
    }
    for session in kept where sessions.has(session) {
      if !engine.isIdle(session.id) { peers.describe(session) }
      input.readLines(of: session)
      // Its output, and what it has not read, may hold it back; if not, it is read from again.
      input.resumeReading(of: session)
      if session.input.hasEnded { output.touch(session) }
    }
  }

  // MARK: Handing over

  /// Ends, and leaves clients and what they have to the daemon that follows. What cannot be left is given back and its
  /// clients are told, as by ``stop()``.
  ///
  /// - Parameter next: the settings that it will have; nil: those of this one, because its own are wrong.
  /// - Returns: whether that is so. Where nobody keeps anything it goes on: whoever wants it to end sends SIGTERM, too.
  @discardableResult
  func handOver(to next: Settings?) -> Bool {
    guard life.stage == .serving, let keeper, keeper.isUsable, keeper.isStoreKept,
      identity == KeptIdentity(instance: instance, next ?? configuration.settings)
    else {
      logger.notice(
        "clients and locks cannot be left to another daemon",
        metadata: ["reason": "\(life.stage == .serving ? whyNothingIsKept : "this one does not serve")"])
      return false
    }
    life.stage = .handingOver
    notifier.stopping(status: "Restarting")
    listener?.close(promise: nil)
    keeper.keepIdle()
    let now = clock.now()
    let evicted = sessions.values.filter { !$0.keeping.isKept && !$0.isClosing }.sorted { $0.id < $1.id }
    for session in sessions.values { try? session.channel.syncOptions?.setOption(.autoRead, value: false) }
    for session in evicted {
      if session.input.hasSpoken { output.write(to: session) { $0.draining() } }
      tell(.sessionEvicted(session.id), now: now)
    }
    logger.notice(
      "leaving clients and locks to the next daemon",
      metadata: [
        "clients": "\(keeper.clients.count)", "closed": "\(evicted.count)", "held": "\(engine.gauges.held)",
        "waiting": "\(engine.gauges.waiting)",
      ])
    // After the end of this turn, which sends what there is to send.
    output.scheduleEnd()
    loop.assumeIsolated().execute {
      let flushed = evicted.map { $0.channel.writeAndFlush($0.channel.allocator.buffer(capacity: 0)) }
      EventLoopFuture.andAllComplete(flushed, on: self.loop).assumeIsolated().whenComplete { _ in self.handedOver() }
      self.loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.closeMillisecondsMax)) { self.handedOver() }
    }
    return true
  }

  private var whyNothingIsKept: String {
    keeper?.isUsable == true && keeper?.isStoreKept == true
      ? "host, key_prefix or the Redis server are others from now on" : "nobody keeps them"
  }

  /// Leaves a client to the daemon that follows that came when the others had been left already.
  func leave(_ session: ClientSession) {
    try? session.channel.syncOptions?.setOption(.autoRead, value: false)
    keeper?.keepIdle()
    output.scheduleEnd()
  }

  /// Asked to end before it serves, whether for a restart or for good is not known: what was left to it is left to the
  /// next one. If there is none, connections end with the service manager's store, and leases by themselves.
  ///
  /// - Returns: false when nothing was left to it.
  func leaveBeforeServing() -> Bool {
    guard let keeper, keeper.isUsable, keeper.hasPredecessor else { return false }
    life.stage = .handingOver
    handedOver()
    return true
  }

  private func handedOver() {
    guard let keeper, life.stage == .handingOver else { return }
    for session in sessions.values where !session.keeping.isKept { session.disconnect() }
    store?.flush()
    if !keeper.finish(withinMilliseconds: Self.storeFlushMilliseconds) {
      logger.warning("the service manager may not have everything that was to be left to the next daemon")
    }
    life.stage = .handedOver
    statusTask?.cancel()
    onStopped()
    // From here on this loop must not send anything: how far clients were sent their output is written down.
    standStill()
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
