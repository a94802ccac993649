import Glibc
import SidelockClient

/// The scenarios that are nothing but cycles, in turns: a change of the machine's speed then meets all of them.
struct CycleScenarios {
  /// How often the scenarios take turns.
  static let rounds = 5

  let daemon: String
  let echo: String
  let limit: String
  /// The socket of a Redis server, for its round trip and for locks without a daemon.
  let redis: String?
  /// How many names each connection takes in turn in `distinct`.
  let names: Int
  let seconds: Double

  private struct Total {
    var sample = LoadGenerator.Sample()
    var usage = DaemonUsage(redisCommands: 0, cpuNanoseconds: 0)
  }

  func measure(
    _ scenarios: [BenchScenario], connections: Int, probe: DaemonProbe, progress: (Double) -> Void
  ) throws(SidelockError) -> [Figures] {
    let raw = try redis.flatMap { redis throws(SidelockError) in
      scenarios.contains(.raw) ? try RawScheme(redis: redis) : nil
    }
    var totals: [BenchScenario: Total] = [:]
    for round in 0..<Self.rounds {
      progress(Double(round) / Double(Self.rounds))
      for scenario in scenarios {
        let generator = try LoadGenerator(
          path: path(scenario), scripts: (0..<connections).map { script(scenario, connection: $0, raw: raw) },
          checksResults: scenario.isOfDaemon)
        // Neither side's first steps count.
        _ = try generator.run(nanoseconds: 20_000_000)
        let early = scenario.isOfDaemon ? try probe.usage() : DaemonUsage()
        let sample = try generator.run(nanoseconds: UInt64(seconds / Double(Self.rounds) * 1e9))
        var total = totals[scenario] ?? Total()
        total.sample.cycleNanoseconds += sample.cycleNanoseconds
        total.sample.elapsedNanoseconds += sample.elapsedNanoseconds
        if scenario.isOfDaemon { total.usage = total.usage + (try probe.usage() - early) }
        totals[scenario] = total
      }
    }
    func rate(_ scenario: BenchScenario) -> Double? {
      guard let sample = totals[scenario]?.sample, sample.elapsedNanoseconds > 0 else { return nil }
      return Double(sample.cycleNanoseconds.count) * 1e9 / Double(sample.elapsedNanoseconds)
    }
    return scenarios.map { scenario in
      let total = totals[scenario] ?? Total()
      var figures = Figures(
        scenario: scenario, clients: connections, measured: scenario == .redis ? "PING" : "cycle",
        latencies: Latencies(total.sample.cycleNanoseconds), perSecond: rate(scenario))
      // A PING is one trip, a cycle is two.
      if scenario != .redis, let own = rate(scenario) {
        figures.ratioToEcho = rate(.echo).map { own / $0 }
        figures.ratioToLimit = rate(.limit).map { own / $0 }
      }
      if scenario.isOfDaemon { figures.take(total.usage, cycles: total.sample.cycleNanoseconds.count) }
      return figures
    }
  }

  private func path(_ scenario: BenchScenario) -> String {
    switch scenario {
    case .echo: echo
    case .limit: limit
    case .redis, .raw: redis ?? ""
    case .distinct, .cold, .one, .contended, .crash, .crossHost, .manyClients, .manyLocks, .python: daemon
    }
  }

  /// The lines of one connection.
  func script(_ scenario: BenchScenario, connection: Int, raw: RawScheme? = nil) -> LoadGenerator.Script {
    switch scenario {
    case .raw: return LoadGenerator.Script(lines: raw?.lines(connection: connection) ?? [])
    case .redis: return LoadGenerator.Script(lines: [Array("PING\r\n".utf8)], cycleLines: 1)
    case .cold:
      // The time makes the names of two runs of the same process number differ.
      let name = BenchLine.name("cold-\(BenchClock.now())-\(connection)-")
      let digits = String(repeating: "0", count: LoadGenerator.Script.counterDigits)
      let lines = [BenchLine.acquire(name + digits), BenchLine.release(name + digits)]
      return LoadGenerator.Script(lines: lines, counterOffsets: lines.map { Self.end(of: name, in: $0) })
    case .echo, .limit, .distinct, .one, .contended, .crash, .crossHost, .manyClients, .manyLocks, .python:
      let count = scenario == .one ? 1 : names
      var lines: [[UInt8]] = []
      for index in 0..<count {
        let name = BenchLine.name(scenario == .one ? "one" : "\(connection)-\(index)")
        lines += [BenchLine.acquire(name), BenchLine.release(name)]
      }
      return LoadGenerator.Script(lines: lines)
    }
  }

  private static func end(of name: String, in line: [UInt8]) -> Int {
    let word = Array(name.utf8)
    let start = line.indices.first { line[$0...].starts(with: word) } ?? 0
    return start + word.count
  }
}
