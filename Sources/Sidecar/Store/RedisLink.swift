import DequeModule
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
import RESP
import RedisLeases

/// The one connection to Redis: it is made, watched, and made again when it breaks.
///
/// Commands go out once a turn of the loop, in one write. At most ``windowMax`` are in flight; beyond that they wait
/// here, where a renewal overtakes everything else and users take turns, so that no flood of acquires can cost a lease, or
/// somebody else's time.
final class RedisLink {
  /// What is asked besides the engine's commands. `nil`: there is no answer, the connection broke.
  typealias QueryCompletion = (RESPValue?) -> Void

  private enum State {
    case stopped
    case connecting
    case handshaking(any Channel)
    case ready(any Channel)
    /// Waiting to connect again.
    case backingOff
  }

  enum Pending {
    case lease(CommandID, LeaseCommand)
    /// `weight`: how many commands it counts for, by what it takes and what comes back.
    case query(RedisCommand, weight: Int, QueryCompletion)
  }

  private static let windowMax = 1024
  /// What one user may have in flight: a server works on one command after the other, and some take long.
  private static let windowOfUserMax = 256
  private static let keptOutputBytesMax = 1 << 20
  private static let backoffMillisecondsMin: Int64 = 50
  private static let backoffMillisecondsMax: Int64 = 2000
  /// A connection that says nothing for so long is asked for a sign of life, in milliseconds.
  private static let idlePingMilliseconds: Int64 = 15_000

  private let loop: any EventLoop
  private let url: RedisURL
  let encoder: LeaseCommandEncoder
  private let clientName: String
  /// How long Redis may take to answer, in milliseconds.
  var timeoutMilliseconds: Int64
  /// How long answers take that come late, in milliseconds: then it may take that long, too.
  var answerMilliseconds: () -> Int64 = { 0 }
  private let logger: Logger
  private let onEvent: (StoreEvent) -> Void
  private let onOutput: () -> Void
  /// Called before what came is looked at.
  var onInput: () -> Void = {}
  /// Whether somebody waits for such a message.
  var isAwaited: (InboxMessage) -> Bool = { _ in true }
  private var inboxShare = InboxShare()
  /// Called when the first attempt to connect has succeeded or failed.
  private var onFirstOutcome: (() -> Void)?

  private let dialer: RedisDialer
  /// Where the connection leads.
  private var address: String?
  private var state = State.stopped
  private var machine: RedisConnection?
  private var previousClient: RedisClientIdentity?
  private var pending = PendingCommands()
  private var output = ByteBuffer()
  /// Whether somebody waits for something that is to be sent.
  var isUrgent = false
  private var waitingRenewals: Deque<(CommandID, LeaseCommand)> = []
  private var waiting = CommandQueue()
  private var attempts: Int64 = 0
  /// The connection that is current; what an older one still tells is not heard.
  private var generation: UInt64 = 0
  /// When the server last answered something. What it sends unasked proves nothing: it may push for ever and carry out no
  /// command.
  private var lastAnsweredAt = BootInstant(nanoseconds: 0)
  /// Whether a command was answered on this connection, behind the handshake, in another way than that it is of no use. Only
  /// then has it succeeded.
  private(set) var hasAnswered = false
  /// How long the server may be silent in the handshake.
  private var handshakeMilliseconds: Int64 = 0
  private var watch: Scheduled<Void>?
  private var mustReconnect: String?
  /// The last failure that was logged, so that an outage of hours is told once.
  private var loggedFailure: String?

  /// What Redis has refused, so that each kind of error is told from time to time.
  private var refusals = RefusalTally()

  /// Whether commands may be submitted.
  private(set) var isReady = false
  /// Why there is no connection; nil while there is one.
  private(set) var downReason: String? = "not connected yet"
  private(set) var statistics = LinkStatistics()
  /// Commands that wait for room.
  var waitingCount: Int { waiting.count + waitingRenewals.count }

  init(
    loop: any EventLoop, url: RedisURL, keyPrefix: String, host: String, instance: String, timeoutMilliseconds: Int64,
    logger: Logger, onEvent: @escaping (StoreEvent) -> Void, onOutput: @escaping () -> Void,
    onFirstOutcome: @escaping () -> Void
  ) {
    self.loop = loop
    self.url = url
    encoder = LeaseCommandEncoder(keyPrefix: keyPrefix, host: host, instance: instance)
    clientName = "sidelockd-\(host)"
    self.timeoutMilliseconds = timeoutMilliseconds
    self.logger = logger
    self.onEvent = onEvent
    self.onOutput = onOutput
    self.onFirstOutcome = onFirstOutcome
    dialer = RedisDialer(loop: loop, endpoint: url.endpoint)
  }

  // MARK: Connecting

  func start() {
    guard case .stopped = state else { return }
    connect()
  }

  /// Closes the connection for good.
  func stop() {
    generation += 1
    watch?.cancel()
    switch state {
    case .handshaking(let channel), .ready(let channel): channel.close(promise: nil)
    case .stopped, .connecting, .backingOff: break
    }
    state = .stopped
    isReady = false
  }

  private func connect() {
    generation += 1
    state = .connecting
    hasAnswered = false
    let generation = generation
    dialer.dial(
      timeoutMilliseconds: timeoutMilliseconds, makeHandler: { RedisChannelHandler(link: self) },
      completion: { dialed in
        guard generation == self.generation else {
          dialed?.channel.close(promise: nil)
          return
        }
        if let dialed { self.connected(dialed) } else { self.failed() }
      })
  }

  private func connected(_ dialed: RedisDialer.Dialed) {
    dialed.handler.generation = generation
    address = dialed.address
    handshakeMilliseconds = max(timeoutMilliseconds, 4 * dialed.milliseconds)
    var machine = RedisConnection(
      configuration: RedisConnectionConfiguration(
        username: url.username, password: url.password, database: url.database, clientName: clientName,
        inbox: encoder.inboxChannel, scripts: RedisScript.leases, previousClient: previousClient,
        probe: encoder.probe))
    machine.connected()
    self.machine = machine
    state = .handshaking(dialed.channel)
    lastAnsweredAt = BootClock.now()
    armWatch()
    flush()
    // It may have ended before anybody listened.
    if !dialed.channel.isActive { useless("the connection was closed") }
  }

  /// The server is of no use. The next attempt goes to another address, if there is one.
  private func useless(_ reason: String) {
    if let address { dialer.failed(address, reason) }
    failed()
  }

  /// The connection is of no use (any more): whoever waits for a reply is told, and a new one is made, after a while where
  /// everything has been tried. `lost`: why it broke off, where the address need not be to blame.
  private func failed(lost: String? = nil) {
    let reason = lost ?? dialer.reason
    generation += 1
    watch?.cancel()
    watch = nil
    switch state {
    case .handshaking(let channel), .ready(let channel): channel.close(promise: nil)
    case .stopped, .connecting, .backingOff: break
    }
    let wasReady = isReady
    let unanswered = pending.removeAll() + waiting.removeAll()
    isReady = false
    downReason = reason
    mustReconnect = nil
    machine = nil
    waitingRenewals = []
    state = .backingOff
    let isOver = lost != nil || dialer.isRoundOver
    if loggedFailure != reason, isOver || wasReady {
      loggedFailure = reason
      logger.warning(
        wasReady ? "lost the connection to Redis" : "no connection to Redis", metadata: ["reason": "\(reason)"])
    }
    scheduleConnect(atOnce: !isOver)
    if isOver { decideFirstOutcome() }
    if wasReady { onEvent(.down) }
    for case .query(_, _, let completion) in unanswered { completion(nil) }
  }

  private func scheduleConnect(atOnce: Bool) {
    if !atOnce { attempts += 1 }
    let ceiling = min(Self.backoffMillisecondsMax, Self.backoffMillisecondsMin << min(attempts - 1, 10))
    // Jitter, because a Redis that comes back must not meet every host at one moment.
    let delay = atOnce ? 0 : Int64.random(in: (ceiling / 2)...ceiling)
    let generation = generation
    loop.assumeIsolated().scheduleTask(in: .milliseconds(delay)) {
      guard generation == self.generation, case .backingOff = self.state else { return }
      self.connect()
    }
  }

  // MARK: Commands

  /// Sends a command of the engine's. Its reply comes as an event, unless the connection breaks. `user`: on whose behalf.
  func submit(_ command: LeaseCommand, id: CommandID, of user: UInt32?) {
    guard isReady else { return }
    statistics.commands += 1
    switch command {
    case .renew:
      isUrgent = true
      waitingRenewals.append((id, command))
      fillWindow()
    case .release:
      put(.lease(id, command), of: user)
    case .acquire, .downgrade, .reserve, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .tell:
      isUrgent = true
      put(.lease(id, command), of: user)
    }
  }

  /// Asks Redis something; the completion is called exactly once, with nil when there is no answer.
  ///
  /// - Parameter weight: how many commands it counts for among those that may be in flight.
  func query(
    _ command: RedisCommand, of user: UInt32? = nil, weight: Int = 1, _ completion: @escaping QueryCompletion
  ) {
    guard isReady else { return completion(nil) }
    statistics.commands += 1
    isUrgent = true
    put(.query(command, weight: weight, completion), of: user)
  }

  /// Puts a command into the pipeline, or behind those that wait for room there.
  private func put(_ entry: Pending, of user: UInt32?) {
    guard waitingCount == 0, hasRoom(for: user), machine != nil else {
      waiting.append(entry, of: user)
      return fillWindow()
    }
    send(entry, of: user)
    onOutput()
  }

  private func hasRoom(for user: UInt32?) -> Bool {
    pending.weight < Self.windowMax
      && pending.weight(of: user) < (user == nil ? Self.windowMax / 2 : Self.windowOfUserMax)
  }

  /// Puts commands into the pipeline as far as they have room. The ones that had to wait for it are told about, because
  /// a lease counts from the moment at which it was really asked for; those that did not are on their way within the
  /// turn.
  private func fillWindow(afterWaiting: Bool = false) {
    guard isReady, machine != nil else { return }
    var sent: [CommandID] = []
    var isPut = false
    while pending.weight < Self.windowMax {
      if let (id, command) = waitingRenewals.popFirst() {
        send(.lease(id, command), of: nil)
        if afterWaiting { sent.append(id) }
      } else if let (next, user) = waiting.popFirst(where: hasRoom) {
        send(next, of: user)
        if afterWaiting, case .lease(let id, _) = next { sent.append(id) }
      } else {
        break
      }
      isPut = true
    }
    if isPut {
      if afterWaiting { isUrgent = true }
      onOutput()
    }
    for id in sent { onEvent(.sent(id)) }
  }

  private func send(_ entry: Pending, of user: UInt32?) {
    if pending.isEmpty { lastAnsweredAt = BootClock.now() }
    let command =
      switch entry {
      case .lease(_, let command): encoder.encode(command)
      case .query(let command, _, _): command
      }
    _ = machine?.submit(command, id: pending.append(entry, of: user))
  }

  /// Sends everything that was submitted since the last time in one write.
  func flush() {
    isUrgent = false
    let channel: any Channel
    switch state {
    case .handshaking(let current), .ready(let current): channel = current
    case .stopped, .connecting, .backingOff: return
    }
    guard machine?.hasOutput == true else { return }
    machine?.drainOutput { bytes in
      // The same memory again, unless the channel still has to write some of it.
      output.clear(minimumCapacity: bytes.count)
      output.writeBytes(bytes)
    }
    channel.writeAndFlush(output, promise: nil)
    if output.capacity > Self.keptOutputBytesMax { output = ByteBuffer() }
  }

  // MARK: What comes back

  func received(_ buffer: ByteBuffer, generation: UInt64) {
    guard generation == self.generation else { return }
    onInput()
    let answers = machine?.answerCount
    let actions = buffer.withUnsafeReadableBytes { machine?.received($0) } ?? []
    if machine?.answerCount != answers { lastAnsweredAt = BootClock.now() }
    // The handshake goes on, a script that Redis does not know is sent again, or another host asks for what a release is
    // about to give back.
    if machine?.hasOutput == true { isUrgent = true }
    var isAnswer = false
    for action in actions {
      if case .reply = action { isAnswer = true }
      perform(action)
      // A reply can make the owner stop the link, or the action itself ends the connection.
      guard generation == self.generation else { return }
    }
    if let mustReconnect { return useless(mustReconnect) }
    if isAnswer, !hasAnswered { answered() }
    fillWindow(afterWaiting: true)
    if machine?.hasOutput == true { onOutput() }
  }

  private func perform(_ action: RedisConnectionAction) {
    switch action {
    case .ready(let info): ready(info)
    case .failed(let failure): useless(failure.message)
    case .fault(let fault): useless(fault.description)
    case .message(_, let payload): heard(message: payload)
    case .reply(let id, let value):
      switch pending.remove(id) {
      case .lease(let id, let command)?:
        if let error = value.error { noticed(error: error, to: command.word) }
        onEvent(.reply(id, LeaseReplyDecoder.decode(value, to: command)))
      case .query(let command, _, let completion)?:
        if let error = value.error { noticed(error: error, to: command.word) }
        completion(value)
      case nil:
        break
      }
    }
  }

  /// A message to the inbox. Nobody is kept waiting by those that are not waited for.
  private func heard(message payload: [UInt8]) {
    statistics.pushes += 1
    let began = BootClock.now()
    // What it takes of Redis has to have room, too.
    let hasRoom = inboxShare.hasRoom(now: began) && waitingCount < Self.windowMax
    guard hasRoom || InboxMessage.mayBeAwaited(payload) else { return leftOut(now: began) }
    let message = InboxMessage(payload)
    let isAwaited = message.map(isAwaited) ?? false
    guard hasRoom || isAwaited else { return leftOut(now: began) }
    switch message {
    case .lease(let push)?: onEvent(.push(push))
    case .call(let id, let inbox, let payload)?: onEvent(.call(id, from: inbox, payload))
    case .answer(let id, let payload)?: onEvent(.answer(id, payload))
    case nil: logger.warning("a message to the inbox was not understood")
    }
    if !isAwaited { inboxShare.used(from: began, to: BootClock.now()) }
  }

  private func leftOut(now: BootInstant) {
    statistics.pushesLeftOut += 1
    guard let count = refusals.toTell(kind: "inbox", now: now) else { return }
    logger.warning("too many messages to the inbox; some were left out", metadata: ["count": "\(count)"])
  }

  private func noticed(error: [UInt8], to command: String) {
    statistics.errors += 1
    if let reason = RedisErrorReply.reasonToReconnect(error: error) { mustReconnect = reason }
    guard let count = refusals.toTell(kind: RedisErrorReply.kind(of: error), now: BootClock.now()) else { return }
    logger.warning(
      "Redis refused a command",
      metadata: ["error": "\(RedisErrorReply.words(of: error))", "command": "\(command)", "count": "\(count)"])
  }

  private func ready(_ info: RedisReadyInfo) {
    guard case .handshaking(let channel) = state else { return }
    state = .ready(channel)
    isReady = true
    downReason = nil
    loggedFailure = nil
    previousClient = info.client
    statistics.connections += 1
    logger.info("connected to Redis", metadata: ["server": "\(info.server) \(info.version)", "url": "\(url)"])
    if let policy = info.evictionPolicy, policy.hasPrefix("allkeys-") {
      logger.warning(
        "Redis may evict locks when its memory is full; set maxmemory-policy to noeviction",
        metadata: ["maxmemory-policy": "\(policy)"])
    }
    if let rules = info.missingRules {
      logger.warning(
        "Redis does not let this user do all that list of all hosts and some errors need",
        metadata: ["allow": "\(rules)"])
    }
    onEvent(.up)
    decideFirstOutcome()
    if isReady, pending.isEmpty, waiting.isEmpty, waitingRenewals.isEmpty { ping { _ in } }
  }

  /// The connection is good for something: the next one begins without a pause.
  private func answered() {
    hasAnswered = true
    attempts = 0
    if let address { dialer.succeeded(address) }
  }

  private func decideFirstOutcome() {
    onFirstOutcome?()
    onFirstOutcome = nil
  }

  /// The connection broke off. Before anything was answered behind the handshake that says something about the server.
  private func lost(_ reason: String) {
    if hasAnswered { failed(lost: reason) } else { useless(reason) }
  }

  func closed(generation: UInt64) {
    guard generation == self.generation else { return }
    lost("the connection was closed")
  }

  // MARK: Watching

  /// Looks from time to time whether Redis still answers: a connection whose other end is gone without a word would
  /// otherwise look alive for as long as the kernel likes.
  private func armWatch() {
    watch?.cancel()
    let generation = generation
    watch = loop.assumeIsolated().scheduleTask(in: .milliseconds(max(25, timeoutMilliseconds / 4))) {
      guard generation == self.generation else { return }
      self.look()
    }
  }

  private func look() {
    let silence = BootClock.now().milliseconds(since: lastAnsweredAt)
    switch state {
    case .stopped, .connecting, .backingOff:
      return
    case .handshaking:
      if silence >= handshakeMilliseconds {
        return useless("no answer to the handshake within \(handshakeMilliseconds) ms")
      }
    case .ready:
      let patience = max(timeoutMilliseconds, answerMilliseconds())
      if !pending.isEmpty, silence >= patience { return useless("no answer within \(patience) ms") }
      if pending.isEmpty, silence >= Self.idlePingMilliseconds {
        ping { _ in }
      }
    }
    armWatch()
  }
}

/// Hands what the channel hears to the link.
final class RedisChannelHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  private let link: RedisLink
  /// Which connection of the link's it is; 0 until it is one.
  var generation: UInt64 = 0

  init(link: RedisLink) {
    self.link = link
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    link.received(unwrapInboundIn(data), generation: generation)
  }

  func channelInactive(context: ChannelHandlerContext) {
    link.closed(generation: generation)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    context.close(promise: nil)
  }
}
