public import LockTypes
public import RESP

/// Which primary of a Redis Cluster serves each cell, as far as this daemon knows. It decides what to believe and whom to
/// ask next; it does no I/O.
///
/// Nodes can disagree: one that was cut off goes on to tell how things were. So a claim to a slot is believed over an
/// earlier one only when its config epoch is higher, which the cluster gives to each that takes a slot over. Two things
/// count besides: what a primary says of its own slots, that it has them no more; and what is told again and again where
/// nobody is believed, or a node that nobody knows (a cluster that was made anew counts from the beginning). Who knows none of the
/// nodes that are known here belongs to another cluster, whose config epochs count something else: an address that was given to it,
/// or a URL with nodes of two.
///
/// A primary that is not asked, and answers a command that a slot is another one's (MOVED), is believed at once, but for each
/// cell only once until a command about it is carried out. Primaries that send a command to each other are both right about what
/// they say of themselves, for as long as nobody mends it: where MOVED comes again the cell rests without a home, for longer
/// each time, whatever is told of it.
public struct ClusterMachine: Sendable {
  /// What names a node.
  public typealias NodeID = ClusterTopology.NodeID

  private struct Home {
    /// The primary that serves the cell; nil: nobody is known to.
    var node: NodeID?
    /// The highest config epoch of a claim that was believed.
    var epoch: UInt64 = 0
    /// How often primaries have answered that another one has it, since a command about it was carried out.
    var sentOnCount = 0
    /// Until then nobody is believed to serve it.
    var restsUntil: BootInstant?
    var rests = LinkBackoff()
    /// How many views in a row have told of nothing but claims that are too old.
    var staleViews = 0
    /// Why it is not served although there is a primary; nil: nothing is known to be in the way.
    var refusal: Refusal?
  }

  private struct Refusal {
    var words: String
    /// Whether the primary says this of all that it has.
    var isOfNode: Bool
  }

  /// So many claims in a row that are too old are believed in the end, where nobody is believed, or a node of which the
  /// others know nothing, or that has failed: slots that are given away by hand have no later epoch.
  static let staleViewsMax = 3

  /// So often in a row a cell is sent on before it is said that nodes send it to each other.
  static let sentOnCountOfCircle = 4

  private let seeds: [RedisAddress]
  private var homes = [Home](repeating: Home(), count: ClusterCells.count)
  /// Those that the last view told of, and those that cells are known to be at.
  private var nodes: [NodeID: ClusterTopology.Node] = [:]
  /// Who was asked last, among all that can be asked.
  private var lastAsked = 0
  /// How often a cell was taken over by another primary than before.
  public private(set) var moveCount: UInt64 = 0
  /// How often somebody has told how things are.
  public private(set) var viewCount: UInt64 = 0
  /// How many views in a row were of another cluster. After some it is taken for the same one, made anew where it was.
  private var foreignViews = 0

  /// A cluster of which nothing is known but some addresses.
  public init(_ seeds: RedisClusterSeeds) {
    self.seeds = seeds.addresses
  }

  /// How many addresses the URL names.
  public var seedCount: Int { seeds.count }
  /// Whether the last view was of another cluster, and not believed.
  public var isToldOfAnother: Bool { foreignViews > 0 }

  // MARK: What is known

  /// The primary that serves a cell; nil where none is known to.
  public func home(ofCell cell: Int) -> NodeID? { homes[cell].node }

  /// What is known of a node.
  public func node(_ id: NodeID) -> ClusterTopology.Node? { nodes[id] }

  /// The primaries that serve any cell, those first that serve the first ones.
  public var primaries: [NodeID] {
    var seen: Set<NodeID> = []
    return homes.compactMap(\.node).filter { seen.insert($0).inserted }
  }

  /// The cells that a primary serves.
  public func cells(of id: NodeID) -> [Int] { homes.indices.filter { homes[$0].node == id } }

  /// How many cells nobody is known to serve.
  public var orphanCount: Int { homes.count { $0.node == nil } }

  /// The slots of those cells, in words for the operator.
  public var orphanWords: String {
    let slots = homes.indices.filter { homes[$0].node == nil }.map { ClusterCells.slots[$0] }
    guard let first = slots.first else { return "all parts of the locks are served" }
    let others =
      slots.count > 1 ? " and \(slots.count - 1) more, where parts of the locks are" : ", where a part of the locks is"
    return "no primary of the cluster serves slot \(first)\(others)"
  }

  /// Why the primary of a cell does not serve it, in words for the operator; nil: nothing is known to be in the way.
  public func refusal(ofCell cell: Int) -> String? { homes[cell].refusal?.words }

  /// Whether there is such a cell.
  public private(set) var isAnyRefused = false

  /// Who is to be asked next: each node in turn, those of the URL as well; nil: nobody. `place`: where a node is reached;
  /// `isLeftOut`: whether it is not asked now.
  public mutating func nextToAsk(
    at place: (ClusterTopology.Node) -> RedisAddress = { $0.address },
    without isLeftOut: (RedisAddress) -> Bool = { _ in false }
  ) -> RedisAddress? {
    let known = nodes.values.filter { !$0.isDown }.sorted { $0.id < $1.id }.map(place)
    let all = known + seeds.filter { !known.contains($0) }
    for step in all.indices {
      let index = (lastAsked + 1 + step) % all.count
      guard !isLeftOut(all[index]) else { continue }
      lastAsked = index
      return all[index]
    }
    return nil
  }

  // MARK: What is told

  /// A node has told how things are. Gives the cells that are at another place now.
  public mutating func told(_ view: ClusterTopology, now: BootInstant) -> [Int] {
    viewCount += 1
    guard isOfThisCluster(view) else { return [] }
    let before = homes.map(\.node)
    for cell in homes.indices {
      if let end = homes[cell].restsUntil, now < end { continue }
      let slot = ClusterCells.slots[cell]
      take(view.nodes.first { $0.isPrimary && $0.slots.contains { $0.contains(slot) } }, for: cell, of: view)
    }
    let used = Set(homes.compactMap(\.node))
    let told = Dictionary(view.nodes.map { ($0.id, $0) }) { first, _ in first }
    // What a node does not know that was cut off stays.
    nodes = nodes.filter { used.contains($0.key) }.merging(told) { _, told in told }
    return homes.indices.filter { homes[$0].node != before[$0] }
  }

  /// Whether it may be believed.
  private mutating func isOfThisCluster(_ view: ClusterTopology) -> Bool {
    guard homes.contains(where: { $0.node != nil }), !view.nodes.contains(where: { nodes[$0.id] != nil }) else {
      foreignViews = 0
      return true
    }
    foreignViews += 1
    // Made anew, it is where it was. Otherwise locks would be granted in both as soon as one cannot be reached.
    let isInPlace = view.nodes.contains { node in nodes.values.contains { $0.address == node.address } }
    guard isInPlace, foreignViews >= Self.staleViewsMax else { return false }
    foreignViews = 0
    for cell in homes.indices { (homes[cell].epoch, homes[cell].staleViews) = (0, Self.staleViewsMax) }
    return true
  }

  private mutating func take(_ claim: ClusterTopology.Node?, for cell: Int, of view: ClusterTopology) {
    let home = homes[cell]
    guard let claim else {
      // Only who had it can say that nobody has.
      if home.node == view.teller {
        homes[cell].node = nil
        clearRefusal(ofCell: cell)
      }
      return
    }
    guard home.node != claim.id else {
      homes[cell].epoch = max(home.epoch, claim.epoch)
      homes[cell].staleViews = 0
      return
    }
    let isKnown = home.node.map { id in view.nodes.contains { $0.id == id } } ?? true
    let hasFailed = view.nodes.contains { $0.id == home.node && $0.hasFailed }
    let isLater = claim.epoch > home.epoch || home.node == nil && claim.epoch == home.epoch
    guard isLater || home.node == view.teller || home.staleViews + 1 >= Self.staleViewsMax else {
      if home.node == nil || !isKnown || hasFailed { homes[cell].staleViews += 1 }
      return
    }
    if home.node != nil || home.epoch > 0 { moveCount += 1 }
    homes[cell].node = claim.id
    homes[cell].epoch = claim.epoch
    homes[cell].staleViews = 0
    if !isSentInCircle(cell) { clearRefusal(ofCell: cell) }
  }

  private mutating func clearRefusal(ofCell cell: Int) {
    homes[cell].refusal = nil
    refusalsChanged()
  }

  private mutating func refusalsChanged() { isAnyRefused = homes.contains { $0.refusal != nil } }

  /// The primary of a cell has refused a command: the cluster is down to it, nobody has the slot, or it is being moved.
  /// Until a command is carried out that cell is not served; where the primary serves nothing, neither are the others that it
  /// has.
  public mutating func refused(cell: Int, by id: NodeID, isOfNode: Bool, words: String) {
    guard homes.indices.contains(cell), homes[cell].node == id else { return }
    let place = nodes[id].map { "\($0.address): " } ?? ""
    let refusal = Refusal(words: place + words, isOfNode: isOfNode)
    for other in isOfNode ? cells(of: id) : [cell] { homes[other].refusal = refusal }
    isAnyRefused = true
  }

  /// The primary of a cell has carried out a command: it serves, and so it does of other cells what it had refused of all.
  public mutating func answered(cell: Int) {
    guard homes.indices.contains(cell) else { return }
    if homes[cell].sentOnCount > 0 {
      (homes[cell].sentOnCount, homes[cell].restsUntil) = (0, nil)
      homes[cell].rests.reset()
    }
    guard let refusal = homes[cell].refusal else { return }
    homes[cell].refusal = nil
    if refusal.isOfNode, let id = homes[cell].node {
      for other in cells(of: id) where homes[other].refusal?.isOfNode == true { homes[other].refusal = nil }
    }
    refusalsChanged()
  }

  /// Whether primaries send a cell to each other, as far as can be told by how often they have. The words are its refusal.
  public func isSentInCircle(_ cell: Int) -> Bool { homes[cell].sentOnCount >= Self.sentOnCountOfCircle }

  /// A primary has answered that a slot is at another one. Gives the cell that is at another place now; nil: none is, or it was
  /// not that primary's. Somebody has to be asked in any case. `random`: decides about how long the cell rests.
  public mutating func moved(
    slot: Int, to address: RedisAddress?, by id: NodeID, random: UInt64, now: BootInstant
  ) -> Int? {
    guard let cell = ClusterCells.cell(ofSlot: slot), homes[cell].node == id else { return nil }
    let target = address.flatMap { address in
      nodes.values.first { $0.isPrimary && ($0.address == address || $0.isAt(address)) }
    }
    homes[cell].sentOnCount += 1
    let isBelieved = target.map { $0.id != id } ?? false && homes[cell].sentOnCount == 1
    homes[cell].node = isBelieved ? target?.id : nil
    homes[cell].refusal = nil
    if isBelieved { moveCount += 1 }
    // The second one may be right where a slot moves fast.
    if homes[cell].sentOnCount > 2 {
      homes[cell].restsUntil = now.adding(milliseconds: homes[cell].rests.next(random: random))
    }
    if isSentInCircle(cell) {
      let (here, there) = (nodes[id].map { "\($0.address)" } ?? id, address.map { "\($0)" } ?? "another node")
      homes[cell].refusal = Refusal(
        words: "\(here) and \(there) each say that the other one has slot \(slot): "
          + "tell both who has it, with CLUSTER SETSLOT \(slot) NODE and that node's id", isOfNode: false)
    }
    refusalsChanged()
    return cell
  }
}

extension ClusterTopology.Node {
  /// Whether it is at that address by the name that it announces.
  fileprivate func isAt(_ address: RedisAddress) -> Bool {
    hostname == address.host && self.address.port == address.port
  }
}
