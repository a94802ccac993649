import LockEngine
import LockTypes

/// The replicas of the store, as one host asks after them: how many have what it was granted, after a while, or nobody knows.
final class SimulatedReplicas {
  /// What stood in Redis for the host when it asked: by lock, the attempts of its leases.
  private struct Question {
    var need: ReplicaNeed
    var known: Set<String>
  }

  private unowned let world: Simulation
  private unowned let host: SimulatedHost
  private var open: [AcknowledgementID: Question] = [:]
  /// What replicas have, as far as the host was told: `<name> <attempt>`, and how many.
  private var acknowledged: [String: [ReplicaNeed]] = [:]

  init(world: Simulation, host: SimulatedHost) {
    self.world = world
    self.host = host
  }

  func forgetAll() {
    open = [:]
    acknowledged = [:]
  }

  func asked(_ id: AcknowledgementID, _ need: ReplicaNeed, until: BootInstant) {
    open[id] = Question(need: need, known: leases)
    let incarnation = host.incarnation
    let left = max(0, until.milliseconds(since: host.bootNow))
    let delay = world.random.chance(50) ? world.random.pick(0...left) : 0
    world.schedule(after: delay * 1000 + 1) { [self] in
      host.whenAwake { [self] in if host.incarnation == incarnation { answer(id) } }
    }
  }

  func forgotten(_ id: AcknowledgementID) {
    if open.removeValue(forKey: id) != nil { world.mark("question for replicas forgotten") }
  }

  /// The link has gone down, and the engine knows it.
  func linkWentDown() {
    for id in open.keys.sorted() {
      open[id] = nil
      host.turn(.acknowledged(.only, id, .unknown))
    }
  }

  private func answer(_ id: AcknowledgementID) {
    guard let question = open.removeValue(forKey: id) else { return }
    let need = question.need
    let answer: AcknowledgementAnswer
    if world.random.chance(70) || (need.replicas == 0 && world.random.chance(50)) {
      let replicas = need.replicas + world.random.pick(0...1)
      for lease in question.known {
        acknowledged[lease, default: []].append(ReplicaNeed(replicas: replicas, durability: need.durability))
      }
      answer = .enough(replicas: replicas)
    } else if world.random.chance(80) {
      answer =
        world.mistake == .tooFewAreEnough
        ? .enough(replicas: need.replicas) : .tooFew(replicas: max(0, need.replicas - 1))
    } else {
      answer = .refused("no replicas")
    }
    host.turn(.acknowledged(.only, id, answer))
  }

  /// The host's leases that stand in Redis.
  private var leases: Set<String> {
    var found: Set<String> = []
    for (name, key) in world.checker.lockKeys.enumerated() {
      for entry in world.checker.entries(world.server.redis.peek(key)?.value) where entry.owner == host.me {
        found.insert("\(name) \(entry.attempt)")
      }
    }
    return found
  }

  /// Whether the host was told that so many replicas have a lease that it has of this lock; nil: Redis has none itself. Of a
  /// semaphore one counts that Redis has no more: another permit of the host may be left, and which one is meant nobody tells.
  func hasAcknowledged(_ name: Int, _ need: ReplicaNeed) -> Bool? {
    let own = leases.filter { $0.hasPrefix("\(name) ") }
    if own.isEmpty { return nil }
    if world.plan.capacities[name] > 0 {
      return acknowledged.contains { $0.key.hasPrefix("\(name) ") && $0.value.contains { $0.covers(need) } }
    }
    if own.contains(where: { acknowledged[$0]?.contains { $0.covers(need) } == true }) { return true }
    // Older data have an earlier lease of the host's, and not the one that replicas had.
    let latest = own.compactMap(attempt).max() ?? 0
    return acknowledged.contains { lease, needs in
      lease.hasPrefix("\(name) ") && attempt(lease).map { $0 > latest } == true && needs.contains { $0.covers(need) }
    }
  }

  private func attempt(_ lease: String) -> UInt64? { lease.split(separator: " ").last.flatMap { UInt64($0) } }
}
