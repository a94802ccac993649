import Testing

@testable import RESP

/// What a connection finds out about what is behind it, by replies of servers that are no plain primary.
@Suite struct RedisTrialTests {
  private func connected(previousClient: RedisClientIdentity? = nil) -> RedisConnection {
    var configuration = RedisConnectionConfiguration.testing(previousClient: previousClient)
    configuration.trial = RedisTrial(
      script: bytes("return {1,'',''}"), key: bytes("p:{}probe:h/1"), message: bytes("trial"))
    var connection = RedisConnection(configuration: configuration)
    connection.connected()
    return connection
  }

  private let digest = Server.blob(SHA1.text(of: "return {1,'',''}"))
  private var subscribed: String {
    Server.hello() + Server.info() + Server.policy + Server.digests + digest + Server.subscribed
  }
  private let push = Server.message("trial")

  private func reply(_ heard: Int = 1, _ command: String = "", _ said: String = "") -> String {
    "*3\r\n:\(heard)\r\n" + Server.blob(command) + Server.blob(said)
  }

  private func message(_ wire: String) throws -> String {
    var connection = connected()
    let actions = connection.received(wire)
    guard case .failed(let failure) = try #require(actions.last) else {
      Issue.record("\(actions)")
      return ""
    }
    #expect(failure.reason == .unsupportedServer)
    #expect(!failure.retryMayHelp)
    return failure.message
  }

  @Test func trialIsSentBehindTheSubscription() {
    var connection = connected()
    #expect(
      text(connection.takeOutput()).hasSuffix(
        text(command("SUBSCRIBE", "inbox"))
          + text(command("EVALSHA", SHA1.text(of: "return {1,'',''}"), "1", "p:{}probe:h/1", "inbox", "trial"))
          + text(command("PING"))))
  }

  /// Redis before 7.2 sends a client's own message before the reply of the script, later ones send it after.
  @Test(arguments: [true, false])
  func plainPrimaryIsReadyWithTheLastReply(isPushFirst: Bool) {
    var connection = connected()
    #expect(connection.received(subscribed + (isPushFirst ? push + reply() : reply() + push)) == [])
    #expect(connection.received("+PONG\r\n") == [.ready(.testing())])
    #expect(connection.received(Server.message("x")) == [.message(channel: bytes("inbox"), payload: bytes("x"))])
  }

  @Test func messagesOfOthersAreLeftOutUntilThen() {
    var connection = connected()
    let others = Server.message("1;granted 1 2 3 0")
    #expect(connection.received(subscribed + others + push + reply() + "+PONG\r\n") == [.ready(.testing())])
  }

  @Test func previousConnectionIsKilledBeforeIt() {
    var connection = connected(previousClient: RedisClientIdentity(id: 5, runID: Server.run))
    _ = connection.received(Server.hello() + Server.info() + Server.policy + Server.digests + digest)
    _ = connection.takeOutput()
    #expect(
      connection.received(":1\r\n" + Server.subscribed + push + reply() + "+PONG\r\n")
        == [.ready(.testing(previousClient: .killed))])
  }

  @Test func messageThatDoesNotComeBackIsTold() throws {
    #expect(try message(subscribed + reply() + "+PONG\r\n").contains("did not come at once"))
    // Another's message is none.
    #expect(try message(subscribed + reply() + Server.message("x") + "+PONG\r\n").contains("did not come at once"))
  }

  @Test func messageThatNobodyHearsIsTold() throws {
    #expect(try message(subscribed + reply(0) + "+PONG\r\n").contains("heard by nobody"))
  }

  @Test(arguments: [
    "ERR Script attempted to access a non local key in a cluster node script: 1b, on @user_script:17.",
    "ERR Script attempted to access a slot not served script: 1b, on @user_script:17.",
    "ERR Error running script (call to f_1): @user_script:17: -MOVED 3 127.0.0.1:1",
    "CROSSSLOT Keys in request don't hash to the same slot",
  ])
  func clusterIsTold(error: String) throws {
    #expect(try message(subscribed + reply(1, "EXISTS", error) + push + "+PONG\r\n").contains("node of a cluster"))
    #expect(try message(subscribed + "-\(error)\r\n").contains("node of a cluster"))
  }

  @Test func otherEffectIsTold() throws {
    let message = try message(subscribed + reply(1, "GET", "it replied false") + push + "+PONG\r\n")
    #expect(message.contains("GET did something else than in Redis: it replied false"))
  }

  @Test func activeActiveDatabaseIsTold() throws {
    let hello = Server.hello().replacing(
      "$7\r\nmodules\r\n*0\r\n",
      with: "$7\r\nmodules\r\n*1\r\n%2\r\n$4\r\nname\r\n$4\r\ncrdt\r\n$3\r\nver\r\n:1\r\n")
    #expect(try message(hello).contains("active-active"))
  }

  /// A server that is full, or whose scripts were just flushed, shows nothing; leases can be renewed there.
  @Test(arguments: ["OOM command not allowed when used memory > 'maxmemory'.", "NOSCRIPT No matching script."])
  func stateOfServerIsNoReason(error: String) {
    var connection = connected()
    #expect(connection.received(subscribed + "-\(error)\r\n+PONG\r\n") == [.ready(.testing())])
    var other = connected()
    #expect(other.received(subscribed + push + reply(1, "SET", error) + "+PONG\r\n") == [.ready(.testing())])
  }

  /// Redis 6.2 puts the place in the script before the words of an error that the script has caught.
  @Test(arguments: ["NOREPLICAS Not enough good replicas to write.", "READONLY You can't write against a read only"])
  func stateOfServerIsNoReasonWhereAPlaceStandsBeforeIt(error: String) {
    var connection = connected()
    let trial = reply(1, "DEL", "@user_script: 15: -\(error)\r\n")
    #expect(connection.received(subscribed + push + trial + "+PONG\r\n") == [.ready(.testing())])
  }

  @Test(arguments: ["*0\r\n", "+OK\r\n"])
  func replyOfAnotherKindIsAFault(reply: String) {
    var connection = connected()
    #expect(connection.received(subscribed + reply) == [.fault(.badHandshakeReply(to: "EVALSHA"))])
  }
}

extension SHA1 {
  fileprivate static func text(of script: String) -> String {
    String(decoding: hexDigits(of: bytes(script)), as: UTF8.self)
  }
}
