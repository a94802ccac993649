public import LockTypes

/// What `trace` is about.
public enum TraceTarget: Hashable, Sendable {
  /// The session of this host that `initialize` gave that name.
  case session(String)
  /// All sessions of the process of that number, now and later.
  case process(Int64)
  /// All messages about the lock of this name.
  case lock(LockName)
}

/// What a trace tells of.
public enum TracedKind: String, CaseIterable, Sendable {
  /// A line of the client.
  case request
  /// An answer of the daemon.
  case reply
  /// Something that the daemon tells unasked.
  case notification
  /// The session has ended.
  case end
  /// The trace is over.
  case over
}

/// Messages as a trace shows them: without the clients' notes, which may be anything.
public enum TracedMessage {
  /// Bytes of a message that is shown; of a longer one only the length is told.
  public static let bytesMax = 16_384
  /// What stands in the place of a note.
  private static let mask = Array("…".utf8)

  /// The line of a client; nil when it is not to be shown: it is too long, no object of JSON, has annotations that are
  /// no strings, or something that no line of the daemon has (``embedded(_:)``).
  public static func shown(request line: UnsafeRawBufferPointer) -> [UInt8]? {
    guard line.count <= bytesMax else { return nil }
    var scanner = JSONScanner(line)
    guard case .object? = try? scanner.document() else { return nil }
    guard let hidden = notes(of: scanner.members, in: scanner) else { return nil }
    var shown: [UInt8] = []
    var position = 0
    for token in hidden.sorted(by: { $0.start < $1.start }) {
      shown += line[position..<token.start] + mask
      position = token.end
    }
    return embedded(shown + line[position...])
  }

  /// An object of JSON as it may stand in a notification; nil when its nesting would be too deep there, or it has a number
  /// that is no integer of the protocol. A reader that is strict would take that for a fault of the daemon.
  private static func embedded(_ object: [UInt8]) -> [UInt8]? {
    var bytes = object
    var (position, depth) = (0, 0)
    while position < bytes.count {
      switch bytes[position] {
      case 0x22:
        position += 1
        while position < bytes.count, bytes[position] != 0x22 { position += bytes[position] == 0x5C ? 2 : 1 }
      case 0x5B, 0x7B:
        depth += 1
        // The notification and its `params` are around it.
        if depth > Limits.nestingMax - 2 { return nil }
      case 0x5D, 0x7D: depth -= 1
      case 0x2D, 0x30...0x39:
        let end = bytes[position...].firstIndex { !Self.isOfNumber($0) } ?? bytes.endIndex
        guard let number = Int64(String(decoding: bytes[position..<end], as: UTF8.self)),
          -Limits.integerMax...Limits.integerMax ~= number
        else { return nil }
        position = end - 1
      // Between the tokens a line may have these, and many readers take the second for the end of a line.
      case 0x09, 0x0D: bytes[position] = 0x20
      case _: break
      }
      position += 1
    }
    return bytes
  }

  private static func isOfNumber(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x2B, 0x2D, 0x2E, 0x45, 0x65: true
    case _: false
    }
  }

  /// The notes and annotations of an object, and of the objects inside it; nil where one is no string.
  private static func notes(of members: [MemberToken], in scanner: JSONScanner) -> [StringToken]? {
    var found: [StringToken] = []
    for member in members {
      if scanner.isIgnored(member.key) || scanner.text(member.key, is: "meta") {
        guard case .string(let token) = member.value else { return nil }
        found.append(token)
      } else if case .object(let start, _) = member.value {
        var inner = JSONScanner(scanner.bytes, at: start)
        guard (try? inner.outermostObject()) != nil, let notes = notes(of: inner.members, in: inner) else { return nil }
        found += notes
      }
    }
    return found
  }

  /// A line of the daemon, without its end; nil when it is too long. Its own writer wrote it: `"meta":"` stands in no
  /// text, where quotes are escaped.
  public static func shown(message line: ArraySlice<UInt8>) -> [UInt8]? {
    guard line.count <= bytesMax else { return nil }
    let key = Array(#""meta":""#.utf8)
    var shown: [UInt8] = []
    var rest = line
    while let start = rest.firstRange(of: key) {
      shown += rest[..<start.upperBound] + mask
      rest = rest[start.upperBound...]
      while let byte = rest.first, byte != 0x22 { rest = rest.dropFirst(byte == 0x5C ? 2 : 1) }
    }
    return shown + rest
  }
}

extension MessageWriter {
  /// Tells the trace of that number what a client and the daemon have said to each other. `message` nil: it is not
  /// shown.
  public mutating func traced(
    watch: Int64, _ kind: TracedKind, session: String?, bytes: Int? = nil, message: [UInt8]? = nil
  ) {
    notification("traced") { json in
      json.member("watch", watch)
      json.member("kind", kind.rawValue)
      if let session { json.member("session", session) }
      if let bytes { json.member("bytes", Int64(bytes)) }
      if let message {
        json.key("message")
        json.raw(message)
      }
    }
  }
}
