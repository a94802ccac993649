import SidelockClient
import Testing

@testable import sidelock

struct OutputTests {
  @Test func tablesAreAlignedAndHaveNoSpacesAtTheEnd() {
    var table = Table(headings: ["NAME", "N"], rightAligned: [1])
    table.append(["a", "100"])
    table.append(["long name", "2"])
    #expect(table.lines == ["NAME         N", "a          100", "long name    2"])
  }

  @Test func namesCannotSteerTheTerminal() {
    var table = Table(headings: ["NAME"])
    table.append(["a\u{1B}[31m\u{7}\n\u{202E}é😀"])
    #expect(table.lines.last == "a\\u{1b}[31m\\u{7}\\u{a}\\u{202e}é😀")
  }

  @Test(
    arguments: [
      (0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_999, "59.9 s"), (60_000, "1 min 0 s"),
      (3_600_000, "1 h 0 min"),
      (90_000_000, "1 d 1 h"),
    ] as [(Int64, String)])
  func timesAreReadable(milliseconds: Int64, text: String) {
    #expect(readable(milliseconds: milliseconds) == text)
  }

  @Test func aLockIsShownWithHolderAndWaiters() throws {
    let lock = LockDescription(
      try JSONValue(
        parsing: """
          {"name":"x","mode":"exclusive","holders":[{"host":"h","pid":7,"uid":1000,"command":"sleep 9","token":5,
          "held_ms":61000,"meta":"why"}],"waiting":3,"lease":{"state":"held","valid_ms":9000},
          "waiters":[{"host":"h","pid":8,"command":"cat","waited_ms":12}]}
          """))
    #expect(
      InspectCommand.lines(lock) == [
        "Lock:     x", "State:    exclusive", "Lease:    held, valid for 9.0 s", "Holder:   sleep 9, pid 7 on h",
        "  user    1000", "  token   5", "  held    1 min 1 s", "  note    why", "Waiting:  3 on this host",
        "  cat, pid 8 on h for 12 ms", "  and 2 more",
      ])
    #expect(ListCommand.table([lock]).lines.last?.hasPrefix("x ") == true)
  }

  @Test func aLockWithoutHolderIsFreeAndAForeignHolderIsNamedSo() throws {
    let idle = LockDescription(
      try JSONValue(parsing: #"{"name":"x","mode":null,"holders":[],"waiting":0,"lease":{"state":"idle"}}"#))
    #expect(InspectCommand.lines(idle) == ["Lock:     x", "State:    free", "Lease:    idle", "Waiting:  0"])
    let foreign = LockDescription(try JSONValue(parsing: #"{"name":"x","holders":[{"foreign":true}]}"#))
    #expect(foreign.holders.first?.summary == "not a sidelock client")
    let remote = LockDescription(try JSONValue(parsing: #"{"name":"x","holders":[{"host":"far"}]}"#))
    #expect(remote.holders.first?.summary == "far")
  }

  @Test func statisticsAreFlattened() throws {
    let stats = StatsCommand.flatten(try JSONValue(parsing: #"{"a":1,"b":{"c":"up","d":{"e":2}}}"#), path: "")
    #expect(stats.map(\.0) == ["a", "b.c", "b.d.e"])
    #expect(stats.map(\.1) == ["1", "up", "2"])
  }
}

struct BenchTests {
  @Test func percentilesAreExact() {
    let result = Benchmark.Result(
      connections: 1, scenario: .one, cycleNanoseconds: (1...1000).map { $0 * 1000 }, cyclesPerSecond: 1, ratio: 1)
    #expect(Benchmark.permilles.map { result.microseconds(permille: $0.1) } == [500, 900, 990, 999, 1000])
    let empty = Benchmark.Result(
      connections: 1, scenario: .one, cycleNanoseconds: [], cyclesPerSecond: 0, ratio: 0)
    #expect(empty.microseconds(permille: 500) == 0)
  }

  @Test func numbersHaveFixedDigits() {
    #expect(Benchmark.fixed(0.056, digits: 2) == "0.06")
    #expect(Benchmark.fixed(12.0, digits: 1) == "12.0")
    #expect(Benchmark.fixed(3.05, digits: 2) == "3.05")
  }

  @Test func scenariosDifferInTheirNames() throws {
    let bench = Benchmark(daemon: "", echo: "", names: 3, seconds: 1)
    func names(_ scenario: Benchmark.Scenario, _ connection: Int) throws -> [String?] {
      try bench.script(scenario, connection: connection).lines.map {
        try JSONValue(parsing: $0)["params"]?["name"]?.stringValue
      }
    }
    #expect(try names(.one, 0) == names(.one, 1))
    #expect(try names(.one, 0).count == 2)
    #expect(try names(.distinct, 0).count == 6)
    #expect(Set(try names(.distinct, 0)).isDisjoint(with: Set(try names(.distinct, 1))))
  }

  @Test(arguments: ["", "0", "1,,2", "x", "1001", "1;2"])
  func numbersOfConnectionsAreChecked(text: String) {
    #expect(throws: (any Error).self) { try Sidelock.parseAsRoot(["bench", "--connections", text]) }
  }
}
