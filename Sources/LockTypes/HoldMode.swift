/// How a name is held or asked for.
public enum HoldMode: Hashable, Sendable {
  /// By one alone.
  case exclusive
  /// By any number together, while nobody has it exclusively.
  case shared
  /// As one permit of a semaphore of that capacity, at least 1.
  case permit(of: Int64)

  /// Modes are equal when they are the same, with the same capacity.
  @inlinable public static func == (a: HoldMode, b: HoldMode) -> Bool {
    switch (a, b) {
    case (.exclusive, .exclusive), (.shared, .shared): true
    case (.permit(let a), .permit(let b)): a == b
    case (.exclusive, _), (.shared, _), (.permit, _): false
    }
  }

  /// Whether both use the name as the same thing: a lock, or a semaphore of one capacity.
  @inlinable public func isSameKind(as other: HoldMode) -> Bool {
    switch (self, other) {
    case (.exclusive, .exclusive), (.exclusive, .shared), (.shared, .exclusive), (.shared, .shared): true
    case (.permit(let a), .permit(let b)): a == b
    case (.permit, .exclusive), (.permit, .shared), (.exclusive, .permit), (.shared, .permit): false
    }
  }
}
