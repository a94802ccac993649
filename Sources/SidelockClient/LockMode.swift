/// How a name is held: as a lock, or as one permit of a counting semaphore.
public enum LockMode: Hashable, Sendable {
  /// By one alone.
  case exclusive
  /// By any number together, while nobody has it exclusively.
  case shared
  /// As one permit of a semaphore of that capacity, 1 to 1,000,000.
  case permit(of: Int64)

  /// The mode in a reply or notification; nil when it has none that this client knows.
  init?(_ value: JSONValue) {
    switch value["mode"]?.stringValue {
    case "exclusive": self = .exclusive
    case "shared": self = .shared
    case "permit":
      guard let capacity = value["permits"]?.intValue else { return nil }
      self = .permit(of: capacity)
    default: return nil
    }
  }

  /// Adds what an acquire has to say of it.
  package func append(to params: inout JSONObject) {
    switch self {
    case .exclusive: break
    case .shared: params.append("mode", "shared")
    case .permit(let capacity): params.append("permits", .int(capacity))
    }
  }
}

/// What the daemon does to the client's process when a lock is lost.
public enum LossAction: String, Hashable, Sendable, CaseIterable {
  /// It sends the notice and does nothing else.
  case notify
  /// It sends SIGTERM, and SIGKILL before anybody else can have the lock.
  case terminate
  /// It sends SIGKILL.
  case kill
}

/// How safely Redis has to have a lease before the client is told.
public enum Durability: String, Hashable, Sendable, CaseIterable {
  /// In the memory of the primary and of the replicas that were asked for.
  case memory
  /// On their disks.
  case disk
}
