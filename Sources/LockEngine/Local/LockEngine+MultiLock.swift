// Requests for several locks at once: all or none.

import LockTypes

extension LockEngine {
  func acquireSeveral(_ names: [LockName], _ request: AcquireRequest, now: BootInstant) {
    let several = SeveralRequest(
      request, names: names, since: now, deadline: request.waitMilliseconds.map { now.adding(milliseconds: $0) },
      tally: tally)
    makeReady(several)
  }

  /// Has a request take its next lock before the fact that is being handled is done with. Not at once: whoever grants it
  /// one lock is in the middle of that lock's queue.
  func makeReady(_ several: SeveralRequest) {
    guard !several.isReady else { return }
    several.isReady = true
    agents.append(several)
  }

  func proceedWithSeveral(now: BootInstant) {
    while let several = agents.nextReady() {
      several.isReady = false
      proceed(with: several, now: now)
    }
  }

  private func proceed(with several: SeveralRequest, now: BootInstant) {
    guard !several.isOver, let session = sessions[several.request.session] else { return }
    if isBehind { for (hold, _) in several.taken { catchUp(hold, now: now) } }
    // One of them was lost, or its owner had it before and it has ended since.
    if several.taken.contains(where: \.hold.isOver) { return restart(several, now: now) }
    guard several.waiter == nil else { return }
    // What its owner had before is another thing since its owner downgraded it.
    if let (hold, _) = several.taken.first(where: { $0.isReentered && $0.hold.mode != several.request.mode }) {
      return abandon(several, .modeConflict(hold.mode), now: now)
    }
    guard several.taken.count < several.order.count else { return complete(several, now: now) }
    let name = several.order[several.taken.count]
    catchUp(name, now: now)
    if let hold = ownHold(of: name, several.request, in: session, now: now) {
      guard hold.mode == several.request.mode else { return abandon(several, .modeConflict(hold.mode), now: now) }
      several.taken.append((hold, true))
      return makeReady(several)
    }
    let lock = record(for: name)
    if grantAtOnce(several.request, lock, to: session, several: several, now: now) != nil { return }
    // The lock before this one came at the last moment.
    if several.isLate(at: now) {
      abandon(several, outOfTime(lock), now: now)
      return dropIfUnused(lock)
    }
    let waiter = Waiter(
      several.request, lock: lock, since: several.since, deadline: several.deadline, several: several)
    several.waiter = waiter
    wait(waiter, session, now: now)
  }

  private func complete(_ several: SeveralRequest, now: BootInstant) {
    let taken = several.finish()
    var tokens: [LockName: Token] = [:]
    var valid: Int64?
    for (hold, isReentered) in taken {
      tokens[hold.lock.name] = hold.token
      if let until = hold.lease?.term.validUntil.milliseconds(since: now) { valid = min(valid ?? until, until) }
      if isReentered {
        hold.count += 1
        continue
      }
      limit(hold, milliseconds: several.request.maxHoldMilliseconds, now: now)
    }
    effects.append(
      .reply(
        several.request.session, several.request.request,
        .acquiredSeveral(
          AcquiredSeveral(
            locks: several.names.compactMap { name in tokens[name].map { .init(name: name, token: $0) } },
            mode: several.request.mode, waitedMilliseconds: now.milliseconds(since: several.since),
            validMilliseconds: valid))))
    guard let session = sessions[several.request.session] else { return }
    for (hold, isReentered) in taken where !isReentered { readmit(hold, in: session, now: now) }
  }

  /// Answers the request without success; what it had goes to others.
  func abandon(_ several: SeveralRequest, _ refusal: Refusal, now: BootInstant) {
    guard !several.isOver else { return }
    let taken = several.finish()
    refuse(several.request, refusal)
    giveUp(taken, now: now)
  }

  /// A lock that it had is gone before it had all. It begins again: to go on out of order could be a deadlock.
  func restart(_ several: SeveralRequest, now: BootInstant) {
    guard !several.isOver else { return }
    if let waiter = several.waiter {
      several.waiter = nil
      remove(waiter, now: now)
      advance(waiter.lock, now: now)
    }
    giveUp(several.letGoOfTaken(), now: now)
    if isShuttingDown { return abandon(several, .shuttingDown, now: now) }
    if several.isLate(at: now) {
      return abandon(several, storeIsUsable ? .timeout(.unknown, of: several.order[0]) : .unavailable(nil), now: now)
    }
    makeReady(several)
  }

  private func giveUp(_ taken: [(hold: Hold, isReentered: Bool)], now: BootInstant) {
    for (hold, isReentered) in taken where !hold.isOver && !isReentered {
      end(hold)
      observe(hold.lock, .released(hold.session, hold.token))
    }
    for (hold, _) in taken where hold.isOver { advance(hold.lock, now: now) }
  }
}
