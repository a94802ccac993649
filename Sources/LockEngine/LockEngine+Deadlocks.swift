// Waits that would never end.
//
// Only who holds something and waits for something else can be a part of a deadlock, so that only an *agent* counts: an
// owner inside a session, or a request for several locks. A hold and a wait without an owner have nothing to do with
// each other. An agent with more than one wait is left out: one of them may be enough for it to go on.
//
// An agent waits for everybody who holds the lock it waits for. That is right for readers behind a waiting writer, too:
// the writer waits for those who hold it.
//
// On one host a cycle can only come about when a wait begins, or when a wait is left over as the only one of its owner,
// and is looked for then. Between hosts the chain of waits is
// followed from inbox to inbox (edge chasing: Chandy, Misra, Haas 1983). Meanwhile any of its links may go away, so that a
// chain that has come back to where it began proves nothing yet. It is followed once more: no request and no token is
// ever used twice, and a link that was there before and is there again was there all the time in between. At the moment
// at which the first round ended, all of them were there at once.

/// How far the search for a deadlock of one wait has come.
struct DeadlockSearch {
  /// When it is made again.
  var at: BootInstant
  /// The number of the round that is under way.
  var number: UInt64 = 0
  /// The links of the cycle that the last round found.
  var found: [DeadlockLink] = []
}

/// What makes one link of a cycle the same when it is seen again.
struct DeadlockLink: Equatable {
  var inbox: String
  var request: UInt64
  var token: Token
}

extension LockEngine {
  /// How long a wait lasts before other hosts are asked about it, in milliseconds.
  static let deadlockSearchAfterMilliseconds: Int64 = 200
  /// How often they are asked again, in milliseconds.
  static let deadlockSearchEveryMilliseconds: Int64 = 500
  /// Links that a chain may have.
  static let deadlockStepsMax = 32
  /// Places to which one message is followed from one host.
  static let deadlockBranchesMax = 64

  // MARK: On this host

  /// Ends waits until the one that has just begun is in no cycle of this host.
  func breakDeadlocks(of waiter: Waiter, now: BootInstant) {
    guard mayBeInCycle(waiter) else { return }
    while !waiter.isOver, let cycle = cycle(through: waiter) {
      let youngest = cycle.indices.max { isOlder(cycle[$0].waiter, than: cycle[$1].waiter) } ?? 0
      let steps = (cycle[youngest...] + cycle[..<youngest]).map { step(of: $0.waiter, holding: $0.hold, now: now) }
      let victim = cycle[youngest].waiter
      refuse(victim, .deadlock(steps), now: now)
      if victim !== waiter { advance(victim.lock, now: now) }
    }
  }

  /// One wait of an owner is over: the only one that is left, if there is just one, may be in a cycle now.
  func suspectOthers(of waiter: Waiter, in session: SessionRecord) {
    guard let owner = waiter.request.owner else { return }
    var others = session.waits.values.lazy.filter { $0.request.owner == owner }.makeIterator()
    if let other = others.next(), others.next() == nil {
      suspects.append(other)
      agentsMayGoOn = true
    }
  }

  /// Has requests for several locks take what they can have, and looks at the waits that may be in a cycle now, until
  /// nothing more comes of it.
  func settleAgents(now: BootInstant) {
    guard agentsMayGoOn else { return }
    agentsMayGoOn = false
    repeat {
      proceedWithSeveral(now: now)
      if let waiter = suspects.popFirst(), !waiter.isOver, !waiter.isTry {
        breakDeadlocks(of: waiter, now: now)
        if waiter.isOver { advance(waiter.lock, now: now) }
      }
    } while !suspects.isEmpty || !readySeveral.isEmpty
  }

  private func isOlder(_ a: Waiter, than b: Waiter) -> Bool {
    a.since != b.since ? a.since < b.since : a.request.request.rawValue < b.request.request.rawValue
  }

  /// A wait, and the hold of the same agent that the wait before it waits for.
  private typealias Link = (waiter: Waiter, hold: Hold?)

  /// The chain of waits from `waiter` back to it; nil when there is none on this host. The first link's hold is the one
  /// that the last link waits for.
  private func cycle(through waiter: Waiter) -> [Link]? {
    var visited: Set<ObjectIdentifier> = [ObjectIdentifier(waiter)]
    var path: [(link: Link, rest: [Link])] = [((waiter, nil), links(behind: waiter))]
    while var (link, rest) = path.popLast() {
      guard let next = rest.popLast() else { continue }
      path.append((link, rest))
      if next.waiter === waiter {
        var cycle = path.map(\.link)
        link = (waiter, next.hold)
        cycle[0] = link
        return cycle
      }
      if visited.insert(ObjectIdentifier(next.waiter)).inserted { path.append((next, links(behind: next.waiter))) }
    }
    return nil
  }

  /// Those who hold what `waiter` waits for and wait themselves. A semaphore of more than one permit is left out: any of
  /// its holders would do, so that no single chain of waits can prove that all of them are stuck.
  private func links(behind waiter: Waiter) -> [Link] {
    links(toHoldersOf: waiter.lock, mode: waiter.request.mode)
  }

  private func links(toHoldersOf lock: LockRecord, mode: HoldMode) -> [Link] {
    if case .permit(let capacity) = mode, capacity > 1 { return [] }
    return lock.holdsInOrder.compactMap { hold in wait(of: hold).map { ($0, hold) } }
  }

  /// The one wait of the agent that holds `hold`; nil when it waits for nothing, or for more than one thing. What a
  /// request for several locks has so far is that request's, whatever else its owner waits for.
  private func wait(of hold: Hold) -> Waiter? {
    if let several = hold.several { return several.waiter }
    guard let session = sessions[hold.session], let owner = hold.owner else { return nil }
    var found: Waiter?
    for waiter in session.waits.values where waiter.request.owner == owner {
      if found != nil { return nil }
      found = waiter
    }
    return found
  }

  /// Whether somebody waits for what the agent of this wait holds.
  private func mayBeInCycle(_ waiter: Waiter) -> Bool {
    let isWanted = { (hold: Hold) in !hold.lock.queue.isEmpty || hold.lease?.contendedSince != nil }
    if let several = waiter.several, several.taken.contains(where: { isWanted($0.hold) }) { return true }
    guard let owner = waiter.request.owner, let session = sessions[waiter.request.session] else { return false }
    return session.allHolds.contains { $0.owner == owner && isWanted($0) }
  }

  private func isAgent(_ waiter: Waiter) -> Bool {
    guard !isLocal, !waiter.isTry else { return false }
    return waiter.request.owner != nil || waiter.several != nil
  }

  private func step(of waiter: Waiter, holding hold: Hold?, now: BootInstant) -> DeadlockStep {
    let session = sessions[waiter.request.session]
    return DeadlockStep(
      host: configuration.host, inbox: configuration.inbox, session: waiter.request.session.rawValue,
      request: waiter.request.request.rawValue, pid: session?.pid, command: session?.command,
      owner: waiter.request.owner, waitsFor: waiter.lock.name, holds: hold?.lock.name, token: hold?.token ?? 0,
      waitedMilliseconds: now.milliseconds(since: waiter.since))
  }

  // MARK: Through other hosts

  /// Has a wait that lasts be looked at beyond this host.
  func armDeadlockSearch(for waiter: Waiter, now: BootInstant) {
    guard isAgent(waiter) else { return }
    let moment = now.adding(milliseconds: Self.deadlockSearchAfterMilliseconds)
    waiter.search = DeadlockSearch(at: moment)
    deadlines.push(.search(waiter), at: moment)
  }

  func searchDeadlock(of waiter: Waiter, now: BootInstant) {
    let moment = now.adding(milliseconds: Self.deadlockSearchEveryMilliseconds)
    waiter.search?.at = moment
    waiter.search?.found = []
    deadlines.push(.search(waiter), at: moment)
    beginRound(of: waiter, now: now)
  }

  private func beginRound(of waiter: Waiter, now: BootInstant) {
    guard linkIsUp, mayBeInCycle(waiter) else { return }
    lastProbe += 1
    waiter.search?.number = lastProbe
    let probe = DeadlockProbe(
      origin: configuration.inbox, number: lastProbe, name: waiter.lock.name,
      path: [step(of: waiter, holding: nil, now: now)])
    follow(probe, from: waiter, now: now)
  }

  /// Another host says something about a chain of waits.
  func told(_ message: HostMessage, now: BootInstant) {
    switch message {
    case .probe(let probe):
      guard let last = probe.path.last, last.waitsFor == probe.name, let lock = locks[probe.name] else { return }
      var branches = Self.deadlockBranchesMax
      follow(probe, toHoldersOf: lock, mode: .exclusive, &branches, now: now)
    case .victim(let request, let path):
      guard let first = path.first, first.inbox == configuration.inbox, first.request == request,
        let waiter = sessions[SessionID(first.session)]?.waits[RequestID(request)],
        waiter.lock.name == first.waitsFor
      else { return }
      endDeadlock(waiter, path, now: now)
    }
  }

  private func follow(_ probe: DeadlockProbe, from waiter: Waiter, now: BootInstant) {
    var branches = Self.deadlockBranchesMax
    follow(probe, from: waiter, &branches, now: now)
  }

  /// Follows a chain that has come to `waiter`: to those who hold the lock here, and to other hosts.
  private func follow(_ probe: DeadlockProbe, from waiter: Waiter, _ branches: inout Int, now: BootInstant) {
    let lock = waiter.lock
    follow(probe, toHoldersOf: lock, mode: waiter.request.mode, &branches, now: now)
    if case .permit(let capacity) = waiter.request.mode, capacity > 1 { return }
    guard lock.wanted?.stage == .queued, branches > 0 else { return }
    branches -= 1
    send(.look(name: lock.name), .follow(probe), now: now)
  }

  private func follow(
    _ probe: DeadlockProbe, toHoldersOf lock: LockRecord, mode: HoldMode, _ branches: inout Int, now: BootInstant
  ) {
    for (waiter, hold) in links(toHoldersOf: lock, mode: mode) where branches > 0 {
      branches -= 1
      let request = waiter.request.request.rawValue
      if let first = probe.path.first, first.inbox == configuration.inbox, first.request == request {
        if let hold { cycleFound(probe, waiter, closedBy: hold, now: now) }
        continue
      }
      let isKnown = probe.path.contains { $0.inbox == configuration.inbox && $0.request == request }
      guard !isKnown, probe.path.count < Self.deadlockStepsMax, isAgent(waiter) else { continue }
      var next = probe
      next.name = waiter.lock.name
      next.path.append(step(of: waiter, holding: hold, now: now))
      follow(next, from: waiter, &branches, now: now)
    }
  }

  /// The store has said who holds the lock that the chain has come to.
  func pass(_ probe: DeadlockProbe, to sight: LeaseSight, now: BootInstant) {
    for inbox in Set(sight.holders).sorted().prefix(Self.deadlockBranchesMax) where inbox != configuration.inbox {
      send(.tell(inbox: inbox, .probe(probe)), .other, now: now)
    }
  }

  /// A chain that began here has come back.
  private func cycleFound(_ probe: DeadlockProbe, _ waiter: Waiter, closedBy hold: Hold, now: BootInstant) {
    guard probe.origin == configuration.inbox, waiter.search?.number == probe.number else { return }
    var path = probe.path
    path[0].holds = hold.lock.name
    path[0].token = hold.token
    // Every member of a cycle finds it; one of them decides, or each would have a victim of its own.
    let leader = path.min { ($0.inbox, $0.request) < ($1.inbox, $1.request) }
    guard leader?.inbox == configuration.inbox, leader?.request == waiter.request.request.rawValue else { return }
    let links = path.map { DeadlockLink(inbox: $0.inbox, request: $0.request, token: $0.token) }
    guard waiter.search?.found == links else {
      waiter.search?.found = links
      return beginRound(of: waiter, now: now)
    }
    waiter.search?.found = []
    let youngest = path.indices.min { isYounger(path[$0], than: path[$1]) } ?? 0
    let turned = Array(path[youngest...] + path[..<youngest])
    if turned[0].inbox != configuration.inbox {
      send(.tell(inbox: turned[0].inbox, .victim(request: turned[0].request, path: turned)), .other, now: now)
    } else if let victim = sessions[SessionID(turned[0].session)]?.waits[RequestID(turned[0].request)] {
      endDeadlock(victim, turned, now: now)
    }
  }

  private func isYounger(_ a: DeadlockStep, than b: DeadlockStep) -> Bool {
    (a.waitedMilliseconds, b.inbox, b.request) < (b.waitedMilliseconds, a.inbox, a.request)
  }

  private func endDeadlock(_ waiter: Waiter, _ path: [DeadlockStep], now: BootInstant) {
    refuse(waiter, .deadlock(path), now: now)
    advance(waiter.lock, now: now)
  }
}
