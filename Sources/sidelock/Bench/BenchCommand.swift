import ArgumentParser
import Glibc
import SidelockClient

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measure a running daemon against a plain line echo server.",
    discussion: """
      A cycle is an acquire and its release, each awaited. For each number of connections three things are measured \
      by turns: `echo` sends the same lines to a server that only sends them back (same event library, same kind of \
      socket, one thread); `distinct` gives each connection locks of its own; `one` has all connections compete for \
      one lock, so that a cycle includes the wait. The ratio compares the cycles per second with those of echo at the \
      same number of connections. Latency is that of a whole cycle.

      Use a release build of daemon and command, on a machine that has nothing else to do.

      EXAMPLES
        sidelock bench
        sidelock bench --seconds 10 --connections 1,64 --json > figures.json
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(help: ArgumentHelp("How long each figure is measured.", valueName: "seconds"))
  var seconds: Double = 3

  @Option(help: ArgumentHelp("The numbers of connections, with commas between them.", valueName: "list"))
  var connections = "1,16,64"

  @Option(help: ArgumentHelp("How many names each connection takes in turn in `distinct`.", valueName: "count"))
  var names = 1

  @Option(name: .customLong("echo-server"), help: .private)
  var echoServer: String?

  func validate() throws {
    guard seconds >= 0.01, seconds <= 3600 else { throw ValidationError("--seconds must lie between 0.01 and 3600.") }
    guard (1...10_000).contains(names) else { throw ValidationError("--names must lie between 1 and 10000.") }
    _ = try connectionCounts()
  }

  func connectionCounts() throws -> [Int] {
    try connections.split(separator: ",", omittingEmptySubsequences: false).map { part in
      guard let count = Int(part), (1...1000).contains(count) else {
        throw ValidationError("--connections takes numbers from 1 to 1000 with commas between them.")
      }
      return count
    }
  }

  func run() throws {
    if let echoServer { return try EchoServer.serve(path: echoServer) }
    let counts = try connectionCounts()
    try reportingErrors {
      // Tells at once when no daemon is there.
      _ = try connection.open().call("ping")
      let echo = try EchoProcess()
      let bench = Benchmark(
        daemon: SocketPath.find(explicit: connection.socket), echo: echo.path, names: names, seconds: seconds)
      var results: [Benchmark.Result] = []
      for (index, count) in counts.enumerated() {
        results += try bench.measure(connections: count) { round in
          guard isatty(STDERR_FILENO) == 1 else { return }
          let done = index * Benchmark.rounds + round
          Descriptor.write("\r\(count) connections, \(done * 100 / (counts.count * Benchmark.rounds)) %   ", to: 2)
        }
      }
      if isatty(STDERR_FILENO) == 1 { Descriptor.write("\r\u{1B}[K", to: STDERR_FILENO) }
      if output.isForPeople {
        for line in Benchmark.table(results).lines { Descriptor.print(line) }
      } else {
        Descriptor.print(Benchmark.json(results, seconds: seconds, names: names).serialized)
      }
    }
  }
}

/// The measurements and how they are shown.
struct Benchmark {
  /// How often the scenarios take turns, so that a change of the machine's speed meets all of them.
  static let rounds = 5

  enum Scenario: String, CaseIterable {
    case echo
    case distinct
    case one
  }

  struct Result {
    var connections: Int
    var scenario: Scenario
    /// Sorted.
    var cycleNanoseconds: [UInt32]
    var cyclesPerSecond: Double
    var ratio: Double

    /// The time within which that part of the cycles ended, in microseconds.
    func microseconds(permille: Int) -> Double {
      guard !cycleNanoseconds.isEmpty else { return 0 }
      let rank = (cycleNanoseconds.count * permille + 999) / 1000
      return Double(cycleNanoseconds[max(0, rank - 1)]) / 1000
    }
  }

  let daemon: String
  let echo: String
  let names: Int
  let seconds: Double

  func measure(connections: Int, progress: (Int) -> Void) throws(SidelockError) -> [Result] {
    var totals: [Scenario: LoadGenerator.Sample] = [:]
    for round in 0..<Self.rounds {
      progress(round)
      for scenario in Scenario.allCases {
        let generator = try LoadGenerator(
          path: scenario == .echo ? echo : daemon,
          scripts: (0..<connections).map { script(scenario, connection: $0) },
          checksResults: scenario != .echo)
        // Neither side's first steps count.
        _ = try generator.run(nanoseconds: 20_000_000)
        let sample = try generator.run(nanoseconds: UInt64(seconds / Double(Self.rounds) * 1e9))
        totals[scenario, default: LoadGenerator.Sample()].cycleNanoseconds += sample.cycleNanoseconds
        totals[scenario, default: LoadGenerator.Sample()].elapsedNanoseconds += sample.elapsedNanoseconds
      }
    }
    let rates = totals.mapValues { sample in
      sample.elapsedNanoseconds == 0
        ? 0 : Double(sample.cycleNanoseconds.count) * 1e9 / Double(sample.elapsedNanoseconds)
    }
    return Scenario.allCases.map { scenario in
      let rate = rates[scenario] ?? 0
      let yardstick = rates[.echo] ?? 0
      return Result(
        connections: connections, scenario: scenario,
        cycleNanoseconds: totals[scenario]?.cycleNanoseconds.sorted() ?? [], cyclesPerSecond: rate,
        ratio: yardstick > 0 ? rate / yardstick : 0)
    }
  }

  /// The lines of one connection. The names carry the process, so that two runs at a time do not meet.
  func script(_ scenario: Scenario, connection: Int) -> LoadGenerator.Script {
    let count = scenario == .one ? 1 : names
    var lines: [[UInt8]] = []
    for index in 0..<count {
      let name = scenario == .one ? "bench-\(getpid())-one" : "bench-\(getpid())-\(connection)-\(index)"
      lines.append(request(id: 1, "acquire", name: name))
      lines.append(request(id: 2, "release", name: name))
    }
    return LoadGenerator.Script(lines: lines)
  }

  private func request(id: Int64, _ method: String, name: String) -> [UInt8] {
    let message: JSONValue = [
      "jsonrpc": "2.0", "id": .int(id), "method": .string(method), "params": ["name": .string(name)],
    ]
    var line: [UInt8] = []
    message.write(to: &line)
    line.append(0x0A)
    return line
  }

  static let permilles: [(String, Int)] = [("p50", 500), ("p90", 900), ("p99", 990), ("p99_9", 999), ("max", 1000)]

  static func table(_ results: [Result]) -> Table {
    var table = Table(
      headings: ["CONNECTIONS", "LOCKS", "CYCLES/S", "RATIO", "P50 µs", "P90 µs", "P99 µs", "P99.9 µs", "MAX µs"],
      rightAligned: [0, 2, 3, 4, 5, 6, 7, 8])
    for result in results {
      table.append(
        [
          "\(result.connections)", result.scenario.rawValue, "\(Int(result.cyclesPerSecond))",
          fixed(result.ratio, digits: 2),
        ] + permilles.map { fixed(result.microseconds(permille: $0.1), digits: 1) })
    }
    return table
  }

  static func json(_ results: [Result], seconds: Double, names: Int) -> JSONValue {
    let list = results.map { result -> JSONValue in
      var latency = JSONObject()
      for (name, permille) in permilles { latency.append(name, .double(result.microseconds(permille: permille))) }
      return [
        "connections": .int(Int64(result.connections)), "scenario": .string(result.scenario.rawValue),
        "cycles": .int(Int64(result.cycleNanoseconds.count)), "cycles_per_second": .double(result.cyclesPerSecond),
        "ratio_to_echo": .double(result.ratio), "cycle_microseconds": .object(latency),
      ]
    }
    return ["seconds": .double(seconds), "names": .int(Int64(names)), "results": .array(list)]
  }

  /// A number with so many digits behind the point.
  static func fixed(_ value: Double, digits: Int) -> String {
    let scale = (0..<digits).reduce(1) { scale, _ in scale * 10 }
    let scaled = Int64((value * Double(scale)).rounded())
    let fraction = String(scaled % Int64(scale))
    return "\(scaled / Int64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
  }
}
