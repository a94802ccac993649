// What of the sidecar itself outlives the process: who it is, and its sessions. How a record may change, here and in
// the engine: protocol/formats.md.

import ClientProtocol
import DaemonSettings
import LockEngine
import LockTypes
import SystemStrings
import SystemdSupport

/// The kinds of records beside the engine's own.
enum SavedRecordKind {
  static let session: UInt8 = 16
  static let identity: UInt8 = 17
  static let settings: UInt8 = 18
  static let linePiece: UInt8 = 19
  static let request: UInt8 = 20
  static let loss: UInt8 = 21
}

/// A request that is not answered: its record is of its own number.
struct SavedRequest {
  var session: SessionID
  var message: MessageID

  static func key(of request: RequestID) -> StateLog.Key {
    StateLog.Key(kind: SavedRecordKind.request, id: request.rawValue)
  }

  func encode() -> [UInt8] {
    var writer = StateWriter()
    writer.write(session.rawValue)
    writer.write(message)
    return writer.bytes
  }

  init(session: SessionID, message: MessageID) {
    (self.session, self.message) = (session, message)
  }

  init(_ bytes: [UInt8], isOfLaterFormat: Bool) throws(StateDamage) {
    var reader = StateReader(bytes)
    session = SessionID(try reader.unsigned())
    message = try reader.message()
    try reader.finish(isOfLaterFormat: isOfLaterFormat)
  }
}

extension StateWriter {
  fileprivate mutating func write(_ message: MessageID) {
    switch message {
    case .integer(let number):
      write(true)
      write(number)
    case .string(let text):
      write(false)
      write(text)
    }
  }
}

extension StateReader {
  fileprivate mutating func message() throws(StateDamage) -> MessageID {
    try bool() ? .integer(signed()) : .string(bytes())
  }
}

/// A loss of a session that is remembered. The record of a later one takes the place of one that is forgotten.
enum SavedLossRecord {
  static let placesMax = UInt64(SavedLoss.countMax)

  static func key(of session: SessionID, number: UInt64) -> StateLog.Key {
    StateLog.Key(kind: SavedRecordKind.loss, id: session.rawValue * placesMax + number % placesMax)
  }

  static func session(of key: StateLog.Key) -> SessionID { SessionID(key.id / placesMax) }
}

/// Half a line of a session. Its first bytes stand in records of their own, piece by piece, and the rest, less than a
/// piece, in the session's record; that says how many bytes there are in all.
enum SavedLine {
  /// The bytes of each piece.
  static let pieceBytes = 1024
  /// A line has fewer pieces.
  private static let piecesMax: UInt64 = 256

  static func key(of session: SessionID, piece: Int) -> StateLog.Key {
    StateLog.Key(kind: SavedRecordKind.linePiece, id: session.rawValue * piecesMax + UInt64(piece))
  }

  /// Puts the pieces before what the session's record has of the line.
  static func complete(_ session: inout SavedSession, _ records: [StateLog.Key: [UInt8]]) throws(StateDamage) {
    let line = session.framer
    guard line.seen > line.partial.count, line.seen <= Limits.lineBytesMax + 1 else { return }
    let missing = line.seen - line.partial.count
    guard missing % pieceBytes == 0 else { throw StateDamage() }
    var pieces: [UInt8] = []
    for piece in 0..<(missing / pieceBytes) {
      guard let bytes = records[key(of: session.id, piece: piece)], bytes.count == pieceBytes else {
        throw StateDamage()
      }
      pieces += bytes
    }
    session.framer.partial = pieces + line.partial
  }
}

/// The lock space that a daemon serves. Only a daemon with the same identity can use what this one saved.
struct SavedIdentity: Equatable {
  /// The format that it was written in.
  private(set) var version = SavedDaemon.version
  var instance: String
  var host: String
  var keyPrefix: String
  /// The server and database that keep the leases, without a password; empty for the locks of this host alone.
  var backend: String

  func encode() -> [UInt8] {
    var writer = StateWriter()
    writer.write(SavedDaemon.version)
    writer.write(SavedDaemon.oldestReader)
    writer.write(instance)
    writer.write(host)
    writer.write(keyPrefix)
    writer.write(backend)
    return writer.bytes
  }

  /// The identity of daemon `instance` with these settings.
  init(instance: String, _ settings: Settings) {
    self.init(
      instance: instance, host: settings.host, keyPrefix: settings.keyPrefix, backend: settings.backend.place)
  }

  /// What is another one in `new`, in words for the operator.
  func change(to new: SavedIdentity) -> String {
    let areClusters = [backend, new.backend].allSatisfy { $0.hasPrefix("cluster ") }
    var changed: [String] = []
    if !ExactText.isSame(host, new.host) { changed.append("host") }
    if !ExactText.isSame(keyPrefix, new.keyPrefix) { changed.append("key_prefix") }
    if !ExactText.isSame(backend, new.backend) {
      changed.append(areClusters ? "the set of nodes in the URL of the Redis Cluster" : "the Redis server")
    }
    return changed.joined(separator: " and ") + (changed.count == 1 ? " has changed" : " have changed")
  }

  init(instance: String, host: String, keyPrefix: String, backend: String) {
    self.instance = instance
    self.host = host
    self.keyPrefix = keyPrefix
    self.backend = backend
  }

  init(_ bytes: [UInt8]) throws(StateDamage) {
    var reader = StateReader(bytes)
    version = try reader.unsigned()
    guard version >= SavedDaemon.firstVersion else {
      throw StateDamage(
        "its records are of format \(version), and this daemon reads from format \(SavedDaemon.firstVersion) on")
    }
    let oldestReader = try reader.unsigned()
    guard oldestReader <= SavedDaemon.version else {
      throw StateDamage(
        "its records are for readers of format \(oldestReader), and this daemon reads format \(SavedDaemon.version)")
    }
    instance = try reader.text()
    host = try reader.text()
    keyPrefix = try reader.text()
    backend = try reader.text()
    try reader.finish(isOfLaterFormat: version > SavedDaemon.version)
    let isDigits = instance.utf8.allSatisfy { (0x30...0x39).contains($0) || (0x61...0x66).contains($0) }
    guard instance.utf8.count == 16, isDigits else { throw StateDamage() }
  }

  static func == (a: SavedIdentity, b: SavedIdentity) -> Bool {
    [(a.instance, b.instance), (a.host, b.host), (a.keyPrefix, b.keyPrefix), (a.backend, b.backend)]
      .allSatisfy(ExactText.isSame)
  }
}

/// A session as its own record tells it.
struct SavedSession: Equatable {
  var id: SessionID
  /// `SO_COOKIE`: no other socket is ever taken for it.
  var cookie: UInt64
  var inputEnded = false
  var keepsHoldsHalfClosed = false
  var acceptsTransfers = false
  /// What the client says of itself.
  var client: String?
  /// Whether only a part of its last output may have been sent: nobody can go on with it.
  var isUncertain = false
  var framer = LineFramer.Position(partial: [], seen: 0, isHopeless: false)
  var unreadInput: [UInt8] = []
  /// Output that the socket has not taken.
  var unsent: [UInt8] = []
  /// Requests that are not answered.
  var inFlight: [(request: RequestID, message: MessageID)] = []
  /// What it watches, by the numbers that it was told.
  var watches: [Int64: WatchParams] = [:]
  /// The numbers of its traces, which end with this process.
  var traces: Set<Int64> = []
  var lastWatch: Int64 = 0
  /// Whether it ends with the process that connected, and after how long a silence, in milliseconds; 0: never.
  var endsWithProcess = false
  var keepaliveMilliseconds: Int64 = 0
  /// The engine's memory of what it lost, in the engine's encoding.
  var losses: [UInt8] = []

  func encode() -> [UInt8] {
    var writer = StateWriter()
    writer.write(cookie)
    writer.write(inputEnded)
    writer.write(isUncertain)
    writer.write(framer.partial)
    writer.write(Int64(framer.seen))
    writer.write(framer.isHopeless)
    writer.write(unreadInput)
    writer.write(unsent)
    writer.write(UInt64(inFlight.count))
    for (request, message) in inFlight {
      writer.write(request.rawValue)
      writer.write(message)
    }
    writer.write(lastWatch)
    writer.write(UInt64(watches.count))
    let sorted = watches.sorted { $0.key < $1.key }
    for (number, watch) in sorted {
      writer.write(number)
      switch watch.target {
      case .name(let name):
        writer.write(true)
        writer.write(name.bytes)
      case .prefix(let prefix):
        writer.write(false)
        writer.write(prefix)
      }
    }
    writer.write(endsWithProcess)
    writer.write(keepaliveMilliseconds)
    writer.write(losses)
    writer.write(keepsHoldsHalfClosed)
    writer.write(acceptsTransfers)
    let ofAllHosts = sorted.filter { $0.value.scope == .all }
    writer.write(UInt64(ofAllHosts.count))
    for (number, _) in ofAllHosts { writer.write(number) }
    writer.write(UInt64(traces.count))
    for number in traces.sorted() { writer.write(number) }
    writer.write(Array((client ?? "").utf8))
    return writer.bytes
  }

  init(id: SessionID, cookie: UInt64) {
    self.id = id
    self.cookie = cookie
  }

  /// - Parameter isOfLaterFormat: whether more may stand behind what is known.
  init(id: SessionID, _ bytes: [UInt8], isOfLaterFormat: Bool = false) throws(StateDamage) {
    var reader = StateReader(bytes)
    self.id = id
    cookie = try reader.unsigned()
    inputEnded = try reader.bool()
    isUncertain = try reader.bool()
    let partial = try reader.bytes()
    guard let seen = Int(exactly: try reader.signed()) else { throw StateDamage() }
    framer = LineFramer.Position(partial: partial, seen: seen, isHopeless: try reader.bool())
    unreadInput = try reader.bytes()
    unsent = try reader.bytes()
    for _ in 0..<(try reader.count()) {
      let request = RequestID(try reader.unsigned())
      inFlight.append((request, try reader.message()))
    }
    lastWatch = try reader.signed()
    for _ in 0..<(try reader.count()) {
      let number = try reader.signed()
      watches[number] = WatchParams(
        try reader.bool() ? .name(LockName(bytes: reader.bytes())) : .prefix(reader.bytes()))
      guard number >= 1, number <= lastWatch else { throw StateDamage() }
    }
    endsWithProcess = try reader.bool()
    keepaliveMilliseconds = try reader.signed()
    losses = try reader.bytes()
    keepsHoldsHalfClosed = try reader.bool()
    acceptsTransfers = try reader.bool()
    // Up to format 9 there are none.
    if !reader.isAtEnd {
      for _ in 0..<(try reader.count()) {
        let number = try reader.signed()
        guard watches[number] != nil else { throw StateDamage() }
        watches[number]?.scope = .all
      }
      for _ in 0..<(try reader.count()) { traces.insert(try reader.signed()) }
      let words = String(decoding: try reader.bytes(), as: UTF8.self)
      client = words.isEmpty ? nil : words
    }
    try reader.finish(isOfLaterFormat: isOfLaterFormat)
    try check()
  }

  /// Makes sure that a daemon can have written it.
  fileprivate func check() throws(StateDamage) {
    let exact = -Limits.integerMax...Limits.integerMax
    for (request, message) in inFlight {
      guard request.rawValue <= SavedDaemon.numberMax else { throw StateDamage() }
      switch message {
      case .integer(let number): guard exact.contains(number) else { throw StateDamage() }
      case .string(let bytes): guard bytes.count <= Limits.idBytesMax else { throw StateDamage() }
      }
    }
    guard id.rawValue <= SavedDaemon.numberMax, (0...Limits.integerMax).contains(lastWatch),
      watches.count + traces.count <= Limits.watchesPerSessionMax,
      traces.allSatisfy({ 1...Limits.integerMax ~= $0 && $0 <= lastWatch && watches[$0] == nil }),
      Set(inFlight.map(\.request)).count == inFlight.count,
      client?.utf8.count ?? 0 <= 2 * Limits.clientTextBytesMax + 1,
      keepaliveMilliseconds == 0
        || (Limits.keepaliveMillisecondsMin...Limits.keepaliveMillisecondsMax).contains(keepaliveMilliseconds)
    else { throw StateDamage() }
  }

  static func == (a: SavedSession, b: SavedSession) -> Bool { a.encode() == b.encode() && a.id == b.id }
}

/// Input of a session that was not dealt with.
struct SavedInput {
  var session: SessionID
  var bytes: [UInt8]
  /// Whether it may still be in the socket.
  var isPeeked: Bool
}

/// What a daemon before this one left: clients that are connected, what they have, and who it was.
struct SavedDaemon {
  /// The format of all records, the engine's too. Each from the first on is read as it was written.
  static let version: UInt64 = 10
  /// The first format: no release wrote one before it.
  static let firstVersion: UInt64 = 4
  /// The first format whose readers can go on with records of this one: what is new, they pass over. Who does not know
  /// the records of requests cannot.
  static let oldestReader: UInt64 = 8
  /// Counters of the sidecar that stand before the engine's.
  static let countersOfSidecar = 2
  /// No counter comes beyond this; a higher one is damage.
  static let numberMax: UInt64 = 1 << 53

  let memory: StateMemory
  var identity: SavedIdentity
  var sessions: [SessionID: SavedSession] = [:]
  var engine = SavedState()
  var lastSession: UInt64
  var lastRequest: UInt64
  var numbers: [UInt64]
  var inputs: [SavedInput]
  var outputs: [(session: SessionID, bytes: [UInt8])]
  /// The clients' connections, by the session that each belonged to.
  var connections: [SessionID: CInt] = [:]

  /// Reads any bytes; throws on what no daemon can have written by `now`.
  init(_ memory: StateMemory, now: BootInstant = BootClock.now()) throws {
    self.memory = memory
    let image = try StateImage(memory: UnsafeRawBufferPointer(memory.bytes))
    guard let identity = image.records[StateLog.Key(kind: SavedRecordKind.identity, id: 0)] else { throw StateDamage() }
    self.identity = try SavedIdentity(identity)
    let isOfLaterFormat = self.identity.version > Self.version
    var requests: [(request: RequestID, of: SavedRequest)] = []
    var losses: [SessionID: [[UInt8]]] = [:]
    for (key, bytes) in image.records {
      switch key.kind {
      case SavedRecordKind.identity, SavedRecordKind.settings, SavedRecordKind.linePiece: break
      case SavedRecordKind.request:
        requests.append((RequestID(key.id), try SavedRequest(bytes, isOfLaterFormat: isOfLaterFormat)))
      case SavedRecordKind.loss: losses[SavedLossRecord.session(of: key), default: []].append(bytes)
      case SavedRecordKind.session:
        var session = try SavedSession(id: SessionID(key.id), bytes, isOfLaterFormat: isOfLaterFormat)
        try SavedLine.complete(&session, image.records)
        sessions[session.id] = session
      case _:
        guard let kind = SavedState.Kind(rawValue: key.kind) else {
          if isOfLaterFormat { continue }
          throw StateDamage()
        }
        try engine.add(kind, id: key.id, bytes, now: now, isOfLaterFormat: isOfLaterFormat)
      }
    }
    for (request, record) in requests {
      sessions[record.session]?.inFlight.append((request, record.message))
    }
    for (session, records) in losses {
      sessions[session]?.losses = try SavedLoss.list(records, isOfLaterFormat: isOfLaterFormat)
    }
    for session in sessions.values { try session.check() }
    guard image.counters.allSatisfy({ $0 <= Self.numberMax }) else { throw StateDamage() }
    lastSession = image.counters[0]
    lastRequest = image.counters[1]
    for request in engine.waitingRequests { lastRequest = max(lastRequest, request.rawValue) }
    for session in sessions.values {
      for (request, _) in session.inFlight { lastRequest = max(lastRequest, request.rawValue) }
    }
    numbers = Array(image.counters.dropFirst(Self.countersOfSidecar))
    inputs = image.inputs.map { SavedInput(session: SessionID($0.id), bytes: $0.bytes, isPeeked: $0.isPeeked) }
    outputs = image.outputs.map { (SessionID($0.id), $0.bytes) }
  }
}
