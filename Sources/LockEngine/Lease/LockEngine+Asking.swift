// What the store says.

import LockTypes

extension LockEngine {
  func replyReceived(_ command: CommandID, _ reply: LeaseReply, now: BootInstant) {
    guard let command = link.answered(command, now: now) else { return }
    switch command.kind {
    case .acquire(let lease, let ask):
      acquireReplied(lease, ask: ask, reply, sentAt: command.sentAt, now: now)
    case .release(let name, let attempt):
      releaseReplied(name, attempt: attempt, reply, now: now)
    case .renew(let batch):
      renewReplied(batch, reply, sentAt: command.sentAt, now: now)
    case .share(let lease):
      shareReplied(lease, reply, now: now)
    case .reserve(let lease):
      reserveReplied(lease, reply, now: now)
    case .places(let leases):
      placesReplied(leases, reply, sentAt: command.sentAt, now: now)
    case .clock(let waiter):
      clockReplied(waiter, reply, sentAt: command.sentAt, now: now)
    case .follow(let probe):
      if case .seen(let sight) = reply { pass(probe, to: sight, now: now) }
    case .other:
      break
    }
  }

  // MARK: Asking

  private func acquireReplied(
    _ lease: HostLease, ask: UInt64, _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant
  ) {
    let lock = lease.lock
    catchUp(lock, now: now)
    if !lock.undated.isEmpty { dateWaiters(of: lock, by: reply, sentAt: sentAt) }
    if lease.isOver {
      // An attempt that was given up meanwhile. As a rule its release is still under way behind it; but a script that
      // the store had to be sent again is executed after what was sent behind it, and then nobody would give it back.
      switch reply {
      case .granted(let grant):
        // Either a block of its own, or the one that was issued from before.
        let unused = UnusedTokens.from(max(grant.token, lease.term.nextToken))
        releaseStrayGrant(
          lock.name, attempt: lease.attempt, unused: unused, isExact: mustReleaseExactly(lease), now: now)
        return renewOthersAtOnce(of: lock, now: now)
      case .queued, .foreign, .conflict:
        return releaseStrayGrant(
          lock.name, attempt: lease.attempt, unused: .all, isExact: mustReleaseExactly(lease), now: now)
      case .stale, .lostPlaces, .done, .renewed, .seen, .clock, .failed: return
      }
    }
    lock.storeRefusal = nil
    switch reply {
    case .failed: lock.refusals += 1
    case .granted, .queued, .foreign, .conflict, .stale, .lostPlaces, .done, .renewed, .seen, .clock: lock.refusals = 0
    }
    lock.isUnheard = false
    switch reply {
    case .granted(let grant):
      leaseGranted(lease, grant, executedAfter: sentAt, now: now)
    case .queued(let host, let expires, let listeners, _):
      guard lock.wanted === lease else { return }
      lease.queued()
      remoteHolderIs(host.isEmpty ? .unknown : .host(host), of: lock)
      recheck(lock, at: now.adding(milliseconds: max(expires, configuration.foreignPollMilliseconds)))
      // A permit that this host gave back can still be among those that are taken: its release may have to be sent again,
      // with the script, behind this ask. Nobody will say that it is in use, and it comes here when it is executed.
      let givenBack = lease.isPermit && !lock.unconfirmedReleases.isEmpty ? 1 : 0
      if listeners + givenBack > 0 {
        awaitInUse(lock, ask: ask, answers: lease.isPermit ? listeners + givenBack : 1, now: now)
      } else {
        refuseTries(of: lock, upToAsk: ask, now: now)
      }
      stillWaiting(lock, now: now)
    case .foreign(let expires):
      guard lock.wanted === lease else { return }
      lease.queued()
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
      let bound = now.adding(milliseconds: holderTimeoutMilliseconds)
      lock.conflictAt = bound
      deadlines.push(.conflict(lock), at: bound)
    case .failed(let failure):
      acquireFailed(lease, failure, now: now)
    case .stale(let later):
      staleAsked(lease, later: later, now: now)
    case .lostPlaces, .done, .renewed, .seen, .clock:
      acquireFailed(lease, .transient("a reply of the wrong kind"), now: now)
    }
  }

  /// The store knows a later attempt of this host than this host does, which has forgotten how far it had come. Under this
  /// one it will never get anything; the next is above both.
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
  }

  /// Those who have the name as something else do use it.
  func conflictConfirmed(_ lock: LockRecord, now: BootInstant) {
    guard let held = lock.conflict else { return }
    lock.conflict = nil
    lock.conflictAt = nil
    for waiter in Array(lock.queue.live) where !waiter.isOver && !waiter.request.mode.isSameKind(as: held) {
      refuse(waiter, .modeConflict(held), now: now)
    }
    if let wanted = lock.wanted { giveUp(wanted, now: now) }
    advance(lock, now: now)
  }

  private func stillWaiting(_ lock: LockRecord, now: BootInstant) {
    if lock.queue.isEmpty { return advance(lock, now: now) }
    tellProgress(lock, now: now)
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
      if lock.wanted === lease, !lock.queue.isEmpty { recheck(lock, at: retry(afterRefusals: lock.refusals, now: now)) }
      progressChanged(lock, now: now)
    }
    if lock.queue.isEmpty { advance(lock, now: now) }
  }

  /// When the store is asked again that has refused so often: soon at first, since most states pass soon, and then less
  /// and less often, since every lock asks for itself.
  private func retry(afterRefusals count: Int, now: BootInstant) -> BootInstant {
    let delay = configuration.foreignPollMilliseconds << Int64(min(max(count - 2, 0), 10))
    return now.adding(milliseconds: min(delay, max(configuration.foreignPollMilliseconds, Self.retryMillisecondsMax)))
  }

  /// The longest time between two times that the store is asked for what it refuses, in milliseconds.
  static let retryMillisecondsMax: Int64 = 1000

  /// The store refused what a lease needs before the lock can be given to anybody here. Who only tries is told.
  private func refused(_ words: String, _ lock: LockRecord, now: BootInstant) {
    guard !lock.queue.isEmpty else { return }
    lock.storeRefusal = words
    for waiter in lock.queue.triesBeforeAsking where !waiter.isOver { refuse(waiter, .unavailable(words), now: now) }
    progressChanged(lock, now: now)
    if lock.queue.isEmpty { advance(lock, now: now) }
  }

  /// `executedAfter`: a moment before the store executed what granted the lease; it counts from there.
  private func leaseGranted(
    _ lease: HostLease, _ grant: LeaseGrant, executedAfter sentAt: BootInstant, now: BootInstant
  ) {
    let lock = lease.lock
    if lease.isHeld {
      // The store had lost it, and made another one of an ask that was still under way. Others may have had the lock in
      // between, with tokens above those of the first one.
      guard grant.token <= lease.term.nextToken else { return leaseVanished(lease, replacedBy: grant, now: now) }
      // Granted by a push, and again by the reply to an ask that crossed it.
      return lease.extended(from: sentAt)
    }
    guard lock.wanted === lease else { return }
    stopWanting(lease)
    let hasTokens = lease.granted(grant, executedAfter: sentAt, on: link.number, now: now)
    lock.isUnheard = false
    renewOthersAtOnce(of: lock, now: now)
    lock.leases.append(lease)
    lock.recheckAt = nil
    guard hasTokens else { return acquireOverflowed(lease, now: now) }
    counters.leases += 1
    deadlines.leaseEnds.push(lease, at: lease.term.validUntil)
    link.renewals.push(lease, at: lease.renewal.at)
    advance(lock, now: now)
  }

  /// Tokens beyond 2^53 would be read wrongly by half of all JSON parsers, so none is given out. Nor is a block without
  /// any asked for again and again.
  private func acquireOverflowed(_ lease: HostLease, now: BootInstant) {
    while let waiter = lease.lock.queue.first {
      refuse(waiter, .unavailable("the tokens of this lock are not between 1 and 2^53"), now: now)
    }
    if lease.isHeld { giveBack(lease, now: now) }
  }

  /// How long the answers of other hosts are waited for, from the store's reply on, in milliseconds. How long their own way
  /// to the store is nobody here knows; this host's is added, for what the reply and the answer differ by.
  public var holderTimeoutMilliseconds: Int64 {
    configuration.settings.inUseTimeoutMilliseconds + link.roundTrip.timeoutMilliseconds
  }

  /// How long the store's own answer is waited for, in milliseconds.
  var storeTimeoutMilliseconds: Int64 {
    max(configuration.settings.storeTimeoutMilliseconds, 2 * link.roundTrip.timeoutMilliseconds)
  }

  /// From now on the holders are waited for; they answer the tries up to `ask`, or the bound does.
  private func awaitInUse(_ lock: LockRecord, ask: UInt64, answers: Int, now: BootInstant) {
    let bound = now.adding(milliseconds: holderTimeoutMilliseconds)
    for waiter in lock.queue.tries where waiter.ask <= ask {
      waiter.answersWanted = answers
      waiter.answersToAsk = ask
      guard !waiter.knowsHolder else { continue }
      waiter.knowsHolder = true
      waiter.deadline = bound
      deadlines.push(.wait(waiter), at: bound)
    }
  }

  private func inUseTold(_ lock: LockRecord, ask: UInt64, now: BootInstant) {
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

  // MARK: Giving back

  private func releaseReplied(_ name: LockName, attempt: UInt64, _ reply: LeaseReply, now: BootInstant) {
    guard let lock = locks[name],
      let at = lock.unconfirmedReleases.firstIndex(where: { $0.attempt == attempt })
    else { return }
    switch reply {
    case .failed(.transient), .failed(.fatal):
      guard now < lock.unconfirmedReleases[at].worthUntil else { break }
      lock.unconfirmedReleases[at].refusals += 1
      let refusals = lock.unconfirmedReleases[at].refusals
      return deadlines.push(.repeatRelease(lock, attempt: attempt), at: retry(afterRefusals: refusals, now: now))
    case .failed(.wrongType), .done, .granted, .queued, .foreign, .conflict, .stale, .lostPlaces, .renewed, .seen,
      .clock:
      break
    }
    lock.unconfirmedReleases.remove(at: at)
    dropIfUnused(lock)
  }

  private func shareReplied(_ lease: HostLease, _ reply: LeaseReply, now: BootInstant) {
    catchUp(lease.lock, now: now)
    switch reply {
    case .failed(.transient), .failed(.fatal):
      lease.refused()
      deadlines.push(.share(lease), at: retry(afterRefusals: lease.refusals, now: now))
    case .failed(.wrongType), .done, .granted, .queued, .foreign, .conflict, .stale, .lostPlaces, .renewed, .seen,
      .clock:
      lease.sharingConfirmed()
      reserveIfLow(lease, now: now)
    }
  }

  private func reserveReplied(_ lease: HostLease, _ reply: LeaseReply, now: BootInstant) {
    lease.reserveAnswered()
    catchUp(lease.lock, now: now)
    guard lease.isHeld else { return }
    switch reply {
    case .granted(let grant):
      // Otherwise there are no more: the lease is taken anew when nobody here holds the lock.
      guard lease.reserved(grant) else { return }
      lease.lock.storeRefusal = nil
    case .renewed:
      return leaseVanished(lease, now: now)
    case .failed, .done, .queued, .foreign, .conflict, .stale, .lostPlaces, .seen, .clock:
      lease.refused()
      deadlines.push(.reserve(lease), at: retry(afterRefusals: lease.refusals, now: now))
      return refused(reply.words, lease.lock, now: now)
    }
    let lock = lease.lock
    if lock.queue.isEmpty { shareIfOthersWant(lock, now: now) } else { advance(lock, now: now) }
    // The reply repeated the old, used-up block: ask again.
    if lease.term.tokensLeft == 0 { reserveIfLow(lease, now: now) }
  }

  // MARK: Renewal

  private func renewReplied(_ batch: [HostLease], _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant) {
    var results: [Bool]?
    if case .renewed(let renewed) = reply, renewed.count == batch.count { results = renewed }
    for (index, lease) in batch.enumerated() {
      catchUp(lease.lock, now: now)
      guard lease.isHeld else { continue }
      lease.renewalAnswered()
      switch results?[index] {
      case true?:
        counters.renewals += 1
        lease.confirmed(sentAt: sentAt, on: link.number)
        lease.lock.storeRefusal = nil
        lease.lock.isUnheard = false
        let isReplacing = replace(lease, renewedAt: sentAt, now: now)
        if !lease.isHeld { continue }
        lease.extended(from: sentAt)
        let isWantedAgain = isReplacing || isInDoubt(lease)
        lease.renewNext(
          at: isWantedAgain ? now : sentAt.adding(milliseconds: lease.timeline.renewAfterMilliseconds))
      case nil:
        lease.renewNext(at: now.adding(milliseconds: lease.timeline.renewRetryMilliseconds))
        refused(reply.words, lease.lock, now: now)
      case false?:
        leaseVanished(lease, now: now)
        continue
      }
      link.renewals.push(lease, at: lease.renewal.at)
      // Somebody may have come when too little of the lease was left.
      if !lease.lock.queue.isEmpty { advance(lease.lock, now: now) }
    }
    renewDue(now: now)
  }

  // MARK: One lease in place of another

  /// Another lease of the lock was granted beside those that this host has, and nobody knows whether the store still had
  /// them then: it is asked at once.
  private func renewOthersAtOnce(of lock: LockRecord, now: BootInstant) {
    for lease in lock.leases where lease.isHeld && !lease.isPermit { makeDue(lease, now: now) }
    renewDue(now: now)
  }

  /// This host came to share the lock anew while it shared it already. What is held under the lease of before moves to the
  /// new one when the store has confirmed that it had both at once, so that nobody else can have been in between.
  /// Whether that is still to come.
  private func replace(_ lease: HostLease, renewedAt sentAt: BootInstant, now: BootInstant) -> Bool {
    guard lease.mode == .shared, let newer = lease.lock.leases.last, newer !== lease, newer.isHeld,
      newer.mode == .shared, newer.timeline == lease.timeline
    else { return false }
    // Clients were told for how long what they hold is safe.
    guard newer.grantedAt <= sentAt, newer.term.validUntil >= lease.term.validUntil else {
      newer.renewNext(at: min(newer.renewal.at, now))
      if !isBeingRenewed(newer) { link.renewals.push(newer, at: newer.renewal.at) }
      return true
    }
    for hold in lease.lock.holds where hold.lease === lease { hold.move(to: newer) }
    giveBack(lease, now: now)
    return false
  }

  /// The store does not have the lease any more, before its time: somebody else may hold the lock already.
  private func leaseVanished(_ lease: HostLease, replacedBy grant: LeaseGrant? = nil, now: BootInstant) {
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

  // MARK: Pushes

  func pushReceived(_ push: LeasePush, now: BootInstant) {
    switch push {
    case .granted(let name, let attempt, let grant):
      catchUp(name, now: now)
      guard let lease = lease(of: name, attempt: attempt) else {
        // It waited once and left; the message that said so crossed this one, or was lost.
        return releaseStrayGrant(name, attempt: attempt, unused: .all, now: now)
      }
      // What is granted before the engine takes the link for up, the answer to the ask that follows says again.
      guard linkIsUp, let lastAnsweredSentAt = link.lastAnsweredSentAt else { return }
      leaseGranted(lease, grant, executedAfter: lastAnsweredSentAt, now: now)
    case .contended(let name, let attempt, let ask, let isTry, let inbox, _):
      catchUp(name, now: now)
      guard let lease = lease(of: name, attempt: attempt) else {
        return releaseStrayGrant(name, attempt: attempt, unused: .unknown, now: now)
      }
      contended(lease, ask: ask, isTry: isTry, inbox: inbox, now: now)
    case .inUse(let name, let ask):
      catchUp(name, now: now)
      if let lock = locks[name] { inUseTold(lock, ask: ask, now: now) }
    case .told(let message):
      told(message, now: now)
    }
  }

  private func contended(_ lease: HostLease, ask: UInt64, isTry: Bool, inbox: String, now: BootInstant) {
    guard lease.isHeld else { return }
    let lock = lease.lock
    lease.contended(after: issued.arrival, now: now)
    if lease.holdCount == 0 { return advance(lock, now: now) }
    shareIfOthersWant(lock, now: now)
    progressChanged(lock, now: now)
    // The store has executed everything that this host sent before the answer comes: a lease that was just shared or
    // given back reaches the one who tries first.
    if isTry { send(.answerInUse(name: lock.name, ask: ask, inbox: inbox), .other, now: now) }
  }

  func lease(of name: LockName, attempt: UInt64) -> HostLease? {
    guard let lock = locks[name] else { return nil }
    if let wanted = lock.wanted, wanted.attempt == attempt { return wanted }
    return lock.leases.first { $0.attempt == attempt }
  }

  /// The store takes this host for the holder under an attempt that it has given up.
  private func releaseStrayGrant(
    _ name: LockName, attempt: UInt64, unused: UnusedTokens, isExact: Bool = true, now: BootInstant
  ) {
    // What no host can have asked for comes from somebody else, and a successor would not take it from this one's records.
    guard linkIsUp, StoredReleases.canBe(name, attempt: attempt) else { return }
    let lock = record(for: name)
    if lock.unconfirmedReleases.contains(where: { $0.covers(attempt) }) { return dropIfUnused(lock) }
    sendRelease(
      of: lock, attempt: attempt, lasting: configuration.timeline, unused: unused, isExact: isExact, now: now)
  }
}
