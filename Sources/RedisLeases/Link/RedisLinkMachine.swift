import DequeModule
public import LockEngine
public import LockTypes
public import RESP

/// The link to Redis as a state machine without I/O: one connection after the other, the commands in flight and those that
/// wait for room, the pauses between the connections, and whether the server lives.
///
/// It takes facts and commands, and gives bytes to send and events. Times and random numbers are passed in.
///
/// ```
/// stopped ── start ──▶ connecting ── connected ──▶ handshaking ── .up ──▶ ready
///                       ▲     │                         │                  │ a reply says that
///              retryDue │     │ no address answers      │                  │ only a new connection
///                       │     ▼                         ▼                  ▼ helps
///                      backingOff ◀─────── ended ───────┴─────────────── ending
/// ```
///
/// From everywhere between, a connection that is closed or silent leads to `backingOff`; ``stop()`` to `stopped`.
///
/// The caller:
/// 1. makes a connection when ``start()`` or ``retryDue(_:)`` gives its number, and tells what came of it with
///    ``connected(_:login:handshakeMilliseconds:now:)`` or ``ended(_:reason:isRoundOver:random:)``;
/// 2. hands over what was read with ``received(_:from:now:)``, and then takes events until ``nextEvent(now:)`` gives none;
/// 3. sends the output at the end of a turn, with ``drainOutput(_:)``;
/// 4. looks from time to time whether the server lives, with ``checkLiveness(answerMilliseconds:now:)``;
/// 5. tells with ``loginRead(_:now:)`` when there is another login, and behind ``Event/up(_:)`` which one there is;
/// 6. when it hears of an ``Ending``, closes the connection and tells ``ended(_:reason:isRoundOver:random:)``.
///
/// Every query is answered exactly once: by ``Event/answered(_:_:)``, or by its number in ``Outage/unanswered``. So is every
/// lease command, or the link goes down. Nothing is sent again over another connection, and what an earlier connection
/// still tells is not heard.
public struct RedisLinkMachine: Sendable {
  /// Which connection is meant. No number is given twice.
  public typealias ConnectionNumber = UInt64

  /// What the link tells, in order.
  public enum Event: Equatable, Sendable {
    /// Commands may be submitted.
    case up(RedisReadyInfo)
    /// The reply to a lease command.
    case reply(CommandID, LeaseReply, of: ShardID = .only)
    /// The reply to a query, by its number.
    case answered(UInt64, RESPValue)
    /// Redis has refused a command of that name; its reply is the next event, if anybody waits for it. `of`: the shard that
    /// it is about, where it is about one.
    case refused([UInt8], command: String, of: ShardID? = nil)
    /// A message to the inbox.
    case message([UInt8])
    /// The first reply behind the handshake: the connection is good for something.
    case proved
    /// A lease command that had to wait for room is on its way.
    case sent(CommandID, of: ShardID = .only)
    /// What came of another login; see ``loginRead(_:now:)``.
    case login(RedisRelogin.Outcome)
    /// The connection is of no further use.
    case ended(Ending)
  }

  /// Why a connection is of no use.
  public struct Ending: Equatable, Sendable {
    /// The reason, for the operator.
    public var reason: String
    /// Whether another address may be better: this one has never been good for anything, or is silent, or refuses.
    public var isAddressToBlame: Bool
    /// Whether user or password was refused.
    public var isLoginRefused = false
  }

  /// What follows from the end of a connection.
  public struct Outage: Equatable, Sendable {
    /// Whether commands could be submitted until now.
    public var wasReady: Bool
    /// Queries that have no answer, and will have none.
    public var unanswered: [UInt64]
    /// When to connect again, in milliseconds.
    public var retryMilliseconds: Int64
    /// The number to give to ``retryDue(_:)`` then.
    public var number: ConnectionNumber
  }

  private enum State: Equatable {
    case stopped
    case connecting(ConnectionNumber)
    /// `milliseconds`: how long the server may be silent in it.
    case handshaking(ConnectionNumber, milliseconds: Int64)
    case ready(ConnectionNumber)
    /// Only a new connection helps. Replies that were read together with the reason are handled before.
    case ending(ConnectionNumber, reason: String)
    /// The connection of that number is over, and the next one has to wait.
    case backingOff(ConnectionNumber)
  }

  /// What was read together, and not yet given as events.
  private struct Batch {
    var isOpen = false
    var actions: [RedisConnectionAction] = []
    var next = 0
    var hasReply = false
    var endsPauses = false
    /// The reply that follows a ``Event/refused(_:command:of:)``.
    var refusedReply: Event?
    /// Those that had to wait and are on their way.
    var sent: Deque<(id: CommandID, shard: ShardID)> = []
  }

  /// An idle connection gets a PING after this much silence, in milliseconds.
  public static let idleMillisecondsMax: Int64 = 15_000

  private let encoders: LeaseEncoders
  /// Of this connection, or of the next one.
  var configuration: RedisConnectionConfiguration
  private var state = State.stopped
  /// Counts connections.
  private var lastNumber: ConnectionNumber = 0
  private var connection: RedisConnection
  private var window = CommandWindow()
  /// The change of the login that is under way. Until it is answered nothing but the question for the epoch is sent: what a user
  /// lacks is found out before anybody has a part in it.
  var relogin: RedisRelogin?
  /// The login that is to follow.
  var nextLogin: RedisLogin?
  private var backoff = LinkBackoff()
  private var batch = Batch()
  /// When the server last answered, or was asked while nothing was in flight. Pushes prove nothing: it may push for
  /// ever and execute no command.
  private var lastAnsweredAt = BootInstant(nanoseconds: 0)
  /// Whether to send a PING behind ``Event/up(_:)``, if nothing else is sent then.
  private var isProofWanted = false

  /// How long Redis may take to answer, in milliseconds.
  public var timeoutMilliseconds: Int64
  /// Whether the last connection has answered a command, behind the handshake, other than by an error that ends it.
  /// Only then has it succeeded.
  public private(set) var hasAnswered = false
  /// Why there is no connection; nil while there is one.
  public private(set) var downReason: String? = "not connected yet"
  /// Whether somebody waits for something that is to be sent.
  public var isUrgent = false
  /// How many commands were taken since the start.
  public private(set) var commandCount: UInt64 = 0

  /// A link that is not begun. `configuration`: of its first connection.
  public init(
    configuration: RedisConnectionConfiguration, encoders: LeaseEncoders, timeoutMilliseconds: Int64
  ) {
    self.configuration = configuration
    self.encoders = encoders
    self.timeoutMilliseconds = timeoutMilliseconds
    connection = RedisConnection(configuration: configuration)
  }

  /// The same, to the only shard.
  public init(
    configuration: RedisConnectionConfiguration, encoder: LeaseCommandEncoder, timeoutMilliseconds: Int64
  ) {
    self.init(
      configuration: configuration, encoders: LeaseEncoders(encoder), timeoutMilliseconds: timeoutMilliseconds)
  }

  /// Whether commands may be submitted.
  public var isReady: Bool {
    switch state {
    case .ready, .ending: true
    case .stopped, .connecting, .handshaking, .backingOff: false
    }
  }

  /// Whether there is a connection whose server has to answer.
  public var isConnected: Bool {
    switch state {
    case .handshaking, .ready, .ending: true
    case .stopped, .connecting, .backingOff: false
    }
  }

  /// Commands that wait for room.
  public var waitingCount: Int { window.waitingCount }

  /// About how much memory the commands take that wait for room and that a user has asked for, in bytes.
  public func waitingMemory(of user: UInt32?) -> Int { window.waitingMemory(of: user) }

  /// Whether as many commands wait as may be in flight together.
  public var isCrowded: Bool { window.waitingCount >= CommandWindow.weightMax }

  /// The connection that is being made, or is there; nil when there is none.
  public var number: ConnectionNumber? {
    switch state {
    case .connecting(let number), .handshaking(let number, _), .ready(let number), .ending(let number, _): number
    case .stopped, .backingOff: nil
    }
  }
}

// MARK: - Connections

extension RedisLinkMachine {
  /// Begins. Gives the number of the connection to make; nil if it has begun already.
  public mutating func start() -> ConnectionNumber? {
    guard state == .stopped else { return nil }
    return connect()
  }

  /// Ends for good: nothing is answered any more.
  public mutating func stop() {
    state = .stopped
    clear()
    _ = window.removeAll()
  }

  /// The pause of an ``Outage`` is over. Gives the number of the connection to make; nil if it is not wanted any more.
  public mutating func retryDue(_ number: ConnectionNumber) -> ConnectionNumber? {
    guard state == .backingOff(number) else { return nil }
    return connect()
  }

  private mutating func connect() -> ConnectionNumber {
    lastNumber += 1
    state = .connecting(lastNumber)
    hasAnswered = false
    return lastNumber
  }

  /// From the next connection on, tries its server with keys of this shard: one that the server has.
  public mutating func trySuch(keysOf shard: ShardID) {
    configuration.probe = encoders[shard].probe
    configuration.trial = encoders[shard].trial
  }

  /// There is a connection: the handshake begins, with `login`. `handshakeMilliseconds`: how long the server may be silent in
  /// it. False if this connection is not wanted any more.
  public mutating func connected(
    _ number: ConnectionNumber, login: RedisLogin = RedisLogin(), handshakeMilliseconds: Int64, now: BootInstant
  ) -> Bool {
    guard state == .connecting(number) else { return false }
    configuration.login = login
    state = .handshaking(number, milliseconds: handshakeMilliseconds)
    lastAnsweredAt = now
    connection = RedisConnection(configuration: configuration)
    connection.connected()
    return true
  }

  /// The connection was closed, by whomever; nil if it was over before. `reason`: why; nil where nobody knows.
  public func closed(_ number: ConnectionNumber, reason: String? = nil) -> Ending? {
    guard isCurrent(number) else { return nil }
    // If it has answered nothing behind the handshake, the address is to blame.
    return Ending(reason: reason ?? "the connection was closed", isAddressToBlame: !hasAnswered)
  }

  /// A connection is over, or was not made; nil if it was over before.
  ///
  /// - Parameters:
  ///   - reason: what the operator is told as long as there is no other.
  ///   - isRoundOver: whether each address was tried since the last pause. Otherwise the next one follows at once.
  ///   - random: decides about the length of the pause.
  public mutating func ended(
    _ number: ConnectionNumber, reason: String, isRoundOver: Bool, random: UInt64
  ) -> Outage? {
    guard number == self.number else { return nil }
    let wasReady = isReady
    state = .backingOff(number)
    downReason = reason
    clear()
    let unanswered = window.removeAll().compactMap { command -> UInt64? in
      switch command {
      case .query(let id, _, _): id
      case .lease, .ping, .relogin: nil
      }
    }
    return Outage(
      wasReady: wasReady, unanswered: unanswered,
      retryMilliseconds: isRoundOver ? backoff.next(random: random) : 0, number: number)
  }

  /// Forgets what belongs to the connection.
  private mutating func clear() {
    _ = connection.closed()
    batch = Batch()
    isProofWanted = false
    relogin = nil
    nextLogin = nil
  }
}

// MARK: - Commands

extension RedisLinkMachine {
  /// Sends a command of the engine's, as soon as there is room; false if there is no connection, and nothing will come.
  /// `shard`: which one's locks it is about. `user`: on whose behalf. `now` is taken only when nothing is in flight.
  @discardableResult
  public mutating func submit(
    _ command: LeaseCommand, id: CommandID, to shard: ShardID = .only, of user: UInt32?,
    now: @autoclosure () -> BootInstant
  ) -> Bool {
    guard isReady else { return false }
    commandCount += 1
    if command.isUrgent { isUrgent = true }
    switch command {
    case .confirmEpoch:
      // What waits here would be refused in another epoch, and nothing else is of any use before it is known.
      send(.lease(id, command, of: shard), of: nil, now: now())
    case .renew, .reclaim:
      window.waitFirst(.lease(id, command, of: shard))
      fillWindow(now: now())
    case .acquire, .release, .downgrade, .reserve, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage:
      put(.lease(id, command, of: shard), of: user, now: now())
    }
    return true
  }

  /// Asks Redis something, as soon as there is room; false if there is no connection, and no answer will come. `weight`: how
  /// many commands it counts for among those that may be in flight.
  public mutating func query(
    _ command: RedisCommand, id: UInt64, of user: UInt32?, weight: Int, now: @autoclosure () -> BootInstant
  ) -> Bool {
    guard isReady else { return false }
    commandCount += 1
    isUrgent = true
    put(.query(id, command, weight: weight), of: user, now: now())
    return true
  }

  /// Sends a PING; nobody waits for the answer.
  private mutating func ping(now: @autoclosure () -> BootInstant) {
    commandCount += 1
    isUrgent = true
    put(.ping, of: nil, now: now())
  }

  private mutating func put(
    _ command: LinkCommand, of user: LinkCommand.User, now: @autoclosure () -> BootInstant
  ) {
    if relogin == nil, window.mayPass(of: user) { return send(command, of: user, now: now()) }
    window.wait(command, of: user)
    fillWindow(now: now())
  }

  /// Sends what waits as far as there is room. At the end of a batch ``Event/sent(_:)`` reports lease commands: a lease
  /// counts from when it was really asked for. The others go out within the turn in which they were submitted.
  private mutating func fillWindow(isEndOfBatch: Bool = false, now: @autoclosure () -> BootInstant) {
    while relogin == nil, let (command, user) = window.next() {
      send(command, of: user, now: now())
      guard isEndOfBatch else { continue }
      isUrgent = true
      if case .lease(let id, _, let shard) = command { batch.sent.append((id, shard)) }
    }
  }

  mutating func send(
    _ command: LinkCommand, of user: LinkCommand.User, now: @autoclosure () -> BootInstant
  ) {
    if window.inFlight.isEmpty { lastAnsweredAt = now() }
    let number = window.sent(command, of: user)
    switch command {
    case .lease(_, let command, let shard): _ = connection.submit(encoders.encode(command, to: shard), id: number)
    case .query(_, let command, _): _ = connection.submit(command, id: number)
    case .ping: _ = connection.submit(.plain([Array("PING".utf8)]), id: number)
    case .relogin(let step): if let command = relogin?.command(of: step) { _ = connection.submit(command, id: number) }
    }
  }

  /// Whether there are bytes to send.
  public var hasOutput: Bool { connection.hasOutput }

  /// Takes the bytes to send; they are valid only within `body`.
  public mutating func drainOutput<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    isUrgent = false
    return try connection.drainOutput(body)
  }
}

// MARK: - What comes back

extension RedisLinkMachine {
  /// Whether facts about this connection are listened to.
  public func isCurrent(_ number: ConnectionNumber) -> Bool { isConnected && number == self.number }

  /// Bytes came over a connection. What they mean is given by ``nextEvent(now:)``.
  public mutating func received(
    _ bytes: UnsafeRawBufferPointer, from number: ConnectionNumber, now: @autoclosure () -> BootInstant
  ) {
    guard isCurrent(number) else { return }
    let answers = connection.answerCount
    batch.actions = connection.received(bytes)
    batch.next = 0
    batch.hasReply = false
    batch.endsPauses = false
    batch.isOpen = true
    if connection.answerCount != answers { lastAnsweredAt = now() }
    // The handshake goes on, a script that Redis does not know is sent again, or another host asks for what a release is
    // about to give back.
    if connection.hasOutput { isUrgent = true }
  }

  /// The next event; nil when that is all. Commands may be submitted between two events. `now` is taken only when
  /// something is sent and nothing is in flight.
  public mutating func nextEvent(now: @autoclosure () -> BootInstant) -> Event? {
    if isProofWanted {
      isProofWanted = false
      if isReady, window.isEmpty { ping(now: now()) }
    }
    if let reply = batch.refusedReply.take() { return reply }
    while batch.next < batch.actions.count {
      let action = batch.actions[batch.next]
      batch.next += 1
      if let event = taken(action, now: now()) { return event }
    }
    if batch.isOpen {
      batch.isOpen = false
      batch.actions = []
      batch.next = 0
      if case .ending(_, let reason) = state { return .ended(Ending(reason: reason, isAddressToBlame: true)) }
      if isReady { fillWindow(isEndOfBatch: true, now: now()) }
      if batch.endsPauses { backoff.reset() }
      if batch.hasReply, !hasAnswered {
        hasAnswered = true
        return .proved
      }
    }
    return batch.sent.popFirst().map { .sent($0.id, of: $0.shard) }
  }

  private mutating func taken(_ action: RedisConnectionAction, now: @autoclosure () -> BootInstant) -> Event? {
    switch action {
    case .ready(let info):
      guard case .handshaking(let number, _) = state else { return nil }
      state = .ready(number)
      downReason = nil
      configuration.previousClient = info.client
      isProofWanted = true
      return .up(info)
    case .failed(let failure):
      return .ended(
        Ending(
          reason: failure.message, isAddressToBlame: true, isLoginRefused: failure.reason == .authenticationFailed))
    case .fault(let fault): return .ended(Ending(reason: fault.description, isAddressToBlame: true))
    case .message(_, let payload): return .message(payload)
    case .reply(let number, let value):
      let command = window.answered(number)
      batch.hasReply = true
      // The question for the epoch belongs to the beginning of a connection, as the handshake does: the pause between
      // connections does not end with its answer.
      if command?.isOfBeginning != true { batch.endsPauses = true }
      guard let command else { return nil }
      return replied(value, to: command, now: now())
    }
  }

  private mutating func replied(
    _ value: RESPValue, to command: LinkCommand, now: @autoclosure () -> BootInstant
  ) -> Event? {
    let reply: Event? =
      switch command {
      case .lease(let id, let command, let shard): .reply(id, LeaseReplyDecoder.decode(value, to: command), of: shard)
      case .query(let id, _, _): .answered(id, value)
      case .ping: nil
      case .relogin(let step): reloginReplied(value, to: step, now: now())
      }
    guard let error = value.error else { return reply }
    if isReady, let number, let reason = RedisErrorReply.reasonToReconnect(error: error) {
      state = .ending(number, reason: reason)
    }
    // Its words may hold a password.
    if case .relogin = command { return reply }
    batch.refusedReply = reply
    return .refused(error, command: command.word, of: command.shard)
  }
}

// MARK: - Whether the server lives

extension RedisLinkMachine {
  /// Looks whether Redis still answers: a connection whose other end vanished without a word would look alive for as
  /// long as the kernel likes. An idle connection gets a PING.
  ///
  /// - Parameter answerMilliseconds: how long late answers take on this link; silence may last at least that long.
  public mutating func checkLiveness(answerMilliseconds: Int64, now: BootInstant) -> Ending? {
    let silence = now.milliseconds(since: lastAnsweredAt)
    switch state {
    case .stopped, .connecting, .backingOff:
      return nil
    case .handshaking(_, let patience):
      guard silence >= patience else { return nil }
      return Ending(reason: "no answer to the handshake within \(patience) ms", isAddressToBlame: true)
    case .ready, .ending:
      let patience = max(timeoutMilliseconds, answerMilliseconds)
      if window.inFlight.isEmpty {
        if silence >= Self.idleMillisecondsMax { ping(now: now) }
        return nil
      }
      guard silence >= patience else { return nil }
      return Ending(reason: "no answer within \(patience) ms", isAddressToBlame: true)
    }
  }
}
