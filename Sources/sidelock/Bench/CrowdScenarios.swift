import Glibc
import SidelockClient

/// What many clients and many locks cost the daemon.
struct CrowdScenarios {
  /// How many locks one session holds at most: below the daemon's limit.
  static let locksPerSession = 10_000
  /// How many requests of a session are unanswered at a time: below the daemon's limit.
  static let pipelined = 100

  let socket: String
  let seconds: Double
  let probe: DaemonProbe

  // MARK: many-clients

  /// Connections that do nothing, then the same connections waiting for one lock.
  func manyClients(_ count: Int, progress: (Double) -> Void) throws(SidelockError) -> [Figures] {
    try Self.allowDescriptors(count + 64)
    let before = probe.residentBytes
    var clients: [BenchClient] = []
    let ping = BenchLine.request(id: 0, "ping")
    for index in 0..<count {
      if index % 100 == 0 { progress(Double(index) / Double(count) * 0.2) }
      let client = try BenchClient(path: socket)
      // The answer says that the daemon has the connection.
      try client.exchange(ping)
      clients.append(client)
    }
    var idle = Figures(scenario: .manyClients, clients: count, measured: "idle")
    addMemory(&idle, before: before, each: count, "with \(count) idle connections")
    progress(0.2)
    idle.add("idle_cpu_percent", try restingCPU().cpu, digits: 2, "of one core, with \(count) idle connections")

    let early = try probe.usage()
    let holder = try BenchClient(path: socket)
    let name = BenchLine.name("many-waiters")
    let acquire = BenchLine.acquire(name)
    let release = BenchLine.release(name)
    try holder.exchange(acquire)
    for client in clients {
      try client.send(acquire)
      // The answer says that the daemon has the place of this one, before the next one asks for its own.
      try client.exchange(ping)
    }
    try waitUntil(name, waiters: count)
    addMemory(&idle, before: before, each: count, "with \(count) waiters", prefix: "waiting_")
    progress(0.5)
    idle.add("waiting_cpu_percent", try restingCPU().cpu, digits: 2, "of one core, with \(count) waiters for one lock")

    progress(0.7)
    var times: [UInt32] = []
    var releasedAt = BenchClock.now()
    try holder.exchange(release)
    for client in clients {
      // In the order of arrival: if this one is not the next to be served, the wait for its answer never ends.
      try client.takeResult()
      times.append(UInt32(clamping: BenchClock.now() - releasedAt))
      releasedAt = BenchClock.now()
      try client.exchange(release)
    }
    var served = Figures(
      scenario: .manyClients, clients: count, measured: "release to next grant", latencies: Latencies(times))
    served.take(try probe.usage() - early, cycles: count)
    clients.removeAll()
    return [idle, served]
  }

  private func waitUntil(_ name: String, waiters: Int) throws(SidelockError) {
    let client = try BenchClient(path: socket)
    let end = BenchClock.now() + UInt64(BenchClient.answerSecondsMax) * 1_000_000_000
    while try client.call("inspect", ["name": .string(name)])["waiting"]?.intValue != Int64(waiters) {
      guard BenchClock.now() < end else {
        throw SidelockError(reason: .protocolViolation, message: "the daemon did not let \(waiters) clients wait")
      }
      usleep(10_000)
    }
  }

  // MARK: many-locks

  /// One cycle while few locks are held, and while many are; and what many locks cost while nothing happens.
  func manyLocks(_ count: Int, progress: (Double) -> Void) throws(SidelockError) -> [Figures] {
    let few = min(100, count)
    let before = probe.residentBytes
    var sessions: [BenchClient] = []
    var held = 0
    func hold(_ target: Int) throws(SidelockError) {
      while held < target {
        if held % Self.locksPerSession == 0 || sessions.isEmpty { sessions.append(try BenchClient(path: socket)) }
        let room = Self.locksPerSession - held % Self.locksPerSession
        let batch = min(Self.pipelined, target - held, room)
        let session = sessions[sessions.count - 1]
        let lines = (held..<held + batch).flatMap { index in
          BenchLine.request(id: Int64(index), "acquire", ["name": .string(BenchLine.name("held-\(index)"))])
        }
        try session.send(lines)
        for _ in 0..<batch { try session.takeResult() }
        held += batch
        progress(0.3 + Double(held) / Double(count) * 0.3)
      }
    }
    try hold(few)
    let withFew = try cycles()
    let start = BenchClock.now()
    try hold(count)
    let fillSeconds = Double(BenchClock.now() - start) / 1e9
    // Let the daemon finish what the filling has left.
    usleep(500_000)
    var figures = Figures(scenario: .manyLocks, clients: sessions.count, measured: "held")
    addMemory(&figures, before: before, each: count, "with \(count) locks held")
    figures.add("acquired_per_second", Double(count - few) / max(fillSeconds, 1e-9), digits: 0, "pipelined acquires")
    progress(0.6)
    // A whole lease, so that every lock is renewed in it.
    let lease = Double(try probe.leaseMilliseconds() ?? 0) / 1000
    let lostBefore = try lost()
    let resting = try restingCPU(seconds: max(seconds, lease))
    figures.add("renewal_cpu_percent", resting.cpu, digits: 2, "of one core, while \(count) locks are only held")
    figures.add(
      "renewal_commands_per_second", resting.redisCommands, "Redis commands while \(count) locks are only held")
    progress(0.9)
    let withMany = try cycles()
    figures.add("locks_lost", Double(try lost() - lostBefore), digits: 0, "leases that ended though they were renewed")
    let growth = Self.ratio(withMany.latencies, withFew.latencies)
    figures.add("growth", growth, digits: 2, "p50 of a cycle with \(count) locks held by that with \(few)")
    figures.add(
      "cpu_growth",
      withFew.cpuMicrosecondsPerRequest.flatMap { few in withMany.cpuMicrosecondsPerRequest.map { $0 / few } },
      digits: 2,
      "the same for the daemon's processor time")
    sessions.removeAll()
    return [withFew, withMany, figures].enumerated().map { index, figures in
      var figures = figures
      if index < 2 { figures.measured = "cycle, \(index == 0 ? few : count) held" }
      return figures
    }
  }

  private func lost() throws(SidelockError) -> Int64 {
    try probe.stats()["lost_total"]?.intValue ?? 0
  }

  private static func ratio(_ one: Latencies?, _ other: Latencies?) -> Double? {
    guard let one, let other, other.microseconds(permille: 500) > 0 else { return nil }
    return one.microseconds(permille: 500) / other.microseconds(permille: 500)
  }

  /// One connection's cycles.
  private func cycles() throws(SidelockError) -> Figures {
    let name = BenchLine.name("cycle")
    let generator = try LoadGenerator(
      path: socket, scripts: [LoadGenerator.Script(lines: [BenchLine.acquire(name), BenchLine.release(name)])],
      checksResults: true)
    _ = try generator.run(nanoseconds: 20_000_000)
    let early = try probe.usage()
    let sample = try generator.run(nanoseconds: UInt64(seconds * 1e9))
    var figures = Figures(
      scenario: .manyLocks, clients: 1, measured: "cycle", latencies: Latencies(sample.cycleNanoseconds),
      perSecond: Double(sample.cycleNanoseconds.count) * 1e9 / Double(max(1, sample.elapsedNanoseconds)))
    figures.take(try probe.usage() - early, cycles: sample.cycleNanoseconds.count)
    return figures
  }

  // MARK: What both need

  private func addMemory(_ figures: inout Figures, before: Int64?, each count: Int, _ when: String, prefix: String = "")
  {
    guard let before, let now = probe.residentBytes else { return }
    figures.add(prefix + "resident_mb", Double(now) / 1e6, "the daemon's memory \(when)")
    figures.add(prefix + "bytes_each", Double(now - before) / Double(count), digits: 0, "memory that each has cost")
  }

  /// The daemon's processor time while nobody asks it for anything, in percent of one core, and its Redis commands a
  /// second.
  private func restingCPU(
    seconds: Double? = nil
  ) throws(SidelockError) -> (cpu: Double?, redisCommands: Double?) {
    let early = try probe.usage()
    let start = BenchClock.now()
    usleep(useconds_t(min(3600, max(1, seconds ?? self.seconds)) * 1e6))
    let usage = try probe.usage() - early
    let elapsed = Double(BenchClock.now() - start)
    return (
      usage.cpuNanoseconds.map { Double($0) / elapsed * 100 }, usage.redisCommands.map { Double($0) * 1e9 / elapsed }
    )
  }

  /// Raises the limit of this process's descriptors to `count`.
  private static func allowDescriptors(_ count: Int) throws(SidelockError) {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    guard limit.rlim_cur < rlim_t(count) else { return }
    guard limit.rlim_max >= rlim_t(count) else {
      throw SidelockError(
        reason: .limit,
        message: "this many connections need \(count) open files, and this process may have \(limit.rlim_max)")
    }
    limit.rlim_cur = rlim_t(count)
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
  }
}
