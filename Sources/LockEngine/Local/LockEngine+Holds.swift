// How holds begin and end.

public import LockTypes

extension LockEngine {
  /// Grants a lock to a request that nobody is ahead of, if the store need not be asked; nil when it must be.
  func grantAtOnce(
    _ request: AcquireRequest, _ lock: LockRecord, to session: SessionRecord, partOf: MultiLockRequest?,
    now: BootInstant
  ) -> Hold? {
    catchUp(lock, now: now)
    guard lock.queue.isEmpty, lock.hasRoom(for: request.mode) else { return nil }
    var lease: HostLease?
    if !isLocal {
      guard case .now(let found) = admission(to: lock, in: request.mode, arrival: .max, now: now) else { return nil }
      lease = found
    }
    guard let token = issueToken(under: lease) else { return nil }
    return grant(request, lock, to: session, token, under: lease, partOf: partOf, now: now)
  }

  /// False: there is no token under that lease, and it goes on waiting.
  func grant(_ waiter: Waiter, under lease: HostLease?, now: BootInstant) -> Bool {
    guard let token = issueToken(under: lease) else { return false }
    grant(waiter, token, under: lease, now: now)
    return true
  }

  func grant(_ waiter: Waiter, _ token: Token, under lease: HostLease?, now: BootInstant) {
    let freedAt = waiter.lock.freedAt
    remove(waiter, now: now)
    guard let session = sessions[waiter.request.session], !session.isClosing else { return }
    let hold = grant(
      waiter.request, waiter.lock, to: session, token, under: lease, partOf: waiter.partOf, now: now)
    if let freedAt {
      waiter.lock.freedAt = nil
      counters.handovers.count(since: freedAt, now: now)
    }
    if waiter.hasOthersAhead || lease?.wasQueued == true { hasWaited(waiter, now: now) }
    if waiter.partOf == nil {
      reply(to: waiter.request, with: hold, since: waiter.since, now: now)
      record(hold, .grants, .granted(waitedMilliseconds: now.milliseconds(since: waiter.since)))
      readmit(hold, in: session, now: now)
    }
  }

  /// A waiter is granted that somebody was ahead of. Of a request for several locks that counts once, at its end.
  private func hasWaited(_ waiter: Waiter, now: BootInstant) {
    if let multi = waiter.partOf { multi.hasWaited = true } else { counters.waits.count(since: waiter.since, now: now) }
  }

  /// What a client is told whose lock has no token.
  var noLocalToken: Refusal {
    .unavailable("no token is left until the daemon can write more to its file; its log says why")
  }

  /// The next token under a lease, or of the local tier; nil where there is none to give. All tokens are issued here.
  func issueToken(under lease: HostLease?) -> Token? {
    guard let lease else { return issued.newLocalToken() }
    guard let token = lease.issueToken() else { return nil }
    tokenIsKnown(token, of: lease.lock)
    return token
  }

  /// A token of a lease was issued, here or elsewhere.
  func tokenIsKnown(_ token: Token, of lock: LockRecord) {
    lock.tokenFloor = max(lock.tokenFloor, token)
    issued.tokenIsKnown(token)
  }

  /// What the store may grant under to this host, of a lock of that name.
  public func grantTerms(of name: LockName) -> GrantTerms {
    GrantTerms(epoch: (locks[name]?.link ?? home(of: name)).pointee.epoch.id, tokenFloor: issued.tokenFloor)
  }

  /// What the store is to grant or reserve for a lock lies above this. It is the floor of all locks; only of a lock whose
  /// counter was set too high, its own.
  func grantTerms(of lock: LockRecord) -> GrantTerms {
    GrantTerms(epoch: lock.link.pointee.epoch.id, tokenFloor: max(lock.tokenFloor, issued.tokenFloor))
  }

  func grant(
    _ request: AcquireRequest, _ lock: LockRecord, to session: SessionRecord, _ token: Token, under lease: HostLease?,
    partOf: MultiLockRequest?, now: BootInstant
  ) -> Hold {
    if lease.map({ $0.grants > 0 }) ?? true { counters.grantsWithoutStore += 1 }
    counters.grants += 1
    lease?.grantedHere()
    let hold = Hold(request, lock: lock, token: token, lease: lease, since: now)
    add(hold, to: session)
    if let multi = partOf {
      hold.isPart(of: multi)
      multi.waiter = nil
      multi.taken.append((hold, false))
      makeReady(multi)
      // All of its names are written down again.
      stepsLeft -= multi.order.count / 4
    } else {
      watchLength(of: hold, now: now)
      limit(hold, milliseconds: request.maxHoldMilliseconds, now: now)
    }
    if let lease { reserveIfLow(lease, now: now) }
    observe(lock, .acquired(hold.session, token, hold.mode))
    return hold
  }

  /// Requests of the owner that wait for the lock it has just got re-enter it, or they would wait for their own owner.
  func readmit(_ hold: Hold, in session: SessionRecord, now: BootInstant) {
    guard let owner = hold.owner, hold.partOf == nil, !session.waits.isEmpty else { return }
    guard let waits = session.owner(owner)?.waits, !waits.isEmpty else { return }
    catchUp(hold.lock, now: now)
    let waiters = waits.values.filter { $0.lock === hold.lock }
    for waiter in waiters.sorted(by: { $0.request.request.rawValue < $1.request.request.rawValue }) {
      guard waiter.request.mode == hold.mode else {
        refuse(waiter, .modeConflict(hold.mode), now: now)
        continue
      }
      remove(waiter, now: now)
      hasWaited(waiter, now: now)
      if let multi = waiter.partOf {
        multi.waiter = nil
        multi.taken.append((hold, true))
        makeReady(multi)
      } else {
        hold.count += 1
        reply(to: waiter.request, with: hold, since: waiter.since, now: now)
      }
    }
  }

  func add(_ hold: Hold, to session: SessionRecord) {
    hold.lock.add(hold)
    session.add(hold)
    sessions.heldCount += 1
  }

  /// Sets when a hold ends by itself, counted from now; nil: never.
  func limit(_ hold: Hold, milliseconds: Int64?, now: BootInstant) {
    hold.endsAt = milliseconds.map { now.adding(milliseconds: $0) }
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
  }

  func reply(to request: AcquireRequest, with hold: Hold, since: BootInstant, now: BootInstant) {
    counters.acquires.count(since: since, now: now)
    effects.append(
      .reply(
        request.session, request.request,
        .acquired(
          Acquired(
            name: hold.lock.name, token: hold.token, mode: hold.mode,
            waitedMilliseconds: now.milliseconds(since: since),
            validMilliseconds: hold.lease.map { validUntil($0).milliseconds(since: now) }))))
  }

  /// Takes a hold away from its session, without telling anybody. The caller advances the lock.
  ///
  func end(_ hold: Hold, now: BootInstant) {
    hold.isOver = true
    if hold.isTold { counters.holds.count(since: hold.since, now: now) }
    if hold.owner != nil || hold.partOf != nil || sessions[hold.session]?.isHalfClosed == true { agents.edgeIsGone() }
    if !putOff.losses.isEmpty { passOver(hold) }
    hold.lock.progressRound?.passOver(hold)
    hold.lock.remove(hold)
    // Beside others who share it nobody is waited for who may have it now.
    let isPermit = if case .permit = hold.mode { true } else { false }
    hold.lock.freedAt = !hold.lock.queue.isEmpty && (isPermit || hold.lock.holds.isEmpty) ? now : nil
    sessions.heldCount -= 1
    guard let session = sessions[hold.session] else { return }
    // What has re-entered it has no wait of its own that would end with it.
    if hold.owner != nil { for multi in session.requestsForReplicas(reentering: hold) { makeReady(multi) } }
    session.remove(hold)
  }

  /// Ends a hold against its session's will. The caller advances the lock.
  func lose(_ hold: Hold, reason: LostReason, graceEnds: BootInstant?, detail: String? = nil, now: BootInstant) {
    end(hold, now: now)
    guard sessions[hold.session]?.isClosing != true else {
      if hold.partOf == nil { recordRelease(hold, .sessionEnded, now: now) }
      return observe(hold.lock, .released(hold.session, hold.token))
    }
    counters.lost += 1
    counters.losses.count(reason)
    observe(hold.lock, .lost(hold.session, hold.token, reason))
    if let multi = hold.partOf {
      // The client never saw this grant: no `lost`. It goes on once those who did see theirs have been told.
      return makeReady(multi)
    }
    countSignal(hold)
    record(hold, .losses, .lost(heldMilliseconds: now.milliseconds(since: hold.since), reason))
    sessions[hold.session]?.remember(LostHold(name: hold.lock.name, token: hold.token, reason: reason))
    let grace = graceEnds.map { max(0, $0.milliseconds(since: now)) } ?? 0
    effects.append(
      .notify(
        hold.session,
        .lost(
          name: hold.lock.name, token: hold.token, reason: reason, graceMilliseconds: grace, onLost: hold.onLost,
          detail: detail)))
  }

  /// The process of a session that loses a hold with `on_lost` is sent a signal, once for all of its holds. That takes as
  /// long as many steps.
  private func countSignal(_ hold: Hold) {
    guard hold.onLost != .notify, let session = sessions[hold.session], !session.isEnforced else { return }
    session.isEnforced = true
    stepsLeft -= Self.stepsOfSignal
  }

  private static let stepsOfSignal = 32
}
