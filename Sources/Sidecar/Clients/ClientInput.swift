import ClientProtocol
import DequeModule
import LockEngine
import LockTypes
import NIOCore

/// Turns bytes into requests, each session within its share of a turn, and ends holds of half-closed sessions.
final class ClientInput {
  /// Bytes that are read from one client in a turn. What a client that is kept has sent is written down as well, so that
  /// much input of many clients would make a long turn; the rest waits in the kernel.
  static let readBytesMax = 8192
  /// Has no more than that read from a client at a time; once in a turn, where ``ChannelOptions/maxMessagesPerRead`` is 1.
  static var readSizes: AdaptiveRecvByteBufferAllocator {
    AdaptiveRecvByteBufferAllocator(minimum: 64, initial: 2048, maximum: readBytesMax)
  }
  /// Queries to Redis or other hosts that one session may have open; then reading from it pauses.
  static let queriesPerSessionMax = 16

  private let clock: HostClock
  private let engine: LockEngine
  private let life: LifeStage
  private let sessions: SessionTable
  private let output: TurnOutput
  private let inputs: InputTurns
  private let rights: RightsCache
  private let limits: SessionLimits
  private let router: RequestRouter
  private let door: EngineDoor
  private let keeper: SessionKeeper?
  private let statistics: SidecarStatistics
  private let audit: AuditTrail
  private let traces: TraceBook
  private var decoder = RequestDecoder()
  /// Half-closed sessions whose holds end in the next turns.
  private var endingHolds: Deque<ClientSession> = []

  init(
    clock: HostClock, engine: LockEngine, life: LifeStage, sessions: SessionTable, output: TurnOutput,
    inputs: InputTurns, rights: RightsCache, limits: SessionLimits, router: RequestRouter, door: EngineDoor,
    keeper: SessionKeeper?, statistics: SidecarStatistics, audit: AuditTrail,
    traces: TraceBook
  ) {
    self.clock = clock
    self.engine = engine
    self.life = life
    self.sessions = sessions
    self.output = output
    self.inputs = inputs
    self.rights = rights
    self.limits = limits
    self.router = router
    self.door = door
    self.keeper = keeper
    self.statistics = statistics
    self.audit = audit
    self.traces = traces
  }

  /// The shares of the next turn begin.
  func turnEnded() {
    inputs.turnEnded()
    for session in limits.sessionsToResume() where sessions.has(session) && !session.isClosing {
      putOffInput(of: session, isFresh: true)
    }
  }

  /// Whether input or holds wait for the next turn.
  var hasMoreToDo: Bool { inputs.isWaiting || !endingHolds.isEmpty }

  // MARK: Input

  /// Resumes a session that waited for its systemd unit to be known.
  func unitIsKnown(of session: ClientSession) {
    // A last line without its line end is in the framer, not in `unread`.
    if session.input.unread == nil { readLines(of: session) }
    resumeReading(of: session)
    output.touch(session)
  }

  func received(_ buffer: ByteBuffer, from session: ClientSession) {
    guard !session.isClosing else { return }
    statistics.bytesIn += UInt64(buffer.readableBytes)
    session.input.hasSpoken = true
    session.input.changes += 1
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
    output.notifyMissed(session)
    resumeReading(of: session)
    // If the rest of its input needed no answer, only this has the turn's end look whether it is through.
    if session.input.hasEnded { output.touch(session) }
  }

  /// Takes lines until the input is used up, the session must pause (`mustPause`), or its share of the turn is over.
  ///
  /// - Parameter share: how long it may take, in nanoseconds; nil when its input was not put off.
  func readLines(of session: ClientSession, share: Int64? = nil) {
    keeper?.touch(session)
    if session.input.isPutOff { return }
    guard var buffer = session.input.unread else {
      if rights.isUnitPending(session) { return }
      return finishInput(of: session)
    }
    let began = clock.now()
    door.begins(.input, now: began)
    guard share != nil || inputs.mayBegin(session, now: began) else {
      putOffInput(of: session, isFresh: true)
      session.input.unread = buffer.compact
      limits.chargeInput(of: session)
      return updateReading(of: session)
    }
    // The end of the turn begins new shares.
    output.scheduleEnd()
    session.input.unread = nil
    session.input.changes += 1
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
        switch session.input.framer.next(from: &rest, { decode($0, from: session) }) {
        case .line(let message):
          session.input.lines += 1
          received(message, from: session)
        case .tooLong:
          session.input.lines += 1
          refuse(.lineTooLong, to: session)
        case .hopeless:
          session.input.lines += 1
          refuse(.lineWithoutEnd, to: session)
          session.isClosing = true
        case .needsInput:
          return bytes.count - rest.count
        }
      }
      return bytes.count - rest.count
    }
    if isPaused, buffer.readableBytes > 0 { session.input.unread = buffer.compact }
    if !isPaused { finishInput(of: session) }
    limits.chargeInput(of: session)
    updateReading(of: session)
  }

  private func decode(_ line: UnsafeRawBufferPointer, from session: ClientSession) -> ClientMessage {
    let message = decoder.decode(line)
    if traces.isActive { traces.received(line, message, from: session) }
    return message
  }

  private func finishInput(of session: ClientSession) {
    guard session.input.hasEnded, !session.isClosing else { return }
    session.input.changes += 1
    session.input.lines += 1
    switch session.input.framer.finish({ decode($0, from: session) }) {
    case .line(let message): received(message, from: session)
    case .tooLong: refuse(.lineTooLong, to: session)
    case .hopeless, .needsInput: break
    }
  }

  /// Whether what it asks for is left to the next daemon; a session that cannot be left is about to end.
  private func isLeft(_ session: ClientSession) -> Bool {
    life.stage == .handingOver && (session.lifetime.isBeingLeft || !session.keeping.hasPlace)
  }

  private func mustPause(_ session: ClientSession) -> Bool {
    isLeft(session) || session.input.isPutOff || rights.isUnitPending(session) || !session.output.isWritable
      || session.requests.queries >= Self.queriesPerSessionMax
      || session.output.count >= TurnOutput.unreadPauseBytes || limits.mustAwaitCommands(session)
  }

  /// Stops or resumes reading from the socket, which leaves the rest to the kernel's buffer, and then to the client.
  func updateReading(of session: ClientSession) {
    let mustPause = !session.isClosing && mustPause(session)
    guard mustPause != session.input.isPaused else { return }
    session.input.isPaused = mustPause
    try? session.channel.syncOptions?.setOption(.autoRead, value: !mustPause)
  }

  /// Resumes a session that paused, unless it still must.
  func resumeReading(of session: ClientSession) {
    guard session.input.isPaused || session.input.unread != nil else { return }
    readLines(of: session)
    updateReading(of: session)
  }

  // MARK: Shares of a turn

  /// Requests between two looks at the clock: one, where each may have to notify many watchers.
  private var requestsBetweenLooks: Int { engine.observers > 32 ? 1 : InputTurns.requestsBetweenLooks }

  /// Puts a session's input off to one of the next turns.
  private func putOffInput(of session: ClientSession, isFresh: Bool) {
    guard !session.input.isPutOff else { return }
    session.input.isPutOff = true
    inputs.append(session, isFresh: isFresh)
    output.scheduleEnd()
  }

  /// Reads input that was put off, while the turn has room.
  func goOn() {
    guard life.stage != .handedOver, life.stage != .stopped else { return }
    while inputs.isWaiting {
      let now = clock.now()
      guard inputs.hasRoom(now: now), let (session, share) = inputs.next(now: now) else { break }
      session.input.isPutOff = false
      guard sessions.has(session), !session.isClosing else { continue }
      readLines(of: session, share: share)
      // It may have had no input left.
      updateReading(of: session)
      // And it may be through.
      if session.input.hasEnded { output.touch(session) }
    }
    if inputs.isWaiting { output.scheduleEnd() }
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
      door.feed(.cancelRequested(session.id, request: nil, target: session.requests.inFlight[target]))
    case .request(let id, let request):
      statistics.requests += 1
      guard session.requests.inFlight.isEmpty || session.requests.inFlight[id] == nil else {
        return refuse(.idInFlight(id), to: session)
      }
      router.received(request, id: id, from: session)
    }
  }

  // MARK: The half-closed

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

  /// Half-closed, and nothing is pending, held or watched: nobody will ask or hear anything on this connection again.
  func isThrough(_ session: ClientSession) -> Bool {
    session.input.hasEnded && session.input.unread == nil && !session.input.isPutOff && session.output.bytes == nil
      && session.requests.queries == 0
      && session.watches.targets.isEmpty && session.watches.traces.isEmpty && engine.isIdle(session.id)
  }

  /// A client that has closed its half of the connection can neither release its holds nor say that it is alive: a
  /// program that ended its output and goes on would hold them for ever. So its holds end behind the last reply, and
  /// earlier where its own requests wait for them. With `half_close` `"hold"` they stay; from now on the session can be
  /// in a deadlock.
  func endHoldsOfHalfClosed(_ session: ClientSession) {
    guard !session.lifetime.isEndingHolds, session.input.hasEnded, session.input.unread == nil,
      !session.input.isPutOff,
      session.output.bytes == nil,
      !session.input.framer.isInsideLine, !rights.isUnitPending(session), engine.hasHolds(session.id)
    else { return }
    let isAnswered = session.requests.inFlight.isEmpty && session.requests.queries == 0
    door.feed(.inputEnded(session.id, isAnswered: isAnswered, keepsHolds: session.lifetime.keepsHoldsHalfClosed))
    audit.halfClosed(session)
    guard engine.isEndPutOff(session.id) else { return }
    session.lifetime.isEndingHolds = true
    endingHolds.append(session)
  }

  /// Goes on ending holds of half-closed sessions, after all other input.
  func goOnWithHalfClosed() {
    for _ in 0..<endingHolds.count {
      guard inputs.hasRoom(now: clock.now()), let session = endingHolds.popFirst() else { break }
      session.lifetime.isEndingHolds = false
      if sessions.has(session), !session.isClosing { endHoldsOfHalfClosed(session) }
    }
    if !endingHolds.isEmpty { output.scheduleEnd() }
  }
}
