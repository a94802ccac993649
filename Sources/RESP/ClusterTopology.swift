/// One node's view of its Redis Cluster, as `CLUSTER NODES` tells it.
///
/// That command alone tells how old a claim to slots is (the config epoch), by which of two views the later one is known.
public struct ClusterTopology: Equatable, Sendable {
  /// What names a node for as long as it is in its cluster: 40 hexadecimal digits.
  public typealias NodeID = String

  /// A node that can be connected to.
  public struct Node: Equatable, Sendable {
    /// Its name.
    public var id: NodeID
    /// Where it says that clients reach it.
    public var address: RedisAddress
    /// The host name that it announces; nil where it announces none.
    public var hostname: String?
    /// Whether it takes writes, where it has slots.
    public var isPrimary: Bool
    /// Whether the node that told this takes it for down.
    public var isDown: Bool
    /// Whether most primaries do: one that was cut off cannot say so.
    public var hasFailed: Bool
    /// The config epoch of its claim to slots.
    public var epoch: UInt64
    /// The slots that it serves, as this view has it.
    public var slots: [ClosedRange<Int>]

    /// A node.
    public init(
      id: NodeID, address: RedisAddress, hostname: String? = nil, isPrimary: Bool, isDown: Bool = false,
      hasFailed: Bool = false, epoch: UInt64 = 0, slots: [ClosedRange<Int>] = []
    ) {
      self.id = id
      self.address = address
      self.hostname = hostname
      self.isPrimary = isPrimary
      self.isDown = isDown
      self.hasFailed = hasFailed
      self.epoch = epoch
      self.slots = slots
    }
  }

  /// The nodes, in the order in which they were told.
  public var nodes: [Node]
  /// The node that told it.
  public var teller: NodeID

  /// The view of `teller`.
  public init(nodes: [Node], teller: NodeID) {
    self.nodes = nodes
    self.teller = teller
  }

  /// More nodes are none that this can be about.
  public static let nodesMax = 2000
  /// The longest text, in bytes: so many nodes, and each slot by itself.
  public static let textBytesMax = 1 << 20

  /// Reads the reply to `CLUSTER NODES`; nil where it is none. `asked`: the address at which the teller was reached: a node
  /// that has met no other does not know its own.
  public init?(nodes text: [UInt8], asked: RedisAddress) {
    guard text.count <= Self.textBytesMax else { return nil }
    var nodes: [Node] = []
    var teller: NodeID?
    var rangeCount = 0
    for line in text.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }) {
      let words = line.split(separator: 0x20)
      guard words.count >= 8, let id = Self.id(words[0]), let epoch = Self.number(words[6]) else { return nil }
      let flags = Set(words[2].split(separator: 0x2C).map { String(decoding: $0, as: UTF8.self) })
      let isTeller = flags.contains("myself")
      if isTeller {
        guard teller == nil else { return nil }
        teller = id
      }
      // Those are not part of it yet, or cannot be reached by anybody.
      guard flags.isDisjoint(with: ["handshake", "noaddr"]) || isTeller else { continue }
      guard let (address, hostname) = Self.place(words[1], asked: isTeller ? asked : nil) else { continue }
      let isPrimary = flags.contains("master") || flags.contains("primary")
      let slots = isPrimary ? words[8...].compactMap(Self.slots) : []
      rangeCount += slots.count
      nodes.append(
        Node(
          id: id, address: address, hostname: hostname, isPrimary: isPrimary,
          isDown: !flags.isDisjoint(with: ["fail", "fail?"]), hasFailed: flags.contains("fail"), epoch: epoch,
          slots: slots))
      // No slot is anybody's twice.
      guard nodes.count <= Self.nodesMax, rangeCount <= ClusterSlot.count else { return nil }
    }
    guard let teller, nodes.contains(where: { $0.id == teller }) else { return nil }
    self.init(nodes: nodes, teller: teller)
  }

  private static func id(_ word: ArraySlice<UInt8>) -> NodeID? {
    let isID = word.count == 40 && word.allSatisfy { ($0 >= 0x30 && $0 <= 0x39) || ($0 >= 0x61 && $0 <= 0x66) }
    return isID ? String(decoding: word, as: UTF8.self) : nil
  }

  private static func number(_ word: ArraySlice<UInt8>) -> UInt64? {
    guard let number = Int64(decimal: word), number >= 0 else { return nil }
    return UInt64(number)
  }

  /// `ip:port@busport[,hostname[,…]]`
  private static func place(
    _ word: ArraySlice<UInt8>, asked: RedisAddress?
  ) -> (address: RedisAddress, hostname: String?)? {
    let parts = word.split(separator: 0x2C, omittingEmptySubsequences: false)
    let place = parts[0].prefix { $0 != 0x40 }
    guard let colon = place.lastIndex(of: 0x3A) else { return nil }
    var host = Array(place[..<colon])
    if host.first == 0x5B, host.last == 0x5D { host = Array(host.dropFirst().dropLast()) }
    let port = Int64(decimal: place[place.index(after: colon)...])
    let hostname = parts.dropFirst().first.flatMap { RedisAddress(host: Array($0), port: 1)?.host }
    if let address = RedisAddress(host: host, port: port) { return (address, hostname == "?" ? nil : hostname) }
    guard host.isEmpty, let asked else { return nil }
    return (asked, hostname == "?" ? nil : hostname)
  }

  /// `N` or `N-M`; nil for what tells of a slot that is on its way.
  private static func slots(_ word: ArraySlice<UInt8>) -> ClosedRange<Int>? {
    let ends = word.split(separator: 0x2D, omittingEmptySubsequences: false)
    guard ends.count <= 2, let first = Int64(decimal: ends[0]), let last = Int64(decimal: ends[ends.count - 1]),
      first >= 0, first <= last, last < ClusterSlot.count
    else { return nil }
    return Int(first)...Int(last)
  }
}

/// What a node of a Redis Cluster says where it does not have what it was asked for.
public enum ClusterRefusal: Equatable, Sendable {
  /// Another node has the slot. `address`: where; nil where that is not told.
  case moved(slot: Int, to: RedisAddress?)
  /// The slot is being moved, and some keys of it are at another node already.
  case isMoving
  /// The node serves nothing now: to it the cluster is incomplete, or has lost most primaries.
  case isDown
  /// Nobody serves that slot.
  case isUnserved

  /// What `error` says of its kind; nil for another error.
  public init?(error: [UInt8]) {
    switch RedisErrorReply.significantCode(of: error) {
    case "MOVED":
      let words = error.split(separator: 0x20)
      guard words.count >= 3, let slot = Int64(decimal: words[1]), (0..<Int64(ClusterSlot.count)).contains(slot) else {
        return nil
      }
      let colon = words[2].lastIndex(of: 0x3A)
      let host = colon.map { Array(words[2][..<$0]).filter { $0 != 0x5B && $0 != 0x5D } }
      let port = colon.flatMap { Int64(decimal: words[2][words[2].index(after: $0)...]) }
      self = .moved(slot: Int(slot), to: RedisAddress(host: host, port: port))
    case "ASK", "TRYAGAIN":
      self = .isMoving
    case "CLUSTERDOWN":
      self = RedisErrorReply.contains(error, "Hash slot not served") ? .isUnserved : .isDown
    default:
      // Within a script there is no such word.
      if RedisErrorReply.contains(error, "non local key") {
        self = .isMoving
      } else if RedisErrorReply.contains(error, "while the cluster is down") {
        self = .isDown
      } else {
        return nil
      }
    }
  }
}

/// Which node of a Redis Cluster a connection has to lead to.
public enum ClusterRole: Hashable, Sendable {
  /// Any: it is asked about the others.
  case any
  /// The primary of that name.
  case primary(ClusterTopology.NodeID)
}

/// Where a Redis Cluster is: some of its nodes, by which the others are found.
public struct RedisClusterSeeds: Equatable, Sendable {
  /// The nodes that are asked first.
  public var addresses: [RedisAddress]

  /// A cluster of which these are nodes.
  public init(addresses: [RedisAddress]) {
    self.addresses = addresses
  }

  /// How many a URL may name.
  public static let addressesMax = 32

  /// Names the cluster, whatever becomes of its nodes and in whichever order they are given.
  public var place: String { addresses.map { "\($0)" }.sorted().joined(separator: " ") }
}
