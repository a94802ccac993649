import LockTypes
import Logging
import NIOCore
import RESP
import RedisLeases

/// What is known of the primary by Sentinels.
struct SentinelStanding {
  /// What they call it.
  var master: String
  /// How many of them watch it.
  var count: Int
  /// Where it is; nil: nobody has said it yet.
  var primary: RedisAddress?
  /// How often it was another server than before.
  var failovers: UInt64
  /// The last time.
  var lastFailover: SentinelMachine.Failover?

  /// For the status line.
  var words: String {
    let place = primary.map { " at \($0)" } ?? ""
    let watched =
      "\(master)\(place), \(count) sentinel\(count == 1 ? "" : "s"), \(failovers) failover\(failovers == 1 ? "" : "s")"
    return lastFailover.map { "\(watched), the last from \($0.from)" } ?? watched
  }
}

/// Asks Sentinels where the primary is, and hears of failovers. ``SentinelMachine`` decides whom to ask and what to
/// believe; here are the connections, each small and for this alone, and the timer.
final class SentinelWatch: RedisChannelOwner {
  /// One connection, or the attempt to make it.
  private final class Talk {
    let dialer: RedisDialer
    let address: RedisAddress
    var connection: SentinelConnection
    var channel: (any Channel)?
    /// Which address of the name it leads to.
    var dialed = ""

    init(_ dialer: RedisDialer, _ address: RedisAddress, _ connection: SentinelConnection) {
      self.dialer = dialer
      self.address = address
      self.connection = connection
    }
  }

  private let loop: any EventLoop
  private let sentinels: RedisSentinels
  private let clientName: String
  private let makeDialer: (RedisAddress) -> RedisDialer
  private let clock: HostClock
  private let logger: Logger
  private var machine: SentinelMachine
  private var talks: [UInt64: Talk] = [:]
  /// Kept, because they know which addresses of a name are good.
  private var dialers: [RedisAddress: RedisDialer] = [:]
  private var completion: ((RedisAddress?) -> Void)?
  private var timer: Scheduled<Void>?
  private var effects: [SentinelMachine.Effect] = []
  private var isPerforming = false
  private var isStopped = false
  private var tally = MessageTally()

  /// Why the last search found nothing.
  private(set) var reason = "not connected yet"
  /// Called when another server has become the primary while nobody searches.
  var onSwitch: (RedisAddress) -> Void = { _ in }

  init(
    _ sentinels: RedisSentinels, loop: any EventLoop, clientName: String, timeoutMilliseconds: Int64, clock: HostClock,
    logger: Logger, makeDialer: @escaping (RedisAddress) -> RedisDialer
  ) {
    self.loop = loop
    self.sentinels = sentinels
    self.clientName = clientName
    self.makeDialer = makeDialer
    self.clock = clock
    self.logger = logger
    machine = SentinelMachine(sentinels, limitMilliseconds: timeoutMilliseconds)
  }

  var standing: SentinelStanding {
    SentinelStanding(
      master: sentinels.master, count: machine.sentinelCount, primary: machine.primary,
      failovers: machine.failoverCount, lastFailover: machine.lastFailover)
  }

  /// How long a Sentinel may take to connect and answer, in milliseconds.
  var timeoutMilliseconds: Int64 {
    get { machine.limitMilliseconds }
    set { machine.limitMilliseconds = newValue }
  }

  /// Asks where the primary is. The completion is called once; nil: ``reason`` says why nobody knows it.
  func find(_ completion: @escaping (RedisAddress?) -> Void) {
    self.completion = completion
    perform(machine.search(now: clock.now()))
  }

  /// The link to that primary serves.
  func linkUp(_ primary: RedisAddress) { machine.linkUp(primary, now: clock.now()) }

  /// The link is gone, or was not made; see ``SentinelMachine/linkDown(isUseless:)``.
  func linkDown(isUseless: Bool) { machine.linkDown(isUseless: isUseless) }

  /// Closes all connections for good.
  func stop() {
    isStopped = true
    timer?.cancel()
    completion = nil
    for talk in talks.values { talk.channel?.close(promise: nil) }
    talks = [:]
  }

  // MARK: Effects

  /// Carries out the effects in their order, also those that come of carrying out others.
  private func perform(_ more: [SentinelMachine.Effect]) {
    effects += more
    guard !isPerforming else { return }
    isPerforming = true
    while !effects.isEmpty, !isStopped { perform(effects.removeFirst()) }
    isPerforming = false
    armTimer()
  }

  private func perform(_ effect: SentinelMachine.Effect) {
    switch effect {
    case .connect(let number, let address): connect(number, address)
    case .ask(let number):
      talks[number]?.connection.ask()
      send(number)
    case .close(let number): talks.removeValue(forKey: number)?.channel?.close(promise: nil)
    case .found(let primary): completion.take()?(primary)
    case .notFound(let words):
      reason = words
      completion.take()?(nil)
    case .switched(let primary): onSwitch(primary)
    case .tell(let notice): tell(notice)
    }
  }

  private func armTimer() {
    timer?.cancel()
    timer = nil
    guard !isStopped, let deadline = machine.deadline else { return }
    let milliseconds = max(1, deadline.milliseconds(since: clock.now()) + 1)
    timer = loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
      self.perform(self.machine.timePassed(now: self.clock.now()))
    }
  }

  private func tell(_ notice: SentinelMachine.Notice) {
    let now = clock.now()
    switch notice {
    case .useless(let address, let words):
      guard let count = tally.toLog(kind: "\(address) \(words)", now: now) else { return }
      logger.warning(
        "a sentinel is of no use", metadata: ["sentinel": "\(address)", "reason": "\(words)", "count": "\(count)"])
    case .disagreement(let words):
      guard let count = tally.toLog(kind: "disagreement", now: now) else { return }
      // In a failover they do for a second or two.
      logger.notice(
        "the sentinels disagree about the primary, and the youngest failover is believed",
        metadata: ["reason": "\(words)", "count": "\(count)"])
    case .nobodyListenedTo(let words):
      guard let count = tally.toLog(kind: "nobody", now: now) else { return }
      logger.warning(
        "no sentinel can be listened to: a failover is noticed only when the primary fails",
        metadata: ["reason": "\(words)", "count": "\(count)"])
    }
  }

  // MARK: Connections

  private func connect(_ number: UInt64, _ address: RedisAddress) {
    let dialer = dialers[address] ?? makeDialer(address)
    dialers[address] = dialer
    if dialers.count > 2 * RedisSentinels.addressesMax { dialers = dialers.filter { $0.key == address } }
    let talk = Talk(dialer, address, SentinelConnection(sentinels, clientName: clientName))
    talks[number] = talk
    dial(talk, number)
  }

  private func dial(_ talk: Talk, _ number: UInt64) {
    talk.dialer.dial(
      timeoutMilliseconds: timeoutMilliseconds, makeHandler: { RedisChannelHandler(owner: self) },
      completion: { dialed in
        guard self.talks[number] === talk else {
          dialed?.channel.close(promise: nil)
          return
        }
        guard let dialed else { return self.ended(number, talk.dialer.reason) }
        dialed.handler.number = number
        (talk.channel, talk.dialed) = (dialed.channel, dialed.address)
        talk.connection.connected()
        self.machine.connected(number, now: self.clock.now())
        self.armTimer()
        self.send(number)
        // It may have ended before its handler had a number.
        if !dialed.channel.isActive { self.closed(number, dialed.handler) }
      })
  }

  private func send(_ number: UInt64) {
    guard let talk = talks[number], let channel = talk.channel else { return }
    channel.writeAndFlush(ByteBuffer(bytes: talk.connection.takeOutput()), promise: nil)
  }

  private func ended(_ number: UInt64, _ reason: String) {
    guard let talk = talks.removeValue(forKey: number) else { return }
    talk.channel?.close(promise: nil)
    let dialing = "cannot connect to \(talk.address): "
    let words = reason.hasPrefix(dialing) ? "cannot connect: \(reason.dropFirst(dialing.count))" : reason
    perform(machine.ended(number, reason: words, now: clock.now()))
  }

  func received(_ buffer: ByteBuffer, _ number: UInt64) {
    guard let talk = talks[number] else { return }
    for event in buffer.withUnsafeReadableBytes({ talk.connection.received($0) }) {
      switch event {
      case .answered(let answer):
        talk.dialer.succeeded(talk.dialed)
        perform(machine.answered(number, answer, now: clock.now()))
      case .switched(let primary): perform(machine.switched(number, to: primary, now: clock.now()))
      case .refused(let words): refused(number, talk, words)
      }
    }
  }

  /// What answers there is of no use. Another address of the same name may be.
  private func refused(_ number: UInt64, _ talk: Talk, _ words: String) {
    guard talks[number] === talk else { return }
    // Its end is no news.
    talk.channel.take()?.close(promise: nil)
    talk.dialer.failed(talk.dialed, words)
    guard !talk.dialer.isRoundOver else { return ended(number, talk.dialer.reason) }
    talk.connection = SentinelConnection(sentinels, clientName: clientName)
    dial(talk, number)
  }

  func closed(_ number: UInt64, _ handler: RedisChannelHandler) {
    guard let talk = talks[number], let channel = talk.channel, !channel.isActive else { return }
    let words = handler.failure ?? "the connection was closed"
    if handler.hasRead { return ended(number, words) }
    let guess = talk.dialer.guess(scheme: "rediss-sentinel")
    refused(number, talk, handler.failure ?? guess ?? "the connection was closed without a word")
  }
}
