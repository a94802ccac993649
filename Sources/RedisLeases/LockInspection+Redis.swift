public import LockEngine
public import LockTypes
public import RESP

// What stands in Redis about some locks, as Scripts/inspect.lua tells it.

extension LeaseCommandEncoder {
  /// Asks what stands in Redis about `names`, without changing anything.
  public func inspect(_ names: [LockName], waitingHostsMax: Int) -> RedisCommand {
    .script(
      name: .inspect, keys: names.flatMap { [keys.lockKey($0), keys.queueKey($0), keys.fenceKey($0)] },
      arguments: [Array(String(waitingHostsMax).utf8), epochKey])
  }
}

extension LeaseReplyDecoder {
  /// The reply to ``LeaseCommandEncoder/inspect(_:waitingHostsMax:)`` for `count` names; nil when it is not understood. `me`:
  /// the daemon that is shown to itself as such.
  public static func inspections(_ reply: RESPValue, count: Int, me: [UInt8]) -> [LockInspection]? {
    guard let entries = reply.elements, entries.count == count else { return nil }
    var found: [LockInspection] = []
    for entry in entries {
      guard let parts = entry.elements, parts.count == 7, let state = Self.state(of: parts[0]),
        let expires = parts[1].integer, let holders = parts[2].elements, let total = parts[3].integer,
        let waiting = parts[4].elements, let gone = parts[6].elements
      else { return nil }
      found.append(
        LockInspection(
          state: state, holders: holders.compactMap { $0.bytes.flatMap { holder(in: $0, me: me, dead: gone) } },
          expiresInMilliseconds: expires < 0 ? nil : expires, waitingHostsTotal: total,
          waiting: waiting.compactMap { $0.bytes.flatMap(Self.waiting(in:)) },
          otherData: parts[5].bytes.flatMap { OtherData(words: $0[...]) }))
    }
    return found
  }

  private static func state(of reply: RESPValue) -> LockInspection.State? {
    if reply == .null { return .free }
    guard let word = reply.bytes else { return nil }
    switch String(decoding: word, as: UTF8.self) {
    case "foreign": return .foreign
    case "wrongtype": return .wrongType
    default: return HoldMode(word: word).map { .held($0) }
    }
  }

  /// `<host>/<instance>:<attempt>:<first token>`.
  private static func holder(in bytes: [UInt8], me: [UInt8], dead: [RESPValue]) -> LockInspection.Holder? {
    let parts = bytes.split(separator: 0x3A, omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0].contains(0x2F), let token = Int64(decimal: parts[2]) else { return nil }
    return LockInspection.Holder(
      host: host(ofInstance: Array(parts[0])), inbox: String(decoding: parts[0], as: UTF8.self), token: token,
      entry: bytes, isMe: Array(parts[0]) == me, isDead: dead.contains { $0.bytes.map { $0[...] } == parts[0] })
  }

  /// An entry of the queue; nil for one of a later format, which says how it waits in a way that is not known here.
  private static func waiting(in bytes: [UInt8]) -> LockInspection.Waiting? {
    let begin = Array("1;".utf8)
    guard bytes.starts(with: begin) else { return nil }
    let parts = bytes.dropFirst(begin.count).split(separator: 0x3A, omittingEmptySubsequences: false)
    guard parts.count >= 4, parts[0].contains(0x2F), let mode = HoldMode(word: parts[3]) else { return nil }
    return LockInspection.Waiting(
      host: host(ofInstance: Array(parts[0])), inbox: String(decoding: parts[0], as: UTF8.self), mode: mode)
  }
}
