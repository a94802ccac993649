import LockEngine
import LockTypes
import RESP
import RedisLeases
import TestSupport
import Testing

/// The quick ways through acquire.lua and release.lua do what the long ways do: the same replies, messages and keys,
/// whatever there was before.
@Suite struct QuickScriptTests {
  private struct Server {
    let model = RedisModel()
    let scripts: [RedisScript]
    var connections: [Int64] = []

    init(_ encoders: [LeaseCommandEncoder], withQuickWays: Bool) throws {
      scripts = RedisScript.leases(withQuickWays: withQuickWays)
      for encoder in encoders {
        let connection = model.connect()
        try model.execute(["HELLO", "3"], from: connection)
        try model.execute(["SUBSCRIBE", Bytes(encoder.inboxChannel)], from: connection)
        connections.append(connection)
      }
      _ = model.takeOutput()
      model.beginEpoch()
    }

    /// Whether the quick way suffices for the command; it is then carried out.
    func takesTheQuickWay(_ command: RedisCommand, from host: Int) throws -> Bool {
      let whole = scripts.first { $0.name == command.script }?.source ?? []
      let long = RedisScript.leases(withQuickWays: false).first { $0.name == command.script }?.source ?? []
      let quick = Bytes(whole.dropLast(long.count) + Array("return redis.error_reply('the long way')".utf8))
      try model.execute(["EVAL", quick] + command.parts.map { Bytes($0) }, from: connections[host])
      return !model.takeOutput().contains { if case .send(_, .error) = $0 { true } else { false } }
    }

    /// What the command brings about, for every connection.
    func execute(_ command: RedisCommand, from host: Int) throws -> [RedisModel.Output] {
      var parts = command.parts.map { Bytes($0) }
      if let name = command.script {
        parts = ["EVAL", Bytes(scripts.first { $0.name == name }?.source ?? [])] + parts
      }
      try model.execute(parts, from: connections[host])
      return model.takeOutput()
    }
  }

  private static let names = [LockName("x"), LockName("braces {%} and blanks")]

  @Test(arguments: UInt64(0)..<200) func theQuickWaysDoWhatTheLongOnesDo(seed: UInt64) throws {
    var random = SeededRandom(seed: seed)
    let encoders = ["a", "b", "c"].map {
      LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f")
    }
    // In half of the runs the last host does not listen to its inbox: nobody receives what is sent to it.
    let listening = random.chance(50) ? encoders : Array(encoders.dropLast())
    let quick = try Server(listening, withQuickWays: true)
    let long = try Server(listening, withQuickWays: false)
    for step in 0..<80 {
      let host = random.pick(Array(encoders.indices))
      let command = Self.command(&random, encoders[host], encoders)
      let trouble = random.chance(10) ? random.pick([RedisModel.Trouble.outOfMemory, .readOnly]) : .none
      let passed = random.chance(30) ? Int64(random.pick(1...12_000)) * 1_000 : Int64(random.pick(0...50))
      // It is open for most of the time, and then it is not, for whatever reason.
      let epoch = random.chance(20) ? Self.epochs(&random) : nil
      for server in [quick, long] {
        if let epoch { server.model.store(RedisModel.testedEpochKey, epoch) }
        server.model.trouble = trouble
        server.model.wallMicroseconds += passed
      }
      let from = min(host, listening.count - 1)
      let expected = try long.execute(command, from: from)
      let got = try quick.execute(command, from: from)
      #expect(Self.withoutPlaces(got) == Self.withoutPlaces(expected), "step \(step), \(command.parts.count) parts")
      #expect(Self.living(quick.model) == Self.living(long.model), "step \(step)")
    }
  }

  /// Otherwise the test above would compare the long ways with themselves.
  @Test func theUsualCasesTakeTheQuickWay() throws {
    let encoders = ["a", "b"].map { LeaseCommandEncoder(keyPrefix: "t:", host: $0, instance: "1f") }
    let server = try Server(encoders, withQuickWays: true)
    let name = Self.names[0]
    for (host, other) in [(0, 1), (1, 0)] {
      let acquire = encoders[host].encode(
        .acquire(name: name, attempt: 1, ask: 1, isTry: false, terms: .tested))
      let wait = encoders[other].encode(
        .acquire(name: name, attempt: 1, ask: 1, isTry: false, terms: .tested))
      let handOver = encoders[host].encode(.release(name: name, attempt: 1, unused: .all, terms: .tested))
      let giveBack = encoders[other].encode(.release(name: name, attempt: 1, unused: .all, terms: .tested))
      server.model.beginEpoch("g")
      #expect(try !server.takesTheQuickWay(acquire, from: host))
      server.model.beginEpoch()
      #expect(try server.takesTheQuickWay(acquire, from: host))
      #expect(try !server.takesTheQuickWay(wait, from: other))
      _ = try server.execute(wait, from: other)
      server.model.putEpoch(nil)
      #expect(try !server.takesTheQuickWay(handOver, from: host))
      server.model.beginEpoch()
      #expect(try server.takesTheQuickWay(handOver, from: host))
      // To give back what nobody waits for asks for no epoch.
      server.model.putEpoch(nil)
      #expect(try server.takesTheQuickWay(giveBack, from: other))
      #expect(try !server.takesTheQuickWay(giveBack, from: other))
      server.model.beginEpoch()
    }
  }

  /// What may stand in the epoch's key.
  private static func epochs(_ random: inout SeededRandom) -> RedisModel.Entry? {
    let own = EpochID.tested.text
    let values: [RedisModel.Value] =
      Array(repeating: .string(Bytes("1;\(own);o;-;0;10000;10000;0")), count: 8)
      + Array(repeating: .string(Bytes("1;\(own);o;-;0;10000;10000;8600000000000000;later")), count: 4)
      + [
        "1;\(own);g;-;0;60000;10000;0", "1;6:b/1f:3;o;-;0;10000;10000;0", "1;\(own)0;o;-;0;1;1;0", "rubbish", "",
        "2;\(own);o;later",
      ]
      .map { .string(Bytes($0)) } + [.list(["x"])]
    return random.chance(5) ? nil : .init(value: random.pick(values), expiresAtMilliseconds: nil)
  }

  private static func command(
    _ random: inout SeededRandom, _ encoder: LeaseCommandEncoder, _ encoders: [LeaseCommandEncoder]
  ) -> RedisCommand {
    let name = random.pick(names)
    let attempt = UInt64(random.pick(1...3))
    let mode: HoldMode = random.chance(80) ? .exclusive : random.pick([.shared, .permit(of: 2)])
    switch random.pick(0...19) {
    case 0...7:
      return encoder.encode(
        .acquire(
          name: name, attempt: attempt, ask: UInt64(random.pick(1...9)), isTry: random.chance(30),
          terms: .tested(above: random.chance(10) ? 8_500_000_000_000_000 : 0), mode: mode))
    case 8...15:
      return encoder.encode(
        .release(
          name: name, attempt: attempt, unused: random.pick([.all, .from(8_000_000_000_000_007), .unknown]),
          isExact: random.chance(20), terms: .tested(above: random.chance(10) ? 8_400_000_000_000_000 : 0)))
    case 16: return encoder.encode(.renew([LeaseReference(name: name, attempt: attempt)], epoch: .tested))
    default: return .plain(disturbance(&random, encoder, name, encoders).map { Array($0.utf8) })
    }
  }

  /// Something that none of the project's scripts would do.
  private static func disturbance(
    _ random: inout SeededRandom, _ encoder: LeaseCommandEncoder, _ name: LockName, _ encoders: [LeaseCommandEncoder]
  ) -> [String] {
    func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
    let lock = text(encoder.keys.lockKey(name))
    let queue = text(encoder.keys.queueKey(name))
    let fence = text(encoder.keys.fenceKey(name))
    let other = "\(text(random.pick(encoders).me)):\(random.pick(1...3))"
    let choices: [[String]] = [
      ["SET", lock, "foreign", "NX", "PX", "5000"], ["DEL", lock], ["DEL", queue], ["DEL", fence],
      ["RPUSH", queue, "rubbish"], ["RPUSH", queue, "1;\(other):10000:x"], ["RPUSH", queue, "1;\(other):10000:s"],
      ["SET", lock, "sidelock1;x;\(other):12x"],
      ["SET", lock, "sidelock1;x;\(other):8000000000000001", "PX", "5000"],
      // What a later release may write: more fields, or another format.
      ["RPUSH", queue, "1;\(other):10000:x:later"], ["RPUSH", queue, "2;\(other):10000:later"],
      ["SET", lock, "sidelock1;x:later;\(other):8000000000000001:later", "PX", "5000"],
      ["SET", lock, "sidelock2;\(other):8000000000000001", "PX", "5000"],
      ["SET", fence, "8000000000000000"], ["SET", fence, "8000000000065536"], ["SET", fence, "rubbish"],
      ["HSET", random.pick([lock, queue, fence]), "a", "b"],
    ]
    return random.pick(choices)
  }

  /// Errors without the place in the script, which differs.
  private static func withoutPlaces(_ outputs: [RedisModel.Output]) -> [RedisModel.Output] {
    outputs.map { output in
      guard case .send(let connection, .error(let text)) = output else { return output }
      return .send(connection: connection, .error(Bytes(String(text.text.prefix { $0 != " " }))))
    }
  }

  private static func living(_ model: RedisModel) -> [Bytes: RedisModel.Entry] {
    model.entries.filter { $0.value.expiresAtMilliseconds.map { $0 * 1_000 > model.wallMicroseconds } ?? true }
  }
}
