import DequeModule

/// What there is to do for agents before the event that is being handled is done with, and how far it may go.
struct AgentWork {
  /// Requests for several locks that can take the next one.
  private var ready: Deque<MultiLockRequest> = []
  /// Waits that have become the only one of their owner, so that they may be in a cycle now.
  private var candidates: Deque<Waiter> = []
  /// Holders at which the search through other hosts that is going on may still look.
  private(set) var holdersLeft = 0
  /// Waits and holds of agents that are over, counted: a search that was put off sees that something has gone.
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
