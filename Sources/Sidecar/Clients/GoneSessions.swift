import DequeModule
import LockTypes

/// What is told of the last sessions that have gone: what they had ends in the same turn, or a few turns later.
struct GoneSessions<Value> {
  /// So many are remembered.
  private static var most: Int { 1024 }

  private var values: [SessionID: Value] = [:]
  private var inOrder: Deque<SessionID> = []

  subscript(session: SessionID) -> Value? { values[session] }

  /// Remembers one that has just gone; the eldest makes room for it.
  mutating func remember(_ session: SessionID, _ value: Value) {
    if inOrder.count == Self.most, let eldest = inOrder.popFirst() { values[eldest] = nil }
    inOrder.append(session)
    values[session] = value
  }

  mutating func removeAll() {
    values = [:]
    inOrder.removeAll()
  }
}
