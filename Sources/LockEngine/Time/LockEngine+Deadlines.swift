// What happens as time passes, apart from the ends of leases.

import LockTypes

extension LockEngine {
  /// Does what has come due.
  func fireDeadlines(now: BootInstant) {
    while !mustPutOff, let (moment, deadline) = deadlines.popDue(now) {
      stepsLeft -= 1
      guard deadline.meansSomething(at: moment) else { continue }
      if isBehind, let lock = deadline.lock {
        switch deadline {
        case .maxHold(let hold), .heldLong(let hold): catchUp(hold, now: now)
        case .wait, .recheck, .conflict, .idle, .progress, .repeatRelease, .share, .reserve, .place, .search, .cycle,
          .acknowledgement, .heartbeat:
          catchUp(lock, now: now)
        }
        guard deadline.meansSomething(at: moment) else { continue }
      }
      fire(deadline, now: now)
    }
    deadlines.compact()
    for link in links { link.pointee.renewals.compact { _, lease in lease.isHeld && lease.lock.link == link } }
  }

  /// Without a lock nothing can come due. Entries that are left would keep their records in memory until their time,
  /// which may be a year away. Very many are dropped in as many turns as that takes.
  func forgetDeadlines(now: BootInstant) {
    guard !deadlines.isEmpty || links.contains(where: { $0.pointee.renewals.count > 0 }) else { return }
    let most = turnSteps.forgotten
    turnSteps.forgotten = 0
    var areRenewalsLeft = false
    for link in links { areRenewalsLeft = link.pointee.forgetDeadlines(atMost: most) || areRenewalsLeft }
    if deadlines.forget(atMost: most) || areRenewalsLeft { putOffRest(now: now) }
  }

  private func fire(_ deadline: Deadline, now: BootInstant) {
    switch deadline {
    case .wait(let waiter):
      waitEnded(waiter, now: now)
    case .maxHold(let hold):
      lose(hold, reason: .maxHold, graceEnds: nil, now: now)
      advance(hold.lock, now: now)
    case .heldLong(let hold):
      holdIsLong(hold, now: now)
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
      progressDue(lock, now: now)
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
    case .acknowledgement(let multi):
      makeReady(multi)
    case .heartbeat(let shard):
      if let link = links[shard] { heartbeatDue(on: link, now: now) }
    }
  }

  /// Has a hold told when it has lasted long, if that is wanted.
  func watchLength(of hold: Hold, now: BootInstant) {
    let limit = configuration.settings.warnHoldMilliseconds
    guard limit > 0 else { return }
    let at = hold.since.adding(milliseconds: limit)
    // What a process before this one has told is told again: it may have ended before it could.
    deadlines.push(.heldLong(hold), at: max(at, now))
  }

  private func holdIsLong(_ hold: Hold, now: BootInstant) {
    let limit = configuration.settings.warnHoldMilliseconds
    guard limit > 0, sessions[hold.session]?.isClosing == false else { return }
    // The setting has changed since.
    guard hold.since.adding(milliseconds: limit) <= now else { return watchLength(of: hold, now: now) }
    counters.heldLong += 1
    effects.append(
      .heldLong(hold.session, hold.lock.name, hold.token, since: hold.since, waiters: hold.lock.queue.count))
  }

  private func waitEnded(_ waiter: Waiter, now: BootInstant) {
    let lock = waiter.lock
    let refusal =
      waiter.isTry
      ? refusalOfTry(of: lock, isUnknown: !waiter.knowsHolder, now: now) : outOfTime(lock, now: now)
    refuse(waiter, refusal, now: now)
    // A waiter of another mode behind it may be grantable now.
    advance(lock, now: now)
  }

  /// The refusal of a waiter whose time is over. Where the link was down and the store has said nothing about the lock
  /// since, nobody knows that somebody else has it.
  func outOfTime(_ lock: LockRecord, now: BootInstant) -> Refusal {
    let isUnheard = lock.isUnheard && lock.holds.isEmpty
    return storeAnswers(about: lock) && !isUnheard
      ? .timeout(holderSummary(of: lock), of: lock.name) : unavailable(lock.storeRefusal, at: lock.link, now: now)
  }
}
