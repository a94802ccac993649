import DequeModule

/// Work for agents that is done before the event being handled is over, and its bounds.
struct AgentWork {
  /// Requests for several locks that can take the next one.
  private var ready: Deque<MultiLockRequest> = []
  /// Waits that may be in a cycle now: the only one left of an owner, or the eldest of a half-closed session.
  private var candidates: Deque<Waiter> = []
  /// Holders that the search through other hosts under way may still look at.
  private(set) var holdersLeft = 0
  /// Counts waits and holds of agents that have ended: a search that was put off sees that an edge is gone.
  private(set) var edgesGone: UInt64 = 0

  var isEmpty: Bool { ready.isEmpty && candidates.isEmpty }

  mutating func append(_ request: MultiLockRequest) { ready.append(request) }

  mutating func append(candidate waiter: Waiter) { candidates.append(waiter) }

  mutating func nextReady() -> MultiLockRequest? { ready.popFirst() }

  mutating func nextCandidate() -> Waiter? { candidates.popFirst() }

  mutating func edgeIsGone() { edgesGone += 1 }

  /// A search through other hosts begins, or goes on, on this one.
  mutating func beginSearch(holdersMax: Int) { holdersLeft = holdersMax }

  /// Whether it may look at one more holder.
  mutating func mayLook() -> Bool {
    guard holdersLeft > 0 else { return false }
    holdersLeft -= 1
    return true
  }
}
