import LockEngine
import LockTypes

/// A client process: it asks, holds, gives back, changes its mind and dies, at random or as a test scripts it.
final class SimulatedClient {
  unowned let world: Simulation
  unowned let host: SimulatedHost
  private(set) var session: SessionID
  private var isOpen = false
  private var incarnation = 0
  private(set) var holds: [(name: Int, token: Token)] = []
  private(set) var waits: [(request: RequestID, wish: Checker.Wish)] = []
  /// Releases without a reply yet.
  private var releasing: [RequestID: (name: Int, token: Token)] = [:]
  /// Transfers without a reply yet.
  private var transferring: [RequestID: [(name: Int, token: Token)]] = [:]
  /// The locks that are released only when a further request is answered, and the lock which that asks for.
  private var chain: Chain?
  private typealias Chain = (first: RequestID, second: RequestID?, name: Int, then: Int)
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
    releasing = [:]
    transferring = [:]
    chain = nil
    incarnation = host.incarnation
    let session = self.session
    host.whenAwake { [self] in
      guard host.incarnation == incarnation else { return }
      world.checker.opened(session, on: host)
      host.turn(.sessionOpened(session))
    }
  }

  /// The client exits, crashes or hangs up; its host notices at once.
  func close() {
    guard isConnected else { return }
    isOpen = false
    holds = []
    waits = []
    releasing = [:]
    transferring = [:]
    chain = nil
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
    _ name: Int = 0, mode: HoldMode? = nil, waitMilliseconds: Int64? = nil, maxHoldMilliseconds: Int64? = nil,
    owner: String? = nil, progress: Bool = false
  ) -> RequestID {
    acquire(
      Checker.Wish(
        names: [name], isSeveral: false, mode: mode ?? world.plan.mode(of: name), waitMilliseconds: waitMilliseconds,
        owner: owner), maxHoldMilliseconds: maxHoldMilliseconds, progress: progress)
  }

  @discardableResult
  func acquire(
    _ wish: Checker.Wish, as given: RequestID? = nil, maxHoldMilliseconds: Int64? = nil, progress: Bool = false
  ) -> RequestID {
    var wish = wish
    let percent = world.plan.replicaPercent
    if percent > 0, world.clientsAct, !world.isScripted, world.random.chance(percent) {
      wish.need = world.random.pick([
        ReplicaNeed(replicas: 1), ReplicaNeed(replicas: 2), ReplicaNeed(durability: .disk),
        ReplicaNeed(replicas: 1, durability: .disk),
      ])
    }
    let request = given ?? RequestID(world.newID())
    waits.append((request, wish))
    let names = wish.names.map { world.checker.names[$0] }
    let event = AcquireRequest(
      session: session, request: request, target: wish.isSeveral ? .several(names) : .one(names[0]), mode: wish.mode,
      waitMilliseconds: wish.waitMilliseconds, maxHoldMilliseconds: maxHoldMilliseconds, owner: wish.owner,
      progress: progress, need: wish.need)
    issue(request, .acquire(wish), .acquireRequested(event))
    return request
  }

  @discardableResult
  func release(_ name: Int = 0, token: Token? = nil) -> RequestID {
    let request = RequestID(world.newID())
    // An owner may have entered more than once; each entry is released by itself.
    if let at = holds.firstIndex(where: { $0.name == name && (token == nil || token == $0.token) }) {
      releasing[request] = holds.remove(at: at)
    }
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
    if let hold = releasing.removeValue(forKey: request), case .refused(.notHeld(let tokens)) = reply,
      tokens.contains(hold.token), !world.isScripted
    {
      // The client has got another hold of the same name meanwhile, and must say which one it means.
      holds.append(hold)
      giveBackLater([hold])
    }
    if let kept = transferring.removeValue(forKey: request), Self.isKept(reply), !world.isScripted {
      holds += kept
      giveBackLater(kept)
    }
    let wish = waits.first { $0.request == request }?.wish
    waits.removeAll { $0.request == request }
    guard let wish else { return }
    var got: [(name: Int, token: Token)] = []
    switch reply {
    case .acquired(let acquired): got = [(wish.names[0], acquired.token)]
    case .acquiredAll(let grant): got = zip(wish.names, grant.locks.map(\.token)).map { ($0, $1) }
    case .released, .extended, .downgraded, .transferred, .cancelled, .refused: break
    }
    holds += got
    if world.isScripted { return }
    if let chain, goOn(chain, after: request, got) { return }
    giveBackLater(got)
  }

  /// Whether a hold that was to be transferred stays where it is.
  private static func isKept(_ reply: Reply) -> Bool {
    switch reply {
    case .refused(.unavailable), .refused(.modeConflict): true
    case .acquired, .acquiredAll, .released, .extended, .downgraded, .transferred, .cancelled, .refused: false
    }
  }

  /// One of two locks was granted or refused: the first is kept until the second has been decided.
  private func goOn(_ chain: Chain, after request: RequestID, _ got: [(name: Int, token: Token)]) -> Bool {
    if request == chain.first, !got.isEmpty, isConnected {
      let second = RequestID(world.newID())
      self.chain?.second = second
      world.schedule(after: 1) { [self] in
        if isConnected, self.chain?.second == second { acquire(chainWish(chain.then), as: second) }
      }
      return true
    }
    guard request == chain.first || request == chain.second else { return false }
    self.chain = nil
    giveBackLater(holds.filter { $0.name == chain.name || $0.name == chain.then })
    return true
  }

  private func giveBackLater(_ got: [(name: Int, token: Token)]) {
    let span = world.clientsAct ? world.random.pick(0...world.plan.holdMilliseconds) : 1
    for (name, token) in got {
      world.schedule(after: span * 1000 + 1) { [self] in giveBack(name, token) }
    }
  }

  private func giveBack(_ name: Int, _ token: Token) {
    guard isConnected, holds.contains(where: { $0.name == name && $0.token == token }) else { return }
    let isOnlyOne = holds.filter { $0.name == name }.count == 1
    release(name, token: isOnlyOne && world.random.chance(50) ? nil : token)
  }

  func notified(_ notification: Notification) {
    if world.isScripted { heard.append(.notification(notification)) }
    switch notification {
    case .lost(let name, let token, _, _, _, _):
      holds.removeAll { $0.token == token && world.checker.names[$0.name] == name }
    case .transferred(let name, let token, _, _):
      guard let index = world.checker.index(of: name) else { return }
      holds.append((index, token))
      if !world.isScripted { giveBackLater([(index, token)]) }
    case .waiting, .contended: break
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
    if world.random.chance(plan.meddlePercent) { return meddle(name) }
    if world.random.chance(plan.chainPercent) { return beginChain() }
    // A second hold of one name by one session waits for the first: with nobody else to release it, for ever.
    guard waits.count < 3 else { return }
    let owner = world.random.chance(plan.ownerPercent) ? "thread" : nil
    let wait: Int64? =
      world.random.chance(plan.tryPercent) ? 0 : world.random.pick([nil, nil, 1, 20, 300, 3000])
    if world.random.chance(plan.severalPercent) { return askForSeveral(waitMilliseconds: wait, owner: owner) }
    guard owner != nil || !holds.contains(where: { $0.name == name }) else { return }
    acquire(
      name, mode: mode(for: name), waitMilliseconds: wait,
      maxHoldMilliseconds: world.random.chance(5) ? world.random.pick(Int64(1)...50) : nil,
      owner: owner, progress: world.random.chance(10))
  }

  private func mode(for name: Int) -> HoldMode {
    let plan = world.plan
    if world.random.chance(plan.conflictPercent) { return world.random.pick([.exclusive, .shared, .permit(of: 2)]) }
    if plan.capacities[name] > 0 { return plan.mode(of: name) }
    return world.random.chance(plan.sharedPercent) ? .shared : .exclusive
  }

  private func askForSeveral(waitMilliseconds: Int64?, owner: String?) {
    var names = Array(0..<world.plan.nameCount).filter { world.plan.capacities[$0] == world.plan.capacities[0] }
    if names.count > 1, world.random.chance(50) { names.reverse() }
    guard !holds.contains(where: { names.contains($0.name) }) || owner != nil else { return }
    let mode =
      world.plan.capacities[0] == 0 && world.random.chance(world.plan.sharedPercent)
      ? .shared : world.plan.mode(of: names[0])
    acquire(
      Checker.Wish(names: names, isSeveral: true, mode: mode, waitMilliseconds: waitMilliseconds, owner: owner))
  }

  /// Takes a lock and then another one, and gives the first back only when the second has been decided.
  private func beginChain() {
    guard chain == nil, waits.isEmpty, holds.isEmpty else { return }
    let names = (0..<world.plan.nameCount).filter { world.plan.capacities[$0] <= 1 }
    guard names.count > 1 else { return }
    let first = world.random.pick(names)
    let then = world.random.pick(names.filter { $0 != first })
    let request = RequestID(world.newID())
    chain = (request, nil, first, then)
    acquire(chainWish(first), as: request)
  }

  private func chainWish(_ name: Int) -> Checker.Wish {
    let isShared = world.plan.capacities[name] == 0 && world.random.chance(world.plan.sharedPercent)
    return Checker.Wish(
      names: [name], isSeveral: false, mode: isShared ? .shared : world.plan.mode(of: name), waitMilliseconds: nil,
      owner: "chain")
  }

  /// Downgrades, transfers or breaks.
  private func meddle(_ name: Int) {
    let token = holds.first { $0.name == name }?.token
    switch world.random.pick(0...2) {
    case 0: downgrade(name, token: token)
    case 1:
      guard let other = world.clients.first(where: { $0.host === host && $0 !== self && $0.isConnected }), let token
      else { return }
      transfer(name, token: token, to: other)
    default:
      let host = self.host
      guard let belief = world.checker.beliefs.first(where: { $0.host == host.index && $0.name == name }) else {
        return
      }
      host.whenAwake { [self] in
        host.turn(
          .breakRequested(name: world.checker.names[name], tokens: [belief.token], reason: "an administrator says so"))
      }
    }
  }

  func downgrade(_ name: Int, token: Token?) {
    let request = RequestID(world.newID())
    issue(
      request, .downgrade(name: name, token: token),
      .downgradeRequested(session, request, name: world.checker.names[name], token: token))
  }

  func transfer(_ name: Int, token: Token, to other: SimulatedClient) {
    let request = RequestID(world.newID())
    let target = other.session
    // An owner who entered more than once hands all of it over.
    transferring[request] = holds.filter { $0.name == name && $0.token == token }
    holds.removeAll { $0.name == name && $0.token == token }
    issue(
      request, .transfer(name: name, token: token, to: target),
      .transferRequested(session, request, name: world.checker.names[name], token: token, to: target))
  }

  private func misbehave(_ name: Int) {
    switch world.random.pick(0...2) {
    case 0:
      let isClear = holds.filter { $0.name == name }.count < 2
      release(name, token: isClear && world.random.chance(50) ? nil : 1)
    case 1: extend(name, token: nil, milliseconds: world.random.pick([nil, 5, 1000]))
    default: cancel(RequestID(1))
    }
  }
}
