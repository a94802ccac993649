import LockEngine
import RESP
import RedisLeases

// What goes wrong, and the course of a random simulation.
extension Simulation {
  /// Runs the whole plan: clients and faults at random; faults off, a while of rest; everything given back; then what
  /// must always work when nothing is wrong.
  func runPlan() {
    for host in hosts {
      for _ in 0..<plan.clientsPerHost { clients.append(SimulatedClient(world: self, host: host)) }
    }
    run(milliseconds: 50)
    clientsAct = true
    faultsAreOn = true
    for client in clients {
      client.open()
      client.live()
    }
    if !plan.faults.isEmpty { nextFault() }
    if plan.faults.contains(where: { [.restartWithOldData, .failover, .swapDatabase].contains($0) }) { rememberData() }
    watchSleepers()
    run(milliseconds: plan.chaosMilliseconds)
    calmDown()
    // Every zombie connection may cost one lease, and so may every lost push, and the grace of an epoch. A queue lives for
    // two leases, or twice as long as a lock's key that outlives its time because the clock was set back.
    run(
      milliseconds: (plan.faults.contains(where: \.beginsEpoch) ? 5 : 3) * plan.leaseMilliseconds
        + plan.keepaliveMilliseconds + 5 * Self.latencyMax / 1000 + 2 * server.setBackMicroseconds / 1000)
    for name in checker.names.indices { checker.verifyAgreement(name) }
    drain()
    verifyTries()
    verifyNothingIsLeft()
    end()
  }

  private func watchSleepers() {
    checker.verifyNobodySleeps()
    schedule(after: 50_000) { [self] in watchSleepers() }
  }

  private func rememberData() {
    server.rememberData()
    schedule(after: plan.faults.contains(.failover) ? 20_000 : 700_000) { [self] in if faultsAreOn { rememberData() } }
  }

  private func nextFault() {
    schedule(after: random.pick(1...2 * plan.faultEveryMilliseconds * 1000)) { [self] in
      guard faultsAreOn else { return }
      let fault = random.pick(plan.faults)
      if !fault.beginsEpoch {
        strike(fault)
      } else if now >= nextEpochFrom {
        strike(fault)
        nextEpochFrom = now + plan.epochEveryMilliseconds * 1000
      }
      nextFault()
    }
  }

  private func calmDown() {
    trace("faults are off")
    faultsAreOn = false
    clientsAct = false
    server.pushesToLose = 0
    server.redis.trouble = .none
    server.redis.deniedCommand = nil
    server.resume()
    server.endWhatIsTooLong()
    latencyFactor = 1
    for host in hosts {
      host.resume()
      if !host.isRunning { host.start() }
      host.changeLease(toMilliseconds: plan.leaseMilliseconds)
      // When the network is back, TCP finds that the server no longer knows this connection.
      if let wire = host.currentWire, wire.isBlackholed { host.wireClosed(wire) }
    }
    for name in checker.names.indices {
      if let found = server.redis.peek(checker.lockKeys[name]), !checker.isOurs(found.value) {
        _ = server.operate(["DEL", checker.lockKeys[name]])
      }
    }
  }

  /// Everybody gives back what it holds and waits until it has been served; that must come to an end.
  private func drain() {
    trace("draining")
    let waits = Int64(clients.count * 3)
    let bound = 6 * plan.leaseMilliseconds + plan.lingerMilliseconds + 4000 + waits * (plan.cohortMilliseconds + 50)
    let isDone = run(milliseconds: bound) {
      checker.requests.isEmpty && checker.beliefs.isEmpty && hosts.allSatisfy { $0.engine.gauges.locks == 0 }
    }
    if failure == nil, !isDone { checker.verifyDrained() }
    run(milliseconds: 50)
    if failure == nil { checker.verifyDrained() }
  }

  /// A try that follows the reply to a release gets the lock, on any host, however its client heard of that reply.
  private func verifyTries() {
    // On a slow link each step takes its way there and back.
    let trips = 10 * plan.latencyMicroseconds.upperBound / 1000
    guard failure == nil, run(milliseconds: 3000 + trips, until: { hosts.allSatisfy(\.linkIsUp) }) else {
      return fail("a host does not find Redis again")
    }
    for client in clients where !client.isConnected { client.open() }
    // What is gone may not have been missed yet.
    clients[0].acquire(0)
    let patience = 2 * plan.leaseMilliseconds + 3000 + trips
    guard run(milliseconds: patience, until: { checker.beliefs.contains { $0.session == clients[0].session } }) else {
      return fail("a lock that nobody wants is not granted within \(patience) ms")
    }
    clients[0].release(0)
    run(milliseconds: plan.leaseMilliseconds + trips)
    for _ in 0..<4 where failure == nil {
      let first = random.pick(clients)
      let second = random.pick(clients)
      if !first.isConnected { first.open() }
      if !second.isConnected { second.open() }
      first.acquire(0)
      guard run(milliseconds: 1000 + trips, until: { checker.beliefs.contains { $0.session == first.session } })
      else {
        return fail("a lock that nobody wants is not granted within \(1000 + trips) ms")
      }
      if first === second || random.chance(50) {
        first.release(0)
      } else {
        first.close()
      }
      second.acquire(0, waitMilliseconds: 0)
      guard run(milliseconds: 3000 + trips, until: { checker.requests.isEmpty }) else {
        return fail("a try is not answered")
      }
      guard checker.beliefs.contains(where: { $0.session == second.session }) else {
        return fail("a try right after a release is refused")
      }
      second.release(0)
      run(milliseconds: random.pick([0, 1, 100]))
    }
  }

  /// When all clients have left, the engines' memory is empty, down to records that nothing else refers to.
  private func verifyNothingIsLeft() {
    guard failure == nil else { return }
    for client in clients { client.close() }
    let bound = 6 * plan.leaseMilliseconds + plan.lingerMilliseconds + 4000
    let isDone = run(milliseconds: bound) {
      hosts.allSatisfy { $0.engine.recordCounts == RecordCounts() }
    }
    guard failure == nil, !isDone else { return }
    for host in hosts where host.engine.recordCounts != RecordCounts() {
      fail("host \(host.index) still has \(host.engine.recordCounts)")
    }
  }

  // MARK: Faults

  func strike(_ fault: Fault) {
    trace("fault: \(fault)")
    mark("fault: \(fault.rawValue)")
    let host = random.pick(hosts)
    let name = random.pick(0...plan.nameCount - 1)
    let lease = plan.leaseMilliseconds * 1000
    switch fault {
    case .cut, .blackhole, .serverClosesConnection, .latencySpike, .lostPush: strikeNetwork(fault, host)
    case .stall:
      server.stall()
      schedule(after: random.pick([lease / 100, lease / 3, 2 * lease])) { [self] in server.resume() }
    case .restartWithData: server.restart(keeping: .all, afterMicroseconds: random.pick(1000...lease))
    case .restartWithOldData:
      server.restart(
        keeping: .old(random.pick([0, 700_000])), afterMicroseconds: random.pick(1000...lease), clock: otherClock())
    case .restartWithoutData:
      server.restart(keeping: .nothing, afterMicroseconds: random.pick(1000...lease), clock: otherClock())
    case .failover:
      server.restart(
        keeping: .old(random.pick([0, 20_000, 300_000, SimulatedServer.ageMax])),
        afterMicroseconds: random.pick(1000...lease), clock: otherClock())
    case .scriptFlush: server.redis.flushScripts()
    case .flushAll:
      checker.forgot()
      _ = server.operate(["FLUSHALL"])
    case .forgetFreshLease: forgetsNextLease = true
    case .swapDatabase: server.swapDatabases(with: random.pick([.nothing, .nothing, .nothing, .old(700_000), nil]))
    case .evictEpoch:
      if plan.deadHostMilliseconds > 0, random.chance(50) {
        server.redis.evict(Bytes(checker.epochKey.array + Array((":" + random.pick(hosts).me).utf8)))
        break
      }
      checker.lost()
      checker.forgotFloors()
      server.redis.evict(checker.epochKey)
    case .clockForward:
      checker.unsafe(.clockForward)
      server.stepClock(byMicroseconds: random.pick([lease / 10, lease, 3_600_000_000]))
    case .clockBack: server.stepClock(byMicroseconds: -random.pick([lease / 10, lease / 2]))
    case .evictLock:
      checker.unsafe(.lockKeyGone, [name])
      server.redis.evict(checker.lockKeys[name])
    case .evictFence: server.redis.evict(Bytes("sl:{lock-\(name)}:fence"))
    case .evictQueue:
      if server.redis.peek(checker.queueKeys[name]) != nil { checker.lost([name]) }
      server.redis.evict(checker.queueKeys[name])
    case .refusal:
      server.redis.trouble = random.pick(RedisModel.Trouble.allCases.filter { $0 != .none })
      schedule(after: random.pick([lease / 50, lease / 3, 2 * lease])) { [self] in server.redis.trouble = .none }
    case .loseEntry:
      guard case .list(let queue)? = server.redis.peek(checker.queueKeys[name])?.value else { return }
      checker.lost([name])
      _ = server.operate(["LREM", checker.queueKeys[name], "1", random.pick(queue)])
    case .rightTaken:
      server.redis.deniedCommand = random.pick(Self.rights)
      schedule(after: random.pick([lease / 50, lease / 3, 2 * lease])) { [self] in server.redis.deniedCommand = nil }
    case .wrongType: putWrongType(name)
    case .foreignHolder: holdFromOutside(name)
    case .pauseHost:
      host.pause()
      schedule(after: random.pick([lease / 20, lease / 2, 2 * lease])) { host.resume() }
    case .crashDaemon, .crashMachine:
      host.crash(silently: fault == .crashMachine)
      let incarnation = host.incarnation
      schedule(after: random.pick(1000...lease)) {
        if host.incarnation == incarnation, !host.isRunning { host.start() }
      }
    case .takeAway: takeAway(name)
    case .shutdown: host.whenAwake { host.turn(.shutdownRequested) }
    case .leaseChange:
      host.changeLease(toMilliseconds: random.pick([1000, plan.leaseMilliseconds / 2, plan.leaseMilliseconds]))
    }
  }

  /// A host has just heard that it has a lease. Where a fault has ordered it, the host is suspended now, and Redis forgets
  /// the lease: whoever ends the grace must have waited for nearly all of it.
  func leaseHeard(by host: SimulatedHost) {
    guard forgetsNextLease, faultsAreOn else { return }
    forgetsNextLease = false
    schedule(after: 0) { [self] in
      host.pause()
      schedule(after: 2 * plan.leaseMilliseconds * 1000) { host.resume() }
      checker.forgot()
      _ = server.operate(["FLUSHALL"])
    }
  }

  /// Commands that the scripts use; a right to one of them can be taken.
  private static let rights = [
    "DEL", "EXISTS", "GET", "LINDEX", "LLEN", "LPOP", "LPOS", "LRANGE", "LREM", "PEXPIRE", "PING", "PTTL", "PUBLISH",
    "RPUSH", "SET", "TIME", "INFO", "PUBSUB",
  ]

  /// By how much the clock of the next server process differs from the true one, in microseconds; nil: as before.
  private func otherClock() -> Int64? {
    guard plan.hasOtherClocks else { return nil }
    let lease = plan.leaseMilliseconds * 1000
    return random.pick([nil, 0, -lease / 10, -lease, lease, -3_600_000_000, 3_600_000_000])
  }

  /// An administrator takes a lock from hosts that are gone, and from foreign processes.
  private func takeAway(_ name: Int) {
    guard let value = server.redis.peek(checker.lockKeys[name])?.value, case .string(let text) = value else { return }
    var seen = [text.array]
    if checker.isOurs(value) {
      let living = hosts.filter(\.isRunning).map(\.me)
      seen = checker.holderEntries(text).filter { entry in !living.contains { entry.hasPrefix($0 + ":") } }
        .map { Array($0.utf8) }
    }
    guard !seen.isEmpty else { return }
    let encoder = LeaseCommandEncoder(keyPrefix: "sl:", host: "admin", instance: "1")
    let command = encoder.takeAway(
      checker.names[name], seen: seen, token: nil, terms: GrantTerms(epoch: checker.epochID))
    let source = RedisScript.leases.first { $0.name == command.script }?.source ?? []
    let reply = server.operate(["EVAL", Bytes(source)] + command.parts.map { Bytes($0) })
    if case .array(let taken)? = reply, !taken.isEmpty { mark("taken away") }
  }

  private func strikeNetwork(_ fault: Fault, _ host: SimulatedHost) {
    switch fault {
    case .cut:
      guard let wire = host.currentWire else { return }
      wire.cut()
    case .blackhole:
      // TCP keeps order: after a loss nothing that follows may come through.
      guard let wire = host.currentWire, !wire.isBlackholed else { return }
      wire.loseSome()
      wire.isBlackholed = true
      wire.expireAtServer()
      // The partition heals: what was sent meanwhile arrives late, perhaps after a newer connection's commands.
      if random.chance(50) {
        wire.toServer.limit = .max
        wire.heldBackUntil = now + random.pick(1000...plan.leaseMilliseconds * 1000)
      }
    case .serverClosesConnection:
      let open = server.wires
      if !open.isEmpty { server.close(random.pick(open)) }
    case .latencySpike:
      latencyFactor = random.pick([Int64(10), 100, 1000])
      schedule(after: random.pick(1000...plan.leaseMilliseconds * 1000)) { [self] in latencyFactor = 1 }
    default: server.pushesToLose += 1
    }
  }

  /// Puts other data under the lock's key, which is possible only while nobody holds the lock.
  private func putWrongType(_ name: Int) {
    let key = checker.lockKeys[name]
    server.tick()
    guard server.redis.peek(key) == nil else { return }
    _ = server.operate(["RPUSH", key, "other data"])
    checker.foreignTook(name)
    schedule(after: random.pick(1000...plan.leaseMilliseconds * 1000)) { [self] in
      if case .list? = server.redis.peek(key)?.value { _ = server.operate(["DEL", key]) }
    }
  }

  /// A process that locks in the classic way, with SET NX PX, and deletes what it set.
  private func holdFromOutside(_ name: Int) {
    let key = checker.lockKeys[name]
    let value = Bytes("foreign-\(newID())")
    let span = random.pick(Int64(10)...plan.leaseMilliseconds)
    guard server.operate(["SET", key, value, "NX", "PX", Bytes(span)]) == .ok else { return }
    checker.foreignTook(name)
    mark("foreign holder took the lock")
    guard random.chance(50) else { return }
    schedule(after: span * 500) { [self] in
      if server.redis.peek(key)?.value == .string(value) { _ = server.operate(["DEL", key]) }
    }
  }
}
