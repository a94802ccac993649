// Who is next on this host.

import LockTypes

extension LockEngine {
  /// Brings a lock as far as it can go by itself. Called after every change to it.
  func advance(_ lock: LockRecord, now: BootInstant) {
    catchUp(lock, now: now)
    if lock.leases.count > 1 { giveBackReplaced(lock, now: now) }
    while let waiter = lock.queue.first {
      if mustPutOff { return putOff(lock, now: now) }
      stepsLeft -= 1
      let mode = waiter.request.mode
      guard lock.hasRoom(for: mode) else { return waitForRelease(of: lock, now: now) }
      if isLocal {
        grant(waiter, under: nil, now: now)
        continue
      }
      switch admission(to: lock, in: mode, arrival: waiter.arrival, now: now) {
      case .now(let lease):
        grant(waiter, under: lease, now: now)
      case .withNewLease(let lease):
        guard lease.holdCount == 0 else { return waitForRelease(of: lock, now: now) }
        giveBack(lease, now: now)
      case .afterRenewal, .afterReserving, .afterGrace:
        return
      case .afterRelease:
        return waitForRelease(of: lock, now: now)
      case .afterAsking:
        return want(mode, of: lock, now: now)
      }
    }
    settle(lock, now: now)
  }

  /// All that this host has of the lock is in use here. Who cannot be served out of it, or has to let other hosts go
  /// first, takes a place in the store's queue at once: those who come later, wherever, come behind.
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

  /// Nobody needs this host's place in the store's queue just now, but while the lock may go from client to client here the
  /// next of them comes soon, and to leave and come back each time would be two commands for each. The place keeps nobody
  /// from anything as long as a client here has the lock to itself.
  private func keepsPlace(_ lock: LockRecord, now: BootInstant) -> Bool {
    guard lock.heldMode == .exclusive, let lease = lock.leases.last, lease.isHeld,
      let since = lease.term.contendedSince, lease.cohort.grants < configuration.settings.cohortMax
    else { return false }
    let end = since.adding(milliseconds: configuration.settings.cohortMilliseconds)
    guard now < end else { return false }
    if lease.cohort.placeKeptUntil != end {
      lease.keepPlace(until: end)
      deadlines.push(.place(lease), at: end)
    }
    return true
  }

  /// What to stand in the store's queue for while all that this host has of the lock is in use; nil where those who wait
  /// are served out of it.
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

  /// Gives back what another lease has taken the place of, when the last hold under it is over.
  private func giveBackReplaced(_ lock: LockRecord, now: BootInstant) {
    for lease in lock.leases.dropLast()
    where lease.isHeld && lease.mode == .shared && lease.holdCount == 0 {
      giveBack(lease, now: now)
    }
  }

  /// Sees to it that the store is asked for what the first waiter needs.
  private func want(_ mode: HoldMode, of lock: LockRecord, now: BootInstant) {
    if let wanted = lock.wanted {
      // Whoever gets the exclusive lease can share it.
      if wanted.mode == mode || (wanted.mode == .exclusive && mode == .shared) {
        if !wanted.wasSent && lock.recheckAt == nil { ask(wanted, now: now) }
        return
      }
      giveUp(wanted, now: now)
    }
    ask(newLease(of: lock, in: mode, now: now), now: now)
  }

  /// What becomes of what this host has of a lock and nobody here holds or waits for.
  private func settle(_ lock: LockRecord, now: BootInstant) {
    if let wanted = lock.wanted, !keepsPlace(lock, now: now) { giveUp(wanted, now: now) }
    for lease in lock.leases where lease.isHeld && lease.holdCount == 0 {
      let linger = lease.isPermit ? 0 : configuration.settings.lingerMilliseconds
      let isWorthKeeping = linger > 0 && (lock.wasRecentlyReleased || lease.grants > 1)
      if !isWorthKeeping || lease.isContended || isShuttingDown {
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

  // MARK: Admission

  /// When a lock that has room here can go to a client here.
  enum Admission {
    case now(HostLease)
    /// What is left of the lease is hardly worth having, or it is not known whether the store still has it. A renewal is
    /// under way, or the lease ends.
    case afterRenewal
    /// The lease has no tokens left; the store is asked for more.
    case afterReserving
    /// A lost lease could still be in use.
    case afterGrace
    /// This host has all there is, and all of it is in use.
    case afterRelease
    /// The lease is of no use (any more): it goes back, as soon as nobody here holds anything under it.
    case withNewLease(HostLease)
    /// It goes through the store's queue first.
    case afterAsking
  }

  /// `arrival`: the number of the wait.
  func admission(to lock: LockRecord, in mode: HoldMode, arrival: UInt64, now: BootInstant) -> Admission {
    switch mode {
    case .exclusive, .shared: admission(toLock: lock, in: mode, arrival: arrival, now: now)
    case .permit(let capacity): admission(toSemaphore: lock, capacity: capacity, arrival: arrival, now: now)
    }
  }

  private func admission(
    toLock lock: LockRecord, in mode: HoldMode, arrival: UInt64, now: BootInstant
  ) -> Admission {
    guard let lease = lock.leases.last else { return .afterAsking }
    if lock.leases.contains(where: { $0.isLost }) { return .afterGrace }
    if lease.isPermit || (mode == .exclusive && lease.mode == .shared) { return .withNewLease(lease) }
    return admission(under: lease, arrival: arrival, now: now)
  }

  private func admission(
    toSemaphore lock: LockRecord, capacity: Int64, arrival: UInt64, now: BootInstant
  ) -> Admission {
    var isRenewing = false
    for lease in lock.leases where lease.holdCount == 0 {
      switch lease.state {
      case .lost:
        if !lease.isPermit { return .afterGrace }
      case .held:
        if lease.mode != .permit(of: capacity) { return .withNewLease(lease) }
        switch admission(under: lease, arrival: arrival, now: now) {
        case .now(let lease): return .now(lease)
        case .withNewLease(let lease): return .withNewLease(lease)
        case .afterRenewal: isRenewing = true
        case .afterReserving, .afterGrace, .afterRelease, .afterAsking: break
        }
      case .asking, .queued, .over: break
      }
    }
    if isRenewing { return .afterRenewal }
    return lock.leases.count >= capacity ? .afterRelease : .afterAsking
  }

  /// While another host waits, a lock goes to clients that came later than that only so often and so long; but at least
  /// once, or two hosts could hand it to and fro without anybody getting it.
  private func admission(under lease: HostLease, arrival: UInt64, now: BootInstant) -> Admission {
    let term = lease.term
    guard now < term.validUntil else { return .withNewLease(lease) }
    if let since = term.contendedSince, lease.grants > 0, arrival > lease.cohort.arrivalMax {
      guard lease.cohort.grants < configuration.settings.cohortMax,
        now < since.adding(milliseconds: configuration.settings.cohortMilliseconds)
      else { return .withNewLease(lease) }
    }
    guard term.tokensLeft > 0 else { return lease.holdCount > 0 ? .afterReserving : .withNewLease(lease) }
    let isWorthHaving = now.adding(milliseconds: lease.timeline.grantWorthMilliseconds) <= term.validUntil
    return isWorthHaving && !isInDoubt(lease) ? .now(lease) : .afterRenewal
  }

  /// Takes a lock for a request that nobody is ahead of, if that needs no word to the store; nil when it does.
  func grantAtOnce(
    _ request: AcquireRequest, _ lock: LockRecord, to session: SessionRecord, several: SeveralRequest?,
    now: BootInstant
  ) -> Hold? {
    catchUp(lock, now: now)
    guard lock.queue.isEmpty, lock.hasRoom(for: request.mode) else { return nil }
    if isLocal {
      return grant(request, lock, to: session, issueToken(under: nil), under: nil, several: several, now: now)
    }
    guard case .now(let lease) = admission(to: lock, in: request.mode, arrival: .max, now: now) else { return nil }
    return grant(request, lock, to: session, issueToken(under: lease), under: lease, several: several, now: now)
  }

  // MARK: Holds

  func grant(_ waiter: Waiter, under lease: HostLease?, now: BootInstant) {
    grant(waiter, issueToken(under: lease), under: lease, now: now)
  }

  func grant(_ waiter: Waiter, _ token: Token, under lease: HostLease?, now: BootInstant) {
    remove(waiter, now: now)
    guard let session = sessions[waiter.request.session] else { return }
    let hold = grant(
      waiter.request, waiter.lock, to: session, token, under: lease, several: waiter.several, now: now)
    if waiter.several == nil {
      reply(to: waiter.request, with: hold, waitedMilliseconds: now.milliseconds(since: waiter.since), now: now)
      readmit(hold, in: session, now: now)
    }
  }

  /// The next token under a lease, or of the local tier. The only place at which tokens come from.
  func issueToken(under lease: HostLease?) -> Token {
    if let lease { return lease.issueToken() }
    return issued.newLocalToken()
  }

  private func grant(
    _ request: AcquireRequest, _ lock: LockRecord, to session: SessionRecord, _ token: Token, under lease: HostLease?,
    several: SeveralRequest?, now: BootInstant
  ) -> Hold {
    if lease.map({ $0.grants > 0 }) ?? true { counters.grantsWithoutStore += 1 }
    counters.grants += 1
    lease?.grantedHere()
    let hold = Hold(request, lock: lock, token: token, lease: lease, since: now)
    add(hold, to: session)
    if let several {
      hold.several = several
      several.waiter = nil
      several.taken.append((hold, false))
      makeReady(several)
    } else {
      limit(hold, milliseconds: request.maxHoldMilliseconds, now: now)
    }
    if let lease { reserveIfLow(lease, now: now) }
    observe(lock, .acquired(hold.session, token, hold.mode))
    return hold
  }

  /// Requests of an owner that wait for what it has got meanwhile enter again, or they would wait for themselves.
  func readmit(_ hold: Hold, in session: SessionRecord, now: BootInstant) {
    guard let owner = hold.owner, hold.several == nil, !session.waits.isEmpty else { return }
    guard let waits = session.owner(owner)?.waits, !waits.isEmpty else { return }
    catchUp(hold.lock, now: now)
    let waiters = waits.values.filter { $0.lock === hold.lock }
    for waiter in waiters.sorted(by: { $0.request.request.rawValue < $1.request.request.rawValue }) {
      guard waiter.request.mode == hold.mode else {
        refuse(waiter, .modeConflict(hold.mode), now: now)
        continue
      }
      remove(waiter, now: now)
      if let several = waiter.several {
        several.waiter = nil
        several.taken.append((hold, true))
        makeReady(several)
      } else {
        hold.count += 1
        reply(to: waiter.request, with: hold, waitedMilliseconds: now.milliseconds(since: waiter.since), now: now)
      }
    }
  }

  func add(_ hold: Hold, to session: SessionRecord) {
    hold.lock.tokenFloor = max(hold.lock.tokenFloor, hold.token)
    hold.lock.add(hold)
    session.add(hold)
    sessions.heldCount += 1
  }

  /// Sets when a hold ends by itself, counted from now; nil: never.
  func limit(_ hold: Hold, milliseconds: Int64?, now: BootInstant) {
    hold.endsAt = milliseconds.map { now.adding(milliseconds: $0) }
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
  }

  func reply(to request: AcquireRequest, with hold: Hold, waitedMilliseconds: Int64, now: BootInstant) {
    effects.append(
      .reply(
        request.session, request.request,
        .acquired(
          Acquired(
            name: hold.lock.name, token: hold.token, mode: hold.mode, waitedMilliseconds: waitedMilliseconds,
            validMilliseconds: hold.lease.map { $0.term.validUntil.milliseconds(since: now) }))))
  }

  /// Takes a hold away from its session, without telling anybody. The caller advances the lock.
  func end(_ hold: Hold) {
    hold.isOver = true
    if hold.owner != nil || hold.several != nil || sessions[hold.session]?.isHalfClosed == true { agents.edgeIsGone() }
    if !putOff.losses.isEmpty { passOver(hold) }
    hold.lock.remove(hold)
    sessions.heldCount -= 1
    sessions[hold.session]?.remove(hold)
  }

  /// Ends a hold against its session's will. The caller advances the lock.
  func lose(_ hold: Hold, reason: LostReason, graceEnds: BootInstant?, detail: String? = nil, now: BootInstant) {
    end(hold)
    guard sessions[hold.session]?.isClosing != true else {
      return observe(hold.lock, .released(hold.session, hold.token))
    }
    counters.lost += 1
    observe(hold.lock, .lost(hold.session, hold.token, reason))
    if let several = hold.several {
      // The client never saw this grant: no `lost`. It goes on once those who did see theirs have been told.
      return makeReady(several)
    }
    sessions[hold.session]?.remember(LostHold(name: hold.lock.name, token: hold.token, reason: reason))
    let grace = graceEnds.map { max(0, $0.milliseconds(since: now)) } ?? 0
    effects.append(
      .notify(
        hold.session,
        .lost(
          name: hold.lock.name, token: hold.token, reason: reason, graceMilliseconds: grace, onLost: hold.onLost,
          detail: detail)))
  }

  // MARK: Waiters

  func enqueue(_ waiter: Waiter, of session: SessionRecord) {
    let lock = waiter.lock
    waiter.arrival = issued.newArrival()
    lock.queue.append(waiter)
    sessions.waitingCount += 1
    session.add(waiter)
    if waiter.request.progress { lock.progressWaiters += 1 }
    if !waiter.isTry { observe(lock, .waiting(waiter.request.session, waiters: lock.queue.count)) }
  }

  /// Takes a waiter out of its queue, without answering it.
  func remove(_ waiter: Waiter, now: BootInstant) {
    let lock = waiter.lock
    lock.queue.remove(waiter)
    let session = sessions[waiter.request.session]
    if waiter.request.owner != nil || waiter.several != nil || session?.isHalfClosed == true { agents.edgeIsGone() }
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
    if !waiter.isTry { observe(waiter.lock, .gaveUp(waiter.request.session, waiters: waiter.lock.queue.count)) }
    if let several = waiter.several { return abandon(several, refusal, now: now) }
    refuse(waiter.request, refusal)
  }

  func refuse(_ request: AcquireRequest, _ refusal: Refusal) {
    switch refusal {
    case .timeout: counters.timeouts += 1
    case .busy: counters.busy += 1
    case .deadlock: counters.deadlocks += 1
    case .cancelled, .notHeld, .lost, .unavailable, .wrongType, .limit, .shuttingDown, .modeConflict, .noSuchSession,
      .notAccepted:
      break
    }
    effects.append(.reply(request.session, request.request, .refused(refusal)))
  }

  /// Answers the tries whose question is settled: somebody has the lock.
  func refuseTries(of lock: LockRecord, upToAsk ask: UInt64, now: BootInstant) {
    let settled = lock.queue.tries.filter { $0.ask <= ask }
    guard !settled.isEmpty else { return }
    if isBeingFreed(lock) { return }
    let holder = holderSummary(of: lock)
    for waiter in settled where !waiter.isOver { refuse(waiter, .busy(holder, of: lock.name), now: now) }
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

  /// Whether the store can be asked about a lock, and does not refuse.
  func storeAnswers(about lock: LockRecord) -> Bool { storeIsUsable && lock.storeRefusal == nil }

  func holderSummary(of lock: LockRecord) -> HolderSummary {
    var summary = isQueued(lock) ? lock.remoteHolder : .unknown
    summary.local = lock.holds.prefix(HolderSummary.localMax).map {
      .init(session: $0.session, token: $0.token)
    }
    return summary
  }

  func isKnownToBeTaken(_ lock: LockRecord) -> Bool {
    !lock.holds.isEmpty || isQueued(lock)
  }
}
