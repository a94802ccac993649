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

  @Test func tablesKeepToTheWidthOfATerminal() {
    var table = Table(headings: ["NAME", "N", "WHO"], rightAligned: [1])
    table.append([String(repeating: "n", count: 50), "1234567890123456", String(repeating: "w", count: 40)])
    table.append(["é", "1", "w"])
    let lines = table.lines(within: 80)
    #expect(lines.map(\.count).max() == 80)
    #expect(
      lines[1] == String(repeating: "n", count: 29) + "…  1234567890123456  " + String(repeating: "w", count: 29) + "…")
    // Numbers are whole, and so are headings.
    #expect(table.lines(within: 10)[1] == "nnn…  1234567890123456  www…")
    #expect(table.lines(within: 200) == table.lines)
  }

  @Test func wideCharactersTakeTwoColumns() {
    #expect(columns(of: "é漢😀") == 5 && beginning(of: "é漢😀", columns: 4) == "é漢")
    var table = Table(headings: ["NAME", "N"], rightAligned: [1])
    table.append([String(repeating: "漢", count: 20), "1"])
    table.append(["a", "2"])
    #expect(table.lines(within: 11) == ["NAME      N", "漢漢漢…   1", "a         2"])
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
          {"name":"x","mode":"exclusive","holders":[{"host":"h","pid":7,"uid":4294967294,"command":"sleep 9","token":5,
          "held_ms":61000,"meta":"why"}],"waiting":3,"lease":{"state":"held","valid_ms":9000},
          "waiters":[{"host":"h","pid":8,"command":"cat","waited_ms":12}]}
          """))
    #expect(
      InspectCommand.lines(lock) == [
        "Lock:     x", "State:    exclusive", "Lease:    held, valid for 9.0 s", "Holder:   sleep 9, pid 7 on h",
        "  user    4294967294", "  token   5", "  held    1 min 1 s", "  note    why", "Waiting:  3 on this host",
        "  cat, pid 8 on h for 12 ms", "  and 2 more",
      ])
    #expect(ListCommand.table([lock]).lines.last?.hasPrefix("x ") == true)
  }

  @Test func readersAndPermitsAreShownEachInALineOfTheirOwn() throws {
    let lock = LockDescription(
      try JSONValue(
        parsing: """
          {"name":"x","mode":"permit","permits":4,"holding":3,"holders":[
          {"host":"h","pid":7,"command":"a","unit":"a.service","mode":"permit","permits":4,"owner":"t1","count":2,"token":5,
          "held_ms":1},{"host":"far"}],"waiting":1,"lease":{"state":"held"},
          "waiters":[{"host":"h","pid":8,"command":"cat","mode":"shared","owner":"t2","waited_ms":12}]}
          """))
    #expect(
      InspectCommand.lines(lock) == [
        "Lock:     x", "State:    4 permits", "Lease:    held", "Holder:   a, pid 7 on h", "  unit    a.service",
        "  owner   t1, 2 times", "  token   5", "  held    1 ms", "Holder:   far", "  and 1 more",
        "Waiting:  1 on this host", "  cat, pid 8 on h, owner t2, shared for 12 ms",
      ])
    let lines = ListCommand.table([lock]).lines
    #expect(
      lines.map { $0.split(separator: "  ").map { $0.trimmingPrefix(" ") } } == [
        ["NAME", "MODE", "HOLDER", "USER", "UNIT", "HELD", "WAITING", "LEASE"],
        ["x", "4 permits", "a, pid 7 on h", "-", "a.service", "1 ms", "1", "held"],
        ["far", "-", "-", "-"],
      ])
  }

  @Test func eventsAreLinesForPeopleAndObjectsForPrograms() throws {
    let events: [(String, String, String, String)] = [
      (
        "event", #"{"watch":1,"kind":"acquired","name":"x","session":"7","token":5,"mode":"permit","permits":2}"#,
        "acquired  x  session 7, a permit of 2, token 5",
        #"{"kind":"acquired","name":"x","session":"7","token":5,"mode":"permit","permits":2}"#
      ),
      (
        "event",
        #"{"watch":1,"kind":"waiting","name":"x","session":"7","waiters":1,"pid":4711,"uid":4294967294,"command":"sidelock","client":"sidelock run dump 0.1.0","host":"h"}"#,
        "waiting   x  4711 (dump, user 4294967294), session 7, 1 waiting",
        #"{"kind":"waiting","name":"x","session":"7","waiters":1,"pid":4711,"uid":4294967294,"command":"sidelock","client":"sidelock run dump 0.1.0","host":"h"}"#
      ),
      (
        "event", #"{"watch":1,"kind":"lost","name":"x","session":"7","token":5,"reason":"broken"}"#,
        "lost      x  session 7, token 5, broken",
        #"{"kind":"lost","name":"x","session":"7","token":5,"reason":"broken"}"#
      ),
      (
        "event", #"{"watch":1,"kind":"gave_up","name":"x","session":"7","waiters":0}"#,
        "gave_up   x  session 7, 0 waiting", #"{"kind":"gave_up","name":"x","session":"7","waiters":0}"#
      ),
      (
        "event", #"{"watch":1,"kind":"remote","name":"x","host":"h"}"#, "remote    x  host h",
        #"{"kind":"remote","name":"x","host":"h"}"#
      ),
      (
        "backend", #"{"state":"disconnected"}"#, "Redis cannot be reached",
        #"{"kind":"backend","state":"disconnected"}"#
      ),
      (
        "backend", #"{"state":"recovering","retry_ms":10000}"#,
        "Redis has other data than before: nothing new is granted for a while",
        #"{"kind":"backend","state":"recovering","retry_ms":10000}"#
      ),
      ("draining", "{}", "the daemon is about to stop", #"{"kind":"draining"}"#),
    ]
    for (method, text, line, json) in events {
      let params = try JSONValue(parsing: text)
      let (event, _) = try #require(WatchEvent.event(method: method, params: params))
      let isRemote = params["kind"]?.stringValue == "remote"
      #expect(ShownEvents.line(event, of: ShownEvents.who(params), withHost: isRemote) == line)
      #expect(ShownEvents.json(event, params, time: "T") == #"{"time":"T","# + json.dropFirst())
    }
  }

  @Test(arguments: [
    (0, 0, "1970-01-01T00:00:00.000Z"), (1_796_000_461, 7, "2026-11-30T01:01:01.007Z"),
    (951_782_400, 999, "2000-02-29T00:00:00.999Z"),
  ])
  func momentsAreWrittenAsRFC3339Does(seconds: Int, milliseconds: Int, text: String) {
    #expect(ShownEvents.timestamp(seconds: seconds, milliseconds: milliseconds) == text)
  }

  @Test(
    arguments: [
      ([], .prefix("")), (["a"], .name("a")), (["a*"], .prefix("a")), (["*"], .prefix("")),
      // It makes one character with what stands before it.
      (["\u{600}*"], .prefix("\u{600}")),
      (["--exact", "a*"], .name("a*")),
      (["--all"], .prefix("")), (["--all", "a"], .prefix("a")), (["--all", "a*"], .prefix("a")),
      (["--all", "--exact", "a"], .name("a")),
    ] as [([String], WatchTarget)])
  func aStarAtTheEndWatchesAllThatBeginSo(arguments: [String], target: WatchTarget) throws {
    #expect(try WatchCommand.parse(arguments).target == target)
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

  @Test func whatAClientSaysOfItselfStandsInForItsCommand() throws {
    func summary(_ members: String) throws -> String? {
      LockDescription(try JSONValue(parsing: #"{"name":"x","holders":[{"host":"db1","pid":7,\#(members)}]}"#))
        .holders.first?.summary
    }
    #expect(try summary(#""client":"sidelock run sleep 0.1.0""#) == "sleep, pid 7 on db1")
    #expect(try summary(#""client":"worker 2""#) == "worker 2, pid 7 on db1")
    #expect(try summary(#""client":"worker 2","command":"python3 x""#) == "python3 x, pid 7 on db1")
    #expect(try summary(#""client":"""#) == "pid 7 on db1")
  }

  @Test func statisticsAreFlattened() throws {
    let stats = StatsCommand.flatten(try JSONValue(parsing: #"{"a":1,"b":{"c":"up","d":{"e":2}}}"#), path: "")
    #expect(stats.map(\.0) == ["a", "b.c", "b.d.e"])
    #expect(stats.map(\.1) == ["1", "up", "2"])
  }

  @Test func aHistogramIsToldInAFewWords() throws {
    func words(_ text: String) throws -> String? { StatsHistogram(try JSONValue(parsing: text))?.words }
    #expect(try words(#"{"30":0,"100":3,"3000":1,"more":0,"sum":400}"#) == "4: half ≤ 100 µs, 99 % ≤ 3 ms")
    #expect(try words(#"{"30":1,"100":0,"more":9,"sum":400}"#) == "10: half > 100 µs, 99 % > 100 µs")
    #expect(try words(#"{"30":0,"more":0,"sum":0}"#) == "none")
    #expect(try words(#"{"total":3,"sum":0}"#) == nil)
    let stats = StatsCommand.flatten(try JSONValue(parsing: #"{"a":{"by":{"30":2,"more":0,"sum":1}}}"#), path: "")
    #expect(stats.map(\.0) == ["a.by"] && stats.map(\.1) == ["2: half ≤ 30 µs, 99 % ≤ 30 µs"])
  }
}
