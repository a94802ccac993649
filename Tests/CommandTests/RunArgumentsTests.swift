import ArgumentParser
import SidelockClient
import SystemStrings
import Testing

@testable import sidelock

struct RunArgumentsTests {
  func parse(_ arguments: String...) throws -> RunCommand {
    try #require(try Sidelock.parseAsRoot(["run"] + arguments) as? RunCommand)
  }

  /// What is asked for at first, with the time to wait.
  func wish(_ command: RunCommand) throws -> JSONValue {
    var params = try command.acquireParams()
    if let wait = try command.supervisorOptions().waitMilliseconds { params.append("wait_ms", .int(wait)) }
    return .object(params)
  }

  @Test func everythingBehindTheTerminatorIsTheCommand() throws {
    let command = try parse("-n", "x", "--", "ls", "-l", "--", "--help")
    #expect(command.name == "x")
    #expect(command.arguments == ["ls", "-l", "--", "--help"])
    #expect(try wish(command) == ["name": "x", "wait_ms": 0])
  }

  @Test func optionsMayFollowTheName() throws {
    let command = try parse("x", "-w", "2.5", "-E", "75", "-v", "--", "true")
    #expect(command.wish.conflictExitCode == 75)
    #expect(command.wish.loudness == .verbose)
    #expect(try wish(command) == ["name": "x", "progress": true, "wait_ms": 2500])
  }

  @Test func theOptionsOfFlockAreTaken() throws {
    let command = try parse("-x", "--timeout", "0.0001", "x", "-c", "echo a && echo b")
    #expect(command.arguments == ["/bin/sh", "-c", "echo a && echo b"])
    // Rounded up: a short wait is not a try.
    #expect(try wish(command) == ["name": "x", "progress": true, "wait_ms": 1])
    #expect(try wish(parse("-w", "0", "x", "--", "true")) == ["name": "x", "wait_ms": 0])
    #expect(try parse("-e", "--nb", "x", "--", "true").wish.nonblock)
    #expect(try wish(parse("x", "--", "true")) == ["name": "x", "progress": true])
  }

  @Test func timesMayHaveUnits() throws {
    #expect(try wish(parse("-w", "500ms", "x", "--", "true")) == ["name": "x", "progress": true, "wait_ms": 500])
    let command = try parse("-w", "2m", "--max-hold", "1h", "--term-grace", "1500ms", "x", "--", "true")
    let options = try command.supervisorOptions()
    #expect(options.waitMilliseconds == 120_000 && options.maxHoldMilliseconds == 3_600_000)
    #expect(options.termGraceMilliseconds == 1500)
  }

  @Test func namesAndTextsMayBeginWithADash() throws {
    let command = try parse("--name", "-x", "--and", "-y", "--meta", "-m", "--owner", "-o", "-n", "--", "true")
    #expect(command.name == "-x")
    #expect(try wish(command) == ["names": ["-x", "-y"], "meta": "-m", "owner": "-o", "wait_ms": 0])
  }

  @Test func holdTakesTheOptionsOfALock() throws {
    let command = try #require(
      try Sidelock.parseAsRoot(["hold", "-s", "-w", "2s", "--pid", "7", "--name", "-x"]) as? HoldCommand)
    #expect(command.process == 7 && command.wish.waitMilliseconds == 2000)
    let params = JSONValue.object(command.wish.acquireParams(nil, backstop: 5))
    #expect(params == ["name": "-x", "mode": "shared", "max_hold_ms": 5, "progress": true])
  }

  @Test func whatTheDaemonIsToKnowIsPassedOn() throws {
    let command = try parse("--max-hold", "60", "--meta", "why", "x", "--", "true")
    #expect(try wish(command) == ["name": "x", "max_hold_ms": 71_000, "meta": "why", "progress": true])
    // The daemon takes the lock away when the command must have ended: the grace and a second later.
    let short = try parse("--max-hold", "60", "--term-grace", "0.5", "x", "--", "true")
    #expect(try wish(short) == ["name": "x", "max_hold_ms": 61_500, "progress": true])
  }

  @Test(arguments: [
    ["x"], ["x", "--"], ["x", "ls"], ["--", "ls"], ["", "--", "ls"], ["x", "-c", "a", "--", "b"],
    ["-n", "-w", "1", "x", "--", "ls"], ["-w", "-1", "x", "--", "ls"], ["-w", "nan", "x", "--", "ls"],
    ["-w", "inf", "x", "--", "ls"], ["-w", "1e30", "x", "--", "ls"], ["-E", "256", "x", "--", "ls"],
    ["-E", "-1", "x", "--", "ls"], ["--max-hold", "0", "x", "--", "ls"], ["--max-hold", "31536000", "x", "--", "ls"],
    ["--term-grace", "-2", "x", "--", "ls"],
    ["-w", "10x", "x", "--", "ls"], ["-q", "-v", "x", "--", "ls"], ["--owner", "", "x", "--", "ls"],
    ["--name", "x", "y", "--", "ls"], ["--name", "", "--", "ls"], ["--on-lost", "ignore", "x", "--", "ls"],
    ["--meta", String(repeating: "m", count: 1025), "x", "--", "ls"], ["-s", "-e", "x", "--", "ls"],
    [String(repeating: "n", count: 513), "--", "ls"],
  ])
  func wrongUsageIsRefused(arguments: [String]) {
    let error = #expect(throws: (any Error).self) { try Sidelock.parseAsRoot(["run"] + arguments) }
    if let error { #expect(Sidelock.exitCode(for: error).rawValue == ExitStatus.usage) }
  }

  @Test(arguments: [
    ["caf\u{10FFE9}", "--", "ls"], ["x", "--and", "caf\u{10FFE9}", "--", "ls"],
    ["--meta", "caf\u{10FFE9}", "x", "--", "ls"],
  ])
  func namesAndNotesThatAreNoTextAreRefused(arguments: [String]) {
    let error = #expect(throws: (any Error).self) { try Sidelock.parseAsRoot(["run"] + arguments) }
    if let error { #expect(Sidelock.exitCode(for: error).rawValue == ExitStatus.usage) }
  }

  @Test func aNameWithTheCharactersThatStandForBytesIsItself() throws {
    let command = try parse(SystemText.text(Array("a\u{10FF41}".utf8)), "--", "ls")
    #expect(command.name == "a\u{10FF41}")
  }

  @Test func theSocketMayBeNamedBeforeTheSubcommand() {
    #expect(Sidelock.movingSocketOption(["--socket", "/s", "list", "-a"]) == ["list", "--socket", "/s", "-a"])
    #expect(Sidelock.movingSocketOption(["--socket=/s", "list"]) == ["list", "--socket=/s"])
    #expect(Sidelock.movingSocketOption(["list", "--socket", "/s"]) == ["list", "--socket", "/s"])
    #expect(Sidelock.movingSocketOption(["--socket"]) == ["--socket"])
    #expect(Sidelock.movingSocketOption([]) == [])
  }

  @Test func theLimitsThemselvesAreAllowed() throws {
    #expect(throws: Never.self) {
      try parse(
        "-E", "255", "-w", "31536000", "--meta", String(repeating: "m", count: 1024),
        String(repeating: "n", count: 512), "--", "ls")
    }
  }

  @Test func theHelpNamesTheExitStatusesAndGivesExamples() {
    let help = Sidelock.helpMessage(for: RunCommand.self)
    for word in ["EXIT STATUS", "125", "126", "127", "69", "EXAMPLES", "--nonblock", "SIDELOCK_TOKEN"] {
      #expect(help.contains(word), "\(word)")
    }
  }

  @Test(
    arguments: [
      (["a", "--", "true"], #"{"name":"a","progress":true}"#),
      (["-s", "a", "--", "true"], #"{"name":"a","mode":"shared","progress":true}"#),
      (["--permits", "3", "a", "--", "true"], #"{"name":"a","permits":3,"progress":true}"#),
      (["a", "--and", "c", "--and", "b", "-n", "--", "true"], #"{"names":["a","c","b"],"wait_ms":0}"#),
      (["-x", "a", "--", "true"], #"{"name":"a","progress":true}"#),
    ] as [([String], String)])
  func aModeAndMoreNamesAreAskedFor(arguments: [String], params: String) throws {
    #expect(try wish(RunCommand.parse(arguments)).serialized == params)
  }

  @Test(arguments: [
    ["-s", "-x", "a", "--", "true"], ["-s", "--permits", "2", "a", "--", "true"],
    ["--permits", "0", "a", "--", "true"],
    ["--permits", "1000001", "a", "--", "true"], ["a", "--and", "a", "--", "true"], ["a", "--and", "", "--", "true"],
  ])
  func modesThatContradictAndNamesTwiceAreRefused(arguments: [String]) {
    #expect(throws: (any Error).self) { try RunCommand.parse(arguments) }
  }
}
