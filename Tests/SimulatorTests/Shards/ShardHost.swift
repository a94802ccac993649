import LockEngine
import LockTypes
import RedisLeases

/// A connection of a host to a primary: what is sent arrives in order, or never.
final class ShardLine {
  unowned let world: ShardWorld
  unowned let host: ShardHost
  var client: Int64 = 0
  private(set) var isOpen = true
  private var lastUp: Int64 = 0
  private var lastDown: Int64 = 0

  init(_ world: ShardWorld, _ host: ShardHost) {
    self.world = world
    self.host = host
  }

  func close() { isOpen = false }

  func toServer(_ action: @escaping () -> Void) {
    lastUp = max(lastUp, world.now + world.random.pick(world.latency))
    deliver(at: lastUp, action)
  }

  func toHost(_ action: @escaping () -> Void) {
    lastDown = max(lastDown, world.now + world.random.pick(world.latency))
    deliver(at: lastDown, action)
  }

  private func deliver(at time: Int64, _ action: @escaping () -> Void) {
    world.schedule(at: time) { [self] in if isOpen { action() } }
  }
}

/// One daemon with its clients, which act at random.
final class ShardHost {
  unowned let world: ShardWorld
  let index: Int
  let engine: LockEngine
  let encoder: LeaseCommandEncoder
  private var lines: [Int: ShardLine] = [:]
  private var armedAt: BootInstant?
  private var lastRequest: UInt64 = 0
  private var lastSession: UInt64
  private var clients: [Client] = []

  private struct Client {
    var session: SessionID
    var held: [LockName: Token] = [:]
    var asked: [RequestID: LockName] = [:]
  }

  init(world: ShardWorld, index: Int) {
    self.world = world
    self.index = index
    lastSession = UInt64(1000 * (index + 1))
    encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "h\(index)", instance: "1")
    let names = world.names
    engine = LockEngine(
      configuration: EngineConfiguration(tier: .store, host: "h\(index)", inbox: "h\(index)/1") {
        $0.cells = LockCells(count: names.count) { names.firstIndex(of: $0) ?? 0 }
        $0.settings.leaseMilliseconds = world.leaseMilliseconds
        $0.settings.lingerMilliseconds = world.lingerMilliseconds
        $0.settings.storeTimeoutMilliseconds = 200
        $0.stepsPerSlice = world.stepsPerSlice
      })
  }

  func start() {
    turn(
      .homesMoved(world.homes.enumerated().map { HomeMove(cells: $0..<$0 + 1, shard: ShardID(UInt32($1))) }))
    for primary in world.primaries { connect(primary) }
  }

  // MARK: Connections

  private func connect(_ primary: ShardPrimary) {
    let line = ShardLine(world, self)
    world.schedule(after: world.random.pick(world.latency)) { [self] in
      guard lines[primary.index] == nil else { return }
      guard !primary.isDown else { return world.schedule(after: 20_000) { [self] in connect(primary) } }
      do { try primary.accept(line) } catch { return world.fail("\(error)") }
      lines[primary.index] = line
      turn(.linkUp(ShardID(UInt32(primary.index))))
    }
  }

  func cut(_ primary: ShardPrimary) {
    guard let line = lines.removeValue(forKey: primary.index) else { return }
    line.close()
    primary.closed(line)
    turn(.linkDown(ShardID(UInt32(primary.index))))
    world.schedule(after: world.random.pick(1000...world.leaseMilliseconds * 1500)) { [self] in connect(primary) }
  }

  /// Somebody tells where a name has its home.
  func learns(_ name: Int, home: Int) {
    turn(.homesMoved([HomeMove(cells: name..<name + 1, shard: ShardID(UInt32(home)))]))
  }

  func learns(_ name: LockName, home: Int) {
    if let index = world.names.firstIndex(of: name) { learns(index, home: home) }
  }

  // MARK: The engine

  private var bootNow: BootInstant { BootInstant(nanoseconds: 1_000_000_000_000 + world.now * 1000) }

  func turn(_ event: Event) {
    world.trace("host \(index): \(event)")
    var effects: [Effect] = []
    engine.handle(event, now: bootNow, into: &effects)
    engine.handle(.turnEnded, now: bootNow, into: &effects)
    for effect in effects { carryOut(effect) }
    arm()
  }

  private func arm() {
    guard let next = engine.nextDeadline, armedAt != next else { return }
    armedAt = next
    let due = (next.nanoseconds - 1_000_000_000_000 + 999) / 1000
    world.schedule(at: max(due, world.now + (next <= bootNow ? 20 : 0))) { [self] in
      guard armedAt == next else { return }
      armedAt = nil
      turn(.timerFired)
    }
  }

  private func carryOut(_ effect: Effect) {
    switch effect {
    case .send(let shard, let id, let command):
      // What is sent while a connection ends goes nowhere.
      guard let line = lines[Int(shard.rawValue)] else { return }
      let primary = world.primaries[Int(shard.rawValue)]
      line.toServer { primary.received(id, command, on: line) }
    case .reply(let session, let request, let reply): replied(session, request, reply)
    case .notify(let session, .lost(let name, _, let reason, _, _, _)):
      world.trace("host \(index): session \(session.rawValue) has lost \(name): \(reason)")
      world.mark("lost: \(reason.rawValue)")
      guard let at = clients.firstIndex(where: { $0.session == session }) else { return }
      clients[at].held[name] = nil
      world.ended(name, session, isLoss: true)
    case .notify, .acknowledge, .forgetAcknowledgement, .flushSoon, .observed, .recorded, .shutdownCompleted, .heldLong:
      break
    }
  }

  // MARK: Clients

  var isIdle: Bool { clients.allSatisfy { $0.held.isEmpty && $0.asked.isEmpty } }

  func act() {
    for _ in 0..<world.random.pick(1...3) { clients.append(newClient()) }
    for at in clients.indices { next(at) }
  }

  private func newClient() -> Client {
    lastSession += 1
    turn(.sessionOpened(SessionID(lastSession)))
    return Client(session: SessionID(lastSession))
  }

  private func next(_ at: Int) {
    world.schedule(after: world.random.pick(1000...150_000)) { [self] in
      guard world.failure == nil else { return }
      act(at)
      if world.isActing || !isIdle { next(at) }
    }
  }

  private func act(_ at: Int) {
    if let name = clients[at].held.keys.sorted().first, world.random.chance(world.isActing ? 45 : 100) {
      return release(at, name)
    }
    guard world.isActing else { return }
    if world.random.chance(3) {
      let session = clients[at].session
      world.closed(session)
      clients[at].held = [:]
      clients[at].asked = [:]
      turn(.sessionClosed(session))
      clients[at] = newClient()
      return
    }
    let name = world.random.pick(world.names)
    let isOpen = clients[at].held[name] == nil && !clients[at].asked.values.contains(name)
    // Waits for a second name could be a deadlock, so that they have a limit.
    guard isOpen, clients[at].asked.isEmpty else { return }
    lastRequest += 1
    let request = RequestID(UInt64(index + 1) << 32 + lastRequest)
    clients[at].asked[request] = name
    let limits: [Int64?] = clients[at].held.isEmpty ? [nil, nil, 0, 300] : [0, 300]
    let wait = world.random.pick(limits)
    turn(
      .acquireRequested(
        AcquireRequest(
          session: clients[at].session, request: request, target: .one(name),
          mode: world.isShared && world.random.chance(60) ? .shared : .exclusive, waitMilliseconds: wait)))
  }

  private func release(_ at: Int, _ name: LockName) {
    lastRequest += 1
    turn(
      .releaseRequested(
        clients[at].session, RequestID(UInt64(index + 1) << 32 + lastRequest), name: name,
        token: clients[at].held[name]))
  }

  private func replied(_ session: SessionID, _ request: RequestID, _ reply: Reply) {
    guard let at = clients.firstIndex(where: { $0.session == session }) else { return }
    switch reply {
    case .acquired(let grant):
      guard clients[at].asked.removeValue(forKey: request) == grant.name else {
        return world.fail("host \(index) grants what was not asked for: \(grant)")
      }
      clients[at].held[grant.name] = grant.token
      world.acquired(grant.name, .init(host: index, session: session, token: grant.token, mode: grant.mode))
    case .released(let name, _, _):
      clients[at].held[name] = nil
      world.ended(name, session, isLoss: false)
    case .refused(let refusal):
      world.mark("refused: \(String(describing: refusal).prefix { $0 != "(" })")
      clients[at].asked[request] = nil
    case .acquiredAll, .extended, .downgraded, .transferred, .cancelled:
      world.fail("host \(index) answers \(reply)")
    }
  }
}
