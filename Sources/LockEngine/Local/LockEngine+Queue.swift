// Who waits on this host, and who of them is next.

import LockTypes

extension LockEngine {
  /// Brings a lock as far as it can go by itself. To be called after every change to who holds it, who waits, or what
  /// this host has of it.
  ///
  /// When it returns, every waiter who can be served is served, or the rest is put off; the store has been asked for what
  /// the first waiter needs; and what nobody here needs has been given back, lingers, or is dropped.
  func advance(_ lock: LockRecord, now: BootInstant) {
    catchUp(lock, now: now)
    if lock.leases.count > 1 { giveBackReplaced(lock, now: now) }
    while let waiter = lock.queue.first {
      if mustPutOff { return putOff(lock, now: now) }
      stepsLeft -= 1
      let mode = waiter.request.mode
      guard lock.hasRoom(for: mode) else { return waitForRelease(of: lock, now: now) }
      if isLocal {
        if !grant(waiter, under: nil, now: now) { refuse(waiter, noLocalToken, now: now) }
        continue
      }
      switch admission(to: lock, in: mode, arrival: waiter.arrival, now: now) {
      case .now(let lease):
        guard grant(waiter, under: lease, now: now) else { return }
      case .withNewLease(let lease):
        guard lease.holdCount == 0 else { return waitForRelease(of: lock, now: now) }
        giveBack(lease, now: now)
      case .afterRenewal, .afterReserving, .afterGrace:
        return
      case .afterRelease:
        return waitForRelease(of: lock, now: now)
      case .afterAsking:
        // The store would not grant it.
        if waiter.isTry, lock.link.pointee.isRecovering {
          refuse(waiter, unavailable(nil, at: lock.link, now: now), now: now)
          continue
        }
        return want(mode, of: lock, now: now)
      }
    }
    settleUnused(lock, now: now)
  }

  /// All that this host has of the lock is in use here. Waiters whom it cannot serve, or who must let other hosts go
  /// first, take a place in the store's queue at once, ahead of those who come later on any host.
  private func waitForRelease(of lock: LockRecord, now: BootInstant) {
    refuseTries(of: lock, upToAsk: .max, now: now)
    if isLocal { return }
    shareIfOthersWant(lock, now: now)
    if let mode = modeToQueueFor(lock) {
      want(mode, of: lock, now: now)
    } else if let wanted = lock.wanted, !keepsPlace(lock, now: now) {
      giveUp(wanted, now: now)
    }
  }

  /// Whether to keep a place in the store's queue that no waiter needs now. While the cohort has budget left the next
  /// client comes soon, and to leave and come back would cost two commands each time. The place keeps nobody out as
  /// long as a client here has the lock exclusively.
  private func keepsPlace(_ lock: LockRecord, now: BootInstant) -> Bool {
    guard lock.heldMode == .exclusive, let lease = lock.leases.last, lease.isHeld,
      let end = cohortEnd(of: lease), lease.cohort.grants < configuration.settings.cohortMax, now < end
    else { return false }
    if lease.cohort.placeKeptUntil != end {
      lease.keepPlace(until: end)
      deadlines.push(.place(lease), at: end)
    }
    return true
  }

  /// The mode to queue for in the store while all that this host has of the lock is in use; nil where its waiters are
  /// served out of that.
  private func modeToQueueFor(_ lock: LockRecord) -> HoldMode? {
    guard let first = lock.queue.first, let last = lock.queue.last, let lease = lock.leases.last, lease.isHeld
    else { return nil }
    if first.request.mode == .exclusive && lease.mode == .shared { return .exclusive }
    let isContended = { (lease: HostLease) in lease.isHeld && lease.isContended }
    let contended = lease.isPermit ? lock.leases.last(where: isContended) : isContended(lease) ? lease : nil
    guard let others = contended?.cohort.arrivalMax, last.arrival > others else { return nil }
    if first.arrival > others { return first.request.mode }
    return lock.wanted?.mode ?? lock.queue.live.first { $0.arrival > others }?.request.mode
  }

  /// Gives back replaced leases under which the last hold is over.
  private func giveBackReplaced(_ lock: LockRecord, now: BootInstant) {
    for lease in lock.leases.dropLast()
    where lease.isHeld && lease.mode == .shared && lease.holdCount == 0 {
      giveBack(lease, now: now)
    }
  }

  /// Makes sure that the store is asked for what the first waiter needs.
  func want(_ mode: HoldMode, of lock: LockRecord, now: BootInstant) {
    if let wanted = lock.wanted {
      // An exclusive lease can be shared afterwards.
      if wanted.mode == mode || (wanted.mode == .exclusive && mode == .shared) {
        if !wanted.wasSent && lock.recheckAt == nil { ask(wanted, now: now) }
        return
      }
      giveUp(wanted, now: now)
    }
    ask(newLease(of: lock, in: mode, now: now), now: now)
  }

  /// Gives up, gives back or lets linger the leases that nobody here holds or waits for.
  private func settleUnused(_ lock: LockRecord, now: BootInstant) {
    if let wanted = lock.wanted, !keepsPlace(lock, now: now) { giveUp(wanted, now: now) }
    for lease in lock.leases where lease.isHeld && lease.holdCount == 0 {
      let linger = lease.isPermit ? 0 : configuration.settings.lingerMilliseconds
      let isWorthKeeping =
        linger > 0 && (lock.wasRecentlyReleased || lease.grants > 1)
        && !recentRevocations.contains(lock.name, now: now)
      if !isWorthKeeping || lease.isContended || isShuttingDown {
        if lease.idleUntil != nil, lease.isContended { recentRevocations.insert(lock.name, now: now) }
        recentReleases.insert(lock.name, now: now)
        giveBack(lease, now: now)
      } else if lease.idleUntil == nil {
        let until = now.adding(milliseconds: linger)
        lease.linger(until: until)
        deadlines.push(.idle(lease), at: until)
      }
    }
    shareIfOthersWant(lock, now: now)
    if lock.wanted == nil { lock.recheckAt = nil }
    dropIfUnused(lock)
  }

  // MARK: Waiters

  func enqueue(_ waiter: Waiter, of session: SessionRecord) {
    let lock = waiter.lock
    waiter.arrival = issued.newArrival()
    lock.queue.append(waiter)
    sessions.waitingCount += 1
    session.add(waiter)
    if waiter.request.progress { lock.progressWaiters += 1 }
    if waiter.hasOthersAhead { observeWait(waiter) }
  }

  /// Tells those who watch that somebody waits, once. While the store alone is asked nobody does: usually it grants the
  /// lock at once.
  func observeWait(_ waiter: Waiter) {
    guard !waiter.isObserved, !waiter.isTry else { return }
    waiter.isObserved = true
    observe(waiter.lock, .waiting(waiter.request.session, waiters: waiter.lock.queue.count))
  }

  /// Tells them that a wait of which they were told has ended without success.
  func observeEnd(of waiter: Waiter) {
    if waiter.isObserved { observe(waiter.lock, .gaveUp(waiter.request.session, waiters: waiter.lock.queue.count)) }
  }

  /// Does so of the first in the queue when it has turned out that it waits. Those behind it have others ahead.
  func observeFirstWait(of lock: LockRecord) {
    if let first = lock.queue.first, !first.isObserved, isWaitedFor(lock) { observeWait(first) }
  }

  /// Takes a waiter out of its queue, without answering it.
  func remove(_ waiter: Waiter, now: BootInstant) {
    let lock = waiter.lock
    lock.progressRound?.passOver(waiter)
    lock.queue.remove(waiter)
    if lock.queue.isEmpty { lock.freedAt = nil }
    let session = sessions[waiter.request.session]
    if waiter.request.owner != nil || waiter.partOf != nil || session?.isHalfClosed == true { agents.edgeIsGone() }
    sessions.waitingCount -= 1
    if let session {
      session.remove(waiter)
      suspectOthers(of: waiter, in: session)
    }
    if waiter.request.progress { lock.progressWaiters -= 1 }
    progressChanged(lock, now: now)
  }

  /// Answers a waiter without success. The caller advances the lock.
  func refuse(_ waiter: Waiter, _ refusal: Refusal, now: BootInstant) {
    remove(waiter, now: now)
    observeEnd(of: waiter)
    // Nobody is there who asks.
    if sessions[waiter.request.session]?.isClosing == true { return }
    if let multi = waiter.partOf { return abandon(multi, refusal, now: now) }
    refuse(waiter.request, refusal, waitedMilliseconds: now.milliseconds(since: waiter.since))
  }

  func refuse(_ request: AcquireRequest, _ refusal: Refusal, waitedMilliseconds: Int64 = 0) {
    switch refusal {
    case .timeout: counters.timeouts += 1
    case .busy: counters.busy += 1
    case .deadlock: counters.deadlocks += 1
    case .underReplicated: counters.underReplicated += 1
    case .cancelled, .notHeld, .lost, .unavailable, .recovering, .wrongType, .limit, .shuttingDown, .modeConflict,
      .noSuchSession, .notAccepted:
      break
    }
    effects.append(.reply(request.session, request.request, .refused(refusal)))
    recordFailure(request, refusal, waitedMilliseconds: waitedMilliseconds)
  }

  /// Answers the tries whose question is settled: somebody has the lock.
  func refuseTries(of lock: LockRecord, upToAsk ask: UInt64, now: BootInstant) {
    let settled = lock.queue.tries.filter { $0.ask <= ask }
    guard !settled.isEmpty else { return }
    if isBeingFreed(lock) { return }
    let refusal = refusalOfTry(of: lock, isUnknown: lock.link.pointee.isRecovering && lock.holds.isEmpty, now: now)
    for waiter in settled where !waiter.isOver { refuse(waiter, refusal, now: now) }
  }
}
