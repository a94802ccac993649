import LockTypes

/// A search for a cycle of waits on this host, as far as it has come: from the holders of what is waited for to what
/// they wait for themselves, and so on, until it comes back.
///
/// Each lock is looked at once, so a search takes as many steps as there are holds. It can be put off between any two
/// of them; a cycle that it finds after that is checked again, as earlier edges may be gone.
final class CycleSearch {
  /// A wait, and the hold of the same agent that the edge before waits for. In a cycle the first edge's hold is the one
  /// that the last edge waits for.
  typealias Edge = (waiter: Waiter, hold: Hold?)

  let waiter: Waiter
  /// The chain that is being followed. `upcoming`: the next hold to look at, of the lock that the edge waits for.
  fileprivate var path: [(edge: Edge, upcoming: Hold?)] = []
  fileprivate var seenWaiters: Set<ObjectIdentifier> = []
  fileprivate var seenLocks: Set<ObjectIdentifier> = []
  /// Whether it was put off since it began, and ``AgentWork/edgesGone`` when it began.
  fileprivate var wasPutOff = false
  fileprivate var edgesGone: UInt64 = 0

  init(_ waiter: Waiter) {
    self.waiter = waiter
  }

  /// Forgets what it has seen.
  func restart() {
    path = []
    seenWaiters = []
    seenLocks = []
    wasPutOff = false
  }

  /// The last hold of the lock that `waiter` waits for; nil when that lock was looked at before, and for a semaphore of
  /// several permits: any holder would do, so no single chain of waits can prove that all of them are stuck.
  fileprivate func begin(_ waiter: Waiter) -> Hold? {
    if case .permit(let capacity) = waiter.request.mode, capacity > 1 { return nil }
    return seenLocks.insert(ObjectIdentifier(waiter.lock)).inserted ? waiter.lock.holds.last : nil
  }
}

extension LockEngine {
  enum CycleSearchOutcome {
    /// It goes on in the next turn.
    case putOff
    case none
    case cycle([CycleSearch.Edge])
  }

  /// Goes on with a search for as many steps as are left.
  func goOn(_ search: CycleSearch, now: BootInstant) -> CycleSearchOutcome {
    if search.path.isEmpty {
      search.edgesGone = agents.edgesGone
      search.seenWaiters = [ObjectIdentifier(search.waiter)]
      search.path = [((search.waiter, nil), search.begin(search.waiter))]
    }
    while let top = search.path.last {
      guard let hold = top.upcoming else {
        search.path.removeLast()
        continue
      }
      if hold.isOver {
        search.path[search.path.count - 1].upcoming = top.edge.waiter.lock.holds.last
        continue
      }
      guard !mustPutOff else {
        search.wasPutOff = true
        return .putOff
      }
      stepsLeft -= 1
      search.path[search.path.count - 1].upcoming = hold.inLock.previous
      guard let next = soleWait(ofAgentHolding: hold) else { continue }
      if next === search.waiter {
        var cycle = search.path.map(\.edge)
        cycle[0] = (next, hold)
        if !search.wasPutOff || stands(cycle) { return .cycle(cycle) }
        search.restart()
        return goOnLater(search, now: now)
      }
      if search.seenWaiters.insert(ObjectIdentifier(next)).inserted {
        search.path.append(((next, hold), search.begin(next)))
      }
    }
    // An edge that has gone meanwhile may have hidden other cycles.
    return search.wasPutOff && search.edgesGone != agents.edgesGone ? goOnLater(search, now: now) : .none
  }

  private func goOnLater(_ search: CycleSearch, now: BootInstant) -> CycleSearchOutcome {
    deadlines.push(.cycle(search.waiter), at: now.adding(milliseconds: Self.deadlockSearchEveryMilliseconds))
    return .none
  }

  /// Whether all edges of a cycle are there.
  private func stands(_ cycle: [CycleSearch.Edge]) -> Bool {
    var lock = cycle.last?.waiter.lock
    for (waiter, hold) in cycle {
      guard let hold, !waiter.isOver, !hold.isOver, hold.lock === lock, soleWait(ofAgentHolding: hold) === waiter else {
        return false
      }
      lock = waiter.lock
    }
    return true
  }
}
