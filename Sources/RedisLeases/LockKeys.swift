public import LockEngine
public import LockTypes

/// The keys of locks in Redis. They all begin with one prefix.
///
/// The name stands in braces, so that all keys of a lock are in one slot of a Redis Cluster; see ``KeyOfLock``.
public struct LockKeys: Hashable, Sendable {
  /// What stands before every key and channel.
  public let prefix: [UInt8]

  /// The keys that begin with `prefix`.
  public init(prefix: [UInt8]) {
    self.prefix = prefix
  }

  /// The key that exists if and only if somebody holds the lock.
  public func lockKey(_ name: LockName) -> [UInt8] { prefix + KeyOfLock(name).bytes }

  /// The key that tells which data set this is. It is the key of no lock: those have a brace behind the prefix. Behind it and
  /// ":" stand the names of hosts, in the keys that tell when those are to be taken for dead.
  public var epochKey: [UInt8] { prefix + Array("epoch".utf8) }

  /// The key that a daemon writes to before it asks how many replicas have what was written by then.
  func acknowledgementKey(of daemon: [UInt8]) -> [UInt8] { prefix + Array("ack:".utf8) + daemon }

  /// The list of hosts that wait for the lock.
  public func queueKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":queue".utf8) }

  /// The highest token reserved.
  public func fenceKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":fence".utf8) }

  /// The key of a lock that holds data of others.
  public func key(_ other: OtherData, of name: LockName) -> [UInt8] {
    switch other.part {
    case .lock: lockKey(name)
    case .queue: queueKey(name)
    case .fence: fenceKey(name)
    }
  }

  /// The name of the lock whose key this is; nil for the keys beside it and for what is no lock of this prefix.
  public func name(ofLockKey key: [UInt8]) -> LockName? {
    guard key.count > prefix.count + 2, key.starts(with: prefix), key[prefix.count] == 0x7B, key.last == 0x7D
    else { return nil }
    var bytes: [UInt8] = []
    var rest = key[(prefix.count + 1)..<(key.count - 1)]
    while let byte = rest.popFirst() {
      switch byte {
      case 0x25:
        switch (rest.popFirst(), rest.popFirst()) {
        case (0x32, 0x35): bytes.append(0x25)
        case (0x37, 0x42): bytes.append(0x7B)
        case (0x37, 0x44): bytes.append(0x7D)
        default: return nil
        }
      case 0x7B, 0x7D: return nil
      default: bytes.append(byte)
      }
    }
    return LockName(bytes: bytes)
  }
}
