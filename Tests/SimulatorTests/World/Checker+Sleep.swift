import LockEngine

// Waiters that nobody will wake.
extension Checker {
  /// Every waiter has its place in the queue, and none that could have the lock waits on, for longer than it takes
  /// hosts to check their places, whatever got lost before. To be called again and again.
  func verifyNobodySleeps() {
    world.server.tick()
    verifyGraceEnds()
    let isOpen = epoch?.isOpen == true
    for (host, name) in world.hosts.flatMap({ host in names.indices.map { (host, $0) } }) {
      guard isOpen, let reason = reasonToWake(host, name) else {
        sleepingSince[host.index][name] = nil
        continue
      }
      let since = sleepingSince[host.index][name] ?? world.now
      sleepingSince[host.index][name] = since
      if world.now - since > sleepMicrosecondsMax {
        world.fail("host \(host.index) has slept since \(since / 1000) ms beside \(names[name]): \(reason)")
      }
    }
  }

  /// Something about these names, or all, was lost: nobody can have repaired it yet.
  func lost(_ names: [Int]? = nil) {
    for host in sleepingSince.indices {
      for name in names ?? Array(self.names.indices) where sleepingSince[host][name] != nil {
        sleepingSince[host][name] = world.now
      }
    }
  }

  /// Two seconds, and the trips on a slow line: more of them where commands wait for each other.
  var sleepMicrosecondsMax: Int64 {
    let plan = world.plan
    let trips: Int64 = plan.windowMax < 10 ? 100 : 8
    return 2_000_000 + trips * plan.latencyMicroseconds.upperBound + 2 * plan.latenessMicroseconds
  }

  /// Whether a host and Redis hear each other, and nothing is wrong with either.
  func isFit(_ host: SimulatedHost) -> Bool {
    let server = world.server!
    guard host.isRunning, !host.isPaused, host.linkIsUp, world.latencyFactor == 1, !server.isDown, !server.isStalled,
      server.redis.trouble == .none, server.redis.deniedCommand == nil, let wire = host.currentWire
    else { return false }
    return !wire.isBlackholed && wire.serverIsOpen
  }

  /// Why a host waits for a lock that it could have; nil when it has reason to wait.
  private func reasonToWake(_ host: SimulatedHost, _ name: Int) -> String? {
    let server = world.server!
    guard isFit(host),
      let seen = host.engine.snapshot(of: names[name], holdersMax: 0, waitersMax: 1, now: host.bootNow),
      seen.waitersTotal > 0, seen.holdersTotal == 0
    else { return nil }
    switch seen.leaseState {
    case .asking, .waiting: break
    case .none, .held, .idle, .lost: return nil
    }
    let row = leaseTable()[name]
    guard let lock = row.lock else {
      return server.redis.peek(lockKeys[name]) == nil ? "it is free" : nil
    }
    guard isOurs(.string(lock)) else { return nil }
    let holders = entries(.string(lock))
    let queue = row.queue.compactMap { QueueEntry($0) }
    if holders.allSatisfy({ $0.owner == host.me }) {
      // What older data tell of a host that has given it back ends as late as what they tell of others: by a clock that
      // is behind, after the grace.
      let waited = queue.filter { $0.owner == host.me }.map(\.attempt)
      let isLeft = holders.allSatisfy { !waited.contains($0.attempt) }
      return isLeft && world.plan.hasOlderDataByOtherClocks ? nil : "it is its own"
    }
    guard queue.contains(where: { $0.owner == host.me }) else { return "it stands in no queue" }
    guard let first = queue.first, first.owner == host.me, let value = LockValue(lock), value.mode == first.mode else {
      return nil
    }
    if first.mode == "s" { return "it could share it" }
    if let capacity = value.capacity, holders.count < capacity { return "there is a permit left" }
    return nil
  }
}
