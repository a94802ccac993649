// Who waits is told of those ahead, and who holds of those who wait: at most once a second, and only who asked for it.

extension LockEngine {
  /// The shortest time between two reports about one lock, in milliseconds.
  static let progressMilliseconds: Int64 = 1000

  /// The queue of a lock changed.
  func progressChanged(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 || lock.progressHolders > 0, lock.progressAt == nil else { return }
    let earliest = lock.lastProgressAt?.adding(milliseconds: Self.progressMilliseconds) ?? now
    let moment = max(now, earliest)
    lock.progressAt = moment
    deadlines.push(.progress(lock), at: moment)
  }

  func tellProgress(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 || lock.progressHolders > 0 else { return }
    lock.lastProgressAt = now
    tellWaiters(of: lock)
    tellHolders(of: lock)
  }

  private func tellWaiters(of lock: LockRecord) {
    // While the store is being asked nobody is known to be ahead, and as a rule nobody is. And who is told that it waits may
    // count on it that everybody who comes later, wherever, comes behind.
    guard lock.progressWaiters > 0, isKnownToBeTaken(lock), !(linkIsUp && lock.wanted?.stage == .asking) else { return }
    let holder = holderSummary(of: lock)
    var position = 0
    for waiter in lock.queue.live {
      position += 1
      // One that the store has not dated yet must not be known to be there: a wait that somebody begins then is younger.
      guard waiter.request.progress, waiter.toldPosition != position, !waiter.isBeingDated else { continue }
      waiter.toldPosition = position
      effects.append(
        .notify(
          waiter.request.session,
          .waiting(request: waiter.request.request, name: lock.name, position: position, holder: holder)))
    }
  }

  private func tellHolders(of lock: LockRecord) {
    guard lock.progressHolders > 0 else { return }
    let isWantedElsewhere = lock.leases.contains { $0.stage == .held && $0.contendedSince != nil }
    let waiters = lock.queue.count + (isWantedElsewhere ? 1 : 0)
    for hold in lock.holds where hold.progress && hold.toldWaiters != waiters && hold.several == nil {
      hold.toldWaiters = waiters
      effects.append(.notify(hold.session, .contended(name: lock.name, token: hold.token, waiters: waiters)))
    }
  }
}
