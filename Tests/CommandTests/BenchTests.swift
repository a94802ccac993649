import ArgumentParser
import SidelockClient
import Testing

@testable import sidelock

struct BenchTests {
  func parse(_ arguments: String...) throws -> BenchCommand {
    try #require(try Sidelock.parseAsRoot(["bench"] + arguments) as? BenchCommand)
  }

  @Test func percentilesAreExact() {
    let latencies = Latencies((1...1000).reversed().map { $0 * 1000 })
    #expect(Latencies.permilles.map { latencies.microseconds(permille: $0.1) } == [500, 900, 990, 999, 1000])
    #expect(Latencies().microseconds(permille: 500) == 0)
  }

  @Test func numbersHaveFixedDigits() {
    #expect(Report.fixed(0.056, digits: 2) == "0.06")
    #expect(Report.fixed(12.0, digits: 1) == "12.0")
    #expect(Report.fixed(3.05, digits: 2) == "3.05")
    #expect(Report.fixed(-0.5, digits: 1) == "-0.5")
    #expect(Report.fixed(-0.01, digits: 1) == "0.0")
    #expect(Report.fixed(1234.5, digits: 0) == "1235")
  }

  @Test func scenariosDifferInTheirNames() throws {
    let bench = CycleScenarios(daemon: "", echo: "", limit: "", redis: nil, names: 3, seconds: 1)
    func names(_ scenario: BenchScenario, _ connection: Int) throws -> [String?] {
      try bench.script(scenario, connection: connection).lines.map {
        try JSONValue(parsing: $0)["params"]?["name"]?.stringValue
      }
    }
    #expect(try names(.one, 0) == names(.one, 1))
    #expect(try names(.one, 0).count == 2)
    #expect(try names(.distinct, 0).count == 6)
    #expect(Set(try names(.distinct, 0)).isDisjoint(with: Set(try names(.distinct, 1))))
    #expect(Set(try names(.cold, 0)).count == 1)
    #expect(try names(.cold, 0) != names(.cold, 1))
  }

  @Test func theDigitsOfAColdNameAreWhereTheyAreCounted() throws {
    let script = CycleScenarios(daemon: "", echo: "", limit: "", redis: nil, names: 1, seconds: 1).script(
      .cold, connection: 7)
    #expect(script.counterOffsets.count == script.lines.count)
    for (line, offset) in zip(script.lines, script.counterOffsets) {
      let digits = line[offset..<offset + LoadGenerator.Script.counterDigits]
      #expect(digits.allSatisfy { $0 == UInt8(ascii: "0") })
      #expect(line[offset + LoadGenerator.Script.counterDigits] == UInt8(ascii: "\""))
    }
  }

  @Test(
    arguments: [
      (#"{"id":1,"result":{}}"#, true), (#""result""#, true), (#"{"id":1,"error":{}}"#, false), (#"{"resul"#, false),
      ("", false),
    ])
  func resultsAreFound(line: String, isResult: Bool) {
    #expect(Array(line.utf8).withUnsafeBytes(BenchLine.isResult) == isResult)
  }

  @Test func usageIsKnownOnlyWhereBothSidesAre() {
    let early = DaemonUsage(requests: 1, redisCommands: nil, cpuNanoseconds: 5)
    let late = DaemonUsage(requests: 11, redisCommands: 3, cpuNanoseconds: 25)
    let usage = late - early
    #expect(usage.requests == 10)
    #expect(usage.redisCommands == nil)
    var figures = Figures(scenario: .distinct, clients: 1, measured: "cycle")
    figures.take(usage, cycles: 5)
    #expect(figures.redisCommandsPerCycle == nil)
    #expect(figures.cpuMicrosecondsPerRequest == 0.002)
  }

  @Test func bothTablesAndTheDocumentHoldEveryFigure() throws {
    var figures = Figures(
      scenario: .distinct, clients: 4, measured: "cycle", latencies: Latencies([1000, 2000, 3000]), perSecond: 10)
    figures.add("share_held", 0.5, digits: 2, "what it means")
    figures.add("absent", nil, "not there")
    let lines = Report.lines([figures])
    #expect(lines.count == 5)
    #expect(lines[1].hasPrefix("distinct  cycle"))
    #expect(lines[4] == "distinct  share_held   0.50  what it means")
    let result = try #require(Report.json([figures], seconds: 1)["results"]?.arrayValue?.first)
    #expect(result["scenario"] == "distinct")
    #expect(result["count"] == 3)
    #expect(result["microseconds"]?["p50"] == .double(2))
    #expect(result["share_held"] == .double(0.5))
    #expect(result["ratio_to_echo"] == nil)
  }

  @Test func timesAreComparedWithTheTripsThatTheyTakeAtLeast() {
    func one(_ scenario: BenchScenario, _ microseconds: UInt32) -> Figures {
      Figures(scenario: scenario, clients: 1, measured: "x", latencies: Latencies([microseconds * 1000]))
    }
    let figures = BenchRun.addingTrips([
      one(.echo, 20), one(.redis, 30), one(.distinct, 25), one(.cold, 66), one(.crossHost, 60),
    ])
    #expect(figures.flatMap(\.singles).map(\.name) == ["echo_trips", "echo_trips_beyond_redis", "trips"])
    #expect(figures.flatMap(\.singles).map(\.value) == [2.5, 3, 1.5])
    #expect(BenchRun.addingTrips([one(.distinct, 25)]).flatMap(\.singles).isEmpty)
    #expect(BenchRun.addingTrips([one(.echo, 20), one(.crossHost, 60)]).flatMap(\.singles).isEmpty)
  }

  @Test func scenariosAreChosenByNameAndByWhatIsGiven() throws {
    #expect(try parse().scenarios() == [.echo, .limit, .distinct, .cold, .one, .contended, .crash])
    #expect(try parse("--scenario", "cold", "contended", "--json").scenarios() == [.echo, .limit, .cold, .contended])
    #expect(try parse("--scenario", "crash").scenarios() == [.crash])
    let both = ["--other-socket", "/o", "--redis-socket", "/r"]
    #expect(try parse("--scenario", "all", both[0], both[1], both[2], both[3]).scenarios() == BenchScenario.allCases)
    #expect(try parse("--scenario", "all").scenarios().contains(.manyLocks))
    #expect(
      try parse("--compare", "--scenario", "crash", "--redis-socket", "/r").scenarios()
        == [.echo, .limit, .raw, .crash, .python])
  }

  @Test(arguments: [
    ["--compare"], ["--scenario", "python"], ["--scenario", "raw"], ["--scenario", "nothing"],
    ["--scenario", "cross-host"], ["--scenario", "redis"], ["--clients", "0"],
    ["--hold-ms", "-1"], ["--seconds", "0"], ["--seconds", "nan"], ["--kills", "0"], ["--idle", "0"],
    ["--locks", "0"], ["--connections", ""], ["--connections", "0"], ["--connections", "1,,2"],
    ["--connections", "x"], ["--connections", "1001"], ["--connections", "1;2"],
  ])
  func wrongUsageIsRefused(arguments: [String]) {
    #expect(throws: (any Error).self) { try Sidelock.parseAsRoot(["bench"] + arguments) }
  }
}
