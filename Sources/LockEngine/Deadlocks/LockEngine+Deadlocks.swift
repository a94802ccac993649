// Waits that would never end.
//
// Only a client that holds something and waits for something else can be in a deadlock, so only an *agent* counts: an
// owner inside a session, or a request for several locks. A hold and a wait without an owner have nothing to do with
// each other. An agent with more than one wait, one for replicas included, is left out: one of them may be enough for it to
// go on.
//
// A half-closed session is an agent, too, whatever owners it has named: it can release nothing, so it keeps its holds
// until all of its waits are over. The eldest of them stands for them: when that is over the next one does. A session
// that keeps its holds to the end of its connection waits even for itself.
//
// An agent waits for everybody who holds the lock it waits for. That is right for readers behind a waiting writer, too:
// the writer waits for those holders.
//
// On one host a cycle can only arise when a wait begins, or when a wait becomes the only one of its owner, and is
// looked for then.
//
// Between hosts the chain of waits is followed from inbox to inbox (edge chasing: Chandy, Misra, Haas 1983). Only the
// smallest wait of a cycle finds it: a search passes over waits that are smaller than its origin (they search for
// themselves), and visits each wait once. However many hosts share the locks, a search costs no more than there are
// waits, and the smallest wait of a cycle always comes back to itself.
//
// Any edge may go away meanwhile, so a chain that has come back to its origin proves nothing yet. The chain is walked a
// second time, and every edge is checked again: no request and no token is ever used twice, so an edge that was there
// before and is there again was there all the time. At the moment at which the chain came back, all of its edges were
// there at once.
//
// The youngest wait of a cycle is refused. On one host waits are as old as they came. Hosts have no clock in common,
// and what one measures is late by the time that a message takes; so between hosts the store dates a wait: by its clock
// when it executed a command that was sent as the wait began. Nobody can know of the wait before that (whoever asks
// this host is answered behind it), so a wait that begins because of another one, or after somebody has seen it, is
// always the younger one. Waits of the same microsecond are ordered by their ids.

import LockTypes
import SystemStrings

/// How far the search for a deadlock of one wait has come.
struct DeadlockSearch {
  /// When it is made again.
  var at: BootInstant
  /// The cycle that is being confirmed, and since when.
  var confirming: (number: UInt64, since: BootInstant)?
  /// How long to wait for the confirmation, in milliseconds. It doubles each time that none came: the hosts of the
  /// cycle may be a long way from the store.
  var patienceMilliseconds = LockEngine.deadlockConfirmMilliseconds
}

/// A wait, wherever it is.
struct WaitID: Hashable, Comparable {
  var inbox: ExactText
  var request: UInt64

  init(_ step: DeadlockStep) {
    inbox = ExactText(step.inbox)
    request = step.request
  }

  init(inbox: String, request: UInt64) {
    self.inbox = ExactText(inbox)
    self.request = request
  }

  static func < (a: Self, b: Self) -> Bool { (a.inbox, a.request) < (b.inbox, b.request) }
}

extension LockEngine {
  /// How long a wait lasts before other hosts are asked about it, in milliseconds.
  static let deadlockSearchAfterMilliseconds: Int64 = 200
  /// How often they are asked again, in milliseconds.
  static let deadlockSearchEveryMilliseconds: Int64 = 500
  /// How soon they are asked, in milliseconds, about a wait whose turn came while too many questions were under way, or
  /// whose cycle was gone when it was checked again: there may be others.
  static let deadlockSearchSoonMilliseconds: Int64 = 100
  /// How long to wait for a confirmation, in milliseconds: at first, and at the most.
  static let deadlockConfirmMilliseconds: Int64 = 2000
  static let deadlockConfirmMillisecondsMax: Int64 = 64_000
  /// Waits that a chain may have.
  static let deadlockStepsMax = 32
  /// Branches along which one host follows one message.
  static let deadlockBranchesMax = 64
  /// With this many questions to the store outstanding no new search starts. What clients want goes over the same
  /// connection.
  static let deadlockQuestionsToBegin = 64
  /// With this many no search continues.
  static let deadlockQuestionsMax = 256
  /// An owner with more holds is searched without looking first whether anybody waits for one of them.
  static let fewHolds = 64
  /// Holders on this host that one search through other hosts looks at. Beyond them a deadlock may be missed.
  static let deadlockHoldersMax = 1024
  /// The next search waits at least this long for each holder that was looked at, in milliseconds.
  static let deadlockPauseMillisecondsAHolder: Int64 = 5
  /// Searches that one wait remembers.
  static let searchesSeenMax = 256

  // MARK: On this host

  /// Refuses waits until the one that has just begun is in no cycle of this host.
  func breakDeadlocks(of waiter: Waiter, now: BootInstant) {
    guard mayBeInCycle(waiter) else { return }
    let search = CycleSearch(waiter)
    if !breakDeadlocks(search, now: now) { putOff(search, now: now) }
  }

  /// Goes on with a search; false when it is not at its end.
  func breakDeadlocks(_ search: CycleSearch, now: BootInstant) -> Bool {
    let waiter = search.waiter
    while !waiter.isOver {
      let cycle: [CycleSearch.Edge]
      switch goOn(search, now: now) {
      case .putOff: return false
      case .none: return true
      case .cycle(let edges): cycle = edges
      }
      search.restart()
      let youngest = cycle.indices.max { isOlder(cycle[$0].waiter, than: cycle[$1].waiter) } ?? 0
      let steps = (cycle[youngest...] + cycle[..<youngest]).map { step(of: $0.waiter, holding: $0.hold) }
      let victim = cycle[youngest].waiter
      refuse(victim, .deadlock(steps), now: now)
      if victim !== waiter { advance(victim.lock, now: now) }
    }
    return true
  }

  /// One wait of an owner is over: the only one that is left, if there is just one, may be in a cycle now.
  func suspectOthers(of waiter: Waiter, in session: SessionRecord) {
    suspectEldest(of: session)
    suspectOthers(of: waiter.request, in: session)
  }

  /// A request of an owner no longer waits, for a lock or for replicas.
  func suspectOthers(of request: AcquireRequest, in session: SessionRecord) {
    guard let owner = request.owner, let other = session.owner(owner)?.onlyWait else { return }
    agents.append(candidate: other)
  }

  /// The eldest wait of a half-closed session stands for the session from now on, or for more than it did.
  func suspectEldest(of session: SessionRecord) {
    guard let waiter = session.eldestWait else { return }
    agents.append(candidate: waiter)
  }

  /// Has requests for several locks take what they can have, and checks the waits that may be in a cycle now, until
  /// nothing is left to do.
  func runAgents(now: BootInstant) {
    while !agents.isEmpty {
      runMultiLocks(now: now)
      if let waiter = agents.nextCandidate(), !waiter.isOver, !waiter.isTry {
        breakDeadlocks(of: waiter, now: now)
        if waiter.isOver {
          advance(waiter.lock, now: now)
        } else if waiter.search == nil {
          armDeadlockSearch(for: waiter, now: now)
        }
      }
    }
  }

  private func isOlder(_ a: Waiter, than b: Waiter) -> Bool {
    a.since != b.since ? a.since < b.since : a.request.request.rawValue < b.request.request.rawValue
  }

  /// The holders of a lock that wait themselves, among as many as one search through other hosts may look at.
  private func edges(toHoldersOf lock: LockRecord, mode: HoldMode) -> [(waiter: Waiter, hold: Hold)] {
    if case .permit(let capacity) = mode, capacity > 1 { return [] }
    var edges: [(waiter: Waiter, hold: Hold)] = []
    for hold in lock.holds {
      guard agents.mayLook() else { break }
      if let waiter = soleWait(ofAgentHolding: hold) { edges.append((waiter, hold)) }
    }
    return edges
  }

  /// The one wait of the agent that holds `hold`; nil when it waits for nothing, or for more than one thing. What a
  /// request for several locks has so far is that request's, whatever else its owner waits for.
  func soleWait(ofAgentHolding hold: Hold) -> Waiter? {
    if isBeingLost(hold) { return nil }
    if let multi = hold.partOf { return multi.waiter }
    guard let session = sessions[hold.session] else { return nil }
    return hold.owner.flatMap { session.owner($0)?.onlyWait } ?? session.waitBefore(endOf: hold)
  }

  /// Whether the agent of this wait holds anything, so that the wait may become a part of a cycle.
  private func holdsAnything(_ waiter: Waiter) -> Bool {
    if let multi = waiter.partOf, !multi.taken.isEmpty { return true }
    guard let session = sessions[waiter.request.session] else { return false }
    if session.isHalfClosed { return session.firstHold != nil }
    guard let owner = waiter.request.owner else { return false }
    return session.owner(owner)?.holds.isEmpty == false
  }

  /// Whether anybody may wait for what the agent of this wait holds.
  private func mayBeInCycle(_ waiter: Waiter) -> Bool {
    let isWanted = { (hold: Hold) in !hold.lock.queue.isEmpty || hold.lease?.isContended == true }
    if let multi = waiter.partOf, multi.taken.contains(where: { isWanted($0.hold) }) { return true }
    guard let session = sessions[waiter.request.session] else { return false }
    if session.isHalfClosed {
      return session.holdCount > Self.fewHolds || session.allHolds.contains(where: isWanted)
    }
    guard let name = waiter.request.owner, let owner = session.owner(name) else { return false }
    return owner.holds.count > Self.fewHolds || owner.holds.values.contains { $0.contains(where: isWanted) }
  }

  private func isAgent(_ waiter: Waiter) -> Bool {
    guard !isLocal, !waiter.isTry else { return false }
    return waiter.request.owner != nil || waiter.partOf != nil
      || sessions[waiter.request.session]?.isHalfClosed == true
  }

  private func step(of waiter: Waiter, holding hold: Hold?) -> DeadlockStep {
    let session = sessions[waiter.request.session]
    return DeadlockStep(
      host: configuration.host, inbox: configuration.inbox, session: waiter.request.session.rawValue,
      request: waiter.request.request.rawValue, pid: session?.pid, command: session?.command,
      owner: waiter.request.owner, waitsFor: waiter.lock.name, holds: hold?.lock.name, token: hold?.token ?? 0,
      began: waiter.began)
  }

  // MARK: Which wait is the youngest

  /// Has the store date a wait that has just begun: by its answer to the ask sent for the wait, or to `clock`.
  private func date(_ waiter: Waiter, now: BootInstant) {
    let link = waiter.lock.link
    guard link.pointee.isUp, waiter.began == nil, !isBeingDated(waiter), holdsAnything(waiter) else { return }
    guard !dateByAsk(waiter, now: now) else { return }
    waiter.dateAskedOn = link.pointee.number
    send(.clock, .clock(waiter), on: link, now: now)
  }

  /// Has the answer to the ask that was just sent for a wait date it, if there was one.
  private func dateByAsk(_ waiter: Waiter, now: BootInstant) -> Bool {
    guard let wanted = waiter.lock.wanted, wanted.isAsking, wanted.wasSent, wanted.askedAt == now else {
      return false
    }
    waiter.dateAskedOn = waiter.lock.link.pointee.number
    waiter.lock.undated.append(waiter)
    return true
  }

  /// A wait without an owner can be in a deadlock once its session is half-closed. Dated only then, its age would be
  /// wrong by the time that the store takes to answer.
  private func dateForLater(_ waiter: Waiter, now: BootInstant) {
    guard !isLocal, waiter.lock.link.pointee.isUp, !waiter.isTry, waiter.began == nil, !isBeingDated(waiter),
      sessions[waiter.request.session]?.firstHold != nil
    else { return }
    _ = dateByAsk(waiter, now: now)
  }

  /// The answer to an ask has come. A wait that it does not date is dated when a search needs it.
  func dateWaiters(of lock: LockRecord, by reply: LeaseReply, sentAt: BootInstant) {
    for waiter in lock.undated where waiter.since <= sentAt {
      if case .queued(_, _, _, let place?) = reply { waiter.began = waiter.beginning(by: place.clock, sentAt: sentAt) }
      waiter.dateAskedOn = 0
    }
    // A new array: nearly always it is empty, and an emptied one would keep its memory as long as the lock is held.
    lock.undated = lock.undated.filter { isBeingDated($0) }
  }

  func clockReplied(_ waiter: Waiter, _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant) {
    waiter.dateAskedOn = 0
    guard !waiter.isOver, case .clock(let clock) = reply else { return }
    waiter.began = waiter.beginning(by: clock, sentAt: sentAt)
    notifyProgress(waiter.lock, now: now)
  }

  /// Has a wait that lasts be searched for deadlocks beyond this host.
  func armDeadlockSearch(for waiter: Waiter, now: BootInstant) {
    guard isAgent(waiter) else { return dateForLater(waiter, now: now) }
    date(waiter, now: now)
    let moment = now.adding(milliseconds: Self.deadlockSearchAfterMilliseconds)
    waiter.search = DeadlockSearch(at: moment)
    deadlines.push(.search(waiter), at: moment)
  }

  /// A search asks the store, then another host: on a slow link a fixed interval would have several under way.
  private func deadlockSearchEveryMilliseconds(over link: LinkReference) -> Int64 {
    max(Self.deadlockSearchEveryMilliseconds, 2 * link.pointee.roundTrip.timeoutMilliseconds)
  }

  private func searchAgain(_ waiter: Waiter, in milliseconds: Int64, now: BootInstant) {
    let moment = now.adding(milliseconds: milliseconds)
    waiter.search?.at = moment
    deadlines.push(.search(waiter), at: moment)
  }

  func searchDeadlock(of waiter: Waiter, now: BootInstant) {
    let link = waiter.lock.link
    let isBusy = link.pointee.deadlockQuestions >= Self.deadlockQuestionsToBegin
    searchAgain(
      waiter, in: isBusy ? Self.deadlockSearchSoonMilliseconds : deadlockSearchEveryMilliseconds(over: link), now: now)
    guard !isBusy, link.pointee.isUp, mayBeInCycle(waiter) else { return }
    guard waiter.began != nil else {
      date(waiter, now: now)
      return searchAgain(waiter, in: Self.deadlockSearchSoonMilliseconds, now: now)
    }
    if let since = waiter.search?.confirming?.since {
      let patience = waiter.search?.patienceMilliseconds ?? 0
      guard now.milliseconds(since: since) >= patience else { return }
      waiter.search?.confirming = nil
      waiter.search?.patienceMilliseconds = min(2 * patience, Self.deadlockConfirmMillisecondsMax)
    }
    var branches = Self.deadlockBranchesMax
    let probe = DeadlockProbe(number: issued.newProbe(), path: [step(of: waiter, holding: nil)])
    agents.beginSearch(holdersMax: Self.deadlockHoldersMax)
    follow(probe, from: waiter, &branches, now: now)
    let seen = Self.deadlockHoldersMax - agents.holdersLeft
    stepsLeft -= seen
    let pause = Int64(seen) * Self.deadlockPauseMillisecondsAHolder
    // With very many holders, the searches of all who wait must not keep this host busy.
    if pause > Self.deadlockSearchEveryMilliseconds, !waiter.isOver { searchAgain(waiter, in: pause, now: now) }
  }

  /// Another host says something about a chain of waits.
  func told(_ message: HostMessage, now: BootInstant) {
    switch message {
    case .probe(let probe):
      guard let last = probe.path.last, let lock = locks[last.waitsFor] else { return }
      var branches = Self.deadlockBranchesMax
      agents.beginSearch(holdersMax: Self.deadlockHoldersMax)
      follow(probe, toHoldersOf: lock, mode: .exclusive, &branches, now: now)
    case .confirm(let probe, let next):
      guard probe.path.indices.contains(next) else { return }
      confirm(probe, from: next, now: now)
    case .confirmed(let probe):
      guard let first = probe.path.first, let waiter = self.waiter(of: first) else { return }
      confirmed(probe, by: waiter, now: now)
    case .refuted(let probe):
      guard let first = probe.path.first, let waiter = self.waiter(of: first) else { return }
      refuted(probe, by: waiter, now: now)
    case .victim(let path):
      guard let first = path.first, let waiter = waiter(of: first) else { return }
      endDeadlock(waiter, path, now: now)
    }
  }

  private func isOwn(_ inbox: String) -> Bool { ExactText.isSame(inbox, configuration.inbox) }

  /// The wait of a step; nil when it is over, or another host's.
  private func waiter(of step: DeadlockStep) -> Waiter? {
    guard isOwn(step.inbox),
      let waiter = sessions[SessionID(step.session)]?.waits[RequestID(step.request)], waiter.lock.name == step.waitsFor
    else { return nil }
    return waiter
  }

  /// Follows a chain that has come to `waiter`: to those who hold the lock here, and to other hosts.
  private func follow(_ probe: DeadlockProbe, from waiter: Waiter, _ branches: inout Int, now: BootInstant) {
    let lock = waiter.lock
    follow(probe, toHoldersOf: lock, mode: waiter.request.mode, &branches, now: now)
    if case .permit(let capacity) = waiter.request.mode, capacity > 1 { return }
    let link = lock.link
    guard isQueued(lock), branches > 0, link.pointee.deadlockQuestions < Self.deadlockQuestionsMax else { return }
    branches -= 1
    send(.look(name: lock.name), .follow(probe), on: link, now: now)
  }

  private func follow(
    _ probe: DeadlockProbe, toHoldersOf lock: LockRecord, mode: HoldMode, _ branches: inout Int, now: BootInstant
  ) {
    guard let origin = probe.path.first.map({ WaitID($0) }) else { return }
    for (waiter, hold) in edges(toHoldersOf: lock, mode: mode) where branches > 0 {
      let me = WaitID(inbox: configuration.inbox, request: waiter.request.request.rawValue)
      if me == origin {
        cycleFound(probe, waiter, closedBy: hold, now: now)
        continue
      }
      guard me > origin, probe.path.count < Self.deadlockStepsMax, isAgent(waiter) else { continue }
      // For the next search.
      guard waiter.began != nil else {
        date(waiter, now: now)
        continue
      }
      guard waiter.isFirstVisit(of: probe.number, from: origin) else { continue }
      branches -= 1
      var next = probe
      next.path.append(step(of: waiter, holding: hold))
      follow(next, from: waiter, &branches, now: now)
    }
  }

  /// The store has said who holds the lock that the chain has come to.
  func forward(_ probe: DeadlockProbe, to sight: LeaseSight, now: BootInstant) {
    let inboxes = Set(sight.holders.map { ExactText($0) }).sorted().map(\.text)
    for inbox in inboxes.prefix(Self.deadlockBranchesMax) where !isOwn(inbox) {
      send(.hostMessage(inbox: inbox, .probe(probe)), .other, on: links.forMessages, now: now)
    }
  }

  /// A chain that began here has come back. Only one at a time is confirmed, or each would have a victim of its own.
  private func cycleFound(_ probe: DeadlockProbe, _ waiter: Waiter, closedBy hold: Hold, now: BootInstant) {
    guard waiter.search != nil, waiter.search?.confirming == nil else { return }
    waiter.search?.confirming = (probe.number, now)
    var probe = probe
    probe.path[0].holds = hold.lock.name
    probe.path[0].token = hold.token
    confirm(probe, from: 0, now: now)
  }

  /// Checks the edges of a chain again, from `index` on, as far as they are this host's.
  private func confirm(_ probe: DeadlockProbe, from index: Int, now: BootInstant) {
    let origin = probe.path[0].inbox
    let rest = probe.path[index...].drop { stands($0) }
    if let next = rest.first, !isOwn(next.inbox) {
      send(
        .hostMessage(inbox: next.inbox, .confirm(probe, next: rest.startIndex)), .other, on: links.forMessages, now: now
      )
      return
    }
    let allStand = rest.isEmpty
    if !isOwn(origin) {
      send(
        .hostMessage(inbox: origin, allStand ? .confirmed(probe) : .refuted(probe)), .other, on: links.forMessages,
        now: now)
    } else if let waiter = waiter(of: probe.path[0]) {
      allStand ? confirmed(probe, by: waiter, now: now) : refuted(probe, by: waiter, now: now)
    }
  }

  /// Whether a step is this host's, and there still.
  private func stands(_ step: DeadlockStep) -> Bool {
    guard let waiter = waiter(of: step), let name = step.holds, let session = sessions[waiter.request.session] else {
      return false
    }
    return session.hold(of: name, token: step.token).map { soleWait(ofAgentHolding: $0) === waiter } ?? false
  }

  /// All edges of a cycle were there when it was found.
  private func confirmed(_ probe: DeadlockProbe, by waiter: Waiter, now: BootInstant) {
    guard waiter.search?.confirming?.number == probe.number else { return }
    waiter.search?.confirming = nil
    let path = probe.path
    let youngest = path.indices.max { isOlder(path[$0], than: path[$1]) } ?? 0
    let turned = Array(path[youngest...] + path[..<youngest])
    if !isOwn(turned[0].inbox) {
      send(.hostMessage(inbox: turned[0].inbox, .victim(path: turned)), .other, on: links.forMessages, now: now)
    } else if let victim = self.waiter(of: turned[0]) {
      endDeadlock(victim, turned, now: now)
    }
  }

  /// An edge of a cycle was gone when it was checked again.
  private func refuted(_ probe: DeadlockProbe, by waiter: Waiter, now: BootInstant) {
    guard waiter.search?.confirming?.number == probe.number else { return }
    waiter.search?.confirming = nil
    searchAgain(waiter, in: Self.deadlockSearchSoonMilliseconds, now: now)
  }

  private func isOlder(_ a: DeadlockStep, than b: DeadlockStep) -> Bool {
    (a.began?.microseconds ?? 0, WaitID(a)) < (b.began?.microseconds ?? 0, WaitID(b))
  }

  private func endDeadlock(_ waiter: Waiter, _ path: [DeadlockStep], now: BootInstant) {
    refuse(waiter, .deadlock(path), now: now)
    advance(waiter.lock, now: now)
  }
}

extension Waiter {
  /// When it began by the store's clock, which showed `clock` when the store executed what was sent at `sentAt`.
  fileprivate func beginning(by clock: StoreInstant, sentAt: BootInstant) -> StoreInstant {
    StoreInstant(microseconds: max(1, clock.microseconds - (sentAt.nanoseconds - since.nanoseconds) / 1000))
  }

  /// Whether a search is new to this wait: neither it nor a later one from the same origin has come by.
  fileprivate func isFirstVisit(of number: UInt64, from origin: WaitID) -> Bool {
    guard searchesSeen[origin].map({ $0 < number }) ?? true else { return false }
    if searchesSeen.count >= LockEngine.searchesSeenMax { searchesSeen.removeAll() }
    searchesSeen[origin] = number
    return true
  }
}
