import Foundation
import LockEngine
import LockTypes
import RESP
import RedisLeases
import TestSupport
import Testing

/// The model is honest when nothing that the scripts can do shows a difference from a real server.
@Suite struct RedisModelTests {
  /// Many seeds in one test, so that one server serves them all.
  @Test(.enabled(if: RealRedis.isInstalled)) func modelAgreesWithARealServerOnRandomCommands() throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    for seed in UInt64(0)..<300 {
      _ = try real.call(["FLUSHALL"])
      let model = RedisModel()
      let connection = try connect(to: model)
      var random = SeededRandom(seed: seed)
      for step in 0..<40 {
        let command = randomCommand(&random)
        let expected = try real.call(command)
        let got = try call(model, connection, command)
        if !agree(expected, got, command) {
          Issue.record("seed \(seed), step \(step), \(command): Redis says \(expected), the model \(got)")
          break
        }
      }
    }
  }

  @Test(.enabled(if: RealRedis.isInstalled), arguments: Self.scripts)
  func modelAgreesWithARealServerOnScripts(_ script: String) throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    for setup: [Bytes] in [["SET", "{s}text", "abc"], ["RPUSH", "{s}list", "a", "b"], ["SET", "{s}number", "41"]] {
      _ = try real.call(setup)
      _ = try call(model, connection, setup)
    }
    let command: [Bytes] = ["EVAL", Bytes(script), "3", "{s}text", "{s}list", "{s}number", "one", "22", ""]
    let expected = try real.call(command)
    let got = try call(model, connection, command)
    #expect(Self.normalised(expected) == Self.normalised(got))
  }

  static let scripts = [
    "return 3.99", "return -3.99", "return true", "return false", "return nil", "return {1, 2, nil, 4}",
    "return {1, 'x', {true, false, 2.5}}", "return {ok = 'FINE'}", "return {err = 'BAD thing'}",
    "return redis.status_reply('FINE')", "return redis.error_reply('BAD thing')", "return redis.error_reply('-BAD x')",
    "return redis.error_reply('single')", "return redis.call('GET', KEYS[1])",
    "return redis.call('LPOS', KEYS[2], 'none')",
    "return redis.call('GET', KEYS[2])", "return redis.pcall('GET', KEYS[2])",
    "return redis.pcall('GET', KEYS[2]).err", "local r = redis.pcall('GET', KEYS[2]) return type(r.err)",
    "return redis.call('SET', KEYS[1], 'x').ok", "return redis.call('SET', KEYS[1], 'x', 'NX') == false",
    "return redis.call('LRANGE', KEYS[2], 0, -1)", "return redis.call('LPOP', KEYS[2])",
    "return redis.call('LPOP', KEYS[2], 0)", "return redis.call('LPOP', KEYS[2], 1)",
    "return redis.call('LPOP', KEYS[2], 9)", "return redis.call('LPOP', KEYS[2], -1)",
    "redis.call('DEL', KEYS[2]) return redis.call('LPOP', KEYS[2], 0)", "return redis.call('LPOP', KEYS[1], 0)",
    "return redis.call('INCRBY', KEYS[3], 1)", "return redis.call('INCRBY', KEYS[3], 1.0) + 0.5",
    "return tostring(redis.call('INCRBY', KEYS[3], '1800000000000001'))",
    "return 1700000000123456 .. ''", "return string.format('%d', 1700000000123456)",
    "return string.format('%.0f', 9007199254740991)",
    "redis.call('SET', KEYS[1], 9007199254740991) return redis.call('GET', KEYS[1])",
    "redis.call('SET', KEYS[1], 1700000000123456 + 1) return redis.call('GET', KEYS[1])",
    "redis.call('SET', KEYS[1], 0.1) return redis.call('GET', KEYS[1])",
    "return redis.call('PTTL', KEYS[1])", "return type(redis.call('PTTL', KEYS[1]))", "return #ARGV", "return ARGV[3]",
    "return ARGV[4] == nil", "return tonumber(ARGV[2]) * 2", "return tonumber(ARGV[1]) == nil", "return KEYS",
    "return redis.call('PUBLISH', 'nobody', 'x')", "return undefinedGlobal", "someGlobal = 1 return someGlobal",
    "error('own words')", "error({err = 'CODE own words'})", "return redis.call('GET', {})",
    "local t = redis.call('TIME') return {#t, type(t[1]), #t[1]}", "return pcall(redis.call, 'GET', KEYS[2])",
    "return {pcall(redis.call, 'GET', KEYS[1])}", "redis.call('DEL', KEYS[1]) return redis.call('EXISTS', KEYS[1])",
    "return math.max(3, 7)", "return string.rep('ab', 3)", "return not a syntax",
    "return redis.call('HSET', KEYS[1], 'a', 'b')", "return {redis.call('TYPE', KEYS[2]).ok, {}}",
  ]

  /// The states in which a server refuses, inside scripts and outside.
  @Test(.enabled(if: RealRedis.isInstalled), arguments: [RedisModel.Trouble.readOnly, .outOfMemory])
  func modelAgreesWithARealServerOnRefusals(_ trouble: RedisModel.Trouble) throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    for setup: [Bytes] in [["SET", "{s}a", "1"], ["RPUSH", "{s}l", "x"]] {
      _ = try real.call(setup)
      _ = try call(model, connection, setup)
    }
    let change: [Bytes] =
      trouble == .readOnly ? ["REPLICAOF", "127.0.0.1", "1"] : ["CONFIG", "SET", "maxmemory", "1"]
    #expect(try real.call(change) == .ok)
    model.trouble = trouble
    let commands: [[Bytes]] = [
      ["GET", "{s}a"], ["SET", "{s}a", "2"], ["DEL", "{s}l"], ["PEXPIRE", "{s}a", "100000"], ["PUBLISH", "c", "x"],
      ["EVAL", "return redis.call('GET', KEYS[1])", "1", "{s}a"],
      ["EVAL", "return redis.call('SET', KEYS[1], 'x')", "1", "{s}a"],
      ["EVAL", "return redis.pcall('SET', KEYS[1], 'x')", "1", "{s}a"],
      ["EVAL", "redis.call('DEL', KEYS[1]) return redis.call('SET', KEYS[1], 'x')", "1", "{s}a"],
      ["EVAL", "redis.call('PUBLISH', 'c', 'x') return redis.call('RPUSH', KEYS[1], 'x')", "1", "{s}l"],
      ["GET", "{s}a"],
    ]
    for command in commands {
      let expected = Self.normalised(try real.call(command))
      #expect(try expected == Self.normalised(call(model, connection, command)), "\(command)")
    }
  }

  /// A client's script publishes to the client itself: where the message comes among the replies.
  @Test(.enabled(if: RealRedis.isInstalled)) func modelAgreesWithARealServerOnTheOrderOfPushes() throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    try real.send(["SUBSCRIBE", "inbox"])
    try real.send(["EVAL", "local n = redis.call('PUBLISH', 'inbox', 'hello') return {n, 'done'}", "0"])
    try real.send(["PING"])
    let expected = try (0..<4).map { _ in try real.receive() }
    try model.execute(["SUBSCRIBE", "inbox"], from: connection)
    try model.execute(
      ["EVAL", "local n = redis.call('PUBLISH', 'inbox', 'hello') return {n, 'done'}", "0"], from: connection)
    try model.execute(["PING"], from: connection)
    let before = replies(model, connection)
    model.ownPushesComeAfterTheReply = true
    try model.execute(
      ["EVAL", "local n = redis.call('PUBLISH', 'inbox', 'hello') return {n, 'done'}", "0"], from: connection)
    let after = replies(model, connection)
    #expect(after == [before[2], before[1]])
    #expect(expected == before || expected == [before[0], before[2], before[1], before[3]])
  }

  /// What scripts ask a server about itself, as a server that is made a replica, and later a primary again, says it.
  @Test(.enabled(if: RealRedis.isInstalled)) func modelAgreesWithARealServerOnWhoItIs() throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    let ids: [Bytes] = [
      "EVAL",
      """
      local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
      local data = redis.call('INFO', 'replication')
      local id, second = string.match(data, 'master_replid:(%x+)'), string.match(data, 'master_replid2:(%x+)')
      return { run, id, string.find(second, '[^0]') and 'promoted' or 'new', string.match(data, 'role:(%a+)') }
      """, "0",
    ]
    func look() throws -> (real: [ServerReply], model: [ServerReply]) {
      guard case .array(let said) = try real.call(ids), case .array(let got) = try call(model, connection, ids) else {
        throw ModelError(description: "no list")
      }
      for (x, y) in zip(said, got).prefix(2) {
        guard case .bulk(let x) = x, case .bulk(let y) = y else { throw ModelError(description: "no text") }
        #expect(x.count == y.count)
      }
      #expect(said.count == got.count && said.suffix(2) == got.suffix(2))
      return (said, got)
    }
    let first = try look()
    #expect(first.real[2] == .bulk("new") && first.real[3] == .bulk("master"))
    #expect(try look() == first)
    #expect(try real.call(["REPLICAOF", "127.0.0.1", "1"]) == .ok)
    model.trouble = .readOnly
    #expect(try look().real[0] == first.real[0])
    #expect(try real.call(["REPLICAOF", "NO", "ONE"]) == .ok)
    model.trouble = .none
    model.historyCount += 1
    model.wasPromoted = true
    let promoted = try look()
    #expect(promoted.real[0] == first.real[0] && promoted.model[0] == first.model[0])
    #expect(promoted.real[1] != first.real[1] && promoted.model[1] != first.model[1])
    let other = try RealRedis()
    defer { other.stop() }
    _ = try other.call(["HELLO", "3"])
    model.restart(with: [:])
    let again = try connect(to: model)
    guard case .array(let its) = try other.call(ids), case .array(let mine) = try call(model, again, ids) else {
      throw ModelError(description: "no list")
    }
    #expect(its[0] != promoted.real[0] && mine[0] != promoted.model[0])
    #expect(its[1] != promoted.real[1] && mine[1] != promoted.model[1])
  }

  /// Who listens, by the names of channels.
  @Test(
    .enabled(if: RealRedis.isInstalled),
    arguments: ["sl:inbox:*", "sl:inbox:h?/1", "*", "", "sl:inbox:h1/1", "sl:inbox:h\\*", "x*", "*/2"])
  func modelAgreesWithARealServerOnWhoListens(_ pattern: String) throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    func channels(_ reply: ServerReply) -> [String] {
      guard case .array(let items) = reply else { return ["\(reply)"] }
      return items.map(\.description).sorted()
    }
    for setup: [Bytes] in [
      ["SUBSCRIBE", "sl:inbox:h1/1"], ["SUBSCRIBE", "sl:inbox:h2/1"], ["SUBSCRIBE", "sl:inbox:h1/2"],
      ["SUBSCRIBE", "sl:inbox:h*"], ["SUBSCRIBE", "other"],
    ] {
      _ = try real.call(setup)
      try model.execute(setup, from: connection)
      for command: [Bytes] in [
        ["PUBSUB", "CHANNELS", Bytes(pattern)],
        ["EVAL", "return redis.call('PUBSUB', 'CHANNELS', ARGV[1])", "0", Bytes(pattern)],
      ] {
        _ = replies(model, connection)
        #expect(try channels(real.call(command)) == channels(call(model, connection, command)), "\(command)")
      }
    }
  }

  /// Two databases that change places, and are emptied.
  @Test(.enabled(if: RealRedis.isInstalled)) func modelAgreesWithARealServerOnDatabases() throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let model = RedisModel()
    let connection = try connect(to: model)
    for seed in UInt64(0)..<40 {
      var random = SeededRandom(seed: seed)
      for step in 0..<20 {
        let command: [Bytes] = random.pick([
          ["SET", "a", Bytes(random.pick(Int64(1)...9))], ["GET", "a"], ["GET", "a"], ["RPUSH", "b", "x"],
          ["LRANGE", "b", "0", "-1"], ["SWAPDB", "0", "1"], ["SWAPDB", "1", "0"], ["FLUSHDB"], ["FLUSHALL"],
        ])
        let expected = try real.call(command)
        let got = try call(model, connection, command)
        #expect(expected == got, "seed \(seed), step \(step), \(command)")
      }
    }
  }

  @Test func modelThrowsOnWhatItDoesNotKnow() throws {
    let model = RedisModel()
    let connection = try connect(to: model)
    for command: [Bytes] in [
      ["SORT", "x"], ["SET", "k", "v", "IFEQ", "x"], ["GET"], ["EVAL", "return redis.call('SORT', KEYS[1])", "1", "k"],
      ["EVAL", "return redis.call('GET', 'undeclared')", "0"], ["INFO"], ["INFO", "memory"], ["PUBSUB", "NUMPAT"],
      ["SWAPDB", "0", "2"], ["FLUSHDB", "ASYNC"],
    ] {
      #expect(throws: ModelError.self, "\(command)") { try model.execute(command, from: connection) }
    }
  }

  @Test func keysExpireByTheVirtualClock() throws {
    let model = RedisModel()
    let connection = try connect(to: model)
    #expect(try call(model, connection, ["SET", "k", "v", "PX", "100"]) == .ok)
    model.wallMicroseconds += 60_000
    #expect(try call(model, connection, ["PTTL", "k"]) == .integer(40))
    model.wallMicroseconds += 40_000
    #expect(try call(model, connection, ["GET", "k"]) == .bulk("v"))
    model.wallMicroseconds += 1_000
    #expect(try call(model, connection, ["GET", "k"]) == .null)
  }

  /// The project's own scripts, with what they publish: three hosts, of which two listen.
  @Test(.enabled(if: RealRedis.isInstalled)) func scriptsDoTheSameOnTheModelAndOnARealServer() throws {
    let real = try RealRedis()
    defer { real.stop() }
    _ = try real.call(["HELLO", "3"])
    let encoders = ["a", "b", "c"].map {
      LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f")
    }
    for encoder in encoders.dropLast() { _ = try real.call(["SUBSCRIBE", Bytes(encoder.inboxChannel)]) }
    for seed in UInt64(0)..<150 {
      let model = RedisModel()
      let connection = try connect(to: model)
      for encoder in encoders.dropLast() {
        try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
      }
      _ = model.takeOutput()
      _ = try real.call(["FLUSHALL"])
      var random = SeededRandom(seed: seed)
      let names = [LockName("x"), LockName("braces {%} and blanks")]
      for step in 0..<40 {
        let command = scriptCommand(&random, encoders, names, step)
        try real.send(command)
        try real.send(["PING"])
        var expected: [ServerReply] = []
        while expected.last != .status("PONG") { expected.append(try real.receive()) }
        try model.execute(command, from: connection)
        try model.execute(["PING"], from: connection)
        let got = replies(model, connection)
        if expected.map({ Self.withoutTimes($0) }) != got.map({ Self.withoutTimes($0) }) {
          Issue.record("seed \(seed), step \(step), \(command.dropFirst(2)): Redis says \(expected), the model \(got)")
          break
        }
      }
    }
  }

  private func scriptCommand(
    _ random: inout SeededRandom, _ encoders: [LeaseCommandEncoder], _ names: [LockName], _ step: Int
  ) -> [Bytes] {
    let encoder = random.pick(encoders)
    let name = random.pick(names)
    // Counters far above the clock make the tokens the same on both sides.
    if step < names.count { return ["SET", Bytes(encoder.keys.fenceKey(names[step])), "8000000000000000"] }
    if step == names.count || random.chance(10) { return epochCommand(&random) }
    let attempt = UInt64(random.pick(1...4))
    let mode: HoldMode = random.pick([.exclusive, .exclusive, .shared, .shared, .permit(of: 2), .permit(of: 3)])
    let command: RedisCommand
    switch random.pick(0...16) {
    case 13, 14:
      let reclaimed = (0..<random.pick(1...3)).map { _ in
        ReclaimedLease(
          name: random.pick(names), attempt: UInt64(random.pick(1...4)), mode: mode,
          firstToken: random.pick([8_000_000_000_000_001, 8_000_000_000_065_537]),
          tokenCount: random.pick([16, 65_536]),
          mayReplace: random.chance(70))
      }
      command = encoder.encode(.reclaim(reclaimed, leaseMilliseconds: 1_000_000, epoch: .tested))
    case 15:
      command = encoder.encode(
        .checkPlaces(
          [1, 2].map {
            WaitingPlace(name: name, attempt: $0, mode: mode, leaseMilliseconds: 1_000_000)
          }, epoch: .tested))
    case 0...4:
      command = encoder.encode(
        .acquire(
          name: name, attempt: attempt, ask: UInt64(random.pick(1...9)), isTry: random.chance(30),
          terms: .tested(above: random.chance(20) ? 8_500_000_000_000_000 : 0), mode: mode,
          leaseMilliseconds: 1_000_000,
          keeping: random.chance(30) ? UInt64(random.pick(1...4)) : nil))
    case 5, 6:
      command = encoder.encode(
        .release(
          name: name, attempt: attempt, unused: random.pick([.all, .from(8_000_000_000_000_007), .unknown]),
          isExact: random.chance(50), terms: .tested))
    case 7:
      command = encoder.encode(
        .renew(names.map { LeaseReference(name: $0, attempt: attempt) }, leaseMilliseconds: 1_000_000, epoch: .tested))
    case 8: command = encoder.inspect(names, waitingHostsMax: 2)
    case 9:
      command = encoder.encode(
        .downgrade(name: name, attempt: attempt, tokenEnd: 8_000_000_000_000_009, terms: .tested))
    case 10:
      let end = random.pick([Token(65_537), 17, 33, 9]) + 8_000_000_000_000_000
      command = encoder.encode(.reserve(name: name, attempt: attempt, tokenEnd: end, terms: .tested))
    case 11:
      let holders = encoders.flatMap { encoder in
        [8_000_000_000_000_001, 8_000_000_000_065_537].map { encoder.me + Array(":\(attempt):\($0)".utf8) }
      }
      command = encoder.takeAway(
        name, seen: holders + [Array("foreign".utf8)], token: random.chance(20) ? 8_000_000_000_000_005 : nil,
        terms: .tested)
    default:
      let key = random.pick([encoder.keys.lockKey(name), encoder.keys.queueKey(name)])
      return random.pick([
        ["SET", Bytes(key), "foreign", "NX", "PX", "1000000"], ["SET", Bytes(encoder.keys.lockKey(name)), "foreign"],
        ["DEL", Bytes(key)], ["RPUSH", Bytes(key), "rubbish"], ["HSET", Bytes(key), "a", "b"],
      ])
    }
    let parts = command.parts.map { Bytes($0) }
    guard let script = command.script else { return parts }
    let source = RedisScript.leases.first { $0.name == script }?.source ?? []
    return ["EVAL", Bytes(source)] + parts
  }

  private func epochCommand(_ random: inout SeededRandom) -> [Bytes] {
    let own = EpochID.tested.text
    let values = [
      "1;\(own);o;-;0;10000;10000;0", "1;\(own);o;-;0;10000;10000;0", "1;\(own);g;-;0;60000;10000;0", "rubbish",
      "1;6:b/1f:3;o;-;0;10000;10000;0", "2;\(own);o;later",
    ]
    return ["SET", RedisModel.testedEpochKey, Bytes(random.pick(values))]
  }

  private static func withoutTimes(_ reply: ServerReply) -> ServerReply {
    switch normalised(reply) {
    case .integer(let value) where (900_000...2_000_000).contains(value): .integer(1_000_000)
    // Two of them are Redis' clock; behind it stands whether the place is a new one.
    case .array(let items) where items.first == .bulk("queued") && items.count >= 6:
      .array([items[0], items[1], withoutTimes(items[2]), items[3]] + items[6...])
    case .array(let items) where items.first == .bulk("foreign") && items.count >= 4:
      .array([items[0], withoutTimes(items[1])] + items[4...])
    case .array(let items): .array(items.map { withoutTimes($0) })
    case .push(let items): .push(items.map { withoutTimes($0) })
    case let other: other
    }
  }

  // MARK: Support

  private func connect(to model: RedisModel) throws -> Int64 {
    let connection = model.connect()
    _ = try call(model, connection, ["HELLO", "3"])
    return connection
  }

  private func replies(_ model: RedisModel, _ connection: Int64) -> [ServerReply] {
    model.takeOutput().compactMap { if case .send(connection, let reply) = $0 { reply } else { nil } }
  }

  private func call(_ model: RedisModel, _ connection: Int64, _ command: [Bytes]) throws -> ServerReply {
    try model.execute(command, from: connection)
    return replies(model, connection).last ?? .null
  }

  private func agree(_ expected: ServerReply, _ got: ServerReply, _ command: [Bytes]) -> Bool {
    if command[0] == "PTTL", case .integer(let x) = expected, case .integer(let y) = got {
      return x == y || (x > 0 && y > 0 && abs(x - y) < 20_000)
    }
    return Self.normalised(expected) == Self.normalised(got)
  }

  /// Errors are compared up to the place in the script, whose wording differs between versions.
  private static func normalised(_ reply: ServerReply) -> ServerReply {
    switch reply {
    case .error(let text):
      let words = text.text
      for mark in [" script: ", "user_script:"] {
        if let range = words.range(of: mark) { return .error(Bytes(String(words[..<range.lowerBound]))) }
      }
      if words.hasPrefix("ERR Error compiling") { return .error("ERR Error compiling") }
      if words.hasPrefix("MISCONF") { return .error("MISCONF") }
      return reply
    case .array(let items): return .array(items.map { normalised($0) })
    case .status, .integer, .bulk, .null, .map, .push: return reply
    }
  }

  private func randomCommand(_ random: inout SeededRandom) -> [Bytes] {
    let key: Bytes = random.pick(["a", "b", "c", "d"])
    let value: Bytes = random.pick(["x", "y", "", "7", "-3", "9223372036854775807", "007", "1.5"])
    let number: Bytes = random.pick(["0", "1", "-1", "2", "-2", "100", "x", "9223372036854775807"])
    let span: Bytes = random.pick(["100000", "200000", "300000", "0", "-5", "x"])
    switch random.pick(0...28) {
    case 0: return ["GET", key]
    case 1: return ["SET", key, value]
    case 2: return ["SET", key, value, random.pick(["NX", "XX"])]
    case 3: return ["SET", key, value, random.pick(["NX", "XX", "GET"]), "PX", span]
    case 4: return ["SET", key, value, "KEEPTTL", random.pick(["GET", "XX"])]
    case 5: return ["SET", key, value, random.pick(["NX", "PX", "KEEPTTL"]), random.pick(["XX", "PX", "GET"])]
    case 6: return ["DEL", key, random.pick(["a", "b"])]
    case 7: return ["EXISTS", key, key, "d"]
    case 8: return ["PEXPIRE", key, span]
    case 9: return ["PEXPIRE", key, span, random.pick(["NX", "XX", "nx", "YY"])]
    // Spans that never come close to each other: the real server's clock moves.
    case 28: return ["PEXPIRE", key, Bytes(100_000 * random.pick(4...9000)), random.pick(["GT", "LT", "gt"])]
    case 10: return ["PTTL", key]
    case 11: return ["INCR", key]
    case 12: return ["INCRBY", key, number]
    case 13: return ["RPUSH", key, value, random.pick(["p", "q"])]
    case 14: return ["LPUSH", key, value, random.pick(["p", "q"])]
    case 15: return [random.pick(["LPOP", "RPOP"]), key]
    case 16: return ["LREM", key, number, value]
    case 17: return ["LPOS", key, value]
    case 18: return ["LLEN", key]
    case 19: return ["LRANGE", key, number, random.pick(["-1", "1", "5", "x"])]
    case 20: return ["LINDEX", key, number]
    case 21: return ["HSET", key, value, "1", random.pick(["f", "g"]), value]
    case 22: return [random.pick(["HGET", "HDEL", "HEXISTS"]), key, random.pick(["f", "g", "x"])]
    case 23: return [random.pick(["HGETALL", "HLEN", "PERSIST", "TYPE", "STRLEN"]), key]
    case 24: return ["ZADD", key, random.pick(["1", "2", "-3"]), value, random.pick(["1", "5"]), "m"]
    case 25: return [random.pick(["ZREM", "ZRANK"]), key, random.pick(["m", "x"])]
    case 26: return ["ZRANGE", key, number, random.pick(["-1", "1", "5", "x"])]
    default: return [random.pick(["ZCARD", "ZPOPMIN"]), key]
    }
  }
}
