import LockTypes

/// The leases that a host waits for, those first whose places in the store's queue have not been looked at for the longest
/// time. They are linked, so that whichever leaves does so at once, however many there are.
struct WantedList {
  private(set) var first: LeaseSlot?
  private var last: LeaseSlot?
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  /// Adds `lease`, which is not here, as looked at now.
  mutating func append(_ lease: LeaseSlot, at now: BootInstant) {
    lease.placeSeenAt = now
    lease.previousWanted = last
    if let last { last.nextWanted = lease } else { first = lease }
    last = lease
    count += 1
  }

  /// Takes `lease` out; it must be here.
  mutating func remove(_ lease: LeaseSlot) {
    let (previous, next) = (lease.previousWanted, lease.nextWanted)
    if let previous { previous.nextWanted = next } else { first = next }
    if let next { next.previousWanted = previous } else { last = previous }
    lease.nextWanted = nil
    lease.previousWanted = nil
    count -= 1
  }

  /// Has `lease`, which must be here, be the next one.
  mutating func hasten(_ lease: LeaseSlot) {
    remove(lease)
    lease.placeSeenAt = BootInstant(nanoseconds: 0)
    lease.nextWanted = first
    if let first { first.previousWanted = lease } else { last = lease }
    first = lease
    count += 1
  }

  /// The one that has not been looked at for the longest time; now it has.
  mutating func next(at now: BootInstant) -> LeaseSlot? {
    guard let lease = first else { return nil }
    remove(lease)
    append(lease, at: now)
    return lease
  }
}
