// Whatever clients do: what would outlive the process is all that a session has, or nothing of it.

import LockTypes
import NIOCore
import TestSupport
import Testing

@testable import LockEngine
@testable import Sidecar

/// Clients that do whatever comes to their minds, on a host that keeps few of them in little memory.
private final class Crowd {
  private let isCrowded: Bool
  private let clientsMax: Int
  /// What has to come in a run that shows anything.
  static let rare: Set<String> = ["all is written anew", "somebody begins to be kept", "there is no room"]
  private static let holdsOfMany = 300
  let sidecar: TestSidecar
  private var random: SeededRandom
  private var clients: [Member] = []
  private var lastUser: UInt32 = 1000
  private(set) var reached: Set<String> = []

  fileprivate final class Member {
    let client: TestClient
    let number: Int
    var lastID = 0
    var lastName = 0
    var held: [String] = []
    var line: [UInt8] = []
    var isStalled = false
    init(_ client: TestClient, _ number: Int) { (self.client, self.number) = (client, number) }
  }

  init(seed: UInt64) throws {
    random = SeededRandom(seed: seed)
    // Few places for clients who may have much, or many whose half lines fill the memory.
    isCrowded = seed % 2 == 0
    clientsMax = isCrowded ? 14 : 6
    sidecar = try TestSidecar(
      isLocal: true, keeping: true, managerReads: true, places: isCrowded ? 16 + 9 : 16 + 3,
      stateBytes: isCrowded ? 1 << 20 : 1 << 22)
  }

  private func chance(_ part: Int, of all: Int) -> Bool { Int.random(in: 0..<all, using: &random) < part }

  func step() throws {
    clients.removeAll { !$0.client.isConnected }
    if clients.isEmpty || chance(1, of: 4) && clients.count < clientsMax {
      clients.append(try newcomer())
    }
    for _ in 0..<Int.random(in: 1...3, using: &random) { try act(try #require(clients.randomElement(using: &random))) }
    sidecar.endTurn()
    switch Int.random(in: 0..<20, using: &random) {
    case 0: sidecar.loop.advanceTime(by: .milliseconds(6000))
    case 1...8: sidecar.timerFires()
    case _: break
    }
    if chance(1, of: 8) { for _ in 0..<4 { sidecar.timerFires() } }
  }

  /// All send half a line, which is more than there is room for, and a little later its end.
  func fillTheMemory() throws {
    while clients.count < 8 { clients.append(try newcomer()) }
    for member in clients { try acquire(1, member) }
    sidecar.endTurn()
    for member in clients { try sendPart(60_000, member) }
    sidecar.endTurn()
    try check("full")
    for member in clients { try finishLine(member) }
    for turn in 0..<200 {
      sidecar.loop.advanceTime(by: .milliseconds(1000))
      try check("full \(turn)")
      if sidecar.core.keeper?.isUsable == true { return }
      try act(try #require(clients.randomElement(using: &random)))
      sidecar.endTurn()
    }
  }

  /// Somebody for whom there is no place gets very much, and a place then. On the way he goes on.
  func giveAPlaceToWhoHasMuch() throws {
    for member in clients { member.client.channel.close(promise: nil) }
    clients = try (0..<3).map { _ in try newcomer() }
    for member in clients { try acquire(1, member) }
    sidecar.endTurn()
    let many = try newcomer()
    clients.append(many)
    try acquire(Self.holdsOfMany, many)
    sidecar.endTurn()
    try check("nobody leaves")
    clients[0].client.channel.close(promise: nil)
    sidecar.endTurn()
    try acquire(1, many)
    for turn in 0..<10 {
      sidecar.endTurn()
      try check("a place, \(turn)")
      sidecar.core.timerFired()
      if chance(1, of: 2) { try act(many) }
    }
  }

  private func newcomer() throws -> Member {
    lastUser += 1
    return Member(try sidecar.connect("\(lastUser)", uid: chance(1, of: 2) ? 1 : lastUser), Int(lastUser))
  }

  private func act(_ member: Member) throws {
    let client = member.client
    guard client.isConnected else { return }
    switch Int.random(in: 0..<24, using: &random) {
    case 0...4: try acquire(1, member)
    case 5: try acquire(Int.random(in: 2...40, using: &random), member)
    case 6: try acquireTogether(member)
    case 7: try wait(member)
    case 8...11: try release(1, member)
    case 12: try release(member.held.count, member)
    case 13...15: try sendPart(Int.random(in: 1...3000, using: &random), member)
    case 16, 22: try sendPart(60_000, member)
    case 17: try finishLine(member)
    case 18: if member.isStalled { client.read() } else { client.stallSilently() }; member.isStalled.toggle()
    case 19: if member.isStalled { client.read(); member.isStalled = false }
    case 20: try ping(member)
    case 21: if chance(1, of: 4) { client.channel.close(promise: nil) }
    case _: if member.line.isEmpty { try client.send("") }
    }
  }

  private func request(_ method: String, _ params: String, _ member: Member) throws {
    if !member.line.isEmpty { try finishLine(member) }
    member.lastID += 1
    try member.client.send(#"{"id":\#(member.lastID),"method":"\#(method)","params":{\#(params)}}"#)
  }

  private func acquire(_ count: Int, _ member: Member) throws {
    for _ in 0..<count {
      member.lastName += 1
      let name = "\(member.number)/\(member.lastName)"
      member.held.append(name)
      try request("acquire", #""name":"\#(name)","meta":"\#(String(repeating: "m", count: 40))""#, member)
    }
  }

  private func acquireTogether(_ member: Member) throws {
    let names = (0..<Int.random(in: 2...5, using: &random)).map { _ in "of all \(Int.random(in: 0...9, using: &random))"
    }
    try request("acquire", #""names":[\#(Set(names).sorted().map { "\"\($0)\"" }.joined(separator: ","))]"#, member)
  }

  private func wait(_ member: Member) throws {
    let name = "of all \(Int.random(in: 0...9, using: &random))"
    member.held.append(name)
    try request("acquire", #""name":"\#(name)""#, member)
  }

  private func release(_ count: Int, _ member: Member) throws {
    for _ in 0..<count where !member.held.isEmpty {
      try request(
        "release", #""name":"\#(member.held.remove(at: member.held.indices.randomElement(using: &random) ?? 0))""#,
        member)
    }
  }

  private func ping(_ member: Member) throws { try request("ping", "", member) }

  /// Sends more of a line of blanks, which a request ends.
  private func sendPart(_ count: Int, _ member: Member) throws {
    guard member.client.isConnected else { return }
    let count = min(count, 65_000 - member.line.count)
    guard count > 0 else { return }
    let part = (0..<count).map { _ in UInt8(ascii: " ") }
    member.line += part
    try member.client.channel.writeInbound(ByteBuffer(bytes: part))
  }

  private func finishLine(_ member: Member) throws {
    member.line = []
    member.lastID += 1
    try member.client.channel.writeInbound(ByteBuffer(string: #"{"id":\#(member.lastID),"method":"ping"}"# + "\n"))
  }

  // MARK: Checks

  /// That what is kept is what there is.
  func check(_ place: Comment) throws {
    guard let keeper = sidecar.core.keeper, keeper.isUsable else {
      reached.insert(sidecar.core.keeper?.isRecording == true ? "all is written anew" : "there is no room")
      return
    }
    let state = try sidecar.kept()
    let engine = sidecar.core.engine
    if keeper.isBeginning { reached.insert("somebody begins to be kept") }
    for session in sidecar.core.sessions.values {
      guard let record = state.sessions[session.id] else {
        #expect(!session.keeping.isKept, place)
        continue
      }
      #expect(session.keeping.isKept, place)
      #expect(record.isUncertain || session.unsentBytes == 0, place)
      if record.isUncertain {
        reached.insert("somebody does not read")
        continue
      }
      guard let own = engine.sessions[session.id] else { continue }
      let holds = state.engine.holds.filter { $0.session == session.id }
      #expect(
        holds.map { "\($0.name) \($0.token)" }.sorted() == own.allHolds.map { "\($0.lock.name) \($0.token)" }.sorted(),
        place)
      #expect(holds.map { "\($0.isPartial)" }.sorted() == own.allHolds.map { "\($0.partOf != nil)" }.sorted(), place)
      let waits = state.engine.waits.filter { $0.session == session.id }.map(\.request.rawValue).sorted()
      #expect(waits == own.waits.keys.map(\.rawValue).sorted(), place)
      #expect(record.framer == session.input.framer.position, place)
      if record.framer.partial.count > 1024 { reached.insert("half a line is long") }
      let input = record.unreadInput + state.inputs.filter { $0.session == session.id }.flatMap(\.bytes)
      #expect(input == session.input.unread.map { Array($0.readableBytesView) } ?? [], place)
      #expect(Set(record.inFlight.map(\.request)) == Set(session.requests.inFlight.values), place)
      if own.holdCount > 256 { reached.insert("somebody has much") }
    }
    for id in state.sessions.keys where sidecar.core.sessions[id] == nil { Issue.record("\(id) is gone: \(place)") }
  }
}

@Suite struct KeptModelTests {
  @Test func whatIsKeptIsWholeOrNothing() throws {
    var reached: Set<String> = []
    for seed: UInt64 in 3...6 {
      let crowd = try Crowd(seed: seed)
      for step in 0..<200 {
        try crowd.step()
        try crowd.check("seed \(seed), step \(step)")
        if step % 50 == 49 {
          if seed % 2 == 0 { try crowd.fillTheMemory() } else { try crowd.giveAPlaceToWhoHasMuch() }
        }
      }
      reached.formUnion(crowd.reached)
    }
    // Otherwise nothing was shown of what is rare.
    #expect(reached.isSuperset(of: Crowd.rare), "\(reached)")
  }
}
