import LockEngine
import LockTypes
import NIOCore
import RESP
import RedisLeases

/// The connection beside the link on which replicas are waited for: ``ReplicaRounds`` with its channel and timer. It is made
/// when somebody first asks for replicas, and ends with the link. Another one beside it is for replicas that are slower than
/// the others; it is made when there are such.
final class ReplicaLink: RedisChannelOwner {
  /// Answers that one turn passes on: very many may come at once.
  private static let answersInTurn = 256

  private let loop: any EventLoop
  private let clock: HostClock
  /// What the link logs in with.
  private let login: () -> RedisLogin
  private let durability: Durability
  private var rounds: ReplicaRounds
  /// What is not answered here soon is asked there.
  private let second: ReplicaLink?
  /// To the address of the link; nil while that is down.
  private var dialer: RedisDialer?
  private var channel: (any Channel)?
  /// Counts connections.
  private var number: UInt64 = 0
  private var timer: (at: BootInstant, task: Scheduled<Void>)?
  private var isDelivering = false
  private let onAnswer: (AcknowledgementID, AcknowledgementAnswer) -> Void
  /// Called when the replicas of a server are known that are asked for by the settings.
  var onFacts: (ReplicaRounds.Facts) -> Void = { _ in }
  /// Called when there is no connection; why.
  var onTrouble: (String) -> Void = { _ in } {
    didSet { second?.onTrouble = onTrouble }
  }

  init(
    _ durability: Durability, isSecond: Bool = false, loop: any EventLoop, key: [UInt8],
    configuration: RedisConnectionConfiguration, timeoutMilliseconds: Int64, clock: HostClock,
    login: @escaping () -> RedisLogin, onAnswer: @escaping (AcknowledgementID, AcknowledgementAnswer) -> Void
  ) {
    self.loop = loop
    self.clock = clock
    self.login = login
    self.durability = durability
    self.onAnswer = onAnswer
    rounds = ReplicaRounds(
      durability, passesOn: !isSecond, key: key, configuration: configuration, timeoutMilliseconds: timeoutMilliseconds)
    second =
      isSecond
      ? nil
      : ReplicaLink(
        durability, isSecond: true, loop: loop, key: key, configuration: configuration,
        timeoutMilliseconds: timeoutMilliseconds, clock: clock, login: login, onAnswer: onAnswer)
  }

  var timeoutMilliseconds: Int64 {
    get { rounds.timeoutMilliseconds }
    set {
      rounds.timeoutMilliseconds = newValue
      second?.timeoutMilliseconds = newValue
    }
  }

  /// What is written to on the connections.
  var key: [UInt8] {
    get { rounds.key }
    set {
      rounds.key = newValue
      second?.key = newValue
    }
  }

  /// The link is up, to that run of a server; a dialer makes connections to the same address.
  func linkUp(run: String?, makeDialer: () -> RedisDialer, isExpected: Bool) {
    dialer = makeDialer()
    rounds.isExpected = isExpected
    rounds.linkUp(run: run)
    second?.linkUp(run: run, makeDialer: makeDialer, isExpected: false)
    goOn()
  }

  func linkDown() {
    dialer = nil
    hangUp()
    rounds.linkDown()
    second?.linkDown()
    goOn()
  }

  func ask(_ id: AcknowledgementID, replicas: Int, until: BootInstant) {
    ask(ReplicaRounds.Question(id: id, replicas: replicas, until: until))
  }

  private func ask(_ question: ReplicaRounds.Question) {
    rounds.ask(question)
    hasWork = true
  }

  func forget(_ id: AcknowledgementID) {
    rounds.forget(id)
    second?.forget(id)
  }

  /// Whether ``goOn()`` may have something to do.
  private(set) var hasWork = false

  /// Whether it is needed for every lease.
  func isExpected(by need: ReplicaNeed) -> Bool { !need.isNone && need.durability == durability }

  /// Sends what is due, connects where that is wanted, and passes on answers. At the end of a turn.
  func goOn() {
    hasWork = false
    let now = clock.now()
    rounds.goOn(now: now)
    while let question = rounds.nextPassedOn() { second?.ask(question) }
    if let second, second.hasWork { second.goOn() }
    if rounds.hasOutput, let channel {
      channel.writeAndFlush(ByteBuffer(bytes: rounds.takeOutput()), promise: nil)
    }
    if rounds.mustConnect() { connect() }
    if let facts = rounds.takeFacts() { onFacts(facts) }
    armTimer(now: now)
    deliverSoon()
  }

  private func connect() {
    guard let dialer else { return }
    dialer.dial(
      timeoutMilliseconds: timeoutMilliseconds, makeHandler: { RedisChannelHandler(owner: self) },
      completion: { dialed in
        guard let dialed else { return self.ended(dialer.reason) }
        guard self.dialer === dialer, self.rounds.connected(login: self.login(), now: self.clock.now())
        else {
          return dialed.channel.close(promise: nil)
        }
        self.number += 1
        dialed.handler.number = self.number
        self.channel = dialed.channel
        self.goOn()
        // It may have ended before its handler had a number.
        if !dialed.channel.isActive { self.closed(self.number, dialed.handler) }
      })
  }

  func received(_ buffer: ByteBuffer, _ number: UInt64) {
    guard number == self.number, channel != nil else { return }
    let now = clock.now()
    let problem = buffer.withUnsafeReadableBytes {
      rounds.received($0, random: .random(in: .min ... .max), now: now)
    }
    if let problem { return ended(problem) }
    goOn()
  }

  func closed(_ number: UInt64, _ handler: RedisChannelHandler) {
    guard number == self.number, channel != nil else { return }
    ended(handler.failure ?? "the connection was closed")
  }

  private func ended(_ reason: String) {
    hangUp()
    onTrouble(reason)
    rounds.ended(reason, random: .random(in: .min ... .max), now: clock.now())
    goOn()
  }

  private func hangUp() {
    channel?.close(promise: nil)
    channel = nil
  }

  // MARK: Time

  private func armTimer(now: BootInstant) {
    guard let next = rounds.nextDeadline else {
      timer?.task.cancel()
      timer = nil
      return
    }
    if let timer, timer.at <= next { return }
    timer?.task.cancel()
    let task = loop.assumeIsolated().scheduleTask(in: .milliseconds(max(0, next.milliseconds(since: now)) + 1)) {
      self.timer = nil
      if let problem = self.rounds.timePassed(now: self.clock.now()) { return self.ended(problem) }
      self.goOn()
    }
    timer = (next, task)
  }

  // MARK: Answers

  /// Not at once: this may be the middle of a turn.
  private func deliverSoon() {
    guard rounds.hasAnswers, !isDelivering else { return }
    isDelivering = true
    loop.assumeIsolated().execute { self.deliver() }
  }

  private func deliver() {
    isDelivering = false
    for _ in 0..<Self.answersInTurn {
      guard let (id, answer) = rounds.nextAnswer() else { return }
      onAnswer(id, answer)
    }
    deliverSoon()
  }
}
