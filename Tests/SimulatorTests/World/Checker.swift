import LockEngine
import LockTypes

/// Watches a simulation and knows, by true time, what must never happen.
///
/// A *belief* is a client's knowledge that it has a lock: from the `acquired` that it was told until `released` or
/// `lost`, the end of its session or of its host. A suspended host cannot tell anybody anything; there a belief counts
/// until the lease, as the host last knew it, is over.
///
/// It counts to its true end whatever Redis forgets. Only after what is unsafe (``Unsafe``) may a lease that was granted
/// before meet one that is granted afterwards, until the older one has ended by itself. No longer, and no other two.
final class Checker {
  struct Belief {
    var host: Int
    var session: SessionID
    var name: Int
    var token: Token
    var mode: HoldMode
    var owner: String?
    /// Grants that its owner was told of, minus the releases.
    var count = 1
    var since: Int64
  }

  struct Request {
    enum Kind {
      case acquire(Wish)
      case release(name: Int, token: Token?)
      case extend(name: Int, token: Token?)
      case downgrade(name: Int, token: Token?)
      case transfer(name: Int, token: Token?, to: SessionID)
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

  /// What an acquire asks for.
  struct Wish {
    var names: [Int]
    var isSeveral: Bool
    var mode: HoldMode
    var waitMilliseconds: Int64?
    var owner: String?
    var need = ReplicaNeed.none

    /// Whether it gets locks before its client hears of them.
    var takesUnseen: Bool { isSeveral || !need.isNone }
    /// Whether it stands in the queue of one lock, where its place is known.
    var queuesForOne: Bool { !takesUnseen && waitMilliseconds != 0 }
  }

  /// A span of true time in which somebody held or waited; refusals for deadlocks are checked against it.
  struct Span {
    var session: SessionID
    var start: Int64
    var end = Int64.max
  }

  /// What stands in Redis about one lock.
  struct LeaseRow: Equatable {
    var lock: Bytes?
    var queue: [Bytes]
  }

  /// What a daemon knows of epochs.
  struct EpochKnowledge {
    /// The last one that it heard of.
    var heard: String?
    /// The last one of which it will hear.
    var executed: String?
  }

  struct HostLease {
    /// The end of each attempt's lease, on the host's boot clock, by what the host has heard.
    var ends: [UInt64: BootInstant] = [:]
    /// The length of lease that each attempt asks for.
    var milliseconds: [UInt64: Int64] = [:]
    var end: BootInstant { ends.values.max() ?? BootInstant(nanoseconds: .min) }
    var firstEnd: BootInstant { ends.values.min() ?? BootInstant(nanoseconds: .min) }
    /// Something unsafe has happened since the grant: until then, by true time, a conflict with a newer lease is excused.
    var excusedUntil: Int64?
    /// When the last command was sent whose reply said that the host has it, by the host's boot clock.
    var provenSentAt: BootInstant?
    /// The highest token that it gave out.
    var highestToken: Token = 0
    /// When Redis last gave it to the host under a new attempt, by true time.
    var servedAt: Int64 = .min
    /// Whether the highest token was forgotten then, so that those of this lease may lie below it.
    var isServedUnaware = false
    /// The attempt that the host was told is contended, since when, and the grants since then.
    var contended: (attempt: String, since: BootInstant, grants: Int)?
    var grants: (attempt: String, count: Int) = ("", 0)
  }

  unowned let world: Simulation
  let names: [LockName]
  let lockKeys: [Bytes]
  let queueKeys: [Bytes]
  let epochKey: Bytes = "sl:epoch"
  /// The sign of life that a host counts on, by its index: when it was sent, by its boot clock, and for how long it is good.
  var lives: [Int: (sentAt: BootInstant, milliseconds: Int64)] = [:]
  /// Until when hosts may be taken for dead that are not.
  var deadUntil: Int64 = 0
  var beliefs: [Belief] = []
  var requests: [UInt64: Request] = [:]
  /// The requests that wait for each name on each host, in the order in which they were asked; tries are not in it.
  var waiting: [[[UInt64]]]
  /// Since when the first of them is the first, by true time.
  var queuedFirstSince: [[Int64]]
  var sessions: [SessionID: Int] = [:]
  var leases: [[HostLease]]
  var highestToken: [Token]
  /// The highest token of an exclusive hold.
  var highestExclusiveToken: [Token]
  var tokens: [Set<Token>]
  var highestTokenBeforeLoss: [Token]
  var highestExclusiveTokenBeforeLoss: [Token]
  /// All waits and holds ever, by the keys that a deadlock names: inbox and request, token and name.
  var waitSpans: [String: Span] = [:]
  var holdSpans: [String: Span] = [:]
  /// Until when the last thing that was unsafe excuses anything, by true time.
  var lossUntil: [Int64]
  /// When Redis last forgot something of each lock, by true time.
  var lossAt: [Int64]
  /// When the epoch was last asked for, by anybody.
  var confirmedAt: Int64 = 0
  /// The last loss by the boot clock of each host.
  var lossBoot: [BootInstant]
  /// When somebody else last took each lock's key.
  var foreignAt: [Int64]
  /// The daemons that know of the highest token of each lock, and whether one of them has told the epoch that there is.
  var knowers: [Set<String>]
  var floorStands: [Bool]
  /// The highest token of each lock, where a daemon knew it when it last asked for the epoch; nil where it did not.
  var knownWhenAsked: [String: [Token?]] = [:]
  /// When that token was given out.
  var roseAt: [Int64]
  /// All epochs ever, and when each of them began.
  var epochNames: Set<String> = []
  var epochSince: [String: Int64] = [:]
  /// The last one whose grace was ended: by whom, and when.
  var opener: (epoch: String, host: String, at: Int64)?
  /// What each daemon ever knew of them.
  var sights: [String: EpochKnowledge] = [:]
  /// For each host: the epoch whose grace it sees, and since when.
  var graceSince: [(key: String, since: Int64)?]
  var lastDisturbance: [Int64]
  /// When the last session closed that had each lock: its host may give it back some turns later.
  var closedAt: [Int64]
  /// When Redis' clock last jumped forward while there were leases of each lock.
  var jumpedAt: [Int64]
  /// For each host and name: since when, by true time, it waits and nobody will wake it.
  var sleepingSince: [[Int64?]]
  /// The places of each lock that hosts have taken, and not given up or been served at, by daemon and attempt.
  var places: [[String: Place]]
  /// When each ask was executed, by daemon and ask.
  var asks: [String: Int64] = [:]
  /// Whether the command that is executed is an ask that tells since when its host has stood in the queue of an epoch before.
  var tellsSince = false
  /// Whether a place may stand where no rule has put it.
  var placesAreUnsure = false
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
    queuedFirstSince = Array(repeating: Array(repeating: 0, count: count), count: hosts)
    leases = Array(repeating: Array(repeating: HostLease(), count: count), count: hosts)
    highestToken = Array(repeating: 0, count: count)
    highestTokenBeforeLoss = Array(repeating: 0, count: count)
    highestExclusiveToken = Array(repeating: 0, count: count)
    highestExclusiveTokenBeforeLoss = Array(repeating: 0, count: count)
    tokens = Array(repeating: [], count: count)
    lossUntil = Array(repeating: .min, count: count)
    lossAt = Array(repeating: .min, count: count)
    lossBoot = Array(repeating: BootInstant(nanoseconds: .min), count: hosts)
    foreignAt = Array(repeating: .min / 2, count: count)
    knowers = Array(repeating: [], count: count)
    floorStands = Array(repeating: false, count: count)
    roseAt = Array(repeating: .min, count: count)
    graceSince = Array(repeating: nil, count: hosts)
    places = Array(repeating: [:], count: count)
    placesAreUnsure = world.plan.faults.contains(.clockBack)
    closedAt = Array(repeating: .min / 2, count: count)
    jumpedAt = Array(repeating: .min / 2, count: count)
    lastDisturbance = Array(repeating: .min / 2, count: hosts)
    sleepingSince = Array(repeating: Array(repeating: nil, count: count), count: hosts)
  }

  func index(of name: LockName) -> Int? { names.firstIndex(of: name) }

  // MARK: What clients do

  func opened(_ session: SessionID, on host: SimulatedHost) { sessions[session] = host.index }

  /// The session is about to end, and its beliefs with it. Replies to what came due before may still come.
  func closing(_ session: SessionID) {
    closingSession = session
    for belief in beliefs where belief.session == session { closedAt[belief.name] = world.now }
    removeBeliefs { $0.session == session }
    for (id, request) in requests where request.session == session { leaveQueue(id, request) }
  }

  func closed(_ session: SessionID, on host: SimulatedHost) {
    closingSession = nil
    sessions[session] = nil
    for (id, request) in requests where request.session == session { forget(id, request) }
    if !host.engine.isIdle(session) { world.fail("the session \(session.rawValue) is gone and still owns something") }
  }

  func issued(_ id: RequestID, _ request: Request) {
    var request = request
    if case .acquire(let wish) = request.kind {
      request.sawOthers = beliefs.contains { wish.names.contains($0.name) }
      if world.plan.hasSmallSlices {
        let closes = wish.names.map { closedAt[$0] + world.plan.latenessMicroseconds }
        request.sawOthers = request.sawOthers || closes.contains { $0 >= world.now }
      }
      for (other, var known) in requests {
        guard case .acquire(let its) = known.kind, its.names.contains(where: wish.names.contains) else { continue }
        known.sawOthers = true
        request.sawOthers = true
        requests[other] = known
      }
      if wish.queuesForOne { waiting[request.host][wish.names[0]].append(id.rawValue) }
      let key = waitKey(world.hosts[request.host].me, id.rawValue)
      waitSpans[key] = Span(session: request.session, start: world.now)
    }
    requests[id.rawValue] = request
  }

  private func forget(_ id: UInt64, _ request: Request) {
    requests[id] = nil
    waitSpans[waitKey(world.hosts[request.host].me, id)]?.end = world.now
    leaveQueue(id, request)
  }

  private func leaveQueue(_ id: UInt64, _ request: Request) {
    guard case .acquire(let wish) = request.kind, wish.queuesForOne else { return }
    if waiting[request.host][wish.names[0]].first == id { queuedFirstSince[request.host][wish.names[0]] = world.now }
    waiting[request.host][wish.names[0]].removeAll { $0 == id }
  }

  func waitKey(_ inbox: String, _ request: UInt64) -> String { "\(inbox) \(request)" }

  func holdKey(_ name: LockName, _ token: Token) -> String { "\(token) \(name)" }

  func removeBeliefs(where isOver: (Belief) -> Bool) {
    for belief in beliefs where isOver(belief) {
      holdSpans[holdKey(names[belief.name], belief.token)]?.end = world.now
    }
    beliefs.removeAll(where: isOver)
  }

  /// The hold that was transferred last.
  var handed: Belief?

  func believe(_ belief: Belief) {
    beliefs.append(belief)
    holdSpans[holdKey(names[belief.name], belief.token)] = Span(session: belief.session, start: world.now)
  }

  // MARK: What hosts tell clients

  func replied(_ host: SimulatedHost, _ session: SessionID, _ id: RequestID, _ reply: Reply) {
    guard let request = requests[id.rawValue], request.session == session else {
      return world.fail("host \(host.index) answers request \(id.rawValue), which is not open: \(reply)")
    }
    if session == closingSession {
      // Deadlines that had passed are handled before the session's end, which takes their grants back in the same turn.
      return forget(id.rawValue, request)
    }
    verifyNobodyIsOverdue(host, before: reply)
    verifyPunctual(host, request, reply)
    switch (request.kind, reply) {
    case (.acquire(let wish), .acquired(let acquired)) where !wish.isSeveral:
      verifyTold(host, wish)
      granted(host, id, request, wish, acquired.token, validMilliseconds: acquired.validMilliseconds)
      if acquired.mode != wish.mode { world.fail("asked for \(wish.mode), got \(acquired.mode)") }
    case (.acquire(let wish), .acquiredAll(let grant)) where wish.isSeveral:
      verifyTold(host, wish)
      if grant.locks.map(\.name) != wish.names.map({ names[$0] }) {
        world.fail("the locks of a grant are not those that were asked for: \(grant.locks)")
      }
      world.mark("granted several")
      for (name, lock) in zip(wish.names, grant.locks) {
        var part = wish
        part.names = [name]
        granted(host, id, request, part, lock.token, validMilliseconds: grant.validMilliseconds)
      }
    case (.acquire(let wish), .refused(let refusal)):
      verifyRefusal(host, request, wish, refusal)
    case (.release(let name, let token), .released(_, let released, let remaining)):
      gaveBack(session, name, asked: token, released, remaining: remaining)
    case (.downgrade(let name, let token), .downgraded(_, let downgraded)):
      guard let at = beliefs.firstIndex(where: { $0.session == session && $0.name == name && $0.token == downgraded }),
        token == nil || token == downgraded
      else { return world.fail("a downgrade of what session \(session.rawValue) does not hold succeeded") }
      beliefs[at].mode = .shared
      world.mark("downgraded")
    case (.transfer(let name, _, let target), .transferred(_, let token, let receiver)):
      handedOver(host, session, name, token, to: receiver)
      if receiver != target { world.fail("a lock was handed to the wrong session") }
    case (.transfer, .refused(.noSuchSession)), (.transfer, .refused(.modeConflict)): break
    case (.transfer, .refused(.unavailable)): world.mark("no token for a transfer")
    case (.downgrade, .refused(.modeConflict(.permit, _, _))): break
    case (.release(let name, let token), .refused(.notHeld)), (.extend(let name, let token), .refused(.notHeld)),
      (.release(let name, let token), .refused(.lost)), (.extend(let name, let token), .refused(.lost)),
      (.downgrade(let name, let token), .refused(.notHeld)), (.downgrade(let name, let token), .refused(.lost)),
      (.transfer(let name, let token, _), .refused(.notHeld)), (.transfer(let name, let token, _), .refused(.lost)):
      let meant = beliefs.filter { $0.session == session && $0.name == name && (token == nil || token == $0.token) }
      if meant.count == 1 { world.fail("session \(session.rawValue) is told that it does not hold what it holds") }
      world.mark("not held")
    case (.extend, .extended), (.cancel, .cancelled): break
    case (.acquire, _), (.release, _), (.extend, _), (.downgrade, _), (.transfer, _), (.cancel, _):
      world.fail("the reply \(reply) does not answer \(request.kind)")
    }
    forget(id.rawValue, request)
  }

  private func gaveBack(_ session: SessionID, _ name: Int, asked: Token?, _ released: Token, remaining: Int) {
    guard let at = beliefs.firstIndex(where: { $0.session == session && $0.name == name && $0.token == released })
    else { return world.fail("a release of what session \(session.rawValue) does not hold succeeded") }
    if let asked, asked != released { world.fail("the release of \(asked) released \(released)") }
    beliefs[at].count -= 1
    if remaining != beliefs[at].count { world.fail("\(remaining) holds are said to be left of \(beliefs[at].count)") }
    if remaining > 0 { return world.mark("released one of several holds") }
    markRelease(beliefs[at])
    removeBeliefs { $0.session == session && $0.name == name && $0.token == released }
  }

  private func handedOver(
    _ host: SimulatedHost, _ session: SessionID, _ name: Int, _ token: Token, to target: SessionID
  ) {
    guard
      let belief = beliefs.filter({ $0.session == session && $0.name == name }).max(by: { $0.token < $1.token }),
      token > belief.token || belief.mode != .exclusive
    else { return world.fail("session \(session.rawValue) handed over what it does not hold") }
    world.mark("transferred")
    // The engine shows which of several holds it was.
    let left = host.engine.snapshot(of: names[name], waitersMax: 0, now: host.bootNow)?.holders.map(\.token) ?? []
    removeBeliefs { $0.session == session && $0.name == name && !left.contains($0.token) }
    // The receiver hears of it in the reply to its own request, or by a notification.
    handed = Belief(
      host: host.index, session: target, name: name, token: token, mode: belief.mode, owner: nil, since: world.now)
  }

  func notified(_ host: SimulatedHost, _ session: SessionID, _ notification: Notification) {
    switch notification {
    case .contended(let name, let token, let waiters):
      if session != closingSession, !beliefs.contains(where: { names[$0.name] == name && $0.token == token }) {
        world.fail("session \(session.rawValue) is told that somebody waits for what it does not hold")
      }
      if waiters < 0 { world.fail("\(waiters) waiters") }
      world.mark("holder told of waiters")
    case .transferred(let name, let token, _, _):
      if let handed, handed.session == session, handed.token == token {
        verifyToken(host, handed.name, token, handed.mode)
        believe(handed)
      }
      if !beliefs.contains(where: { $0.session == session && names[$0.name] == name && $0.token == token }) {
        world.fail("session \(session.rawValue) is told that it was handed what it does not hold")
      }
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
      if reason == .dataLoss { verifyDataLoss(host, beliefs[at]) }
      removeBeliefs { $0.session == session && names[$0.name] == name && $0.token == token }
      world.mark("lost: \(reason.rawValue)")
    case .waiting(let id, _, let position, _, _):
      guard requests[id.rawValue]?.session == session, position >= 1 else {
        return world.fail("the request \(id.rawValue) is said to wait, and is not open")
      }
      world.mark("waiting")
    }
  }

  /// A loss must be told before anything else on that host; where one turn has no room for all losses, before anything
  /// else about that lock.
  private func verifyNobodyIsOverdue(_ host: SimulatedHost, before reply: Reply) {
    for belief in beliefs where belief.host == host.index {
      if world.plan.hasSmallSlices, !reply.isAbout(names[belief.name]) { continue }
      if host.bootNow >= leases[host.index][belief.name].end {
        world.fail("host \(host.index) answers \(reply) while a lost lock (\(names[belief.name])) is not told")
      }
    }
  }

  /// A request with a limit is answered by then, whatever the store does.
  private func verifyPunctual(_ host: SimulatedHost, _ request: Request, _ reply: Reply) {
    guard case .acquire(let wish) = request.kind, let wait = wish.waitMilliseconds,
      request.issuedAt > lastDisturbance[host.index]
    else { return }
    let waited = host.bootNow.milliseconds(since: request.issuedBoot)
    let slack = world.plan.latenessMicroseconds / 1000 + 3
    let forReplicas = wish.need.isNone ? 0 : world.plan.engine.settings.replicasTimeoutMilliseconds
    let limit =
      wait == 0
      ? (max(world.plan.engine.settings.storeTimeoutMilliseconds, 2 * host.longestRoundTrip)
        + world.plan.engine.settings.inUseTimeoutMilliseconds + host.longestRoundTrip) * Int64(wish.names.count) : wait
    if waited > limit + forReplicas + slack {
      world.fail("a request with a limit of \(limit) ms was answered after \(waited) ms")
    }
    switch reply {
    case .refused(.timeout) where waited < wait:
      world.fail("a request with a limit of \(wait) ms timed out after \(waited) ms")
    case .acquired, .acquiredAll, .released, .extended, .downgraded, .transferred, .cancelled, .refused: break
    }
  }

  private func verifyRefusal(_ host: SimulatedHost, _ request: Request, _ wish: Wish, _ refusal: Refusal) {
    let wait = wish.waitMilliseconds
    let names = wish.names.map { "\(self.names[$0])" }
    world.mark("refused: \(String(describing: refusal).prefix { $0 != "(" })")
    switch refusal {
    case .busy:
      if wait != 0 { world.fail("a wait is told busy") }
      if world.isCalm, !request.sawOthers {
        world.fail("a try of \(names) is told busy, though nobody else had it or wanted it")
      }
    case .timeout: if wait == nil || wait == 0 { world.fail("a request without a limit timed out") }
    // Redis is unavailable before the first link; a wait that ran out before Redis could answer may be told so later, and
    // at any time one that is shorter than an answer takes.
    case .unavailable:
      let fewRoundTrips = 10 * Int64(world.plan.latencyMicroseconds.upperBound) / 1000
      let answersFrom = host.linkUpSince.adding(milliseconds: fewRoundTrips + 3)
      let ranOut =
        wait.map { $0 < fewRoundTrips / 5 || answersFrom > request.issuedBoot.adding(milliseconds: $0) } ?? false
      if world.isCalm, host.linkIsUp, !ranOut { world.fail("Redis is said to be unavailable, and is not") }
    case .recovering:
      if world.isCalm, !world.plan.beginsAtOnce { world.fail("Redis is said to be recovering, and has lost nothing") }
    case .wrongType: if !world.plan.faults.contains(.wrongType) { world.fail("no key has a wrong type") }
    case .modeConflict:
      if !request.sawOthers, world.isCalm { world.fail("a conflict over \(names), which nobody else had or wanted") }
    case .deadlock(let steps): verifyDeadlock(host, request, steps)
    case .underReplicated: if wish.need.isNone { world.fail("a request is refused for replicas that it needs not") }
    case .cancelled, .shuttingDown: break
    case .notHeld, .lost, .limit, .noSuchSession, .notAccepted: world.fail("an acquire was refused with \(refusal)")
    }
  }

  // MARK: Values in Redis

  typealias Entry = LockValue.Holder

  /// Those who hold a lock by what stands in Redis; empty for what no sidelock host wrote.
  func entries(_ value: RedisModel.Value?) -> [Entry] {
    guard case .string(let bytes)? = value else { return [] }
    guard let value = LockValue(bytes) else { return [] }
    let now = world.server.redis.nowMilliseconds
    return value.holders.filter { $0.expires.map { $0 > now } ?? true }
  }

  /// The holders in a lock's value, as take_away.lua names them: `<host>/<instance>:<attempt>:<token>`.
  func holderEntries(_ bytes: Bytes) -> [String] {
    (LockValue(bytes)?.holders ?? []).map { "\($0.owner):\($0.attempt):\($0.token)" }
  }

  /// Whether a lock's value was written by a sidelock host.
  func isOurs(_ value: RedisModel.Value) -> Bool {
    guard case .string(let bytes) = value else { return false }
    return LockValue(bytes) != nil
  }
}

extension Reply {
  /// Whether it says something about the client's hold of a lock.
  fileprivate func isAbout(_ lock: LockName) -> Bool {
    switch self {
    case .acquired(let grant): grant.name == lock
    case .acquiredAll(let grant): grant.locks.contains { $0.name == lock }
    case .released(let name, _, _), .extended(let name, _, _), .downgraded(let name, _), .transferred(let name, _, _):
      name == lock
    case .cancelled, .refused: false
    }
  }
}
