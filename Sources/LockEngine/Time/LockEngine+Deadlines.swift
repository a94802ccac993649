// What happens as time passes.

import LockTypes

/// A moment at which something is to be done, unless its reason has gone away.
enum Deadline {
  /// A request has waited as long as it would, or a try as long as it may.
  case wait(Waiter)
  /// A hold has lasted as long as its client allowed.
  case maxHold(Hold)
  /// The store is to be asked again.
  case recheck(LockRecord)
  /// Those who have a name as something else have not said whether they use it.
  case conflict(LockRecord)
  /// A lease that nobody used has lingered long enough.
  case idle(HostLease)
  /// Waiters want to hear their place, or holders who waits.
  case progress(LockRecord)
  /// A release that the store refused is to be repeated.
  case repeatRelease(LockRecord, attempt: UInt64)
  /// The store is to be told again to let others share a lease.
  case share(HostLease)
  /// The store is to be asked again for more tokens.
  case reserve(HostLease)
  /// A place in the store's queue that nobody needs is not kept any longer.
  case place(HostLease)
  /// The search for a deadlock through other hosts is to be made again.
  case search(Waiter)
  /// The search for a deadlock on this host is to be made again.
  case cycle(Waiter)
  /// The link may have been silent while a push is waited for, or places in the store's queue not been looked at.
  case heartbeat

  func meansSomething(at moment: BootInstant) -> Bool {
    switch self {
    case .wait(let waiter): !waiter.isOver && waiter.deadline == moment
    case .maxHold(let hold): !hold.isOver && hold.endsAt == moment
    case .recheck(let lock): lock.recheckAt == moment
    case .conflict(let lock): lock.conflictAt == moment
    case .idle(let lease): lease.isHeld && lease.idleUntil == moment
    case .progress(let lock): lock.progressAt == moment
    case .repeatRelease(let lock, let attempt): lock.unconfirmedReleases.contains { $0.attempt == attempt }
    case .share(let lease): lease.isHeld && lease.term.isSharingUnconfirmed
    case .reserve(let lease): lease.isHeld
    case .place(let lease): lease.isHeld && lease.cohort.placeKeptUntil == moment
    case .search(let waiter): !waiter.isOver && waiter.search?.at == moment
    case .cycle(let waiter): !waiter.isOver
    case .heartbeat: true
    }
  }

  /// The lock that it is about; nil where it is about none.
  var lock: LockRecord? {
    switch self {
    case .wait(let waiter), .search(let waiter), .cycle(let waiter): waiter.lock
    case .maxHold(let hold): hold.lock
    case .recheck(let lock), .conflict(let lock), .progress(let lock), .repeatRelease(let lock, _): lock
    case .idle(let lease), .share(let lease), .reserve(let lease), .place(let lease): lease.lock
    case .heartbeat: nil
    }
  }
}

extension LockEngine {
  /// Ends the leases whose time is over, before anything else happens: whoever lost a lock hears of it first.
  ///
  /// Where there are more than one turn has room for, those that ended first come first, and the others in the next turns.
  /// Whatever is about one of these locks meanwhile ends its leases before, in ``catchUp(_:now:)``.
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
      case .held(let term) where term.validUntil > now:
        isAnyPutOff = true
        deadlines.leaseEnds.push(lease, at: term.validUntil)
      case .held: leaseEnded(lease, now: now)
      // One that was ended out of its turn is here twice.
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
    for lease in lock.leases where lease.isHeld && lease.term.validUntil <= now { leaseEnded(lease, now: now) }
  }

  /// Does what has come due.
  func fireDeadlines(now: BootInstant) {
    while !mustPutOff, let (moment, deadline) = deadlines.popDue(now) {
      stepsLeft -= 1
      guard deadline.meansSomething(at: moment) else { continue }
      if isBehind, let lock = deadline.lock {
        if case .maxHold(let hold) = deadline { catchUp(hold, now: now) } else { catchUp(lock, now: now) }
        guard deadline.meansSomething(at: moment) else { continue }
      }
      fire(deadline, now: now)
    }
    deadlines.compact()
    link.renewals.compact { _, lease in lease.isHeld }
  }

  /// Without a lock there is nothing that could come due. What is left of those that were there would keep their records
  /// until their time, which may be a year away.
  func forgetDeadlines() {
    guard !deadlines.isEmpty || link.renewals.count > 0 else { return }
    deadlines.forget()
    link.forgetDeadlines()
  }

  /// Leases that have been renewed meanwhile are looked at together with one of them that would have ended, so that it does
  /// not take a timer for each to find that there is nothing to do.
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
    lease.expired()
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

  private func fire(_ deadline: Deadline, now: BootInstant) {
    switch deadline {
    case .wait(let waiter):
      waitEnded(waiter, now: now)
    case .maxHold(let hold):
      lose(hold, reason: .maxHold, graceEnds: nil, now: now)
      advance(hold.lock, now: now)
    case .recheck(let lock):
      lock.recheckAt = nil
      if let wanted = lock.wanted { ask(wanted, now: now) }
    case .conflict(let lock):
      conflictConfirmed(lock, now: now)
    case .idle(let lease):
      lease.linger(until: nil)
      if lease.holdCount == 0, lease.lock.queue.isEmpty {
        giveBack(lease, now: now)
        dropIfUnused(lease.lock)
      }
    case .progress(let lock):
      lock.progressAt = nil
      tellProgress(lock, now: now)
    case .repeatRelease(let lock, let attempt):
      repeatRelease(of: lock, attempt: attempt, now: now)
    case .share(let lease):
      share(lease, now: now)
    case .reserve(let lease):
      reserveIfLow(lease, now: now)
    case .place(let lease):
      lease.keepPlace(until: nil)
      if lease.lock.wanted != nil { advance(lease.lock, now: now) }
    case .search(let waiter):
      searchDeadlock(of: waiter, now: now)
    case .cycle(let waiter):
      breakDeadlocks(of: waiter, now: now)
      if waiter.isOver { advance(waiter.lock, now: now) }
    case .heartbeat:
      heartbeatDue(now: now)
    }
  }

  private func waitEnded(_ waiter: Waiter, now: BootInstant) {
    let lock = waiter.lock
    if waiter.isTry {
      let busy = Refusal.busy(holderSummary(of: lock), of: lock.name)
      refuse(waiter, waiter.knowsHolder ? busy : .unavailable(lock.storeRefusal), now: now)
    } else {
      refuse(waiter, outOfTime(lock), now: now)
    }
    // A waiter of another mode behind it may be grantable now.
    advance(lock, now: now)
  }

  /// The answer to who waited for the lock until its time was over. Where the link was down and the store has said
  /// nothing about it since, nobody knows that somebody else has it.
  func outOfTime(_ lock: LockRecord) -> Refusal {
    let isUnheard = lock.isUnheard && lock.holds.isEmpty
    return storeAnswers(about: lock) && !isUnheard
      ? .timeout(holderSummary(of: lock), of: lock.name) : .unavailable(lock.storeRefusal)
  }
}
