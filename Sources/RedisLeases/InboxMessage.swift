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

  /// What the bytes of a message mean; nil when they are not understood.
  public init?(_ message: [UInt8]) {
    if let push = LeasePush(message: message) {
      self = .lease(push)
      return
    }
    var rest = message[...]
    guard let kind = rest.nextWord(),
      let id = rest.nextWord().flatMap({ Int64(decimal: $0) }).flatMap({ UInt64(exactly: $0) })
    else { return nil }
    switch String(decoding: kind, as: UTF8.self) {
    case "call":
      guard let inbox = rest.nextWord() else { return nil }
      self = .call(id, from: String(decoding: inbox, as: UTF8.self), Array(rest))
    case "answer": self = .answer(id, Array(rest))
    default: return nil
    }
  }

  /// Whether a message may be one that is waited for, by its first letters: neither a question nor one of a search for
  /// deadlocks.
  public static func mayBeAwaited(_ message: [UInt8]) -> Bool {
    !message.starts(with: "tell ".utf8) && !message.starts(with: "call ".utf8)
  }
}

extension LeasePush {
  /// What a message means, where it concerns leases.
  fileprivate init?(message: [UInt8]) {
    var rest = message[...]
    func word() -> ArraySlice<UInt8>? { rest.nextWord() }
    func number() -> Int64? { word().flatMap { Int64(decimal: $0) } }
    func positive() -> UInt64? { number().flatMap { UInt64(exactly: $0) } }
    guard let kind = word().map({ String(decoding: $0, as: UTF8.self) }) else { return nil }
    switch kind {
    case "granted":
      guard let attempt = positive(), let token = number(), let count = number(), let waiting = number(), !rest.isEmpty
      else { return nil }
      self = .granted(
        name: LockName(bytes: Array(rest)), attempt: attempt,
        LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0))
    case "contended":
      guard let attempt = positive(), let ask = positive(), let isTry = number(), let inbox = word(),
        let mode = word().flatMap({ HoldMode(word: $0) }), !rest.isEmpty
      else { return nil }
      self = .contended(
        name: LockName(bytes: Array(rest)), attempt: attempt, ask: ask, isTry: isTry == 1,
        inbox: String(decoding: inbox, as: UTF8.self), mode: mode)
    case "tell":
      guard let message = HostMessageCodec.decode(rest) else { return nil }
      self = .told(message)
    case "inuse":
      guard let ask = positive(), !rest.isEmpty else { return nil }
      self = .inUse(name: LockName(bytes: Array(rest)), ask: ask)
    default:
      return nil
    }
  }
}

extension ArraySlice<UInt8> {
  /// Takes what stands before the next space, and the space; nil where there is none.
  fileprivate mutating func nextWord() -> ArraySlice<UInt8>? {
    guard let space = firstIndex(of: 0x20) else { return nil }
    defer { self = self[(space + 1)...] }
    return self[..<space]
  }
}
