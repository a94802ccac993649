// What clients ask for.

extension LockEngine {
  func acquireRequested(_ request: AcquireRequest, now: BootInstant) {
    guard let session = sessions[request.session] else { return }
    guard case .one(let name) = request.target, request.mode == .exclusive else {
      return effects.append(.reply(request.session, request.request, .refused(.modeConflict(.exclusive))))
    }
    if isShuttingDown {
      return effects.append(.reply(request.session, request.request, .refused(.shuttingDown)))
    }
    if let limit = limitMet(by: session, name: name) {
      return effects.append(.reply(request.session, request.request, .refused(.limit(limit))))
    }
    let lock = record(for: name)
    if lock.hold == nil && lock.queue.isEmpty && mayGrantAtOnce(lock, now: now) {
      return grant(request, lock, to: session, since: now, now: now)
    }
    let waiter = Waiter(
      request: request, lock: lock, since: now,
      deadline: request.waitMilliseconds.map { now.adding(milliseconds: $0) })
    let hasOnlyTriesAhead = lock.queue.tryCount == lock.queue.count
    lock.queue.append(waiter)
    waitingCount += 1
    session.waits[request.request] = waiter
    if request.progress { lock.progressWaiters += 1 }
    if waiter.isTry {
      tryRequested(waiter, hasOnlyTriesAhead: hasOnlyTriesAhead, now: now)
      return dropIfUnused(lock)
    }
    advance(lock, now: now)
    guard !waiter.isOver else { return }
    if let deadline = waiter.deadline { deadlines.push(.wait(waiter), at: deadline) }
    if request.progress && isKnownToBeTaken(lock) { tellProgress(lock, now: now) }
  }

  private func limitMet(by session: SessionRecord, name: LockName) -> LimitName? {
    if session.waits.count >= configuration.waitsPerSessionMax { return .waitsPerSession }
    if session.holds.count + session.waits.count >= configuration.holdsPerSessionMax { return .holdsPerSession }
    if let lock = locks[name], lock.queue.count >= configuration.waitersPerLockMax { return .waitersPerLock }
    return nil
  }

  /// A try is decided at once where this host knows enough, and otherwise by an ask of its own: an answer to an
  /// earlier ask may describe the lock as it was before somebody on another host was told "released".
  private func tryRequested(_ waiter: Waiter, hasOnlyTriesAhead: Bool, now: BootInstant) {
    let lock = waiter.lock
    if lock.hold != nil || !hasOnlyTriesAhead {
      let refusal: Refusal = lock.hold == nil && !storeIsUsable ? .unavailable(nil) : .busy(holderSummary(of: lock))
      return refuse(waiter, refusal, now: now)
    }
    if case .lost = lock.lease { return refuse(waiter, .unavailable(nil), now: now) }
    advance(lock, now: now)
    guard !waiter.isOver else { return }
    guard storeIsUsable else {
      refuse(waiter, .unavailable(nil), now: now)
      return advance(lock, now: now)
    }
    if case .held = lock.lease {
      // A renewal decides it.
    } else if waiter.ask == 0 {
      ask(lock, now: now)
    }
    let deadline = now.adding(milliseconds: configuration.storeTimeoutMilliseconds)
    waiter.deadline = deadline
    deadlines.push(.wait(waiter), at: deadline)
  }

  func releaseRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, now: BootInstant
  ) {
    guard sessions[session] != nil else { return }
    guard let hold = hold(of: session, name: name, token: token) else {
      return effects.append(.reply(session, request, .refused(notHeld(session, name, token))))
    }
    end(hold)
    effects.append(.reply(session, request, .released(name: name, token: hold.token, remaining: 0)))
    advance(hold.lock, now: now)
  }

  func extendRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, maxHoldMilliseconds: Int64?,
    now: BootInstant
  ) {
    guard sessions[session] != nil else { return }
    guard let hold = hold(of: session, name: name, token: token) else {
      return effects.append(.reply(session, request, .refused(notHeld(session, name, token))))
    }
    hold.endsAt = maxHoldMilliseconds.map { now.adding(milliseconds: $0) }
    if let end = hold.endsAt { deadlines.push(.maxHold(hold), at: end) }
    effects.append(
      .reply(
        session, request, .extended(name: name, token: hold.token, maxHoldMilliseconds: maxHoldMilliseconds)))
  }

  func cancelRequested(_ session: SessionID, request: RequestID?, target: RequestID?, now: BootInstant) {
    guard let record = sessions[session] else { return }
    let waiter = target.flatMap { record.waits[$0] }
    if let waiter { refuse(waiter, .cancelled, now: now) }
    if let request { effects.append(.reply(session, request, .cancelled(waiter != nil))) }
    if let waiter { advance(waiter.lock, now: now) }
  }

  private func hold(of session: SessionID, name: LockName, token: Token?) -> Hold? {
    guard let hold = sessions[session]?.holds[name], token == nil || token == hold.token else { return nil }
    return hold
  }

  /// Why a session cannot release or extend what it named: it lost it, or never had it.
  private func notHeld(_ session: SessionID, _ name: LockName, _ token: Token?) -> Refusal {
    let held = sessions[session]?.holds[name]
    let loss = sessions[session]?.losses.last { $0.name == name && (token == nil ? held == nil : $0.token == token) }
    if let loss { return .lost(loss.reason) }
    return .notHeld(heldTokens: held.map { [$0.token] } ?? [])
  }
}
