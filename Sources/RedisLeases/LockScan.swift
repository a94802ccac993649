public import LockTypes
public import RESP

// A scan over all locks, page by page.

extension LeaseCommandEncoder {
  /// One step through all lock keys of this prefix that may begin with `namePrefix`.
  public func scan(cursor: [UInt8], namePrefix: [UInt8], count: Int) -> RedisCommand {
    var pattern: [UInt8] = []
    let opening = keys.lockKey(LockName(bytes: namePrefix)).dropLast()
    for byte in opening {
      if [0x2A, 0x3F, 0x5B, 0x5D, 0x5C].contains(byte) { pattern.append(0x5C) }
      pattern.append(byte)
    }
    pattern.append(contentsOf: [0x2A, 0x7D])
    return .plain([
      Array("SCAN".utf8), cursor, Array("MATCH".utf8), pattern, Array("COUNT".utf8), Array(String(count).utf8),
    ])
  }
}

extension LeaseReplyDecoder {
  /// The reply to ``LeaseCommandEncoder/scan(cursor:namePrefix:count:)``: the next cursor (`0` when it is through) and the
  /// locks found, whose keys are among `keys`; nil when it is not understood.
  public static func scan(_ reply: RESPValue, keys: LockKeys) -> (cursor: [UInt8], names: [LockName])? {
    guard let parts = reply.elements, parts.count == 2, let cursor = parts[0].bytes, let found = parts[1].elements
    else {
      return nil
    }
    return (cursor, found.compactMap { $0.bytes.flatMap(keys.name(ofLockKey:)) })
  }
}
