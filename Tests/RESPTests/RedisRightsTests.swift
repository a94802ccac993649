import Testing

@testable import RESP

@Suite struct RedisRightsTests {
  @Test func digestIsTheOneOfRedis() {
    #expect(text(SHA1.hexDigits(of: [])) == "da39a3ee5e6b4b0d3255bfef95601890afd80709")
    #expect(text(SHA1.hexDigits(of: bytes("return 1"))) == Server.firstDigest)
    #expect(text(SHA1.hexDigits(of: bytes("return 2"))) == "7f923f79fe76194c868d7e1d0820de36700eb649")
    let long = [
      (55, "c1c8bbdc22796e28c0e15163d20899b65621d65a"), (56, "c2db330f6083854c99d4b5bfb6e8f29f201be699"),
      (64, "0098ba824b5c16427bd7a1122a5a442a25ec644d"), (1000, "291e9a6c66994949b57ba5e650361e98fc36b1ba"),
    ]
    for (count, digest) in long { #expect(text(SHA1.hexDigits(of: Array(repeating: 0x61, count: count))) == digest) }
  }

  static let refusals: [(String, RedisRights.Refusal)] = [
    // Redis 6.2, 7.0, and 7.2 and later, within scripts.
    ("@user_script: 3: The user executing the script can't run this command or subcommand", .command),
    ("ERR The user executing the script can't run this command or subcommand script: 1b, on @user_script:3.", .command),
    ("ERR ACL failure in script: User locks has no permissions to run the 'publish' command", .command),
    ("The user executing the script can't access at least one of the keys mentioned in the command arguments", .key),
    ("ERR ACL failure in script: No permissions to access a key", .key),
    ("ERR ACL failure in script: User locks has no permissions to access the 'x' key", .key),
    ("ERR The user executing the script can't publish to the channel mentioned in the command", .channel),
    ("ERR ACL failure in script: No permissions to access a channel", .channel),
    // Outside.
    ("NOPERM this user has no permissions to run the 'subscribe' command", .command),
    ("NOPERM this user has no permissions to access one of the keys used as arguments", .key),
    ("NOPERM No permissions to access a key", .key),
    ("NOPERM this user has no permissions to access one of the channels used as arguments", .channel),
    ("NOPERM No permissions to access a channel", .channel),
    ("ERR Unknown Redis command called from script script: 1b, on @user_script:3.", .unknown),
    ("ERR unknown command 'LPOS'", .unknown),
    ("ERR syntax error", .unknown),
    ("OOM command not allowed when used memory > 'maxmemory'.", .none),
    ("MISCONF Redis is configured to save RDB snapshots", .none),
    ("READONLY You can't write against a read only replica.", .none),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", .none),
    ("", .none),
  ]

  @Test(arguments: refusals)
  func refusalsAreKnownByTheWordsOfEveryVersion(row: (error: String, refusal: RedisRights.Refusal)) {
    #expect(RedisRights.refusal(in: bytes(row.error)) == row.refusal)
  }

  @Test func patternsTakeAPrefixAsItIs() {
    #expect(
      RedisRights.testing(keyPrefix: "a*[b]?\\").rules
        .hasPrefix("~a\\*\\[b\\]\\?\\\\* resetchannels &a\\*\\[b\\]\\?\\\\* +"))
  }
}

@Suite struct RedisProbeTests {
  private let rights = RedisRights.testing(keyPrefix: "p:")
  private let probe = RedisProbe(
    script: bytes("return {}"), key: bytes("p:{}probe:h/1"), channel: bytes("p:inbox:-/0"),
    rights: .testing(keyPrefix: "p:"))

  private func connected() -> RedisConnection {
    var configuration = RedisConnectionConfiguration.testing(username: "u", password: "pw-secret")
    configuration.probe = probe
    var connection = RedisConnection(configuration: configuration)
    connection.connected()
    return connection
  }

  private var toProbe: String {
    Server.hello() + Server.info() + Server.policy + Server.digests + Server.blob(text(probe.digest))
  }

  private func reply(_ refused: (String, String)...) -> String {
    "*\(2 * refused.count)\r\n" + refused.map { Server.blob($0) + Server.blob($1) }.joined()
  }

  private func message(_ wire: String) throws -> RedisHandshakeFailure {
    var connection = connected()
    let actions = connection.received(wire)
    guard case .failed(let failure) = try #require(actions.last) else {
      Issue.record("\(actions)")
      throw RedisFault.badPush
    }
    return failure
  }

  @Test func probeIsLoadedAndRunWithTheRest() {
    var connection = connected()
    let output = text(connection.takeOutput())
    #expect(
      output.hasSuffix(
        text(command("SCRIPT", "LOAD", text(probe.script)))
          + text(command("EVALSHA", text(probe.digest), "1", "p:{}probe:h/1", "p:inbox:-/0"))
          + text(command("SUBSCRIBE", "inbox"))))
    #expect(connection.received(toProbe + reply() + Server.subscribed) == [.ready(.testing())])
  }

  @Test func missingRightsAreToldAllAtOnce() throws {
    let no = "ERR The user executing the script can't run this command or subcommand script: 1b, on @user_script:3."
    let failure = try message(
      toProbe + reply(("PUBLISH", no), ("SET", no), ("SET", no), ("SCAN", no)) + Server.subscribed)
    #expect(failure.reason == .notPermitted)
    #expect(
      failure.message
        == "the Redis user 'u' may not use PUBLISH, SET: allow it with ACL SETUSER u +publish +set +scan")
  }

  @Test func patternsAreToldWithTheCommands() throws {
    let failure = try message(
      toProbe
        + reply(
          ("GET", "ERR ACL failure in script: No permissions to access a key"),
          ("PUBLISH", "ERR ACL failure in script: No permissions to access a channel"),
          ("TIME", "ERR ACL failure in script: User u has no permissions to run the 'time' command"))
        + "-NOPERM No permissions to access a channel\r\n")
    #expect(
      failure.message
        == "the Redis user 'u' may not use TIME, keys that begin with p: (to read and write each of them), channels that begin with p:: allow it with "
        + "ACL SETUSER u ~p:* &p:* +time")
    let subscription = try message(toProbe + reply() + "-NOPERM this user may not run the 'subscribe' command\r\n")
    #expect(subscription.message.hasSuffix("allow it with ACL SETUSER u +subscribe"))
  }

  @Test(arguments: [
    "-NOPERM this user has no permissions to run the 'evalsha' command\r\n",
    "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n",
  ])
  func whereNothingCanBeTriedAllIsTold(error: String) throws {
    let failure = try message(toProbe + error + Server.subscribed)
    #expect(failure.message.hasSuffix("ACL SETUSER u \(rights.rules)"))
    #expect(try message(Server.hello() + Server.info() + Server.policy + error).message.hasSuffix(rights.rules))
  }

  /// Redis looks at the keys of a script before it runs it: the command is allowed then, and the keys are not.
  @Test func keysThatAreMissingAreNotTakenForTheCommandThatNamesThem() throws {
    let all = rights.rules
    let keys = "keys that begin with p: (to read and write each of them)"
    for error in [
      "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n",
      "-NOPERM No permissions to access a key\r\n",
    ] {
      #expect(
        try message(toProbe + error + Server.subscribed).message
          == "the Redis user 'u' may not use \(keys): allow it with ACL SETUSER u \(all)")
      #expect(
        try message(toProbe + error + "-NOPERM No permissions to access a channel\r\n").message
          == "the Redis user 'u' may not use \(keys), channels that begin with p:: allow it with ACL SETUSER u \(all)")
    }
  }

  @Test func commandThatTheServerLacksIsTold() throws {
    let failure = try message(toProbe + reply(("LPOS", "ERR Unknown Redis command called from script")))
    #expect(failure.reason == .unsupportedServer)
    #expect(failure.message.contains("does not offer LPOS"))
  }

  @Test func commandThatCanBeDoneWithoutMayBeLacking() {
    var connection = connected()
    var info = RedisReadyInfo.testing()
    info.missingRules = "ACL SETUSER u +scan"
    let wire = reply(("SCAN", "ERR Unknown Redis command called from script"))
    #expect(connection.received(toProbe + wire + Server.subscribed) == [.ready(info)])
  }

  /// A server that is full or cannot save its data renews leases all the same.
  @Test(arguments: [
    "*2\r\n$3\r\nSET\r\n$6\r\nOOM no\r\n", "*2\r\n$3\r\nSET\r\n$10\r\nMISCONF no\r\n", "-NOSCRIPT no\r\n",
    "-BUSY no\r\n",
    "_\r\n", ":1\r\n", "*1\r\n:1\r\n",
  ])
  func statesOfTheServerAreNoMissingRights(reply: String) {
    var connection = connected()
    #expect(connection.received(toProbe + reply + Server.subscribed) == [.ready(.testing())])
  }

  @Test func aRightThatCanBeDoneWithoutIsNoFailure() {
    var connection = connected()
    var info = RedisReadyInfo.testing()
    info.missingRules = "ACL SETUSER u +scan"
    let wire = reply(("SCAN", "ERR ACL failure in script: User u has no permissions to run the 'scan' command"))
    #expect(connection.received(toProbe + wire + Server.subscribed) == [.ready(info)])
  }
}

extension RedisRights {
  fileprivate static func testing(keyPrefix: String) -> RedisRights {
    RedisRights(keyPrefix: bytes(keyPrefix), commands: ["get", "publish", "scan", "set"], extraCommands: ["scan"])
  }
}
