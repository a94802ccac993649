// What clients ask for.

import LockTypes

extension LockEngine {
  // MARK: Acquire

  func acquireRequested(_ request: AcquireRequest, now: BootInstant) {
    guard let session = sessions[request.session], !session.isClosing else { return }
    if isShuttingDown { return refuse(request, .shuttingDown) }
    guard request.need.isNone, configuration.settings.need.isNone else {
      return acquireWithReplicas(request, for: session, now: now)
    }
    switch request.target {
    case .one(let name):
      if let limit = limitMet(by: session, names: 1, request) { return refuse(request, .limit(limit)) }
      acquire(name, request, for: session, now: now)
    case .several(let names):
      if let limit = limitMet(by: session, names: names.count, request) { return refuse(request, .limit(limit)) }
      acquireAll(request, now: now)
    }
  }

  func acquire(_ name: LockName, _ request: AcquireRequest, for session: SessionRecord, now: BootInstant) {
    catchUp(name, now: now)
    if let hold = ownHold(of: name, request, in: session, now: now) {
      guard hold.mode == request.mode else { return refuse(request, .modeConflict(hold.mode)) }
      hold.count += 1
      return reply(to: request, with: hold, since: now, now: now)
    }
    let lock = record(for: name)
    if let hold = grantAtOnce(request, lock, to: session, partOf: nil, now: now) {
      record(hold, .grants, .granted(waitedMilliseconds: 0))
      return reply(to: request, with: hold, since: now, now: now)
    }
    let deadline = request.waitMilliseconds.map { now.adding(milliseconds: $0) }
    wait(Waiter(request, lock: lock, since: now, deadline: deadline, partOf: nil), session, now: now)
  }

  /// The hold that the owner who asks has of this lock already; nil without an owner.
  func ownHold(
    of name: LockName, _ request: AcquireRequest, in session: SessionRecord, now: BootInstant
  ) -> Hold? {
    guard let owner = request.owner,
      let hold = session.owner(owner)?.holds[name]?.last(where: { $0.partOf == nil })
    else { return nil }
    catchUp(hold, now: now)
    return hold.isOver ? nil : hold
  }

  /// Has a request wait for a lock, or refuses it where waiting is of no use.
  func wait(_ waiter: Waiter, _ session: SessionRecord, now: BootInstant) {
    let lock = waiter.lock
    defer { dropIfUnused(lock) }
    if let refusal = refusalBeforeWaiting(waiter) {
      if let multi = waiter.partOf { return abandon(multi, refusal, now: now) }
      return refuse(waiter.request, refusal, waitedMilliseconds: now.milliseconds(since: waiter.since))
    }
    let hasOnlyTriesAhead = lock.queue.tryCount == lock.queue.count
    waiter.hasOthersAhead = !lock.queue.isEmpty || !lock.hasRoom(for: waiter.request.mode)
    enqueue(waiter, of: session)
    if waiter.isTry { return tryRequested(waiter, hasOnlyTriesAhead: hasOnlyTriesAhead, now: now) }
    breakDeadlocks(of: waiter, now: now)
    advance(lock, now: now)
    progressChanged(lock, now: now)
    guard !waiter.isOver else { return }
    if waiter.hasOthersAhead { recordWait(waiter) }
    if let deadline = waiter.deadline { deadlines.push(.wait(waiter), at: deadline) }
    armDeadlockSearch(for: waiter, now: now)
    if waiter.request.progress { notifyAtOnce(waiter, holder: nil, position: lock.queue.count) }
  }

  private func refusalBeforeWaiting(_ waiter: Waiter) -> Refusal? {
    let lock = waiter.lock
    if let held = lock.heldMode, !held.isSameKind(as: waiter.request.mode) {
      return .modeConflict(held, holderSummary(of: lock), of: lock.name)
    }
    if lock.queue.count >= configuration.waitersPerLockMax { return .limit(.waitersPerLock) }
    return nil
  }

  func limitMet(by session: SessionRecord, names count: Int, _ request: AcquireRequest) -> LimitName? {
    if session.waitCount >= configuration.settings.waitsPerSessionMax { return .waitsPerSession }
    if session.holdCount + session.waitCount + count > configuration.settings.holdsPerSessionMax {
      return .holdsPerSession
    }
    if let user = session.user {
      if user.waits >= configuration.settings.waitsPerUIDMax { return .waitsPerUID }
      if user.holds + user.waits + count > configuration.settings.holdsPerUIDMax { return .holdsPerUID }
      if !hasRoom(for: request, beside: user.lockBytes, max: configuration.settings.lockBytesPerUIDMax) {
        return .lockBytesPerUID
      }
    }
    if !hasRoom(for: request, beside: tally.lockBytes, max: configuration.lockBytesMax) { return .lockBytes }
    return nil
  }

  private func hasRoom(for request: AcquireRequest, beside bytes: Int, max: Int) -> Bool {
    // Fast path: far below the limit the charge is not computed.
    bytes <= max - LockBytes.requestMax || bytes + LockBytes.of(request) <= max
  }

  /// A try is decided at once where this host knows enough, and otherwise by an ask of its own: an answer to an
  /// earlier ask may describe the lock as it was before somebody on another host was told "released".
  private func tryRequested(_ waiter: Waiter, hasOnlyTriesAhead: Bool, now: BootInstant) {
    let lock = waiter.lock
    if !lock.hasRoom(for: waiter.request.mode) || !hasOnlyTriesAhead, !isBeingFreed(lock) {
      let isUnknown = lock.holds.isEmpty && !storeAnswers(about: lock)
      return refuse(waiter, refusalOfTry(of: lock, isUnknown: isUnknown, now: now), now: now)
    }
    if lock.leases.contains(where: { $0.isLost && !$0.isPermit }) {
      return refuse(waiter, unavailable(nil, at: lock.link, now: now), now: now)
    }
    advance(lock, now: now)
    guard !waiter.isOver else { return }
    guard isUsable(lock.link) else {
      refuse(waiter, unavailable(nil, at: lock.link, now: now), now: now)
      return advance(lock, now: now)
    }
    // When no lease is wanted, a renewal or the end of a grace decides the try.
    if let wanted = lock.wanted, waiter.ask == 0 { ask(wanted, now: now) }
    let deadline = now.adding(milliseconds: storeTimeoutMilliseconds(at: lock.link))
    waiter.deadline = deadline
    deadlines.push(.wait(waiter), at: deadline)
  }

  // MARK: What is held

  func releaseRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, now: BootInstant
  ) {
    guard let hold = hold(of: session, request, name: name, token: token, now: now) else { return }
    if hold.count > 1 {
      hold.count -= 1
      return effects.append(.reply(session, request, .released(name: name, token: hold.token, remaining: hold.count)))
    }
    end(hold, now: now)
    effects.append(.reply(session, request, .released(name: name, token: hold.token, remaining: 0)))
    observe(hold.lock, .released(session, hold.token))
    recordRelease(hold, .released, now: now)
    advance(hold.lock, now: now)
  }

  func extendRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, maxHoldMilliseconds: Int64?,
    now: BootInstant
  ) {
    guard let hold = hold(of: session, request, name: name, token: token, now: now) else { return }
    limit(hold, milliseconds: maxHoldMilliseconds, now: now)
    effects.append(
      .reply(
        session, request, .extended(name: name, token: hold.token, maxHoldMilliseconds: maxHoldMilliseconds)))
  }

  func downgradeRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, now: BootInstant
  ) {
    guard let hold = hold(of: session, request, name: name, token: token, now: now) else { return }
    switch hold.mode {
    case .permit: return effects.append(.reply(session, request, .refused(.modeConflict(hold.mode))))
    case .exclusive, .shared: hold.mode = .shared
    }
    effects.append(.reply(session, request, .downgraded(name: name, token: hold.token)))
    advance(hold.lock, now: now)
  }

  func transferRequested(
    _ session: SessionID, _ request: RequestID, name: LockName, token: Token?, to target: SessionID, isAccepting: Bool,
    now: BootInstant
  ) {
    guard let hold = hold(of: session, request, name: name, token: token, now: now) else { return }
    guard let receiver = sessions[target], !receiver.isClosing else {
      return effects.append(.reply(session, request, .refused(.noSuchSession)))
    }
    let waiter = receiver.waits.values.filter { $0.lock === hold.lock }
      .min { $0.request.request.rawValue < $1.request.request.rawValue }
    if let refusal = refusalToTransfer(hold, to: receiver, waiting: waiter, isAccepting: isAccepting) {
      return effects.append(.reply(session, request, .refused(refusal)))
    }
    guard let fresh = issueToken(under: hold.lease) else {
      let refusal =
        isLocal
        ? noLocalToken : .unavailable("this lease has no tokens left until Redis gives it more; try again")
      return effects.append(.reply(session, request, .refused(refusal)))
    }
    // The receiver has asked for it: its wait is granted, ahead of those before it.
    if let waiter {
      end(hold, now: now)
      effects.append(.reply(session, request, .transferred(name: name, token: fresh, to: target)))
      observe(hold.lock, .released(session, hold.token))
      recordRelease(hold, .transferred, now: now)
      grant(waiter, fresh, under: hold.lease, now: now)
      return advance(hold.lock, now: now)
    }
    end(hold, now: now)
    let handed = Hold(hold, handedTo: target, token: fresh, since: now)
    add(handed, to: receiver)
    hold.lock.freedAt = nil
    if let end = handed.endsAt { deadlines.push(.maxHold(handed), at: end) }
    watchLength(of: handed, now: now)
    effects.append(.reply(session, request, .transferred(name: name, token: fresh, to: target)))
    effects.append(.notify(target, .transferred(name: name, token: fresh, mode: handed.mode, from: session)))
    if let lease = handed.lease { reserveIfLow(lease, now: now) }
    observe(hold.lock, .released(session, hold.token))
    observe(hold.lock, .acquired(target, fresh, handed.mode))
    recordRelease(hold, .transferred, now: now)
    record(handed, .grants, .granted(waitedMilliseconds: 0))
  }

  /// Why a hold cannot be transferred; nil when it can. Without a wish of the receiver's it would use up its limits,
  /// fill its connection, and could have it wait for itself.
  private func refusalToTransfer(
    _ hold: Hold, to receiver: SessionRecord, waiting waiter: Waiter?, isAccepting: Bool
  ) -> Refusal? {
    if let waiter {
      let fits = waiter.request.mode == hold.mode || (waiter.request.mode == .shared && hold.mode == .exclusive)
      return fits ? nil : .modeConflict(hold.mode)
    }
    let isSame = receiver.id == hold.session
    guard isAccepting || isSame else { return .notAccepted }
    if receiver.holdCount >= configuration.settings.holdsPerSessionMax, !isSame { return .limit(.holdsPerSession) }
    if receiver.user !== sessions[hold.session]?.user, let user = receiver.user {
      if user.holds >= configuration.settings.holdsPerUIDMax { return .limit(.holdsPerUID) }
      if user.lockBytes + LockBytes.of(hold) > configuration.settings.lockBytesPerUIDMax {
        return .limit(.lockBytesPerUID)
      }
    }
    return nil
  }

  func breakRequested(_ name: LockName, tokens: [Token], reason: String, now: BootInstant) {
    guard let lock = locks[name] else { return }
    catchUp(lock, now: now)
    let tokens = Set(tokens)
    lose(
      HoldLosses(
        .tokens(tokens), of: lock, reason: .broken, graceEnds: nil, detail: reason.isEmpty ? nil : reason), now: now)
    doubtLeases(of: lock, now: now)
    advance(lock, now: now)
  }

  // MARK: End of input

  /// The event is to be repeated in the next turn while ``isEndPutOff(_:)``.
  func inputEnded(_ session: SessionID, isAnswered: Bool, keepsHolds: Bool, now: BootInstant) {
    guard let record = sessions[session] else { return }
    record.inputEnded(keepsHolds: keepsHolds)
    guard !keepsHolds else { return suspectEldest(of: record) }
    var ended: [Hold] = []
    let share = shareOfTurn
    let holds = record.holdsOfHalfClosed(isAnswered: isAnswered, atMost: share)
    record.isEndPutOff = holds.count == share
    for hold in holds {
      catchUp(hold, now: now)
      if mustPutOff, !ended.isEmpty {
        record.lookAgain()
        break
      }
      stepsLeft -= 1
      ended.append(hold)
      if !hold.isOver { lose(hold, reason: .halfClosed, graceEnds: nil, now: now) }
    }
    didEnd(ended.count)
    for hold in ended { advance(hold.lock, now: now) }
    suspectEldest(of: record)
  }

  // MARK: Cancel

  func cancelRequested(_ session: SessionID, request: RequestID?, target: RequestID?, now: BootInstant) {
    guard let record = sessions[session] else { return }
    let waiter = target.flatMap { record.waits[$0] }
    let multi = target.flatMap { record.requestForReplicas($0) }
    if let waiter { refuse(waiter, .cancelled, now: now) }
    if let multi { abandon(multi, .cancelled, now: now) }
    if let request { effects.append(.reply(session, request, .cancelled(waiter != nil || multi != nil))) }
    if let waiter { advance(waiter.lock, now: now) }
  }

  // MARK: Which hold

  /// The most tokens, the latest ones, that are listed for a client that did not say which of its holds it means.
  private static let heldTokensMax = 64

  /// The hold that a request means; nil when there is none, or it is not clear which: the request is refused then.
  private func hold(
    of session: SessionID, _ request: RequestID, name: LockName, token: Token?, now: BootInstant
  ) -> Hold? {
    guard let record = sessions[session], !record.isClosing else { return nil }
    catchUp(name, now: now)
    if let token {
      if let hold = record.hold(of: name, token: token), hold.partOf == nil {
        catchUp(hold, now: now)
        if !hold.isOver { return hold }
      }
    } else {
      // A session that has lost one of them hears of it before the answer.
      if !putOff.losses.isEmpty, let hold = record.holds(of: name).first(where: { isBeingLost($0) }) {
        catchUp(hold, now: now)
      }
      // Without a token there must be one hold only.
      let found = ownHolds(of: name, in: record, max: 2)
      if found.count == 1 { return found[0] }
    }
    effects.append(.reply(session, request, .refused(notHeld(record, name, token))))
    return nil
  }

  /// The latest holds of a session that its client knows of, at most `max`.
  private func ownHolds(of name: LockName, in record: SessionRecord, max: Int) -> [Hold] {
    var found: [Hold] = []
    for hold in record.holds(of: name) where hold.partOf == nil && !isBeingLost(hold) {
      found.append(hold)
      if found.count == max { break }
    }
    return found
  }

  /// Why a session cannot release or extend what it named: it lost it, or never had it, or has several.
  func notHeld(_ record: SessionRecord, _ name: LockName, _ token: Token?) -> Refusal {
    let held = ownHolds(of: name, in: record, max: Self.heldTokensMax).map(\.token).sorted()
    let loss = record.losses.last { $0.name == name && (token == nil ? held.isEmpty : $0.token == token) }
    if let loss { return .lost(loss.reason) }
    return .notHeld(heldTokens: held)
  }
}
