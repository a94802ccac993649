import RESP
import Testing

private func run(_ name: ScriptName, _ key: String, _ argument: String = "x") -> RedisCommand {
  .script(name: name, keys: [bytes(key)], arguments: [bytes(argument)])
}

private func plain(_ parts: String...) -> RedisCommand {
  .plain(parts.map { bytes($0) })
}

private func byDigest(_ digest: String, _ key: String) -> String {
  text(command("EVALSHA", digest, "1", key, "x"))
}

private func loaded(_ source: String, _ digest: String, _ key: String) -> String {
  text(command("SCRIPT", "LOAD", source)) + byDigest(digest, key)
}

private let digest = Server.blob(Server.firstDigest)
private let noScript = "-NOSCRIPT No matching script. Please use EVAL.\r\n"

@Suite struct RedisConnectionTests {
  @Test func everythingThatATurnSubmitsIsOneOutput() {
    var connection = readyConnection()
    #expect(!connection.hasOutput)
    #expect(connection.submit(plain("GET", "a"), id: 1) == true)
    #expect(connection.submit(run(.second, "k"), id: 2) == true)
    #expect(connection.hasOutput)
    #expect(text(connection.takeOutput()) == text(command("GET", "a")) + byDigest(Server.secondDigest, "k"))
    #expect(!connection.hasOutput)
    #expect(connection.takeOutput() == [])
    #expect(connection.submit(plain("GET", "b"), id: 3) == true)
    let drained = connection.drainOutput { Array($0) }
    #expect(drained == command("GET", "b"))
    #expect(!connection.hasOutput)
    #expect(connection.pendingCount == 3)
    #expect(connection.oldestPendingID == 1)
  }

  @Test func repliesAnswerCommandsInOrder() {
    var connection = readyConnection()
    for id in 1...4 { #expect(connection.submit(plain("GET", "a"), id: UInt64(id)) == true) }
    #expect(
      connection.received("$1\r\na\r\n-ERR no\r\n_\r\n*1\r\n") == [
        .reply(id: 1, .blob("a")), .reply(id: 2, .error("ERR no")), .reply(id: 3, .null),
      ])
    #expect(connection.pendingCount == 1)
    #expect(connection.oldestPendingID == 4)
    #expect(connection.received(":1\r\n") == [.reply(id: 4, .array([.integer(1)]))])
    #expect(connection.pendingCount == 0)
    #expect(connection.oldestPendingID == nil)
  }

  @Test func pushesBetweenRepliesAnswerNothing() {
    var connection = readyConnection()
    #expect(connection.submit(plain("GET", "a"), id: 1) == true)
    #expect(connection.submit(plain("GET", "b"), id: 2) == true)
    let actions = connection.received(
      Server.message("m1") + ":1\r\n" + Server.message("m2") + ">2\r\n+invalidate\r\n_\r\n" + ":2\r\n"
        + Server.message(""))
    #expect(
      actions == [
        .message(channel: bytes("inbox"), payload: bytes("m1")), .reply(id: 1, .integer(1)),
        .message(channel: bytes("inbox"), payload: bytes("m2")), .reply(id: 2, .integer(2)),
        .message(channel: bytes("inbox"), payload: []),
      ])
    #expect(connection.ignoredPushCount == 1)
  }

  /// There is a short way for them, and none that is not the same as the long one.
  @Test func messagesAreTheSameHoweverTheyCome() {
    let wire = Array((Server.message("first") + Server.message("") + ":1\r\n" + Server.message("a\r\nb")).utf8)
    let expected: [RedisConnectionAction] = [
      .message(channel: bytes("inbox"), payload: bytes("first")), .message(channel: bytes("inbox"), payload: []),
      .reply(id: 1, .integer(1)), .message(channel: bytes("inbox"), payload: bytes("a\r\nb")),
    ]
    for cut in 0...wire.count {
      var connection = readyConnection()
      #expect(connection.submit(plain("GET", "a"), id: 1) == true)
      let actions = [wire[..<cut], wire[cut...]].flatMap { part in
        Array(part).withUnsafeBytes { connection.received($0) }
      }
      #expect(actions == expected)
    }
    for broken in [
      ">3\r\n$7\r\nmessage\r\n$5\r\ninbox\r\n$1\r\nab\r\n", ">3\r\n$7\r\nmessage\r\n$5\r\ninbox\r\n$01\r\na\r\n",
      ">3\r\n$7\r\nmessage\r\n$5\r\ninbox\r\n$99999999999\r\na\r\n",
    ] {
      var connection = readyConnection()
      guard case .fault? = connection.received(broken).last else {
        Issue.record("it is taken for a message")
        continue
      }
    }
  }

  @Test func attributesBeforeAReplyAnswerNothing() {
    var connection = readyConnection()
    #expect(connection.submit(plain("GET", "a"), id: 1) == true)
    #expect(connection.received("|1\r\n+ttl\r\n:1\r\n:1\r\n") == [.reply(id: 1, .integer(1))])
  }

  @Test func unknownPushesAndForeignChannelsAreCountedAndIgnored() {
    var connection = readyConnection()
    let pushes =
      ">2\r\n+invalidate\r\n*1\r\n+a\r\n" + ">1\r\n+server-cpu-usage\r\n" + ">4\r\n+pmessage\r\n+a\r\n+b\r\n+c\r\n"
      + Server.message("m", channel: "other")
    #expect(connection.received(pushes) == [])
    #expect(connection.ignoredPushCount == 4)
    #expect(connection.isReady)
  }

  @Test func commandIsRefusedUnlessReady() {
    var connection = RedisConnection(configuration: .testing())
    #expect(connection.submit(plain("GET", "a"), id: 1) == false)
    connection.connected()
    _ = connection.takeOutput()
    #expect(connection.submit(plain("GET", "a"), id: 1) == false)
    _ = connection.received(Server.handshake)
    #expect(connection.submit(plain("GET", "a"), id: 1) == true)
    _ = connection.closed()
    #expect(connection.submit(plain("GET", "a"), id: 2) == false)
    #expect(!connection.hasOutput)
    #expect(connection.pendingCount == 0)
  }

  @Test func closingGivesWhatIsPendingInOrder() {
    var connection = readyConnection()
    for id in [5, 3, 9] { #expect(connection.submit(run(.first, "k"), id: UInt64(id)) == true) }
    #expect(connection.received(":1\r\n").count == 1)
    #expect(connection.closed() == [3, 9])
    #expect(connection.closed() == [])
    #expect(connection.received(":1\r\n") == [])
    #expect(!connection.isReady)
  }

  @Test func bytesAfterTheEndAndBeforeTheBeginningAreIgnored() {
    var connection = RedisConnection(configuration: .testing())
    #expect(connection.received("?") == [])
    #expect(connection.closed() == [])
    connection.connected()
    #expect(!connection.hasOutput)
    #expect(connection.received("?") == [])
  }
}

@Suite struct RedisScriptReloadTests {
  @Test func forgottenScriptIsLoadedAndAnswersItsOwnCommand() {
    var connection = readyConnection()
    #expect(connection.submit(plain("PING"), id: 1) == true)
    #expect(connection.submit(run(.first, "k"), id: 2) == true)
    #expect(connection.submit(plain("PING"), id: 3) == true)
    _ = connection.takeOutput()
    #expect(
      connection.received("+PONG\r\n" + noScript + "+PONG\r\n") == [
        .reply(id: 1, .simple("PONG")), .reply(id: 3, .simple("PONG")),
      ])
    #expect(text(connection.takeOutput()) == loaded("return 1", Server.firstDigest, "k"))
    #expect(connection.pendingCount == 1)
    #expect(connection.oldestPendingID == 2)
    #expect(connection.received(digest + ":7\r\n") == [.reply(id: 2, .integer(7))])
    #expect(connection.submit(run(.first, "l"), id: 4) == true)
    #expect(text(connection.takeOutput()) == byDigest(Server.firstDigest, "l"))
  }

  @Test func textIsSentOnceForManyCommands() {
    var connection = readyConnection()
    for id in 1...3 { #expect(connection.submit(run(.first, "k\(id)"), id: UInt64(id)) == true) }
    #expect(connection.submit(run(.second, "k4"), id: 4) == true)
    _ = connection.takeOutput()
    #expect(connection.received(noScript + noScript + noScript + noScript) == [])
    #expect(
      text(connection.takeOutput()) == loaded("return 1", Server.firstDigest, "k1") + byDigest(Server.firstDigest, "k2")
        + byDigest(Server.firstDigest, "k3") + loaded("return 2", Server.secondDigest, "k4"))
    #expect(
      connection.received(digest + ":1\r\n:2\r\n:3\r\n" + digest + ":4\r\n") == [
        .reply(id: 1, .integer(1)), .reply(id: 2, .integer(2)), .reply(id: 3, .integer(3)), .reply(id: 4, .integer(4)),
      ])
  }

  @Test func scriptThatCouldNotBeLoadedIsLoadedForTheNext() {
    var connection = readyConnection()
    for id in 1...2 { #expect(connection.submit(run(.first, "k\(id)"), id: UInt64(id)) == true) }
    #expect(connection.received(noScript + noScript) == [])
    _ = connection.takeOutput()
    // To load it was refused, which is the answer to the first, and the script is still not there for the second.
    #expect(connection.received("-NOPERM no\r\n" + noScript + noScript) == [.reply(id: 1, .error("NOPERM no"))])
    #expect(text(connection.takeOutput()) == loaded("return 1", Server.firstDigest, "k2"))
    #expect(connection.received(digest + ":2\r\n") == [.reply(id: 2, .integer(2))])
  }

  @Test func scriptThatIsForgottenLaterIsLoadedAtOnce() {
    var connection = readyConnection()
    for id in 1...2 as ClosedRange<UInt64> {
      #expect(connection.submit(run(.first, "k"), id: id) == true)
      _ = connection.takeOutput()
      #expect(connection.received(noScript) == [])
      #expect(text(connection.takeOutput()) == loaded("return 1", Server.firstDigest, "k"))
      #expect(connection.received(digest + ":1\r\n") == [.reply(id: id, .integer(1))])
    }
  }

  @Test func scriptThatIsForgottenBetweenIsAnsweredSo() {
    var connection = readyConnection()
    #expect(connection.submit(run(.first, "k"), id: 1) == true)
    #expect(connection.received(noScript) == [])
    _ = connection.takeOutput()
    let error = RESPValue.error("NOSCRIPT No matching script. Please use EVAL.")
    #expect(connection.received(digest + noScript) == [.reply(id: 1, error)])
    #expect(!connection.hasOutput)
  }

  @Test func noScriptInReplyToAPlainCommandIsTheReply() {
    var connection = readyConnection()
    #expect(connection.submit(plain("EVALSHA", "0", "0"), id: 1) == true)
    #expect(connection.received("-NOSCRIPT x\r\n") == [.reply(id: 1, .error("NOSCRIPT x"))])
  }

  @Test func closingWhileAScriptIsSentAgainGivesItsCommand() {
    var connection = readyConnection()
    #expect(connection.submit(run(.first, "k"), id: 1) == true)
    #expect(connection.submit(plain("PING"), id: 2) == true)
    #expect(connection.received(noScript) == [])
    #expect(connection.closed() == [2, 1])
  }
}

@Suite struct RedisFaultTests {
  static let faults: [(String, RedisFault)] = [
    (":1\r\n", .unsolicitedReply(nil)),
    ("-ERR max number of clients reached\r\n", .unsolicitedReply("ERR max number of clients reached")),
    ("HTTP/1.1 400 Bad Request\r\n", .malformed(.unknownType(0x48))),
    ("$9999999999999\r\n", .malformed(.blobTooLong(bytesMax: 16 << 20))),
    (">0\r\n", .badPush),
    (">1\r\n:1\r\n", .badPush),
    (">1\r\n+message\r\n", .badPush),
    (">3\r\n+message\r\n+inbox\r\n:1\r\n", .badPush),
    (">3\r\n+message\r\n_\r\n+a\r\n", .badPush),
    (">4\r\n+message\r\n+inbox\r\n+a\r\n+b\r\n", .badPush),
    (">2\r\n+subscribe\r\n+inbox\r\n", .badPush),
    (">3\r\n+unsubscribe\r\n:1\r\n:0\r\n", .badPush),
    (Server.subscribed, .subscriptionChanged),
    (">3\r\n+unsubscribe\r\n+inbox\r\n:0\r\n", .subscriptionChanged),
    (">3\r\n+unsubscribe\r\n_\r\n:0\r\n", .subscriptionChanged),
  ]

  @Test(arguments: faults)
  func brokenProtocolIsAFaultAndTheEnd(row: (wire: String, fault: RedisFault)) {
    var connection = readyConnection()
    #expect(
      connection.received(Server.message("m") + row.wire + Server.message("m") + "?") == [
        .message(channel: bytes("inbox"), payload: bytes("m")), .fault(row.fault),
      ])
    #expect(!row.fault.description.isEmpty)
    #expect(!connection.isReady)
    #expect(connection.submit(plain("PING"), id: 1) == false)
    #expect(connection.received(":1\r\n?") == [])
    #expect(!connection.hasOutput)
    #expect(connection.closed() == [])
  }

  @Test func pendingCommandsOutliveAFaultUntilTheConnectionIsClosed() {
    var connection = readyConnection()
    for id in 1...3 { #expect(connection.submit(plain("PING"), id: UInt64(id)) == true) }
    #expect(
      connection.received("+PONG\r\n!x\r\n") == [
        .reply(id: 1, .simple("PONG")), .fault(.malformed(.badLength(type: 0x21))),
      ])
    #expect(!connection.hasOutput)
    #expect(connection.pendingCount == 2)
    #expect(connection.closed() == [2, 3])
  }

  @Test func textOfAnErrorToNobodyIsMadePrintable() {
    var connection = readyConnection()
    let wire = "-ERR \u{1B}[31m\t" + String(repeating: "x", count: 300) + "\r\n"
    #expect(
      connection.received(wire) == [.fault(.unsolicitedReply("ERR ?[31m?" + String(repeating: "x", count: 190)))])
  }
}
