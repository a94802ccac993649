import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

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

  /// Where the memory runs full on the way, all is written anew later, and that too.
  @Test func whatDidNotFitOnTheWayIsKeptLater() throws {
    let host = try CrowdedHost()
    try host.makeRoom()
    let line = ByteBuffer(string: String(repeating: " ", count: 60_000))
    for client in host.others[1..<30] {
      try client.channel.writeInbound(line)
      host.sidecar.endTurn()
    }
    #expect(!host.keeper.isRecording)
    for client in host.others[1..<30] { try client.channel.writeInbound(ByteBuffer(string: "\n")) }
    host.sidecar.endTurn()
    for _ in 0..<1000 where !host.keeper.isUsable {
      host.sidecar.loop.advanceTime(by: .milliseconds(1000))
      host.sidecar.timerFires()
    }
    #expect(host.keeper.isUsable)
    #expect(try host.kept() == (Self.holds + 1, true))
  }
}
