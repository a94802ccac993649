// How a lease is asked for, and what the store may answer to that.

import LockTypes

extension LockEngine {
  /// A lease that this host wants from now on, under an attempt of its own.
  func newLease(of lock: LockRecord, in mode: HoldMode, now: BootInstant) -> HostLease {
    let lease = HostLease(lock: lock, attempt: issued.newAttempt(), mode: mode, timeline: newTimeline(at: lock.link))
    lock.wanted = lease
    lock.link.pointee.wanted.append(lease, at: now)
    lock.wasRecentlyReleased = recentReleases.contains(lock.name, now: now)
    return lease
  }

  /// The length of the leases that are asked for from now on. A longer one than the store was told of is not used before
  /// it has answered: if the store loses its data, the next grace is as long as the longest lease.
  private func newTimeline(at link: LinkReference) -> LeaseTimeline {
    let told = link.pointee.confirmation.toldLeaseMilliseconds
    guard link.pointee.confirmation.isGood, configuration.timeline.leaseMilliseconds > told else {
      return configuration.timeline
    }
    return LeaseTimeline(leaseMilliseconds: told)
  }

  /// Takes a lease from those that are wanted: the store granted it, or it is given up.
  func stopWanting(_ lease: HostLease) {
    guard lease.lock.wanted === lease else { return }
    lease.lock.wanted = nil
    lease.lock.conflict = nil
    lease.lock.conflictAt = nil
    lease.lock.link.pointee.wanted.remove(lease)
  }

  /// Asks the store for the lease, or asks again under the same attempt. While the link is down the ask is kept for
  /// later.
  func ask(_ lease: HostLease, now: BootInstant) {
    let lock = lease.lock
    lock.recheckAt = nil
    lock.ask = issued.newAsk()
    let tries = lock.queue.tries
    for waiter in tries where waiter.ask == 0 { waiter.ask = lock.ask }
    let link = lock.link
    guard link.pointee.isUp else {
      lease.askIsToCome()
      lock.isUnheard = true
      return
    }
    lease.asked(at: now)
    // The queue of this epoch may not have the place that the one before had.
    let lost = lease.standing.flatMap { $0.epoch == link.pointee.epoch.number ? nil : $0.since }
    send(
      .acquire(
        name: lock.name, attempt: lease.attempt, ask: lock.ask, isTry: !tries.isEmpty, terms: grantTerms(of: lock),
        mode: lease.mode, leaseMilliseconds: lease.timeline.leaseMilliseconds, keeping: lock.firstKeptAttempt,
        since: lost),
      .acquire(lease, ask: lock.ask), on: link, now: now)
    armHeartbeat(on: link, now: now)
  }

  func recheck(_ lock: LockRecord, at moment: BootInstant) {
    lock.recheckAt = moment
    deadlines.push(.recheck(lock), at: moment)
  }

  // MARK: Answers

  func acquireReplied(
    _ lease: HostLease, ask: UInt64, _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant
  ) {
    let lock = lease.lock
    catchUp(lock, now: now)
    if !lock.undated.isEmpty { dateWaiters(of: lock, by: reply, sentAt: sentAt) }
    if lease.isOver {
      // An attempt that was given up meanwhile. Usually its release is still under way; but a script that had to be
      // sent again runs behind its own release, and then nobody would give the lease back.
      switch reply {
      case .granted(let grant):
        grantIsKnown(grant, of: lock)
        // Either a block of its own, or the one that was issued from before.
        let unused = UnusedTokens.from(max(grant.token, lease.term.nextToken))
        releaseStrayGrant(
          lock.name, attempt: lease.attempt, unused: unused, isExact: mustReleaseExactly(lease), now: now)
        return renewOthersAtOnce(of: lock, now: now)
      case .queued, .foreign, .conflict:
        return releaseStrayGrant(
          lock.name, attempt: lease.attempt, unused: .all, isExact: mustReleaseExactly(lease), now: now)
      case .stale, .lostPlaces, .done, .renewed, .reserved, .seen, .clock, .epoch, .otherEpoch, .failed: return
      }
    }
    lock.storeRefusal = nil
    lock.refusals = reply.failure == nil ? 0 : lock.refusals + 1
    lock.isUnheard = false
    switch reply {
    case .granted(let grant):
      leaseGranted(lease, grant, executedAfter: sentAt, now: now)
    case .queued(let host, let expires, let listeners, let place):
      guard lock.wanted === lease else { return }
      lease.queued(place, in: lock.link.pointee.epoch)
      remoteHolderIs(host.isEmpty ? .unknown : .host(host), of: lock)
      recheck(lock, at: now.adding(milliseconds: max(expires, configuration.foreignPollMilliseconds)))
      // A permit that this host gave back may still count as taken: its release may have to be sent again, with the
      // script, behind this ask. Nobody will say that it is in use; once the release is executed it comes here.
      let givenBack = lease.isPermit && !lock.unconfirmedReleases.isEmpty ? 1 : 0
      if listeners + givenBack > 0 {
        awaitInUse(lock, ask: ask, answers: lease.isPermit ? listeners + givenBack : 1, now: now)
      } else {
        refuseTries(of: lock, upToAsk: ask, now: now)
      }
      stillWaiting(lock, now: now)
    case .foreign(let expires, let place):
      guard lock.wanted === lease else { return }
      lease.queued(place, in: lock.link.pointee.epoch)
      remoteHolderIs(.foreign, of: lock)
      let poll = configuration.foreignPollMilliseconds
      recheck(lock, at: now.adding(milliseconds: min(max(expires ?? poll, 1), poll)))
      refuseTries(of: lock, upToAsk: ask, now: now)
      stillWaiting(lock, now: now)
    case .conflict(let held, let listeners):
      guard lock.wanted === lease else { return }
      guard !lease.mode.isSameKind(as: held) else {
        return acquireFailed(lease, .fatal("a conflict of a mode with itself"), now: now)
      }
      lease.queued()
      lock.conflict = held
      if listeners == 0 { return conflictConfirmed(lock, now: now) }
      let bound = now.adding(milliseconds: holderTimeoutMilliseconds(at: lock.link))
      lock.conflictAt = bound
      deadlines.push(.conflict(lock), at: bound)
    case .failed(let failure):
      acquireFailed(lease, failure, now: now)
    case .stale(let later):
      staleAsked(lease, later: later, now: now)
    case .lostPlaces, .done, .renewed, .reserved, .seen, .clock, .epoch, .otherEpoch:
      acquireFailed(lease, .transient("a reply of the wrong kind"), now: now)
    }
  }

  /// The store knows a later attempt of this host than the host itself, which has lost count. Under this one it will
  /// never get anything; the next is above both.
  private func staleAsked(_ lease: HostLease, later: UInt64, now: BootInstant) {
    let lock = lease.lock
    guard lock.wanted === lease else { return }
    guard later > lease.attempt, later < Self.attemptMax else {
      return acquireFailed(lease, .transient("a reply of the wrong kind"), now: now)
    }
    issued.attemptIsUsed(later)
    giveUp(lease, now: now)
    advance(lock, now: now)
  }

  /// Scripts compare attempts as floating point numbers, which are exact up to here.
  static let attemptMax: UInt64 = 1 << 53

  private func remoteHolderIs(_ holder: HolderSummary, of lock: LockRecord) {
    if observers > 0, holder != lock.remoteHolder, let host = holder.hosts.first { observe(lock, .remote(host: host)) }
    lock.remoteHolder = holder
    if holder != .unknown, let first = lock.queue.first { recordWait(first) }
  }

  /// The hosts that have the name as something else do use it.
  func conflictConfirmed(_ lock: LockRecord, now: BootInstant) {
    guard let held = lock.conflict else { return }
    lock.conflict = nil
    lock.conflictAt = nil
    for waiter in Array(lock.queue.live) where !waiter.isOver && !waiter.request.mode.isSameKind(as: held) {
      refuse(waiter, .modeConflict(held, holderSummary(of: lock), of: lock.name), now: now)
    }
    if let wanted = lock.wanted { giveUp(wanted, now: now) }
    advance(lock, now: now)
  }

  private func stillWaiting(_ lock: LockRecord, now: BootInstant) {
    if lock.queue.isEmpty { return advance(lock, now: now) }
    notifyProgress(lock, now: now)
  }

  private func acquireFailed(_ lease: HostLease, _ failure: LeaseFailure, now: BootInstant) {
    let lock = lease.lock
    guard lock.wanted === lease else { return }
    switch failure {
    case .wrongType(let other):
      stopWanting(lease)
      lease.ended()
      while let waiter = lock.queue.first { refuse(waiter, .wrongType(other, of: lock.name), now: now) }
    case .fatal(let words):
      while let waiter = lock.queue.first { refuse(waiter, .unavailable(words), now: now) }
      if lock.wanted === lease { giveUp(lease, now: now) }
    case .transient(let words):
      lease.askRefused()
      lock.storeRefusal = words
      for waiter in lock.queue.tries where !waiter.isOver { refuse(waiter, .unavailable(words), now: now) }
      // Also where nobody waits now, and the place is kept for whoever comes next.
      if lock.wanted === lease { recheck(lock, at: retry(afterRefusals: lock.refusals, now: now)) }
      progressChanged(lock, now: now)
    }
    if lock.queue.isEmpty { advance(lock, now: now) }
  }

  // MARK: Granted

  /// `executedAfter`: a moment before the store executed the grant; the lease counts from there.
  func leaseGranted(
    _ lease: HostLease, _ grant: LeaseGrant, executedAfter sentAt: BootInstant, now: BootInstant
  ) {
    let lock = lease.lock
    grantIsKnown(grant, of: lock)
    if lease.isHeld {
      // The store had lost it, and granted it anew for an ask that was still under way. Others may have had the lock in
      // between, with tokens above those of the first grant.
      guard grant.token <= lease.term.nextToken else { return leaseVanished(lease, replacedBy: grant, now: now) }
      // Granted by a push, and again by the reply to an ask that crossed it. If it was lost in between, it was written anew.
      lease.writtenAgain()
      return lease.extended(from: sentAt)
    }
    guard lock.wanted === lease else { return }
    stopWanting(lease)
    let link = lock.link
    let hasTokens = lease.granted(
      grant, executedAfter: sentAt, on: link.pointee.number, in: link.pointee.epoch.number,
      life: link.pointee.life.number, now: now)
    lock.isUnheard = false
    renewOthersAtOnce(of: lock, now: now)
    lock.leases.append(lease)
    lock.recheckAt = nil
    guard hasTokens else { return acquireOverflowed(lease, now: now) }
    counters.leases += 1
    deadlines.leaseEnds.push(lease, at: lease.term.validUntil)
    link.pointee.renewals.push(lease, at: lease.renewal.at)
    advance(lock, now: now)
  }

  /// The store has granted it: what others were given before lies below.
  func grantIsKnown(_ grant: LeaseGrant, of lock: LockRecord) {
    if let tokens = grant.tokens { tokenIsKnown(tokens.lowerBound - 1, of: lock) }
  }

  /// Half of all JSON parsers would misread tokens beyond 2^53, so none is given out. Nor is a block without usable
  /// tokens asked for again and again.
  private func acquireOverflowed(_ lease: HostLease, now: BootInstant) {
    while let waiter = lease.lock.queue.first {
      refuse(waiter, .unavailable("the tokens of this lock are not between 1 and 2^53"), now: now)
    }
    if lease.isHeld { giveBack(lease, now: now) }
  }

  // MARK: In use elsewhere

  /// How long to wait for the answers of other hosts after the store's reply, in milliseconds. How long their own way
  /// to the store is nobody here knows; this host's round trip is added, by which reply and answer may differ.
  func holderTimeoutMilliseconds(at link: LinkReference) -> Int64 {
    configuration.settings.inUseTimeoutMilliseconds + link.pointee.roundTrip.timeoutMilliseconds
  }

  /// The same, whichever lock it is about.
  public var holderTimeoutMilliseconds: Int64 {
    configuration.settings.inUseTimeoutMilliseconds + roundTrip.timeoutMilliseconds
  }

  /// How long to wait for the store's own answer, in milliseconds.
  func storeTimeoutMilliseconds(at link: LinkReference) -> Int64 {
    max(configuration.settings.storeTimeoutMilliseconds, 2 * link.pointee.roundTrip.timeoutMilliseconds)
  }

  /// Begins to wait for the holders: they decide the tries up to `ask`, or the deadline does.
  private func awaitInUse(_ lock: LockRecord, ask: UInt64, answers: Int, now: BootInstant) {
    let bound = now.adding(milliseconds: holderTimeoutMilliseconds(at: lock.link))
    for waiter in lock.queue.tries where waiter.ask <= ask {
      waiter.answersWanted = answers
      waiter.answersToAsk = ask
      guard !waiter.knowsHolder else { continue }
      waiter.knowsHolder = true
      waiter.deadline = bound
      deadlines.push(.wait(waiter), at: bound)
    }
  }

  func inUseTold(_ lock: LockRecord, ask: UInt64, now: BootInstant) {
    if lock.conflict != nil, ask == lock.ask { return conflictConfirmed(lock, now: now) }
    if ask == 0 { return hastenLook(at: lock, now: now) }
    let holder = holderSummary(of: lock)
    for waiter in lock.queue.tries where waiter.ask <= ask && !waiter.isOver {
      // Each permit that is taken has a holder to say so; it takes all of them to know that none is free.
      if waiter.answersWanted > 1 {
        if waiter.answersToAsk == ask { waiter.answersWanted -= 1 }
        continue
      }
      refuse(waiter, .busy(holder, of: lock.name), now: now)
    }
    if lock.queue.isEmpty { advance(lock, now: now) }
  }
}
