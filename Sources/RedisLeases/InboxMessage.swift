public import LockEngine
import LockTypes
import RESP

/// What comes to a daemon's inbox.
public enum InboxMessage: Equatable, Sendable {
  /// Something that concerns leases.
  case lease(LeasePush)
  /// Another daemon asks something; the answer goes to its inbox, with the number.
  case call(UInt64, from: String, [UInt8])
  /// The answer to what this daemon has asked under that number.
  case answer(UInt64, [UInt8])
  /// A connection of this daemon has tried its server. One that is served already has nothing to do with it: it was a
  /// connection before this one.
  case trial

  /// What the bytes of a message mean; nil when they are not understood.
  public init?(_ message: [UInt8]) {
    guard var message = MessageReader(message) else { return nil }
    switch message.kind {
    case "call":
      guard let id = message.positive(), let inbox = message.word() else { return nil }
      self = .call(id, from: inbox, Array(message.rest))
    case "answer":
      guard let id = message.positive() else { return nil }
      self = .answer(id, Array(message.rest))
    case "trial": self = .trial
    default:
      guard let push = LeasePush(&message) else { return nil }
      self = .lease(push)
    }
  }

  /// Whether a message may be one that is waited for, by its first letters: neither a question nor one of a search for
  /// deadlocks.
  public static func mayBeAwaited(_ message: [UInt8]) -> Bool {
    !message.starts(with: "1;tell".utf8) && !message.starts(with: "1;call".utf8)
  }

  /// The bytes of a message: `1;<header>;<rest>`. The header is the kind and its fields, with a space between each two.
  static func encode(_ header: String, _ rest: some Collection<UInt8>) -> [UInt8] {
    Array("1;\(header);".utf8) + rest
  }
}

extension LeasePush {
  /// What a message means, where it concerns leases.
  fileprivate init?(_ message: inout MessageReader) {
    switch message.kind {
    case "granted":
      guard let attempt = message.positive(), let token = message.number(), let count = message.number(),
        let waiting = message.number(), let name = message.name()
      else { return nil }
      self = .granted(
        name: name, attempt: attempt, LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0))
    case "contended":
      guard let attempt = message.positive(), let ask = message.positive(), let isTry = message.number(),
        let inbox = message.word(), let mode = message.word().flatMap({ HoldMode(word: Array($0.utf8)) }),
        let name = message.name()
      else { return nil }
      self = .contended(name: name, attempt: attempt, ask: ask, isTry: isTry == 1, inbox: inbox, mode: mode)
    case "epoch":
      guard let longest = message.number(), let epoch = message.word() else { return nil }
      self = .epochChanged(longestLeaseMilliseconds: longest, epoch: epoch)
    case "tell":
      guard let message = HostMessageCodec.decode(message.rest) else { return nil }
      self = .hostMessage(message)
    case "inuse":
      guard let ask = message.positive(), let name = message.name() else { return nil }
      self = .inUse(name: name, ask: ask)
    default:
      return nil
    }
  }
}

/// Reads a message, field by field. Fields that a later release appends to the header are skipped.
private struct MessageReader {
  /// The format that is read.
  private static let begin = "1;".utf8

  let kind: String
  /// What stands behind the header: a name, or what is packed.
  let rest: ArraySlice<UInt8>
  private var header: ArraySlice<UInt8>

  /// nil for another format, or none.
  init?(_ message: [UInt8]) {
    guard message.starts(with: Self.begin) else { return nil }
    let body = message.dropFirst(Self.begin.count)
    guard let end = body.firstIndex(of: 0x3B) else { return nil }
    rest = body[(end + 1)...]
    header = body[..<end]
    guard let kind = header.nextWord() else { return nil }
    self.kind = String(decoding: kind, as: UTF8.self)
  }

  mutating func word() -> String? { header.nextWord().map { String(decoding: $0, as: UTF8.self) } }
  mutating func number() -> Int64? { header.nextWord().flatMap { Int64(decimal: $0) } }
  mutating func positive() -> UInt64? { number().flatMap { UInt64(exactly: $0) } }

  func name() -> LockName? { rest.isEmpty ? nil : LockName(bytes: Array(rest)) }
}

extension ArraySlice<UInt8> {
  /// Takes what stands before the next space or the end, and the space; nil where nothing is left.
  fileprivate mutating func nextWord() -> ArraySlice<UInt8>? {
    guard !isEmpty else { return nil }
    let end = firstIndex(of: 0x20) ?? endIndex
    defer { self = end < endIndex ? self[(end + 1)...] : [] }
    return self[..<end]
  }
}
