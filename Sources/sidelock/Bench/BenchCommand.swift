import ArgumentParser
import Glibc
import SidelockClient
import ProcessSupport
import SystemStrings

/// What can be measured.
enum BenchScenario: String, CaseIterable, ExpressibleByArgument {
  case echo
  case limit
  case redis
  case raw
  case distinct
  case cold
  case one
  case contended
  case crash
  case crossHost = "cross-host"
  case manyClients = "many-clients"
  case manyLocks = "many-locks"
  case python

  /// Whether it is nothing but cycles; such scenarios take turns.
  var isCycle: Bool {
    switch self {
    case .echo, .limit, .redis, .raw, .distinct, .cold, .one: true
    case .contended, .crash, .crossHost, .manyClients, .manyLocks, .python: false
    }
  }

  /// Whether it talks to the daemon.
  var isOfDaemon: Bool {
    switch self {
    case .echo, .limit, .redis, .raw: false
    case .distinct, .cold, .one, .contended, .crash, .crossHost, .manyClients, .manyLocks, .python: true
    }
  }

  /// Whether it is measured only where `--compare` or its name asks for it.
  var isComparison: Bool { self == .raw || self == .python }

  /// Whether it talks to Redis itself.
  var isOfRedis: Bool { self == .redis || isComparison }
}

struct BenchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench",
    abstract: "Measure a running daemon, with plain servers beside it as yardsticks.",
    discussion: """
      SCENARIOS
        A cycle is an acquire and its release, each awaited. These are measured by
        turns, for each number of connections:
          echo          the lines of a cycle, sent to a server that only sends them
                        back: same event library, same kind of socket, one thread
          limit         the same to a server in C that answers as the daemon would
                        and parses, checks and stores nothing: the least that a
                        lock behind a socket can cost
          redis         PING to the server at --redis-socket
          raw           a lock without a daemon: SET NX PX, and a script that
                        compares and deletes, over a connection to Redis for each
                        client
          distinct      each connection has --names locks of its own
          cold          every lock is new
          one           all compete for one lock; a cycle includes the wait
        These follow, one by one:
          contended     --clients compete for one lock, each holds it for --hold-ms
                        and comes back after --pause-ms: the part of the time that
                        the lock is held, and the least served client by the best
                        served. With --other-socket once more over both daemons,
                        and at last at the limit server
          crash         from the SIGKILL of a holder, and from the close of its
                        socket, to the grant to a client that waits; and how much
                        of that the kernel takes to end the killed process
          cross-host    from the release, and from the SIGKILL, of a holder at one
                        daemon to the grant at the other; needs --other-socket
          many-clients  --idle connections that do nothing, then wait for one lock
          many-locks    --locks locks that are held: memory, the cost of renewing
                        them, and of a cycle beside them
          python        one process in Python: a cycle by the daemon's protocol, by
                        the raw scheme and, where that library is, by redis-py's
                        lock, by turns
        Without --scenario: all but many-clients and many-locks, as far as the
        sockets are given; raw and python with --compare. "all" stands for all.

      FIGURES
        OF ECHO and OF LIMIT are the cycles per second by those of echo and of limit
        with as many connections.
        REDIS/CYCLE counts the daemon's Redis commands. CPU is the daemon's
        processor time as the kernel counts it; it and the memory need a daemon
        whose process can be found through its socket, or --daemon-pid. What a
        daemon has used stays with it: measure memory with a fresh one.

      Use a release build of daemon and command on a machine with nothing else to do. The load comes from one \
      thread, which shares the machine with the daemon. On a terminal the figures are tables, in a pipe JSON, in \
      microseconds.

      EXAMPLES
        sidelock bench
        sidelock bench --scenario distinct cold --seconds 10 --connections 1,64
        sidelock bench --scenario contended --clients 32 --hold-ms 5 --pause-ms 0
        sidelock bench --compare --redis-socket /run/redis/redis-server.sock
        sidelock bench --scenario all --other-socket /run/other/sidelock.sock --json
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(
    parsing: .upToNextOption,
    help: ArgumentHelp("What to measure: names from the list above, or all.", valueName: "name"))
  var scenario: [String] = []

  @Option(help: ArgumentHelp("How long each figure is measured.", valueName: "seconds"))
  var seconds: Double = 3

  @Option(help: ArgumentHelp("The numbers of connections, with commas between them.", valueName: "list"))
  var connections = "1,16,64"

  @Option(help: ArgumentHelp("How many names each connection takes in turn in distinct.", valueName: "count"))
  var names = 1

  @Option(help: ArgumentHelp("The number of clients in contended.", valueName: "count"))
  var clients = 8

  @Option(
    name: .customLong("hold-ms"), help: ArgumentHelp("How long each holds the lock in contended.", valueName: "ms"))
  var holdMilliseconds: Double = 1

  @Option(
    name: .customLong("pause-ms"),
    help: ArgumentHelp("How long each waits in contended before it wants the lock again.", valueName: "ms"))
  var pauseMilliseconds: Double = 1

  @Option(help: ArgumentHelp("How often a holder ends in crash and cross-host.", valueName: "count"))
  var kills = 200

  @Option(help: ArgumentHelp("The number of connections in many-clients.", valueName: "count"))
  var idle = 10_000

  @Option(help: ArgumentHelp("The number of locks in many-locks.", valueName: "count"))
  var locks = 100_000

  @Option(
    help: ArgumentHelp(
      "The socket of a second daemon on the same Redis, in the place of another host.", valueName: "path"))
  var otherSocket: String?

  @Option(
    help: ArgumentHelp(
      "The Unix socket of a Redis server, for its round trip and for locks without a daemon.", valueName: "path"))
  var redisSocket: String?

  @Flag(help: "Measure raw and python as well; needs --redis-socket.")
  var compare = false

  @Option(help: ArgumentHelp("The interpreter for python.", valueName: "command"))
  var python = "python3"

  @Option(
    name: .customLong("daemon-pid"),
    help: ArgumentHelp("The daemon's process, where systemd listens for it.", valueName: "pid"))
  var daemonProcess: Int32?

  @Option(name: .customLong("echo-server"), help: .private)
  var echoServer: String?

  @Option(name: .customLong("limit-server"), help: .private)
  var limitServer: String?

  func validate() throws {
    func check(_ value: Double, _ range: ClosedRange<Double>, _ option: String) throws {
      guard range.contains(value) else {
        let limits = [range.lowerBound, range.upperBound].map { Report.fixed($0, digits: $0 < 1 && $0 > 0 ? 2 : 0) }
        throw ValidationError("--\(option) must lie between \(limits[0]) and \(limits[1]).")
      }
    }
    try check(seconds, 0.01...3600, "seconds")
    try check(holdMilliseconds, 0...10_000, "hold-ms")
    try check(pauseMilliseconds, 0...10_000, "pause-ms")
    try check(Double(names), 1...10_000, "names")
    try check(Double(clients), 1...1000, "clients")
    try check(Double(kills), 1...100_000, "kills")
    try check(Double(idle), 1...1_000_000, "idle")
    try check(Double(locks), 1...10_000_000, "locks")
    _ = try connectionCounts()
    _ = try scenarios()
  }

  func connectionCounts() throws -> [Int] {
    try connections.split(separator: ",", omittingEmptySubsequences: false).map { part in
      guard let count = Int(part), (1...1000).contains(count) else {
        throw ValidationError("--connections takes numbers from 1 to 1000 with commas between them.")
      }
      return count
    }
  }

  /// What is to be measured, in the order of the help.
  func scenarios() throws -> [BenchScenario] {
    var wanted: Set<BenchScenario> = []
    if scenario.isEmpty || scenario.contains("all") {
      wanted = Set(BenchScenario.allCases.filter { !$0.isComparison || scenario.contains("all") })
      if scenario.isEmpty { wanted.subtract([.manyClients, .manyLocks]) }
      if otherSocket == nil { wanted.remove(.crossHost) }
      if redisSocket == nil { wanted = wanted.filter { !$0.isOfRedis } }
    }
    if compare { wanted.formUnion(BenchScenario.allCases.filter(\.isComparison)) }
    for name in scenario where name != "all" {
      guard let one = BenchScenario(rawValue: name) else {
        let names = BenchScenario.allCases.map(\.rawValue).joined(separator: ", ")
        throw ValidationError("There is no scenario \(printable(name)). There are: \(names), all.")
      }
      wanted.insert(one)
    }
    if wanted.contains(.crossHost), otherSocket == nil { throw ValidationError("cross-host needs --other-socket.") }
    if redisSocket == nil, let one = BenchScenario.allCases.first(where: { $0.isOfRedis && wanted.contains($0) }) {
      throw ValidationError(compare ? "--compare needs --redis-socket." : "\(one.rawValue) needs --redis-socket.")
    }
    // A ratio needs its yardstick.
    if wanted.contains(where: { $0.isCycle && $0 != .redis }) { wanted.formUnion([.echo, .limit]) }
    return BenchScenario.allCases.filter { wanted.contains($0) }
  }

  func run() throws {
    if let echoServer { return try EchoServer.serve(path: echoServer) }
    if let limitServer { return try LimitServer.serve(path: limitServer) }
    let path = connection.path
    let scenarios = try scenarios()
    let counts = try connectionCounts()
    try connection.reportingErrors {
      // A daemon that hangs shows here, and soon; the measurements have no such limit.
      for daemon in [path] + (otherSocket.map { [$0] } ?? []) { _ = try DaemonConnection(socket: daemon).call("ping") }
      let run = BenchRun(
        socket: path, probe: try DaemonProbe(path: path, process: daemonProcess), command: self, scenarios: scenarios,
        connectionCounts: counts)
      var figures: [Figures] = []
      // What was measured before something failed is shown all the same.
      do throws(SidelockError) {
        try run.measure(into: &figures)
      } catch {
        try show(BenchRun.addingTrips(figures))
        throw error
      }
      try show(BenchRun.addingTrips(figures))
    }
  }

  private func show(_ figures: [Figures]) throws(OutputError) {
    if isatty(STDERR_FILENO) == 1 { try? Descriptor.write("\r\u{1B}[K", to: STDERR_FILENO) }
    guard !figures.isEmpty else { return }
    if output.isForPeople {
      for line in Report.lines(figures) { try Descriptor.print(line) }
    } else {
      try Descriptor.print(Report.json(figures, seconds: seconds).serialized)
    }
  }
}

/// One run of the benchmark.
struct BenchRun {
  let socket: String
  let probe: DaemonProbe
  let command: BenchCommand
  let scenarios: [BenchScenario]
  let connectionCounts: [Int]

  func measure(into figures: inout [Figures]) throws(SidelockError) {
    if let redis = command.redisSocket, scenarios.contains(where: \.isOfRedis) { try Self.checkRedis(redis) }
    let yardsticks = try Yardsticks()
    let cycles = scenarios.filter(\.isCycle)
    if !cycles.isEmpty { figures += try measureCycles(cycles, beside: yardsticks) }
    for scenario in scenarios where !scenario.isCycle { figures += try measure(scenario, beside: yardsticks) }
  }

  private func measureCycles(
    _ cycles: [BenchScenario], beside yardsticks: Yardsticks
  ) throws(SidelockError) -> [Figures] {
    let bench = CycleScenarios(
      daemon: socket, echo: yardsticks.echo, limit: yardsticks.limit, redis: command.redisSocket, names: command.names,
      seconds: command.seconds)
    var figures: [Figures] = []
    for (index, count) in connectionCounts.enumerated() {
      figures += try bench.measure(cycles, connections: count, probe: probe) { done in
        Self.show("\(count) connections", (Double(index) + done) / Double(connectionCounts.count))
      }
    }
    return figures
  }

  private func measure(
    _ scenario: BenchScenario, beside yardsticks: Yardsticks
  ) throws(SidelockError) -> [Figures] {
    func progress(_ done: Double) { Self.show(scenario.rawValue, done) }
    progress(0)
    let deaths = DeathScenarios(socket: socket, otherSocket: command.otherSocket, rounds: command.kills)
    let crowd = CrowdScenarios(socket: socket, seconds: command.seconds, probe: probe)
    switch scenario {
    case .contended:
      let places = [[socket]] + (command.otherSocket.map { [[socket, $0]] } ?? [])
      var contests: [(share: Double, figures: [Figures])] = []
      for sockets in places {
        contests.append(try contended(sockets: sockets))
        progress(Double(contests.count) / Double(places.count + 1))
      }
      let limit = try contest(sockets: [yardsticks.limitOfOne])
      for index in contests.indices where limit.shareHeld > 0 {
        contests[index].figures[0].add(
          "share_of_limit", contests[index].share / limit.shareHeld, digits: 3,
          "share_held by that of the limit server")
      }
      return contests.flatMap(\.figures) + limit.figures(usage: DaemonUsage(), at: "the limit server")
    case .crash: return try deaths.crash(progress: progress)
    case .crossHost: return try deaths.crossHost(progress: progress)
    case .manyClients: return try crowd.manyClients(command.idle, progress: progress)
    case .manyLocks: return try crowd.manyLocks(command.locks, progress: progress)
    case .python:
      let comparison = PythonComparison(
        interpreter: command.python, daemon: socket, redis: command.redisSocket ?? "", seconds: command.seconds)
      return try comparison.measure()
    case .echo, .limit, .redis, .raw, .distinct, .cold, .one: return []
    }
  }

  private func contended(sockets: [String]) throws(SidelockError) -> (share: Double, figures: [Figures]) {
    var probes = [probe]
    for socket in sockets.dropFirst() { probes.append(try DaemonProbe(path: socket, process: nil)) }
    func usage() throws(SidelockError) -> DaemonUsage {
      var sum = DaemonUsage(redisCommands: 0, cpuNanoseconds: 0)
      for probe in probes { sum = sum + (try probe.usage()) }
      return sum
    }
    let early = try usage()
    let contest = try contest(sockets: sockets)
    let figures = contest.figures(usage: try usage() - early, at: sockets.count > 1 ? "two hosts" : nil)
    return (contest.shareHeld, figures)
  }

  private func contest(sockets: [String]) throws(SidelockError) -> ContendedScenario {
    let contest = try ContendedScenario(
      sockets: sockets, clients: command.clients, holdNanoseconds: UInt64(command.holdMilliseconds * 1e6),
      pauseNanoseconds: UInt64(command.pauseMilliseconds * 1e6))
    try contest.run(nanoseconds: UInt64(command.seconds * 1e9))
    return contest
  }

  /// Adds the p50 of one client, divided by the round trips that its cycle takes at least.
  static func addingTrips(_ figures: [Figures]) -> [Figures] {
    func p50(_ figures: Figures?) -> Double? {
      figures?.latencies.map { $0.microseconds(permille: 500) }
    }
    func alone(_ scenario: BenchScenario) -> Double? {
      p50(figures.first { $0.scenario == scenario && $0.clients == 1 })
    }
    // The echo's cycle is two trips.
    guard let echo = alone(.echo).map({ $0 / 2 }), echo > 0 else { return figures }
    let redis = alone(.redis)
    return figures.map { figures in
      var figures = figures
      guard let own = p50(figures) else { return figures }
      switch figures.scenario {
      case .distinct where figures.clients == 1:
        figures.add("echo_trips", own / echo, digits: 2, "p50 of a cycle by one echo round trip")
      case .cold where figures.clients == 1:
        let beyond = redis.map { (own - 1.2 * $0) / echo }
        figures.add(
          "echo_trips_beyond_redis", beyond, digits: 2,
          "p50 of a cycle without 1.2 Redis round trips, by one echo round trip")
      case .crossHost:
        let meaning = "p50 of \(figures.measured) by one Redis and one echo round trip"
        figures.add("trips", redis.map { own / ($0 + echo) }, digits: 2, meaning)
      case .echo, .limit, .redis, .raw, .distinct, .cold, .one, .contended, .crash, .manyClients, .manyLocks, .python:
        break
      }
      return figures
    }
  }

  private static func checkRedis(_ path: String) throws(SidelockError) {
    let descriptor = try UnixSocket.connect(path: SystemText.bytes(path))
    defer { close(descriptor) }
    try? Descriptor.write("PING\r\n", to: descriptor)
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    let hasAnswer = poll(&entry, 1, CInt(DaemonConnection.answerMilliseconds)) > 0
    let answer = hasAnswer ? String(decoding: try Descriptor.read(descriptor) ?? [], as: UTF8.self) : ""
    guard answer == "+PONG\r\n" else {
      throw SidelockError(
        reason: .unavailable, message: "Redis at \(path) does not answer PING with PONG: \(printable(answer))")
    }
  }

  /// The progress line.
  private static func show(_ what: String, _ done: Double) {
    guard isatty(STDERR_FILENO) == 1 else { return }
    try? Descriptor.write("\r\u{1B}[K\(what), \(Int(done * 100)) %", to: STDERR_FILENO)
  }
}
