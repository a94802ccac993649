import LockEngine
import LockTypes
import TestSupport

/// What can go wrong.
enum Fault: String, CaseIterable {
  // The network.
  case cut, blackhole, serverClosesConnection, latencySpike, lostPush
  // Redis.
  case stall, restartWithData, restartWithOldData, restartWithoutData, scriptFlush, flushAll, clockForward, clockBack
  case evictLock, evictFence, evictQueue, loseEntry, refusal, rightTaken, wrongType, foreignHolder
  case swapDatabase, evictEpoch, failover, forgetFreshLease
  // The hosts.
  case pauseHost, crashDaemon, crashMachine, shutdown, leaseChange
  // An administrator.
  case takeAway

  /// Whether a new epoch begins, with a grace in which nobody is served.
  var beginsEpoch: Bool {
    switch self {
    case .restartWithData, .restartWithOldData, .restartWithoutData, .flushAll, .swapDatabase, .evictEpoch, .failover,
      .forgetFreshLease:
      true
    case .cut, .blackhole, .serverClosesConnection, .latencySpike, .lostPush, .stall, .scriptFlush, .clockForward,
      .clockBack, .evictLock, .evictFence, .evictQueue, .loseEntry, .refusal, .rightTaken, .wrongType, .foreignHolder,
      .pauseHost, .crashDaemon, .crashMachine, .shutdown, .leaseChange, .takeAway:
      false
    }
  }
}

/// One simulation's settings, all drawn from its seed. Every seed has its own few kinds of faults (swarm testing),
/// because a frequent fault hides what another one would show.
struct Plan {
  var seed: UInt64
  var hostCount: Int
  var clientsPerHost: Int
  var nameCount: Int
  /// The length of a lease, and the most that it can be changed to.
  var leaseMilliseconds: Int64
  /// How long after its last sign of life a host is taken for dead; 0: never.
  var deadHostMilliseconds: Int64
  /// Whether every second host begins without that.
  var isDeathOfSome: Bool
  /// Whether every other host begins with shorter ones.
  var leasesDiffer: Bool
  var lingerMilliseconds: Int64
  var cohortMax: Int
  var cohortMilliseconds: Int64
  /// How long a command may go unanswered before the host gives the connection up.
  var linkTimeoutMilliseconds: Int64
  /// How many commands may be in flight; further ones wait in the daemon.
  var windowMax: Int
  var latencyMicroseconds: ClosedRange<Int64>
  /// By how much a timer may be late.
  var timerLatenessMicroseconds: Int64
  /// Parts in a million by which a host's clock may run fast or slow.
  var driftMax: Int64
  /// Whether each of them is as fast or as slow as that.
  var clocksAreApart: Bool
  /// How long clients act at random, and how often they do, all together.
  var chaosMilliseconds: Int64
  var actsMax: Int
  /// The pause of a client between two acts, at the most.
  var clientPauseMilliseconds: Int64
  var holdMilliseconds: Int64
  /// In percent of a client's acts.
  var tryPercent: Double
  var closePercent: Double
  var cancelPercent: Double
  /// What each name is: 0 a lock, else a semaphore of so many permits.
  var capacities: [Int64]
  var sharedPercent: Double
  /// Requests for a name as something that it is not.
  var conflictPercent: Double
  var ownerPercent: Double
  var severalPercent: Double
  /// Requests for a second name, without a limit, while holding a first one: these run into deadlocks.
  var chainPercent: Double
  /// Downgrades, transfers and breaks.
  var meddlePercent: Double
  /// Requests that replicas have to have before their clients are told.
  var replicaPercent: Double
  var faults: [Fault]
  var faultEveryMilliseconds: Int64
  /// How long no further epoch is begun by a fault once one was, so that graces come to an end.
  var epochEveryMilliseconds: Int64
  /// Whether the server's clock is another one after a restart.
  var hasOtherClocks: Bool
  /// Whether all hosts begin at once, instead of the first one before the others.
  var beginsAtOnce: Bool
  var ownPushesComeAfterTheReply: Bool
  /// How often a chunk of bytes is cut in two, in percent.
  var splitPercent: Double
  /// How many tokens an exclusive lease reserves.
  var tokenCount: Int64
  /// Whether half of the hosts are of a later release than the others.
  var hasLaterReleases: Bool
  /// Steps that an engine takes for one event.
  var stepsPerSlice: Int
  /// How many events come before a turn ends, unless the timer fires.
  var eventsPerTurn = 1
  /// Leases that one renewal names.
  var renewalBatchMax: Int
  /// How long a host's loop takes to come back to work that was put off; other input is handled meanwhile.
  var turnMicroseconds: Int64
  /// How long the server keeps a connection whose peer is silently gone.
  var keepaliveMilliseconds: Int64

  init(seed: UInt64) {
    var random = SeededRandom(seed: seed)
    self.seed = seed
    hostCount = random.pick([1, 2, 2, 2, 3, 4])
    clientsPerHost = random.pick([1, 1, 2, 3, 5])
    nameCount = random.pick([1, 1, 2, 2, 3])
    leaseMilliseconds = random.pick([1000, 1000, 2000, 10_000])
    lingerMilliseconds = random.pick([0, 0, 5, 100, 3000])
    cohortMax = random.pick([1, 2, 5, 100])
    cohortMilliseconds = random.pick([0, 5, 50, 500])
    linkTimeoutMilliseconds = random.pick([100, leaseMilliseconds / 4, leaseMilliseconds / 2 - 1])
    windowMax = random.pick([1, 2, 1024, 1024])
    let least = random.pick([Int64(30), 100, 1000])
    latencyMicroseconds = least...least * random.pick([Int64(1), 2, 10])
    timerLatenessMicroseconds = random.pick([0, 500, 20_000])
    driftMax = random.pick([0, 100, 4000])
    chaosMilliseconds = random.pick([Int64(700), 1500, 4000])
    actsMax = random.pick([40, 80, 160])
    clientPauseMilliseconds = random.pick([20, 100, 400])
    holdMilliseconds = random.pick([2, 30, 300, 3000])
    tryPercent = random.pick([0, 20, 60])
    closePercent = random.pick([0, 2, 10])
    cancelPercent = random.pick([0, 5, 25])
    let kinds = random.pick([0, 1, 1, 2, 3, 6])
    var chosen: [Fault] = []
    for _ in 0..<kinds {
      let fault = random.pick(Fault.allCases)
      if !chosen.contains(fault) { chosen.append(fault) }
    }
    // Tokens survive a clock that is set back or a counter that is lost alone; nobody promises both (U6).
    if chosen.contains(.evictFence) { chosen.removeAll { $0 == .clockBack } }
    // A live lease whose key is evicted burns its block of tokens, and so does one whose release was overtaken because
    // its script had to be sent again. Each puts the counter 65 ms ahead of the clock; losing the counter alone within
    // that time is more than is promised.
    if chosen.contains(where: { [.evictLock, .scriptFlush].contains($0) }) { chosen.removeAll { $0 == .evictFence } }
    faults = chosen
    var capacities: [Int64] = []
    for _ in 0..<nameCount { capacities.append(random.pick([0, 0, 0, 0, 1, 2, 3])) }
    self.capacities = capacities
    sharedPercent = random.pick([0, 0, 30, 60, 90])
    conflictPercent = random.pick([0, 0, 0, 5])
    ownerPercent = random.pick([0, 0, 20])
    severalPercent = nameCount < 2 ? 0 : random.pick([0, 0, 10, 40])
    chainPercent = nameCount < 2 ? 0 : random.pick([0, 0, 10, 40])
    meddlePercent = random.pick([0, 0, 5])
    // With few commands in flight on a slow line, those that wait for their turn must not count as unanswered.
    if windowMax < 10 {
      linkTimeoutMilliseconds = max(
        linkTimeoutMilliseconds, min(latencyMicroseconds.upperBound / 20, leaseMilliseconds / 2 - 1))
    }
    faultEveryMilliseconds = random.pick([30, 100, 400])
    ownPushesComeAfterTheReply = random.chance(50)
    splitPercent = random.pick([0, 0, 5])
    keepaliveMilliseconds = random.pick([500, 5000])
    tokenCount = random.pick([1 << 16, 1 << 16, 1 << 16, 16])
    // Whoever waits for the end of a grace does nothing else: these seeds get more time, and shorter leases.
    epochEveryMilliseconds = 0
    if chosen.contains(where: \.beginsEpoch) {
      if leaseMilliseconds > 2000, random.chance(70) {
        leaseMilliseconds = random.pick([1000, 2000])
        linkTimeoutMilliseconds = min(linkTimeoutMilliseconds, leaseMilliseconds / 2 - 1)
      }
      epochEveryMilliseconds = random.pick([0, leaseMilliseconds / 2, 2 * leaseMilliseconds, 3 * leaseMilliseconds])
      chaosMilliseconds += 3 * min(leaseMilliseconds, 2000)
    }
    hasOtherClocks = random.chance(50) && !chosen.contains(.evictFence)
    beginsAtOnce = random.chance(10)
    // Drawn apart, so that a seed's other settings stay what they were.
    var apart = SeededRandom(seed: seed ^ 0x6c61_7465_7200)
    hasLaterReleases = apart.chance(25)
    deadHostMilliseconds = apart.chance(30) ? leaseMilliseconds / apart.pick([2, 5]) : 0
    isDeathOfSome = apart.chance(30)
    clocksAreApart = apart.chance(10)
    if clocksAreApart { driftMax = Self.driftLimit }
    leasesDiffer = apart.chance(20)
    replicaPercent = 0
    // A daemon that begins anew knows of no lease but its own.
    if leasesDiffer, chosen.contains(where: \.beginsEpoch), !chosen.contains(.crashDaemon), apart.chance(50) {
      faults.append(.crashDaemon)
    }
    // The other side of the world: an answer takes longer than the usual time-outs.
    if random.chance(4) {
      leaseMilliseconds = 10_000
      linkTimeoutMilliseconds = 2500
      windowMax = 1024
      latencyMicroseconds = 200_000...300_000
      faults.removeAll { $0 == .leaseChange }
      leasesDiffer = false
    }
    // A command must be answered, or the connection given up, well before a host is taken for dead.
    if deadHostMilliseconds > 0 {
      deadHostMilliseconds = max(deadHostMilliseconds, 2 * linkTimeoutMilliseconds + 2)
      if deadHostMilliseconds >= leaseMilliseconds { deadHostMilliseconds = 0 }
    }
    stepsPerSlice = random.pick([256, 256, 1, 3])
    renewalBatchMax = random.pick([500, 500, 1, 2])
    turnMicroseconds = stepsPerSlice <= 3 ? random.pick([0, 100, 1000]) : 0
    if apart.chance(2) {
      losesFreshLeases()
      faults = [.forgetFreshLease]
    } else if apart.chance(3) {
      changesHands()
      faults = [apart.pick([.failover, .restartWithOldData, .swapDatabase])]
    }
    replicaPercent = apart.pick([0, 0, 10, 60])
    if stepsPerSlice <= 3 { eventsPerTurn = apart.pick([1, 1, 3, 20]) }
  }

  /// What the one per cent that is left for clocks that run apart has room for: one that is fast by this, and one that is
  /// slow by it, in parts in a million.
  static let driftLimit: Int64 = 4900

  /// The length of the leases with which a host begins.
  func leaseMilliseconds(ofHost index: Int) -> Int64 {
    leasesDiffer && index % 2 == 1 ? LeaseTimeline.millisecondsRange.lowerBound : leaseMilliseconds
  }

  /// By how much anything that is due may be late: its timer's lateness, and the turns for what was due before.
  var latenessMicroseconds: Int64 { timerLatenessMicroseconds + 40 * turnMicroseconds }

  /// Whether an engine may have more to do than one turn has room for.
  var hasSmallSlices: Bool { stepsPerSlice <= 3 }

  /// Whether older data may come back while the clock is one that is behind.
  var hasOlderDataByOtherClocks: Bool {
    (hasOtherClocks || faults.contains(.clockBack))
      && faults.contains { [.restartWithOldData, .failover, .swapDatabase].contains($0) }
  }

  /// The usual mode of a name.
  func mode(of name: Int) -> HoldMode { capacities[name] == 0 ? .exclusive : .permit(of: capacities[name]) }

  var engine: EngineConfiguration {
    EngineConfiguration(tier: .store) {
      $0.settings.leaseMilliseconds = leaseMilliseconds
      $0.settings.deadHostMilliseconds = deadHostMilliseconds
      $0.settings.lingerMilliseconds = lingerMilliseconds
      $0.settings.cohortMax = cohortMax
      $0.settings.cohortMilliseconds = cohortMilliseconds
      $0.settings.storeTimeoutMilliseconds = linkTimeoutMilliseconds
      $0.settings.replicasTimeoutMilliseconds = 300
      $0.renewalBatchMax = renewalBatchMax
      $0.stepsPerSlice = stepsPerSlice
    }
  }

  /// A plan without faults and without clients of its own, for tests that script what happens.
  static func scripted(hosts: Int, leaseMilliseconds: Int64 = 10_000, lingerMilliseconds: Int64 = 0) -> Plan {
    var plan = Plan(seed: 1)
    plan.hostCount = hosts
    plan.clientsPerHost = 0
    plan.nameCount = 1
    plan.leaseMilliseconds = leaseMilliseconds
    plan.deadHostMilliseconds = 0
    plan.lingerMilliseconds = lingerMilliseconds
    plan.cohortMax = 100
    plan.cohortMilliseconds = 50
    plan.linkTimeoutMilliseconds = 2000
    plan.windowMax = 1024
    plan.latencyMicroseconds = 500...500
    plan.timerLatenessMicroseconds = 0
    plan.driftMax = 0
    plan.clocksAreApart = false
    plan.leasesDiffer = false
    plan.faults = []
    plan.ownPushesComeAfterTheReply = false
    plan.capacities = [0]
    plan.splitPercent = 0
    plan.tokenCount = 1 << 16
    plan.stepsPerSlice = 256
    plan.renewalBatchMax = 500
    plan.turnMicroseconds = 0
    plan.keepaliveMilliseconds = 5000
    plan.hasOtherClocks = false
    plan.beginsAtOnce = false
    return plan
  }
}
