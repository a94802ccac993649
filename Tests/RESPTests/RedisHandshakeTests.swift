import RESP
import Testing

private let firstCommands =
  text(command("INFO", "server")) + text(command("CONFIG", "GET", "maxmemory-policy"))
  + text(command("SCRIPT", "LOAD", "return 1")) + text(command("SCRIPT", "LOAD", "return 2"))
private let hello = text(command("HELLO", "3", "SETNAME", "sidelock-a"))
private let subscribe = text(command("SUBSCRIBE", "inbox"))

private func connected(_ configuration: RedisConnectionConfiguration) -> RedisConnection {
  var connection = RedisConnection(configuration: configuration)
  connection.connected()
  return connection
}

@Suite struct RedisHandshakeTests {
  @Test func handshakeIsOneOutputAndEndsWithTheSubscription() {
    var connection = connected(.testing())
    #expect(text(connection.takeOutput()) == hello + firstCommands + subscribe)
    #expect(connection.received(Server.hello() + Server.info() + Server.policy + Server.digests) == [])
    #expect(!connection.isReady)
    #expect(
      connection.received(Server.subscribed + Server.message("m")) == [
        .ready(.testing()), .message(channel: bytes("inbox"), payload: bytes("m")),
      ])
    #expect(connection.isReady)
    #expect(!connection.hasOutput)
  }

  @Test func loginAndDatabaseArePartOfIt() {
    var user = connected(.testing(username: "u", password: "p:w", database: 3))
    #expect(
      text(user.takeOutput()) == text(command("HELLO", "3", "AUTH", "u", "p:w", "SETNAME", "sidelock-a"))
        + text(command("SELECT", "3")) + firstCommands + subscribe)
    #expect(
      user.received(
        Server.hello() + "+OK\r\n" + Server.info() + Server.policy + Server.digests + Server.subscribed)
        == [.ready(.testing())])

    var anonymous = connected(.testing(password: "p"))
    #expect(
      text(anonymous.takeOutput()) == text(command("HELLO", "3", "AUTH", "default", "p", "SETNAME", "sidelock-a"))
        + firstCommands + subscribe)
  }

  @Test func connectingTwiceSendsNothingMore() {
    var connection = connected(.testing())
    _ = connection.takeOutput()
    connection.connected()
    #expect(!connection.hasOutput)
  }

  @Test func whatIsOptionalMayBeRefused() {
    var connection = connected(.testing())
    let actions = connection.received(
      Server.hello(role: nil) + "-NOPERM no\r\n" + "-ERR unknown command 'CONFIG'\r\n" + Server.digests
        + Server.subscribed)
    var info = RedisReadyInfo.testing()
    info.client.runID = nil
    info.evictionPolicy = nil
    #expect(actions == [.ready(info)])
  }

  @Test(arguments: ["%0\r\n", "*0\r\n", "_\r\n", "+OK\r\n", "%1\r\n+maxmemory-policy\r\n:1\r\n"])
  func strangeReplyToWhatIsOptionalIsTakenForNone(reply: String) {
    var connection = connected(.testing())
    var info = RedisReadyInfo.testing()
    info.client.runID = nil
    info.evictionPolicy = nil
    #expect(
      connection.received(Server.hello() + reply + reply + Server.digests + Server.subscribed) == [.ready(info)])
  }

  @Test func messagesBeforeTheSubscriptionAreIgnored() {
    var connection = connected(.testing())
    #expect(connection.received(Server.message("m") + Server.handshake) == [.ready(.testing())])
    #expect(connection.ignoredPushCount == 1)
  }
}

@Suite struct RedisPreviousClientTests {
  private let previous = RedisClientIdentity(id: 5, runID: Server.run)
  private let replies = Server.hello() + Server.info() + Server.policy + Server.digests
  private let kill = text(command("CLIENT", "KILL", "ID", "5"))

  @Test func previousClientIsKilledBeforeTheSubscription() {
    var connection = connected(.testing(previousClient: previous))
    #expect(text(connection.takeOutput()) == hello + firstCommands)
    #expect(connection.received(replies) == [])
    #expect(text(connection.takeOutput()) == kill + subscribe)
    #expect(connection.received(":1\r\n" + Server.subscribed) == [.ready(.testing(previousClient: .killed))])
  }

  static let outcomes: [(String, RedisReadyInfo.PreviousClient)] = [
    (":1\r\n", .killed), ("+OK\r\n", .killed), (":0\r\n", .gone), ("-ERR No such client\r\n", .gone),
    ("-NOPERM may not\r\n", .unknown("NOPERM may not")),
    ("_\r\n", .unknown("the reply to CLIENT KILL is not understood")),
  ]

  @Test(arguments: outcomes)
  func outcomeIsReportedAndNeverFatal(row: (reply: String, outcome: RedisReadyInfo.PreviousClient)) {
    var connection = connected(.testing(previousClient: previous))
    _ = connection.received(replies)
    #expect(
      connection.received(row.reply + Server.subscribed) == [.ready(.testing(previousClient: row.outcome))])
  }

  @Test func clientOfAnotherRunIsLeftAlone() {
    var connection = connected(.testing(previousClient: RedisClientIdentity(id: 5, runID: "another")))
    _ = connection.takeOutput()
    #expect(connection.received(replies) == [])
    #expect(text(connection.takeOutput()) == subscribe)
    #expect(connection.received(Server.subscribed) == [.ready(.testing(previousClient: .gone))])
  }

  @Test func clientOfAnUnknownRunIsLeftAlone() {
    var connection = connected(.testing(previousClient: RedisClientIdentity(id: 5, runID: nil)))
    _ = connection.takeOutput()
    #expect(connection.received(replies) == [])
    #expect(text(connection.takeOutput()) == subscribe)
    #expect(
      connection.received(Server.subscribed)
        == [.ready(.testing(previousClient: .unknown("the server does not tell its run_id (INFO)")))])
  }
}

/// A server that cannot be used: what it sends, and what is made of it.
struct Refusal: Sendable, CustomTestStringConvertible {
  var wire: String
  var reason: RedisHandshakeFailure.Reason
  var hint: String
  var retryMayHelp = false

  var testDescription: String { wire.debugDescription }

  private static let toLoad = Server.hello() + "+OK\r\n" + Server.info() + Server.policy
  private static let toSubscribe = toLoad + Server.digests
  private static let helloWithoutLogin =
    "-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> "
    + "<pass> option can be used\r\n"

  static let all: [Refusal] = [
    Refusal(
      wire: "-WRONGPASS invalid username-password pair or user is disabled.\r\n", reason: .authenticationFailed,
      hint: "check user and password"),
    Refusal(wire: helloWithoutLogin, reason: .authenticationFailed, hint: "did not accept user 'u'"),
    Refusal(
      wire: "-ERR Client sent AUTH, but no password is set\r\n", reason: .authenticationFailed, hint: "leave it out"),
    Refusal(wire: "-NOPERM no\r\n", reason: .notPermitted, hint: "+hello"),
    Refusal(wire: "-DENIED Redis is running in protected mode\r\n", reason: .notPermitted, hint: "protected mode"),
    Refusal(wire: "-ERR unknown command `HELLO`\r\n", reason: .unsupportedServer, hint: "Redis 6.0 or newer"),
    Refusal(wire: "-NOPROTO unsupported\r\n", reason: .unsupportedServer, hint: "Redis 6.0 or newer"),
    Refusal(wire: Server.hello(mode: "sentinel", role: nil), reason: .unsupportedServer, hint: "Sentinel"),
    Refusal(wire: Server.hello(mode: "cluster"), reason: .unsupportedServer, hint: "Cluster"),
    Refusal(wire: Server.hello(role: "replica"), reason: .notPrimary, hint: "primary", retryMayHelp: true),
    Refusal(
      wire: "-ERR max number of clients reached\r\n", reason: .temporary, hint: "max number", retryMayHelp: true),
    Refusal(wire: "-BUSY Redis is busy\r\n", reason: .temporary, hint: "BUSY", retryMayHelp: true),
    Refusal(wire: "-ERR upstream failure\r\n", reason: .refused, hint: "HELLO: ERR upstream", retryMayHelp: true),
    Refusal(
      wire: Server.hello() + "-ERR DB index is out of range\r\n", reason: .noSuchDatabase, hint: "no database 3"),
    Refusal(wire: Server.hello() + "-NOPERM no\r\n", reason: .notPermitted, hint: "+select"),
    Refusal(
      wire: toLoad + "-LOADING Redis is loading the dataset in memory\r\n", reason: .temporary, hint: "LOADING",
      retryMayHelp: true),
    Refusal(
      wire: toLoad + "-MISCONF Errors writing to the AOF file\r\n", reason: .temporary, hint: "MISCONF",
      retryMayHelp: true),
    Refusal(wire: toLoad + "-NOPERM no\r\n", reason: .notPermitted, hint: "+script|load"),
    Refusal(
      wire: toLoad + "-ERR unknown command 'SCRIPT'\r\n", reason: .unsupportedServer, hint: "does not offer SCRIPT"),
    Refusal(
      wire: toLoad + "-ERR Error compiling script (new function): x\r\n", reason: .refused, hint: "SCRIPT LOAD"),
    Refusal(wire: toSubscribe + "-NOPERM no\r\n", reason: .notPermitted, hint: "matches inbox"),
    Refusal(wire: toSubscribe + "-NOAUTH no\r\n", reason: .authenticationFailed, hint: "did not accept user 'u'"),
  ]
}

@Suite struct RedisHandshakeFailureTests {
  @Test(arguments: Refusal.all)
  func refusalSaysWhatToDoAndIsTheEnd(refusal: Refusal) throws {
    var connection = connected(.testing(username: "u", password: "pw-secret", database: 3))
    _ = connection.takeOutput()
    let actions = connection.received(refusal.wire + "-NOAUTH x\r\n" + Server.subscribed)
    #expect(actions.count == 1)
    guard case .failed(let failure) = try #require(actions.first) else {
      Issue.record("not a failure: \(actions)")
      return
    }
    #expect(failure.reason == refusal.reason)
    #expect(failure.message.contains(refusal.hint), "\(failure.message)")
    #expect(failure.retryMayHelp == refusal.retryMayHelp)
    #expect(!connection.isReady)
    #expect(!connection.hasOutput)
    #expect(connection.received(Server.handshake) == [])
    #expect(connection.closed() == [])
  }

  // MARK: Nodes of a cluster

  private func configuration(_ role: ClusterRole) -> RedisConnectionConfiguration {
    var configuration = RedisConnectionConfiguration.testing()
    configuration.clusterRole = role
    return configuration
  }

  private static let id = String(repeating: "0a", count: 20)

  @Test func aPrimaryOfAClusterHasToBeTheOneThatIsMeant() {
    var connection = connected(configuration(.primary(Self.id)))
    let sent = String(decoding: connection.takeOutput(), as: UTF8.self)
    #expect(sent.contains("CLUSTER\r\n$4\r\nMYID"))
    let rest = Server.info() + Server.policy + Server.digests + Server.subscribed
    let actions = connection.received(Server.hello(mode: "cluster") + Server.blob(Self.id) + rest)
    guard case .ready(let info)? = actions.first else { return #expect(Bool(false), "\(actions)") }
    #expect(info.mode == "cluster")
    var other = connected(configuration(.primary(Self.id)))
    let refused = other.received(Server.hello(mode: "cluster") + Server.blob(String(Self.id.reversed())) + rest)
    guard case .failed(let failure)? = refused.first else { return #expect(Bool(false), "\(refused)") }
    #expect(failure.reason == .notPrimary && failure.retryMayHelp && failure.message.contains("another node"))
  }

  @Test func whatMayBeAskedOfAClusterMayBeAReplica() {
    for role in [ClusterRole.any, .primary(Self.id)] {
      var connection = connected(configuration(role))
      let actions = connection.received(Server.hello(mode: "cluster", role: "replica"))
      #expect(actions.isEmpty == (role == .any))
    }
  }

  @Test func aServerInNoClusterIsNamed() {
    for role in [ClusterRole.any, .primary(Self.id)] {
      var connection = connected(configuration(role))
      guard case .failed(let failure)? = connection.received(Server.hello()).first else {
        Issue.record("not refused")
        continue
      }
      #expect(failure.message.contains("in no Cluster: write redis://"))
    }
  }

  @Test func theRightToAskForTheNameIsNamed() {
    var connection = connected(configuration(.primary(Self.id)))
    let actions = connection.received(Server.hello(mode: "cluster") + "-NOPERM no\r\n")
    guard case .failed(let failure)? = actions.first else { return #expect(Bool(false), "\(actions)") }
    #expect(failure.message.contains("+cluster|myid"))
  }

  @Test func missingPasswordIsAskedFor() {
    var connection = connected(.testing())
    let actions = connection.received("-NOAUTH Authentication required.\r\n")
    #expect(
      actions == [
        .failed(
          RedisHandshakeFailure(
            reason: .authenticationFailed,
            message: "Redis asks for a password: give it in a file with redis_password_file", retryMayHelp: false))
      ])
  }

  /// Servers repeat the arguments of a command that they do not know.
  @Test(arguments: [
    "-ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `u`, `pw-secret`, \r\n",
    "-ERR upstream pw-secret\r\n", "-LOADING pw-secret\r\n", "-WRONGPASS pw-secret\r\n", "-NOPERM pw-secret\r\n",
    Server.hello() + "-ERR pw-secret\r\n",
    Server.hello() + "+OK\r\n" + Server.info() + Server.policy + "-ERR pw-secret\r\n",
    "+pw-secret\r\n", "-ERR a\r\n+pw-secret\r\n", "pw-secret",
  ])
  func passwordIsInNoMessage(wire: String) {
    let configuration = RedisConnectionConfiguration.testing(username: "u", password: "pw-secret", database: 3)
    var connection = connected(configuration)
    let actions = connection.received(wire)
    #expect(actions.count == 1)
    var dumped = ""
    dump(actions, to: &dumped)
    dump(configuration, to: &dumped)
    dumped += "\(actions) \(configuration) \(connection)"
    #expect(!dumped.contains("pw-secret"))
    #expect(!dumped.contains("112, 119"))
  }

  static let faults: [(String, RedisFault)] = [
    ("+OK\r\n", .badHandshakeReply(to: "HELLO")),
    (Server.hello(proto: 2), .badHandshakeReply(to: "HELLO")),
    ("%1\r\n+proto\r\n:3\r\n", .badHandshakeReply(to: "HELLO")),
    (Server.hello() + ":1\r\n", .badHandshakeReply(to: "SELECT")),
    (Server.hello() + "+OK\r\n" + Server.info() + Server.policy + "+OK\r\n", .badHandshakeReply(to: "SCRIPT LOAD")),
    (
      Server.hello() + "+OK\r\n" + Server.info() + Server.policy + Server.digests + "+OK\r\n",
      .badHandshakeReply(to: "SUBSCRIBE")
    ),
    (Server.subscribed, .subscriptionChanged),
    (">3\r\n+unsubscribe\r\n+inbox\r\n:0\r\n", .subscriptionChanged),
    (
      Server.hello() + "+OK\r\n" + Server.info() + Server.policy + Server.digests
        + ">3\r\n+subscribe\r\n+other\r\n:1\r\n", .subscriptionChanged
    ),
    ("\u{15}\u{3}\u{3}", .malformed(.unknownType(0x15))),
  ]

  @Test(arguments: faults)
  func replyOfTheWrongKindIsAFault(row: (wire: String, fault: RedisFault)) {
    var connection = connected(.testing(database: 3))
    #expect(connection.received(row.wire + Server.handshake) == [.fault(row.fault)])
    #expect(!connection.hasOutput)
  }
}
