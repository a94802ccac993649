import LockEngine

/// A client process: it asks, holds, gives back, changes its mind and dies, at random or as a test scripts it.
final class SimulatedClient {
  unowned let world: Simulation
  unowned let host: SimulatedHost
  private(set) var session: SessionID
  private var isOpen = false
  private var incarnation = 0
  private(set) var holds: [(name: Int, token: Token)] = []
  private(set) var waits: [(request: RequestID, name: Int)] = []
  /// What it was told, in order, for tests with a script.
  private(set) var heard: [Heard] = []

  enum Heard: Equatable {
    case reply(RequestID, Reply)
    case notification(Notification)
  }

  init(world: Simulation, host: SimulatedHost) {
    self.world = world
    self.host = host
    session = SessionID(0)
  }

  /// Whether its connection lives: it ends with the daemon too.
  var isConnected: Bool { isOpen && host.isRunning && host.incarnation == incarnation }

  // MARK: What it does

  func open() {
    guard host.isRunning else { return }
    session = SessionID(world.newID())
    isOpen = true
    holds = []
    waits = []
    incarnation = host.incarnation
    let session = self.session
    host.whenAwake { [self] in
      guard host.incarnation == incarnation else { return }
      world.checker.opened(session, on: host)
      host.turn(.sessionOpened(session))
    }
  }

  /// It exits, crashes or hangs up; its host notices at once.
  func close() {
    guard isConnected else { return }
    isOpen = false
    holds = []
    waits = []
    let session = self.session
    host.whenAwake { [self] in
      guard host.incarnation == incarnation, world.checker.sessions[session] != nil else { return }
      world.checker.closing(session)
      host.turn(.sessionClosed(session))
      world.checker.closed(session, on: host)
    }
  }

  @discardableResult
  func acquire(
    _ name: Int = 0, waitMilliseconds: Int64? = nil, maxHoldMilliseconds: Int64? = nil, progress: Bool = false
  ) -> RequestID {
    waits.append((RequestID(world.newID()), name))
    let request = waits[waits.count - 1].request
    let wish = AcquireRequest(
      session: session, request: request, target: .one(world.checker.names[name]), waitMilliseconds: waitMilliseconds,
      maxHoldMilliseconds: maxHoldMilliseconds, progress: progress)
    issue(request, .acquire(name: name, waitMilliseconds: waitMilliseconds), .acquireRequested(wish))
    return request
  }

  @discardableResult
  func release(_ name: Int = 0, token: Token? = nil) -> RequestID {
    let request = RequestID(world.newID())
    holds.removeAll { $0.name == name && (token == nil || token == $0.token) }
    issue(
      request, .release(name: name, token: token),
      .releaseRequested(session, request, name: world.checker.names[name], token: token))
    return request
  }

  func extend(_ name: Int, token: Token?, milliseconds: Int64?) {
    let request = RequestID(world.newID())
    issue(
      request, .extend(name: name, token: token),
      .extendRequested(
        session, request, name: world.checker.names[name], token: token, maxHoldMilliseconds: milliseconds))
  }

  func cancel(_ target: RequestID) {
    let request = RequestID(world.newID())
    issue(request, .cancel, .cancelRequested(session, request: request, target: target))
  }

  private func issue(_ request: RequestID, _ kind: Checker.Request.Kind, _ event: Event) {
    let session = self.session
    host.whenAwake { [self] in
      guard host.incarnation == incarnation, world.checker.sessions[session] != nil else { return }
      world.checker.issued(
        request,
        Checker.Request(
          session: session, host: host.index, kind: kind, issuedAt: world.now, issuedBoot: host.bootNow))
      host.turn(event)
    }
  }

  // MARK: What it hears

  func replied(_ request: RequestID, _ reply: Reply) {
    if world.isScripted { heard.append(.reply(request, reply)) }
    let name = waits.first { $0.request == request }?.name
    waits.removeAll { $0.request == request }
    guard case .acquired(let acquired) = reply, let name else { return }
    holds.append((name, acquired.token))
    if world.isScripted { return }
    let span = world.clientsAct ? world.random.pick(0...world.plan.holdMilliseconds) : 1
    world.schedule(after: span * 1000 + 1) { [self] in giveBack(name, acquired.token) }
  }

  private func giveBack(_ name: Int, _ token: Token) {
    guard isConnected, holds.contains(where: { $0.name == name && $0.token == token }) else { return }
    release(name, token: world.random.chance(50) ? token : nil)
  }

  func notified(_ notification: Notification) {
    if world.isScripted { heard.append(.notification(notification)) }
    if case .lost(let name, let token, _, _, _, _) = notification {
      holds.removeAll { $0.token == token && world.checker.names[$0.name] == name }
    }
  }

  // MARK: Chance

  /// Acts at random for as long as clients are to act.
  func live() {
    world.schedule(after: world.random.pick(0...world.plan.clientPauseMilliseconds * 1000)) { [self] in
      guard world.clientsAct, world.actCount < world.plan.actsMax else { return }
      world.actCount += 1
      act()
      live()
    }
  }

  private func act() {
    guard isConnected else { return open() }
    let plan = world.plan
    if world.random.chance(plan.closePercent) { return close() }
    if let wait = waits.first, world.random.chance(plan.cancelPercent) { return cancel(wait.request) }
    let name = world.random.pick(0...plan.nameCount - 1)
    if world.random.chance(3) { return misbehave(name) }
    // A second hold of one name by one session waits for the first: with nobody else to release it, for ever.
    guard waits.count < 3, !holds.contains(where: { $0.name == name }) else { return }
    let wait: Int64? =
      world.random.chance(plan.tryPercent) ? 0 : world.random.pick([nil, nil, 1, 20, 300, 3000])
    acquire(
      name, waitMilliseconds: wait,
      maxHoldMilliseconds: world.random.chance(5) ? world.random.pick(Int64(1)...50) : nil,
      progress: world.random.chance(10))
  }

  private func misbehave(_ name: Int) {
    switch world.random.pick(0...2) {
    case 0: release(name, token: world.random.chance(50) ? 1 : nil)
    case 1: extend(name, token: nil, milliseconds: world.random.pick([nil, 5, 1000]))
    default: cancel(RequestID(1))
    }
  }
}
