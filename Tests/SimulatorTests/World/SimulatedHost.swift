import LockEngine
import LockTypes
import RESP
import RedisLeases

/// One machine with one daemon: the production engine, connection machine and encoder, with a model of the driver
/// between them.
final class SimulatedHost {
  unowned let world: Simulation
  let index: Int
  private(set) var incarnation = 0
  /// The length of the leases that it asks for from now on.
  private(set) var leaseMilliseconds: Int64
  private(set) var engine: LockEngine
  private(set) var replicas: SimulatedReplicas!
  private(set) var encoder: LeaseCommandEncoder
  private(set) var isPaused = false
  private(set) var isRunning = false
  private(set) var linkIsUp = false
  private(set) var linkUpSince = BootInstant(nanoseconds: 0)
  private var isTellingLinkDown = false
  private var deferred: [() -> Void] = []

  private var wire: Wire?
  private var machine: RedisConnection?
  private var previousClient: RedisClientIdentity?
  private var commands: [UInt64: (command: LeaseCommand, sentAt: BootInstant)] = [:]
  private var waitingCommands: [(UInt64, LeaseCommand)] = []
  private var waitingRenewals: [(UInt64, LeaseCommand)] = []
  private var lastAnsweredSentAt: BootInstant?
  /// The longest round trip that the engine has reckoned with, in milliseconds.
  private(set) var longestRoundTrip: Int64 = 0
  private var eventsInTurn = 0
  private var armed: (at: BootInstant, ticket: Int)?
  private var tickets = 0
  /// The index of its engine's record, where events are recorded.
  private var recordIndex = 0

  /// The boot clock: what it showed at the beginning, and by how many parts in a million it is fast.
  private var bootOffset: Int64 = 0
  private var drift: Int64 = 0
  /// How long the machine has been suspended. Only a planted mistake uses it: the right clock counts that time.
  private var suspendedNanoseconds: Int64 = 0
  private var pausedAt: Int64 = 0

  init(world: Simulation, index: Int) {
    self.world = world
    self.index = index
    leaseMilliseconds = world.plan.leaseMilliseconds(ofHost: index)
    engine = LockEngine(configuration: world.plan.engine)
    encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "h\(index)", instance: "0")
    replicas = SimulatedReplicas(world: world, host: self)
    drift = world.random.pick(-world.plan.driftMax...world.plan.driftMax)
    if world.plan.clocksAreApart { drift = drift < 0 ? -world.plan.driftMax : world.plan.driftMax }
  }

  // MARK: Life

  /// Whether it writes what only a later release knows.
  var isOfLaterRelease: Bool { world.plan.hasLaterReleases && world.mistake == .none && index % 2 == 1 }

  var me: String { "h\(index)/\(String(incarnation, radix: 16))" }

  func start() {
    incarnation += 1
    isRunning = true
    isPaused = false
    linkIsUp = false
    bootOffset = world.random.pick(0...1_000_000_000_000)
    suspendedNanoseconds = 0
    leaseMilliseconds = world.plan.leaseMilliseconds(ofHost: index)
    var configuration = world.mistake.engineConfiguration(world.plan, leaseMilliseconds: leaseMilliseconds)
    configuration.host = "h\(index)"
    configuration.inbox = me
    if world.plan.isDeathOfSome, index % 2 == 1 { configuration.settings.deadHostMilliseconds = 0 }
    engine = LockEngine(configuration: configuration)
    if world.isRecorded {
      recordIndex = world.records.count
      world.records.append(EventRecord(title: me, configuration: configuration))
    }
    encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "h\(index)", instance: String(incarnation, radix: 16))
    encoder.tokenCount = world.plan.tokenCount
    previousClient = nil
    replicas.forgetAll()
    world.trace("host \(index) starts as \(me)")
    connect()
  }

  /// The settings are read anew.
  func changeLease(toMilliseconds milliseconds: Int64) {
    guard isRunning, !isPaused else { return }
    world.trace("host \(index) asks for leases of \(milliseconds) ms from now on")
    leaseMilliseconds = milliseconds
    var settings = world.plan.engine.settings
    settings.leaseMilliseconds = world.mistake == .leaseIsCountedTooLong ? 3 * milliseconds : milliseconds
    let dead = settings.deadHostMilliseconds
    if dead > 0 { settings.deadHostMilliseconds = world.random.pick([0, dead, dead * 3 / 2]) }
    tellEngine(.reconfigured(settings))
  }

  /// The process ends at once, with all its memory. `silently`: the machine died, and nobody closes sockets.
  func crash(silently: Bool) {
    guard isRunning else { return }
    world.trace("host \(index) \(silently ? "dies" : "crashes")")
    isRunning = false
    linkIsUp = false
    armed = nil
    tickets += 1
    deferred.removeAll()
    commands.removeAll()
    waitingCommands.removeAll()
    waitingRenewals.removeAll()
    lastAnsweredSentAt = nil
    if let wire {
      wire.hostIsOpen = false
      if silently { wire.isBlackholed = true }
      wire.closeFromHost()
    }
    wire = nil
    machine = nil
    world.checker.hostEnded(self)
  }

  func pause() {
    guard isRunning, !isPaused else { return }
    world.trace("host \(index) is suspended")
    pausedAt = world.now
    isPaused = true
  }

  /// The host goes on. Whether it hears first of its timer or of what came meanwhile is chance.
  func resume() {
    guard isPaused else { return }
    world.trace("host \(index) goes on")
    isPaused = false
    if world.mistake == .clockStopsWhileSuspended { suspendedNanoseconds += (world.now - pausedAt) * 1000 }
    world.checker.resumed(self)
    armed = nil
    if world.random.chance(50) { turn(.timerFired) }
    let inputs = deferred
    deferred.removeAll()
    for input in inputs { whenAwake(input) }
    armTimer()
  }

  /// Does something in the daemon, or later if it is suspended.
  func whenAwake(_ action: @escaping () -> Void) {
    guard isRunning else { return }
    if isPaused { deferred.append(action) } else { action() }
  }

  // MARK: Clock

  var bootNow: BootInstant { boot(at: world.now) }

  func boot(at time: Int64) -> BootInstant {
    BootInstant(nanoseconds: bootOffset + time * 1000 + time * drift / 1000 - suspendedNanoseconds)
  }

  /// The true time at which the boot clock shows `moment`.
  func time(of moment: BootInstant) -> Int64 {
    let elapsed = moment.nanoseconds - bootOffset + suspendedNanoseconds
    var guess = elapsed / 1000 - elapsed / 1000 * drift / 1_000_000
    while boot(at: guess) < moment { guess += 1 }
    return guess
  }

  // MARK: The engine

  func turn(_ event: Event) {
    guard isRunning else { return }
    world.trace("host \(index) @\(bootNow.nanoseconds / 1_000_000): \(Self.brief(event))")
    let produced = tellEngine(event)
    eventsInTurn += 1
    if eventsInTurn >= world.plan.eventsPerTurn || event == .timerFired {
      tellEngine(.turnEnded)
      eventsInTurn = 0
    }
    for effect in produced {
      guard isRunning else { break }
      carryOut(effect)
    }
    longestRoundTrip = max(longestRoundTrip, engine.roundTrip.timeoutMilliseconds)
    world.checker.turned(self)
    guard isRunning else { return }
    flush()
    armTimer()
  }

  @discardableResult
  private func tellEngine(_ event: Event) -> [Effect] {
    if world.isRecorded { return world.records[recordIndex].feed(event, to: engine, now: bootNow) }
    var effects: [Effect] = []
    engine.handle(event, now: bootNow, into: &effects)
    return effects
  }

  private func carryOut(_ effect: Effect) {
    switch effect {
    case .send(_, let id, let command):
      let command = world.mistake.changed(command, of: self)
      world.checker.sending(command, from: self)
      submit(command, id.rawValue)
    case .reply(let session, let request, let reply):
      world.trace("host \(index): reply to session \(session.rawValue), request \(request.rawValue): \(reply)")
      world.checker.replied(self, session, request, reply)
      world.clientReplied(session, request, reply)
    case .notify(let session, let notification):
      world.trace("host \(index): notify session \(session.rawValue): \(notification)")
      world.checker.notified(self, session, notification)
      world.clientNotified(session, notification)
    case .acknowledge(_, let id, let need, let until): replicas.asked(id, need, until: until)
    case .forgetAcknowledgement(_, let id): replicas.forgotten(id)
    case .flushSoon, .observed, .recorded, .heldLong: break
    case .shutdownCompleted:
      world.trace("host \(index) has shut down")
      world.checker.shutDown(self)
      crash(silently: false)
      world.hostShutDown(self)
    }
  }

  private func armTimer() {
    guard isRunning, !isPaused else { return }
    guard let next = engine.nextDeadline else {
      armed = nil
      return
    }
    if let armed, armed.at == next { return }
    tickets += 1
    let ticket = tickets
    armed = (next, ticket)
    // Work that was put off goes on as soon as the loop has looked at everything else.
    let isOverdue = next <= bootNow
    let lateness = isOverdue ? world.plan.turnMicroseconds : world.random.pick(0...world.plan.timerLatenessMicroseconds)
    world.schedule(at: max(world.now, time(of: next)) + lateness) { [self] in
      guard armed?.ticket == ticket, isRunning, !isPaused else { return }
      armed = nil
      world.timerTurns += 1
      turn(.timerFired)
    }
  }

  // MARK: The link

  private func submit(_ command: LeaseCommand, _ id: UInt64) {
    // The engine first handles what came due before it hears that the link is gone; those commands go nowhere.
    if isTellingLinkDown { return }
    guard linkIsUp else { return world.fail("host \(index) sends \(command) while the link is down") }
    switch command {
    case .confirmEpoch:
      world.checker.asksForEpoch(me)
      return send(id, command)
    case .renew, .reclaim: waitingRenewals.append((id, command))
    case .acquire, .release, .downgrade, .reserve, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage:
      waitingCommands.append((id, command))
    }
    fillWindow()
  }

  /// Puts commands into the pipeline while it has room, renewals first, as the daemon does; the question for the epoch has
  /// gone before everything. Returns those that had to
  /// wait for room.
  @discardableResult
  private func fillWindow() -> [CommandID] {
    var sent: [CommandID] = []
    while linkIsUp, commands.count < world.plan.windowMax {
      let (id, command): (UInt64, LeaseCommand)
      if !waitingRenewals.isEmpty {
        if !waitingCommands.isEmpty { world.mark("renewal sent first") }
        (id, command) = waitingRenewals.removeFirst()
      } else if !waitingCommands.isEmpty {
        (id, command) = waitingCommands.removeFirst()
      } else {
        break
      }
      send(id, command)
      sent.append(CommandID(id))
    }
    return sent
  }

  private func send(_ id: UInt64, _ command: LeaseCommand) {
    let inWords = encoder.encode(command)
    guard machine?.submit(isOfLaterRelease ? LaterRelease.changed(inWords) : inWords, id: id) == true else {
      return world.fail("host \(index): the connection machine does not take \(command)")
    }
    commands[id] = (command, bootNow)
  }

  private func flush() {
    guard let wire, machine?.hasOutput == true, let bytes = machine?.takeOutput() else { return }
    wire.sendToServer(bytes)
    watch(wire)
  }

  /// Gives the connection up when a command is not answered in time.
  private func watch(_ wire: Wire) {
    guard let oldest = machine?.oldestPendingID ?? (machine?.isReady == false ? 0 : nil) else { return }
    world.schedule(after: world.plan.linkTimeoutMilliseconds * 1000) { [self] in
      whenAwake { [self] in
        guard self.wire === wire, (machine?.oldestPendingID ?? (machine?.isReady == false ? 0 : nil)) == oldest else {
          return
        }
        world.trace("host \(index) gives wire \(wire.id) up")
        world.mark("connection given up")
        wire.hostIsOpen = false
        wire.closeFromHost()
        linkLost()
      }
    }
  }

  private func connect() {
    guard isRunning, wire == nil else { return }
    let wire = world.newWire(self)
    self.wire = wire
    world.schedule(after: 2 * world.latency()) { [self] in
      whenAwake { [self] in
        guard self.wire === wire else { return }
        guard world.server.accept(wire) else { return linkLost() }
        var machine = RedisConnection(
          configuration: RedisConnectionConfiguration(
            clientName: "sidelock", inbox: encoder.inboxChannel,
            scripts: isOfLaterRelease ? LaterRelease.scripts : world.mistake.scripts,
            previousClient: previousClient, probe: encoder.probe, trial: encoder.trial))
        machine.connected()
        self.machine = machine
        flush()
      }
    }
  }

  /// The driver drops the connection, or finds it gone.
  private func linkLost() {
    wire?.hostIsOpen = false
    wire = nil
    _ = machine?.closed()
    machine = nil
    commands.removeAll()
    waitingCommands.removeAll()
    waitingRenewals.removeAll()
    lastAnsweredSentAt = nil
    if linkIsUp {
      linkIsUp = false
      isTellingLinkDown = true
      if world.mistake != .linkDownIsNotTold { turn(.linkDown(.only)) }
      replicas.linkWentDown()
      isTellingLinkDown = false
    }
    let incarnation = self.incarnation
    world.schedule(after: world.random.pick(1000...200_000)) { [self] in
      whenAwake { [self] in if self.incarnation == incarnation { connect() } }
    }
  }

  func wireClosed(_ wire: Wire) {
    guard wire.incarnation == incarnation else { return }
    whenAwake { [self] in
      guard self.wire === wire else { return }
      world.trace("host \(index): wire \(wire.id) is closed")
      linkLost()
    }
  }

  func received(_ bytes: [UInt8], on wire: Wire) {
    guard wire.incarnation == incarnation else { return }
    whenAwake { [self] in
      guard self.wire === wire, let actions = bytes.withUnsafeBytes({ machine?.received($0) }) else { return }
      for action in actions {
        guard self.wire === wire else { return }
        perform(action, wire)
      }
      guard self.wire === wire else { return }
      for id in fillWindow() {
        world.mark("command sent late")
        turn(.commandSent(.only, id))
      }
      flush()
    }
  }

  private func perform(_ action: RedisConnectionAction, _ wire: Wire) {
    switch action {
    case .ready(let info):
      previousClient = info.client
      linkIsUp = true
      linkUpSince = bootNow
      turn(.linkUp(.only))
    case .failed, .fault:
      world.trace("host \(index): \(action)")
      if case .fault = action { world.fail("host \(index): the connection machine reports \(action)") }
      wire.closeFromHost()
      linkLost()
    case .reply(let id, let value):
      guard let sent = commands.removeValue(forKey: id) else {
        return world.fail("host \(index): a reply to command \(id), which is not in flight")
      }
      let reply = LeaseReplyDecoder.decode(value, to: sent.command)
      // An acquire that came late, after a newer one of this host: no mistake, and of no consequence.
      let isStale = value.elements?.first?.string == "stale"
      if isStale { world.mark("stale acquire") }
      if let failure = failure(in: reply), !isStale, value.error.map(isRefusal) != true {
        world.fail("host \(index): \(sent.command) failed: \(failure)")
      }
      lastAnsweredSentAt = max(lastAnsweredSentAt ?? sent.sentAt, sent.sentAt)
      world.checker.leaseReplied(self, sent.command, sentAt: sent.sentAt, reply)
      turn(.replyReceived(.only, CommandID(id), world.mistake.changed(reply, of: self)))
      // A server that has become a replica stays one; another one may answer under the address by now.
      if let error = value.error, RedisErrorReply.demandsReconnect(error: error), self.wire === wire {
        wire.closeFromHost()
        linkLost()
      }
    case .message(_, let payload):
      let message = InboxMessage(payload)
      if message == .trial { return }
      guard case .lease(let push)? = message else {
        return world.fail("host \(index): a message that is not understood: \(Bytes(payload))")
      }
      world.checker.pushed(self, push, lastAnsweredSentAt: lastAnsweredSentAt)
      turn(.pushReceived(.only, push))
      if isRunning { world.checker.pushTaken(self, push) }
    }
  }

  /// Whether an error says that the server, or this user's rights, are not as they should be.
  private func isRefusal(_ error: [UInt8]) -> Bool {
    let words = String(decoding: error, as: UTF8.self)
    return RedisErrorReply.isStateOfServer(error: error) || words.hasPrefix("NOPERM ")
      || words.contains("The user executing the script can't run this command")
  }

  /// Why a command failed, unless the key holds something else.
  private func failure(in reply: LeaseReply) -> LeaseFailure? {
    switch reply.failure {
    case .wrongType?: nil
    case let failure: failure
    }
  }

  /// The wire that the host takes for its connection.
  var currentWire: Wire? { wire }

  private static func brief(_ event: Event) -> String {
    switch event {
    case .acquireRequested(let request):
      "acquire \(request.target) by session \(request.session.rawValue), request \(request.request.rawValue), wait "
        + "\(request.waitMilliseconds.map(String.init) ?? "for ever")"
    case .sessionOpened, .sessionDescribed, .sessionClosed, .inputEnded, .releaseRequested, .extendRequested,
      .downgradeRequested, .transferRequested, .breakRequested, .cancelRequested, .linkUp, .linkDown, .homesMoved,
      .commandSent, .replyReceived, .pushReceived, .acknowledged, .timerFired, .shutdownRequested, .sessionEvicted,
      .restored, .lossesRestored, .reconfigured, .watched, .historyWanted, .keepingStopped,
      .localTokensReserved, .turnEnded:
      "\(event)"
    }
  }
}
