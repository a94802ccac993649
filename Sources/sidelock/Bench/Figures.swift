import SidelockClient

/// Times of one kind.
struct Latencies {
  /// In nanoseconds, in ascending order.
  private let sorted: [UInt32]

  init(_ nanoseconds: [UInt32] = []) {
    sorted = nanoseconds.sorted()
  }

  var count: Int { sorted.count }

  /// The time within which `permille` of them ended, in microseconds.
  func microseconds(permille: Int) -> Double {
    guard !sorted.isEmpty else { return 0 }
    let rank = (sorted.count * permille + 999) / 1000
    return Double(sorted[max(0, rank - 1)]) / 1000
  }

  static let permilles: [(String, Int)] = [("p50", 500), ("p90", 900), ("p99", 990), ("p99_9", 999), ("max", 1000)]

  var json: JSONValue {
    var object = JSONObject()
    for (name, permille) in Self.permilles { object.append(name, .double(microseconds(permille: permille))) }
    return .object(object)
  }
}

/// What one measurement found.
struct Figures {
  /// A single number, with its unit last in its name.
  struct Single {
    var name: String
    var value: Double
    /// How many digits behind the point are shown.
    var digits: Int
    /// What it means, for people.
    var meaning: String
  }

  var scenario: BenchScenario
  /// How many clients took part.
  var clients: Int
  /// What `latencies` are times of.
  var measured: String
  var latencies: Latencies?
  var perSecond: Double?
  /// `perSecond` by that of the echo server with as many clients.
  var ratioToEcho: Double?
  /// `perSecond` by that of the limit server with as many clients.
  var ratioToLimit: Double?
  var redisCommandsPerCycle: Double?
  /// The daemon's processor time for a request.
  var cpuMicrosecondsPerRequest: Double?
  var singles: [Single] = []

  /// Takes over what the daemon did meanwhile, in so many cycles.
  mutating func take(_ usage: DaemonUsage, cycles: Int) {
    if let commands = usage.redisCommands, cycles > 0 { redisCommandsPerCycle = Double(commands) / Double(cycles) }
    if let cpu = usage.cpuNanoseconds, usage.requests > 0 {
      cpuMicrosecondsPerRequest = Double(cpu) / Double(usage.requests) / 1000
    }
  }

  mutating func add(_ name: String, _ value: Double?, digits: Int = 1, _ meaning: String) {
    guard let value else { return }
    singles.append(Single(name: name, value: value, digits: digits, meaning: meaning))
  }
}

/// How figures are shown.
enum Report {
  /// Two tables: what has percentiles, and the single numbers.
  static func lines(_ figures: [Figures]) -> [String] {
    var times = Table(
      headings: [
        "SCENARIO", "TIME OF", "CLIENTS", "COUNT", "PER S", "OF ECHO", "OF LIMIT", "P50 µs", "P90 µs", "P99 µs",
        "P99.9 µs", "MAX µs", "REDIS/CYCLE", "CPU µs/REQUEST",
      ], rightAligned: Set(2...13))
    var singles = Table(headings: ["SCENARIO", "FIGURE", "VALUE", "MEANING"], rightAligned: [2])
    var haveTimes = false
    var haveSingles = false
    for figure in figures {
      if let latencies = figure.latencies {
        haveTimes = true
        times.append(
          [
            figure.scenario.rawValue, figure.measured, "\(figure.clients)", "\(latencies.count)",
            text(figure.perSecond, digits: 0), text(figure.ratioToEcho, digits: 2),
            text(figure.ratioToLimit, digits: 2),
          ] + Latencies.permilles.map { fixed(latencies.microseconds(permille: $0.1), digits: 1) } + [
            text(figure.redisCommandsPerCycle, digits: 2), text(figure.cpuMicrosecondsPerRequest, digits: 1),
          ])
      }
      for single in figure.singles {
        haveSingles = true
        let value = fixed(single.value, digits: single.digits)
        singles.append([figure.scenario.rawValue, single.name, value, single.meaning])
      }
    }
    return (haveTimes ? times.lines : []) + (haveTimes && haveSingles ? [""] : []) + (haveSingles ? singles.lines : [])
  }

  static func json(_ figures: [Figures], seconds: Double) -> JSONValue {
    let list = figures.map { figure -> JSONValue in
      var object = JSONObject()
      object.append("scenario", .string(figure.scenario.rawValue))
      object.append("connections", .int(Int64(figure.clients)))
      object.append("measured", .string(figure.measured))
      if let latencies = figure.latencies {
        object.append("count", .int(Int64(latencies.count)))
        object.append("microseconds", latencies.json)
      }
      if let value = figure.perSecond { object.append("per_second", .double(value)) }
      if let value = figure.ratioToEcho { object.append("ratio_to_echo", .double(value)) }
      if let value = figure.ratioToLimit { object.append("ratio_to_limit", .double(value)) }
      if let value = figure.redisCommandsPerCycle { object.append("redis_commands_per_cycle", .double(value)) }
      if let value = figure.cpuMicrosecondsPerRequest {
        object.append("daemon_cpu_microseconds_per_request", .double(value))
      }
      for single in figure.singles { object.append(single.name, .double(single.value)) }
      return .object(object)
    }
    return ["seconds": .double(seconds), "results": .array(list)]
  }

  private static func text(_ value: Double?, digits: Int) -> String {
    value.map { fixed($0, digits: digits) } ?? "-"
  }

  /// A number with so many digits behind the point.
  static func fixed(_ value: Double, digits: Int) -> String {
    let scale = (0..<digits).reduce(1) { scale, _ in scale * 10 }
    let scaled = Int64((value.magnitude * Double(scale)).rounded())
    let sign = value < 0 && scaled > 0 ? "-" : ""
    guard digits > 0 else { return "\(sign)\(scaled)" }
    let fraction = String(scaled % Int64(scale))
    return "\(sign)\(scaled / Int64(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
  }
}
