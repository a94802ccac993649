import CLinux
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
import SystemdSupport

/// Keeps what must outlive this process: in memory whose descriptor the service manager has, and with it the
/// connections of the clients that have something to lose.
///
/// What a turn of the loop changed is committed before anything of it is sent, to Redis or to a client. So a process
/// that is killed leaves either all of a turn or nothing, and nobody was told what is not there. The one gap is between
/// two instructions: a reply that was just sent may be sent once more.
final class SessionKeeper {
  /// How often connections whose clients have had nothing to lose since the last sweep are dropped, in milliseconds. A
  /// client that acquires and releases in a loop stays, and costs the service manager nothing.
  static let sweepMilliseconds: Int64 = 5000
  private let store: KeptDescriptors
  let memory: StateMemory
  private var log: StateLog
  private let loop: any EventLoop
  private let logger: Logger
  private let clock: HostClock
  /// False once keeping has failed or was abandoned, until everything is written anew.
  var isUsable: Bool { !isOver && refill == nil }
  /// Whether the service manager keeps what it is given, as far as can be known.
  var isStoreKept: Bool { store.isKept }
  /// Whether it takes changes.
  var isRecording: Bool { !isOver }
  /// The daemon that it keeps.
  private let source: any KeptSource
  private(set) var clients: KeptClients
  /// Connections that are to be stored when this turn is committed.
  private var newClients: [ClientSession] = []
  /// Sessions that may have changed since the last commit.
  private var touched: [ClientSession] = []
  private var due = DueRecords()
  /// Whether commits have begun: until this process has taken over, what the predecessor left counts.
  private(set) var hasBegun: Bool
  let hasPredecessor: Bool
  private var end = End.none
  /// What is still to be written anew before any of it counts; nil when all is.
  private var refill: KeeperRefill?
  /// How long until it is checked whether there is room again.
  private var refillPause = RefillPause()
  private var isFullLogged = false
  /// Whether a client may be displaced by another one.
  private var makesRoom = true
  private var peekRoom = PeekRoom()
  private var sweep: Scheduled<Void>?

  /// Whether nothing is kept, and for how long.
  private enum End { case none, untilThereIsRoom, forGood }

  private var isOver: Bool { end != .none }
  private var isOverForGood: Bool { end == .forGood }

  /// A keeper that goes on in the memory that a predecessor left, or in new memory; nil when there can be none.
  init?(
    of source: any KeptSource, store: DescriptorStore, predecessor: StateMemory?, memoryBytes: Int64,
    loop: any EventLoop, logger: Logger, clock: HostClock
  ) {
    guard let memory = predecessor ?? StateMemory(bytes: memoryBytes), let log = StateLog(memory: memory.bytes),
      let store = KeptDescriptors(store: store, loop: loop)
    else {
      logger.warning("clients will not be kept over a restart", metadata: ["reason": "\(errorText())"])
      return nil
    }
    self.store = store
    self.memory = memory
    self.log = log
    self.loop = loop
    self.logger = logger
    self.clock = clock
    (hasPredecessor, hasBegun) = (predecessor != nil, predecessor == nil)
    self.source = source
    clients = KeptClients(countMax: store.clientsMax)
    if predecessor == nil { store.add(memory) }
    store.addWitness()
  }

  // MARK: Facts

  /// A predecessor's session goes on here.
  func adopt(_ session: ClientSession) {
    session.keeping.isKept = true
    session.writeAnew()
    watchReads(of: session)
    clients.add(session)
    touch(session)
    scheduleSweep()
  }

  /// The takeover is done: the next commit replaces the predecessor's state.
  func begin() { hasBegun = true }

  /// The daemon has other settings from now on.
  func settingsChanged() { due.hasSettings = true }

  /// Something of the session may have changed.
  func touch(_ session: ClientSession) {
    guard session.keeping.isKept, !session.keeping.isTouched, !isOver else { return }
    session.keeping.isTouched = true
    touched.append(session)
  }

  /// Bytes came from the client.
  func received(_ buffer: ByteBuffer, from session: ClientSession) {
    guard session.keeping.isKept else { return }
    due.hasNotes = true
    let peeked = min(session.keeping.peekedBytes, buffer.readableBytes)
    session.keeping.peekedBytes = 0
    guard buffer.readableBytes > peeked else { return }
    buffer.withUnsafeReadableBytes { bytes in
      let rest = UnsafeRawBufferPointer(rebasing: bytes[peeked...])
      attempt { () throws(StateLog.Failure) in try log.noteInput(session.id.rawValue, rest) }
    }
  }

  /// The client is about to be read from: peeks at its input and notes it. If the process ends before the read, the
  /// successor finds the note, and checks whether the input is still in the socket.
  func willRead(_ session: ClientSession, bytesMax: Int) {
    guard session.keeping.isKept, !isOver else { return }
    peekRoom.peek(at: session.keeping.descriptor, bytesMax: bytesMax) { bytes in
      session.keeping.peekedBytes = bytes.count
      attempt { () throws(StateLog.Failure) in try log.noteInput(session.id.rawValue, bytes, isPeeked: true) }
    }
  }

  /// Has ``willRead(_:bytesMax:)`` called before each read from the session's socket.
  private func watchReads(of session: ClientSession) {
    guard session.keeping.descriptor < 0 else { return }
    session.keeping.descriptor = session.withSocket { $0 } ?? -1
    let watched = NIOLoopBound(WatchedReads.Session(keeper: self, session: session), eventLoop: loop)
    try? session.channel.syncOptions?.setOption(.recvAllocator, value: WatchedReads(watched: watched))
  }

  /// The session's connection is gone. The service manager sees that by itself.
  func closed(_ session: ClientSession) {
    clients.drop(session)
    guard session.keeping.isKept else { return }
    session.keeping.isKept = false
    newClients.removeAll { $0 === session }
    store.forget(session)
    attempt { () throws(StateLog.Failure) in try log.remove(session) }
    // Its record goes with the next commit.
    due.hasNotes = true
  }

  // MARK: The turn

  /// Makes what this turn has changed outlive the process.
  ///
  /// - Parameters:
  ///   - writers: the sessions with output; those with a grant are sent theirs first.
  func commit(writers: [ClientSession]) {
    guard !isOver, hasBegun else { return }
    goOnRefilling()
    let now = clock.now()
    let changes = source.changes { id in
      guard let session = source.session(id) else { return false }
      return keep(session, now: now)
    }
    for session in clients.begun(isBeingNoted: source.isBeingNoted) { begin(session) }
    var hasChanged = due.hasNotes || !changes.isEmpty || due.isFirst || due.hasSettings
    attempt { () throws(StateLog.Failure) in
      if due.isFirst { try log.put(StateLog.Key(kind: SavedRecordKind.identity, id: 0), source.identity.encode()) }
      if due.hasSettings {
        try log.put(StateLog.Key(kind: SavedRecordKind.settings, id: 0), source.settings)
      }
      for change in changes {
        switch change {
        case .put(let kind, let id, let bytes): try log.put(StateLog.Key(kind: kind.rawValue, id: id), bytes)
        case .remove(let kind, let id): try log.remove(StateLog.Key(kind: kind.rawValue, id: id))
        }
      }
      for session in touched {
        session.keeping.isTouched = false
        guard session.keeping.isKept, session.mustBeWritten else { continue }
        hasChanged = true
        try log.putChanges(of: session, losses: source.losses)
      }
      touched.removeAll(keepingCapacity: true)
      if refill != nil { return }
      // In the order in which they will be sent.
      for session in writers.filter(\.output.isGranted) + writers.filter({ !$0.output.isGranted })
      where session.keeping.isKept {
        if try log.noteOutput(of: session) { hasChanged = true }
      }
      guard hasChanged else { return }
      try log.commit(counters: source.counters)
    }
    due.hasNotes = false
    due.isFirst = false
    due.hasSettings = false
    guard isUsable else { return }
    for session in newClients where session.keeping.isKept { store.add(session) }
    newClients.removeAll(keepingCapacity: true)
    store.scheduleRetry()
  }

  /// Commits in the middle of a turn, and with it the output that the next process is to send.
  func commitAll() { commit(writers: clients.all.values.filter { $0.output.bytes != nil }) }

  /// The session's output of this turn was given to its connection.
  func handedOver(_ session: ClientSession, _ output: ByteBuffer) {
    if refill != nil { return doubtUnnotedOutput(of: session) }
    guard session.keeping.notedBytes > 0, !isOver else { return }
    session.keeping.notedBytes = 0
    let unsent = session.unsentBytes
    if unsent > 0, session.keeping.isKept {
      let wasUncertain = session.keeping.unsentOutput != nil
      var rest = session.keeping.unsentOutput ?? ByteBuffer()
      rest.writeImmutableBuffer(output)
      rest.moveReaderIndex(to: max(rest.readerIndex, rest.writerIndex - unsent))
      rest.discardReadBytes()
      session.keeping.unsentOutput = rest
      if !wasUncertain {
        // Before it counts as handed over: from now on nobody writes down how far it is sent.
        session.keeping.isChanged = true
        attempt { () throws(StateLog.Failure) in
          try log.putChanges(of: session, losses: source.losses)
          try log.commit(counters: source.counters)
        }
        awaitDrain(of: session)
      }
    }
    log.handedOver()
  }

  /// Output that the connection has not sent was not noted: until it is sent, nobody can go on with the session.
  private func doubtOutput(of session: ClientSession) {
    session.keeping.unsentOutput = nil
    session.keeping.notedBytes = 0
    guard session.unsentBytes > 0 else { return }
    session.keeping.unsentOutput = ByteBuffer()
    awaitDrain(of: session)
  }

  /// While everything is written anew, output is not noted: what of it is not sent makes the session's record another.
  private func doubtUnnotedOutput(of session: ClientSession) {
    guard session.keeping.isKept, session.keeping.unsentOutput == nil else { return }
    doubtOutput(of: session)
    guard session.keeping.unsentOutput != nil else { return }
    session.keeping.isChanged = true
    touch(session)
  }

  private func awaitDrain(of session: ClientSession) {
    let channel = session.channel
    // An empty write is complete when everything before it is.
    channel.writeAndFlush(channel.allocator.buffer(capacity: 0)).assumeIsolated().whenComplete { _ in
      guard session.keeping.isKept, session.keeping.unsentOutput != nil else { return }
      guard session.unsentBytes == 0 else { return self.awaitDrain(of: session) }
      session.keeping.unsentOutput = nil
      session.keeping.isChanged = true
      self.touch(session)
      self.source.scheduleTurnEnd()
    }
  }

  /// Whether more turns are wanted, to tidy the log or to write what is much.
  var hasMoreToDo: Bool { !isOverForGood && (log.isTidying || refill != nil || source.hasMoreChanges) }

  /// Whether there are sessions that will be kept, and of which not all is written down.
  var isBeginning: Bool { !isOver && !clients.beginning.isEmpty }

  /// The end of a turn: all output was handed over, or its connection is gone. Its notes are dropped, and a slice of
  /// the log is tidied.
  func endTurn() {
    if isOver {
      if !isOverForGood { try? log.tidy() }
      return
    }
    log.allHandedOver()
    attempt { () throws(StateLog.Failure) in try log.tidy() }
  }

  // MARK: Which sessions

  /// Whether what a session has is to be written down. It may have very much: it is kept from that turn on in which all
  /// is written. A process that ends before that leaves records of a session that is not there, which nobody reads.
  private func keep(_ session: ClientSession, now: BootInstant) -> Bool {
    session.keeping.hadWork = true
    if session.keeping.hasPlace { return true }
    guard !session.isClosing, !session.lifetime.isBeingLeft, !isOver else { return false }
    if !clients.hasRoom {
      guard makesRoom, let other = clients.makingRoom(for: session, now: now, isIdle: source.isIdle) else {
        sayFull()
        return false
      }
      stopKeeping(other)
    }
    clients.begin(session)
    return true
  }

  private func sayFull() {
    guard !isFullLogged else { return }
    isFullLogged = true
    logger.warning("no room to keep more clients over a restart", metadata: ["clients": "\(clients.count)"])
  }

  private func begin(_ session: ClientSession) {
    session.keeping.isKept = true
    session.keeping.isBeginning = false
    watchReads(of: session)
    doubtOutput(of: session)
    session.writeAnew()
    clients.add(session)
    newClients.append(session)
    touch(session)
    scheduleSweep()
  }

  /// Keeps the connections of clients that have nothing to lose, too, as far as there is room: at a restart it costs
  /// little, and they need not connect anew. From now on nobody is displaced.
  func keepIdle() {
    makesRoom = false
    for session in source.idleSessions() where hasRoom { begin(session) }
  }

  /// Whether one more client can be kept without another one making room.
  var hasRoom: Bool { clients.hasRoom }

  private func stopKeeping(_ session: ClientSession) {
    clients.drop(session)
    session.keeping.isKept = false
    session.keeping.unsentOutput = nil
    newClients.removeAll { $0 === session }
    source.keepingStopped(session.id)
    store.remove(session)
    attempt { () throws(StateLog.Failure) in try log.remove(session) }
    due.hasNotes = true
  }

  private func scheduleSweep(in milliseconds: Int64 = SessionKeeper.sweepMilliseconds) {
    guard sweep == nil, !isOverForGood else { return }
    sweep = loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) { [weak self] in
      self?.sweepIdle()
      self?.source.scheduleTurnEnd()
    }
  }

  /// Drops clients that have had nothing to lose since the last sweep.
  private func sweepIdle() {
    sweep = nil
    if isOver { return beginAnew() }
    giveUpUnlessKept()
    // Once clients are being left, they stay, idle or not.
    if isOver || !makesRoom { return }
    for session in clients.nextIdle(isIdle: source.isIdle) { stopKeeping(session) }
    if clients.hasRoom { isFullLogged = false }
    // To drop very many at once takes long.
    if !clients.isEmpty { scheduleSweep(in: clients.isSweeping ? 1 : Self.sweepMilliseconds) }
    store.scheduleRetry()
  }

  // MARK: The end

  /// Resets the crash counter: from now on a crash is not blamed on the inherited state.
  func begunWell() {
    log.resetAttempts()
    giveUpUnlessKept()
  }

  /// Gives up where the service manager keeps nothing: what is written would be for nobody.
  private func giveUpUnlessKept() {
    guard !isOver, !store.isKept else { return }
    logger.error(
      "clients will not be kept over a restart",
      metadata: [
        "reason": "the service manager keeps nothing; see FileDescriptorStoreMax= and NotifyAccess= of its unit"
      ])
    abandon()
  }

  /// Commits for the last time, with what the connections have not sent, and waits until the service manager has
  /// everything. Nothing may be sent to a kept client after this.
  ///
  /// - Returns: whether the successor will have all of it.
  func finish(withinMilliseconds limit: Int) -> Bool {
    guard hasBegun else {
      // It was told to end: that is no crash to blame on what was left.
      log.resetAttempts()
      return true
    }
    commitAll()
    guard !isOver else { return false }
    attempt { () throws(StateLog.Failure) in
      for session in clients.all.values {
        guard var rest = session.keeping.unsentOutput else { continue }
        let unsent = session.unsentBytes
        let isKnown = unsent <= rest.readableBytes
        if isKnown { rest.moveReaderIndex(to: rest.writerIndex - unsent) }
        session.keeping.unsentOutput = rest
        session.keeping.isChanged = true
        try log.putChanges(of: session, losses: source.losses, isFinal: isKnown)
      }
      try log.commit(counters: source.counters)
    }
    log.resetAttempts()
    let isRead = store.flush(withinMilliseconds: limit)
    return isRead && !isOver
  }

  /// What was kept is no longer true: no successor may use it.
  func abandon() {
    guard !isOverForGood else { return }
    let wasOver = isOver
    end = .forGood
    sweep?.cancel()
    store.stopRetrying()
    guard !wasOver else { return }
    refill = nil
    // Sessions stay marked as kept, since the service manager may have their sockets; but nothing more is written.
    forgetChanges()
    log.invalidate()
    store.removeMemory()
  }

  /// Nobody takes them.
  private func forgetChanges() {
    for session in touched { session.keeping.isTouched = false }
    touched = []
    newClients = []
    for session in clients.all.values { session.keeping.changedRequests = nil }
  }

  private func attempt(_ body: () throws(StateLog.Failure) -> Void) {
    guard !isOver else { return }
    do throws(StateLog.Failure) {
      try body()
    } catch {
      let reason: Logger.MetadataValue =
        switch error {
        case .full: "what they have needs too much memory"
        case .damaged: "the memory was damaged"
        }
      logger.error("clients will not be kept over a restart", metadata: ["reason": reason])
      ranFull()
    }
  }

  // MARK: Beginning anew

  /// Keeps nothing until there is room again. Connections may stay in the service manager's store until then.
  private func ranFull() {
    end = .untilThereIsRoom
    refill = nil
    // From now on it counts for them, too, that all will be written anew.
    for session in clients.begun(isBeingNoted: { _ in false }) { begin(session) }
    forgetChanges()
    log.invalidate()
    store.removeMemory()
    sweep?.cancel()
    sweep = nil
    scheduleSweep(in: refillPause.next())
  }

  /// Begins to write everything down anew if it has room, with a quarter to spare.
  private func beginAnew() {
    let needed = source.bytesToKeep
    guard needed <= StateLog.recordBytesMax(memoryBytes: memory.bytes.count) / 4 * 3, !log.isTidying,
      let log = StateLog(memory: memory.bytes)
    else { return scheduleSweep(in: RefillPause.millisecondsMin) }
    self.log = log
    end = .none
    due = DueRecords()
    refill = KeeperRefill(clients: clients.all.keys.sorted())
    source.resumeChanges()
    scheduleSweep()
  }

  /// Notes the next slice. What changes meanwhile is noted as ever; nothing of it counts before all is noted.
  private func goOnRefilling() {
    guard var refill else { return }
    self.refill =
      refill.takeSlice(of: source) { id in
        guard let session = clients[id], session.keeping.isKept else { return 1 }
        doubtOutput(of: session)
        newClients.append(session)
        touch(session)
        return session.writeAnew()
      } ? refill : nil
    guard self.refill == nil else { return }
    due.hasNotes = true
    store.add(memory)
    logger.notice("clients are kept over a restart again", metadata: ["clients": "\(clients.count)"])
  }
}
