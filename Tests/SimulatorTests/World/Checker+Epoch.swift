import LockEngine
import LockTypes

// What Redis forgets, and the epochs that begin because of it.
//
// Two hosts never count on one lock, and tokens never fall, whatever Redis forgets: the checks make no exception for it.
// What is unsafe all the same has a name here.
extension Checker {
  /// What the design cannot keep apart: afterwards two hosts may count on one lock until the older lease ends, or until
  /// the next renewal finds the newer one.
  enum Unsafe: String {
    /// U1: Redis came back without an epoch, and the first to connect knows of none, while others hold locks and cannot
    /// be seen, because they are not connected yet.
    case firstStart
    /// U3: a lock's own key was deleted. Nothing tells its loss from its release until its holder renews it.
    case lockKeyGone
    /// U4: Redis' clock was set forward, which ends leases before their time.
    case clockForward
    /// U9: whoever begins an epoch never was in one with somebody who has longer leases, and cannot be heard.
    case longerLease
    /// U5: a data set was put into a running server with an epoch in which some daemon still is.
    case dataPutBack
  }

  /// The epoch by what stands in Redis.
  var epoch: EpochValue? {
    guard case .string(let bytes)? = world.server.redis.peek(epochKey)?.value else { return nil }
    return EpochValue(bytes)
  }

  /// As a daemon in that epoch names it.
  var epochID: EpochID { epoch.map { EpochID(number: $0.number, text: $0.id) } ?? .none }

  // MARK: Losses

  /// Redis is about to forget something, of one lock or of all. A lease from before need not be backed by its key until
  /// its host has taken it again.
  func forgot() {
    lost()
    forgotFloors()
    // Who was connected knows the clock, and a token that is no more than that ahead of it.
    let known = world.server.clock + 500_000
    let witnesses = world.hosts.filter { $0.isRunning && sights[$0.me]?.heard != nil }.map(\.me)
    for name in names.indices {
      lossAt[name] = world.now
      if highestToken[name] <= known { knowers[name].formUnion(witnesses) }
    }
    for host in world.hosts { lossBoot[host.index] = host.bootNow }
    world.trace("Redis forgets")
  }

  /// Another data set stands in the running server.
  func foundInstead() {
    guard let found = epoch, sights.values.contains(where: { $0.heard == found.id || $0.executed == found.id }) else {
      return
    }
    // Daemons that have not looked since take it for theirs.
    unsafe(.dataPutBack)
  }

  /// Something that is unsafe is about to happen to some locks, or to all.
  func unsafe(_ why: Unsafe, _ which: [Int]? = nil) {
    world.trace("unsafe: \(why.rawValue)")
    world.mark("unsafe: \(why.rawValue)")
    if why == .dataPutBack { placesAreUnsure = true }
    // Everybody counts as dead until his next sign of life.
    if why == .clockForward { deadUntil = world.now + world.plan.deadHostMilliseconds * 1010 }
    // A lease's whole length by a slow clock, and a late timer.
    let until = world.now + world.plan.leaseMilliseconds * 1010 + world.plan.latenessMicroseconds + 10_000
    lost(which)
    for name in which ?? Array(names.indices) {
      lossUntil[name] = max(until, lossUntil[name])
      if why == .clockForward { jumpedAt[name] = world.now }
      highestTokenBeforeLoss[name] = highestToken[name]
      highestExclusiveTokenBeforeLoss[name] = highestExclusiveToken[name]
      let keepers = entries(world.server.redis.peek(lockKeys[name])?.value).map(\.owner)
      for host in world.hosts.indices
      // An earlier loss that left the lease alone does not count; one that took it keeps its own deadline.
      where leases[host][name].excusedUntil == nil || keepers.contains(world.hosts[host].me) {
        leases[host][name].excusedUntil = until
        world.schedule(at: until + 1) { [self] in verifyTold(host, name, until) }
      }
    }
  }

  /// Somebody who knows no epochs has put something under a lock's key, which a holder may come too late to take again
  /// (U8).
  func foreignTook(_ name: Int) { foreignAt[name] = world.now }

  /// From now on a lease from before is no longer excused.
  private func verifyTold(_ host: Int, _ name: Int, _ until: Int64) {
    guard leases[host][name].excusedUntil == until, !mayNotKnowYet(world.hosts[host]), !isUnproven(host, name),
      let belief = beliefs.first(where: { $0.host == host && $0.name == name })
    else { return }
    world.server.tick()
    // The loss left this lock's key alone.
    let keepers = entries(world.server.redis.peek(lockKeys[name])?.value).map(\.owner)
    if keepers.contains(world.hosts[host].me) { return }
    world.fail("session \(belief.session.rawValue) still holds \(names[name]), which Redis lost a lease ago")
  }

  /// Whether something unsafe since the host's lease was granted still excuses it.
  func isTainted(_ host: Int, _ name: Int) -> Bool {
    leases[host][name].excusedUntil.map { world.now <= $0 } ?? false
  }

  /// Whether Redis has forgotten something since the host last heard that it has the lease: its key need not be there.
  func isUnproven(_ host: Int, _ name: Int) -> Bool {
    guard let sentAt = leases[host][name].provenSentAt else { return lossAt[name] > .min }
    return sentAt <= lossBoot[host]
  }

  /// A host is told that it has lost a lock though it was there all the time.
  func verifyDataLoss(_ host: SimulatedHost, _ belief: Belief) {
    let name = belief.name
    let recently = world.now - 2 * world.plan.leaseMilliseconds * 1000
    if isTainted(host.index, name) || world.now <= lossUntil[name] || foreignAt[name] > recently { return }
    // Its lease was over before it went on, and its timer is late.
    if world.now - lastDisturbance[host.index] <= world.plan.latenessMicroseconds + 1_000_000 { return }
    world.fail("session \(belief.session.rawValue) is told that it lost \(names[name]), whose lease could be kept")
  }

  // MARK: Epochs

  /// The epoch's key was changed by a daemon's command.
  func epochChanged(_ before: Bytes?, _ after: Bytes?, by issuer: String) {
    if world.mistake.showsInHarmAlone { return }
    let old = before.flatMap { EpochValue($0) }
    guard let after, let new = EpochValue(after) else {
      return world.fail("the epoch's key was left as \(after.map { "\($0)" } ?? "nothing") by \(issuer)")
    }
    if let old, old.id == new.id { return epochContinued(old, new) }
    world.mark("epoch begun")
    // Moments of two clocks are compared where two epochs have one number.
    if epochNames.contains(where: { $0.hasPrefix("\(new.number):") }) { placesAreUnsure = true }
    if !epochNames.insert(new.id).inserted { world.fail("the epoch \(new.id) begins a second time") }
    if let old, new.number <= old.number { world.fail("the epoch \(new.id) follows \(old.id)") }
    epochSince[new.id] = world.now
    if let old, new.grace < old.longest {
      world.fail("the grace of \(new.id) is \(new.grace) ms, and a lease of \(old.id) lasts \(old.longest)")
    }
    forgotLongerLeases(new, by: issuer)
    guard new.isOpen else { return }
    // Nobody may be there who could hold anything, and it may not know of an epoch itself.
    if before != nil || sights[issuer]?.heard != nil {
      return world.fail("the epoch \(new.id) begins without a grace")
    }
    let mine = Bytes("sl:inbox:\(issuer)")
    if world.server.redis.clients.values.contains(where: { client in
      client.channels.contains { $0 != mine && $0.text.hasPrefix("sl:inbox:") }
    }) {
      world.fail("the epoch \(new.id) begins without a grace though others are there")
    }
    world.mark("first start")
    // What anybody has is from before, and whoever has it is not connected yet.
    if leases.contains(where: { $0.contains { !$0.ends.isEmpty } }) { unsafe(.firstStart) }
  }

  /// An epoch has begun with a grace that does not cover leases of hosts that its beginner never was in an epoch with.
  private func forgotLongerLeases(_ new: EpochValue, by issuer: String) {
    for host in world.hosts where host.me != issuer && sights[host.me]?.heard != sights[issuer]?.heard {
      for name in names.indices {
        let lease = leases[host.index][name]
        let isLonger = lease.ends.contains { attempt, end in
          end > host.bootNow && lease.milliseconds[attempt].map { $0 > new.grace } == true
        }
        if isLonger { unsafe(.longerLease, [name]) }
      }
    }
  }

  private func epochContinued(_ old: EpochValue, _ new: EpochValue) {
    if new.grace < old.grace || new.longest < old.longest || new.floor < old.floor {
      world.fail("an epoch's lengths and floor only rise: \(old), \(new)")
    }
    if old.isOpen && !new.isOpen { world.fail("the epoch \(new.id) was open") }
    guard new.isOpen, !old.isOpen else { return }
    world.mark("grace over")
    // One per cent longer than any lease, by the fastest clock.
    let least = new.grace * 1_010_000_000 / (1_000_000 + world.plan.driftMax)
    if let since = epochSince[new.id], world.now - since < least {
      world.fail("the epoch \(new.id) is open after \((world.now - since) / 1000) ms, its grace is \(new.grace) ms")
    }
  }

  /// What a daemon's command was executed for: nothing is granted but in the epoch that it names, and only when that is
  /// open.
  func verifyGrantedUnder(_ before: Bytes?, _ command: [Bytes], _ name: Int, _ owner: String) {
    if world.mistake.showsInHarmAlone { return }
    guard let value = before.flatMap({ EpochValue($0) }) else {
      return world.fail("\(names[name]) is granted to \(owner) without an epoch")
    }
    if !value.isOpen { return world.fail("\(names[name]) is granted to \(owner) in the grace of \(value.id)") }
    if !command.contains(Bytes(value.whenOpen)) {
      world.fail("\(names[name]) is granted to \(owner) in the epoch \(value.id), which its command does not name")
    }
  }

  /// A daemon hears which epoch it is.
  func sawEpoch(_ host: SimulatedHost, _ sight: EpochSight) {
    sights[host.me, default: EpochKnowledge()].heard = sight.id.text
    markSight(host, sight)
  }

  /// A command that asks for the epoch was executed for a daemon.
  func confirmed(by issuer: String, before: Bytes?) {
    sights[issuer, default: EpochKnowledge()].executed = epoch?.id
    confirmedAt = world.now
    handedFloors(by: issuer, inGrace: before.flatMap { EpochValue($0) }?.isOpen != true || epoch?.isOpen != true)
  }

  /// A grace comes to an end when somebody is there to end it, and a key that is gone is put back when somebody waits.
  func verifyGraceEnds() {
    let value = epoch
    for host in world.hosts {
      // Who takes it for open finds out as soon as he wants something.
      let waits = waiting[host.index].contains { !$0.isEmpty } || host.engine.storeStanding().graceEnds != nil
      guard value?.isOpen != true, isFit(host), waits else {
        graceSince[host.index] = nil
        continue
      }
      let key = value.map { "\($0.id) \($0.grace)" } ?? ""
      if graceSince[host.index]?.key != key { graceSince[host.index] = (key, world.now) }
      guard let since = graceSince[host.index]?.since else { continue }
      // Who waits for the end of a grace does not miss the key before.
      let bound = (value?.grace ?? world.plan.leaseMilliseconds) * 1020 + sleepMicrosecondsMax
      // A key that is evicted again and again is gone only since it was last put there.
      let gone = value == nil ? confirmedAt : 0
      if world.now - max(since, gone, lossAt.max() ?? 0) > bound {
        world.fail(
          "host \(host.index) has seen no epoch opened since \(since / 1000) ms: \(value.map { "\($0)" } ?? "none")")
      }
    }
  }

  // MARK: Tokens

  /// The highest token of a lock that a host has given out.
  func highestHeard(by host: SimulatedHost, _ name: LockName) -> Token {
    index(of: name).map { leases[host.index][$0].highestToken } ?? 0
  }

  /// A host has given out a higher token than anybody before.
  func roseTo(_ name: Int, by host: SimulatedHost) {
    knowers[name] = [host.me]
    floorStands[name] = false
    // What Redis has forgotten since it last said that the host has the lease, it does not know of this token either.
    roseAt[name] = isUnproven(host.index, name) ? min(world.now, lossAt[name] - 1) : world.now
  }

  /// The floor in the epoch's key is gone.
  func forgotFloors() {
    for name in names.indices { floorStands[name] = false }
  }

  /// A daemon sends its question for the epoch: what it learns later it hands over with the next one.
  func asksForEpoch(_ issuer: String) {
    knownWhenAsked[issuer] = names.indices.map { knowers[$0].contains(issuer) ? highestToken[$0] : nil }
  }

  /// What a daemon hands over with its question for the epoch, and learns from the answer. Who comes when the epoch is open
  /// comes too late: others do not ask again.
  private func handedFloors(by issuer: String, inGrace: Bool) {
    for name in names.indices {
      if let known = knownWhenAsked[issuer]?[name], known == highestToken[name] {
        if inGrace { floorStands[name] = true }
      } else if floorStands[name] {
        knowers[name].insert(issuer)
      }
    }
  }

  /// Whether nobody who has seen the highest token of a lock, or the clock from which it came, has told this data set of it
  /// before it was opened (U7): those who had it are gone, or were not heard since Redis forgot it.
  /// A lease that Redis granted then keeps its tokens, whatever its host hears later.
  func isForgotten(_ name: Int, by host: SimulatedHost) -> Bool {
    // A fresh lease is forgotten in the very moment in which its host gives out the token.
    guard leases[host.index][name].isServedUnaware || isUnaware(host, of: name) else { return false }
    world.mark("unsafe: highest token forgotten")
    return true
  }

  /// Whether it is forgotten now, and the host does not know it either.
  func isUnaware(_ host: SimulatedHost, of name: Int) -> Bool {
    lossAt[name] >= roseAt[name] && lossAt[name] > .min && !floorStands[name] && !knowers[name].contains(host.me)
  }
}
