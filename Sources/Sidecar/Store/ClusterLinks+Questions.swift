import LockEngine
import LockTypes
import RedisLeases

// Commands and questions go to the primary that serves the cell of their lock.

extension ClusterLinks {
  private func link(of shard: ShardID) -> RedisLink? {
    let cell = Int(shard.rawValue)
    guard told.indices.contains(cell), told[cell].isUp else { return nil }
    return told[cell].node.flatMap(link(to:))?.link
  }

  private func shard(of name: LockName) -> ShardID { ClusterCells.shard(ClusterCells.cell(of: name)) }

  func flush() { for link in all { link.link.flush() } }

  func submit(_ command: LeaseCommand, id: CommandID, to shard: ShardID, of user: UInt32?) {
    link(of: shard)?.submit(command, id: id, to: shard, of: user)
  }

  func acknowledge(_ id: AcknowledgementID, of shard: ShardID, _ need: ReplicaNeed, until: BootInstant) {
    guard let link = link(of: shard) else {
      // It is down by now, and what it had to say is void.
      return loop.assumeIsolated().execute { self.onEvent(.acknowledged(id, .unknown), shard) }
    }
    link.acknowledge(id, of: shard, need, until: until)
  }

  func forgetAcknowledgement(_ id: AcknowledgementID, of shard: ShardID) {
    for link in all { link.link.forgetAcknowledgement(id, of: shard) }
  }

  func key(of other: OtherData, in name: LockName) -> [UInt8] {
    let shard = shard(of: name)
    let link = link(of: shard) ?? all.first { _ in true }?.link
    return link?.encoders[shard].keys.key(other, of: name) ?? []
  }

  func inspect(
    _ names: [LockName], waitingHostsMax: Int, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[LockInspection]>
  ) {
    let places = Dictionary(grouping: names.indices) { shard(of: names[$0]) }
    guard !places.isEmpty else { return completion(.answer([])) }
    var found = [LockInspection?](repeating: nil, count: names.count)
    var left = places.count
    var failure: StoreAnswer<[LockInspection]>?
    for (shard, indices) in places {
      let answered = { (answer: StoreAnswer<[LockInspection]>) in
        if case .answer(let inspections) = answer {
          for (index, inspection) in zip(indices, inspections) { found[index] = inspection }
        } else {
          failure = failure ?? answer
        }
        left -= 1
        guard left == 0 else { return }
        let all = found.compactMap { $0 }
        completion(failure ?? (all.count == names.count ? .answer(all) : .senseless))
      }
      guard let link = link(of: shard) else {
        answered(.none)
        continue
      }
      link.inspect(
        indices.map { names[$0] }, in: shard, waitingHostsMax: waitingHostsMax, of: user, answered)
    }
  }

  func page(
    at cursor: [UInt8], namePrefix: [UInt8], of user: UInt32?, _ completion: @escaping StoreCompletion<LockPage>
  ) {
    guard var scan = ClusterScan(cursor) else { return completion(.refused("the cursor is not one that list gave")) }
    let served = told.indices.reduce(UInt64(0)) { told[$1].isUp ? $0 | 1 << UInt64($1) : $0 }
    guard let cell = scan.next(served: served), let node = machine.home(ofCell: cell),
      let link = link(of: ClusterCells.shard(cell))
    else { return completion(.none) }
    let step = scan.begin(cells: machine.cells(of: node))
    link.page(at: step, namePrefix: namePrefix, of: user) { answer in
      guard case .answer(var page) = answer else { return completion(answer) }
      page.names = page.names.filter { scan.isWanted(ClusterCells.cell(of: $0)) }
      page.next = scan.next(after: page.next)
      completion(.answer(page))
    }
  }

  func hosts(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) {
    union(completion) { link, completion in link.hosts(of: user, completion) }
  }

  func keyPrefixes(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>) {
    union(completion) { link, completion in link.keyPrefixes(of: user, completion) }
  }

  /// What one primary tells: they are set up alike.
  func info(of user: UInt32?, _ completion: @escaping StoreCompletion<String>) {
    guard let first = ready.first else { return completion(.none) }
    first.link.info(of: user, completion)
  }

  /// Asks all primaries, as each knows only who listens there, and gives what any of them tells, in order.
  private func union(
    _ completion: @escaping StoreCompletion<[String]>,
    _ ask: (RedisLink, @escaping StoreCompletion<[String]>) -> Void
  ) {
    let links = ready
    guard !links.isEmpty else { return completion(.none) }
    var found: Set<String> = []
    var left = links.count
    var failure: StoreAnswer<[String]>?
    for link in links {
      ask(link.link) { answer in
        if case .answer(let some) = answer { found.formUnion(some) } else { failure = failure ?? answer }
        left -= 1
        if left == 0 { completion(failure ?? .answer(found.sorted())) }
      }
    }
  }

  func foreignValue(of name: LockName, of user: UInt32?, _ completion: @escaping StoreCompletion<ForeignValue?>) {
    let shard = shard(of: name)
    guard let link = link(of: shard) else { return completion(.none) }
    link.foreignValue(of: name, in: shard, of: user, completion)
  }

  func takeAway(
    _ name: LockName, seen: [[UInt8]], token: Token?, terms: GrantTerms, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[TakenLease]>
  ) {
    let shard = shard(of: name)
    guard let link = link(of: shard) else { return completion(.none) }
    link.takeAway(name, in: shard, seen: seen, token: token, terms: terms, of: user, completion)
  }

  func call(_ payload: [UInt8], id: UInt64, inbox: String, _ completion: @escaping (Int64?) -> Void) {
    tell(ready[...], heard: nil, completion) { link, completion in
      link.call(payload, id: id, inbox: inbox, completion)
    }
  }

  func answer(_ payload: [UInt8], id: UInt64, inbox: String) {
    tell(ready[...], heard: nil, { _ in }) { link, completion in
      link.answer(payload, id: id, inbox: inbox, completion)
    }
  }

  /// Sends a message over one link after the other until somebody hears it: a daemon may have lost its link to some primary.
  private func tell(
    _ links: ArraySlice<Link>, heard: Int64?, _ completion: @escaping (Int64?) -> Void,
    _ send: @escaping (RedisLink, @escaping (Int64?) -> Void) -> Void
  ) {
    guard let first = links.first else { return completion(heard) }
    send(first.link) { hearers in
      guard hearers ?? 0 == 0 else { return completion(hearers) }
      self.tell(links.dropFirst(), heard: hearers ?? heard, completion, send)
    }
  }

  func ping(_ completion: @escaping (_ isAnswered: Bool) -> Void) {
    let links = ready
    guard !links.isEmpty else { return completion(false) }
    var (left, areAnswered) = (links.count, true)
    for link in links {
      link.link.ping { isAnswered in
        left -= 1
        areAnswered = areAnswered && isAnswered
        if left == 0 { completion(areAnswered) }
      }
    }
  }
}
