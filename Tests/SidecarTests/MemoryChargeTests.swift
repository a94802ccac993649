import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// What a user is charged follows the memory that is kept for him, not only the bytes in it.
@Suite struct MemoryChargeTests {
  // MARK: Output

  @Test func aBufferCountsUntilItsLastByteIsSent() {
    var unread = UnreadOutput()
    unread.gave(10_000, capacity: 16_384)
    unread.gave(16_384, capacity: 16_384)
    #expect(unread.bytes == 26_384 && unread.charge(copies: 0) == 26_384)
    // All but one byte of the first one.
    unread.measured(16_385)
    #expect(unread.charge(copies: 0) == (2 * 16_384 + 2 * UnreadOutput.bytesPerBuffer) / 2)
    unread.measured(16_384)
    #expect(unread.memory == 16_384 + UnreadOutput.bytesPerBuffer && unread.charge(copies: 0) == 16_384)
    unread.measured(1)
    #expect(unread.charge(copies: 0) == (16_384 + UnreadOutput.bytesPerBuffer) / 2)
    // Another copy, as for a session that outlives the process.
    #expect(unread.charge(copies: 65_536) == (16_384 + UnreadOutput.bytesPerBuffer + 65_536) / 2)
    unread.measured(0)
    #expect(unread.bytes == 0 && unread.memory == 0 && unread.charge(copies: 0) == 0)
  }

  @Test func theBytesAreChargedWhereTheyAreMostOfTheMemory() {
    var unread = UnreadOutput()
    for _ in 0..<100 { unread.gave(16_384, capacity: 16_384) }
    for left in stride(from: 1_638_400, through: 0, by: -1000) {
      unread.measured(left)
      #expect(unread.charge(copies: 0) >= left && unread.charge(copies: 0) <= left + 16_384)
      #expect(unread.memory <= 2 * max(unread.charge(copies: 0), 1))
    }
  }

  /// Answers of forty bytes take ten times as much memory.
  @Test func manySmallAnswersCountForTheBuffersThatTheyAreIn() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.bytesPerSessionMax = 100_000 }
    let a = try host.connect("a")
    a.stallSilently()
    var count = 0
    while a.isConnected, count < 10_000 {
      count += 1
      try a.ping(id: 1)
      host.endTurn()
    }
    #expect(!a.isConnected)
    // By their bytes alone it would be 2,400.
    #expect(count * UnreadOutput.bytesPerBuffer / 2 <= 100_000 + 2048 && count > 200)
  }

  /// What is given at once is cut, or the last byte of half a megabyte would keep all of it.
  @Test func muchOutputIsGivenInPieces() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    a.stallSilently()
    for id in 1...10 { try a.send(#"{"id":\#(id),"method":"rpc.discover"}"#) }
    host.endTurn()
    #expect(a.pieces.count > 5 && a.pieces.reduce(0, +) > 100_000)
    #expect(a.pieces.allSatisfy { $0 <= UnreadOutput.pieceBytesMax })
    a.read()
    host.endTurn()
    #expect(a.text.split(separator: "\n").count == 10)
  }

  // MARK: Input

  @Test func inputThatIsPutOffIsCharged() throws {
    let host = try TestSidecar(isLocal: true) { $0.live.bytesPerUIDMax = 20_000 }
    let clients = try (0..<10).map { try host.connect("\($0)", uid: 1001) }
    // One look at the clock and the turn is full.
    host.clock.goOn(by: InputTurns.turnNanoseconds)
    for client in clients { try client.channel.writeInbound(ByteBuffer(string: String(repeating: " ", count: 5000))) }
    #expect(host.core.parts.limits.keptBytes <= 25_000)
    host.clock.goOn(by: 0)
    for _ in 0..<20 { host.timerFires() }
    #expect(clients.contains { !$0.isConnected } && clients.contains { $0.isConnected })
    #expect(clients.contains { $0.text.contains("bytes_per_uid") })
  }

  @Test func aLineInALargeBufferCountsForTheBuffer() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a", uid: 1001)
    a.stall()
    var buffer = ByteBufferAllocator().buffer(capacity: 65_536)
    buffer.writeString(#"{"id":1,"method":"ping"}"# + "\n")
    try a.channel.writeInbound(buffer)
    host.endTurn()
    // It was copied into a smaller one.
    #expect((1...100).contains(host.core.parts.limits.keptBytes))
    a.read()
    host.endTurn()
    #expect(a.text.contains(#""id":1"#) && host.core.parts.limits.keptBytes == 0)
  }

  // MARK: Questions

  @Test func questionsAreChargedUntilTheyAreAnsweredEvenIfWhoAskedIsGone() throws {
    let host = try TestSidecar { $0.live.bytesPerUIDMax = 100_000 }
    let name = String(repeating: "n", count: 512)
    let limits = host.core.parts.limits
    func ask(_ client: TestClient, _ count: Int) throws {
      for id in 1...count { try client.send(#"{"id":\#(id),"method":"inspect","params":{"name":"\#(name)"}}"#) }
      host.endTurn()
    }
    var clients: [TestClient] = []
    while clients.count < 100, clients.allSatisfy(\.isConnected) {
      clients.append(try host.connect("\(clients.count)", uid: 1001))
      try ask(clients[clients.count - 1], 16)
    }
    #expect(clients.count > 1 && clients.count < 10)
    #expect(clients.last?.text.contains("bytes_per_uid") == true)
    let other = try host.connect("other", uid: 1002)
    try ask(other, 16)
    #expect(other.isConnected)
    for client in clients { client.channel.close(promise: nil) }
    host.endTurn()
    #expect(limits.keptBytes > 100_000)
    let next = try host.connect("next", uid: 1001)
    try ask(next, 1)
    #expect(!next.isConnected)
    for inspection in host.store.inspections { inspection.completion(.none) }
    host.endTurn()
    #expect(limits.keptBytes == 0)
    try ask(try host.connect("last", uid: 1001), 16)
    #expect(limits.keptBytes > 0)
  }

  // MARK: Commands

  @Test func whoAsksForMoreThanTheStoreCanDoIsNotReadFrom() throws {
    let host = try TestSidecar { $0.live.bytesPerUIDMax = 1_000_000 }
    let (a, b) = (try host.connect("a", uid: 1001), try host.connect("b", uid: 1002))
    host.store.waitingCount = 1000
    host.store.waitingMemory[1001] = 500_001
    try a.acquire("x")
    try b.ping(id: 1)
    host.endTurn()
    #expect(!a.isReadFrom && b.isReadFrom && b.text.contains("result"))
    #expect(host.core.engine.gauges.waiting == 0)
    // Those who come later, too; one that leaves is forgotten.
    let (c, d) = (try host.connect("c", uid: 1001), try host.connect("d", uid: 1001))
    for client in [c, d] { try client.ping(id: 1) }
    d.channel.close(promise: nil)
    host.store.waitingMemory[1001] = 250_001
    host.endTurn()
    #expect(!a.isReadFrom && !c.isReadFrom && c.text.isEmpty)
    host.store.waitingMemory[1001] = 250_000
    try b.ping(id: 2)
    host.endTurn()
    for _ in 0..<5 { host.timerFires() }
    #expect(a.isReadFrom && c.isReadFrom && c.text.contains("result"))
    #expect(host.core.engine.gauges.waiting == 1)
  }
}
