import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

/// The counter of a lock's tokens keeps close to Redis' clock, which replaces it when it is lost.
@Suite struct TokenCounterTests {
  private let model = RedisModel()
  private let encoders = ["a", "b"].map { LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f") }
  private let connections: [Int64]
  private let name = LockName("x")

  init() throws {
    connections = [model.connect(), model.connect()]
    for (encoder, connection) in zip(encoders, connections) {
      try model.execute(["HELLO", "3"], from: connection)
      try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
    }
    _ = model.takeOutput()
    model.beginEpoch()
  }

  private func execute(_ command: LeaseCommand, from host: Int) throws -> RedisModel.Output? {
    let encoded = encoders[host].encode(command)
    let script = RedisScript.leases.first { $0.name == encoded.script }?.source ?? []
    try model.execute(["EVAL", Bytes(script)] + encoded.parts.map { Bytes($0) }, from: connections[host])
    return model.takeOutput().last
  }

  /// Acquires; returns the reserved tokens.
  private func acquire(_ host: Int, _ attempt: UInt64, _ mode: HoldMode) throws -> Range<Token> {
    try tokens(
      of: execute(
        .acquire(
          name: name, attempt: attempt, ask: attempt, isTry: false, terms: .tested, mode: mode),
        from: host))
  }

  private func tokens(of output: RedisModel.Output?) throws -> Range<Token> {
    guard case .send(_, .array(let parts))? = output, parts.count == 4, case .bulk(let first) = parts[1],
      let token = Token(first.text), case .integer(let count) = parts[2]
    else {
      Issue.record("not granted: \(String(describing: output))")
      return 0..<1
    }
    return token..<token + count
  }

  private var counter: Token {
    guard case .string(let text)? = model.peek(Bytes(encoders[0].keys.fenceKey(name)))?.value else { return 0 }
    return Token(text.text) ?? 0
  }

  /// Two hosts, of which one always has the lock: the tokens that each gives back lie below the other's.
  @Test(arguments: [HoldMode.shared, .permit(of: 2)]) func itDoesNotRunAway(_ mode: HoldMode) throws {
    var held = [try acquire(0, 1, mode), 0..<1]
    var sizes: Set<Int> = []
    for turn in 1...4000 {
      let host = turn % 2
      model.wallMicroseconds += 20
      held[host] = try acquire(host, UInt64(turn + 1), mode)
      sizes.insert(held[host].count)
      #expect(!held[0].overlaps(held[1]))
      let other = held[1 - host]
      _ = try execute(
        .release(name: name, attempt: UInt64(turn), unused: .from(other.lowerBound + 1), isExact: true, terms: .tested),
        from: 1 - host)
      let ahead = counter - model.wallMicroseconds
      guard ahead <= 50_000 + 4096 + 2 * 16 else {
        Issue.record("\(ahead) us ahead of the clock after \(turn) turns")
        return
      }
    }
    // Blocks of 64 are slower than the clock and need not shrink.
    #expect(sizes == (mode == .shared ? [4096, 16] : [64, 16]))
    // The clock catches up.
    model.wallMicroseconds += 100_000
    #expect(try acquire(1, 5000, mode).count == sizes.max())
  }

  private var counterIsKept: Bool { model.liveLockKeys().contains(Bytes(encoders[0].keys.fenceKey(name))) }

  /// The counter lives until the clock has reached it, and a minute more.
  @Test func whatIsUsedOnceLeavesNothingForLongerThanAMinute() throws {
    let block = try acquire(0, 1, .exclusive)
    _ = try execute(.release(name: name, attempt: 1, unused: .from(block.lowerBound + 1), terms: .tested), from: 0)
    model.wallMicroseconds += 59_000_000
    #expect(counterIsKept)
    model.wallMicroseconds += 1_002_000
    #expect(model.liveLockKeys().isEmpty)
    // The clock is then set back by that minute.
    model.wallMicroseconds -= 60_000_000
    #expect(try acquire(1, 1, .exclusive).lowerBound > block.lowerBound)
  }

  @Test(arguments: [HoldMode.exclusive, .shared]) func aHostThatDiesLeavesItForAsLongAsItsBlockLasts(
    _ mode: HoldMode
  ) throws {
    let block = try acquire(0, 1, mode)
    model.wallMicroseconds = block.upperBound + 59_998_000
    #expect(counterIsKept)
    model.wallMicroseconds += 4000
    #expect(model.liveLockKeys().isEmpty)
  }

  /// While the counter is there the clock may go back by any span: the key ends by the same clock.
  @Test func aClockThatIsSetBackByADayTakesNoTokensBack() throws {
    var last: Token = 0
    for attempt in 1...4 {
      let block = try acquire(0, UInt64(attempt), .exclusive)
      #expect(block.lowerBound > last)
      last = block.lowerBound
      _ = try execute(.release(name: name, attempt: UInt64(attempt), unused: .from(last + 1), terms: .tested), from: 0)
      if attempt == 1 { model.wallMicroseconds -= 86_400_000_000 } else { model.wallMicroseconds += 600_000_000 }
      #expect(counterIsKept)
    }
    model.wallMicroseconds = last + 61_000_000
    #expect(model.liveLockKeys().isEmpty)
  }

  /// A lock that was held for long needs no counter afterwards: the clock is ahead of its block.
  @Test func whatWasHeldForLongLeavesNothing() throws {
    let block = try acquire(0, 1, .exclusive)
    for _ in 0..<20 {
      model.wallMicroseconds += 5_000_000
      _ = try execute(.renew([LeaseReference(name: name, attempt: 1)], epoch: .tested), from: 0)
    }
    #expect(!counterIsKept)
    _ = try execute(.release(name: name, attempt: 1, unused: .from(block.lowerBound + 1), terms: .tested), from: 0)
    model.wallMicroseconds += 2000
    #expect(model.liveLockKeys().isEmpty)
    model.wallMicroseconds -= 60_000_000
    #expect(try acquire(1, 1, .exclusive).lowerBound > block.lowerBound)
  }

  @Test func whatIsNotIssuedOfALeaseThatBecameSharedIsGivenBack() throws {
    let block = try acquire(0, 1, .exclusive)
    _ = try execute(.downgrade(name: name, attempt: 1, tokenEnd: block.lowerBound + 300, terms: .tested), from: 0)
    #expect(counter == block.lowerBound + 299)
    _ = try execute(.release(name: name, attempt: 1, unused: .from(block.lowerBound + 7), terms: .tested), from: 0)
    #expect(counter == block.lowerBound + 6)
  }

  /// While another host shares the lock, and while none does.
  @Test(arguments: [HoldMode.shared, .exclusive]) func moreTokensLieAboveAllThatWereReserved(_ mode: HoldMode) throws {
    let block = try acquire(0, 1, mode)
    let others = mode == .shared ? try acquire(1, 1, mode) : block
    let reserve = LeaseCommand.reserve(
      name: name, attempt: 1, tokenEnd: block.upperBound, terms: .tested(above: block.upperBound - 4))
    let more = try tokens(of: execute(reserve, from: 0))
    #expect(more.lowerBound == others.upperBound && more.count == block.count)
    #expect(counter == more.upperBound - 1)
    // The same command twice.
    #expect(try tokens(of: execute(reserve, from: 0)) == more)
    // A release by a host that has not heard of the reserved block.
    _ = try execute(.release(name: name, attempt: 1, unused: .from(block.upperBound - 3), terms: .tested), from: 0)
    #expect(counter == more.lowerBound - 1)
    guard case .send(_, .integer(0))? = try execute(reserve, from: 0) else {
      Issue.record("tokens for who does not have the lock")
      return
    }
  }

  @Test func nothingIsGivenBackOfALeaseOfWhichTheHostDoesNotKnow() throws {
    let block = try acquire(0, 1, .exclusive)
    _ = try execute(.release(name: name, attempt: 1, unused: .unknown, terms: .tested), from: 0)
    #expect(counter == block.upperBound - 1)
  }
}
