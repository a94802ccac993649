public import LockEngine
public import LockTypes
public import RESP

/// How the locks of a Redis Cluster are divided: into 64 cells, each with its keys in one slot.
///
/// A cell is to the engine a shard of the store: it has an epoch, a life of this host and a beginning and an end of its
/// connection. Its keys are those of a Redis of its own, under a prefix that ends with the cell's hash tag. So no script has to
/// look beyond one slot; a slot that moves, a primary that fails over and data that are lost show in the epoch of each
/// cell; and what is kept over a restart names cells, which last while nodes come and go. Connections are another matter: one to
/// each primary, for all the cells that it serves.
///
/// Which cell a name is in follows from its slot as a key: cells divide the slots evenly, 256 each, and the tag of a cell is the
/// lowest number whose own slot is among them. So each primary has about as many cells as it has slots, and the keys
/// move when slots do. protocol/formats.md has this too: hosts that differ in it do not exclude each other.
public enum ClusterCells {
  /// How many there are. Every host asks for the epoch of each every few seconds; and a cell is the least that can be at
  /// another primary.
  public static let count = 64
  private static let slotsInCell = ClusterSlot.count / count

  /// The cell of a name.
  public static func cell(of name: LockName) -> Int { ClusterSlot.of(tag: name.bytes) / slotsInCell }

  /// What the engine needs to know of it.
  public static let ofLocks = LockCells(count: count, cell(of:))

  /// What stands in braces in the keys of each cell.
  public static let tags: [[UInt8]] = {
    var tags = [[UInt8]?](repeating: nil, count: count)
    var (number, missing) = (0, count)
    while missing > 0 {
      let tag = Array(String(number).utf8)
      let cell = ClusterSlot.of(tag: tag) / slotsInCell
      if tags[cell] == nil {
        tags[cell] = tag
        missing -= 1
      }
      number += 1
    }
    return tags.compactMap { $0 }
  }()

  /// The slot of the keys of each cell.
  public static let slots: [Int] = tags.map { ClusterSlot.of(tag: $0) }

  /// The cell whose keys are in a slot; nil: none.
  public static func cell(ofSlot slot: Int) -> Int? {
    let cell = slot / slotsInCell
    return slots.indices.contains(cell) && slots[cell] == slot ? cell : nil
  }

  /// The shard of the engine for a cell.
  public static func shard(_ cell: Int) -> ShardID { ShardID(UInt32(cell)) }

  /// The cell with which the keys behind `prefix` begin, whatever they are; nil: none.
  static func cell(ofKey key: some Collection<UInt8>, prefix: [UInt8]) -> Int? {
    let rest = key.dropFirst(prefix.count)
    guard key.starts(with: prefix), rest.first == 0x7B, let end = rest.firstIndex(of: 0x7D) else { return nil }
    let tag = rest[rest.index(after: rest.startIndex)..<end]
    return tags.firstIndex { $0.elementsEqual(tag) }
  }
}

/// The encoders of one connection: one for each shard whose locks it can be about.
public struct LeaseEncoders: Sendable {
  private let all: [LeaseCommandEncoder]
  /// What stands before every key and channel of all of them.
  private let keyPrefix: [UInt8]

  /// That of the only shard.
  public init(_ encoder: LeaseCommandEncoder) {
    all = [encoder]
    keyPrefix = encoder.keys.prefix
  }

  /// Those of a node of a cluster, for all cells that it may serve. All daemons know the node by that name: the inboxes of
  /// its connections have it.
  public init(keyPrefix: String, node: ClusterTopology.NodeID, host: String, instance: String) {
    all = (0..<ClusterCells.count).map {
      LeaseCommandEncoder(keyPrefix: keyPrefix, cell: $0, node: node, host: host, instance: instance)
    }
    self.keyPrefix = Array(keyPrefix.utf8)
  }

  /// The encoder for a shard.
  public subscript(shard: ShardID) -> LeaseCommandEncoder {
    let index = Int(shard.rawValue)
    return all.indices.contains(index) ? all[index] : all[0]
  }

  /// A command to a shard in Redis' words.
  public func encode(_ command: LeaseCommand, to shard: ShardID) -> RedisCommand {
    let index = Int(shard.rawValue)
    return all[all.indices.contains(index) ? index : 0].encode(command)
  }

  /// The shard that a message is about; nil: none that there is. `message`: as it came.
  public func shard(of push: LeasePush, in message: [UInt8]) -> ShardID? {
    guard all.count > 1 else { return .only }
    switch push {
    case .granted(let name, _, _): return ClusterCells.shard(ClusterCells.cell(of: name))
    case .contended(let name, _, _, _, _, _): return ClusterCells.shard(ClusterCells.cell(of: name))
    case .inUse(let name, _): return ClusterCells.shard(ClusterCells.cell(of: name))
    case .epochChanged:
      guard let end = message.lastIndex(of: 0x3B) else { return nil }
      return ClusterCells.cell(ofKey: message[(end + 1)...], prefix: keyPrefix).map(ClusterCells.shard)
    // It is about no shard.
    case .hostMessage: return .only
    }
  }

  /// One step through all lock keys of a server, of all cells that it has.
  public func scan(cursor: [UInt8], namePrefix: [UInt8], count: Int) -> RedisCommand {
    guard all.count > 1 else { return all[0].scan(cursor: cursor, namePrefix: namePrefix, count: count) }
    let anyCell = keyPrefix + [0x7B]
    return LeaseCommandEncoder.scan(
      cursor: cursor, from: LockKeys(prefix: anyCell), behind: [0x2A, 0x7D], namePrefix: namePrefix, count: count)
  }

  /// The reply to ``scan(cursor:namePrefix:count:)``; see ``LeaseReplyDecoder/scan(_:keys:)``.
  public func scanned(_ reply: RESPValue) -> (cursor: [UInt8], names: [LockName])? {
    guard all.count > 1 else { return LeaseReplyDecoder.scan(reply, keys: all[0].keys) }
    return LeaseReplyDecoder.scan(reply) { key in
      guard let cell = ClusterCells.cell(ofKey: key, prefix: keyPrefix), let name = all[cell].keys.name(ofLockKey: key),
        ClusterCells.cell(of: name) == cell
      else { return nil }
      return name
    }
  }
}
