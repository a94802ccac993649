import LockEngine
import LockTypes

// What a grant may be, by true time.
extension Checker {
  func granted(
    _ host: SimulatedHost, _ id: RequestID, _ request: Request, _ wish: Wish, _ token: Token,
    validMilliseconds: Int64?
  ) {
    grantCount += 1
    markGrant(request)
    let name = wish.names[0]
    // The sleep of the remaining waiters is counted from now.
    sleepingSince[host.index][name] = nil
    if let owner = wish.owner,
      let at = beliefs.firstIndex(where: {
        $0.session == request.session && $0.name == name && $0.token == token && $0.owner == owner
      })
    {
      beliefs[at].count += 1
      world.mark("entered again")
      if beliefs[at].mode != wish.mode { world.fail("an owner holds in two ways at once") }
      return
    }
    verifyAlone(host, request, name, wish.mode)
    verifyToken(host, name, token, wish.mode)
    verifyLease(host, name, validMilliseconds, wish.mode)
    // A transfer passes earlier waiters, and other hosts that wait.
    let isHanded = handed?.session == request.session && handed?.token == token
    if let first = waiting[host.index][name].first, wish.queuesForOne, first != id.rawValue, !isHanded {
      world.fail("request \(id.rawValue) was served before request \(first), which came earlier")
    }
    // A request for several locks gets each part before its client hears of it.
    if !wish.takesUnseen && !isHanded {
      verifyCohort(host, name, wish.mode, cameFirst: request)
      verifyNobodyIsPassed(host, request, name, wish.mode)
    }
    believe(
      Belief(
        host: host.index, session: request.session, name: name, token: token, mode: wish.mode, owner: wish.owner,
        since: world.now))
  }

  func verifyAlone(_ host: SimulatedHost, _ request: Request, _ name: Int, _ mode: HoldMode) {
    var permits: Int64 = 0
    for other in beliefs where other.name == name {
      switch (mode, other.mode) {
      case (.shared, .shared):
        world.mark(other.host == host.index ? "shared on one host" : "shared between hosts")
        continue
      case (.permit(let wanted), .permit(let capacity)) where wanted == capacity:
        if !mayOverlap(other, with: host.index) { permits += 1 }
        world.mark(other.host == host.index ? "permits on one host" : "permits on several hosts")
        if permits < capacity { continue }
      case (.exclusive, _), (.shared, _), (.permit, _): break
      }
      if !mayOverlap(other, with: host.index) {
        world.fail(
          "\(names[name]) is held (\(other.mode)) by session \(other.session.rawValue) on host \(other.host) and granted "
            + "(\(mode)) to session \(request.session.rawValue) on host \(host.index)")
      }
    }
  }

  /// Whether a belief may exist beside a grant to `host`.
  func mayOverlap(_ belief: Belief, with host: Int) -> Bool {
    if belief.host == host { return false }
    let other = world.hosts[belief.host]
    // Suspended: its client cannot be told; its lease must be over.
    // After a loss a grant waits for the whole of it, by any clock.
    let margin = isUnproven(belief.host, belief.name) ? 0 : leaseMargin
    let end = firstEnd(of: belief).adding(milliseconds: -margin)
    if mayNotKnowYet(other), other.bootNow >= end {
      world.mark("granted while the last holder is suspended")
      return true
    }
    if isTainted(belief.host, belief.name) || isTainted(host, belief.name) {
      world.mark("overlap after what is unsafe")
      return true
    }
    return false
  }

  /// When the lease of a belief is over, or its host's life.
  func firstEnd(of belief: Belief) -> BootInstant {
    let end = leases[belief.host][belief.name].firstEnd
    return lives[belief.host].map { min(end, $0.sentAt.adding(milliseconds: $0.milliseconds)) } ?? end
  }

  /// Suspended, or woken so short a while ago that its timer may be late.
  func mayNotKnowYet(_ host: SimulatedHost) -> Bool {
    host.isPaused || world.now - lastDisturbance[host.index] <= world.plan.latenessMicroseconds
  }

  /// The part of a lease that is left for the drift of clocks.
  private var leaseMargin: Int64 { world.plan.leaseMilliseconds / 100 }

  /// How far the token counter may run ahead of Redis' clock, which replaces it when it alone is lost (U6). Where hosts
  /// share a lock: up to where blocks become small, plus at most one block for each host. In addition one block for each
  /// host that had to give up more than it knows how, because Redis had refused that before.
  private var slack: Token {
    let plan = world.plan
    guard plan.faults.contains(.evictFence) else { return 0 }
    let isShared = plan.sharedPercent > 0 || plan.meddlePercent > 0 || plan.conflictPercent > 0
    let isSemaphore = plan.capacities.contains { $0 > 0 }
    let refused =
      plan.faults.contains(where: { $0 == .refusal || $0 == .rightTaken }) ? Token(plan.hostCount) * 65_536 : 0
    // Who connects anew hands over a floor a second ahead of the clock.
    let reconnects: Token = plan.faults.allSatisfy { $0 == .evictFence } ? 0 : 1_000_000
    return reconnects + (isShared || isSemaphore ? 50_000 + Token(plan.hostCount) * 4096 : 0) + refused
  }

  /// A token is unique, and higher than that of every earlier conflicting grant.
  func verifyToken(_ host: SimulatedHost, _ name: Int, _ token: Token, _ mode: HoldMode) {
    if !tokens[name].insert(token).inserted, slack == 0, world.now > lossUntil[name], !isForgotten(name, by: host) {
      world.fail("the token \(token) of \(names[name]) was given out twice")
    }
    if token >= 1 << 53 { world.fail("the token \(token) is not below 2^53") }
    // A lease from before what was unsafe still draws from its own block, beside the newer lease.
    let isAfterLoss = world.now <= lossUntil[name]
    let floor: Token
    switch mode {
    case .exclusive: floor = isAfterLoss ? highestTokenBeforeLoss[name] : highestToken[name]
    case .shared: floor = isAfterLoss ? highestExclusiveTokenBeforeLoss[name] : highestExclusiveToken[name]
    case .permit: floor = 0
    }
    // The counter ends by the clock that jumps, too, so that a lease from before is taken again although others had the
    // lock in between.
    let exempt = isTainted(host.index, name) || tookBeforeJump(host.index, name)
    if token <= floor - slack && !exempt && !isForgotten(name, by: host) {
      world.fail("the token \(token) of \(names[name]) is not above \(floor), which was given out before")
    }
    leases[host.index][name].highestToken = max(leases[host.index][name].highestToken, token)
    if token > highestToken[name] { roseTo(name, by: host) }
    highestToken[name] = max(highestToken[name], token)
    if mode == .exclusive { highestExclusiveToken[name] = max(highestExclusiveToken[name], token) }
  }

  /// Whether the host has its lease from before Redis' clock jumped.
  private func tookBeforeJump(_ host: Int, _ name: Int) -> Bool {
    jumpedAt[name] >= 0 && leases[host][name].servedAt <= jumpedAt[name]
  }

  /// What the client is told must be true in Redis: the key is this host's, and stays so for at least that long.
  func verifyLease(_ host: SimulatedHost, _ name: Int, _ valid: Int64?, _ mode: HoldMode) {
    guard let valid else { return world.fail("a grant of a Redis lease does not say how long it is valid") }
    if valid <= 0 { world.fail("a grant that is valid for \(valid) ms") }
    if isTainted(host.index, name) || isUnproven(host.index, name) { return }
    world.server.tick()
    let found = world.server.redis.peek(lockKeys[name])
    let mine = entries(found?.value).filter { $0.owner == host.me }
    guard let found, !mine.isEmpty, let keyEnd = found.expiresAtMilliseconds else {
      let value = found.map { "\($0.value)" } ?? "nothing"
      return world.fail("\(names[name]) is granted on host \(host.index), and in Redis there is \(value)")
    }
    let end = min(keyEnd, mine.compactMap(\.expires).max() ?? keyEnd)
    let left = end - world.server.redis.nowMilliseconds
    if left < valid { world.fail("a grant is said to be valid for \(valid) ms, and its key expires in \(left) ms") }
    // It takes its permits again one by one.
    let isTaken = world.now - 2 * world.plan.leaseMilliseconds * 1000 > lossAt[name]
    if case .permit = mode, isTaken {
      let held = beliefs.filter { $0.host == host.index && $0.name == name }.count
      if held >= mine.count { world.fail("host \(host.index) has given out more permits than it has: \(mine)") }
    }
  }
}
