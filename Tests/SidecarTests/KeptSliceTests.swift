import LockTypes
import NIOCore
import Testing

@testable import LockEngine
@testable import Sidecar
@testable import SystemdSupport

/// What is much to write down is written in slices, and counts when all of it is: `SessionKeeper`.
@Suite struct KeptSliceTests {
  private static let holds = 600
  /// Records of holds that one turn writes.
  private static let slice = 256

  /// A host where one client has many locks, and is not kept: there is no room until another one leaves.
  private final class CrowdedHost {
    let sidecar: TestSidecar
    let others: [TestClient]
    let many: TestClient
    let session: ClientSession
    var keeper: SessionKeeper

    init() throws {
      sidecar = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
      keeper = try #require(sidecar.core.keeper)
      var others: [TestClient] = []
      while keeper.hasRoom, others.count < 1000 {
        others.append(try sidecar.connect("\(others.count)", uid: UInt32(1000 + others.count)))
        try others[others.count - 1].acquire("y\(others.count)")
        sidecar.endTurn()
      }
      self.others = others
      many = try sidecar.connect("many", uid: 1)
      for index in 1...holds {
        try many.acquire("x\(index)", id: index)
        if index % 50 == 0 { sidecar.endTurn() }
      }
      session = try #require(sidecar.core.sessions.values.max { $0.id < $1.id })
    }

    /// One leaves, and the client with many locks does something.
    func makeRoom() throws {
      others[0].channel.close(promise: nil)
      sidecar.endTurn()
      try many.acquire("x0", id: 1000)
      sidecar.endTurn()
    }

    /// Long lines, until not all of them fit, and then their ends.
    func fillMemory(withLinesOf clients: ArraySlice<TestClient>) throws {
      let line = ByteBuffer(string: String(repeating: " ", count: 60_000))
      for client in clients {
        try client.channel.writeInbound(line)
        sidecar.endTurn()
      }
      #expect(!keeper.isRecording)
      for client in clients { try client.channel.writeInbound(ByteBuffer(string: "\n")) }
      sidecar.endTurn()
    }

    /// How many locks of that client would outlive the process, and whether its session would.
    func kept() throws -> (holds: Int, session: Bool) {
      let state = try sidecar.kept()
      return (state.engine.heldNames.count { $0.hasPrefix("x") }, state.sessions[session.id] != nil)
    }
  }

  @Test func whoHasManyLocksIsKeptWhenAllAreWritten() throws {
    let host = try CrowdedHost()
    #expect(try host.kept() == (0, false))
    try host.makeRoom()
    var (written, turns) = (0, 0)
    while host.keeper.hasMoreToDo, turns < 100 {
      let kept = try host.kept()
      #expect(kept.holds > written && kept.holds <= written + Self.slice + 1)
      // A process that ended now would leave nothing of it.
      #expect(!kept.session && !host.session.keeping.isKept)
      written = kept.holds
      host.sidecar.timerFires()
      turns += 1
    }
    #expect(turns >= Self.holds / Self.slice)
    #expect(try host.kept() == (Self.holds + 1, true))
    #expect(host.session.keeping.isKept)
    #expect(host.many.text.contains(#""id":1000"#))
  }

  @Test func whoLeavesOnTheWayLeavesNothing() throws {
    let host = try CrowdedHost()
    try host.makeRoom()
    #expect(host.keeper.isBeginning && !host.keeper.hasRoom)
    host.many.channel.close(promise: nil)
    host.sidecar.endTurn()
    for _ in 0..<100 where host.sidecar.core.engine.hasMoreToNote { host.sidecar.timerFires() }
    for _ in 0..<10 { host.sidecar.timerFires() }
    #expect(try host.kept() == (0, false))
    #expect(!host.keeper.isBeginning && host.keeper.hasRoom)
  }

  /// The hand-over waits for who is about to be kept.
  @Test func aHandOverOnTheWayLeavesAllOfIt() throws {
    let host = try CrowdedHost()
    try host.makeRoom()
    #expect(try host.kept().holds < Self.holds)
    #expect(host.sidecar.life.handover.handOver(to: nil))
    var turns = 0
    while host.sidecar.life.stages.stage != .handedOver, turns < 1000 {
      host.sidecar.loop.advanceTime(by: .milliseconds(1))
      host.sidecar.timerFires()
      turns += 1
    }
    #expect(host.sidecar.life.stages.stage == .handedOver)
    #expect(try host.kept() == (Self.holds + 1, true))
    #expect(!host.many.text.contains("draining") && host.many.isConnected)
  }

  /// However long half a line is that grows, and whatever else changes its session: what is written does not grow with it.
  @Test func halfALineIsWrittenOnce() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let holder = try host.connect("holder")
    try holder.acquire("x")
    let clients = try (0..<8).map { try host.connect("\($0)") }
    for client in clients { try client.acquire("x", more: #","mode":"shared""#) }
    host.endTurn()
    func send(_ text: String) throws {
      for client in clients { try client.channel.writeInbound(ByteBuffer(string: text)) }
      host.endTurn()
    }
    func halves() throws -> [Int] {
      try host.kept().sessions.sorted { $0.key < $1.key }.map { $0.value.framer.partial.count }
    }
    /// What the next turn writes for each client, in bytes.
    func written(_ turn: () throws -> Void) throws -> Int {
      let before = try host.writtenBytes()
      try turn()
      return (try host.writtenBytes() - before) / clients.count
    }
    try send(String(repeating: " ", count: 60_000))
    #expect(try halves() == [0] + clients.map { _ in 60_000 })
    #expect(try written { try send(" ") } < 2000)
    #expect(try halves() == [0] + clients.map { _ in 60_001 })
    // What it waits for is granted.
    #expect(
      try written {
        try holder.release("x", id: 2); host.endTurn()
      } < 3000)
    #expect(clients.allSatisfy { $0.text.contains(#""result""#) })
    #expect(try written { try send(String(repeating: " ", count: 1024)) } < 4000)
    #expect(try halves() == [0] + clients.map { _ in 61_025 })
    // A line that is too long is forgotten before it ends, and a new one begins at its beginning.
    try send(String(repeating: " ", count: 5000))
    #expect(try halves() == [0] + clients.map { _ in 0 })
    try send("\n" + String(repeating: " ", count: 3000))
    #expect(try halves() == [0] + clients.map { _ in 3000 })
    try send(#"{"id":1,"method":"ping"}"# + "\n" + String(repeating: "a", count: 4000))
    let kept = try host.kept().sessions.values.map(\.framer.partial).filter { !$0.isEmpty }
    #expect(kept.count == clients.count && kept.allSatisfy { $0 == [UInt8](repeating: 0x61, count: 4000) })
    // Nothing of it stays behind.
    try send("\n")
    #expect(try host.pieces() == 0 && halves().allSatisfy { $0 == 0 })
    try send(String(repeating: "a", count: 4000))
    #expect(try host.pieces() == 3 * clients.count)
    for client in clients { client.channel.close(promise: nil) }
    host.endTurn()
    #expect(try host.pieces() == 0)
  }

  /// However many requests a session waits for, and however much it has lost: what a grant or a loss writes for it does
  /// not grow with them. Others can have very many sessions change in one turn.
  @Test func whatOthersBringAboutIsWrittenOnce() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let holder = try host.connect("holder")
    try holder.acquire("x")
    try holder.acquire("y", id: 2)
    let clients = try (0..<4).map { try host.connect("\($0)") }
    let long = String(repeating: "n", count: 500)
    for client in clients {
      for index in 0..<70 {
        try client.acquire("\(long)\(index)", id: index, more: #","mode":"shared","max_hold_ms":1"#)
      }
      host.endTurn()
      host.clock.advance(milliseconds: 2)
      host.timerFires()
      for index in 0..<100 { try client.acquire("y", id: 100_000_000_000_000 + index, more: #","mode":"shared""#) }
      host.endTurn()
      try client.acquire("x", id: 2, more: #","mode":"shared","max_hold_ms":5"#)
      host.endTurn()
    }
    func written(_ turn: () throws -> Void) throws -> Int {
      let before = try host.writtenBytes()
      try turn()
      return (try host.writtenBytes() - before) / clients.count
    }
    func kept() throws -> [SavedSession] {
      try host.kept().sessions.values.filter { $0.id != SessionID(1) }
    }
    #expect(try kept().allSatisfy { $0.inFlight.count == 101 })
    #expect(
      try written {
        try holder.release("x", id: 3); host.endTurn()
      } < 1000)
    #expect(try kept().allSatisfy { $0.inFlight.count == 100 })
    host.clock.advance(milliseconds: 10)
    #expect(try written { host.timerFires() } < 1000)
    let losses = try kept().map { session in
      var reader = StateReader(session.losses)
      return LostHold.all(from: &reader)
    }
    // The 64 last ones.
    #expect(losses.allSatisfy { $0.count == 64 && $0[63].name == LockName("x") && $0[0].name == LockName("\(long)7") })
    // They go with their session.
    for client in clients { client.channel.close(promise: nil) }
    host.endTurn()
    #expect(try host.records(of: SavedRecordKind.request) == 0)
    #expect(try host.records(of: SavedRecordKind.loss) == 0)
  }

  /// Very many clients of one user may have nothing to lose all at once.
  @Test func whoHasNothingToLoseIsDroppedInSlices() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true, places: 400)
    let keeper = try #require(host.core.keeper)
    let clients = try (0..<300).map { try host.connect("\($0)") }
    for client in clients {
      try client.acquire("x")
      try client.release("x", id: 2)
    }
    for (index, client) in clients.enumerated() where index % 2 == 0 { try client.acquire("x\(index)", id: 3) }
    host.endTurn()
    for (index, client) in clients.enumerated() where index % 2 == 0 { try client.release("x\(index)", id: 4) }
    host.endTurn()
    #expect(keeper.clients.count >= 150)
    var kept = keeper.clients.count
    host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds))
    host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds - 1))
    // One of them has something to lose again when it is its turn.
    try clients[0].acquire("y", id: 5)
    host.endTurn()
    var slices = 0
    while keeper.clients.count > 1, slices < 100 {
      host.loop.advanceTime(by: .milliseconds(1))
      #expect(kept - keeper.clients.count <= 64)
      kept = keeper.clients.count
      slices += 1
    }
    #expect(keeper.clients.count == 1 && slices >= 3)
  }

  /// Where the memory runs full on the way, all is written anew later, and that too.
  @Test func whatDidNotFitOnTheWayIsKeptLater() throws {
    let host = try CrowdedHost()
    try host.makeRoom()
    try host.fillMemory(withLinesOf: host.others[1..<30])
    for _ in 0..<1000 where !host.keeper.isUsable {
      host.sidecar.loop.advanceTime(by: .milliseconds(1000))
      host.sidecar.timerFires()
    }
    #expect(host.keeper.isUsable)
    #expect(try host.kept() == (Self.holds + 1, true))
  }

  /// What a client was sent while everything is written anew is noted nowhere. If it has not taken all of that, nobody
  /// can go on with it.
  @Test func whoTakesNoOutputWhileAllIsWrittenAnewIsNotLeftInItsMiddle() throws {
    let host = try CrowdedHost()
    try host.fillMemory(withLinesOf: host.others[1..<40])
    for _ in 0..<1000 where !host.keeper.isRecording { host.sidecar.loop.advanceTime(by: .milliseconds(1000)) }
    #expect(host.keeper.isRecording && !host.keeper.isUsable)
    let slow = host.others.suffix(2)
    // All clients are noted in two turns, what they hold in later ones.
    for _ in 0..<2 { host.sidecar.timerFires() }
    #expect(!host.keeper.isUsable)
    for client in slow {
      client.stallSilently()
      try client.ping(id: 7)
    }
    let ids = host.sidecar.core.sessions.values.filter { session in slow.contains { $0.channel === session.channel } }
      .map(\.id)
    while !host.keeper.isUsable { host.sidecar.timerFires() }
    #expect(slow.allSatisfy { $0.text.contains(#""id":7"#) })
    func areUncertain() throws -> [Bool?] { try ids.map { try host.sidecar.kept().sessions[$0]?.isUncertain } }
    #expect(try areUncertain() == [true, true])
    // They are left again once they have taken it.
    for client in slow { client.read() }
    host.sidecar.endTurn()
    #expect(try areUncertain() == [false, false])
  }
}

extension TestSidecar {
  /// How far the memory is written that would outlive the process, in bytes.
  fileprivate func writtenBytes() throws -> Int {
    let memory = try #require(core.keeper?.memory.bytes)
    let head = try StateHead(memory: UnsafeRawBufferPointer(memory))
    let start = try #require(StateLayout(bytes: memory.count)).start(of: head.area)
    let word = UInt64(littleEndian: memory.loadUnaligned(fromByteOffset: start, as: UInt64.self))
    return Int(try #require(head.end(word)))
  }

  /// How many pieces of lines stand there.
  fileprivate func pieces() throws -> Int { try records(of: SavedRecordKind.linePiece) }

  /// How many records of that kind stand there.
  fileprivate func records(of kind: UInt8) throws -> Int {
    let memory = try #require(core.keeper?.memory.bytes)
    return try StateImage(memory: UnsafeRawBufferPointer(memory)).records.keys.count {
      $0.kind == kind
    }
  }
}
