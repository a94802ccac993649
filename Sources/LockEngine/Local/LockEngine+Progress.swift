// `waiting` to waiters and `contended` to holders that asked for it, at most once a second.
//
// Very many may wait for one lock, or share it, so that one round of telling may take several turns.

import LockTypes

/// How far waiters and holders of one lock have been told how it stands with its queue.
final class ProgressRound {
  /// The waiter that is looked at next; nil: all were.
  fileprivate var waiter: Waiter?
  /// How many wait ahead of that one.
  fileprivate var ahead = 0
  /// The hold that is looked at next; nil: all were.
  fileprivate var hold: Hold?
  /// Something changed since it began: another round follows.
  fileprivate var isOld = false
  /// That one shall not wait for a second to pass.
  fileprivate var isRepeatedAtOnce = false

  fileprivate init(of lock: LockRecord) {
    waiter = lock.queue.first
    hold = lock.holds.first
  }

  /// A waiter is about to leave the queue.
  func passOver(_ leaving: Waiter) {
    guard let waiter else { return }
    if waiter === leaving {
      self.waiter = leaving.next
    } else if leaving.arrival < waiter.arrival {
      ahead -= 1
    }
  }

  /// A hold is about to leave its lock.
  func passOver(_ leaving: Hold) {
    if hold === leaving { hold = leaving.inLock.next }
  }
}

extension LockEngine {
  /// The shortest time between two reports about one lock, in milliseconds.
  static let progressMilliseconds: Int64 = 1000
  /// To pass over so many of whom nobody has to be told costs one step.
  private static let passedOverInStep = 32

  /// A lock's queue changed, or what its waiters wait for.
  func progressChanged(_ lock: LockRecord, now: BootInstant) {
    observeFirstWait(of: lock)
    guard lock.progressWaiters > 0 || lock.progressHolders > 0 else { return }
    if let round = lock.progressRound { return round.isOld = true }
    guard lock.progressAt == nil else { return }
    let earliest = lock.lastProgressAt?.adding(milliseconds: Self.progressMilliseconds) ?? now
    tellProgress(of: lock, at: max(now, earliest))
  }

  private func tellProgress(of lock: LockRecord, at moment: BootInstant) {
    lock.progressAt = moment
    deadlines.push(.progress(lock), at: moment)
  }

  /// Begins a round, or has one follow the one under way.
  func notifyProgress(_ lock: LockRecord, now: BootInstant) {
    observeFirstWait(of: lock)
    if let round = lock.progressRound { return round.isRepeatedAtOnce = true }
    progressDue(lock, now: now)
  }

  /// Begins a round, or goes on with the one under way.
  func progressDue(_ lock: LockRecord, now: BootInstant) {
    guard lock.progressWaiters > 0 || lock.progressHolders > 0 else { return lock.progressRound = nil }
    lock.lastProgressAt = now
    let round = lock.progressRound ?? ProgressRound(of: lock)
    let areWaitersTold = notifyWaiters(of: lock, round)
    let areHoldersTold = notifyHolders(of: lock, round)
    guard areWaitersTold, areHoldersTold else {
      lock.progressRound = round
      return putOffProgress(of: lock, now: now)
    }
    lock.progressRound = nil
    if round.isRepeatedAtOnce {
      tellProgress(of: lock, at: now)
    } else if round.isOld {
      progressChanged(lock, now: now)
    }
  }

  /// Whether a lock's waiters are known to wait, and may be told so.
  ///
  /// Not while the store is being asked: usually nobody is ahead then, and `waiting` promises that all who come later,
  /// on any host, come behind.
  ///
  /// With trouble at the store `waiting` promises nothing, and names the trouble.
  func isWaitedFor(_ lock: LockRecord) -> Bool {
    trouble(of: lock) != nil
      || (isKnownToBeTaken(lock) && !(lock.link.pointee.isUp && lock.wanted != nil && !isQueued(lock)))
  }

  /// The trouble that has a lock's waiters wait for the store; nil when there is none, or somebody here has the lock.
  private func trouble(of lock: LockRecord) -> StoreTrouble? {
    guard !isLocal, lock.holds.isEmpty else { return nil }
    let link = lock.link
    if link.pointee.isUp, let words = lock.storeRefusal { return .refused(words) }
    if link.pointee.isRecovering, let end = link.pointee.epoch.graceEnds { return .recovering(until: end) }
    if let words = link.pointee.confirmation.refusal, !link.pointee.isUp { return .refused(words) }
    return link.pointee.isUp ? nil : .unreachable
  }

  /// Whether a round goes on in the next turn: the steps are used up, and it has come on in this one.
  private func mustPutOff(told: Int, passedOver: Int) -> Bool {
    mustPutOff && (told > 0 || passedOver >= Self.passedOverInStep)
  }

  /// Counts one of whom nobody has to be told.
  private func passOver(_ passedOver: inout Int) {
    passedOver += 1
    if passedOver % Self.passedOverInStep == 0 { stepsLeft -= 1 }
  }

  /// Notifies waiters whose place has changed, until the steps are used up; true when all were looked at.
  private func notifyWaiters(of lock: LockRecord, _ round: ProgressRound) -> Bool {
    guard lock.progressWaiters > 0, isWaitedFor(lock) else {
      round.waiter = nil
      return true
    }
    let holder = holderSummary(of: lock)
    let trouble = trouble(of: lock)
    var (told, passedOver) = (0, 0)
    while let waiter = round.waiter {
      if mustPutOff(told: told, passedOver: passedOver) { return false }
      round.ahead += 1
      round.waiter = waiter.next
      if waiter.request.progress, !isBeingDated(waiter),
        waiter.toldPosition != round.ahead || waiter.toldTrouble != trouble, isThere(waiter)
      {
        told += 1
        notifyAtOnce(waiter, holder: holder, position: round.ahead)
      } else {
        passOver(&passedOver)
      }
    }
    return true
  }

  /// Notifies a waiter that is new or whose place has changed. `holder`: who has the lock, if that was worked out.
  func notifyAtOnce(_ waiter: Waiter, holder: HolderSummary?, position: Int) {
    let lock = waiter.lock
    // Nobody may hear of a wait that the store has not dated: a wait that somebody begins because of it is younger.
    guard !waiter.isOver, !isBeingDated(waiter), isWaitedFor(lock), isThere(waiter) else { return }
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

  /// Whether its session is there to be told. One that has ended, and has much to give up, is not.
  private func isThere(_ waiter: Waiter) -> Bool { sessions[waiter.request.session]?.isClosing != true }

  /// Notifies holders that have not heard how many wait, until the steps are used up; true when all were looked at.
  private func notifyHolders(of lock: LockRecord, _ round: ProgressRound) -> Bool {
    guard lock.progressHolders > 0 else {
      round.hold = nil
      return true
    }
    let isWantedElsewhere = lock.leases.contains { $0.isHeld && $0.isContended }
    let waiters = lock.queue.count + (isWantedElsewhere ? 1 : 0)
    var (told, passedOver) = (0, 0)
    while let hold = round.hold {
      if mustPutOff(told: told, passedOver: passedOver) { return false }
      round.hold = hold.inLock.next
      // A session that has ended and has much to give back holds the rest a while longer.
      guard hold.progress, hold.toldWaiters != waiters, hold.partOf == nil, sessions[hold.session]?.isClosing != true
      else {
        passOver(&passedOver)
        continue
      }
      told += 1
      stepsLeft -= 1
      hold.toldWaiters = waiters
      effects.append(.notify(hold.session, .contended(name: lock.name, token: hold.token, waiters: waiters)))
    }
    return true
  }
}
