// How leases end against this host's will: not renewed in time, or gone from the store.

import LockTypes

extension LockEngine {
  /// Ends the leases whose time is over, before anything else happens: `lost` goes out first.
  ///
  /// If there are more than one turn has room for, they end in the order of their times, over several turns. An event
  /// about one of these locks ends its leases first, in ``catchUp(_:now:)``.
  func endLeases(now: BootInstant) {
    deadlines.isBehindWithEnds = false
    guard let earliest = deadlines.leaseEnds.earliest, earliest <= now else { return }
    var isAnyPutOff = false
    var outlived: [HostLease] = []
    while let due = deadlines.leaseEnds.earliest, due <= now {
      guard !mustPutOff, let (_, lease) = deadlines.leaseEnds.popDue(now) else {
        deadlines.isBehindWithEnds = true
        break
      }
      stepsLeft -= 1
      switch lease.state {
      case .held(let term) where validUntil(lease) > now:
        isAnyPutOff = true
        deadlines.leaseEnds.push(lease, at: term.validUntil)
      case .held: leaseEnded(lease, now: now)
      // A lease that was ended out of its turn is in the queue twice.
      case .lost(let term) where term.graceEnds > now: break
      case .lost: outlived.append(lease)
      case .asking, .queued, .over: break
      }
    }
    for lease in outlived where lease.isLost { graceEnded(lease, now: now) }
    if isAnyPutOff { putOffLeaseEnds() }
  }

  /// Ends the leases of one lock whose time is over.
  func endLeases(of lock: LockRecord, now: BootInstant) {
    for lease in lock.leases where lease.isHeld && validUntil(lease) <= now { leaseEnded(lease, now: now) }
  }

  /// Moves leases that were renewed meanwhile to their new ends, so that it does not take a timer for each to find that
  /// there is nothing to do.
  private func putOffLeaseEnds() {
    for _ in 0..<Self.putOffMax {
      guard
        let (_, lease) = deadlines.leaseEnds.popFirst(where: { at, lease in lease.isHeld && lease.term.validUntil > at }
        )
      else { return }
      deadlines.leaseEnds.push(lease, at: lease.term.validUntil)
    }
  }

  /// So many at a time: it takes a fraction of a millisecond.
  private static let putOffMax = 1024

  private func leaseEnded(_ lease: HostLease, now: BootInstant) {
    counters.leasesLost += 1
    lease.expired(graceEnds: lease.lock.link.pointee.life.graceEnds(of: lease.life))
    loseHolds(under: lease, reason: .leaseExpired, graceEnds: lease.term.graceEnds, now: now)
    deadlines.leaseEnds.push(lease, at: max(lease.term.graceEnds, now))
  }

  /// The key has expired, or is about to; should it be there still, it is of no use to anybody.
  private func graceEnded(_ lease: HostLease, now: BootInstant) {
    // Everybody who held the lock under it hears of it first.
    guard lease.holdCount == 0 else { return deadlines.leaseEnds.push(lease, at: now) }
    giveBack(lease, now: now)
    advance(lease.lock, now: now)
  }

  /// The store no longer has the lease, before its time: somebody else may hold the lock already.
  func leaseVanished(_ lease: HostLease, replacedBy grant: LeaseGrant? = nil, now: BootInstant) {
    counters.leasesLost += 1
    drop(lease)
    loseHolds(under: lease, reason: .dataLoss, graceEnds: nil, now: now)
    if let grant {
      releaseStrayGrant(
        lease.lock.name, attempt: lease.attempt, unused: .from(grant.token), isExact: mustReleaseExactly(lease),
        now: now)
    }
    advance(lease.lock, now: now)
  }
}
