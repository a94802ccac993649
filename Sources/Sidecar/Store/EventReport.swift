import ClientProtocol
import LockEngine
import LockTypes
import RedisLeases

/// What a host tells of what happened there: the answer to ``HostQuestion/events(_:stream:since:)``.
struct EventReport {
  struct Entry: Equatable {
    var name: LockName
    var event: LockEvent
    /// How long ago it was when the host answered, in milliseconds.
    var ageMilliseconds: Int64
  }

  /// Entries that are read of one answer.
  static let entriesMax = 4096

  /// Names the row of events that they belong to; 0: the host tells none, because it tells as many others as it can.
  var stream: UInt64
  /// The number of the first entry. Those of before are gone.
  var first: UInt64
  var entries: [Entry] = []
  /// The number behind the last entry, whether or not it was understood.
  var next: UInt64
  /// Entries that are left out because they were not understood.
  var notUnderstood: Int64 { Int64(clamping: next - first) - Int64(entries.count) }

  // MARK: Writing

  /// The beginning of an answer, behind which the entries come.
  static func encoding(stream: UInt64, first: UInt64) -> [UInt8] {
    var bytes: [UInt8] = []
    PackedFields.append(stream, to: &bytes)
    PackedFields.append(first, to: &bytes)
    return bytes
  }

  /// Appends an entry, of which ``encoding(_:_:)`` gave the rest.
  static func append(_ event: [UInt8], ageMilliseconds: Int64, to bytes: inout [UInt8]) {
    var fields: [UInt8] = []
    PackedFields.append(ageMilliseconds, to: &fields)
    PackedFields.append(fields + event, to: &bytes)
  }

  /// An entry without its age: name, kind, session, a number and a word.
  static func encoding(_ name: LockName, _ event: LockEvent) -> [UInt8] {
    var bytes: [UInt8] = []
    PackedFields.append(name.bytes, to: &bytes)
    switch event {
    case .acquired(let session, let token, let mode): append("acquired", session, token, mode.word, to: &bytes)
    case .released(let session, let token): append("released", session, token, [], to: &bytes)
    case .lost(let session, let token, let reason):
      append("lost", session, token, Array(reason.rawValue.utf8), to: &bytes)
    case .waiting(let session, let waiters): append("waiting", session, Int64(waiters), [], to: &bytes)
    case .gaveUp(let session, let waiters): append("gave_up", session, Int64(waiters), [], to: &bytes)
    // Of other hosts each tells its own.
    case .remote(let host): append("remote", SessionID(0), 0, Array(host.utf8), to: &bytes)
    }
    return bytes
  }

  private static func append(
    _ kind: String, _ session: SessionID, _ number: Int64, _ word: [UInt8], to bytes: inout [UInt8]
  ) {
    PackedFields.append(kind, to: &bytes)
    PackedFields.append(session.rawValue, to: &bytes)
    PackedFields.append(number, to: &bytes)
    PackedFields.append(word, to: &bytes)
  }

  // MARK: Reading

  /// What an answer tells; nil when it makes no sense. What is not understood of it is left out.
  init?(_ answer: ArraySlice<UInt8>) {
    var fields = PackedFieldReader(answer)
    guard let stream: UInt64 = fields.number(), let first: UInt64 = fields.number(),
      first <= UInt64(Limits.integerMax) / 2
    else { return nil }
    self.stream = stream
    self.first = first
    next = first
    while next - first < Self.entriesMax, let entry = fields.bytes() {
      next += 1
      var fields = PackedFieldReader(entry)
      if let entry = fields.entry() { entries.append(entry) }
    }
  }
}

extension PackedFieldReader {
  fileprivate mutating func entry() -> EventReport.Entry? {
    guard let age: Int64 = number(), 0...Limits.integerMax ~= age, let name = name(), name.isText,
      1...Limits.nameBytesMax ~= name.bytes.count, let kind = text(),
      let session: UInt64 = number(), let number: Int64 = number(), 0...Limits.integerMax ~= number, let word = bytes(),
      let event = Self.event(kind, SessionID(session), number, word)
    else { return nil }
    return EventReport.Entry(name: name, event: event, ageMilliseconds: age)
  }

  private static func event(
    _ kind: String, _ session: SessionID, _ number: Int64, _ word: ArraySlice<UInt8>
  ) -> LockEvent? {
    switch kind {
    case "acquired": mode(word).map { .acquired(session, number, $0) }
    case "released": .released(session, number)
    case "lost":
      LostReason(rawValue: String(decoding: word, as: UTF8.self)).map { .lost(session, number, $0) }
    case "waiting": .waiting(session, waiters: Int(number))
    case "gave_up": .gaveUp(session, waiters: Int(number))
    default: nil
    }
  }

  private static func mode(_ word: ArraySlice<UInt8>) -> HoldMode? {
    guard let mode = HoldMode(word: word) else { return nil }
    if case .permit(let capacity) = mode, capacity > Limits.permitsMax { return nil }
    return mode
  }
}
