public import LockTypes
public import RESP

// A scan over all locks, page by page.

extension LeaseCommandEncoder {
  /// One step through all lock keys of this prefix that may begin with `namePrefix`.
  public func scan(cursor: [UInt8], namePrefix: [UInt8], count: Int) -> RedisCommand {
    Self.scan(cursor: cursor, from: keys, behind: [], namePrefix: namePrefix, count: count)
  }

  /// The same, for keys that have what the pattern `wildcard` matches behind the prefix of `keys`.
  static func scan(
    cursor: [UInt8], from keys: LockKeys, behind wildcard: [UInt8], namePrefix: [UInt8], count: Int
  ) -> RedisCommand {
    var pattern = literally(keys.prefix[...]) + wildcard
    pattern += literally(Array(KeyOfLock(LockName(bytes: namePrefix)).bytes.dropLast())[...])
    pattern.append(contentsOf: [0x2A, 0x7D])
    return .plain([
      Array("SCAN".utf8), cursor, Array("MATCH".utf8), pattern, Array("COUNT".utf8), Array(String(count).utf8),
    ])
  }

  /// Asks which daemons of this prefix listen.
  public var hosts: RedisCommand { Self.channels(Self.literally(inboxPrefix[...]) + [0x2A]) }

  /// Asks which daemons of this database listen, of whatever prefix.
  public var hostsOfAllPrefixes: RedisCommand { Self.channels(Array("*\(inboxWord)*/*".utf8)) }

  private static func channels(_ pattern: [UInt8]) -> RedisCommand {
    .plain([Array("PUBSUB".utf8), Array("CHANNELS".utf8), pattern])
  }

  /// Bytes as a pattern of Redis that nothing else matches.
  private static func literally(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
    bytes.flatMap { [0x2A, 0x3F, 0x5B, 0x5D, 0x5C].contains($0) ? [0x5C, $0] : [$0] }
  }

  /// The reply to ``hosts``: the inboxes, as ``me`` is one; nil when it is not understood. Anybody can listen to a
  /// channel: what could be no daemon's is left out.
  public func hosts(_ reply: RESPValue) -> [String]? {
    reply.elements?.compactMap { channel in
      guard let bytes = channel.bytes?.dropFirst(inboxPrefix.count), bytes.count <= Self.inboxBytesMax else {
        return nil
      }
      let isOfDaemon = bytes.split(separator: 0x2F, omittingEmptySubsequences: false).count == 2
      return isOfDaemon ? String(validating: bytes, as: UTF8.self) : nil
    }
  }

  /// The prefixes in the reply to ``hostsOfAllPrefixes``, sorted, up to 64 of them; nil when it is not understood.
  public func prefixes(_ reply: RESPValue) -> [String]? {
    let found = reply.elements?.compactMap { channel in
      channel.string?.firstRange(of: inboxWord).flatMap { place in
        channel.string.map { String($0[..<place.lowerBound]) }
      }
    }
    return found.map { Array(Set($0.filter { $0.utf8.count <= Self.inboxBytesMax }).sorted().prefix(64)) }
  }

  private static let inboxBytesMax = 512
}

extension LeaseReplyDecoder {
  /// The reply to ``LeaseCommandEncoder/scan(cursor:namePrefix:count:)``: the next cursor (`0` when it is through) and the
  /// locks found, whose keys are among `keys`; nil when it is not understood.
  public static func scan(_ reply: RESPValue, keys: LockKeys) -> (cursor: [UInt8], names: [LockName])? {
    scan(reply, name: keys.name(ofLockKey:))
  }

  /// The same; `name` gives the lock whose key it is told, or nil.
  static func scan(
    _ reply: RESPValue, name: ([UInt8]) -> LockName?
  ) -> (cursor: [UInt8], names: [LockName])? {
    guard let parts = reply.elements, parts.count == 2, let cursor = parts[0].bytes, let found = parts[1].elements
    else {
      return nil
    }
    return (cursor, found.compactMap { $0.bytes.flatMap(name) })
  }
}
