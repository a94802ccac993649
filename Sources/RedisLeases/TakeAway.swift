public import LockEngine
public import LockTypes
public import RESP

extension ScriptName {
  /// Takes a lock from holders whom nobody can ask.
  public static let takeAway = ScriptName(rawValue: "take_away")
}

extension LeaseCommandEncoder {
  /// Takes `name` from those of its holders that are still there as they were seen, and hands it on.
  ///
  /// - Parameters:
  ///   - seen: the ``LockInspection/Holder/entry`` of each, or the value of a foreign one.
  ///   - token: only from the one to whom it was given.
  ///   - terms: under which it is granted to the next host.
  public func takeAway(_ name: LockName, seen: [[UInt8]], token: Token?, terms: GrantTerms) -> RedisCommand {
    .script(
      name: .takeAway, keys: [keys.lockKey(name), keys.queueKey(name), keys.fenceKey(name)],
      arguments: [me, [0x30], [0x30], inboxPrefix, name.bytes]
        + [tokenCount, fenceMilliseconds, terms.tokenFloor].map(Self.decimal)
        + [epochKey, terms.epoch.opening, token.map(Self.decimal) ?? []] + seen)
  }

  /// Asks for the value of a lock's key; see ``LeaseReplyDecoder/foreignValue(_:)``.
  public func value(of name: LockName) -> RedisCommand { .plain([Array("GET".utf8), keys.lockKey(name)]) }

  private static func decimal(_ number: Int64) -> [UInt8] { Array(String(number).utf8) }
}

extension LeaseReplyDecoder {
  /// What is in a key that no host of this format has.
  public static func foreignValue(_ value: [UInt8]) -> ForeignValue {
    let begin = Array("sidelock".utf8)
    guard value.starts(with: begin) else { return .ofOthers(value) }
    let rest = value.dropFirst(begin.count)
    let format = rest.prefix { (0x30...0x39).contains($0) }
    guard rest.dropFirst(format.count).first == 0x3B else { return .ofOthers(value) }
    // However many digits it has.
    let digits = format.drop { $0 == 0x30 }
    return digits.isEmpty || digits.elementsEqual([0x31]) ? .ofOthers(value) : .ofLaterRelease
  }

  /// The reply to ``LeaseCommandEncoder/takeAway(_:seen:token:terms:)``; nil when it is not understood.
  public static func taken(_ reply: RESPValue) -> [TakenLease]? {
    guard let entries = reply.elements else { return nil }
    var taken: [TakenLease] = []
    for entry in entries {
      guard let parts = entry.elements, parts.count == 2, let seen = parts[0].bytes, let left = parts[1].integer else {
        return nil
      }
      taken.append(TakenLease(entry: seen, leftMilliseconds: left < 0 ? nil : left))
    }
    return taken
  }
}
