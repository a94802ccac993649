import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// The scripts meet data of a later release in a format that they do not read.
@Suite struct LaterFormatTests {
  private let model = RedisModel()
  private let encoders = ["a", "b"].map { LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f") }
  private let connections: [Int64]
  private let name = LockName("x")
  private static let value = "sidelock2;anything"
  /// Places of a host that is connected, and of one that is not.
  private static let place = "2;b/1f:7:10000:anything"
  private static let deadPlace = "2;gone/1f:7:10000:anything"
  /// The same with nothing but what every format has.
  private static let barePlace = "2;b/1f:7:10000"
  private static let bareDeadPlace = "2;gone/1f:7:10000"

  init() throws {
    connections = [model.connect(), model.connect()]
    for (encoder, connection) in zip(encoders, connections) {
      try model.execute(["HELLO", "3"], from: connection)
      try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
    }
    _ = model.takeOutput()
    model.beginEpoch()
  }

  private var lockKey: Bytes { Bytes(encoders[0].keys.lockKey(name)) }
  private var queueKey: Bytes { Bytes(encoders[0].keys.queueKey(name)) }
  private var fenceKey: Bytes { Bytes(encoders[0].keys.fenceKey(name)) }

  private func reply(to command: RedisCommand) throws -> ServerReply? {
    let script = RedisScript.leases.first { $0.name == command.script }?.source ?? []
    try model.execute(["EVAL", Bytes(script)] + command.parts.map { Bytes($0) }, from: connections[0])
    for case .send(connections[0], let reply) in model.takeOutput() { if case .push = reply {} else { return reply } }
    return nil
  }

  private func write(_ parts: [Bytes]) throws {
    try model.execute(parts, from: connections[1])
    _ = model.takeOutput()
  }

  private func acquire(_ attempt: UInt64 = 3, isTry: Bool = false) throws -> String? {
    let command = encoders[0].encode(
      .acquire(name: name, attempt: attempt, ask: 1, isTry: isTry, terms: .tested, mode: .exclusive))
    guard case .array(let parts)? = try reply(to: command), case .bulk(let word)? = parts.first else { return nil }
    return word.text
  }

  private func string(_ key: Bytes) -> String? {
    guard case .string(let text)? = model.peek(key)?.value else { return nil }
    return text.text
  }

  private var lock: String? { string(lockKey) }
  private var fence: Int64? { string(fenceKey).flatMap { Int64($0) } }

  private var queue: [String] {
    guard case .list(let entries)? = model.peek(queueKey)?.value else { return [] }
    return entries.map(\.text)
  }

  @Test func aValueOfALaterFormatIsAHolders() throws {
    try write(["SET", lockKey, Bytes(Self.value), "PX", "9000"])
    #expect(try acquire(isTry: true) == "foreign")
    #expect(try acquire() == "foreign")
    for command in [
      encoders[0].encode(.renew([LeaseReference(name: name, attempt: 3)], epoch: .tested)),
      encoders[0].encode(.reserve(name: name, attempt: 3, tokenEnd: 1, terms: .tested)),
      encoders[0].encode(.downgrade(name: name, attempt: 3, tokenEnd: 1, terms: .tested)),
      encoders[0].encode(.release(name: name, attempt: 3, unused: .all, terms: .tested)),
    ] {
      let told = try reply(to: command)
      #expect(told == .integer(0) || told == .array([.integer(0)]))
      #expect(lock == Self.value)
    }
    #expect(queue.isEmpty)
  }

  @Test func anEntryOfALaterFormatKeepsItsPlaceWhileItsHostIsThere() throws {
    try write(["RPUSH", queueKey, Bytes(Self.place)])
    #expect(try acquire() == "queued")
    #expect(lock == nil)
    #expect(queue == [Self.place, "1;a/1f:3:10000:x"])
    // It has come to its turn.
    try write(["LPOP", queueKey])
    #expect(try acquire() == "granted")
  }

  @Test func aReleaseLeavesTheLockToAnEntryOfALaterFormat() throws {
    #expect(try acquire() == "granted")
    try write(["RPUSH", queueKey, Bytes(Self.place)])
    #expect(
      try reply(to: encoders[0].encode(.release(name: name, attempt: 3, unused: .all, terms: .tested))) == .integer(1))
    #expect(lock == nil)
    #expect(queue == [Self.place])
  }

  @Test(arguments: [deadPlace, bareDeadPlace])
  func anEntryOfALaterFormatWhoseHostIsGoneIsTakenOut(_ place: String) throws {
    try write(["RPUSH", queueKey, Bytes(place)])
    #expect(try acquire() == "granted")
    #expect(queue.isEmpty)
  }

  /// This host has given an attempt up, and the release of it has not come yet. The lock is free then, for the first of the
  /// queue.
  @Test(arguments: [HoldMode.exclusive, .shared])
  func whatThisHostHasGivenUpIsLeftToAnEntryOfALaterFormat(_ mode: HoldMode) throws {
    _ = try reply(
      to: encoders[0].encode(
        .acquire(name: name, attempt: 2, ask: 1, isTry: false, terms: .tested, mode: mode)))
    #expect(lock?.contains("a/1f:2:") == true)
    try write(["RPUSH", queueKey, Bytes(Self.place)])
    // The counter was lost, and the clock is set back: what may have been issued is not issued again.
    try write(["DEL", fenceKey])
    model.wallMicroseconds -= 2_000_000
    #expect(try acquire() == "queued")
    #expect(lock == nil)
    #expect(queue == [Self.place, "1;a/1f:3:10000:x"])
    try write(["LPOP", queueKey])
    let first = try #require(fence)
    #expect(try acquire() == "granted")
    #expect(try #require(fence) > first)
  }

  /// What shows that a host waits is all that an entry of a later format needs to have.
  @Test func anEntryThatEndsAtTheLeaseKeepsItsPlace() throws {
    try write(["RPUSH", queueKey, Bytes(Self.barePlace)])
    #expect(try acquire() == "queued")
    #expect(queue == [Self.barePlace, "1;a/1f:3:10000:x"])
    // Nobody has to be asked again because of it.
    let places = [WaitingPlace(name: name, attempt: 3, mode: .exclusive, leaseMilliseconds: 10_000)]
    try write(["SET", lockKey, "sidelock1;x;b/1f:1:9", "PX", "9000"])
    #expect(try reply(to: encoders[0].encode(.checkPlaces(places, epoch: .tested))) == .array([]))
    try write(["DEL", lockKey, queueKey])
    #expect(try acquire() == "granted")
    try write(["RPUSH", queueKey, Bytes(Self.barePlace), "1;b/1f:8:10000:x"])
    #expect(
      try reply(to: encoders[0].encode(.release(name: name, attempt: 3, unused: .all, terms: .tested))) == .integer(1))
    #expect(lock == nil)
    #expect(queue == [Self.barePlace, "1;b/1f:8:10000:x"])
  }

  /// In this format an entry has a mode.
  @Test(arguments: ["1;b/1f:7:10000", "1;b/1f:7:10000x", "1;b/1f:7", "2;b/1f:7", "x"])
  func whatIsNoEntryIsPassedOver(_ entry: String) throws {
    try write(["RPUSH", queueKey, Bytes(entry)])
    #expect(try acquire() == "granted")
    #expect(queue.isEmpty)
  }
}
