import LockEngine
import LockTypes
import Logging
import NIOCore
import RESP
import RedisLeases

/// What is known of the primaries of a cluster.
struct ClusterStanding {
  /// In how many parts the locks are.
  let parts = ClusterCells.count
  /// How many of them serve locks.
  var primaries: Int
  /// How many of those there is a link to.
  var linked: Int
  /// Of how many parts of the locks (``ClusterCells``) nobody can be asked, or nobody serves them.
  var unserved: Int
  /// Why; nil: there are none.
  var reason: String?
  /// How often a part was taken over by another primary.
  var moves: UInt64

  /// For the status line, which tells by itself why nobody can be asked about anything.
  func words(withReason: Bool) -> String {
    var parts = unserved == 0 ? "" : ", \(unserved) of \(ClusterCells.count) parts unserved"
    if withReason, let reason { parts += " (\(reason))" }
    return "\(linked) of \(primaries) primar\(primaries == 1 ? "y" : "ies")\(parts)"
  }
}

/// The links to the primaries of a Redis Cluster, one each: which there have to be is decided by ``ClusterMachine``.
///
/// To the engine each cell is a shard of its own. The connection to a shard is up while the link to the primary that serves
/// its cell is. When a cell is taken over by another primary, its connection goes down, and comes up where the link to the other one
/// is: the engine asks for the epoch there before anything else, as on each connection. What the primary of before still answers or
/// publishes about the cell is not told.
final class ClusterLinks: LeaseStore {
  /// How often the cluster is asked how things are while all is well, and otherwise, in milliseconds.
  static let calmMilliseconds: Int64 = 3000
  static let troubleMilliseconds: Int64 = 500
  /// How soon after a question the next one may come that something gives cause for, in milliseconds.
  static let soonMilliseconds: Int64 = 50
  /// How long a link that nobody needs any more is kept for what is under way, in milliseconds: longer than anything takes.
  static let forgetMilliseconds: Int64 = 60_000

  final class Link {
    let link: RedisLink
    var isReady = false
    /// Whether it is to be connected.
    var isWanted = false

    init(_ link: RedisLink) { self.link = link }
  }

  /// The connection to a shard, as the engine was told.
  struct Told {
    var node: ClusterTopology.NodeID?
    var isUp = false
  }

  let loop: any EventLoop
  private let clock: HostClock
  private let logger: Logger
  private let usesTLS: Bool
  private let makeLink: (ClusterTopology.NodeID, RedisAddress) -> RedisLink
  let onEvent: (StoreEvent, ShardID) -> Void
  private let onOutput: () -> Void
  private var onFirstOutcome: (() -> Void)?
  private let login: LinkLogin
  private let watch: ClusterWatch
  private(set) var machine: ClusterMachine
  /// By node and address. Those that serve nothing rest, while their node is there.
  private var links: [ClusterTopology.NodeID: [RedisAddress: Link]] = [:]
  /// What those have done that are gone.
  private var past = LinkStatistics()
  private(set) var told = [Told](repeating: Told(), count: ClusterCells.count)
  private var timer: (at: BootInstant, task: Scheduled<Void>)?
  /// Whose answer is awaited.
  private var asked: Set<RedisAddress> = []
  /// Which of the links was used for the last question, among those that were ready.
  private var lastAsked = 0
  private var askedAt: BootInstant?
  private var isTidying = false
  private var isStopped = false
  private var trouble = "not connected yet"
  private var tally = MessageTally()
  /// Those of the URL that were not asked yet: one that is of another cluster has to be told of.
  private var unasked: [RedisAddress]
  /// Whether all parts were served once.
  private var hasBeenServed = false
  /// How many questions have failed before anybody has told anything.
  private var firstFailures = 0

  /// `makeLink`: to the node of that name, which is at that address.
  init(
    loop: any EventLoop, seeds: RedisClusterSeeds, usesTLS: Bool, login source: @escaping () -> RedisLoginSource,
    clientName: String, timeoutMilliseconds: Int64, clock: HostClock, logger: Logger,
    makeDialer: @escaping (RedisAddress) -> RedisDialer,
    makeLink:
      @escaping (
        ClusterTopology.NodeID, RedisAddress, @escaping (StoreEvent, ShardID) -> Void, @escaping () -> Void
      ) -> RedisLink,
    onEvent: @escaping (StoreEvent, ShardID) -> Void, onOutput: @escaping () -> Void,
    onFirstOutcome: @escaping () -> Void
  ) {
    self.loop = loop
    self.clock = clock
    self.logger = logger
    self.usesTLS = usesTLS
    self.onEvent = onEvent
    self.onOutput = onOutput
    self.onFirstOutcome = onFirstOutcome
    self.timeoutMilliseconds = timeoutMilliseconds
    machine = ClusterMachine(seeds)
    unasked = seeds.addresses
    login = LinkLogin(loop: loop, now: clock.now, source: source)
    watch = ClusterWatch(
      loop: loop, clientName: clientName, timeoutMilliseconds: timeoutMilliseconds, makeDialer: makeDialer)
    weak var links: ClusterLinks?
    self.makeLink = { node, address in
      makeLink(node, address, { links?.heard($0, of: $1, from: node, address) }, { links?.failed(node, address) })
    }
    links = self
  }

  var timeoutMilliseconds: Int64 {
    didSet {
      watch.timeoutMilliseconds = timeoutMilliseconds
      for link in all { link.link.timeoutMilliseconds = timeoutMilliseconds }
    }
  }

  /// Those to nodes that there are.
  var all: some Sequence<Link> { links.values.lazy.flatMap(\.values) }
  /// Those to the primaries that can be asked.
  var ready: [Link] { machine.primaries.compactMap(link(to:)).filter(\.isReady) }

  // MARK: Standing

  var isReady: Bool { told.contains(where: \.isUp) }
  var downReason: String? {
    guard !isAllUp else { return refusal }
    let reasons = [refusal, worst].compactMap { $0 }
    return reasons.isEmpty ? trouble : reasons.joined(separator: "; ")
  }
  private var isAllUp: Bool { told.allSatisfy(\.isUp) }
  /// Why a primary that can be reached does not serve something.
  private var refusal: String? {
    guard machine.isAnyRefused else { return nil }
    return told.indices.lazy.compactMap { [machine] in machine.refusal(ofCell: $0) }.first
  }
  /// Why a primary that serves something cannot be reached.
  private var worst: String? {
    for id in machine.primaries {
      if let link = link(to: id), !link.isReady, let reason = link.link.downReason {
        return Self.naming(link.link.address, reason)
      }
    }
    return nil
  }
  /// The reason with the node that it is about, which some name by themselves.
  private static func naming(_ address: RedisAddress, _ reason: String) -> String {
    reason.hasPrefix("cannot connect to \(address)") ? reason : "\(address): \(reason)"
  }
  var hasAnswered: Bool { all.contains { $0.isReady && $0.link.hasAnswered } }
  var isUrgent: Bool {
    get { all.contains { $0.link.isUrgent } }
    set { for link in all { link.link.isUrgent = newValue } }
  }
  /// Where one has something else, all are sent what they have.
  var hasOnlyReleases: Bool {
    all.contains { $0.link.hasOnlyReleases } && all.allSatisfy { $0.link.hasOnlyReleases || !$0.link.hasWork }
  }
  var refusedLease: String? { all.lazy.compactMap(\.link.refusedLease).first }
  var waitingCount: Int { all.reduce(0) { $0 + $1.link.waitingCount } }
  func waitingMemory(of user: UInt32?) -> Int { all.reduce(0) { $0 + $1.link.waitingMemory(of: user) } }
  var statistics: LinkStatistics {
    var sum = past
    for link in all { Self.add(link.link.statistics, to: &sum) }
    return sum
  }
  private static func add(_ one: LinkStatistics, to sum: inout LinkStatistics) {
    sum.commands += one.commands
    sum.pushes += one.pushes
    sum.pushesLeftOut += one.pushesLeftOut
    sum.errors += one.errors
    sum.connections += one.connections
  }
  var sentinelStanding: SentinelStanding? { nil }
  var clusterStanding: ClusterStanding? {
    ClusterStanding(
      primaries: machine.primaries.count, linked: ready.count,
      unserved: told.indices.count { !told[$0].isUp || machine.refusal(ofCell: $0) != nil }, reason: downReason,
      moves: machine.moveCount)
  }

  // MARK: Connecting

  func start() { ask() }

  func loginMayHaveChanged() {
    login.readAgain(timeoutMilliseconds: timeoutMilliseconds)
    for link in all where link.isWanted { link.link.loginMayHaveChanged() }
  }

  func stop() {
    isStopped = true
    timer?.task.cancel()
    timer = nil
    watch.stop()
    login.stop()
    for link in all { link.link.stop() }
  }

  /// The link to a node: one that leads to it already, as the node itself has said, or one to where it is now. Nodes can tell
  /// different addresses of one.
  func link(to id: ClusterTopology.NodeID) -> Link? {
    guard let ones = links[id] else { return nil }
    if let ready = ones.values.first(where: { $0.isReady && $0.isWanted }) { return ready }
    return machine.node(id).flatMap { ones[address(of: $0)] }
  }

  /// Certificates are for names.
  private func address(of node: ClusterTopology.Node) -> RedisAddress {
    guard usesTLS, let name = node.hostname else { return node.address }
    return RedisAddress(host: name, port: node.address.port)
  }

  /// Tells the engine which connections are down by now and which are up, and sees to it that there are the right links.
  private func homesChanged() {
    guard !isStopped else { return }
    for cell in told.indices {
      let node = machine.home(ofCell: cell)
      let isUp = node.flatMap(link(to:))?.isReady == true
      guard told[cell].node != node || told[cell].isUp != isUp else { continue }
      let wasUp = told[cell].isUp
      told[cell] = Told(node: node, isUp: false)
      if wasUp { onEvent(.down, ClusterCells.shard(cell)) }
    }
    for cell in told.indices where !told[cell].isUp {
      guard let node = told[cell].node, link(to: node)?.isReady == true, machine.home(ofCell: cell) == node else {
        continue
      }
      told[cell].isUp = true
      onEvent(.up, ClusterCells.shard(cell))
    }
    if isAllUp { decideFirstOutcome() }
    tidySoon()
    onOutput()
  }

  /// Not at once: this may be called by a link that is in the middle of something.
  private func tidySoon() {
    guard !isTidying else { return }
    isTidying = true
    loop.assumeIsolated().execute { self.tidy() }
  }

  private func tidy() {
    isTidying = false
    guard !isStopped else { return }
    var wanted: Set<ObjectIdentifier> = []
    for id in machine.primaries {
      guard let node = machine.node(id), let cell = machine.cells(of: id).first else { continue }
      let link = link(to: id) ?? made(id, address(of: node))
      wanted.insert(ObjectIdentifier(link))
      let shard = ClusterCells.shard(cell)
      if link.link.keysShard != shard { link.link.keysShard = shard }
      guard !link.isWanted else { continue }
      link.isWanted = true
      link.link.start(login: login)
    }
    for link in all where link.isWanted && !wanted.contains(ObjectIdentifier(link)) {
      link.isWanted = false
      link.link.rest(because: "it serves no locks any more")
    }
    forgetThoseOfBefore()
    armTimer()
  }

  /// Nodes come under new names and addresses, and links to those of before would add up.
  private func forgetThoseOfBefore() {
    for (id, ones) in links {
      let place = machine.node(id).map(address(of:))
      for (address, link) in ones where !link.isWanted && address != place {
        links[id]?[address] = nil
        Self.add(link.link.statistics, to: &past)
        link.link.stop()
        // What is under way comes back to it.
        loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.forgetMilliseconds)) { withExtendedLifetime(link) {} }
      }
      if links[id]?.isEmpty == true { links[id] = nil }
    }
  }

  private func made(_ id: ClusterTopology.NodeID, _ address: RedisAddress) -> Link {
    let link = Link(makeLink(id, address))
    link.link.onRefused = { [unowned self] in refused($0, of: $1, by: id) }
    link.link.timeoutMilliseconds = timeoutMilliseconds
    links[id, default: [:]][address] = link
    return link
  }

  // MARK: What comes from the links

  private func heard(
    _ event: StoreEvent, of shard: ShardID, from id: ClusterTopology.NodeID, _ address: RedisAddress
  ) {
    switch event {
    case .up, .down:
      if case .up = event { links[id]?[address]?.isReady = true } else { links[id]?[address]?.isReady = false }
      homesChanged()
      if case .down = event { askSoon() }
    case .reply, .sent, .push:
      // Of a primary that does not serve the cell any more nothing is believed.
      let cell = Int(shard.rawValue)
      if case .push(.hostMessage) = event { return onEvent(event, shard) }
      guard told.indices.contains(cell), told[cell].isUp, told[cell].node == id else { return }
      if case .reply(_, let reply) = event { answered(reply, of: cell) }
      onEvent(event, shard)
    case .acknowledged, .call, .answer:
      onEvent(event, shard)
    }
  }

  /// A first attempt to connect has succeeded or failed.
  private func failed(_ id: ClusterTopology.NodeID, _ address: RedisAddress) {
    if links[id]?[address]?.isReady != true { askSoon() }
    let isDecided = machine.primaries.allSatisfy { link(to: $0)?.link.downReason != "not connected yet" }
    if isDecided { decideFirstOutcome() }
  }

  private func decideFirstOutcome() {
    onFirstOutcome?()
    onFirstOutcome = nil
  }

  private func answered(_ reply: LeaseReply, of cell: Int) {
    if case .failed = reply { return }
    // How often it changes is of no use in the log: while a slot moves some commands succeed.
    machine.answered(cell: cell)
  }

  /// Whether what a node has refused is about where slots are. `shard`: what it was asked about, where that is known.
  private func refused(_ error: [UInt8], of shard: ShardID?, by id: ClusterTopology.NodeID) -> Bool {
    let refusal = ClusterRefusal(error: error)
    switch refusal {
    case nil: return false
    case .moved(let slot, let address)?:
      guard
        let cell = machine.moved(
          slot: slot, to: address, by: id, random: .random(in: .min ... .max), now: clock.now())
      else {
        askSoon()
        return true
      }
      sentOn(cell, slot: slot, to: address)
      homesChanged()
      // Where it rests nobody is believed so soon.
      if machine.isSentInCircle(cell) { armTimer() } else { askSoon() }
      return true
    case .isMoving?:
      let words = RedisErrorReply.words(of: error)
      if let cell = shard.map({ Int($0.rawValue) }), ClusterCells.slots.indices.contains(cell) {
        machine.refused(
          cell: cell, by: id, isOfNode: false, words: "slot \(ClusterCells.slots[cell]) is being moved: \(words)")
      }
      askSoon()
      guard tally.toLog(kind: "moving", now: clock.now()) != nil else { return true }
      logger.notice(
        "a slot is being moved: the locks in it can be renewed and taken when that is done",
        metadata: ["error": "\(words)", "help": "redis-cli --cluster fix goes on with a move that has stopped halfway"])
      return true
    case .isDown?, .isUnserved?:
      if let shard {
        machine.refused(
          cell: Int(shard.rawValue), by: id, isOfNode: refusal == .isDown, words: RedisErrorReply.words(of: error))
      }
      armTimer()
      return false
    }
  }

  private func sentOn(_ cell: Int, slot: Int, to address: RedisAddress?) {
    guard machine.isSentInCircle(cell) else {
      return logger.info(
        "a part of the locks is at another primary",
        metadata: ["part": "\(cell)", "slot": "\(slot)", "now": "\(address.map { "\($0)" } ?? "")"])
    }
    guard let count = tally.toLog(kind: "circle", now: clock.now()) else { return }
    logger.warning(
      "nodes of the cluster send a part of the locks to each other; it is not served",
      metadata: ["part": "\(cell)", "reason": "\(machine.refusal(ofCell: cell) ?? "")", "count": "\(count)"])
  }

  // MARK: Asking how things are

  private func askSoon() {
    guard !isStopped else { return }
    let due = (askedAt ?? clock.now()).adding(milliseconds: Self.soonMilliseconds)
    arm(at: max(due, clock.now()))
  }

  private func armTimer() {
    guard !isStopped else { return }
    let pause = isAllUp && !machine.isAnyRefused ? Self.calmMilliseconds : Self.troubleMilliseconds
    arm(at: (askedAt ?? clock.now()).adding(milliseconds: pause))
  }

  private func arm(at moment: BootInstant) {
    if let timer, timer.at <= moment { return }
    timer?.task.cancel()
    let milliseconds = max(1, moment.milliseconds(since: clock.now()) + 1)
    timer = (
      moment,
      loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
        self.timer = nil
        self.ask()
      }
    )
  }

  /// Asks a node to which there is a link, and while something is amiss also one to which there is none: those that are silent
  /// keep nobody from hearing what the others say.
  private func ask() {
    guard !isStopped else { return }
    askedAt = clock.now()
    if isAllUp, let seed = unasked.popLast() {
      ask(at: seed)
    } else {
      let link = nextReady()
      if let link { ask(over: link) }
      // While all is well nobody has to make a connection for it.
      if !isAllUp || link == nil, let address = nextWithoutLink() { ask(at: address) }
    }
    armTimer()
  }

  private func ask(at address: RedisAddress) {
    unasked.removeAll { $0 == address }
    if let link = ready.first(where: { $0.link.address == address }) { return ask(over: link) }
    guard asked.insert(address).inserted else { return }
    login.prepare(timeoutMilliseconds: timeoutMilliseconds) { [unowned self] found in
      guard !isStopped else { return }
      guard let found else {
        return answered(
          .failure(ClusterWatch.Failure(words: login.failure ?? "the login of Redis is over")), from: address)
      }
      watch.ask(address, login: found) { [unowned self] result in
        switch result {
        case .success: login.wasAccepted()
        case .failure(let failure): if failure.isLoginRefused { login.wasRefused() }
        }
        answered(result, from: address)
      }
    }
  }

  private func ask(over link: Link) {
    let address = link.link.address
    guard asked.insert(address).inserted else { return }
    link.link.query(.plain(ClusterWatch.question)) { [unowned self] value in
      guard let value else {
        return answered(.failure(ClusterWatch.Failure(words: "the connection broke")), from: address)
      }
      answered(ClusterWatch.topology(value, asked: address), from: address)
    }
  }

  private func nextWithoutLink() -> RedisAddress? {
    let linked = Set(ready.map(\.link.address)).union(asked)
    return machine.nextToAsk(at: address(of:), without: linked.contains)
  }

  /// Each in turn: one that was cut off does not know what the others do.
  private func nextReady() -> Link? {
    let links = ready.filter { !asked.contains($0.link.address) }
    guard !links.isEmpty else { return nil }
    lastAsked = (lastAsked + 1) % links.count
    return links[lastAsked]
  }

  private func answered(
    _ result: Result<ClusterTopology, ClusterWatch.Failure>, from address: RedisAddress
  ) {
    asked.remove(address)
    guard !isStopped else { return }
    switch result {
    case .success(let view):
      // Those that nodes send to each other come and go, which is told of otherwise.
      let moved = machine.told(view, now: clock.now()).filter { !machine.isSentInCircle($0) }
      if machine.isToldOfAnother, let count = tally.toLog(kind: "another cluster", now: clock.now()) {
        logger.error(
          "a node is of another Redis Cluster, and is not believed: hosts that go there would be granted the same locks",
          metadata: [
            "node": "\(address)", "count": "\(count)",
            "help": "name nodes of one cluster in the URL of all hosts",
          ])
      }
      if !moved.isEmpty, hasBeenServed {
        logger.notice(
          "parts of the locks are at other primaries",
          metadata: ["parts": "\(moved.count)", "unknown": "\(machine.orphanCount)"])
      }
      if machine.orphanCount == 0 {
        hasBeenServed = true
      } else {
        trouble = machine.orphanWords
      }
      homesChanged()
    case .failure(let failure):
      let words = Self.naming(address, failure.words)
      if machine.orphanCount > 0 { trouble = words }
      if let count = tally.toLog(kind: words, now: clock.now()) {
        logger.warning(
          "a node of the cluster does not tell how things are",
          metadata: ["node": "\(address)", "reason": "\(failure.words)", "count": "\(count)"])
      }
      // All addresses were tried once, or there is nobody to try.
      if machine.viewCount == 0 { firstFailures += 1 }
      if firstFailures >= machine.seedCount { decideFirstOutcome() }
      onOutput()
    }
    armTimer()
  }
}
