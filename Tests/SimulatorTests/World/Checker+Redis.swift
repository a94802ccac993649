import LockEngine
import LockTypes
import RESP
import RedisLeases

// What is watched in Redis, and what hosts hear from it.
extension Checker {
  func leaseTable() -> [LeaseRow] {
    let redis = world.server.redis
    return names.indices.map { name in
      var row = LeaseRow(lock: nil, queue: [])
      if case .string(let bytes)? = redis.peek(lockKeys[name])?.value { row.lock = bytes }
      if case .list(let list)? = redis.peek(queueKeys[name])?.value { row.queue = list }
      return row
    }
  }

  /// What stands under the epoch's key.
  func epochBytes() -> Bytes? {
    if case .string(let bytes)? = world.server.redis.peek(epochKey)?.value { bytes } else { nil }
  }

  /// A command of the daemon `issuer` was executed, which may have ended since. `before`, `epoch`: what Redis had until
  /// then.
  func executed(_ command: [Bytes], by issuer: String, before: [LeaseRow], epoch: Bytes?, reply: ServerReply?) {
    let after = leaseTable()
    let script = world.server.script(of: command)
    let epochNow = epochBytes()
    if epoch != epochNow { epochChanged(epoch, epochNow, by: issuer) }
    tellsSince = script == .acquire && command.count > 20
    if script == .acquire { asked(command, by: issuer, before, after, reply) }
    if script == .confirmEpoch {
      confirmed(by: issuer, before: epoch)
      markQuestion(command, by: issuer, before: epoch.flatMap { EpochValue($0) }, now: self.epoch)
    }
    for name in names.indices {
      if before[name].queue != after[name].queue { queueChanged(name, before[name], after[name], by: issuer) }
      guard before[name].lock != after[name].lock else { continue }
      lockChanged(name, before[name], after[name], by: issuer, script) { [self] owner in
        verifyGrantedUnder(epoch, command, name, owner)
      }
    }
  }

  /// A host leaves the queue by its own command, or with the lock. A script that fails half way takes nobody's place.
  private func queueChanged(_ name: Int, _ before: LeaseRow, _ after: LeaseRow, by issuer: String) {
    let holders = after.lock.map { entries(.string($0)) } ?? []
    verifyOrder(name, after.queue)
    for entry in before.queue where !after.queue.contains(entry) {
      guard let place = QueueEntry(entry) else { continue }
      let hasIt = holders.contains { $0.owner == place.owner && $0.attempt == place.attempt }
      if isDead(place.owner) { world.mark("dead host passed over") }
      if place.owner == issuer || hasIt || isGone(place.owner) || isDead(place.owner) { continue }
      // By a clock that jumps it has not looked at its place for longer than its lease.
      if jumpedAt[name] > world.now - 2 * world.plan.leaseMilliseconds * 1000 { continue }
      world.fail("the place \(entry) was taken out of the queue of \(names[name]) for nothing")
    }
  }

  /// Whether nobody listens to the inbox.
  private func isGone(_ instance: String) -> Bool {
    let channel = Bytes("sl:inbox:\(instance)")
    return !world.server.redis.clients.values.contains { $0.channels.contains(channel) }
  }

  /// Whether others may take it for dead.
  private func isDead(_ instance: String) -> Bool {
    guard case .string(let life)? = world.server.redis.peek(Bytes(epochKey.array + Array((":" + instance).utf8)))?.value
    else { return false }
    let fields = life.text.split(separator: ";")
    return fields.count > 1 && Int64(fields[1]).map { $0 <= world.server.redis.nowMilliseconds } ?? false
  }

  private func lockChanged(
    _ name: Int, _ before: LeaseRow, _ after: LeaseRow, by issuer: String, _ script: ScriptName?,
    verifyGrant: (String) -> Void
  ) {
    let old = before.lock.map { entries(.string($0)) } ?? []
    let new = after.lock.map { entries(.string($0)) } ?? []
    verifyNothingIsDropped(name, old, new)
    let isReclaim = script == .reclaim
    if isReclaim { markReclaim(issuer, old, new) }
    // In an older data set others stand than those who hold it; nobody is let in because of that.
    let grants =
      isReclaim
      ? []
      : new.filter { entry in
        !old.contains { $0.owner == entry.owner && $0.attempt == entry.attempt }
      }
    if !grants.isEmpty { verifyCapacity(name, after, new) }
    if !grants.isEmpty,
      old.contains(where: { entry in isDead(entry.owner) && !new.contains { $0.owner == entry.owner } })
    {
      world.mark("taken from a dead host")
    }
    for entry in grants {
      verifyGrant(entry.owner)
      guard let host = world.hosts.first(where: { $0.me == entry.owner }) else { continue }
      leases[host.index][name].servedAt = world.now
      leases[host.index][name].isServedUnaware = isUnaware(host, of: name)
    }
    for belief in beliefs where belief.name == name {
      let me = world.hosts[belief.host].me
      if new.contains(where: { $0.owner == me }) { continue }
      if isReclaim, carriesOn(name, from: issuer, to: belief.host) { continue }
      if !grants.isEmpty || old.contains(where: { $0.owner == me }) { verifyMayTakeAway(belief, new) }
    }
    if isReclaim {
      if let host = world.hosts.first(where: { $0.me == issuer }) { _ = carriesOn(name, from: issuer, to: host.index) }
      return
    }
    // A host may have several permits, each under an attempt of its own.
    let arePermits = after.lock.flatMap { LockValue($0) }?.capacity != nil
    let arrived = new.filter { entry in
      !old.contains { $0.owner == entry.owner && (!arePermits || $0.attempt == entry.attempt) }
    }
    // A host may share the same lock again, under a new attempt.
    let served = new.filter { entry in !old.contains { $0.owner == entry.owner && $0.attempt == entry.attempt } }
      .map(\.owner)
    for entry in arrived {
      guard let host = world.hosts.first(where: { $0.me == entry.owner }) else { continue }
      if world.now < deadUntil {
        leases[host.index][name].excusedUntil = world.now + world.plan.leaseMilliseconds * 1010
      } else if !isSemaphore(name), !arePermits, leases[host.index][name].excusedUntil != nil,
        !isCountedOn(name, by: host)
      {
        leases[host.index][name].excusedUntil = nil
      }
      verifyTurn(name, before, entry.owner, among: served, by: issuer)
    }
  }

  /// Two who count on a lock after something unsafe both take it again, and the next renewal tells the one whose place was
  /// taken. Whether that excuses `host`.
  private func carriesOn(_ name: Int, from issuer: String, to host: Int) -> Bool {
    guard let taker = world.hosts.first(where: { $0.me == issuer }), isTainted(taker.index, name) else { return false }
    let until = world.now + world.plan.leaseMilliseconds * 1010
    leases[host][name].excusedUntil = until
    lossUntil[name] = max(lossUntil[name], until)
    return true
  }

  /// Whether a host has given the lock to anybody, or to a request for several locks: it may have asked for a new lease
  /// without knowing that its old one was lost.
  private func isCountedOn(_ name: Int, by host: SimulatedHost) -> Bool {
    beliefs.contains { $0.host == host.index && $0.name == name }
      || (host.isRunning
        && host.engine.snapshot(of: names[name], waitersMax: 0, now: host.bootNow)?.holdersTotal ?? 0 > 0)
  }

  private func isSemaphore(_ name: Int) -> Bool {
    if case .permit = world.plan.mode(of: name) { true } else { false }
  }

  /// Fields that a later release has put behind those of a holder stay there when another host rewrites the value.
  private func verifyNothingIsDropped(_ name: Int, _ old: [Entry], _ new: [Entry]) {
    for entry in old where !entry.more.isEmpty {
      guard let kept = new.first(where: { $0.owner == entry.owner && $0.attempt == entry.attempt }) else { continue }
      if kept.more != entry.more { world.fail("\(entry.more) of \(entry.owner) was dropped from \(names[name])") }
      if kept != entry || old.count != new.count { world.mark("fields of a later release kept") }
    }
  }

  private func verifyCapacity(_ name: Int, _ row: LeaseRow, _ holders: [Entry]) {
    guard let lock = row.lock, let capacity = LockValue(lock)?.capacity else { return }
    if holders.count > capacity {
      world.fail("\(holders.count) hosts have one of \(capacity) permits in Redis: \(lock.text)")
    }
  }

  /// Hosts are served in the order of the queue; those who are gone are passed over.
  private func verifyTurn(
    _ name: Int, _ before: LeaseRow, _ newOwner: String, among arrived: [String], by issuer: String
  ) {
    // It came back when the others stood there already, and before them it had been there; the place is judged by itself.
    if tellsSince, newOwner == issuer { return world.mark("served where it had stood") }
    for entry in before.queue {
      guard let instance = QueueEntry(entry)?.owner else { continue }
      if instance == newOwner { return world.mark("lock passed to a waiting host") }
      if isGone(instance) || isDead(instance) {
        world.mark("dead waiter passed over")
      } else if instance != issuer && !arrived.contains(instance) {
        world.fail("\(names[name]) went to \(newOwner), but \(instance) had waited longer")
      }
    }
  }

  private func verifyMayTakeAway(_ belief: Belief, _ holders: [Entry]) {
    let host = world.hosts[belief.host]
    if isTainted(belief.host, belief.name) { return }
    // Others share it, or have permits, beside what this host has not taken again yet.
    if isUnproven(belief.host, belief.name), belief.mode != .exclusive { return }
    let end = firstEnd(of: belief).adding(milliseconds: -10)
    if mayNotKnowYet(host), host.bootNow >= end { return }
    world.fail(
      "in Redis \(names[belief.name]) passes to \(holders.map(\.owner)) while session \(belief.session.rawValue) on host "
        + "\(belief.host) holds it")
  }

  /// Every belief on a host that is awake is backed by the key in Redis.
  func verifyAgreement(_ name: Int) {
    guard world.now > lossUntil[name], !world.server.isDown else { return }
    world.server.tick()
    let value = world.server.redis.peek(lockKeys[name])?.value
    let owners = entries(value).map(\.owner)
    for host in world.hosts where !host.isPaused {
      let held = beliefs.filter { $0.name == name && $0.host == host.index }
      let backing = owners.filter { $0 == host.me }.count
      if held.isEmpty || backing >= (isSemaphore(name) ? held.count : 1) { continue }
      world.fail(
        "host \(host.index) counts on \(names[name]), and in Redis there is \(value.map { "\($0)" } ?? "nothing")")
    }
  }

  // MARK: What hosts hear

  func leaseReplied(_ host: SimulatedHost, _ command: LeaseCommand, sentAt: BootInstant, _ reply: LeaseReply) {
    switch (command, reply) {
    case (.acquire(let name, let attempt, _, _, _, _, let milliseconds, _, _), .granted(let grant)):
      extend(host, name, attempt, sentAt, milliseconds)
      if grant.othersWait { world.mark("granted while others wait") }
    case (.renew(let list, let milliseconds, _), .renewed(let results)):
      for (lease, standing) in zip(list, results) {
        switch standing {
        case .held: extend(host, lease.name, lease.attempt, sentAt, milliseconds)
        case .missing: world.mark("renewal finds the key gone")
        case .lost: world.mark("renewal finds the lease gone")
        case .elsewhere: world.mark("renewal finds another home")
        }
      }
    case (.reclaim(let list, let milliseconds, _), .renewed(let results)):
      for (lease, standing) in zip(list, results) {
        if standing == .held {
          extend(host, lease.name, lease.attempt, sentAt, milliseconds)
        } else {
          world.mark("reclaim finds the lock taken")
        }
      }
    case (.confirmEpoch(let claim), .epoch(let sight)):
      if case .never = claim.lifeSign { lives[host.index] = nil }
      if case .dead(let milliseconds) = claim.lifeSign { lives[host.index] = (sentAt, milliseconds) }
      sawEpoch(host, sight)
    case (_, .otherEpoch): world.mark("in another epoch")
    case (.acquire(let name, let attempt, let ask, _, _, _, _, _, _), .queued(_, _, let listeners, let place)):
      world.mark(listeners > 0 ? "queued" : "queued behind a host that is gone")
      heardOfPlace(host, name, attempt, ask, place)
    case (.acquire(let name, let attempt, let ask, _, _, _, _, _, _), .foreign(_, let place)):
      world.mark("foreign holder")
      heardOfPlace(host, name, attempt, ask, place)
    case (.acquire, .conflict): world.mark("conflict")
    case (.checkPlaces, .lostPlaces(let lost)): world.mark(lost.isEmpty ? "places are well" : "place lost")
    case (.downgrade, .done): world.mark("lease shared")
    case (.reserve, .reserved(_?)): world.mark("more tokens reserved")
    case (.reserve, .reserved(nil)): world.mark("tokens wanted for a lease that is gone")
    case (_, .failed): world.mark("Redis refused")
    case (.acquire, _), (.release, _), (.renew, _), (.answerInUse, _), (.heartbeat, _), (.clock, _), (.downgrade, _),
      (.reserve, _), (.checkPlaces, _), (.look, _), (.hostMessage, _), (.confirmEpoch, _), (.reclaim, _):
      break
    }
    if case .heartbeat = command { world.mark("heartbeat") }
  }

  func pushed(_ host: SimulatedHost, _ push: LeasePush, lastAnsweredSentAt: BootInstant?) {
    switch push {
    case .granted(let name, let attempt, _):
      world.mark("granted by push")
      if let lastAnsweredSentAt, let index = index(of: name),
        let milliseconds = leases[host.index][index].milliseconds[attempt]
      {
        extend(host, name, attempt, lastAnsweredSentAt, milliseconds)
        if milliseconds != host.leaseMilliseconds { world.mark("granted by push with a length of before") }
      }
    case .epochChanged: world.mark("told of an epoch")
    case .hostMessage: world.mark("told by another host")
    case .contended(_, _, _, let isTry, _, _): world.mark(isTry ? "contended by a try" : "contended")
    case .inUse: world.mark("in use")
    }
  }

  /// The engine has taken a push in. What it did before, for deadlines that had passed, does not count against it.
  func pushTaken(_ host: SimulatedHost, _ push: LeasePush) {
    guard case .contended(let name, let attempt, _, _, _, _) = push, let index = index(of: name) else { return }
    switch host.engine.snapshot(of: name, waitersMax: 0, now: host.bootNow)?.leaseState {
    case .held, .idle: break
    // The message that granted the lease was lost; the host does not know yet that it is the holder.
    case .asking, .waiting, .lost, .some(.none), nil: return
    }
    if leases[host.index][index].contended?.attempt != String(attempt) {
      leases[host.index][index].contended = (String(attempt), host.bootNow, 0)
    }
  }

  private func extend(
    _ host: SimulatedHost, _ name: LockName, _ attempt: UInt64, _ sentAt: BootInstant, _ milliseconds: Int64
  ) {
    guard let index = index(of: name) else { return }
    let end = sentAt.adding(milliseconds: milliseconds)
    // A grant of which its host does not hear may be forgotten, and then it stands where it stood.
    places[index]["\(host.me) \(attempt)"] = nil
    leases[host.index][index].provenSentAt = max(leases[host.index][index].provenSentAt ?? sentAt, sentAt)
    leases[host.index][index].ends[attempt] = max(leases[host.index][index].ends[attempt] ?? end, end)
    world.leaseHeard(by: host)
  }

  /// A host sends a command. Nothing counts on a lease from its release on.
  func sending(_ command: LeaseCommand, from host: SimulatedHost) {
    if case .confirmEpoch(let claim) = command, case .dead(let milliseconds) = claim.lifeSign {
      // It may be executed at once, and be all that Redis knows.
      let life = lives[host.index] ?? (host.bootNow, milliseconds)
      let isSooner =
        host.bootNow.adding(milliseconds: milliseconds) < life.sentAt.adding(milliseconds: life.milliseconds)
      lives[host.index] = isSooner ? (host.bootNow, milliseconds) : life
    }
    if case .acquire(let name, let attempt, _, _, _, _, let milliseconds, let kept, let since) = command,
      let index = index(of: name)
    {
      if kept != nil { world.mark("queued behind its own lease") }
      if since != nil { world.mark("queued again where it stood") }
      // Of several asks, the one for the shortest lease may have been executed.
      let before = leases[host.index][index].milliseconds[attempt] ?? milliseconds
      leases[host.index][index].milliseconds[attempt] = min(before, milliseconds)
    }
    guard case .release(let name, let attempt, _, let isExact, _) = command, let index = index(of: name) else { return }
    placesGivenUp(host, index, attempt, isExact: isExact)
    leases[host.index][index].ends = leases[host.index][index].ends.filter {
      isExact ? $0.key != attempt : $0.key > attempt
    }
  }

  // MARK: Hosts

  /// The engine's own view equals what it has told its clients.
  func turned(_ host: SimulatedHost) {
    for (index, name) in names.enumerated() {
      let held = host.engine.snapshot(of: name, waitersMax: 0, now: host.bootNow)?.holders ?? []
      let seen = held.filter { !$0.isPartial }.map { "\($0.session.rawValue) \($0.token) \($0.mode)" }.sorted()
      let known = beliefs.filter { $0.host == host.index && $0.name == index }
        .map { "\($0.session.rawValue) \($0.token) \($0.mode)" }.sorted()
      // The engine no longer shows a hold that has ended but is not told yet.
      let isBehind = host.engine.nextDeadline.map { $0 <= host.bootNow } ?? false
      if world.plan.hasSmallSlices, isBehind, Set(seen).isSubset(of: known) { continue }
      if seen != known { world.fail("host \(host.index) has \(name) for \(seen), its clients know \(known)") }
    }
  }

  func resumed(_ host: SimulatedHost) { lastDisturbance[host.index] = world.now }

  func hostEnded(_ host: SimulatedHost) {
    removeBeliefs { $0.host == host.index }
    lives[host.index] = nil
    for id in requests.filter({ $0.value.host == host.index }).keys {
      requests[id] = nil
      waitSpans[waitKey(host.me, id)]?.end = world.now
    }
    for name in names.indices {
      waiting[host.index][name].removeAll()
      sleepingSince[host.index][name] = nil
      placesGivenUp(host, name, .max, isExact: false)
      leases[host.index][name] = HostLease()
    }
    for session in sessions.filter({ $0.value == host.index }).keys { sessions[session] = nil }
  }

  /// A daemon that was told to stop and could reach Redis leaves nothing behind.
  func shutDown(_ host: SimulatedHost) {
    if let belief = beliefs.first(where: { $0.host == host.index }) {
      world.fail("host \(host.index) has shut down, and session \(belief.session.rawValue) was not told")
    }
    if let id = requests.first(where: { $0.value.host == host.index })?.key {
      world.fail("host \(host.index) has shut down, and request \(id) is not answered")
    }
    guard host.linkIsUp else { return world.mark("shut down without Redis") }
    world.mark("shut down")
    // A withdrawal that Redis refused or forgot may leave a place in a queue, which is passed over later.
    let excuses: [Fault] = [.refusal, .rightTaken, .wrongType, .restartWithOldData, .failover, .swapDatabase]
    if world.plan.faults.contains(where: { excuses.contains($0) }) { return }
    for (name, row) in leaseTable().enumerated() {
      let isWaiting = row.queue.contains { QueueEntry($0)?.owner == host.me }
      let held = row.lock.map { entries(.string($0)).filter { $0.owner == host.me } } ?? []
      // A client that lost the lock may still use it: the lease is left to its end, which is near.
      let isHolding = held.contains { !isLost($0, of: leases[host.index][name], host) }
      if isHolding || isWaiting {
        world.fail("host \(host.index) has shut down and left \(names[name]) in Redis: \(row)")
      }
    }
  }

  private func isLost(_ entry: Entry, of lease: HostLease, _ host: SimulatedHost) -> Bool {
    if let life = lives[host.index], host.bootNow >= life.sentAt.adding(milliseconds: life.milliseconds * 85 / 100) {
      return true
    }
    guard let attempt = UInt64(entry.attempt), let end = lease.ends[attempt],
      let milliseconds = lease.milliseconds[attempt]
    else { return false }
    let timeline = LeaseTimeline(leaseMilliseconds: milliseconds)
    return host.bootNow >= end.adding(milliseconds: timeline.lostAfterMilliseconds - milliseconds)
  }

  // MARK: The end

  /// With the faults off and everything given back, nothing is left anywhere.
  func verifyDrained() {
    if let (id, request) = requests.min(by: { $0.key < $1.key }) {
      world.fail("request \(id) of host \(request.host) was never answered: \(request.kind)")
    }
    for host in world.hosts where host.isRunning {
      let gauges = host.engine.gauges
      // It asks for the epoch now and then.
      if gauges.held + gauges.waiting + gauges.locks > 0 || gauges.commandsInFlight > 1 {
        world.fail("host \(host.index) has not drained: \(gauges)")
      }
    }
    world.server.tick()
    // What ends by itself within a minute.
    let mayStay = { [epochKey] (key: Bytes) in
      key.text.hasSuffix(":fence") || key.text.hasSuffix(":queue:suspect") || key.text.hasSuffix(":queue:since")
        || key.text.hasPrefix(epochKey.text + ":")
    }
    for key in world.server.redis.liveKeys()
    where key != epochKey && (!mayStay(key) || world.server.redis.peek(key)?.expiresAtMilliseconds == nil) {
      world.fail("the key \(key) is left in Redis: \(String(describing: world.server.redis.peek(key)))")
    }
  }
}
