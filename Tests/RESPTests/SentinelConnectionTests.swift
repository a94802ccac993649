import RESP
import Testing

/// What a Sentinel of Redis 7 answers.
private enum Wire {
  static let hello = "%3\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n$4\r\nmode\r\n$8\r\nsentinel\r\n"
  static let subscribed = ["+switch-master", "+promoted-slave"].enumerated().map { number, channel in
    ">3\r\n$9\r\nsubscribe\r\n$\(channel.utf8.count)\r\n\(channel)\r\n:\(number + 1)\r\n"
  }.joined()
  static let id = "$4\r\nme01\r\n"

  static func text(_ words: String) -> String { "$\(words.utf8.count)\r\n\(words)\r\n" }
  static func primary(_ host: String, _ port: String) -> String { "*2\r\n\(text(host))\(text(port))" }
  static func map(_ pairs: KeyValuePairs<String, String>) -> String {
    "%\(pairs.count)\r\n" + pairs.map { text($0.key) + text($0.value) }.joined()
  }
  static func master(epoch: String = "7", others: String = "2", flags: String = "master") -> String {
    map([
      "name": "m", "ip": "10.0.0.9", "port": "6379", "flags": flags, "config-epoch": epoch,
      "num-other-sentinels": others,
    ])
  }
  static let others =
    "*2\r\n" + map(["ip": "10.0.0.2", "port": "26379", "runid": "me02"])
    + map(["ip": "10.0.0.3", "port": "26380", "runid": "me03"])
  static func message(_ channel: String, _ payload: String) -> String {
    ">3\r\n\(text("message"))\(text(channel))\(text(payload))"
  }
}

@Suite struct SentinelConnectionTests {
  private static func opened(user: String? = nil, password: String? = nil) -> SentinelConnection {
    var set = RedisSentinels(addresses: [], master: "m")
    set.username = user
    set.password = password.map { RedisSecret(Array($0.utf8)) }
    var connection = SentinelConnection(set, clientName: "sidelockd-a b")
    connection.connected()
    return connection
  }

  private func hear(_ connection: inout SentinelConnection, _ text: String) -> [SentinelConnection.Event] {
    Array(text.utf8).withUnsafeBytes { connection.received($0) }
  }

  /// What comes of an answer to the first questions, where one of them is answered otherwise.
  private func answer(
    hello: String = Wire.hello, subscribed: String = Wire.subscribed, id: String = Wire.id,
    primary: String = Wire.primary("10.0.0.1", "6379"), master: String = Wire.master(), others: String = Wire.others,
    password: String? = nil
  ) -> [SentinelConnection.Event] {
    var connection = Self.opened(password: password)
    return hear(&connection, hello + subscribed + id + primary + master + others)
  }

  private static let good = SentinelAnswer(
    id: "me01", primary: RedisAddress(host: "10.0.0.1", port: 6379), configEpoch: 7, sentinelCount: 3,
    others: [
      SentinelAnswer.Other(id: "me02", address: RedisAddress(host: "10.0.0.2", port: 26379)),
      SentinelAnswer.Other(id: "me03", address: RedisAddress(host: "10.0.0.3", port: 26380)),
    ])

  @Test func itListensBeforeItAsks() {
    var connection = Self.opened(user: "u", password: "p")
    let sent = String(decoding: connection.takeOutput(), as: UTF8.self)
    let words = sent.split(separator: "\r\n").filter { !$0.hasPrefix("*") && !$0.hasPrefix("$") }.joined(separator: " ")
    #expect(
      words
        == "HELLO 3 AUTH u p SETNAME sidelockd-a-b SUBSCRIBE +switch-master +promoted-slave SENTINEL MYID "
        + "SENTINEL GET-MASTER-ADDR-BY-NAME m SENTINEL MASTER m SENTINEL SENTINELS m")
  }

  /// MASTER tells the old address until the failover is over.
  @Test func thePrimaryIsTheOneThatClientsAreTold() {
    #expect(answer() == [.answered(Self.good)])
  }

  @Test func bytesMayComeOneByOne() {
    var connection = Self.opened()
    let all = Wire.hello + Wire.subscribed + Wire.id + Wire.primary("10.0.0.1", "6379") + Wire.master() + Wire.others
    var events: [SentinelConnection.Event] = []
    for byte in all.utf8 { events += [byte].withUnsafeBytes { connection.received($0) } }
    #expect(events == [.answered(Self.good)])
  }

  @Test func itIsAskedAgainOverTheSameConnection() {
    var connection = Self.opened()
    _ = hear(
      &connection,
      Wire.hello + Wire.subscribed + Wire.id + Wire.primary("10.0.0.1", "6379") + Wire.master() + Wire.others)
    connection.ask()
    let push = Wire.message("+switch-master", "m 10.0.0.1 6379 10.0.0.4 6380")
    let events = hear(
      &connection, push + Wire.id + Wire.primary("10.0.0.4", "6380") + Wire.master(epoch: "8") + Wire.others)
    var next = Self.good
    (next.primary, next.configEpoch) = (RedisAddress(host: "10.0.0.4", port: 6380), 8)
    #expect(events == [.switched(to: next.primary), .answered(next)])
  }

  @Test(arguments: [
    ("+switch-master", "m 10.0.0.1 6379 10.0.0.4 6380", true),
    ("+promoted-slave", "slave 10.0.0.4:6380 10.0.0.4 6380 @ m 10.0.0.1 6379", true),
    ("+switch-master", "other 10.0.0.1 6379 10.0.0.4 6380", false),
    ("+promoted-slave", "slave 10.0.0.4:6380 10.0.0.4 6380 @ other 10.0.0.1 6379", false),
    ("+switch-master", "m 10.0.0.1 6379 10.0.0.4 0", false),
    ("+switch-master", "m 10.0.0.1 6379 10.0.0.4 65536", false),
    ("+switch-master", "m 10.0.0.1 6379  6380", false), ("+switch-master", "m", false), ("+switch-master", "", false),
    ("+promoted-slave", "m 10.0.0.1 6379 10.0.0.4 6380", false),
  ])
  func aFailoverIsHeardOf(channel: String, payload: String, isOurs: Bool) {
    var connection = Self.opened()
    _ = hear(&connection, Wire.hello + Wire.subscribed)
    let events = hear(&connection, Wire.message(channel, payload))
    #expect(events == (isOurs ? [.switched(to: RedisAddress(host: "10.0.0.4", port: 6380))] : []))
  }

  @Test(arguments: ["s_down,master", "master,s_down,o_down"])
  func itTellsThatItCannotReachThePrimary(flags: String) {
    guard case .answered(let told)? = answer(master: Wire.master(flags: flags)).first else {
      Issue.record("no answer")
      return
    }
    #expect(told.seesPrimaryDown)
  }

  @Test func whatItDoesNotSayIsDoneWithout() {
    var alone = Self.good
    (alone.id, alone.others) = (nil, [])
    #expect(
      answer(id: "-ERR Unknown sentinel subcommand\r\n", others: "-NOPERM no right\r\n") == [.answered(alone)])
  }

  @Test(arguments: [
    ("NOAUTH HELLO must be called with the client already authenticated", "redis_sentinel_password_file"),
    ("WRONGPASS invalid username-password pair", "refused the password of user 'default'"),
    ("ERR AUTH <password> called without any password configured", "no password set"),
    ("ERR unknown command `HELLO`, with args beginning with: `3` `AUTH` `hunter2`", "Redis 6.2 or newer"),
    ("DENIED Redis is running in protected mode", "protected mode"),
    ("NOPERM this user has no permissions to run the 'hello' command", "ACL SETUSER default +hello +subscribe"),
  ])
  func aRefusedLoginIsTold(error: String, words: String) {
    let events = answer(hello: "-\(error)\r\n", password: "hunter2")
    guard case .refused(let told)? = events.first else {
      Issue.record("not refused: \(events)")
      return
    }
    #expect(told.contains(words))
    #expect(!told.contains("hunter2"))
    #expect(events.count == 1)
  }

  @Test func aServerThatIsNoSentinelIsTold() {
    let hello = Wire.hello.replacing("$8\r\nsentinel", with: "$10\r\nstandalone")
    #expect(answer(hello: hello) == [.refused("this is a Redis, and no Sentinel: a Sentinel has a port of its own")])
  }

  @Test(arguments: ["_\r\n", "*-1\r\n"])
  func anUnknownMasterIsTold(reply: String) {
    #expect(answer(primary: reply) == [.refused("it knows no master 'm'")])
  }

  @Test func aMasterThatIsRemovedMeanwhileIsTold() {
    #expect(answer(master: "-ERR No such master with that name\r\n") == [.refused("it knows no master 'm'")])
  }

  @Test(arguments: [
    Wire.primary("", "6379"), Wire.primary("10.0.0.1", "0"), Wire.primary("10.0.0.1", "65536"),
    Wire.primary("10.0.0.1", "99999999999999999999"), Wire.primary("10.0.0.1\n", "1"), Wire.primary("a b", "1"),
    Wire.primary("a@b", "1"), Wire.primary(String(repeating: "h", count: 256), "1"), "*0\r\n", ":1\r\n", "*1\r\n:1\r\n",
  ])
  func aSenselessPrimaryIsRefused(primary: String) {
    guard case .refused? = answer(primary: primary).first else {
      Issue.record("taken")
      return
    }
  }

  @Test(arguments: [
    Wire.master(epoch: "-1"), Wire.master(epoch: "x"), Wire.master(others: "-1"), Wire.master(others: ""), "*0\r\n",
    ":1\r\n",
  ])
  func aSenselessMasterIsRefused(master: String) {
    #expect(answer(master: master) == [.refused("its answer about the master 'm' is not understood")])
  }

  @Test func onlySoManyOthersAreTaken() {
    let one = Wire.map(["ip": "10.0.0.2", "port": "26379"])
    let events = answer(others: "*100\r\n" + String(repeating: one, count: 100))
    guard case .answered(let told)? = events.first else {
      Issue.record("no answer")
      return
    }
    #expect(told.others.count == RedisSentinels.addressesMax)
  }

  @Test func whatWasNotAskedForEndsIt() {
    #expect(answer(hello: Wire.subscribed) == [.refused("it sent what was not asked for")])
    #expect(answer(subscribed: "+OK\r\n") == [.refused("it sent what was not asked for")])
    #expect(
      answer(others: Wire.others + "+OK\r\n")
        == [.answered(Self.good), .refused("it sent what was not asked for")])
    #expect(answer(hello: "?\r\n").count == 1)
  }

  @Test func itIsDeadAfterARefusal() {
    var connection = Self.opened()
    _ = hear(&connection, "-NOAUTH x\r\n")
    _ = connection.takeOutput()
    connection.ask()
    #expect(connection.takeOutput().isEmpty)
    #expect(hear(&connection, Wire.subscribed).isEmpty)
  }
}
