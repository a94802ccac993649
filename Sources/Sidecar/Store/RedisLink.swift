import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOPosix
import RESP
import RedisLeases
import RedisTLS

/// The one connection to Redis: made, watched, and made again when it breaks. ``RedisLinkMachine`` decides what is sent
/// when, and what follows from what comes back; here are the channel and the timers.
///
/// Commands go out once a turn of the loop, in one write.
final class RedisLink: RedisChannelOwner {
  /// What is asked besides the engine's commands. `nil`: there is no answer, the connection broke.
  typealias QueryCompletion = (RESPValue?) -> Void

  private static let keptOutputBytesMax = 1 << 20

  private let loop: any EventLoop
  let encoders: LeaseEncoders
  /// The shard whose keys the server is tried with: one that it has.
  var keysShard = ShardID.only {
    didSet {
      machine.trySuch(keysOf: keysShard)
      for replicas in replicaLinks { replicas.key = encoders[keysShard].acknowledgementKey }
    }
  }
  /// How long answers may take by the measured round trip, in milliseconds, if ``timeoutMilliseconds`` is less.
  var answerMilliseconds: () -> Int64 = { 0 }
  private let clock: HostClock
  private let onEvent: (StoreEvent, ShardID) -> Void
  private let onOutput: () -> Void
  /// Called before input is looked at.
  var onInput: () -> Void = {}
  /// Whether somebody waits for such a message.
  var isAwaited: (InboxMessage) -> Bool = { _ in true }
  /// Called when Redis has refused a command, before its answer is told, with the shard that it is about; true: it is no news
  /// for the operator.
  var onRefused: ([UInt8], ShardID?) -> Bool = { _, _ in false }
  private var inboxShare = InboxShare()
  /// Called when the first attempt to connect has succeeded or failed.
  private var onFirstOutcome: (() -> Void)?

  private var dialer: RedisDialer
  private let login: LinkLogin
  /// nil: connections are plain.
  private var security: LinkSecurity?
  /// Who says where the primary is; nil: the URL.
  private let sentinels: SentinelWatch?
  /// Where they say that it is, which ``dialer`` leads to.
  private var primary: RedisAddress?
  private let makeTarget: (RedisAddress) -> (RedisDialer, LinkSecurity?)
  /// The pause before the next connection.
  private var pause: (task: Scheduled<Void>, number: UInt64)?
  private var endpoint: RedisURL.Endpoint
  /// Where it leads to by TCP.
  var address: RedisAddress {
    guard case .tcp(let host, let port) = endpoint else { return RedisAddress(host: "", port: 0) }
    return RedisAddress(host: host, port: port)
  }
  /// Of a URL of this kind with TLS.
  private let secureScheme: String
  private var machine: RedisLinkMachine
  /// The connection, with the address to which it leads.
  private var current: (channel: any Channel, address: String)?
  /// The completions of queries, by number.
  private var queries: [UInt64: QueryCompletion] = [:]
  private var lastQuery: UInt64 = 0
  private var output = ByteBuffer()
  private var watch: Scheduled<Void>?
  private var log: LinkLog
  /// The connections on which replicas are waited for: in memory, and on disk.
  private var replicaLinks: [ReplicaLink] = []
  /// What every lease needs by the settings in force.
  var need: () -> ReplicaNeed = { .none }
  private var counters = LinkStatistics()

  /// Whether commands may be submitted.
  var isReady: Bool { machine.isReady }
  /// Why there is no connection; nil while there is one.
  var downReason: String? { machine.downReason }
  /// Whether a command was answered on this connection, behind the handshake.
  var hasAnswered: Bool { machine.hasAnswered }
  /// Whether somebody waits for something that is not sent yet.
  var isUrgent: Bool {
    get { machine.isUrgent }
    set { machine.isUrgent = newValue }
  }
  var hasOnlyReleases: Bool { machine.hasOutput && !machine.isUrgent && !hasReplicaWork }
  /// Whether there is something to send.
  var hasWork: Bool { machine.hasOutput || hasReplicaWork }
  private var hasReplicaWork: Bool { replicaLinks.contains { $0.hasWork } }
  /// How long Redis may take to answer, in milliseconds.
  var timeoutMilliseconds: Int64 {
    get { machine.timeoutMilliseconds }
    set {
      machine.timeoutMilliseconds = newValue
      sentinels?.timeoutMilliseconds = newValue
      for replicas in replicaLinks { replicas.timeoutMilliseconds = newValue }
    }
  }
  private var refusals = RefusedLease()
  var refusedLease: String? { refusals.words(now: clock.now()) }
  /// Commands that wait for room.
  var waitingCount: Int { machine.waitingCount }
  func waitingMemory(of user: UInt32?) -> Int { machine.waitingMemory(of: user) }
  /// What is known of the primary by Sentinels; nil without them.
  var sentinelStanding: SentinelStanding? { sentinels?.standing }
  var statistics: LinkStatistics {
    var statistics = counters
    statistics.commands = machine.commandCount
    return statistics
  }

  init(
    loop: any EventLoop, url: RedisURL, login source: @escaping () -> RedisLoginSource,
    tls: @escaping () -> RedisTLSOptions, encoders: LeaseEncoders, clusterRole: ClusterRole? = nil, host: String,
    timeoutMilliseconds: Int64, clock: HostClock, logger: Logger,
    onEvent: @escaping (StoreEvent, ShardID) -> Void, onOutput: @escaping () -> Void,
    onFirstOutcome: @escaping () -> Void
  ) {
    self.loop = loop
    self.clock = clock
    log = LinkLog(logger: logger, url: url)
    self.onEvent = onEvent
    self.onOutput = onOutput
    self.onFirstOutcome = onFirstOutcome
    self.encoders = encoders
    switch url.endpoint {
    case .sentinels: secureScheme = "rediss-sentinel"
    case .tcp, .unix, .cluster: secureScheme = clusterRole == nil ? "rediss" : "rediss-cluster"
    }
    let encoder = encoders[.only]
    machine = RedisLinkMachine(
      configuration: RedisConnectionConfiguration(
        database: url.database, clientName: "sidelockd-\(host)", inbox: encoder.inboxChannel,
        scripts: RedisScript.leases,
        probe: encoder.probe, trial: encoder.trial, clusterRole: clusterRole),
      encoders: encoders, timeoutMilliseconds: timeoutMilliseconds)
    let makeTarget = { (address: RedisAddress) in
      let security = url.usesTLS ? LinkSecurity(loop: loop, host: address.host, options: tls) : nil
      let endpoint = RedisURL.Endpoint.tcp(host: address.host, port: address.port)
      return (RedisDialer(loop: loop, endpoint: endpoint, security: security, clock: clock), security)
    }
    self.makeTarget = makeTarget
    switch url.endpoint {
    case .tcp(let host, let port):
      sentinels = nil
      (dialer, security) = makeTarget(RedisAddress(host: host, port: port))
    // A cluster is reached by links to its nodes.
    case .unix, .cluster:
      sentinels = nil
      security = nil
      dialer = RedisDialer(loop: loop, endpoint: url.endpoint, security: nil, clock: clock)
    case .sentinels(let set):
      sentinels = SentinelWatch(
        set, loop: loop, clientName: "sidelockd-\(host)", timeoutMilliseconds: timeoutMilliseconds, clock: clock,
        logger: logger
      ) { makeTarget($0).0 }
      // Leads nowhere until they have said where.
      security = nil
      dialer = RedisDialer(loop: loop, endpoint: url.endpoint, security: nil, clock: clock)
    }
    endpoint = url.endpoint
    login = LinkLogin(loop: loop, now: clock.now, source: source)
    login.onFound = { [unowned self] login in
      machine.loginRead(login, now: clock.now())
      if machine.hasOutput { onOutput() }
    }
    login.onFailure = { [unowned self] reason in log.loginUnread(reason, now: clock.now()) }
    sentinels?.onSwitch = { [unowned self] in switched(to: $0) }
    replicaLinks = Durability.allCases.map { durability in
      let link = ReplicaLink(
        durability, loop: loop, key: encoder.acknowledgementKey,
        configuration: RedisConnectionConfiguration(
          database: url.database, clientName: "sidelockd-\(host)-replicas", inbox: [], scripts: [],
          clusterRole: clusterRole),
        timeoutMilliseconds: timeoutMilliseconds, clock: clock, login: { [login] in login.current }
      ) { onEvent(.acknowledged($0, $1), .only) }
      link.onFacts = { [unowned self] in log.learned($0, need: need()) }
      link.onTrouble = { [unowned self] in log.noReplicas($0, now: self.clock.now()) }
      return link
    }
  }

  // MARK: Connecting

  func start() {
    if let number = machine.start() { connect(number) }
  }

  /// The same with a login that is known.
  func start(login other: LinkLogin) {
    login.take(from: other)
    start()
  }

  /// Closes the connection for good.
  func stop() {
    machine.stop()
    login.stop()
    hangUp()
    sentinels?.stop()
  }

  /// Ends the connection, and makes no other one until it is started again. What is under way has no answer.
  func rest(because reason: String) {
    if let number = machine.number { ended(number, reason: reason, isRoundOver: true) }
    pause?.task.cancel()
    pause = nil
    machine.stop()
    login.rest()
    hangUp()
  }

  /// The settings were read again: the login may be another one.
  func loginMayHaveChanged() { login.readAgain(timeoutMilliseconds: timeoutMilliseconds) }

  /// Connects to the server of the URL, or to the one that Sentinels name.
  private func connect(_ number: UInt64) {
    guard let sentinels else { return logIn(number) }
    sentinels.find { primary in
      guard let primary else { return self.ended(number, reason: sentinels.reason, isRoundOver: true) }
      if self.primary != primary {
        self.primary = primary
        self.endpoint = .tcp(host: primary.host, port: primary.port)
        (self.dialer, self.security) = self.makeTarget(primary)
      }
      self.logIn(number)
    }
  }

  /// Sentinels have made another server the primary: what the one of before still answers is good for nothing.
  private func switched(to primary: RedisAddress) {
    log.switched(from: self.primary, to: primary, now: clock.now())
    if let number = machine.number {
      sentinels?.linkDown(isUseless: false)
      ended(number, reason: "the sentinels have made \(primary) the primary", isRoundOver: !machine.hasAnswered)
    } else if let pause {
      pause.task.cancel()
      retry(pause.number)
    }
  }

  private func retry(_ number: UInt64) {
    pause = nil
    if let number = machine.retryDue(number) { connect(number) }
  }

  private func logIn(_ number: UInt64) {
    login.prepare(timeoutMilliseconds: timeoutMilliseconds) { login in
      guard let login else {
        let reason = self.login.failure ?? "the login of Redis is over"
        return self.ended(number, reason: reason, isRoundOver: true)
      }
      self.dial(number, login)
    }
  }

  private func dial(_ number: UInt64, _ login: RedisLogin) {
    let dialer = dialer
    dialer.dial(
      timeoutMilliseconds: timeoutMilliseconds, makeHandler: { RedisChannelHandler(owner: self) },
      completion: { dialed in
        if let dialed {
          self.connected(dialed, number, login)
        } else if self.machine.number == number {
          self.sentinels?.linkDown(isUseless: true)
          self.ended(number, reason: self.naming(dialer.reason), isRoundOver: dialer.isRoundOver)
        }
      })
  }

  private func connected(_ dialed: RedisDialer.Dialed, _ number: UInt64, _ login: RedisLogin) {
    let patience = max(timeoutMilliseconds, 4 * dialed.milliseconds)
    guard machine.connected(number, login: login, handshakeMilliseconds: patience, now: clock.now()) else {
      dialed.channel.close(promise: nil)
      return
    }
    dialed.handler.number = number
    current = (dialed.channel, dialed.address)
    armWatch()
    flush()
    // It may have ended before its handler had a number.
    if !dialed.channel.isActive { closed(number, dialed.handler) }
  }

  func closed(_ number: UInt64, _ handler: RedisChannelHandler) {
    let reason = handler.failure ?? (handler.hasRead ? nil : dialer.guess(scheme: secureScheme))
    if let ending = machine.closed(number, reason: reason) { end(number, ending) }
  }

  /// The connection is of no use. The next attempt goes to another address, if this one is to blame and there is one.
  private func end(_ number: UInt64, _ ending: RedisLinkMachine.Ending) {
    if ending.isLoginRefused { login.wasRefused() }
    sentinels?.linkDown(isUseless: !machine.hasAnswered)
    guard ending.isAddressToBlame else { return ended(number, reason: naming(ending.reason), isRoundOver: true) }
    if let current { dialer.failed(current.address, ending.reason) }
    ended(number, reason: naming(dialer.reason), isRoundOver: dialer.isRoundOver)
  }

  /// The reason with the server that it is about, where Sentinels have named that: the URL does not.
  private func naming(_ reason: String) -> String {
    guard let primary, !reason.contains("\(primary)") else { return reason }
    return "\(primary): \(reason)"
  }

  /// Ends the unanswered queries and schedules a new connection: after a backoff where every address was tried.
  private func ended(_ number: UInt64, reason: String, isRoundOver: Bool) {
    let known = machine.downReason
    guard
      let outage = machine.ended(
        number, reason: reason, isRoundOver: isRoundOver, random: .random(in: .min ... .max))
    else { return }
    hangUp()
    log.ended(reason, wasReady: outage.wasReady, isRoundOver: isRoundOver)
    let task = loop.assumeIsolated().scheduleTask(in: .milliseconds(outage.retryMilliseconds)) {
      self.retry(outage.number)
    }
    pause = (task, outage.number)
    if isRoundOver { decideFirstOutcome() }
    // The status line tells it at the end of a turn.
    if reason != known { onOutput() }
    if outage.wasReady {
      onEvent(.down, .only)
      for replicas in replicaLinks { replicas.linkDown() }
    }
    for id in outage.unanswered { queries.removeValue(forKey: id)?(nil) }
  }

  /// Makes connections to the very address of the link, with the same security.
  private func dialerBeside() -> RedisDialer {
    var endpoint = self.endpoint
    if let current, case .tcp(_, let port) = endpoint { endpoint = .tcp(host: current.address, port: port) }
    return RedisDialer(loop: loop, endpoint: endpoint, security: security, clock: clock)
  }

  private func hangUp() {
    watch?.cancel()
    watch = nil
    current?.channel.close(promise: nil)
    current = nil
  }

  private func decideFirstOutcome() {
    onFirstOutcome?()
    onFirstOutcome = nil
  }

  // MARK: Commands

  /// Sends a command of the engine's. Its reply comes as an event, unless the link breaks. `user`: on whose behalf.
  func submit(_ command: LeaseCommand, id: CommandID, to shard: ShardID, of user: UInt32?) {
    machine.submit(command, id: id, to: shard, of: user, now: clock.now())
    if machine.hasOutput { onOutput() }
  }

  /// Asks Redis something; the completion is called exactly once, with nil when there is no answer.
  ///
  /// - Parameter weight: how many commands it counts for among those that may be in flight.
  func query(
    _ command: RedisCommand, of user: UInt32? = nil, weight: Int = 1, _ completion: @escaping QueryCompletion
  ) {
    lastQuery += 1
    guard machine.query(command, id: lastQuery, of: user, weight: weight, now: clock.now()) else {
      return completion(nil)
    }
    queries[lastQuery] = completion
    if machine.hasOutput { onOutput() }
  }

  func acknowledge(_ id: AcknowledgementID, of shard: ShardID, _ need: ReplicaNeed, until: BootInstant) {
    let replicas = replicas(need.durability)
    // That of another shard may be on its way to another server, and be refused here.
    replicas.key = encoders[shard].acknowledgementKey
    replicas.ask(id, replicas: need.replicas, until: until)
  }

  func forgetAcknowledgement(_ id: AcknowledgementID, of shard: ShardID) {
    for replicas in replicaLinks { replicas.forget(id) }
  }

  private func replicas(_ durability: Durability) -> ReplicaLink { replicaLinks[durability == .memory ? 0 : 1] }

  /// Sends everything that was submitted since the last time in one write.
  func flush() {
    for replicas in replicaLinks where replicas.hasWork { replicas.goOn() }
    guard let current, machine.hasOutput else {
      machine.isUrgent = false
      return
    }
    machine.drainOutput { bytes in
      // Reuses the memory, unless the channel still has to write some of it.
      output.clear(minimumCapacity: bytes.count)
      output.writeBytes(bytes)
    }
    current.channel.writeAndFlush(output, promise: nil)
    if output.capacity > Self.keptOutputBytesMax { output = ByteBuffer() }
  }

  // MARK: What comes back

  func received(_ buffer: ByteBuffer, _ number: UInt64) {
    guard machine.isCurrent(number) else { return }
    onInput()
    buffer.withUnsafeReadableBytes { machine.received($0, from: number, now: clock.now()) }
    while let event = machine.nextEvent(now: clock.now()) { perform(event, number) }
    if machine.hasOutput { onOutput() }
  }

  private func perform(_ event: RedisLinkMachine.Event, _ number: UInt64) {
    switch event {
    case .up(let info): up(info)
    case .reply(let id, let reply, let shard):
      refusals.replied(reply)
      onEvent(.reply(id, reply), shard)
    case .answered(let id, let value): queries.removeValue(forKey: id)?(value)
    case .refused(let error, let command, let shard): refused(error, command, shard)
    case .message(let payload): heard(message: payload)
    case .proved: if let current { dialer.succeeded(current.address) }
    case .sent(let id, let shard): onEvent(.sent(id), shard)
    case .login(let outcome): loginChanged(outcome)
    case .ended(let ending): end(number, ending)
    }
  }

  /// A message to the inbox. Those that nobody waits for have only a share of the time (``InboxShare``).
  private func heard(message payload: [UInt8]) {
    counters.pushes += 1
    let began = clock.now()
    // What it asks of Redis needs room, too.
    let hasRoom = inboxShare.hasRoom(now: began) && !machine.isCrowded
    guard hasRoom || InboxMessage.mayBeAwaited(payload) else { return leftOut(now: began) }
    let message = InboxMessage(payload)
    let isAwaited = message.map(isAwaited) ?? false
    guard hasRoom || isAwaited else { return leftOut(now: began) }
    let processorTime = isAwaited ? 0 : TurnTimes.processorTimeNow()
    switch message {
    case .lease(let push)?:
      guard let shard = encoders.shard(of: push, in: payload) else {
        log.notUnderstood()
        break
      }
      onEvent(.push(push), shard)
    case .call(let id, let inbox, let payload)?: onEvent(.call(id, from: inbox, payload), .only)
    case .answer(let id, let payload)?: onEvent(.answer(id, payload), .only)
    case .trial?: break
    case nil: log.notUnderstood()
    }
    guard !isAwaited else { return }
    inboxShare.used(
      processorNanoseconds: TurnTimes.processorTimeNow() - processorTime, from: began, to: clock.now())
  }

  private func leftOut(now: BootInstant) {
    counters.pushesLeftOut += 1
    log.leftOut(now: now)
  }

  private func refused(_ error: [UInt8], _ command: String, _ shard: ShardID?) {
    counters.errors += 1
    guard !onRefused(error, shard) else { return }
    refusals.refused(error, command, now: clock.now())
    guard log.refused(error, command, now: clock.now()),
      let question = machine.rightsQuestion(after: error)
    else {
      return
    }
    query(question) { [unowned self] answer in
      guard let words = answer.flatMap({ machine.missingRights(by: $0) }) else { return }
      log.lacksRights(words, now: clock.now())
      refusals.explained(words)
    }
  }

  private func up(_ info: RedisReadyInfo) {
    counters.connections += 1
    log.connected(info, primary: primary)
    if let primary { sentinels?.linkUp(primary) }
    if let security, !security.verifies { log.notVerified() }
    login.wasAccepted()
    onEvent(.up, .only)
    // It may have become another one while the connection was made.
    machine.loginRead(login.current, now: clock.now())
    for replicas in replicaLinks {
      replicas.linkUp(
        run: info.client.runID, makeDialer: dialerBeside, isExpected: replicas.isExpected(by: need()))
    }
    decideFirstOutcome()
  }

  private func loginChanged(_ outcome: RedisRelogin.Outcome) {
    switch outcome {
    case .done: login.wasAccepted()
    case .refused, .lacksRights: login.wasRefused()
    }
    log.loginChanged(outcome, now: clock.now())
  }

  // MARK: Watching

  private func armWatch() {
    watch?.cancel()
    watch = loop.assumeIsolated().scheduleTask(in: .milliseconds(max(25, timeoutMilliseconds / 4))) {
      self.checkLiveness()
    }
  }

  private func checkLiveness() {
    guard machine.isConnected, let number = machine.number else { return }
    if let ending = machine.checkLiveness(answerMilliseconds: answerMilliseconds(), now: clock.now()) {
      return end(number, ending)
    }
    if machine.hasOutput { onOutput() }
    armWatch()
  }
}

/// Whose connections these are.
protocol RedisChannelOwner: AnyObject {
  /// Bytes came over the connection of that number.
  func received(_ buffer: ByteBuffer, _ number: UInt64)
  /// It was closed.
  func closed(_ number: UInt64, _ handler: RedisChannelHandler)
}

/// Passes what happens on the channel to its owner.
final class RedisChannelHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  private let owner: any RedisChannelOwner
  /// Which connection of the owner's it is; 0 until it is one.
  var number: UInt64 = 0
  /// Whether anything came from the server.
  private(set) var hasRead = false
  /// Why the connection ends; nil where nobody knows.
  private(set) var failure: String?

  init(owner: any RedisChannelOwner) {
    self.owner = owner
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    hasRead = true
    owner.received(unwrapInboundIn(data), number)
  }

  func channelInactive(context: ChannelHandlerContext) {
    owner.closed(number, self)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if let error = error as? TLSFailure { failure = error.description }
    context.close(promise: nil)
  }
}
