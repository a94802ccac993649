// `waiting` to waiters and `contended` to holders that asked for it, at most once a second.

import LockTypes

extension LockEngine {
  /// The shortest time between two reports about one lock, in milliseconds.
  static let progressMilliseconds: Int64 = 1000

  /// A lock's queue changed, or what its waiters wait for.
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

  /// Whether waiters may be told that they wait.
  ///
  /// Not while the store is being asked: usually nobody is ahead then, and `waiting` promises that all who come later,
  /// on any host, come behind.
  ///
  /// With trouble at the store `waiting` promises nothing, and names the trouble.
  private func mayTellWaiters(of lock: LockRecord) -> Bool {
    trouble(of: lock) != nil || (isKnownToBeTaken(lock) && !(linkIsUp && lock.wanted != nil && !isQueued(lock)))
  }

  /// The trouble that has a lock's waiters wait for the store; nil when there is none, or somebody here has the lock.
  private func trouble(of lock: LockRecord) -> StoreTrouble? {
    guard !isLocal, lock.holds.isEmpty else { return nil }
    if linkIsUp, let words = lock.storeRefusal { return .refused(words) }
    if isRecovering, let end = link.epoch.graceEnds { return .recovering(until: end) }
    if let words = link.confirmation.refusal, !linkIsUp { return .refused(words) }
    return linkIsUp ? nil : .unreachable
  }

  /// Notifies waiters whose place has changed, until the steps are used up; true when all were notified.
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

  /// Notifies a waiter that is new or whose place has changed. `holder`: who has the lock, if that was worked out.
  func notifyAtOnce(_ waiter: Waiter, holder: HolderSummary?, position: Int) {
    let lock = waiter.lock
    // Nobody may hear of a wait that the store has not dated: a wait that somebody begins because of it is younger.
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
      // A session that has ended and has much to give back holds the rest a while longer.
      guard sessions[hold.session]?.isClosing != true else { continue }
      hold.toldWaiters = waiters
      effects.append(.notify(hold.session, .contended(name: lock.name, token: hold.token, waiters: waiters)))
    }
  }
}
