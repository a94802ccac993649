import LockEngine

/// Watches a simulation and knows, by true time, what must never happen.
///
/// A *belief* is a client's knowledge that it has a lock: from the `acquired` that it was told until `released` or
/// `lost`, the end of its session or of its host. A suspended host cannot tell anybody anything; there a belief counts
/// until the lease, as the host last knew it, is over.
///
/// When Redis loses data (or its clock jumps ahead, which is the same to a key), a lease that was granted before may
/// meet one that is granted afterwards, until the older one has ended by itself. No longer, and no other two.
final class Checker {
  struct Belief {
    var host: Int
    var session: SessionID
    var name: Int
    var token: Token
  }

  struct Request {
    enum Kind {
      case acquire(name: Int, waitMilliseconds: Int64?)
      case release(name: Int, token: Token?)
      case extend(name: Int, token: Token?)
      case cancel
    }
    var session: SessionID
    var host: Int
    var kind: Kind
    var issuedAt: Int64
    var issuedBoot: BootInstant
    /// For a try: whether anybody else had the lock or wanted it since it was issued.
    var sawOthers = false
  }

  /// What stands in Redis about one lock.
  struct LeaseRow: Equatable {
    var lock: Bytes?
    var queue: [Bytes]
  }

  struct HostLease {
    /// Until when, on the host's boot clock, the lease may be counted on by what the host has heard.
    var end = BootInstant(nanoseconds: .min)
    /// Redis has lost data since it gave the lease to the host: until when a conflict with a newer lease is excused, by true time.
    var excusedUntil: Int64?
    /// The attempt whose contention the host was told of, since when, and the grants since then.
    var contended: (attempt: String, since: BootInstant, grants: Int)?
    var grants: (attempt: String, count: Int) = ("", 0)
  }

  unowned let world: Simulation
  let names: [LockName]
  let lockKeys: [Bytes]
  let queueKeys: [Bytes]
  var beliefs: [Belief] = []
  var requests: [UInt64: Request] = [:]
  /// The requests that wait for each name on each host, in the order in which they were asked; tries are not in it.
  var waiting: [[[UInt64]]]
  var sessions: [SessionID: Int] = [:]
  var leases: [[HostLease]]
  var highestToken: [Token]
  var tokens: [Set<Token>]
  var highestTokenBeforeLoss: [Token]
  /// Until when the last loss of data excuses anything, by true time.
  var lossUntil: [Int64]
  var lastDisturbance: [Int64]
  var grantCount = 0
  private var closingSession: SessionID?

  init(world: Simulation) {
    self.world = world
    let count = world.plan.nameCount
    names = (0..<count).map { LockName("lock-\($0)") }
    lockKeys = (0..<count).map { Bytes("sl:{lock-\($0)}") }
    queueKeys = (0..<count).map { Bytes("sl:{lock-\($0)}:queue") }
    let hosts = world.plan.hostCount
    waiting = Array(repeating: Array(repeating: [], count: count), count: hosts)
    leases = Array(repeating: Array(repeating: HostLease(), count: count), count: hosts)
    highestToken = Array(repeating: 0, count: count)
    highestTokenBeforeLoss = Array(repeating: 0, count: count)
    tokens = Array(repeating: [], count: count)
    lossUntil = Array(repeating: .min, count: count)
    lastDisturbance = Array(repeating: .min, count: hosts)
  }

  func index(of name: LockName) -> Int? { names.firstIndex(of: name) }

  // MARK: What clients do

  func opened(_ session: SessionID, on host: SimulatedHost) { sessions[session] = host.index }

  /// The session is about to end: nobody believes on its behalf any more. What came due before may still be answered.
  func closing(_ session: SessionID) {
    closingSession = session
    beliefs.removeAll { $0.session == session }
    for (id, request) in requests where request.session == session {
      if case .acquire(let name, _) = request.kind { waiting[request.host][name].removeAll { $0 == id } }
    }
  }

  func closed(_ session: SessionID, on host: SimulatedHost) {
    closingSession = nil
    sessions[session] = nil
    for (id, request) in requests where request.session == session { forget(id, request) }
    if !host.engine.isIdle(session) { world.fail("the session \(session.rawValue) is gone and still owns something") }
  }

  func issued(_ id: RequestID, _ request: Request) {
    var request = request
    if case .acquire(let name, let wait) = request.kind {
      let others = requests.contains { if case .acquire(name, _) = $0.value.kind { true } else { false } }
      request.sawOthers = others || beliefs.contains { $0.name == name }
      for (other, var known) in requests {
        guard case .acquire(name, 0) = known.kind else { continue }
        known.sawOthers = true
        requests[other] = known
      }
      if wait != 0 { waiting[request.host][name].append(id.rawValue) }
    }
    requests[id.rawValue] = request
  }

  private func forget(_ id: UInt64, _ request: Request) {
    requests[id] = nil
    if case .acquire(let name, let wait) = request.kind, wait != 0 {
      waiting[request.host][name].removeAll { $0 == id }
    }
  }

  // MARK: What hosts tell clients

  func replied(_ host: SimulatedHost, _ session: SessionID, _ id: RequestID, _ reply: Reply) {
    guard let request = requests[id.rawValue], request.session == session else {
      return world.fail("host \(host.index) answers request \(id.rawValue), which is not open: \(reply)")
    }
    if session == closingSession {
      // What came due before the end of the session is done first; the end then takes it back in the same turn.
      return forget(id.rawValue, request)
    }
    verifyNobodyIsOverdue(host, before: reply)
    verifyPunctual(host, request, reply)
    switch (request.kind, reply) {
    case (.acquire(let name, _), .acquired(let acquired)):
      granted(host, id, request, name, acquired)
    case (.acquire(let name, let wait), .refused(let refusal)):
      verifyRefusal(host, request, name, wait, refusal)
    case (.release(let name, let token), .released(_, let released, _)):
      guard let at = beliefs.firstIndex(where: { $0.session == session && $0.name == name && $0.token == released })
      else { return world.fail("a release of what session \(session.rawValue) does not hold succeeded") }
      if let token, token != released { world.fail("the release of \(token) released \(released)") }
      beliefs.remove(at: at)
    case (.release(let name, let token), .refused(.notHeld)), (.extend(let name, let token), .refused(.notHeld)),
      (.release(let name, let token), .refused(.lost)), (.extend(let name, let token), .refused(.lost)):
      if beliefs.contains(where: {
        $0.session == session && $0.name == name && (token == nil || token == $0.token)
      }) {
        world.fail("session \(session.rawValue) is told that it does not hold what it holds")
      }
      world.mark("not held")
    case (.extend, .extended), (.cancel, .cancelled): break
    case (.acquire, _), (.release, _), (.extend, _), (.cancel, _):
      world.fail("the reply \(reply) does not answer \(request.kind)")
    }
    forget(id.rawValue, request)
  }

  func notified(_ host: SimulatedHost, _ session: SessionID, _ notification: Notification) {
    switch notification {
    case .contended, .transferred: break
    case .lost(let name, let token, let reason, let grace, _, _):
      if session == closingSession { return }
      guard
        let at = beliefs.firstIndex(where: {
          $0.session == session && names[$0.name] == name && $0.token == token
        })
      else { return world.fail("session \(session.rawValue) is told that it lost what it does not hold") }
      let end = leases[host.index][beliefs[at].name].end
      if reason == .leaseExpired, grace > 0, host.bootNow.adding(milliseconds: grace) > end {
        world.fail("session \(session.rawValue) is told a grace of \(grace) ms, which is longer than the lease")
      }
      beliefs.remove(at: at)
      world.mark("lost: \(reason.rawValue)")
    case .waiting(let id, _, let position, _):
      guard requests[id.rawValue]?.session == session, position >= 1 else {
        return world.fail("the request \(id.rawValue) is said to wait, and is not open")
      }
      world.mark("waiting")
    }
  }

  /// Whoever lost a lock must hear of it before anybody on that host hears anything else.
  private func verifyNobodyIsOverdue(_ host: SimulatedHost, before reply: Reply) {
    for belief in beliefs where belief.host == host.index {
      if host.bootNow >= leases[host.index][belief.name].end {
        world.fail("host \(host.index) answers \(reply) while a lost lock (\(names[belief.name])) is not told")
      }
    }
  }

  /// A request with a limit is answered by then, whatever the store does.
  private func verifyPunctual(_ host: SimulatedHost, _ request: Request, _ reply: Reply) {
    guard case .acquire(_, let wait?) = request.kind, request.issuedAt > lastDisturbance[host.index] else { return }
    let waited = host.bootNow.milliseconds(since: request.issuedBoot)
    let slack = world.plan.timerLatenessMicroseconds / 1000 + 3
    let limit =
      wait == 0
      ? world.plan.engine.storeTimeoutMilliseconds + world.plan.engine.inUseTimeoutMilliseconds : wait
    if waited > limit + slack { world.fail("a request with a limit of \(limit) ms was answered after \(waited) ms") }
    switch reply {
    case .refused(.timeout) where waited < wait:
      world.fail("a request with a limit of \(wait) ms timed out after \(waited) ms")
    case .acquired, .acquiredSeveral, .released, .extended, .downgraded, .transferred, .cancelled, .refused: break
    }
  }

  private func verifyRefusal(
    _ host: SimulatedHost, _ request: Request, _ name: Int, _ wait: Int64?, _ refusal: Refusal
  ) {
    world.mark("refused: \(String(describing: refusal).prefix { $0 != "(" })")
    switch refusal {
    case .busy:
      if wait != 0 { world.fail("a wait is told busy") }
      if world.isCalm, !request.sawOthers {
        world.fail("a try of \(names[name]) is told busy, though nobody else had it or wanted it")
      }
    case .timeout: if wait == nil || wait == 0 { world.fail("a request without a limit timed out") }
    case .unavailable: if world.isCalm { world.fail("Redis is said to be unavailable, and is not") }
    case .wrongType: if !world.plan.faults.contains(.wrongType) { world.fail("no key has a wrong type") }
    case .cancelled, .shuttingDown: break
    case .notHeld, .lost, .limit, .modeConflict, .deadlock, .noSuchSession:
      world.fail("an acquire was refused with \(refusal)")
    }
  }

  // MARK: Grants

  private func granted(
    _ host: SimulatedHost, _ id: RequestID, _ request: Request, _ name: Int, _ acquired: Acquired
  ) {
    grantCount += 1
    let token = acquired.token
    for other in beliefs where other.name == name {
      if !mayOverlap(other, with: host.index) {
        world.fail(
          "\(names[name]) is held by session \(other.session.rawValue) on host \(other.host) and granted to session "
            + "\(request.session.rawValue) on host \(host.index)")
      }
    }
    verifyToken(host, name, token)
    verifyLease(host, name, acquired.validMilliseconds)
    if let first = waiting[host.index][name].first, request.isWait, first != id.rawValue {
      world.fail("request \(id.rawValue) was served before request \(first), which came earlier")
    }
    verifyCohort(host, name)
    beliefs.append(Belief(host: host.index, session: request.session, name: name, token: token))
  }

  /// Whether a belief may exist beside a grant to `host`.
  private func mayOverlap(_ belief: Belief, with host: Int) -> Bool {
    if belief.host == host { return false }
    let other = world.hosts[belief.host]
    // Suspended: its client cannot be told; its lease must be over.
    if other.isPaused, other.bootNow >= leases[belief.host][belief.name].end.adding(milliseconds: -leaseMargin) {
      world.mark("granted while the last holder is suspended")
      return true
    }
    if isTainted(belief.host, belief.name) || isTainted(host, belief.name) {
      world.mark("overlap after loss of data")
      return true
    }
    return false
  }

  /// What is left of a lease for clocks that run apart.
  private var leaseMargin: Int64 { world.plan.leaseMilliseconds / 100 }

  /// Whether the host's lease was granted before a loss of data, which still excuses it.
  func isTainted(_ host: Int, _ name: Int) -> Bool {
    leases[host][name].excusedUntil.map { world.now <= $0 } ?? false
  }

  private func verifyToken(_ host: SimulatedHost, _ name: Int, _ token: Token) {
    if !tokens[name].insert(token).inserted { world.fail("the token \(token) of \(names[name]) was given out twice") }
    if token >= 1 << 53 { world.fail("the token \(token) is not below 2^53") }
    // A lease from before the loss counts on in its own block, beside the newer one.
    let floor = world.now <= lossUntil[name] ? highestTokenBeforeLoss[name] : highestToken[name]
    let exempt = isTainted(host.index, name)
    if token <= floor && !exempt {
      world.fail("the token \(token) of \(names[name]) is not above \(floor), which was given out before")
    }
    highestToken[name] = max(highestToken[name], token)
  }

  /// What the client is told must be true in Redis: the key is this host's, and stays so for at least that long.
  private func verifyLease(_ host: SimulatedHost, _ name: Int, _ valid: Int64?) {
    guard let valid else { return world.fail("a grant of a Redis lease does not say how long it is valid") }
    if valid <= 0 { world.fail("a grant that is valid for \(valid) ms") }
    if isTainted(host.index, name) { return }
    world.server.tick()
    guard let found = world.server.redis.peek(lockKeys[name]), owner(found.value) == host.me,
      let end = found.expiresAtMilliseconds
    else {
      let value = world.server.redis.peek(lockKeys[name]).map { "\($0.value)" } ?? "nothing"
      return world.fail("\(names[name]) is granted on host \(host.index), and in Redis there is \(value)")
    }
    let left = end - world.server.redis.nowMilliseconds
    if left < valid { world.fail("a grant is said to be valid for \(valid) ms, and its key expires in \(left) ms") }
  }

  private func verifyCohort(_ host: SimulatedHost, _ name: Int) {
    guard !isTainted(host.index, name), let value = world.server.redis.peek(lockKeys[name])?.value,
      owner(value) == host.me,
      let attempt = attempt(value)
    else { return }
    var lease = leases[host.index][name]
    if lease.grants.attempt != attempt { lease.grants = (attempt, 0) }
    lease.grants.count += 1
    if var contended = lease.contended, contended.attempt == attempt {
      contended.grants += 1
      let plan = world.plan
      if contended.grants > max(1, plan.cohortHandoversMax) {
        world.fail("host \(host.index) passed \(names[name]) on \(contended.grants) times while another host waited")
      }
      if lease.grants.count > 1, host.bootNow >= contended.since.adding(milliseconds: plan.cohortMilliseconds) {
        world.fail("host \(host.index) passed \(names[name]) on after the time for it, while another host waited")
      }
      world.mark("local hand-over while another host waits")
      lease.contended = contended
    }
    if lease.grants.count > 1 { world.mark("local hand-over") }
    leases[host.index][name] = lease
  }

  // MARK: Values in Redis

  /// `<host>/<instance>` in a lock's value.
  func owner(_ value: RedisModel.Value) -> String? { part(0, of: value) }

  func attempt(_ value: RedisModel.Value?) -> String? { value.flatMap { part(1, of: $0) } }

  private func part(_ index: Int, of value: RedisModel.Value) -> String? {
    guard case .string(let bytes) = value else { return nil }
    let parts = bytes.text.split(separator: ":")
    return parts.count == 3 ? String(parts[index]) : nil
  }
}

extension Checker.Request {
  var isWait: Bool {
    if case .acquire(_, let wait) = kind { wait != 0 } else { false }
  }
}
