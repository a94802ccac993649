import NIOCore
import NIOConcurrencyHelpers

/// What the caller of an acquire and the connection both know of it.
final class AcquireTicket: Sendable {
  enum State {
    case new
    case sent(id: Int64)
    case cancelled
    case done
  }

  let name: String
  let params: JSONValue
  let hold: Hold
  let state = NIOLockedValueBox(State.new)

  init(name: String, params: JSONValue, hold: Hold) {
    self.name = name
    self.params = params
    self.hold = hold
  }
}

/// The end of the connection that lives on the event loop: it matches replies with requests and losses with holds.
final class ConnectionHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private enum Pending {
    case call(CheckedContinuation<JSONValue, any Error>)
    case acquire(AcquireTicket, CheckedContinuation<Grant, any Error>)
    /// The release of a grant that crossed the cancellation of its acquire.
    case releaseOfCancelled(CheckedContinuation<Grant, any Error>)
  }

  private struct HoldKey: Hashable {
    var name: String
    var token: Int64
  }

  private var machine = ClientMachine()
  private var pending: [Int64: Pending] = [:]
  private var holds: [HoldKey: Hold] = [:]
  private var failure: SidelockError?
  private var context: ChannelHandlerContext?

  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let buffer = unwrapInboundIn(data)
    for event in machine.received(buffer.readableBytesView) {
      switch event {
      case .reply(let id, let result): replied(id, result)
      case .lost(let notice):
        holds.removeValue(forKey: HoldKey(name: notice.name, token: notice.token))?.lose(notice)
      // Nothing that this client asks for comes as one; a client ignores what it does not know.
      case .notification: break
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
    send(method, params, .call(continuation))
  }

  func acquire(_ ticket: AcquireTicket, _ continuation: CheckedContinuation<Grant, any Error>) {
    if case .cancelled = ticket.state.withLockedValue({ $0 }) {
      return continuation.resume(throwing: CancellationError())
    }
    if let failure { return continuation.resume(throwing: failure) }
    let id = send("acquire", ticket.params, .acquire(ticket, continuation))
    ticket.state.withLockedValue { $0 = .sent(id: id) }
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
    if let sent { write(machine.cancellation(of: sent)) }
  }

  func released(_ name: String, _ token: Int64) {
    holds.removeValue(forKey: HoldKey(name: name, token: token))?.release()
  }

  // MARK: What comes back

  private func replied(_ id: Int64, _ result: Result<JSONValue, SidelockError>) {
    switch pending.removeValue(forKey: id) {
    case nil: break
    case .call(let continuation): continuation.resume(with: result.mapError { $0 })
    case .releaseOfCancelled(let continuation): continuation.resume(throwing: CancellationError())
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

  private func granted(
    _ ticket: AcquireTicket, _ result: JSONValue, wasCancelled: Bool,
    _ continuation: CheckedContinuation<Grant, any Error>
  ) {
    guard let grant = Grant(result: result, name: ticket.name) else {
      let error = SidelockError(reason: .protocolViolation, message: "the daemon granted a lock without a token")
      continuation.resume(throwing: error)
      // Whatever is held cannot be named, so only the end of the connection frees it.
      fail(error)
      context?.close(promise: nil)
      return
    }
    if wasCancelled {
      let params: JSONValue = ["name": .string(grant.name), "token": .int(grant.token)]
      send("release", params, .releaseOfCancelled(continuation))
      return
    }
    holds[HoldKey(name: grant.name, token: grant.token)] = ticket.hold
    continuation.resume(returning: grant)
  }

  /// Ends everything: what is pending fails, what is held is lost.
  private func fail(_ error: SidelockError) {
    guard failure == nil else { return }
    failure = error
    let waiting = pending.values
    pending = [:]
    let held = holds
    holds = [:]
    // The losses first, so that whoever is woken by a failed call finds its locks marked.
    for (key, hold) in held {
      hold.lose(LostNotice(name: key.name, token: key.token, reason: "connection_lost"))
    }
    for request in waiting {
      switch request {
      case .call(let continuation): continuation.resume(throwing: error)
      case .acquire(let ticket, let continuation):
        ticket.state.withLockedValue { $0 = .done }
        continuation.resume(throwing: error)
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
