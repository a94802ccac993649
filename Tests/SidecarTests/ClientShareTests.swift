import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// What one client may take of a turn, of memory, and of others' patience.
@Suite struct ClientShareTests {
  private static let manyPings = (1...400).map { #"{"id":\#($0),"method":"ping"}"# + "\n" }.joined()

  /// Who sends very much has one share of a turn, and the others theirs.
  /// However much a client sends, with it kept over a restart or not.
  @Test func littleIsReadFromAClientAtATime() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.acquire("x")
    host.endTurn()
    #expect(host.core.keeper?.clients.count == 1)
    let watched = try #require(a.channel.options.compactMap { $0.value as? WatchedReads }.last)
    #expect(!b.channel.options.contains { $0.value is WatchedReads })
    for sizes in [watched, ClientInput.readSizes] as [any RecvByteBufferAllocator] {
      var sizes = sizes
      for _ in 0..<20 {
        let buffer = sizes.buffer(allocator: ByteBufferAllocator())
        #expect(buffer.capacity <= 8192)
        _ = sizes.record(actualReadBytes: buffer.capacity)
      }
    }
  }

  @Test func aClientHasOneShareOfATurn() throws {
    let host = try TestSidecar(isLocal: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    // Each look at the clock costs a tenth of a share.
    host.clock.goOn(by: InputTurns.shareNanoseconds / 10)
    try a.channel.writeInbound(ByteBuffer(string: Self.manyPings))
    try b.ping(id: 1)
    host.endTurn()
    let first = a.text.split(separator: "\n").count
    #expect(first > 0 && first < 100)
    #expect(b.text.split(separator: "\n").count == 1)
    // It is not read from, and its input goes on in the next turns.
    #expect(!a.isReadFrom)
    var turns = 0
    while a.text.split(separator: "\n").count < 400, turns < 1000 {
      turns += 1
      host.timerFires()
    }
    #expect(turns > 5 && turns < 1000)
    host.timerFires()
    #expect(a.isReadFrom)
  }

  /// However many clients send, a turn ends.
  @Test func aTurnHasRoomForSoManySharesOnly() throws {
    let host = try TestSidecar(isLocal: true)
    let clients = try (0..<10).map { try host.connect("\($0)") }
    host.clock.goOn(by: InputTurns.turnNanoseconds / 3)
    for client in clients { try client.ping(id: 1) }
    host.endTurn()
    let first = clients.filter { !$0.text.isEmpty }.count
    #expect(first > 0 && first < 10)
    for _ in 0..<100 where clients.contains(where: \.text.isEmpty) { host.timerFires() }
    #expect(clients.allSatisfy { !$0.text.isEmpty })
  }

  /// Two hundred clients of one user have much that waits. Another user is answered in the same turn, or in the next one
  /// where that has no room any more.
  @Test func theClientsOfAUserDelayNoOtherUser() throws {
    let host = try TestSidecar(isLocal: true)
    let many = try (0..<200).map { try host.connect("\($0)", uid: 1001) }
    let other = try host.connect("other", uid: 1002)
    // Each look at the clock costs a tenth of a share.
    host.clock.goOn(by: InputTurns.shareNanoseconds / 10)
    for client in many { try client.channel.writeInbound(ByteBuffer(string: Self.manyPings)) }
    host.endTurn()
    for id in 1...10 {
      try other.ping(id: 2 * id)
      host.endTurn()
      #expect(other.text.contains(#""id":\#(2 * id),"#))
      host.core.timerFired()
      try other.ping(id: 2 * id + 1)
      host.endTurn()
      host.timerFires()
      #expect(other.text.contains(#""id":\#(2 * id + 1),"#))
    }
    // They are served all the while, the first one first.
    let answered = many.map { $0.text.utf8.count { $0 == UInt8(ascii: "\n") } }
    #expect(answered[0] > 0 && answered.contains(0) && !answered.contains(400))
    #expect(answered.drop { $0 > 0 }.allSatisfy { $0 == 0 })
  }

  /// Its replies would be kept for it without end.
  @Test func whoDoesNotReadIsNotReadFrom() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    a.stall()
    #expect(!a.isReadFrom)
    try a.ping(id: 1)
    host.endTurn()
    #expect(a.text == "")
    a.read()
    host.endTurn()
    #expect(a.text.contains(#""id":1"#))
    #expect(a.isReadFrom)
  }

  /// Notifications that strangers bring about do not fill the output of who does not read; it is told how many it missed.
  @Test func whoDoesNotReadMissesNotificationsAndIsTold() throws {
    let host = try TestSidecar(isLocal: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.send(#"{"id":1,"method":"watch","params":{"name":"x"}}"#)
    host.endTurn()
    a.stall()
    for id in 1...3 {
      try b.acquire("x", id: 2 * id)
      try b.release("x", id: 2 * id + 1)
      host.endTurn()
    }
    #expect(!a.text.contains(#""method":"event""#))
    #expect(host.core.statistics.notificationsMissed == 6)
    a.read()
    host.endTurn()
    #expect(a.text.contains(#""method":"missed""#))
    #expect(a.text.contains(#""count":6"#))
  }

  @Test func aClientThatTakesNothingIsClosedAtItsLimit() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.bytesPerSessionMax = 30_000 }
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.acquire("x")
    host.endTurn()
    // It takes nothing, and the connection has not said so yet.
    a.stallSilently()
    for id in 1...1000 where a.isConnected {
      try a.ping(id: id)
      host.endTurn()
    }
    #expect(!a.isConnected)
    #expect(host.core.statistics.slowReadersClosed == 1)
    // What it held is free.
    try b.acquire("x")
    host.endTurn()
    #expect(b.text.contains("result"))
  }

  /// Input that is no request yet counts as well.
  @Test func inputThatIsNoRequestYetHasALimit() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.bytesPerSessionMax = 1000 }
    let a = try host.connect("a")
    try a.channel.writeInbound(ByteBuffer(string: String(repeating: " ", count: 1001)))
    host.endTurn()
    #expect(a.text.contains("bytes_per_session"))
    #expect(!a.isConnected)
  }

  /// The sessions of a user have a limit together.
  @Test func theBytesOfAUserHaveALimit() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.bytesPerUIDMax = 1500 }
    let a = try host.connect("a", uid: 1001)
    let b = try host.connect("b", uid: 1001)
    let c = try host.connect("c", uid: 1002)
    let half = ByteBuffer(string: String(repeating: " ", count: 1000))
    for client in [a, c] { try client.channel.writeInbound(half) }
    host.endTurn()
    #expect(a.isConnected && c.isConnected)
    try b.channel.writeInbound(half)
    host.endTurn()
    #expect(b.text.contains("bytes_per_uid"))
    #expect(a.isConnected && !b.isConnected && c.isConnected)
    // What was kept for one that is gone is not charged any more.
    let d = try host.connect("d", uid: 1001)
    try d.channel.writeInbound(ByteBuffer(string: String(repeating: " ", count: 400)))
    host.endTurn()
    #expect(d.isConnected)
  }

  @Test func theConnectionsOfAUserHaveALimit() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.connectionsPerUIDMax = 2 }
    let clients = try (0..<3).map { try host.connect("\($0)", uid: 1001) }
    host.endTurn()
    #expect(clients.map(\.isConnected) == [true, true, false])
    #expect(clients[2].text.contains("connections_per_uid"))
    #expect(try host.connect("other", uid: 1002).isConnected)
    clients[0].channel.close(promise: nil)
    host.endTurn()
    #expect(try host.connect("next", uid: 1001).isConnected)
  }

  @Test func aSilentClientWithAKeepaliveIsEnded() throws {
    let host = try TestSidecar(isLocal: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    for client in [a, b] {
      try client.send(#"{"id":1,"method":"initialize","params":{"keepalive_ms":1000}}"#)
    }
    try a.acquire("x", id: 2)
    host.endTurn()
    host.clock.advance(milliseconds: 900)
    try b.ping(id: 3)
    host.endTurn()
    host.clock.advance(milliseconds: 200)
    host.timerFires()
    #expect(!a.isConnected && b.isConnected)
    #expect(host.core.engine.gauges.held == 0)
  }
}
