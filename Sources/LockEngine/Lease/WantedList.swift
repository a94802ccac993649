import LockTypes

/// The leases that a host waits for, in the order in which their places in the store's queue were last looked at: an
/// intrusive linked list, so that leaving takes constant time.
struct WantedList {
  private(set) var first: HostLease?
  private var last: HostLease?
  private(set) var count = 0
  /// When places were looked at last, and whether the answer has not come.
  var lookedAt: BootInstant?
  var isBeingLookedAt = false

  var isEmpty: Bool { count == 0 }

  /// Adds `lease`, which is not here, as looked at now.
  mutating func append(_ lease: HostLease, at now: BootInstant) {
    lease.place.seenAt = now
    lease.place.previous = last
    if let last { last.place.next = lease } else { first = lease }
    last = lease
    count += 1
  }

  /// Takes `lease` out; it must be here.
  mutating func remove(_ lease: HostLease) {
    let (previous, next) = (lease.place.previous, lease.place.next)
    if let previous { previous.place.next = next } else { first = next }
    if let next { next.place.previous = previous } else { last = previous }
    lease.place.next = nil
    lease.place.previous = nil
    count -= 1
  }

  /// Moves `lease`, which must be here, to the front.
  mutating func hasten(_ lease: HostLease) {
    remove(lease)
    lease.place.seenAt = BootInstant(nanoseconds: 0)
    lease.place.next = first
    if let first { first.place.previous = lease } else { last = lease }
    first = lease
    count += 1
  }

  /// Takes the first lease and puts it last, as looked at now.
  mutating func next(at now: BootInstant) -> HostLease? {
    guard let lease = first else { return nil }
    remove(lease)
    append(lease, at: now)
    return lease
  }
}
