import ClientProtocol
import LockTypes
import SystemdSupport
import Testing

@testable import LockEngine
@testable import Sidecar

@Suite struct SavedDaemonTests {
  private static let identity = SavedIdentity(
    instance: "0123456789abcdef", host: "host-1", keyPrefix: "sidelock:", backend: "tcp localhost 6379 0")

  private static var session: SavedSession {
    var session = SavedSession(id: SessionID(7), cookie: 99)
    session.inputEnded = true
    session.keepsHoldsHalfClosed = true
    session.isUncertain = true
    session.framer = LineFramer.Position(partial: Array("{\"id\":".utf8), seen: 6, isHopeless: false)
    session.unreadInput = Array("more\n".utf8)
    session.unsent = Array("half a reply".utf8)
    session.inFlight = [(RequestID(3), .integer(-5)), (RequestID(4), .string(Array("ü".utf8)))]
    session.watches = [2: WatchParams(.name(LockName("n"))), 3: WatchParams(.prefix([]), scope: .all)]
    session.traces = [4]
    session.lastWatch = 5
    session.endsWithProcess = true
    session.keepaliveMilliseconds = 30_000
    session.losses = [0, 1, 2]
    session.client = "sidelock run sleep 1"
    return session
  }

  /// Memory as a daemon leaves it, with these records beside its identity.
  private static func memory(_ records: [(StateLog.Key, [UInt8])], identity: [UInt8]? = nil) throws -> StateMemory {
    let memory = try #require(StateMemory(bytes: 1 << 20))
    let log = try #require(StateLog(memory: memory.bytes))
    try log.put(StateLog.Key(kind: SavedRecordKind.identity, id: 0), identity ?? Self.identity.encode())
    for (key, bytes) in records { try log.put(key, bytes) }
    try log.commit(counters: [11, 12, 13, 14, 15, 16])
    return memory
  }

  @Test func whatADaemonLeavesIsReadAsItWas() throws {
    let key = StateLog.Key(kind: SavedRecordKind.session, id: 7)
    let state = try SavedDaemon(Self.memory([(key, Self.session.encode())]))
    #expect(state.identity == Self.identity)
    #expect(state.sessions == [SessionID(7): Self.session])
    #expect(state.lastSession == 11)
    #expect(state.lastRequest == 12)
    #expect(state.numbers.prefix(4) == [13, 14, 15, 16])
  }

  /// No release wrote one, and the locks that it tells of mean something else in Redis.
  @Test(arguments: [0, 1, 2, 3]) func aFormatBeforeTheFirstIsNotRead(_ version: UInt8) throws {
    for second in [0, 2, version, UInt8(SavedDaemon.version)] {
      var identity = Self.identity.encode()
      identity[0] = version
      identity[8] = second
      let record = (StateLog.Key(kind: SavedRecordKind.session, id: 7), Self.session.encode())
      let words = "its records are of format \(version), and this daemon reads from format 4 on"
      #expect(throws: StateDamage(words)) { try SavedDaemon(Self.memory([record], identity: identity)) }
    }
  }

  /// A daemon of a later release has put more behind everything, and says that this one can go on with it.
  @Test func aLaterFormatThatOnlyHasMoreIsRead() throws {
    var identity = Self.identity.encode() + [1, 2, 3]
    identity[0] += 1
    let records: [(StateLog.Key, [UInt8])] = [
      (StateLog.Key(kind: SavedRecordKind.session, id: 7), Self.session.encode() + [4, 5]),
      (StateLog.Key(kind: 200, id: 1), [6]),
    ]
    let state = try SavedDaemon(Self.memory(records, identity: identity))
    #expect(state.identity == Self.identity)
    #expect(state.sessions == [SessionID(7): Self.session])
    // The same in this format is damage.
    identity[0] -= 1
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory(records, identity: identity)) }
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory(records)) }
  }

  /// The format, byte for byte: see protocol/formats.md before anything here changes.
  @Test func theFormatOfTheIdentityAndOfASession() {
    #expect(
      hex(Self.identity.encode())
        == "0a000000000000000800000000000000" + "1000000000000000" + hex(Array("0123456789abcdef".utf8))
        + "0600000000000000" + hex(Array("host-1".utf8)) + "0900000000000000" + hex(Array("sidelock:".utf8))
        + "1400000000000000" + hex(Array("tcp localhost 6379 0".utf8)))
    #expect(
      hex(Self.session.encode())
        == "6300000000000000" + "01" + "01" + "0600000000000000" + hex(Array("{\"id\":".utf8)) + "0600000000000000"
        + "00"
        + "0500000000000000" + hex(Array("more\n".utf8)) + "0c00000000000000" + hex(Array("half a reply".utf8))
        + "0200000000000000" + "0300000000000000" + "01" + "fbffffffffffffff" + "0400000000000000" + "00"
        + "0200000000000000" + "c3bc" + "0500000000000000" + "0200000000000000" + "0200000000000000" + "01"
        + "0100000000000000" + "6e" + "0300000000000000" + "00" + "0000000000000000" + "01" + "3075000000000000"
        + "0300000000000000" + "000102" + "01" + "00" + "0100000000000000" + "0300000000000000"
        + "0100000000000000" + "0400000000000000"
        + "1400000000000000" + hex(Array("sidelock run sleep 1".utf8)))
  }

  private func hex(_ bytes: [UInt8]) -> String {
    bytes.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
  }

  /// Half a line in pieces, as a daemon writes it; one that is not whole is damage.
  @Test func halfALineIsReadFromItsPieces() throws {
    let line = (0..<2500).map { UInt8(0x20 + $0 % 64) }
    let session = Self.changed {
      $0.framer = LineFramer.Position(partial: Array(line[2048...]), seen: 2500, isHopeless: false)
    }
    let records: [(StateLog.Key, [UInt8])] = [
      (StateLog.Key(kind: SavedRecordKind.session, id: 7), session.encode()),
      (StateLog.Key(kind: 19, id: 7 * 256), Array(line[..<1024])),
      (StateLog.Key(kind: 19, id: 7 * 256 + 1), Array(line[1024..<2048])),
    ]
    #expect(try SavedDaemon(Self.memory(records)).sessions[SessionID(7)]?.framer.partial == line)
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory(Array(records[..<2]))) }
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory([records[0], records[2]])) }
    var short = records
    short[1].1.removeLast()
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory(short)) }
    // The formats before 7 have all of it in one record.
    var identity = Self.identity.encode()
    (identity[0], identity[8]) = (6, 6)
    let before = (records[0].0, Self.changed { $0.framer = .init(partial: line, seen: 2500, isHopeless: false) })
    let read = try SavedDaemon(Self.memory([(before.0, before.1.encode())], identity: identity))
    #expect(read.sessions == [SessionID(7): before.1])
  }

  /// Requests and losses of a session, as a daemon writes them, each in a record of its own. Up to format 7 they stand in
  /// the session's record.
  @Test func requestsAndLossesAreReadFromTheirRecords() throws {
    let whole = Self.changed { $0.losses = Self.losses([1, 64]) }
    let session = Self.changed { ($0.inFlight, $0.losses) = ([], []) }
    let name = "0100000000000000" + "6e"
    var records: [(StateLog.Key, [UInt8])] = [
      (StateLog.Key(kind: SavedRecordKind.session, id: 7), session.encode()),
      (StateLog.Key(kind: 20, id: 3), SavedRequest(session: SessionID(7), message: .integer(-5)).encode()),
      (StateLog.Key(kind: 20, id: 4), SavedRequest(session: SessionID(7), message: .string(Array("ü".utf8))).encode()),
    ]
    #expect(hex(records[1].1) == "0700000000000000" + "01" + "fbffffffffffffff")
    #expect(hex(records[2].1) == "0700000000000000" + "00" + "0200000000000000" + "c3bc")
    for number in [0, 1, 64] as [UInt64] {
      let loss = SavedLoss(number: number, LostHold(name: LockName("n"), token: 9, reason: .maxHold))
      #expect(SavedLossRecord.key(of: session.id, number: number).id == 7 * 64 + number % 64)
      #expect(hex(loss.bytes).dropFirst(16).hasPrefix(name + "0900000000000000"))
      // The last one takes the place of the first.
      records.append((SavedLossRecord.key(of: session.id, number: number), loss.bytes))
    }
    let state = try SavedDaemon(Self.memory(records))
    let read = try #require(state.sessions[SessionID(7)])
    #expect(read.losses == whole.losses)
    #expect(Set(read.inFlight.map(\.request)) == [RequestID(3), RequestID(4)])
    let beyond = records[1].1.dropLast(8) + [UInt8](repeating: 127, count: 8)
    for (what, key, bytes) in [
      ("an id that no request can have", StateLog.Key(kind: 20, id: 3), Array(beyond)),
      ("a request beyond all", StateLog.Key(kind: 20, id: .max), records[1].1),
      ("half a request", StateLog.Key(kind: 20, id: 3), Array(records[1].1.dropLast())),
      ("half a loss", StateLog.Key(kind: 21, id: 7 * 64), Array(records[3].1.dropLast())),
    ] {
      #expect(throws: StateDamage.self, "\(what)") { try SavedDaemon(Self.memory(records + [(key, Array(bytes))])) }
    }
    // Those of a session that is not there are of no use to anybody.
    records.removeFirst()
    #expect(try SavedDaemon(Self.memory(records)).sessions.isEmpty)
    var identity = Self.identity.encode()
    (identity[0], identity[8]) = (7, 7)
    let before = (StateLog.Key(kind: SavedRecordKind.session, id: 7), whole.encode())
    #expect(try SavedDaemon(Self.memory([before], identity: identity)).sessions == [SessionID(7): whole])
  }

  private static func losses(_ numbers: [UInt64]) -> [UInt8] {
    let loss = LostHold(name: LockName("n"), token: 9, reason: .maxHold)
    let records = numbers.map { SavedLoss(number: $0, loss).bytes }
    return (try? SavedLoss.list(records, isOfLaterFormat: false)) ?? []
  }

  @Test func aRecordOfAnUnknownKindIsNotPassedOver() {
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory([(StateLog.Key(kind: 200, id: 1), [])])) }
  }

  @Test func anotherFormatIsNotRead() {
    var other = Self.identity.encode()
    (other[0], other[8]) = (11, 11)
    #expect(throws: StateDamage("its records are for readers of format 11, and this daemon reads format 10")) {
      try SavedDaemon(Self.memory([], identity: other))
    }
    // The instance becomes a part of keys and messages.
    let strange = SavedIdentity(instance: "0123 456789abcde", host: "h", keyPrefix: "", backend: "")
    #expect(throws: StateDamage.self) { try SavedDaemon(Self.memory([], identity: strange.encode())) }
  }

  @Test func whatHasChangedIsNamed() {
    let identity = { (host: String, keyPrefix: String, backend: String) in
      SavedIdentity(instance: "0123456789abcdef", host: host, keyPrefix: keyPrefix, backend: backend)
    }
    let old = identity("h", "p:", "cluster a:1 b:1")
    #expect(
      old.change(to: identity("h", "p:", "cluster a:1 b:1 c:1"))
        == "the set of nodes in the URL of the Redis Cluster has changed")
    #expect(
      old.change(to: identity("i", "q:", "tcp a 1 0")) == "host and key_prefix and the Redis server have changed")
  }

  private static func changed(_ body: (inout SavedSession) -> Void) -> SavedSession {
    var session = session
    body(&session)
    return session
  }

  private static let impossible: [(String, SavedSession)] = [
    ("silent for centuries", changed { $0.keepaliveMilliseconds = .max }),
    ("silent for no time", changed { $0.keepaliveMilliseconds = 1 }),
    ("a trace beyond all", changed { $0.traces = [6] }),
    ("a trace that is a watch", changed { $0.traces = [3] }),
    ("a watch beyond all", changed { $0.lastWatch = .max }),
    (
      "too many watches",
      changed {
        $0.watches = Dictionary(uniqueKeysWithValues: (1...65).map { ($0, WatchParams(.prefix([]))) })
        $0.lastWatch = 65
      }
    ),
    ("a request beyond all", changed { $0.inFlight[0].request = RequestID(.max) }),
    ("a request twice", changed { $0.inFlight[0].request = RequestID(4) }),
    ("an id that no request can have", changed { $0.inFlight[0].message = .integer(.max) }),
    ("an id that is too long", changed { $0.inFlight[1].message = .string([UInt8](repeating: 0x61, count: 129)) }),
  ]

  @Test(arguments: impossible.indices)
  func aSessionThatCannotBeIsRefused(_ index: Int) {
    let (what, session) = Self.impossible[index]
    #expect(throws: StateDamage.self, "\(what)") { try SavedSession(id: SessionID(7), session.encode()) }
  }

  @Test func countersThatCannotBeAreRefused() throws {
    for index in 0..<6 {
      let memory = try Self.memory([])
      let log = try #require(StateLog(memory: memory.bytes))
      try log.put(StateLog.Key(kind: SavedRecordKind.identity, id: 0), Self.identity.encode())
      var counters: [UInt64] = [11, 12, 13, 14, 15, 16]
      counters[index] = 1 << 60
      try log.commit(counters: counters)
      #expect(throws: StateDamage.self) { try SavedDaemon(memory) }
    }
  }

  /// A number that is in use is never given out again, whatever was counted.
  @Test func requestsGoOnBehindThoseThatWait() throws {
    let session = Self.changed { $0.inFlight[0].request = RequestID(500) }
    let state = try SavedDaemon(Self.memory([(StateLog.Key(kind: SavedRecordKind.session, id: 7), session.encode())]))
    #expect(state.lastRequest == 500)
  }

  @Test func damagedSessionsNeverTrap() {
    var random = SystemRandomNumberGenerator()
    let good = Self.session.encode()
    var read = 0
    for _ in 0..<20_000 {
      var bytes = good
      for _ in 0..<Int.random(in: 1...3, using: &random) {
        bytes[Int.random(in: bytes.indices, using: &random)] = .random(in: .min ... .max, using: &random)
      }
      if Bool.random(using: &random) { bytes.removeLast(Int.random(in: 0...bytes.count, using: &random)) }
      guard let session = try? SavedSession(id: SessionID(7), bytes) else { continue }
      read += 1
      // Whatever was read, a framer can go on with.
      var framer = LineFramer()
      framer.position = session.framer
      var lines = 0
      Array("x\n{}\n".utf8).withUnsafeBytes { bytes in
        var rest = bytes
        while case .line = framer.next(from: &rest, { $0.count }) { lines += 1 }
      }
      #expect(lines <= 2)
    }
    #expect(read > 100)
  }

  @Test func aFramerGoesOnInTheMiddleOfALine() {
    var first = LineFramer()
    var second = LineFramer()
    var found: [String] = []
    Array("{\"id\":1}\n{\"id\"".utf8).withUnsafeBytes { bytes in
      var rest = bytes
      while case .line(let text) = first.next(from: &rest, { String(decoding: $0, as: UTF8.self) }) {
        found.append(text)
      }
    }
    second.position = first.position
    Array(":2}\n".utf8).withUnsafeBytes { bytes in
      var rest = bytes
      while case .line(let text) = second.next(from: &rest, { String(decoding: $0, as: UTF8.self) }) {
        found.append(text)
      }
    }
    #expect(found == ["{\"id\":1}", "{\"id\":2}"])
  }
}
