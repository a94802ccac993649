/// A host's lease of a lock, as it is shown.
public enum LeaseState: String, CaseIterable, Sendable {
  /// No lease, and none is asked for.
  case none
  /// The store was asked and has not answered yet.
  case asking
  /// The host stands in the queue behind another one.
  case waiting
  /// The host has it, and one of its clients holds the lock.
  case held
  /// The host has it, and nobody uses it: it lingers for the next client.
  case idle
  /// The host had it and could not renew it; nobody can have the lock until its time is over.
  case lost
}
