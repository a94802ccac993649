// Requests for several locks at once: all or none. A request for one lock that replicas have to have before its client is
// told is one, too (`LockEngine+Acknowledging.swift`).

import LockTypes

extension LockEngine {
  func acquireAll(_ request: AcquireRequest, now: BootInstant) {
    let multi = MultiLockRequest(
      request, since: now, deadline: request.waitMilliseconds.map { now.adding(milliseconds: $0) }, tally: tally)
    makeReady(multi)
  }

  /// Has a request take its next lock before the current event is done. Not at once: whoever grants it one lock is in
  /// the middle of that lock's queue.
  func makeReady(_ multi: MultiLockRequest) {
    guard !multi.isReady else { return }
    multi.isReady = true
    agents.append(multi)
  }

  func runMultiLocks(now: BootInstant) {
    while let multi = agents.nextReady() {
      multi.isReady = false
      takeNext(of: multi, now: now)
    }
  }

  private func takeNext(of multi: MultiLockRequest, now: BootInstant) {
    guard !multi.isOver, let session = sessions[multi.request.session] else { return }
    if isBehind { for (hold, _) in multi.taken { catchUp(hold, now: now) } }
    // One of its holds is over: lost, or re-entered and ended since. A daemon that stops grants nothing: the next lock
    // may be one that it has ended already, and would not look at again.
    if isShuttingDown || multi.taken.contains(where: \.hold.isOver) { return restart(multi, now: now) }
    guard multi.waiter == nil else { return }
    // The owner has downgraded a hold that the request re-entered.
    if let (hold, _) = multi.taken.first(where: { $0.isReentered && $0.hold.mode != multi.request.mode }) {
      return abandon(multi, .modeConflict(hold.mode), now: now)
    }
    guard multi.taken.count < multi.order.count else { return tookAll(multi, of: session, now: now) }
    let name = multi.order[multi.taken.count]
    catchUp(name, now: now)
    if let hold = ownHold(of: name, multi.request, in: session, now: now) {
      guard hold.mode == multi.request.mode else { return abandon(multi, .modeConflict(hold.mode), now: now) }
      multi.taken.append((hold, true))
      return makeReady(multi)
    }
    let lock = record(for: name)
    if grantAtOnce(multi.request, lock, to: session, partOf: multi, now: now) != nil { return }
    // The lock before this one came when the deadline had passed.
    if multi.isLate(at: now) {
      abandon(multi, outOfTime(lock, now: now), now: now)
      return dropIfUnused(lock)
    }
    let waiter = Waiter(
      multi.request, lock: lock, since: multi.since, deadline: multi.deadline, partOf: multi)
    multi.waiter = waiter
    wait(waiter, session, now: now)
  }

  func complete(_ multi: MultiLockRequest, now: BootInstant) {
    endAcknowledging(multi)
    let taken = multi.finish()
    var tokens: [LockName: Token] = [:]
    var last: Token = 0
    var valid: Int64?
    for (hold, isReentered) in taken {
      tokens[hold.lock.name] = hold.token
      last = hold.token
      if let until = hold.lease.map({ validUntil($0).milliseconds(since: now) }) { valid = min(valid ?? until, until) }
      if isReentered {
        hold.count += 1
        continue
      }
      hold.told(now: now)
      watchLength(of: hold, now: now)
      limit(hold, milliseconds: multi.request.maxHoldMilliseconds, now: now)
    }
    let waited = now.milliseconds(since: multi.since)
    counters.acquires.count(since: multi.since, now: now)
    if multi.hasWaited { counters.waits.count(since: multi.since, now: now) }
    let reply: Reply
    switch multi.request.target {
    case .one(let name):
      reply = .acquired(
        Acquired(
          name: name, token: last, mode: multi.request.mode, waitedMilliseconds: waited, validMilliseconds: valid))
    case .several(let names):
      reply = .acquiredAll(
        AcquiredAll(
          locks: names.compactMap { name in tokens[name].map { .init(name: name, token: $0) } },
          mode: multi.request.mode, waitedMilliseconds: waited, validMilliseconds: valid))
    }
    effects.append(.reply(multi.request.session, multi.request.request, reply))
    for (hold, isReentered) in taken where !isReentered {
      record(hold, .grants, .granted(waitedMilliseconds: waited))
    }
    guard let session = sessions[multi.request.session] else { return }
    session.toldOfHolds()
    for (hold, isReentered) in taken where !isReentered { readmit(hold, in: session, now: now) }
  }

  /// Answers the request without success; what it had goes to others.
  func abandon(_ multi: MultiLockRequest, _ refusal: Refusal, now: BootInstant) {
    guard !multi.isOver else { return }
    endAcknowledging(multi)
    let taken = multi.finish()
    refuse(multi.request, refusal, waitedMilliseconds: now.milliseconds(since: multi.since))
    giveUp(taken, now: now)
  }

  /// One of its locks is gone before its client was told of all. It begins again: to take locks out of order could be a deadlock.
  func restart(_ multi: MultiLockRequest, now: BootInstant) {
    guard !multi.isOver else { return }
    if let waiter = multi.waiter {
      multi.waiter = nil
      remove(waiter, now: now)
      advance(waiter.lock, now: now)
    }
    endAcknowledging(multi)
    giveUp(multi.letGoOfTaken(), now: now)
    if isShuttingDown { return abandon(multi, .shuttingDown, now: now) }
    if multi.isLate(at: now) {
      let link = home(of: multi.order[0])
      let isUnknown = !isUsable(link) || link.pointee.isRecovering
      return abandon(
        multi, isUnknown ? unavailable(nil, at: link, now: now) : .timeout(.unknown, of: multi.order[0]), now: now)
    }
    makeReady(multi)
  }

  private func giveUp(_ taken: [(hold: Hold, isReentered: Bool)], now: BootInstant) {
    for (hold, isReentered) in taken where !hold.isOver && !isReentered {
      end(hold, now: now)
      observe(hold.lock, .released(hold.session, hold.token))
    }
    for (hold, _) in taken where hold.isOver { advance(hold.lock, now: now) }
  }
}
