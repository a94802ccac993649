import LockEngine
import LockTypes
import RESP
import RedisLeases
import TestSupport

/// A mistake that is planted to see whether the checks find it.
enum Mistake: String, CaseIterable {
  case none
  case releaseIgnoresTheOwner, renewalTakesForeignKeys, counterIsNotKept, acquireIgnoresTheQueue
  case permitsAreNotCounted, readersIgnoreTheWriter, releaseTakesEarlierPermits, conflictIsNotSeen
  case leaseIsCountedTooLong, leaseHasTheLengthOfTheDay, clockStopsWhileSuspended, linkDownIsNotTold
  case waitsAreDatedByOwnClocks, noPlaceBehindOwnReaders, placesAreNotLookedAt, passedOnUnsurely

  var scripts: [RedisScript] {
    switch self {
    case .none, .leaseIsCountedTooLong, .leaseHasTheLengthOfTheDay, .clockStopsWhileSuspended, .linkDownIsNotTold,
      .waitsAreDatedByOwnClocks, .placesAreNotLookedAt:
      RedisScript.leases
    case .passedOnUnsurely: edited(.release, "\n    be_sure(its_lease or 10000)", "")
    case .releaseIgnoresTheOwner: edited(.release, "if instance ~= me then return false end", "")
    case .renewalTakesForeignKeys: edited(.renew, "string.sub(value, 1, #mine) == mine", "true")
    case .counterIsNotKept: edited(.acquire, "math.max(counter, token_floor, now[1] * 1000000 + now[2]) + 1", "7")
    case .acquireIgnoresTheQueue: edited(.acquire, "if waiting == 0 and fits(my_mode) then", "if fits(my_mode) then")
    case .permitsAreNotCounted: edited(.acquire, "#holders < tonumber(string.sub(mode, 2))", "true")
    case .readersIgnoreTheWriter:
      edited(
        .acquire, "if waiting == 0 and fits(my_mode) then", "if (waiting == 0 or my_mode == 's') and fits(my_mode) then"
      )
    case .releaseTakesEarlierPermits: edited(.release, "if is_exact then return its_attempt == attempt end", "")
    case .noPlaceBehindOwnReaders:
      edited(.acquire, "\nstand_in_queue(left)", "\nif kept == tonumber(attempt) then stand_in_queue(left) end")
    case .conflictIsNotSeen:
      edited(
        .acquire, "if its_mode == 's' then return mode == 's' end", "if its_mode == 's' then return mode ~= 'x' end")
    }
  }

  /// The scripts with one place of one of them changed, without the quick ways, which would bypass it.
  private func edited(_ name: ScriptName, _ old: String, _ new: String) -> [RedisScript] {
    RedisScript.leases(withQuickWays: false).map { script in
      guard script.name == name else { return script }
      let text = String(decoding: script.source, as: UTF8.self)
      precondition(text.contains(old), "the planted mistake does not fit the script any more")
      return RedisScript(name: name, source: Array(text.replacing(old, with: new).utf8))
    }
  }

  /// What is sent instead of a command.
  func changed(_ command: LeaseCommand, of host: SimulatedHost) -> LeaseCommand {
    if self == .placesAreNotLookedAt, case .checkPlaces = command { return .heartbeat }
    let length: (Int64) -> Int64
    switch self {
    case .leaseIsCountedTooLong: length = { $0 / 3 }
    // Whatever length was asked for before under the same attempt.
    case .leaseHasTheLengthOfTheDay: length = { _ in host.leaseMilliseconds }
    default: return command
    }
    return switch command {
    case .acquire(let name, let attempt, let ask, let isTry, let floor, let mode, let milliseconds, let kept):
      .acquire(
        name: name, attempt: attempt, ask: ask, isTry: isTry, tokenFloor: floor, mode: mode,
        leaseMilliseconds: length(milliseconds), keeping: kept)
    case .renew(let leases, let milliseconds): .renew(leases, leaseMilliseconds: length(milliseconds))
    default: command
    }
  }

  /// Words of the failure that must find it: a mistake that ends a script with an error would show in any case.
  var mustBeFoundBy: String? {
    switch self {
    case .readersIgnoreTheWriter, .acquireIgnoresTheQueue: "had waited longer"
    case .placesAreNotLookedAt: "has slept"
    case .none, .releaseIgnoresTheOwner, .renewalTakesForeignKeys, .counterIsNotKept, .permitsAreNotCounted,
      .releaseTakesEarlierPermits, .conflictIsNotSeen, .leaseIsCountedTooLong, .leaseHasTheLengthOfTheDay,
      .clockStopsWhileSuspended, .linkDownIsNotTold, .waitsAreDatedByOwnClocks, .noPlaceBehindOwnReaders,
      .passedOnUnsurely:
      nil
    }
  }

  /// A plan in which the mistake can show.
  func plan(seed: UInt64) -> Plan {
    var plan = Plan(seed: seed)
    if self == .noPlaceBehindOwnReaders { plan.faults = [] }
    if self == .placesAreNotLookedAt { plan.faults = [.evictQueue, .loseEntry, .lostPush] }
    if self == .leaseHasTheLengthOfTheDay { plan.faults = [.leaseChange, .cut] }
    if self == .passedOnUnsurely { plan.faults = [.rightTaken] }
    if self == .readersIgnoreTheWriter { (plan.faults, plan.sharedPercent) = ([], 60) }
    if self == .conflictIsNotSeen { (plan.conflictPercent, plan.sharedPercent) = (10, 60) }
    guard self == .waitsAreDatedByOwnClocks, plan.nameCount > 1 else { return plan }
    plan.faults = []
    plan.chainPercent = 40
    plan.cancelPercent = 0
    plan.latencyMicroseconds = 30...60
    return plan
  }

  /// What is heard instead of a reply.
  func changed(_ reply: LeaseReply, of host: SimulatedHost) -> LeaseReply {
    guard self == .waitsAreDatedByOwnClocks else { return reply }
    func ofThisHost(_ clock: StoreInstant) -> StoreInstant {
      StoreInstant(microseconds: clock.microseconds + Int64(host.index) * 10_000_000)
    }
    return switch reply {
    case .clock(let clock): .clock(ofThisHost(clock))
    case .queued(let holder, let expires, let listeners, let clock):
      .queued(
        holderHost: holder, holderExpiresInMilliseconds: expires, listeners: listeners, clock: clock.map(ofThisHost))
    default: reply
    }
  }

  func engineConfiguration(_ plan: Plan) -> EngineConfiguration {
    var configuration = plan.engine
    if self == .leaseIsCountedTooLong {
      configuration.settings.leaseMilliseconds = plan.leaseMilliseconds * 3
    }
    return configuration
  }
}

/// Several hosts and one Redis in virtual time. All that happens follows from the plan and its seed.
final class Simulation {
  let plan: Plan
  let mistake: Mistake
  var random: SeededRandom
  /// True time, in microseconds.
  private(set) var now: Int64 = 0
  private(set) var failure: String?
  private(set) var marks: Set<String> = []
  private(set) var eventCount = 0
  /// Turns that only an engine's timer caused, to find an engine that never sleeps.
  var timerTurns = 0
  private(set) var hosts: [SimulatedHost] = []
  private(set) var server: SimulatedServer!
  private(set) var checker: Checker!
  var clients: [SimulatedClient] = []
  var faultsAreOn = false
  /// While it is false clients ask for nothing new and give back what they get.
  var clientsAct = false
  var actCount = 0
  var latencyFactor: Int64 = 1

  private var queue = EventQueue()
  private var wireCount = 0
  private var lastID: UInt64 = 0
  private var lines: [String]?
  /// What each engine was told, and said to it; empty unless that is recorded.
  var records: [EventRecord] = []
  let isRecorded: Bool

  /// `traced`: keep a history of everything, which is slow; a seed that has failed is run again that way. `recorded`: keep
  /// what the engines are told.
  init(_ plan: Plan, mistake: Mistake = .none, traced: Bool = false, recorded: Bool = false) {
    self.plan = plan
    isRecorded = recorded
    self.mistake = mistake
    random = SeededRandom(seed: plan.seed &* 0x9e37_79b9 &+ 1)
    if traced { lines = [] }
    server = SimulatedServer(world: self)
    checker = Checker(world: self)
    hosts = (0..<plan.hostCount).map { SimulatedHost(world: self, index: $0) }
    for host in hosts { host.start() }
  }

  /// Nothing goes wrong in this simulation.
  var isCalm: Bool { plan.faults.isEmpty && mistake == .none && !isScripted }
  var isScripted: Bool { plan.clientsPerHost == 0 }

  // MARK: Time

  func schedule(at time: Int64, _ action: @escaping () -> Void) { queue.push(at: max(time, now), action) }

  func schedule(after span: Int64, _ action: @escaping () -> Void) { queue.push(at: now + max(0, span), action) }

  /// Lets time pass until `end`, or until something is wrong.
  func run(until end: Int64) {
    while failure == nil, let next = queue.next, next <= end, let (time, action) = queue.pop() {
      now = time
      eventCount += 1
      action()
      if eventCount > 400_000 { fail("more than 400,000 events: something never sleeps") }
    }
    if failure == nil { now = max(now, end) }
  }

  func run(milliseconds: Int64) { run(until: now + milliseconds * 1000) }

  /// Lets time pass until `condition` holds; false when it does not within `milliseconds`.
  func run(milliseconds: Int64, until condition: () -> Bool) -> Bool {
    let end = now + milliseconds * 1000
    while failure == nil {
      if condition() { return true }
      guard let next = queue.next, next <= end else { break }
      run(until: next)
    }
    return condition()
  }

  /// What is still scheduled holds the simulation alive.
  func end() { queue.removeAll() }

  // MARK: Chance

  func latency() -> Int64 { min(random.pick(plan.latencyMicroseconds) * latencyFactor, Self.latencyMax) }

  /// The longest that bytes are under way, even in a latency spike: a second, in microseconds.
  static let latencyMax: Int64 = 1_000_000

  func split(_ bytes: [UInt8]) -> [[UInt8]] {
    guard plan.splitPercent > 0, bytes.count > 1, random.chance(plan.splitPercent) else { return [bytes] }
    let at = random.pick(1...bytes.count - 1)
    return [Array(bytes[..<at]), Array(bytes[at...])]
  }

  func newID() -> UInt64 {
    lastID += 1
    return lastID
  }

  func newWire(_ host: SimulatedHost) -> Wire {
    wireCount += 1
    return Wire(id: wireCount, world: self, host: host)
  }

  // MARK: Clients

  func clientReplied(_ session: SessionID, _ request: RequestID, _ reply: Reply) {
    client(session)?.replied(request, reply)
  }

  func clientNotified(_ session: SessionID, _ notification: Notification) {
    client(session)?.notified(notification)
  }

  private func client(_ session: SessionID) -> SimulatedClient? { clients.first { $0.session == session } }

  /// A daemon that was told to stop has stopped; the service manager starts it again.
  func hostShutDown(_ host: SimulatedHost) {
    if isScripted { return }
    schedule(after: 100_000) { if !host.isRunning { host.start() } }
  }

  // MARK: Findings

  func fail(_ words: String) {
    guard failure == nil else { return }
    failure = words
    trace("FAILED: \(words)")
  }

  func mark(_ branch: String) { marks.insert(branch) }

  func trace(_ line: @autoclosure () -> String) {
    if lines != nil { lines?.append("\(now / 1000).\(String(now % 1000 + 1000).dropFirst()) ms  \(line())") }
  }

  /// The last events, for a report.
  func lastLines(_ count: Int) -> String { (lines ?? []).suffix(count).joined(separator: "\n") }
}
