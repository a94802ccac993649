// What happens as time passes.

/// A moment at which something is to be done, unless its reason has gone away.
enum Deadline {
  /// A request has waited as long as it would, or a try as long as it may.
  case wait(Waiter)
  /// A hold has lasted as long as its client allowed.
  case maxHold(Hold)
  /// The store is to be asked again.
  case recheck(LockRecord)
  /// A lease that nobody used has lingered long enough.
  case idle(LockRecord)
  /// Waiters want to hear their place.
  case progress(LockRecord)
  /// A release that the store refused is to be repeated.
  case repeatRelease(LockRecord, attempt: UInt64)
  /// The link has been silent while a push is waited for.
  case heartbeat

  func meansSomething(at moment: BootInstant) -> Bool {
    switch self {
    case .wait(let waiter): !waiter.isOver && waiter.deadline == moment
    case .maxHold(let hold): !hold.isOver && hold.endsAt == moment
    case .recheck(let lock): lock.recheckAt == moment
    case .idle(let lock): if case .held(let lease) = lock.lease { lease.idleUntil == moment } else { false }
    case .progress(let lock): lock.progressAt == moment
    case .repeatRelease(let lock, let attempt): lock.unconfirmedRelease?.attempt == attempt
    case .heartbeat: true
    }
  }
}

extension LockEngine {
  /// Does everything that has come due. Leases end first, all of them: whoever lost a lock hears of it before anybody
  /// hears anything else.
  func fireDeadlines(now: BootInstant) {
    while let (_, item) = leaseEnds.popDue(now) { leaseEnded(item.lock, attempt: item.attempt, now: now) }
    if let due = renewals.earliest, due <= now, linkIsUp { renewDue(now: now) }
    while let (moment, deadline) = deadlines.popDue(now) {
      guard deadline.meansSomething(at: moment) else { continue }
      fire(deadline, now: now)
    }
    leaseEnds.compact { _, item in item.lock.lease.attempt == item.attempt }
    renewals.compact { _, item in item.lock.lease.attempt == item.attempt }
    deadlines.compact { moment, deadline in deadline.meansSomething(at: moment) }
  }

  private func leaseEnded(_ lock: LockRecord, attempt: UInt64, now: BootInstant) {
    switch lock.lease {
    case .held(let lease) where lease.attempt == attempt:
      guard lease.validUntil <= now else { return leaseEnds.push((lock, attempt), at: lease.validUntil) }
      counters.leasesLost += 1
      setLease(lock, .lost(attempt: attempt, graceEnds: lease.graceEnds, firstUnused: lease.nextToken))
      if let hold = lock.hold { lose(hold, reason: .leaseExpired, graceEnds: lease.graceEnds, now: now) }
      leaseEnds.push((lock, attempt), at: max(lease.graceEnds, now))
    case .lost(let lost, _, let firstUnused) where lost == attempt:
      // The key has expired, or is about to; should it be there still, it is of no use to anybody.
      setLease(lock, .none)
      sendRelease(lock, attempt: attempt, firstUnused: firstUnused, now: now)
      advance(lock, now: now)
    case .none, .asking, .queued, .held, .lost:
      break
    }
  }

  private func fire(_ deadline: Deadline, now: BootInstant) {
    switch deadline {
    case .wait(let waiter):
      let lock = waiter.lock
      if waiter.isTry {
        refuse(waiter, waiter.knowsHolder ? .busy(holderSummary(of: lock)) : .unavailable(nil), now: now)
      } else {
        let isKnown = storeIsUsable && lock.storeRefusal == nil
        refuse(waiter, isKnown ? .timeout(holderSummary(of: lock)) : .unavailable(lock.storeRefusal), now: now)
      }
      if lock.isUnused { advance(lock, now: now) }
    case .maxHold(let hold):
      lose(hold, reason: .maxHold, graceEnds: nil, now: now)
      advance(hold.lock, now: now)
    case .recheck(let lock):
      lock.recheckAt = nil
      if lock.lease.isWaited && !lock.isUnused { ask(lock, now: now) }
    case .idle(let lock):
      if case .held(var lease) = lock.lease, lock.isUnused {
        lease.idleUntil = nil
        giveBack(lock, lease, now: now)
        dropIfUnused(lock)
      }
    case .progress(let lock):
      lock.progressAt = nil
      tellProgress(lock, now: now)
    case .repeatRelease(let lock, _):
      repeatRelease(lock, now: now)
    case .heartbeat:
      heartbeatAt = nil
      guard linkIsUp, waitedLeases > 0 else { return }
      if let last = lastSentAt, now >= last.adding(milliseconds: timeline.heartbeatMilliseconds) {
        send(.heartbeat, .other, now: now)
      }
      armHeartbeat(now: now)
    }
  }
}
