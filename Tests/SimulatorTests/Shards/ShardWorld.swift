import LockEngine
import LockTypes
import RESP
import RedisLeases
import TestSupport

/// Several hosts and several Redis primaries, in virtual time: the production engine and the real scripts. Each name has
/// its home in one primary, and moves to another one with its keys.
///
/// It is a smaller world than ``Simulation``: its wires lose all that is under way when they are cut, and nothing else.
final class ShardWorld {
  var random: SeededRandom
  /// True time, in microseconds.
  private(set) var now: Int64 = 0
  private(set) var failure: String?
  private(set) var marks: Set<String> = []
  let names: [LockName]
  private(set) var homes: [Int]
  private(set) var primaries: [ShardPrimary] = []
  private(set) var hosts: [ShardHost] = []
  let leaseMilliseconds: Int64
  let isShared: Bool
  let stepsPerSlice: Int
  let lingerMilliseconds: Int64
  let latency: ClosedRange<Int64>
  private var queue = EventQueue()
  private var events = 0
  private var isActive = true
  private var lines: [String]?

  struct Belief: Equatable {
    var host: Int
    var session: SessionID
    var token: Token
    var mode: HoldMode
  }
  /// Who holds each name, by what clients were told.
  private(set) var beliefs: [[Belief]]
  private var highest: [Token]
  private(set) var losses = 0
  private(set) var grants = 0

  init(seed: UInt64, isTraced: Bool = false) {
    random = SeededRandom(seed: seed)
    if isTraced { lines = [] }
    let count = random.pick(1...6)
    names = (0..<count).map { LockName("n\($0)") }
    let primaryCount = random.pick(2...3)
    homes = []
    beliefs = Array(repeating: [], count: count)
    highest = Array(repeating: 0, count: count)
    leaseMilliseconds = random.pick([1000, 3000])
    isShared = random.chance(30)
    stepsPerSlice = random.pick([256, 3])
    lingerMilliseconds = random.pick([0, 20, 1000])
    latency = random.pick([30...60, 200...2000, 1000...20_000])
    for _ in 0..<count { homes.append(random.pick(0...primaryCount - 1)) }
    for index in 0..<primaryCount {
      // Ends of shares go by the clock of their primary, and move as they are.
      let offset: Int64 = isShared ? 0 : random.pick(-5_000_000...5_000_000)
      primaries.append(ShardPrimary(world: self, index: index, clockOffset: offset))
    }
    for index in 0..<random.pick(2...3) { hosts.append(ShardHost(world: self, index: index)) }
  }

  // MARK: Time

  func schedule(after span: Int64, _ action: @escaping () -> Void) { queue.push(at: now + max(0, span), action) }

  func schedule(at time: Int64, _ action: @escaping () -> Void) { queue.push(at: max(now, time), action) }

  func run(milliseconds: Int64, until isDone: () -> Bool = { false }) {
    let end = now + milliseconds * 1000
    while failure == nil, !isDone(), let next = queue.next, next <= end, let (time, action) = queue.pop() {
      now = time
      events += 1
      action()
      if events > 300_000 { fail("something never sleeps") }
    }
    if failure == nil, !isDone() { now = max(now, end) }
  }

  func end() { queue.removeAll() }

  func fail(_ words: String) {
    if failure == nil { failure = words }
    trace("FAILED: \(words)")
  }

  func mark(_ branch: String) { marks.insert(branch) }

  func trace(_ line: @autoclosure () -> String) {
    if lines != nil { lines?.append("\(now / 1000).\(String(now % 1000 + 1000).dropFirst()) ms  \(line())") }
  }

  func lastLines(_ count: Int) -> String { (lines ?? []).suffix(count).joined(separator: "\n") }

  // MARK: The plan

  /// Clients act at random while names move; then everything is given back. `cuts`: connections break, too, and primaries
  /// begin anew with their data.
  func runPlan(cuts: Bool) {
    // The first one finds nobody, so that there is no grace.
    hosts[0].start()
    run(milliseconds: 200)
    for host in hosts.dropFirst() { host.start() }
    run(milliseconds: 200)
    for host in hosts { host.act() }
    nextMove()
    if cuts { nextCut() }
    run(milliseconds: 4000)
    isActive = false
    for host in hosts {
      host.turn(.homesMoved(homes.enumerated().map { HomeMove(cells: $0..<$0 + 1, shard: ShardID(UInt32($1))) }))
    }
    run(milliseconds: 8 * leaseMilliseconds + lingerMilliseconds + 6000) {
      hosts.allSatisfy { $0.isIdle && $0.engine.gauges.locks == 0 }
    }
    for host in hosts where failure == nil && !(host.isIdle && host.engine.gauges.locks == 0) {
      fail("host \(host.index) does not come to rest: \(host.engine.gauges), \(host.engine.recordCounts)")
    }
    for primary in primaries where failure == nil {
      let left = primary.locksLeft
      if !left.isEmpty { fail("primary \(primary.index) still has \(left)") }
    }
    end()
  }

  var isActing: Bool { isActive }

  private func nextMove() {
    schedule(after: random.pick(1000...400_000)) { [self] in
      guard isActive else { return }
      let name = random.pick(0...names.count - 1)
      let target = random.pick(0...primaries.count - 1)
      if target != homes[name] { move(name, to: target) }
      nextMove()
    }
  }

  /// The keys of a name go to another primary with what is left of their lives.
  private func move(_ name: Int, to target: Int) {
    trace("\(names[name]) moves from primary \(homes[name]) to \(target)")
    mark(beliefs[name].isEmpty ? "moved" : "moved while it is held")
    primaries[homes[name]].give(names[name], to: primaries[target])
    homes[name] = target
    // Some hear of it by themselves; the others when they are told that it has moved.
    for host in hosts where random.chance(60) {
      schedule(after: random.pick(0...500_000)) { [self] in host.learns(name, home: homes[name]) }
    }
  }

  private func nextCut() {
    schedule(after: random.pick(1000...800_000)) { [self] in
      guard isActive else { return }
      if random.chance(80) {
        let (host, primary) = (random.pick(hosts), random.pick(primaries))
        trace("host \(host.index) loses its connection to primary \(primary.index)")
        mark("cut")
        host.cut(primary)
      } else {
        let primary = random.pick(primaries)
        trace("primary \(primary.index) begins anew")
        mark("primary begins anew")
        primary.restart()
      }
      nextCut()
    }
  }

  // MARK: What clients are told

  func acquired(_ name: LockName, _ belief: Belief) {
    guard let index = names.firstIndex(of: name) else { return fail("\(name) is nobody's") }
    grants += 1
    let others = beliefs[index].filter { belief.mode == .exclusive || $0.mode == .exclusive }
    if !others.isEmpty { fail("\(name) is granted to \(belief) while it is held by \(others)") }
    if belief.token <= highest[index], belief.mode == .exclusive {
      fail("\(name) is granted with token \(belief.token) after \(highest[index])")
    }
    highest[index] = max(highest[index], belief.token)
    beliefs[index].append(belief)
  }

  func ended(_ name: LockName, _ session: SessionID, isLoss: Bool) {
    guard let index = names.firstIndex(of: name),
      let at = beliefs[index].firstIndex(where: { $0.session == session })
    else { return fail("session \(session.rawValue) does not hold \(name)") }
    if isLoss { losses += 1 }
    beliefs[index].remove(at: at)
  }

  func closed(_ session: SessionID) {
    for index in beliefs.indices { beliefs[index].removeAll { $0.session == session } }
  }
}

/// One primary: the model of Redis, and who is connected to it.
final class ShardPrimary {
  unowned let world: ShardWorld
  let index: Int
  private let model = RedisModel()
  private let clockOffset: Int64
  private(set) var isDown = false
  private(set) var lines: [ShardLine] = []

  init(world: ShardWorld, index: Int, clockOffset: Int64) {
    self.world = world
    self.index = index
    self.clockOffset = clockOffset
  }

  private func tick() { model.wallMicroseconds = 1_700_000_000_000_000 + world.now + clockOffset }

  func accept(_ line: ShardLine) throws {
    line.client = model.connect()
    try model.execute(["HELLO", "3"], from: line.client)
    try model.execute(["SUBSCRIBE", Bytes(line.host.encoder.inboxChannel)], from: line.client)
    _ = model.takeOutput()
    lines.append(line)
  }

  func closed(_ line: ShardLine) {
    guard lines.contains(where: { $0 === line }) else { return }
    lines.removeAll { $0 === line }
    model.disconnect(line.client)
  }

  func restart() {
    guard !isDown else { return }
    isDown = true
    tick()
    let kept = model.entries
    for line in lines { line.host.cut(self) }
    model.restart(with: kept)
    world.schedule(after: 50_000) { [self] in isDown = false }
  }

  /// Hands the keys of a name over, each with what is left of its life.
  func give(_ name: LockName, to other: ShardPrimary) {
    tick()
    other.tick()
    let tag = "sl:{\(name)}"
    for key in model.liveKeys() where key.text == tag || key.text.hasPrefix(tag + ":") {
      guard var entry = model.peek(key) else { continue }
      entry.expiresAtMilliseconds = entry.expiresAtMilliseconds.map {
        $0 - model.nowMilliseconds + other.model.nowMilliseconds
      }
      other.model.store(key, entry)
      model.evict(key)
    }
  }

  /// Locks and queues that stand there, apart from what ends by itself within a minute.
  var locksLeft: [String] {
    tick()
    return model.liveKeys().filter { key in
      let mayStay = [":fence", ":queue:suspect", ":queue:since"].contains { key.text.hasSuffix($0) }
      return !key.text.hasPrefix("sl:epoch") && (!mayStay || model.peek(key)?.expiresAtMilliseconds == nil)
    }.map(\.text)
  }

  /// A command arrives. It is carried out for the names whose home this is.
  func received(_ id: CommandID, _ command: LeaseCommand, on line: ShardLine) {
    guard line.isOpen, !isDown else { return }
    tick()
    do {
      let strangers = command.lockNames.filter { world.homes[world.names.firstIndex(of: $0) ?? 0] != index }
      for name in strangers {
        let home = world.homes[world.names.firstIndex(of: name) ?? 0]
        line.toHost { line.host.learns(name, home: home) }
      }
      if !strangers.isEmpty { world.mark("told that it has moved") }
      let reply: LeaseReply
      switch command {
      case .renew, .reclaim, .checkPlaces: reply = try carryOut(command, without: strangers, on: line)
      default:
        reply = try strangers.isEmpty ? run(command, on: line) : .failed(.transient("MOVED"))
      }
      world.trace("primary \(index) to host \(line.host.index): \(reply), to \(command)")
      line.toHost { line.host.turn(.replyReceived(ShardID(UInt32(self.index)), id, reply)) }
    } catch {
      world.fail("the model of Redis: \(error)")
    }
  }

  /// Commands of many names, as if each name had been asked for by itself.
  private func carryOut(_ command: LeaseCommand, without strangers: [LockName], on line: ShardLine) throws -> LeaseReply
  {
    if strangers.isEmpty { return try run(command, on: line) }
    switch command {
    case .renew(let leases, let milliseconds, let epoch):
      let known = leases.filter { !strangers.contains($0.name) }
      guard !known.isEmpty else { return .renewed(leases.map { _ in .elsewhere }) }
      let reply = try run(.renew(known, leaseMilliseconds: milliseconds, epoch: epoch), on: line)
      return reply.filled(leases.map { strangers.contains($0.name) })
    case .reclaim(let leases, let milliseconds, let epoch):
      let known = leases.filter { !strangers.contains($0.name) }
      guard !known.isEmpty else { return .renewed(leases.map { _ in .elsewhere }) }
      let reply = try run(.reclaim(known, leaseMilliseconds: milliseconds, epoch: epoch), on: line)
      return reply.filled(leases.map { strangers.contains($0.name) })
    default: return .lostPlaces([])
    }
  }

  private func run(_ command: LeaseCommand, on line: ShardLine) throws -> LeaseReply {
    let inWords = line.host.encoder.encode(command)
    var parts = inWords.parts.map { Bytes($0) }
    if let script = inWords.script { parts = ["EVAL", Self.sources[script] ?? ""] + parts }
    try model.execute(parts, from: line.client)
    var reply: LeaseReply?
    for item in model.takeOutput() {
      guard case .send(let client, let sent) = item, let target = lines.first(where: { $0.client == client }) else {
        continue
      }
      if case .push(let parts) = sent {
        guard parts.count == 3, case .bulk(let payload) = parts[2],
          case .lease(let push)? = InboxMessage(payload.array)
        else { continue }
        target.toHost { target.host.turn(.pushReceived(ShardID(UInt32(self.index)), push)) }
      } else {
        reply = LeaseReplyDecoder.decode(sent.value, to: command)
      }
    }
    guard let reply else { throw ModelError(description: "no reply to \(command)") }
    if case .failed(let failure) = reply { world.fail("\(command) failed: \(failure)") }
    return reply
  }

  private static let sources = Dictionary(
    RedisScript.leases.map { ($0.name, Bytes($0.source)) }, uniquingKeysWith: { $1 })
}

extension LeaseReply {
  /// The same for more leases: those that are `elsewhere`, too.
  fileprivate func filled(_ elsewhere: [Bool]) -> LeaseReply {
    guard case .renewed(let standings) = self else { return self }
    var rest = standings[...]
    return .renewed(elsewhere.map { $0 ? .elsewhere : rest.popFirst() ?? .missing })
  }
}

extension LeaseCommand {
  /// The locks that it is about.
  fileprivate var lockNames: [LockName] {
    switch self {
    case .acquire(let name, _, _, _, _, _, _, _, _), .release(let name, _, _, _, _), .downgrade(let name, _, _, _),
      .reserve(let name, _, _, _), .look(let name):
      [name]
    case .renew(let leases, _, _): leases.map(\.name)
    case .reclaim(let leases, _, _): leases.map(\.name)
    case .checkPlaces(let places, _): places.map(\.name)
    case .confirmEpoch, .answerInUse, .heartbeat, .clock, .hostMessage: []
    }
  }
}
