// The conversation with the store of host leases.

extension LockEngine {
  // MARK: What is sent

  func send(_ command: LeaseCommand, _ kind: PendingCommand.Kind, now: BootInstant) {
    lastCommand += 1
    let id = CommandID(lastCommand)
    pending[id] = PendingCommand(kind: kind, sentAt: now)
    lastSentAt = now
    effects.append(.send(id, command))
  }

  /// Asks the store for the lease, or asks again under the same attempt. While the link is down the ask is kept for
  /// later.
  func ask(_ lock: LockRecord, now: BootInstant) {
    let attempt: UInt64
    var isQueued = false
    switch lock.lease {
    case .asking(let current, _):
      attempt = current
    case .queued(let current):
      attempt = current
      isQueued = true
    case .none, .held, .lost:
      lastAttempt += 1
      attempt = lastAttempt
      lock.cameBack = recentReleases.contains(lock.name, now: now)
    }
    lock.recheckAt = nil
    lastAsk += 1
    lock.ask = lastAsk
    let tries = lock.queue.tries
    for waiter in tries where waiter.ask == 0 { waiter.ask = lock.ask }
    guard linkIsUp else { return setLease(lock, .asking(attempt: attempt, wasSent: false)) }
    if !isQueued { setLease(lock, .asking(attempt: attempt, wasSent: true)) }
    send(
      .acquire(name: lock.name, attempt: attempt, ask: lock.ask, isTry: !tries.isEmpty, tokenFloor: lock.tokenFloor),
      .acquire(lock, attempt: attempt, ask: lock.ask), now: now)
    armHeartbeat(now: now)
  }

  func giveBack(_ lock: LockRecord, _ lease: HeldLease, now: BootInstant) {
    setLease(lock, .none)
    sendRelease(lock, attempt: lease.attempt, firstUnused: lease.nextToken, now: now)
  }

  /// Tells the store that this host neither holds the lock nor waits for it. Repeated until the store has confirmed it
  /// or the lease must have ended by itself.
  func sendRelease(_ lock: LockRecord, attempt: UInt64, firstUnused: Token?, now: BootInstant) {
    lock.unconfirmedRelease = UnconfirmedRelease(
      attempt: attempt, firstUnused: firstUnused, worthUntil: now.adding(milliseconds: timeline.leaseMilliseconds))
    repeatRelease(lock, now: now)
  }

  func repeatRelease(_ lock: LockRecord, now: BootInstant) {
    guard linkIsUp, let release = lock.unconfirmedRelease else { return }
    send(
      .release(name: lock.name, attempt: release.attempt, firstUnused: release.firstUnused),
      .release(lock.name, attempt: release.attempt), now: now)
  }

  /// Renews the leases that are due, and with them those that soon will be.
  func renewDue(now: BootInstant, all: Bool = false) {
    let horizon = all ? BootInstant(nanoseconds: .max) : now.adding(milliseconds: timeline.renewSlackMilliseconds)
    var batch: [(lock: LockRecord, attempt: UInt64)] = []
    while let (at, item) = renewals.popDue(horizon) {
      guard case .held(var lease) = item.lock.lease, lease.attempt == item.attempt, !lease.renewalInFlight else {
        continue
      }
      if !all && lease.renewAt > at {
        renewals.push(item, at: lease.renewAt)
        continue
      }
      lease.renewalInFlight = true
      setLease(item.lock, .held(lease))
      batch.append(item)
      if batch.count == configuration.renewalBatchMax { flush(&batch, now: now) }
    }
    flush(&batch, now: now)
  }

  private func flush(_ batch: inout [(lock: LockRecord, attempt: UInt64)], now: BootInstant) {
    guard !batch.isEmpty else { return }
    send(
      .renew(batch.map { LeaseReference(name: $0.lock.name, attempt: $0.attempt) }), .renew(batch), now: now)
    batch.removeAll()
  }

  // MARK: The link

  func linkUp(now: BootInstant) {
    guard !linkIsUp else { return }
    linkIsUp = true
    lastAnsweredSentAt = nil
    for lock in locks.values {
      guard case .held(var lease) = lock.lease else { continue }
      lease.isInDoubt = true
      setLease(lock, .held(lease))
    }
    renewDue(now: now, all: true)
    for lock in locksInOrder {
      repeatRelease(lock, now: now)
      if case .asking = lock.lease { ask(lock, now: now) }
    }
    armHeartbeat(now: now)
  }

  /// What was in flight may have been executed or not. What this host wants is asked for again when the link is back;
  /// what it holds stays valid for as long as it was.
  func linkDown(now: BootInstant) {
    guard linkIsUp else { return }
    linkIsUp = false
    lastAnsweredSentAt = nil
    pending.removeAll()
    for lock in locksInOrder {
      switch lock.lease {
      case .none, .lost:
        break
      case .asking(let attempt, _):
        setLease(lock, .asking(attempt: attempt, wasSent: true))
      case .queued(let attempt):
        setLease(lock, .asking(attempt: attempt, wasSent: true))
      case .held(let lease) where lock.hold == nil:
        // Nobody uses it, and the store may have lost it by the time somebody does.
        giveBack(lock, lease, now: now)
      case .held(var lease):
        lease.renewalInFlight = false
        lease.renewAt = now
        setLease(lock, .held(lease))
        renewals.push((lock, lease.attempt), at: lease.renewAt)
      }
      lock.recheckAt = nil
      lock.remoteHolder = .unknown
      lock.storeRefusal = nil
      refuseAllTries(of: lock, .unavailable(nil), now: now)
      advance(lock, now: now)
    }
  }

  func refuseAllTries(of lock: LockRecord, _ refusal: Refusal, now: BootInstant) {
    for waiter in lock.queue.tries { refuse(waiter, refusal, now: now) }
  }

  // MARK: What is heard

  func replyReceived(_ command: CommandID, _ reply: LeaseReply, now: BootInstant) {
    guard let command = pending.removeValue(forKey: command) else { return }
    lastAnsweredSentAt = max(lastAnsweredSentAt ?? command.sentAt, command.sentAt)
    switch command.kind {
    case .acquire(let lock, let attempt, let ask):
      acquireReplied(lock, attempt: attempt, ask: ask, reply, sentAt: command.sentAt, now: now)
    case .release(let name, let attempt):
      releaseReplied(name, attempt: attempt, reply, now: now)
    case .renew(let batch):
      renewReplied(batch, reply, sentAt: command.sentAt, now: now)
    case .other:
      break
    }
  }

  private func acquireReplied(
    _ lock: LockRecord, attempt: UInt64, ask: UInt64, _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant
  ) {
    guard lock.lease.attempt == attempt else {
      // An attempt that was given up meanwhile. As a rule its release is still under way behind it; but a script that
      // the store had to be sent again is executed after what was sent behind it, and then nobody would give it back.
      switch reply {
      case .granted, .queued, .foreign: return disown(lock.name, attempt: attempt, now: now)
      case .done, .renewed, .conflict, .seen, .failed: return
      }
    }
    lock.storeRefusal = nil
    switch reply {
    case .granted(let grant):
      leaseGranted(lock, attempt: attempt, grant, executedAfter: sentAt, now: now)
    case .queued(let host, let expires, let listeners):
      guard lock.lease.isWaited else { return }
      setLease(lock, .queued(attempt: attempt))
      lock.remoteHolder = .host(host)
      recheck(lock, at: now.adding(milliseconds: max(expires, configuration.foreignPollMilliseconds)))
      if listeners > 0 {
        awaitInUse(lock, ask: ask, now: now)
      } else {
        refuseTries(of: lock, upToAsk: ask, now: now)
      }
      stillWaiting(lock, now: now)
    case .foreign(let expires):
      guard lock.lease.isWaited else { return }
      setLease(lock, .queued(attempt: attempt))
      lock.remoteHolder = .foreign
      let poll = configuration.foreignPollMilliseconds
      recheck(lock, at: now.adding(milliseconds: min(max(expires ?? poll, 1), poll)))
      refuseTries(of: lock, upToAsk: ask, now: now)
      stillWaiting(lock, now: now)
    case .failed(let failure):
      acquireFailed(lock, failure, now: now)
    case .done, .renewed, .conflict, .seen:
      acquireFailed(lock, .fatal("a reply of the wrong kind"), now: now)
    }
  }

  private func stillWaiting(_ lock: LockRecord, now: BootInstant) {
    if lock.isUnused { return advance(lock, now: now) }
    tellProgress(lock, now: now)
  }

  private func acquireFailed(_ lock: LockRecord, _ failure: LeaseFailure, now: BootInstant) {
    guard let attempt = lock.lease.attempt, lock.lease.isWaited else { return }
    switch failure {
    case .wrongType:
      setLease(lock, .none)
      while let waiter = lock.queue.first { refuse(waiter, .wrongType, now: now) }
    case .fatal(let words):
      setLease(lock, .none)
      while let waiter = lock.queue.first { refuse(waiter, .unavailable(words), now: now) }
      sendRelease(lock, attempt: attempt, firstUnused: nil, now: now)
    case .transient(let words):
      setLease(lock, .asking(attempt: attempt, wasSent: true))
      lock.storeRefusal = words
      refuseAllTries(of: lock, .unavailable(words), now: now)
      if !lock.isUnused { recheck(lock, at: now.adding(milliseconds: configuration.foreignPollMilliseconds)) }
    }
    if lock.isUnused { advance(lock, now: now) }
  }

  /// `executedAfter`: a moment before the store executed what granted the lease; it counts from there.
  private func leaseGranted(
    _ lock: LockRecord, attempt: UInt64, _ grant: LeaseGrant, executedAfter sentAt: BootInstant, now: BootInstant
  ) {
    let validUntil = sentAt.adding(milliseconds: timeline.lostAfterMilliseconds)
    let graceEnds = sentAt.adding(milliseconds: timeline.graceEndsAfterMilliseconds)
    let renewAt = sentAt.adding(milliseconds: timeline.renewAfterMilliseconds)
    if case .held(var lease) = lock.lease {
      // Granted by a push, and again by the reply to an ask that crossed it.
      lease.validUntil = max(lease.validUntil, validUntil)
      lease.graceEnds = max(lease.graceEnds, graceEnds)
      return setLease(lock, .held(lease))
    }
    guard lock.lease.isWaited else { return }
    var (end, overflow) = grant.token.addingReportingOverflow(grant.tokenCount)
    if overflow || grant.token < 1 || grant.tokenCount < 1 || end > 1 << 53 { (end, overflow) = (grant.token, true) }
    setLease(
      lock,
      .held(
        HeldLease(
          attempt: attempt, validUntil: validUntil, graceEnds: graceEnds, renewAt: renewAt, nextToken: grant.token,
          tokenEnd: end, contendedSince: grant.othersWait ? now : nil)))
    lock.recheckAt = nil
    guard !overflow else { return acquireOverflowed(lock, now: now) }
    counters.leases += 1
    leaseEnds.push((lock, attempt), at: validUntil)
    renewals.push((lock, attempt), at: renewAt)
    advance(lock, now: now)
  }

  /// Tokens beyond 2^53 would be read wrongly by half of all JSON parsers, so none is given out. Nor is a block without
  /// any asked for again and again.
  private func acquireOverflowed(_ lock: LockRecord, now: BootInstant) {
    while let waiter = lock.queue.first {
      refuse(waiter, .unavailable("the tokens of this lock are not between 1 and 2^53"), now: now)
    }
    if case .held(let lease) = lock.lease { giveBack(lock, lease, now: now) }
  }

  private func releaseReplied(_ name: LockName, attempt: UInt64, _ reply: LeaseReply, now: BootInstant) {
    guard let lock = locks[name], let release = lock.unconfirmedRelease, release.attempt == attempt else { return }
    switch reply {
    case .failed(.transient), .failed(.fatal):
      guard now < release.worthUntil else { break }
      return deadlines.push(
        .repeatRelease(lock, attempt: attempt), at: now.adding(milliseconds: configuration.foreignPollMilliseconds))
    case .failed(.wrongType), .done, .granted, .queued, .foreign, .renewed, .conflict, .seen:
      break
    }
    lock.unconfirmedRelease = nil
    dropIfUnused(lock)
  }

  private func renewReplied(
    _ batch: [(lock: LockRecord, attempt: UInt64)], _ reply: LeaseReply, sentAt: BootInstant, now: BootInstant
  ) {
    let renewed: [Bool?]
    if case .renewed(let results) = reply, results.count == batch.count {
      renewed = results
    } else {
      renewed = Array(repeating: nil, count: batch.count)
    }
    for ((lock, attempt), result) in zip(batch, renewed) {
      guard case .held(var lease) = lock.lease, lease.attempt == attempt else { continue }
      lease.renewalInFlight = false
      switch result {
      case true?:
        counters.renewals += 1
        lease.isInDoubt = false
        lease.validUntil = max(lease.validUntil, sentAt.adding(milliseconds: timeline.lostAfterMilliseconds))
        lease.graceEnds = max(lease.graceEnds, sentAt.adding(milliseconds: timeline.graceEndsAfterMilliseconds))
        lease.renewAt = sentAt.adding(milliseconds: timeline.renewAfterMilliseconds)
      case nil:
        lease.renewAt = now.adding(milliseconds: timeline.renewRetryMilliseconds)
      case false?:
        leaseVanished(lock, now: now)
        continue
      }
      setLease(lock, .held(lease))
      renewals.push((lock, attempt), at: lease.renewAt)
      // Somebody may have come when too little of the lease was left.
      if lock.hold == nil && !lock.queue.isEmpty { advance(lock, now: now) }
    }
  }

  /// The store does not have the lease any more, before its time: somebody else may hold the lock already.
  private func leaseVanished(_ lock: LockRecord, now: BootInstant) {
    counters.leasesLost += 1
    setLease(lock, .none)
    if let hold = lock.hold { lose(hold, reason: .dataLoss, graceEnds: nil, now: now) }
    advance(lock, now: now)
  }

  func pushReceived(_ push: LeasePush, now: BootInstant) {
    switch push {
    case .granted(let name, let attempt, let grant):
      guard let lock = locks[name], lock.lease.attempt == attempt else {
        // It waited once and left; the message that said so crossed this one, or was lost.
        return disown(name, attempt: attempt, now: now)
      }
      guard let lastAnsweredSentAt else { return }
      leaseGranted(lock, attempt: attempt, grant, executedAfter: lastAnsweredSentAt, now: now)
    case .contended(let name, let attempt, let ask, let isTry, let inbox, _):
      guard let lock = locks[name], lock.lease.attempt == attempt else {
        return disown(name, attempt: attempt, now: now)
      }
      guard case .held(var lease) = lock.lease else { return }
      if lease.contendedSince == nil { lease.contendedSince = now }
      setLease(lock, .held(lease))
      guard lock.hold != nil else { return advance(lock, now: now) }
      if isTry { send(.answerInUse(name: name, ask: ask, inbox: inbox), .other, now: now) }
    case .inUse(let name, let ask):
      guard let lock = locks[name] else { return }
      refuseTries(of: lock, upToAsk: ask, now: now)
      if lock.isUnused { advance(lock, now: now) }
    case .told: break
    }
  }

  /// The store takes this host for the holder under an attempt that it has given up.
  private func disown(_ name: LockName, attempt: UInt64, now: BootInstant) {
    guard linkIsUp else { return }
    let lock = record(for: name)
    if let release = lock.unconfirmedRelease, release.attempt >= attempt { return dropIfUnused(lock) }
    sendRelease(lock, attempt: attempt, firstUnused: nil, now: now)
  }

  // MARK: Safety nets

  func recheck(_ lock: LockRecord, at moment: BootInstant) {
    lock.recheckAt = moment
    deadlines.push(.recheck(lock), at: moment)
  }

  /// From now on the holding host is waited for; it answers the tries up to `ask`, or the bound does.
  private func awaitInUse(_ lock: LockRecord, ask: UInt64, now: BootInstant) {
    let bound = now.adding(milliseconds: configuration.inUseTimeoutMilliseconds)
    for waiter in lock.queue.tries where waiter.ask <= ask && !waiter.knowsHolder {
      waiter.knowsHolder = true
      waiter.deadline = bound
      deadlines.push(.wait(waiter), at: bound)
    }
  }

  func armHeartbeat(now: BootInstant) {
    guard linkIsUp, waitedLeases > 0, heartbeatAt == nil else { return }
    let moment = (lastSentAt ?? now).adding(milliseconds: timeline.heartbeatMilliseconds)
    heartbeatAt = max(moment, now)
    deadlines.push(.heartbeat, at: max(moment, now))
  }
}
