import RESP
import TestSupport
import Testing

/// What became of a connection that was fed a stream.
private struct Outcome: Hashable {
  var actions: [RedisConnectionAction] = []
  var output: [UInt8] = []
  var pending: [UInt64] = []
  var ignored: UInt64 = 0
}

private let smallLimits = RESPLimits(
  blobBytesMax: 256, lineBytesMax: 128, elementCountMax: 64, replyBytesMax: 1024, depthMax: 4)

/// Feeds `stream` to a connection, from the handshake on or with commands pending, and checks what holds for every
/// stream.
private func feed(_ stream: [UInt8], _ cut: Cut, commands: Int?, limits: RESPLimits) -> Outcome {
  var connection: RedisConnection
  if let commands {
    connection = readyConnection(limits: limits)
    for id in 0..<UInt64(commands) {
      let command: RedisCommand =
        id.isMultiple(of: 2) ? .plain([bytes("PING")]) : .script(name: .first, keys: [bytes("k")], arguments: [])
      #expect(connection.submit(command, id: id) == true)
    }
  } else {
    connection = RedisConnection(
      configuration: .testing(previousClient: RedisClientIdentity(id: 5, runID: Server.run), limits: limits))
    connection.connected()
  }
  _ = connection.takeOutput()
  var generator = SeededRandom(seed: 99)
  var outcome = Outcome()
  for piece in pieces(of: stream, cut, using: &generator) {
    outcome.actions += connection.received(Array(piece))
    outcome.output += connection.takeOutput()
  }
  outcome.pending = connection.closed()
  outcome.ignored = connection.ignoredPushCount

  var answered: [UInt64] = []
  var ends = 0
  for action in outcome.actions {
    #expect(ends == 0, "something came after the end")
    switch action {
    case .reply(let id, _): answered.append(id)
    case .failed, .fault: ends += 1
    case .ready, .message: break
    }
  }
  // What a dying connection had still to send is dropped; how much was taken before depends on the cut.
  if ends > 0 { outcome.output = [] }
  #expect((answered + outcome.pending).sorted() == (0..<UInt64(commands ?? 0)).map { $0 })
  return outcome
}

/// Parts from which streams are made: replies, pushes, errors that matter, and hostile ones.
private let parts: [String] =
  Vector.all.map(\.wire) + [
    Server.message("m"), Server.message("", channel: "other"), Server.info(), Server.policy, Server.digests,
    "-NOSCRIPT No matching script. Please use EVAL.\r\n", "-READONLY no\r\n", "-NOAUTH no\r\n",
    ">2\r\n+invalidate\r\n_\r\n", ">1\r\n+message\r\n", "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "$300\r\n", "*65\r\n",
  ]

private func stream(using generator: inout SeededRandom) -> [UInt8] {
  var wire: [UInt8] = []
  for _ in 0..<Int.random(in: 1...12, using: &generator) {
    wire += bytes(parts.randomElement(using: &generator) ?? "")
  }
  return wire
}

/// Changes, drops, doubles and moves bytes, with a liking for those that mean something.
private func mutate(_ wire: inout [UInt8], using generator: inout SeededRandom) {
  let telling = bytes("\r\n+-:$*%~>|#,_(!=?0199tf")
  for _ in 0..<Int.random(in: 1...4, using: &generator) where !wire.isEmpty {
    let index = Int.random(in: 0..<wire.count, using: &generator)
    switch Int.random(in: 0..<6, using: &generator) {
    case 0: wire[index] = UInt8.random(in: 0...255, using: &generator)
    case 1: wire[index] = telling.randomElement(using: &generator) ?? 0
    case 2: wire.remove(at: index)
    case 3: wire.insert(telling.randomElement(using: &generator) ?? 0, at: index)
    case 4: wire.removeSubrange(index..<min(wire.count, index + Int.random(in: 1...8, using: &generator)))
    default: wire.insert(contentsOf: wire[index..<min(wire.count, index + 16)], at: index)
    }
  }
}

@Suite struct RedisFuzzTests {
  private func check(_ wire: [UInt8], commands: Int?, _ seed: UInt64) {
    let whole = feed(wire, .whole, commands: commands, limits: smallLimits)
    for cut in [Cut.byteByByte, .random] {
      let other = feed(wire, cut, commands: commands, limits: smallLimits)
      let isAlike = other == whole
      #expect(isAlike, "seed \(seed), \(cut): \(text(wire).debugDescription)")
    }
  }

  @Test(arguments: 1...8 as ClosedRange<UInt64>)
  func randomBytesAreTakenAlikeHoweverTheyAreCut(seed: UInt64) {
    var generator = SeededRandom(seed: seed)
    for _ in 0..<200 {
      let wire = (0..<Int.random(in: 0...200, using: &generator)).map { _ in
        UInt8.random(in: 0...255, using: &generator)
      }
      check(wire, commands: 3, seed)
    }
  }

  @Test(arguments: 1...8 as ClosedRange<UInt64>)
  func mutatedStreamsAreTakenAlikeHoweverTheyAreCut(seed: UInt64) {
    var generator = SeededRandom(seed: seed)
    for round in 0..<300 {
      var wire = stream(using: &generator)
      if round.isMultiple(of: 3) { mutate(&wire, using: &generator) }
      if round.isMultiple(of: 5) { wire.removeLast(Int.random(in: 0...wire.count, using: &generator)) }
      check(wire, commands: Int.random(in: 0...12, using: &generator), seed)
    }
  }

  @Test(arguments: 1...8 as ClosedRange<UInt64>)
  func mutatedHandshakesAreTakenAlikeHoweverTheyAreCut(seed: UInt64) {
    var generator = SeededRandom(seed: seed)
    for _ in 0..<200 {
      var wire = bytes(
        Server.hello() + Server.info() + Server.policy + Server.digests + ":1\r\n" + Server.subscribed
          + Server.message("m"))
      mutate(&wire, using: &generator)
      check(wire, commands: nil, seed)
    }
  }
}
