/// What a write has to outlive before somebody is told of it.
public enum Durability: String, CaseIterable, Sendable {
  /// It is in the memory of the servers that count.
  case memory
  /// It is on the disk of the primary and of the replicas that count.
  case disk
}

/// Where a lease has to be before a client is told that it has the lock.
public struct ReplicaNeed: Hashable, Sendable {
  /// The most replicas that can be asked for.
  public static let replicasMax = 16

  /// How many replicas, beside the primary.
  public var replicas: Int
  /// How safely each of them.
  public var durability: Durability

  /// On so many replicas.
  public init(replicas: Int = 0, durability: Durability = .memory) {
    self.replicas = replicas
    self.durability = durability
  }

  /// In the memory of the primary: every grant is.
  public static let none = ReplicaNeed()

  /// Whether it is what every grant has.
  @inlinable public var isNone: Bool { replicas == 0 && durability == .memory }

  /// What fulfils both.
  public func with(_ other: ReplicaNeed) -> ReplicaNeed {
    ReplicaNeed(
      replicas: max(replicas, other.replicas), durability: other.durability == .disk ? .disk : durability)
  }

  /// Whether whatever fulfils it fulfils `other`, too.
  public func covers(_ other: ReplicaNeed) -> Bool {
    replicas >= other.replicas && (durability == .disk || other.durability == .memory)
  }
}
