import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// What take_away.lua does to the keys of a lock, and what it leaves alone.
@Suite struct TakeAwayTests {
  private let model = RedisModel()
  private let encoders = ["a", "b", "c"].map { LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f") }
  private let connections: [Int64]
  private let name = LockName("x")

  init() throws {
    connections = [model.connect(), model.connect(), model.connect()]
    for (encoder, connection) in zip(encoders, connections) {
      try model.execute(["HELLO", "3"], from: connection)
      try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
    }
    _ = model.takeOutput()
    model.beginEpoch()
  }

  @discardableResult
  private func execute(_ command: RedisCommand, from host: Int = 2) throws -> [RedisModel.Output] {
    let script = RedisScript.leases.first { $0.name == command.script }?.source ?? []
    try model.execute(["EVAL", Bytes(script)] + command.parts.map { Bytes($0) }, from: connections[host])
    return model.takeOutput()
  }

  private func acquire(_ host: Int, _ attempt: UInt64 = 1, _ mode: HoldMode = .exclusive) throws {
    try execute(
      encoders[host].encode(
        .acquire(name: name, attempt: attempt, ask: attempt, isTry: false, terms: .tested, mode: mode)
      ), from: host)
  }

  private func take(_ seen: [String], token: Token? = nil) throws -> [(entry: String, left: Int64)] {
    let outputs = try execute(
      encoders[2].takeAway(name, seen: seen.map { Array($0.utf8) }, token: token, terms: .tested))
    for case .send(_, .array(let taken)) in outputs {
      return taken.compactMap {
        guard case .array(let parts) = $0, case .bulk(let entry) = parts[0], case .integer(let left) = parts[1] else {
          return nil
        }
        return (entry.text, left)
      }
    }
    Issue.record("no answer in \(outputs)")
    return []
  }

  private func text(_ key: [UInt8]) -> String? {
    guard case .string(let text)? = model.peek(Bytes(key))?.value else { return nil }
    return text.text
  }

  private var lock: String? { text(encoders[0].keys.lockKey(name)) }

  /// Who has the lock, as take_away.lua names them: `<host>/<instance>:<attempt>:<first token>`.
  private var holders: [String] {
    (lock.flatMap { LockValue(Bytes($0)) }?.holders ?? []).map { "\($0.owner):\($0.attempt):\($0.token)" }
  }

  /// The first token of the only holder.
  private func token() throws -> Token {
    try #require(holders.first.flatMap { Token($0.split(separator: ":")[2]) })
  }

  private var counter: Token { Token(text(encoders[0].keys.fenceKey(name)) ?? "") ?? 0 }

  @Test func whatIsNotAsItWasSeenStays() throws {
    try acquire(0)
    let (held, value, first) = (try #require(holders.first), lock, try token())
    for seen in ["a/1f:1:1", "a/1f:2:\(first)", "b/1f:1:\(first)", "", try #require(value)] {
      #expect(try take([seen]).isEmpty)
    }
    #expect(lock == value)
    model.wallMicroseconds += 4_000_000
    let taken = try take([held])
    #expect(taken.map(\.entry) == [held] && taken.map(\.left) == [6000])
    #expect(lock == nil)
    // Once only.
    #expect(try take([held]).isEmpty)
  }

  @Test func whoWaitsGetsItWithAHigherToken() throws {
    try acquire(0)
    try acquire(1)
    let held = try #require(holders.first)
    let block = counter
    #expect(try take([held]).count == 1)
    #expect(holders.first?.hasPrefix("b/1f:") == true)
    #expect(try token() > block)
  }

  /// A counter that was lost, and a clock that was set back: the holder may still run under any token of its block.
  @Test func theNextTokenIsAboveTheBlockThatWasTaken() throws {
    try acquire(0)
    let held = try #require(holders.first)
    let block = counter
    try model.execute(["DEL", Bytes(encoders[0].keys.fenceKey(name))], from: connections[2])
    _ = model.takeOutput()
    model.wallMicroseconds -= 2_000_000
    #expect(try take([held]).count == 1)
    try acquire(1)
    #expect(try token() > block)
  }

  @Test func ofThoseWhoShareTheOthersStay() throws {
    for host in [0, 1] { try acquire(host, 1, .shared) }
    let (entries, named) = (try #require(lock).split(separator: ";"), holders)
    #expect(try take([named[0]]).map(\.entry) == [named[0]])
    #expect(lock == "sidelock1;s;" + entries[3])
    #expect(try take([named[1]]).map(\.entry) == [named[1]])
    #expect(lock == nil)
  }

  @Test func ofASemaphoreThePermitGoesToWhoeverWaits() throws {
    let two = HoldMode.permit(of: 2)
    try acquire(0, 1, two)
    try acquire(1, 1, two)
    try acquire(1, 2, two)
    #expect(try take([try #require(holders.first)]).count == 1)
    #expect(holders.map { String($0.prefix(7)) } == ["b/1f:1:", "b/1f:2:"])
  }

  @Test func onlyTheHolderOfATokenLosesIt() throws {
    try acquire(0)
    let held = try #require(holders.first)
    let first = try token()
    #expect(try take([held], token: first - 1).isEmpty)
    #expect(try take([held], token: counter + 1).isEmpty)
    #expect(try take([held], token: first + 5).count == 1)
  }

  @Test(arguments: [nil, "5000"]) func aForeignHolderIsTakenByItsValue(_ expiry: String?) throws {
    let key = Bytes(encoders[0].keys.lockKey(name))
    try model.execute(["SET", key, "a/1f; theirs"] + (expiry.map { ["PX", Bytes($0)] } ?? []), from: connections[2])
    _ = model.takeOutput()
    try acquire(1)
    #expect(try take(["theirs"]).isEmpty)
    #expect(try take(["a/1f; theirs"], token: 7).isEmpty)
    #expect(try take(["a/1f; theirs"]).map(\.left) == [expiry == nil ? -1 : 5000])
    #expect(holders.first?.hasPrefix("b/1f:1:") == true)
  }

  /// Its daemon is there, and this one does not know how to ask it.
  @Test(arguments: ["sidelock2;anything", "sidelock10;x;a/1f:1:1", "sidelock99999999999999999999;", "sidelock2;"])
  func whatALaterFormatTellsOfIsNotTaken(_ value: String) throws {
    let key = Bytes(encoders[0].keys.lockKey(name))
    try model.execute(["SET", key, Bytes(value), "PX", "5000"], from: connections[2])
    _ = model.takeOutput()
    try acquire(1)
    #expect(LeaseReplyDecoder.foreignValue(Array(value.utf8)) == .ofLaterRelease)
    #expect(try take([value]).isEmpty)
    #expect(try take([value], token: 1).isEmpty)
    #expect(lock == value)
  }

  /// No format has these beginnings.
  @Test(arguments: [
    "sidelock;x", "sidelock1;y", "sidelock01;", "sidelock0;x", "sidelock2", "Sidelock2;", " sidelock2;",
  ])
  func whatOnlyLooksLikeALaterFormatIsTaken(_ value: String) throws {
    let key = Bytes(encoders[0].keys.lockKey(name))
    try model.execute(["SET", key, Bytes(value), "PX", "5000"], from: connections[2])
    _ = model.takeOutput()
    #expect(LeaseReplyDecoder.foreignValue(Array(value.utf8)) == .ofOthers(Array(value.utf8)))
    #expect(try take([value]).map(\.left) == [5000])
    #expect(lock == nil)
  }

  /// A sidelock key that lost its TTL.
  @Test func aKeyWithoutAnEndIsTaken() throws {
    let key = Bytes(encoders[0].keys.lockKey(name))
    try model.execute(["SET", key, "sidelock1;x;a/1f:9:1700000000000000"], from: connections[2])
    _ = model.takeOutput()
    #expect(try take(["a/1f:9:1700000000000000"]).map(\.left) == [-1])
    #expect(lock == nil)
  }

  @Test func aServerThatMustNotBeWrittenToChangesNothing() throws {
    try acquire(0)
    try acquire(1)
    let (held, value) = (try #require(holders.first), lock)
    model.trouble = .readOnly
    let outputs = try execute(encoders[2].takeAway(name, seen: [Array(held.utf8)], token: nil, terms: .tested))
    guard case .send(_, .error)? = outputs.last, outputs.count == 1 else {
      Issue.record("\(outputs)")
      return
    }
    #expect(lock == value)
  }
}
