// Who is next on this host.

extension LockEngine {
  /// Brings a lock as far as it can go by itself. Called after every change to it.
  func advance(_ lock: LockRecord, now: BootInstant) {
    guard lock.hold == nil else { return }
    guard let waiter = lock.queue.first else { return settle(lock, now: now) }
    switch lock.lease {
    case .held(let lease):
      switch admission(under: lease, now: now) {
      case .now:
        grant(waiter, now: now)
      case .afterRenewal:
        break
      case .withNewLease:
        giveBack(lock, lease, now: now)
        ask(lock, now: now)
      }
    case .none:
      if isLocal { return grant(waiter, now: now) }
      ask(lock, now: now)
    case .asking(_, let wasSent):
      if !wasSent && lock.recheckAt == nil { ask(lock, now: now) }
    case .queued, .lost:
      break
    }
  }

  /// What becomes of a lock that nobody here holds or waits for.
  private func settle(_ lock: LockRecord, now: BootInstant) {
    switch lock.lease {
    case .none, .lost:
      break
    case .asking(let attempt, let wasSent):
      if wasSent { sendRelease(lock, attempt: attempt, firstUnused: nil, now: now) }
      setLease(lock, .none)
    case .queued(let attempt):
      sendRelease(lock, attempt: attempt, firstUnused: nil, now: now)
      setLease(lock, .none)
    case .held(var lease):
      let linger = configuration.lingerMilliseconds
      let isWorthKeeping = linger > 0 && (lock.cameBack || lease.grants > 1)
      if !isWorthKeeping || lease.contendedSince != nil || isShuttingDown {
        recentReleases.insert(lock.name, now: now)
        giveBack(lock, lease, now: now)
      } else if lease.idleUntil == nil {
        let until = now.adding(milliseconds: linger)
        lease.idleUntil = until
        setLease(lock, .held(lease))
        deadlines.push(.idle(lock), at: until)
      }
    }
    if lock.isUnused, case .none = lock.lease { lock.recheckAt = nil }
    dropIfUnused(lock)
  }

  /// When a lock whose lease this host has can go to a client here.
  private enum Admission {
    case now
    /// What is left of the lease is hardly worth having, or it is not known whether the store still has it. A renewal is
    /// under way, or the lease ends.
    case afterRenewal
    /// It goes through the store's queue first.
    case withNewLease
  }

  /// While another host waits, a lock goes from client to client only so often and so long; but at least once, or two
  /// hosts could hand it to and fro without anybody getting it.
  private func admission(under lease: HeldLease, now: BootInstant) -> Admission {
    guard now < lease.validUntil, lease.nextToken < lease.tokenEnd else { return .withNewLease }
    if let since = lease.contendedSince, lease.grants > 0 {
      guard lease.grantsWhileContended < configuration.cohortHandoversMax,
        now < since.adding(milliseconds: configuration.cohortMilliseconds)
      else { return .withNewLease }
    }
    let isWorthHaving = now.adding(milliseconds: timeline.grantWorthMilliseconds) <= lease.validUntil
    return isWorthHaving && !lease.isInDoubt ? .now : .afterRenewal
  }

  /// Whether this host can give out a lock that nobody here holds or waits for, without a word to the store.
  func mayGrantAtOnce(_ lock: LockRecord, now: BootInstant) -> Bool {
    switch lock.lease {
    case .held(let lease): admission(under: lease, now: now) == .now
    case .none: isLocal
    case .asking, .queued, .lost: false
    }
  }

  private func grant(_ waiter: Waiter, now: BootInstant) {
    remove(waiter, now: now)
    guard let session = sessions[waiter.request.session] else { return }
    grant(waiter.request, waiter.lock, to: session, since: waiter.since, now: now)
  }

  func grant(
    _ request: AcquireRequest, _ lock: LockRecord, to session: SessionRecord, since: BootInstant, now: BootInstant
  ) {
    let token: Token
    var validMilliseconds: Int64?
    if case .held(var lease) = lock.lease {
      token = lease.nextToken
      lease.nextToken += 1
      if lease.grants > 0 { counters.grantsWithoutStore += 1 }
      lease.grants += 1
      if lease.contendedSince != nil { lease.grantsWhileContended += 1 }
      lease.idleUntil = nil
      validMilliseconds = lease.validUntil.milliseconds(since: now)
      setLease(lock, .held(lease))
    } else {
      token = nextLocalToken
      nextLocalToken += 1
      counters.grantsWithoutStore += 1
    }
    lock.tokenFloor = max(lock.tokenFloor, token)
    counters.grants += 1
    let hold = Hold(
      session: request.session, lock: lock, token: token, since: now, meta: request.meta,
      endsAt: request.maxHoldMilliseconds.map { now.adding(milliseconds: $0) })
    lock.hold = hold
    heldCount += 1
    session.holds[lock.name] = hold
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
    effects.append(
      .reply(
        request.session, request.request,
        .acquired(
          Acquired(
            name: lock.name, token: token, waitedMilliseconds: now.milliseconds(since: since),
            validMilliseconds: validMilliseconds))))
    refuseTries(of: lock, upToAsk: .max, now: now)
  }

  /// Takes a hold away from its session, without telling anybody.
  func end(_ hold: Hold) {
    hold.isOver = true
    hold.lock.hold = nil
    heldCount -= 1
    sessions[hold.session]?.holds[hold.lock.name] = nil
  }

  /// Ends a hold against its session's will.
  func lose(_ hold: Hold, reason: LostReason, graceEnds: BootInstant?, now: BootInstant) {
    end(hold)
    sessions[hold.session]?.remember(loss: hold.lock.name, hold.token, reason)
    counters.lost += 1
    let grace = graceEnds.map { max(0, $0.milliseconds(since: now)) } ?? 0
    effects.append(
      .notify(
        hold.session, .lost(name: hold.lock.name, token: hold.token, reason: reason, graceMilliseconds: grace)))
  }

  /// Takes a waiter out of its queue, without answering it.
  func remove(_ waiter: Waiter, now: BootInstant) {
    let lock = waiter.lock
    lock.queue.remove(waiter)
    waitingCount -= 1
    sessions[waiter.request.session]?.waits[waiter.request.request] = nil
    if waiter.request.progress { lock.progressWaiters -= 1 }
    progressChanged(lock, now: now)
  }

  /// Answers a waiter without success. The caller advances the lock.
  func refuse(_ waiter: Waiter, _ refusal: Refusal, now: BootInstant) {
    remove(waiter, now: now)
    switch refusal {
    case .timeout: counters.timeouts += 1
    case .busy: counters.busy += 1
    case .cancelled, .notHeld, .lost, .unavailable, .wrongType, .limit, .shuttingDown, .modeConflict, .deadlock,
      .noSuchSession:
      break
    }
    effects.append(.reply(waiter.request.session, waiter.request.request, .refused(refusal)))
  }

  /// Answers the tries whose question is settled: somebody has the lock.
  func refuseTries(of lock: LockRecord, upToAsk ask: UInt64, now: BootInstant) {
    let settled = lock.queue.tries.filter { $0.ask <= ask }
    guard !settled.isEmpty else { return }
    let holder = holderSummary(of: lock)
    for waiter in settled { refuse(waiter, .busy(holder), now: now) }
  }

  // MARK: Who has it

  var isLocal: Bool {
    switch configuration.tier {
    case .local: true
    case .store: false
    }
  }

  /// Whether an ask could be answered now.
  var storeIsUsable: Bool { isLocal || linkIsUp }

  func holderSummary(of lock: LockRecord) -> HolderSummary {
    if let hold = lock.hold { return .local(hold.session, hold.token) }
    if case .queued = lock.lease { return lock.remoteHolder }
    return .unknown
  }

  func isKnownToBeTaken(_ lock: LockRecord) -> Bool {
    if lock.hold != nil { return true }
    if case .queued = lock.lease { return true }
    return false
  }

  // MARK: Progress

  /// The order of the queue changed; those who want to know are told, at most once a second.
  func progressChanged(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0, lock.progressAt == nil else { return }
    let earliest = lock.lastProgressAt?.adding(milliseconds: 1000) ?? now
    let moment = max(now, earliest)
    lock.progressAt = moment
    deadlines.push(.progress(lock), at: moment)
  }

  func tellProgress(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 else { return }
    lock.lastProgressAt = now
    let holder = holderSummary(of: lock)
    var position = 0
    for waiter in lock.queue.live {
      position += 1
      guard waiter.request.progress, waiter.toldPosition != position else { continue }
      waiter.toldPosition = position
      effects.append(
        .notify(
          waiter.request.session,
          .waiting(request: waiter.request.request, name: lock.name, position: position, holder: holder)))
    }
  }
}
