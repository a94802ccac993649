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
  /// By how much the clock was set back in all: keys outlive their time by as much.
  private(set) var setBackMicroseconds: Int64 = 0
  /// What stood in Redis a while ago, for a restart that finds an old file.
  private(set) var oldData: [Bytes: RedisModel.Entry] = [:]
  /// Messages to inboxes that will be lost on their way.
  var pushesToLose = 0

  init(world: Simulation) {
    self.world = world
    redis.ownPushesComeAfterTheReply = world.plan.ownPushesComeAfterTheReply
  }

  /// Brings the model's clock up to the simulation's.
  func tick() {
    redis.wallMicroseconds = 1_700_000_000_000_000 + world.now + clockOffset
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
        try redis.execute(command, from: wire.client)
        world.trace("redis < host \(wire.host.index) wire \(wire.id): \(Self.brief(command))")
        collect(redis.takeOutput(), into: &output)
        world.checker.executed(command, by: wire.me, before: before)
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

  private static func brief(_ command: [Bytes]) -> String {
    switch command.first?.text {
    case "EVALSHA", "EVAL":
      let name = RedisScript.leases.first { LuaRuntime.digest(of: Bytes($0.source)) == command[1].text }
      return "\(name?.name.rawValue ?? command[0].text) "
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

  enum Data { case all, old, none }

  /// The process ends, and starts again after a while with what it finds on disk.
  func restart(keeping data: Data, afterMicroseconds pause: Int64) {
    guard !isDown else { return }
    tick()
    let kept: [Bytes: RedisModel.Entry]
    switch data {
    case .all: kept = redis.entries
    case .old: kept = oldData
    case .none: kept = [:]
    }
    isDown = true
    isStalled = false
    for wire in wires { close(wire) }
    redis.restart(with: kept)
    world.schedule(after: pause) { [self] in isDown = false }
  }

  func rememberData() {
    tick()
    oldData = redis.entries
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
