import LockTypes

/// The engine's deadlines, apart from renewals, which belong to the link.
struct Schedule {
  /// Leases that are held, by their ends, and those that were lost, by the ends of their grace.
  var leaseEnds = DeadlineQueue<HostLease>()
  /// More leases have come to their end than one turn has room for.
  var isBehindWithEnds = false
  private var deadlines = DeadlineQueue<Deadline>()

  var isEmpty: Bool { leaseEnds.count + deadlines.count == 0 }

  /// The earliest moment, whether or not its reason has gone away.
  var earliest: BootInstant? {
    guard let end = leaseEnds.earliest else { return deadlines.earliest }
    return deadlines.earliest.map { min($0, end) } ?? end
  }

  mutating func push(_ deadline: Deadline, at moment: BootInstant) { deadlines.push(deadline, at: moment) }

  /// The earliest deadline that is due.
  mutating func popDue(_ now: BootInstant) -> (at: BootInstant, item: Deadline)? { deadlines.popDue(now) }

  /// Drops the entries that no longer mean anything.
  mutating func compact() {
    leaseEnds.compact { _, lease in lease.isHeld || lease.isLost }
    deadlines.compact { moment, deadline in deadline.meansSomething(at: moment) }
  }

  /// Drops everything, some of it each time. Returns false when nothing is left.
  mutating func forget(atMost most: Int) -> Bool {
    let areEndsLeft = leaseEnds.drop(atMost: most)
    return deadlines.drop(atMost: most) || areEndsLeft
  }
}
