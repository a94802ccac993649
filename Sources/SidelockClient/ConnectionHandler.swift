import NIOCore
import NIOConcurrencyHelpers
import SystemStrings

/// The state of one acquire, shared by its caller and the connection.
final class AcquireTicket: Sendable {
  enum State {
    case new
    case sent(id: Int64)
    case cancelled
    case done
  }

  let names: [String]
  let params: JSONValue
  /// One for each name.
  let holds: [Hold]
  let state = NIOLockedValueBox(State.new)
  let onWaiting: (@Sendable (Int) -> Void)?
  /// When it was sent, in milliseconds on the boot clock.
  let asked = NIOLockedValueBox<Int64>(0)

  init(
    names: [String], params: JSONValue, holds: [Hold], onWaiting: (@Sendable (Int) -> Void)? = nil
  ) {
    self.onWaiting = onWaiting
    self.names = names
    self.params = params
    self.holds = holds
  }
}

/// A lock that another connection has handed to this one.
struct HandedLock: Sendable {
  var grant: Grant
  var hold: Hold
}

/// The connection's handler on the event loop: it matches replies with requests and losses with holds.
final class ConnectionHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private enum Pending {
    case call(method: String, PendingReply<JSONValue>)
    /// Ends a hold if it succeeds: the given one, or else the last of that name and token.
    case end(HoldKey, Hold?, PendingReply<JSONValue>)
    case acquire(AcquireTicket, PendingReply<[Grant]>)
    /// The last release of a grant that crossed the cancellation of its acquire.
    case releaseOfCancelled(PendingReply<[Grant]>)
    case watch(AsyncStream<WatchEvent>.Continuation, PendingReply<Int64>)
    /// How long holds are good, asked at that time on the boot clock.
    case validity(asked: Int64)
    /// Whether a daemon that is late with another answer hangs.
    case probe(Probe)
    /// Nobody waits for the reply.
    case ignored
  }

  private final class Probe {
    var isAnswered = false
  }

  private struct HoldKey: Hashable {
    /// Names are bytes: two that only look alike are different locks, which may have the same token.
    var name: ExactText
    var token: Int64

    init(name: String, token: Int64) {
      self.name = ExactText(name)
      self.token = token
    }
  }

  private var machine = ClientMachine()
  private var pending: [Int64: Pending] = [:]
  /// An owner that acquires a lock again has it twice under one token.
  private var holds: [HoldKey: [Hold]] = [:]
  private var watches: [Int64: AsyncStream<WatchEvent>.Continuation] = [:]
  private let handed: AsyncStream<HandedLock>.Continuation
  /// How long the daemon may take to answer what it can answer at once.
  private let answerTime: TimeAmount
  private var failure: SidelockError?
  /// Whether no request can be answered any more; set before anybody is told of a loss.
  let hasFailed = NIOLockedValueBox(false)
  private var context: ChannelHandlerContext?
  /// When the ping was sent that says how long holds are good, and that is not answered yet.
  private var askedAt: Int64?
  private var noPingBefore: Int64 = 0
  /// Whether holds end by themselves, as far as the daemon has told.
  private var hasLeases = false
  private var look: (at: Int64, timer: Scheduled<Void>)?

  init(handed: AsyncStream<HandedLock>.Continuation, answerMilliseconds: Int64) {
    self.handed = handed
    answerTime = .milliseconds(answerMilliseconds)
  }

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    look?.timer.cancel()
    look = nil
    self.context = nil
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let buffer = unwrapInboundIn(data)
    for event in machine.received(buffer.readableBytesView) {
      switch event {
      case .reply(let id, let result): replied(id, result)
      case .lost(let notice):
        for hold in holds.removeValue(forKey: HoldKey(name: notice.name, token: notice.token)) ?? [] {
          hold.lose(notice)
        }
      case .notification(let method, let params): notified(method, params)
      case .violated(let error):
        fail(error)
        context.close(promise: nil)
        return
      }
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    fail(SidelockError(reason: .connectionLost, message: "the connection to the daemon broke: \(error)"))
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    fail(SidelockError(reason: .connectionLost, message: "the connection to the daemon ended"))
    context.fireChannelInactive()
  }

  // MARK: What the client wants

  func call(_ method: String, _ params: JSONValue?, _ continuation: CheckedContinuation<JSONValue, any Error>) {
    if let failure { return continuation.resume(throwing: failure) }
    let reply = PendingReply(continuation)
    send(method, params, .call(method: method, reply))
    // An acquire may take its `wait_ms` more; without that it has no limit.
    limit(reply, after: method == "acquire" ? waitTime(params) : .zero)
  }

  /// Sends a request that ends a hold. The handler forgets the hold as soon as it reads the reply: later notifications
  /// about it mean nobody.
  func end(
    _ method: String, _ params: JSONValue, _ name: String, _ token: Int64, _ hold: Hold?,
    _ continuation: CheckedContinuation<JSONValue, any Error>
  ) {
    if let failure { return continuation.resume(throwing: failure) }
    let reply = PendingReply(continuation)
    send(method, params, .end(HoldKey(name: name, token: token), hold, reply))
    limit(reply, after: .zero)
  }

  func watch(
    _ target: WatchTarget, _ events: AsyncStream<WatchEvent>.Continuation,
    _ continuation: CheckedContinuation<Int64, any Error>
  ) {
    if let failure { return continuation.resume(throwing: failure) }
    let reply = PendingReply(continuation)
    send("watch", target.params, .watch(events, reply))
    limit(reply, after: .zero)
  }

  // MARK: A daemon that does not answer

  /// The limit of a wait, which the daemon keeps if it can; nil when there is none.
  private func waitTime(_ params: JSONValue?) -> TimeAmount? {
    params?["wait_ms"]?.intValue.map { .milliseconds(min(max(0, $0), Duration.protocolMillisecondsMax)) }
  }

  /// Fails a reply that has not come ``answerTime`` after `time` from now, where the daemon does not answer a ping
  /// either; nil: never.
  private func limit<Value>(_ reply: PendingReply<Value>, after time: TimeAmount?, _ action: (() -> Void)? = nil) {
    guard let context, let time else { return }
    reply.limit(time + answerTime, on: context.eventLoop) { [self] in doubt(reply, action) }
  }

  /// A daemon that answers a ping does not hang: it waits for its store.
  private func doubt<Value>(_ reply: PendingReply<Value>, _ action: (() -> Void)?) {
    guard let context else { return }
    let probe = Probe()
    send("ping", nil, .probe(probe))
    reply.limit(answerTime, on: context.eventLoop) { [self] in
      if probe.isAnswered { return doubt(reply, action) }
      reply.resume(throwing: noAnswer)
      action?()
    }
  }

  private var noAnswer: SidelockError {
    SidelockError(
      reason: .noAnswer,
      message: "the daemon has not answered within \(answerTime.nanoseconds / 1_000_000) ms; it may hang")
  }

  func unwatch(_ watch: Int64) {
    guard watches.removeValue(forKey: watch) != nil else { return }
    send("unwatch", ["watch": .int(watch)], .ignored)
  }

  func acquire(_ ticket: AcquireTicket, _ continuation: CheckedContinuation<[Grant], any Error>) {
    if case .cancelled = ticket.state.withLockedValue({ $0 }) {
      return continuation.resume(throwing: CancellationError())
    }
    if let failure { return continuation.resume(throwing: failure) }
    let reply = PendingReply(continuation)
    ticket.asked.withLockedValue { $0 = Validity.now }
    let id = send("acquire", ticket.params, .acquire(ticket, reply))
    ticket.state.withLockedValue { $0 = .sent(id: id) }
    // A late grant is given back like one that crossed its cancellation.
    limit(reply, after: waitTime(ticket.params)) { [self] in cancel(ticket) }
  }

  func cancel(_ ticket: AcquireTicket) {
    let sent: Int64? = ticket.state.withLockedValue { state in
      switch state {
      case .new:
        state = .cancelled
        return nil
      case .sent(let id):
        state = .cancelled
        return id
      case .cancelled, .done: return nil
      }
    }
    // Its own reply still comes: a refusal, or the grant that crossed the cancellation.
    guard let sent else { return }
    write(machine.cancellation(of: sent))
    // The caller waits for what became of it, but not for ever.
    guard let context, case .acquire(_, let reply) = pending[sent] else { return }
    reply.limit(answerTime, on: context.eventLoop) { reply.resume(throwing: CancellationError()) }
  }

  /// A hold was given back: `hold`, or the last of that token.
  private func released(_ key: HoldKey, _ hold: Hold?) {
    guard var same = holds[key], let at = same.lastIndex(where: { hold == nil || $0 === hold }) else { return }
    same.remove(at: at).release()
    holds[key] = same.isEmpty ? nil : same
  }

  // MARK: What comes back

  private func replied(_ id: Int64, _ result: Result<JSONValue, SidelockError>) {
    switch pending.removeValue(forKey: id) {
    case nil: break
    case .call(let method, let reply):
      if method == "acquire", reply.isOver, case .success(let value) = result { giveBack(value) }
      if method == "initialize", case .success(let value) = result { hasLeases = value["lease_ms"]?.intValue != nil }
      reply.resume(with: result.mapError { $0 })
    case .end(let key, let hold, let reply):
      switch result {
      case .success: released(key, hold)
      case .failure(let error) where error.reason == .lost:
        // Its notification may not have come.
        let reason = error.data?["lost"]?.stringValue ?? "unknown"
        for hold in holds.removeValue(forKey: key) ?? [] {
          hold.lose(LostNotice(name: key.name.text, token: key.token, reason: reason))
        }
      case .failure: break
      }
      reply.resume(with: result.mapError { $0 })
    case .releaseOfCancelled(let continuation): continuation.resume(throwing: CancellationError())
    case .validity(let asked): told(try? result.get(), asked: asked)
    case .probe(let probe): probe.isAnswered = true
    case .ignored: break
    case .watch(let events, let continuation):
      let value: JSONValue
      switch result {
      case .success(let reply): value = reply
      case .failure(let error):
        events.finish()
        return continuation.resume(throwing: error)
      }
      guard let watch = value["watch"]?.intValue else {
        events.finish()
        return continuation.resume(
          throwing: SidelockError(reason: .protocolViolation, message: "the daemon gave a watch without a number"))
      }
      guard !continuation.isOver else {
        events.finish()
        send("unwatch", ["watch": .int(watch)], .ignored)
        return
      }
      watches[watch] = events
      continuation.resume(returning: watch)
    case .acquire(let ticket, let continuation):
      let wasCancelled = ticket.state.withLockedValue { state in
        defer { state = .done }
        if case .cancelled = state { return true } else { return false }
      }
      switch result {
      case .failure(let error): continuation.resume(throwing: wasCancelled ? CancellationError() : error)
      case .success(let value): granted(ticket, value, wasCancelled: wasCancelled, continuation)
      }
    }
  }

  /// Releases the locks of a grant that nobody waits for.
  private func giveBack(_ result: JSONValue) {
    for lock in result["locks"]?.arrayValue ?? [result] {
      guard let name = lock["name"], let token = lock["token"] else { continue }
      send("release", ["name": name, "token": token], .ignored)
    }
  }

  private func granted(
    _ ticket: AcquireTicket, _ result: JSONValue, wasCancelled: Bool, _ continuation: PendingReply<[Grant]>
  ) {
    guard let grants = Grant.grants(result: result, names: ticket.names) else {
      return continuation.resume(
        throwing: SidelockError(reason: .protocolViolation, message: "the daemon granted a lock without a token"))
    }
    if wasCancelled {
      for (index, grant) in grants.enumerated() {
        let params: JSONValue = ["name": .string(grant.name), "token": .int(grant.token)]
        send("release", params, index == grants.count - 1 ? .releaseOfCancelled(continuation) : .ignored)
      }
      return
    }
    for (grant, hold) in zip(grants, ticket.holds) {
      hold.validity = Validity(grant: grant, asked: ticket.asked.withLockedValue { $0 })
      holds[HoldKey(name: grant.name, token: grant.token), default: []].append(hold)
      if let validity = hold.validity { lookAt(validity.askAt) }
    }
    continuation.resume(returning: grants)
  }

  // MARK: How long holds are good

  /// Beyond so many holds a ping does not say how long they are good.
  private static let holdsToldMax = 64

  /// Looks at the time then, if not earlier.
  private func lookAt(_ time: Int64) {
    guard let context, failure == nil, time < look?.at ?? .max else { return }
    look?.timer.cancel()
    let pause = TimeAmount.milliseconds(min(max(1, time - Validity.now), 3_600_000))
    let timer = context.eventLoop.assumeIsolated().scheduleTask(in: pause) { [self] in
      look = nil
      lookAtTime()
    }
    look = (time, timer)
  }

  private func ask() {
    let now = Validity.now
    askedAt = now
    send("ping", nil, .validity(asked: now))
  }

  /// Asks how long holds are good, before that time is over, and finds those whose time is.
  private func lookAtTime() {
    let now = Validity.now
    guard let earliest = holds.values.joined().compactMap({ $0.validity?.askAt }).min() else { return }
    let askAt = max(earliest, noPingBefore)
    if askedAt == nil, now >= askAt { ask() }
    guard let askedAt else { return lookAt(askAt) }
    for (key, same) in holds {
      for hold in same where hold.validity.map({ $0.judgeAt(asked: askedAt) <= now }) ?? false {
        expired(key, hold)
      }
    }
    let next = holds.values.joined().compactMap { $0.validity?.judgeAt(asked: askedAt) }.min()
    if let next { lookAt(next) }
  }

  /// The daemon, when it goes on, must not keep what nobody uses.
  private func expired(_ key: HoldKey, _ hold: Hold) {
    holds[key]?.removeAll { $0 === hold }
    if holds[key]?.isEmpty ?? false { holds[key] = nil }
    hold.lose(LostNotice(name: key.name.text, token: key.token, reason: "lease_expired"))
    send("release", ["name": .string(key.name.text), "token": .int(key.token)], .ignored)
  }

  /// A ping's answer counts for all that was held when it was answered.
  private func told(_ answer: JSONValue?, asked: Int64) {
    askedAt = nil
    noPingBefore = Validity.now + 100
    let told = answer?["valid_ms"]?.intValue.map { Validity(milliseconds: $0, from: asked) }
    for hold in holds.values.joined() {
      if let told {
        hold.validity = hold.validity?.extended(by: told) ?? told
      } else if answer != nil, holds.count > Self.holdsToldMax {
        hold.validity = nil
      }
    }
    look?.timer.cancel()
    look = nil
    lookAtTime()
  }

  private func notified(_ method: String, _ params: JSONValue) {
    if let (event, watch) = WatchEvent.event(method: method, params: params) {
      if let watch {
        watches[watch]?.yield(event)
      } else {
        for events in watches.values { events.yield(event) }
      }
      return
    }
    switch method {
    case "waiting":
      guard let id = params["id"]?.intValue, let position = params["position"]?.intValue,
        case .acquire(let ticket, _) = pending[id]
      else { return }
      ticket.onWaiting?(Int(clamping: position))
    case "contended":
      guard let name = params["name"]?.stringValue, let token = params["token"]?.intValue,
        let waiters = params["waiters"]?.intValue
      else { return }
      for hold in holds[HoldKey(name: name, token: token)] ?? [] {
        hold.contended(waiters: Int(clamping: waiters))
      }
    case "transferred":
      guard let grant = Grant(transferred: params) else { return }
      let hold = Hold()
      holds[HoldKey(name: grant.name, token: grant.token), default: []].append(hold)
      handed.yield(HandedLock(grant: grant, hold: hold))
      // Nothing is known of how long it is good.
      if hasLeases, askedAt == nil { ask() }
    // A client ignores what it does not know.
    default: break
    }
  }

  /// Ends everything: what is pending fails, what is held is lost.
  private func fail(_ error: SidelockError) {
    guard failure == nil else { return }
    failure = error
    hasFailed.withLockedValue { $0 = true }
    look?.timer.cancel()
    look = nil
    let waiting = pending.values
    pending = [:]
    let held = holds
    holds = [:]
    // The losses first, so that a caller woken by its failed call finds its locks marked.
    for (key, same) in held {
      for hold in same { hold.lose(LostNotice(name: key.name.text, token: key.token, reason: "connection_ended")) }
    }
    for events in watches.values { events.finish() }
    watches = [:]
    handed.finish()
    for request in waiting {
      switch request {
      case .call(_, let reply), .end(_, _, let reply): reply.resume(throwing: error)
      case .acquire(let ticket, let continuation):
        ticket.state.withLockedValue { $0 = .done }
        continuation.resume(throwing: error)
      case .watch(let events, let continuation):
        events.finish()
        continuation.resume(throwing: error)
      case .validity, .probe, .ignored: break
      // The end of the connection freed it.
      case .releaseOfCancelled(let continuation): continuation.resume(throwing: CancellationError())
      }
    }
  }

  @discardableResult
  private func send(_ method: String, _ params: JSONValue?, _ request: Pending) -> Int64 {
    let (id, line) = machine.request(method, params)
    pending[id] = request
    write(line)
    return id
  }

  private func write(_ line: [UInt8]) {
    guard let context else { return }
    context.writeAndFlush(NIOAny(context.channel.allocator.buffer(bytes: line)), promise: nil)
  }
}
