public import LockTypes

/// A link, by the place in memory where it stays as long as the engine. Nearly everything that is done to a lock looks at its
/// link, and a reference to an object would be counted each time.
typealias LinkReference = UnsafeMutablePointer<StoreLink>

/// The connections to the shards of the store, in the order in which this host heard of them. There is always one.
struct StoreLinks: Sequence {
  /// The one that most stores have no other beside.
  let first: LinkReference
  private var last: LinkReference
  /// Whether there is one only.
  private(set) var isSingle = true
  /// The same by the numbers of their shards, which begin at 0.
  private var table: [LinkReference?] = []
  /// The home of each cell, nil where it is not known; empty as long as none is.
  private var homes: [LinkReference?] = []
  private var lastNumber: LinkNumber = 1
  /// Which of them has the first turn with work that was put off.
  private var firstInTurn = 0

  init(timeline: LeaseTimeline) {
    first = .allocate(capacity: 1)
    first.initialize(to: StoreLink(shard: .only, number: lastNumber, timeline: timeline))
    last = first
  }

  /// Frees all of them. Nothing may look at one afterwards.
  func free() {
    for link in self {
      link.deinitialize(count: 1)
      link.deallocate()
    }
  }

  @inline(__always)
  func makeIterator() -> Iterator { Iterator(upcoming: first) }

  struct Iterator: IteratorProtocol {
    fileprivate var upcoming: LinkReference?

    @inline(__always)
    mutating func next() -> LinkReference? {
      guard let link = upcoming else { return nil }
      upcoming = link.pointee.next
      return link
    }
  }

  /// The connection to a shard; nil: this host has not heard of that one.
  subscript(shard: ShardID) -> LinkReference? {
    if isSingle { return first.pointee.shard == shard ? first : nil }
    let number = Int(shard.rawValue)
    return table.indices.contains(number) ? table[number] : first { $0.pointee.shard == shard }
  }

  /// The connection to a shard, made if there is none. It stays: a shard that is gone is one that is down.
  mutating func made(_ shard: ShardID) -> LinkReference {
    if let link = self[shard] { return link }
    let link = LinkReference.allocate(capacity: 1)
    link.initialize(to: StoreLink(shard: shard, number: newNumber(), timeline: first.pointee.shortestTimeline))
    link.pointee.note(first.pointee.longestTimeline)
    last.pointee.next = link
    last = link
    isSingle = false
    table = Array(repeating: nil, count: Self.tableMax)
    for link in self {
      let number = Int(link.pointee.shard.rawValue)
      if number < Self.tableMax { table[number] = link }
    }
    return link
  }

  /// Shards with higher numbers are looked for.
  private static let tableMax = 256

  /// The home of a cell; nil where it is not known.
  func home(ofCell cell: Int) -> LinkReference? { homes.indices.contains(cell) ? homes[cell] : nil }

  /// Takes in where cells have their home. Gives the links that may have locks of another home now.
  mutating func move(_ moves: [HomeMove], cellCount: Int) -> [LinkReference] {
    if homes.isEmpty { homes = Array(repeating: nil, count: cellCount) }
    var losers: Set<LinkReference> = []
    var isAny = false
    for move in moves {
      let link = made(move.shard)
      for cell in move.cells.clamped(to: homes.indices) where homes[cell] != link {
        if let home = homes[cell] { losers.insert(home) } else { isAny = true }
        homes[cell] = link
      }
    }
    // Locks of a process before this one may be anywhere.
    return filter { isAny || losers.contains($0) }
  }

  /// A number for a link that comes up.
  mutating func newNumber() -> LinkNumber {
    lastNumber &+= 1
    return lastNumber
  }

  /// All of them, another one first each time, so that one with much to do does not keep the others back.
  mutating func inTurn() -> [LinkReference] {
    let all = Array(self)
    firstInTurn = (firstInTurn + 1) % all.count
    return Array(all[firstInTurn...] + all[..<firstInTurn])
  }

  /// One that can carry a message to any host.
  var forMessages: LinkReference {
    first { $0.pointee.isUp } ?? first { $0.pointee.isConnected } ?? first
  }
}

extension LockEngine {
  /// The connection to the home of a name, as far as that is known.
  func home(of name: LockName) -> LinkReference { knownHome(of: name) ?? links.first }

  /// The same; nil where it is not known, or there is one shard only.
  func knownHome(of name: LockName) -> LinkReference? {
    guard !links.isSingle, let cells = configuration.cells else { return nil }
    return links.home(ofCell: cells(name))
  }

  /// The shards that this host has heard of.
  public var shards: [ShardID] { links.map(\.pointee.shard) }

  /// The shard in which a name has its home.
  public func shard(of name: LockName) -> ShardID { home(of: name).pointee.shard }

  /// All locks, home by home, oldest first.
  var allLocks: [LockRecord] { links.flatMap { $0.pointee.locks } }
}
