import ClientProtocol
import LockEngine
import LockTypes
import Logging

/// Passes each request to the part that answers it.
final class RequestRouter {
  private let configuration: ConfigurationInForce
  private let instance: String
  private let engine: LockEngine
  private let clock: HostClock
  private let logger: Logger
  private let sessions: SessionTable
  private let output: TurnOutput
  private let rights: RightsCache
  private let peers: PeerDirectory
  private let losses: LossEnforcer
  private let lifetimes: SessionLifetimes
  private let watches: WatchBook
  private let traces: TraceBook
  private let queries: LockQueries
  private let door: EngineDoor
  private let document = OpenRPCDocument.compact
  /// The figures of `stats`.
  var figures: () -> [Stat] = { [] }
  /// A client did not get these locks, as it has no right to use one of them.
  var onDenied: (ClientSession, [LockName]) -> Void = { _, _ in }

  init(
    configuration: ConfigurationInForce, instance: String, engine: LockEngine, clock: HostClock, logger: Logger,
    sessions: SessionTable, output: TurnOutput, rights: RightsCache, peers: PeerDirectory, losses: LossEnforcer,
    lifetimes: SessionLifetimes, watches: WatchBook, traces: TraceBook, queries: LockQueries, door: EngineDoor
  ) {
    self.configuration = configuration
    self.instance = instance
    self.engine = engine
    self.clock = clock
    self.logger = logger
    self.sessions = sessions
    self.output = output
    self.rights = rights
    self.peers = peers
    self.losses = losses
    self.lifetimes = lifetimes
    self.watches = watches
    self.traces = traces
    self.queries = queries
    self.door = door
  }

  /// A client has asked for something.
  func received(_ request: ClientRequest, id: MessageID, from session: ClientSession) {
    let session = session
    if !request.method.isDecidedByEngine { door.feedWhatIsDue(before: .query) }
    switch request {
    case .initialize(let params):
      initialize(params, id: id, session)
    case .acquire(let params):
      acquire(params, id: id, session)
    case .release(let name, let token):
      door.feed(session, id) { .releaseRequested(session.id, $0, name: name, token: token) }
    case .extend(let name, let token, let maximum):
      door.feed(session, id) {
        .extendRequested(session.id, $0, name: name, token: token, maxHoldMilliseconds: maximum)
      }
    case .downgrade(let name, let token):
      door.feed(session, id) { .downgradeRequested(session.id, $0, name: name, token: token) }
    case .transfer(let name, let token, let target):
      transfer(name, token, to: target, id: id, session)
    case .cancel(let target):
      let target = session.requests.inFlight[target]
      door.feed(session, id) { .cancelRequested(session.id, request: $0, target: target) }
    case .inspect(let name):
      queries.inspect(name, id: id, session)
    case .list(let params):
      queries.list(params, id: id, session)
    case .watch(let params):
      watches.watch(params, id: id, session)
    case .unwatch(let watch):
      if !traces.untrace(watch, id: id, session) { watches.unwatch(watch, id: id, session) }
    case .trace(let target):
      guard traces.trace(target, id: id, session) else { return }
      logger.notice(
        "messages are shown to an administrator",
        metadata: ["target": "\(TraceBook.words(target))", "by": "\(queries.words(about: session))"])
    case .break(let name, let token, let reason):
      queries.breakHolds(of: name, token: token, reason: reason, id: id, session)
    case .kill(let target, let reason):
      kill(target, reason: reason, id: id, session)
    case .clients(let params):
      queries.clients(params, id: id, session)
    case .hosts(let params):
      queries.hosts(params, id: id, session)
    case .ping:
      let valid = engine.validMilliseconds(of: session.id, now: clock.now())
      output.write(to: session) { $0.pong(id: id, validMilliseconds: valid) }
    case .stats:
      output.write(to: session) { $0.stats(id: id, figures()) }
    case .redis:
      queries.redis(id: id, session)
    case .rpcDiscover:
      output.write(to: session) { $0.discovered(id: id, document: document) }
    }
  }

  private func acquire(_ params: AcquireParams, id: MessageID, _ session: ClientSession) {
    peers.describe(session)
    guard let options = params.more else {
      let name = params.name
      guard rights.mayUse(session, name) else { return deny(session, name, of: [name], id: id) }
      return door.feed(session, id) { request in
        .acquireRequested(
          AcquireRequest(
            session: session.id, request: request, target: .one(name), waitMilliseconds: params.waitMilliseconds,
            maxHoldMilliseconds: params.maxHoldMilliseconds, meta: params.meta, progress: params.progress))
      }
    }
    let names = options.names ?? [params.name]
    for name in names where !rights.mayUse(session, name) { return deny(session, name, of: names, id: id) }
    if options.onLost != .notify, let refusal = losses.enforcementRefusal(session) {
      return losses.refuseEnforcement(refusal, names[0], id: id, to: session)
    }
    door.feed(session, id) { request in
      .acquireRequested(
        AcquireRequest(
          session: session.id, request: request,
          target: options.names == nil ? .one(params.name) : .several(names),
          mode: options.mode, waitMilliseconds: params.waitMilliseconds,
          maxHoldMilliseconds: params.maxHoldMilliseconds, owner: options.owner, meta: params.meta,
          progress: params.progress, onLost: options.onLost, need: options.need))
    }
  }

  /// Refuses a client what it may not use, which it has asked for with others.
  private func deny(_ session: ClientSession, _ name: LockName, of names: [LockName], id: MessageID) {
    onDenied(session, names)
    rights.deny(session, .use, name, id: id)
  }

  /// The session that `initialize` gave that name.
  private func session(named name: String) -> ClientSession? {
    guard let number = UInt64(name), "\(number)" == name, let session = sessions[SessionID(number)], !session.isClosing
    else { return nil }
    return session
  }

  /// Ends another session, for an administrator.
  private func kill(_ name: String, reason: String?, id: MessageID, _ session: ClientSession) {
    guard rights.mayBreakAll(session) else { return rights.denyBreakingAll(session, id: id) }
    guard let target = self.session(named: name) else {
      return output.write(to: session) { ReplyWriter.writeNoSuchSession(id: id, to: &$0) }
    }
    let fields: Logger.Metadata = [
      "session": "\(name)", "reason": "\(LockQueries.words(ofReason: reason ?? ""))",
      "by": "\(queries.words(about: session))",
    ]
    logger.notice(
      "session ended by an administrator", metadata: fields.about(queries.who(target)))
    output.write(to: session) { writer in
      writer.success(id: id) { $0.object { $0.member("session", name) } }
    }
    lifetimes.end(target, because: .killed)
  }

  private func transfer(
    _ name: LockName, _ token: Int64?, to target: String, id: MessageID, _ session: ClientSession
  ) {
    guard let receiver = self.session(named: target) else {
      return output.write(to: session) { ReplyWriter.writeNoSuchSession(id: id, to: &$0) }
    }
    guard rights.mayUse(receiver, name) else { return rights.deny(session, .use, name, id: id) }
    peers.describe(receiver)
    door.feed(session, id) {
      .transferRequested(
        session.id, $0, name: name, token: token, to: receiver.id,
        isAccepting: receiver.acceptsTransfers && !output.isBehind(receiver))
    }
  }

  private func initialize(_ params: InitializeParams, id: MessageID, _ session: ClientSession) {
    if let version = params.protocolVersion, version != Limits.protocolVersion {
      return output.write(to: session) { writer in
        writer.failure(id: id, .unsupportedVersion) { json in
          json.array("supported") { $0.value(Limits.protocolVersion) }
        }
      }
    }
    if params.lifetime == .process, let failure = lifetimes.endWithProcess(session) {
      return lifetimes.refuseLifetime(failure, id: id, to: session)
    }
    if let milliseconds = params.keepaliveMilliseconds { lifetimes.keepAlive(session, milliseconds: milliseconds) }
    if params.endsKeepalive { lifetimes.forgetKeepalive(of: session) }
    if let accepts = params.acceptsTransfers {
      session.acceptsTransfers = accepts
      session.keeping.isChanged = true
    }
    if let halfClose = params.halfClose {
      session.lifetime.keepsHoldsHalfClosed = halfClose == .hold
      session.keeping.isChanged = true
    }
    if params.clientName != nil || params.clientVersion != nil {
      session.client = [params.clientName, params.clientVersion].compactMap(\.self).joined(separator: " ")
      session.keeping.isChanged = true
    }
    logger.debug(
      "client introduced itself",
      metadata: [
        "session": "\(session.id.rawValue)", "client": "\(params.clientName ?? "")",
        "version": "\(params.clientVersion ?? "")", "pid": "\(session.peer.pidText)",
      ])
    let isLocal = configuration.settings.backend == .local
    let info = ServerInfo(
      version: configuration.version, instance: instance, session: "\(session.id.rawValue)",
      host: configuration.settings.host,
      backend: isLocal ? .local : .redis,
      leaseMilliseconds: isLocal ? nil : configuration.settings.live.engine.goneMilliseconds,
      requestsInFlightMax: Int64(configuration.settings.live.engine.waitsPerSessionMax))
    output.write(to: session) { $0.initialized(id: id, info) }
  }
}
