// Who waits is told of those ahead, and who holds of those who wait: at most once a second, and only who asked for it.

import LockTypes

extension LockEngine {
  /// The shortest time between two reports about one lock, in milliseconds.
  static let progressMilliseconds: Int64 = 1000

  /// The queue of a lock changed, or what those wait for who stand in it.
  func progressChanged(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 || lock.progressHolders > 0, lock.progressAt == nil else { return }
    let earliest = lock.lastProgressAt?.adding(milliseconds: Self.progressMilliseconds) ?? now
    let moment = max(now, earliest)
    lock.progressAt = moment
    deadlines.push(.progress(lock), at: moment)
  }

  func notifyProgress(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 || lock.progressHolders > 0 else { return }
    lock.lastProgressAt = now
    let isToldAll = notifyWaiters(of: lock)
    notifyHolders(of: lock)
    guard !isToldAll else { return }
    // In the next turn.
    lock.progressAt = now
    deadlines.push(.progress(lock), at: now)
  }

  /// Whether those who wait may be told so.
  ///
  /// While the store is being asked nobody is known to be ahead, and as a rule nobody is. And who is told that it waits may
  /// count on it that everybody who comes later, wherever, comes behind.
  ///
  /// Where there is trouble with the store nothing of that is known, and who waits is told of the trouble.
  private func mayTellWaiters(of lock: LockRecord) -> Bool {
    trouble(of: lock) != nil || (isKnownToBeTaken(lock) && !(linkIsUp && lock.wanted != nil && !isQueued(lock)))
  }

  /// Why those who wait for a lock wait for the store, and not for somebody here who has the lock.
  private func trouble(of lock: LockRecord) -> StoreTrouble? {
    guard !isLocal, lock.holds.isEmpty else { return nil }
    return linkIsUp ? lock.storeRefusal.map { .refused($0) } : .unreachable
  }

  /// Tells those whose place has changed, until the event has used up what it may; whether it came to the end.
  private func notifyWaiters(of lock: LockRecord) -> Bool {
    guard lock.progressWaiters > 0, mayTellWaiters(of: lock) else { return true }
    let holder = holderSummary(of: lock)
    let trouble = trouble(of: lock)
    var position = 0
    var isAnyTold = false
    for waiter in lock.queue.live {
      position += 1
      guard waiter.request.progress, !isBeingDated(waiter),
        waiter.toldPosition != position || waiter.toldTrouble != trouble
      else { continue }
      if mustPutOff, isAnyTold { return false }
      isAnyTold = true
      notifyAtOnce(waiter, holder: holder, position: position)
    }
    return true
  }

  /// Tells who has just begun to wait, or one whose place has changed. `holder`: who has the lock, where that was found out.
  func notifyAtOnce(_ waiter: Waiter, holder: HolderSummary?, position: Int) {
    let lock = waiter.lock
    // One that the store has not dated yet must not be known to be there: a wait that somebody begins then is younger.
    guard !waiter.isOver, !isBeingDated(waiter), mayTellWaiters(of: lock) else { return }
    stepsLeft -= 1
    waiter.toldPosition = position
    waiter.toldTrouble = trouble(of: lock)
    effects.append(
      .notify(
        waiter.request.session,
        .waiting(
          request: waiter.request.request, name: lock.name, position: position,
          holder: holder ?? holderSummary(of: lock), trouble: waiter.toldTrouble)))
  }

  private func notifyHolders(of lock: LockRecord) {
    guard lock.progressHolders > 0 else { return }
    let isWantedElsewhere = lock.leases.contains { $0.isHeld && $0.isContended }
    let waiters = lock.queue.count + (isWantedElsewhere ? 1 : 0)
    for hold in lock.holds where hold.progress && hold.toldWaiters != waiters && hold.partOf == nil {
      hold.toldWaiters = waiters
      effects.append(.notify(hold.session, .contended(name: lock.name, token: hold.token, waiters: waiters)))
    }
  }
}
