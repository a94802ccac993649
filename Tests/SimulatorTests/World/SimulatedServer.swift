import LockEngine
import RESP
import RedisLeases

/// The one Redis server of a simulation: the model, its connections, and what can happen to the process.
final class SimulatedServer {
  unowned let world: Simulation
  let redis = RedisModel()
  private(set) var wires: [Wire] = []
  private(set) var isStalled = false
  private(set) var isDown = false
  private var clockOffset: Int64 = 0
  /// Which scripts the daemons have, by their digests.
  private let scriptNames: [String: ScriptName]
  /// By how much the clock was set back in all: keys outlive their time by as much.
  private(set) var setBackMicroseconds: Int64 = 0
  /// What stood in Redis a while ago, the latest last: for a restart that finds an old file, and for a replica that lags.
  private(set) var copies: [(at: Int64, data: [Bytes: RedisModel.Entry])] = []
  /// Messages to inboxes that will be lost on their way.
  var pushesToLose = 0

  init(world: Simulation) {
    self.world = world
    redis.ownPushesComeAfterTheReply = world.plan.ownPushesComeAfterTheReply
    scriptNames =
      world.mistake == .none && !world.plan.hasLaterReleases
      ? Self.names : Self.names.merging(Self.digests(world.mistake.scripts + LaterRelease.scripts)) { $1 }
  }

  private static let names = digests(RedisScript.leases)

  private static func digests(_ scripts: [RedisScript]) -> [String: ScriptName] {
    Dictionary(scripts.map { (LuaRuntime.digest(of: Bytes($0.source)), $0.name) }) { $1 }
  }

  /// The script that a command calls.
  func script(of command: [Bytes]) -> ScriptName? {
    switch command.first {
    case "EVALSHA": scriptNames[command[1].text]
    case "EVAL": scriptNames[LuaRuntime.digest(of: command[1])]
    default: nil
    }
  }

  /// Brings the model's clock up to the simulation's.
  func tick() {
    redis.wallMicroseconds = clock
  }

  // MARK: Connections

  /// A connection reaches the server; false when nobody listens.
  func accept(_ wire: Wire) -> Bool {
    guard !isDown else { return false }
    wire.serverIsOpen = true
    wire.client = redis.connect()
    wires.append(wire)
    return true
  }

  func closed(_ wire: Wire) {
    guard wire.serverIsOpen else { return }
    // A stopped server notices when it goes on, and first executes what was sent before.
    if isStalled && !wire.unread.isEmpty {
      wire.unread.append([])
      return
    }
    forget(wire)
  }

  private func forget(_ wire: Wire) {
    wire.serverIsOpen = false
    wire.unread.removeAll()
    wire.input.removeAll()
    redis.disconnect(wire.client)
    wires.removeAll { $0 === wire }
  }

  /// The server ends a connection: CLIENT KILL, an output buffer's limit, an operator.
  func close(_ wire: Wire) {
    guard wire.serverIsOpen else { return }
    forget(wire)
    wire.closeFromServer()
  }

  func received(_ bytes: [UInt8], on wire: Wire) {
    if wire.wasKilled { world.mark("late commands killed") }
    guard wire.serverIsOpen, !isDown else { return }
    if isStalled {
      wire.unread.append(bytes)
    } else {
      process(bytes, from: wire)
    }
  }

  private func process(_ bytes: [UInt8], from wire: Wire) {
    tick()
    wire.input += bytes
    var start = 0
    var output: [(wire: Wire, bytes: [UInt8])] = []
    do {
      for command in try RESPWire.commands(in: wire.input, from: &start) {
        guard wire.serverIsOpen else { break }
        let before = world.checker.leaseTable()
        let epoch = world.checker.epochBytes()
        try redis.execute(command, from: wire.client)
        world.trace("redis < host \(wire.host.index) wire \(wire.id): \(brief(command))")
        let sent = redis.takeOutput()
        collect(sent, into: &output)
        let reply = sent.lazy.compactMap { $0.reply(to: wire.client) }.first
        world.checker.executed(command, by: wire.me, before: before, epoch: epoch, reply: reply)
      }
      if wire.serverIsOpen { wire.input.removeFirst(start) }
    } catch {
      world.fail("the model of Redis: \(error)")
    }
    for (target, bytes) in output where target.serverIsOpen { target.sendToHost(bytes) }
  }

  private func collect(_ sent: [RedisModel.Output], into output: inout [(wire: Wire, bytes: [UInt8])]) {
    for item in sent {
      switch item {
      case .send(let client, let reply):
        guard let wire = wires.first(where: { $0.client == client }) else { continue }
        if case .push(let parts) = reply {
          if parts.first == .bulk("message"), pushesToLose > 0 {
            pushesToLose -= 1
            world.mark("push lost")
            world.checker.lost()
            world.trace("redis > host \(wire.host.index) wire \(wire.id): LOST \(reply)")
            continue
          }
        }
        world.trace("redis > host \(wire.host.index) wire \(wire.id): \(reply)")
        let at = output.firstIndex { $0.wire === wire } ?? output.count
        if at == output.count { output.append((wire, [])) }
        RESPWire.append(reply, to: &output[at].bytes)
      case .close(let client):
        world.mark("old connection killed")
        if let wire = wires.first(where: { $0.client == client }) {
          wire.wasKilled = true
          close(wire)
        }
      }
    }
  }

  private func brief(_ command: [Bytes]) -> String {
    switch command.first?.text {
    case "EVALSHA", "EVAL":
      return "\(script(of: command)?.rawValue ?? command[0].text) "
        + command.dropFirst(3).filter { !$0.text.hasPrefix("sl:inbox") }.map(\.text).joined(separator: " ")
    case "SCRIPT": return "SCRIPT LOAD"
    default: return command.map(\.text).joined(separator: " ")
    }
  }

  // MARK: What happens to the process

  func stall() { isStalled = true }

  /// The stopped process goes on. It reads its connections in no particular order, each in its own.
  func resume() {
    guard isStalled else { return }
    isStalled = false
    while true {
      let waiting = wires.filter { !$0.unread.isEmpty }
      guard !waiting.isEmpty else { return }
      let wire = world.random.pick(waiting)
      let chunk = wire.unread.removeFirst()
      if chunk.isEmpty { forget(wire) } else { process(chunk, from: wire) }
    }
  }

  enum Data {
    case all, nothing
    /// What stood there so long ago, in microseconds, or somewhat longer.
    case old(Int64)
  }

  /// The process ends, and starts again after a while with what it finds on disk; or a replica takes its place, with what
  /// it has heard, and by its own clock. `clock`: by how much that differs from the true one; nil: as before.
  func restart(keeping data: Data, afterMicroseconds pause: Int64, clock: Int64? = nil) {
    guard !isDown else { return }
    tick()
    let kept: [Bytes: RedisModel.Entry]
    switch data {
    case .all: kept = redis.entries
    case .old(let age): kept = copy(ofAge: age)
    case .nothing: kept = [:]
    }
    world.checker.forgot()
    clockOffset = clock ?? clockOffset
    isDown = true
    isStalled = false
    for wire in wires { close(wire) }
    redis.restart(with: kept)
    world.schedule(after: pause) { [self] in isDown = false }
  }

  /// The simulation's moment by the server's clock.
  var clock: Int64 { Self.epoch + world.now + clockOffset }

  private static let epoch: Int64 = 1_700_000_000_000_000

  func rememberData() {
    tick()
    copies.append((world.now, redis.entries))
    if let first = copies.first, first.at < world.now - Self.ageMax { copies.removeFirst() }
  }

  /// By how much a replica may lag, in microseconds.
  static let ageMax: Int64 = 5_000_000

  private func copy(ofAge age: Int64) -> [Bytes: RedisModel.Entry] {
    (copies.last { $0.at <= world.now - age } ?? copies.first)?.data ?? [:]
  }

  /// The two databases of the server change places. `content`: what is put into the other one before that; nil: it is what
  /// it was.
  func swapDatabases(with content: Data?) {
    tick()
    switch content {
    case nil: break
    case .all: redis.fillOtherDatabase(with: redis.entries)
    case .nothing: redis.fillOtherDatabase(with: [:])
    case .old(let age):
      // Data of the very epoch that everybody is in are unsafe for ever: nothing tells them from what they replace (U5).
      let data = copy(ofAge: age)
      let name = { (entry: RedisModel.Entry?) -> String? in
        if case .string(let bytes)? = entry?.value { EpochValue(bytes)?.id } else { nil }
      }
      let key = world.checker.epochKey
      redis.fillOtherDatabase(with: name(data[key]) == name(redis.entries[key]) ? [:] : data)
    }
    world.checker.forgot()
    redis.swapDatabases()
    world.checker.foundInstead()
  }

  /// What a clock that is behind keeps for an hour ends after a lease: an administrator who has set it right would see to
  /// that.
  func endWhatIsTooLong() {
    tick()
    let end = redis.nowMilliseconds + world.plan.leaseMilliseconds
    for (key, entry) in redis.entries {
      guard let its = entry.expiresAtMilliseconds, its > end, !key.text.hasSuffix(":fence") else { continue }
      var entry = entry
      entry.expiresAtMilliseconds = end
      if case .string(let bytes) = entry.value { entry.value = .string(LockValue.shortened(bytes, toEndBy: end)) }
      redis.store(key, entry)
    }
  }

  func stepClock(byMicroseconds step: Int64) {
    clockOffset += step
    setBackMicroseconds += max(0, -step)
    tick()
  }

  /// A command from somewhere else: an operator, or a process that does not use sidelock.
  func operate(_ command: [Bytes]) -> ServerReply? {
    tick()
    let client = redis.connect()
    // EVAL comes from a daemon on the operator's behalf, and runs as the daemons' user.
    redis.isOperator = command.first != "EVAL"
    defer {
      redis.isOperator = false
      redis.disconnect(client)
    }
    do {
      try redis.execute(command, from: client)
      world.trace("redis < operator: \(command.map(\.text).joined(separator: " "))")
    } catch {
      world.fail("the model of Redis: \(error)")
    }
    var answer: ServerReply?
    var output: [(wire: Wire, bytes: [UInt8])] = []
    for item in redis.takeOutput() {
      if case .send(client, let reply) = item { answer = reply } else { collect([item], into: &output) }
    }
    for (target, bytes) in output where target.serverIsOpen { target.sendToHost(bytes) }
    return answer
  }
}
