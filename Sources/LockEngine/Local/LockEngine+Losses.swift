// Holds of one lock that are lost together: those under a lease that is gone, or those that an administrator breaks.
// There can be very many, so each turn loses some.
//
// All of them count as lost from the beginning: an event about one whose turn has not come loses it first (`catchUp`),
// and snapshots leave it out. The lock is not free before the last one is lost.

import LockTypes

/// Holds of one lock that are being lost.
final class HoldLosses {
  /// Which of the lock's holds.
  enum Extent {
    case under(HostLease)
    case tokens(Set<Token>)
  }

  let lock: LockRecord
  let extent: Extent
  let reason: LostReason
  let graceEnds: BootInstant?
  let detail: String?
  /// The hold that is looked at next.
  fileprivate var upcoming: Hold?

  init(_ extent: Extent, of lock: LockRecord, reason: LostReason, graceEnds: BootInstant?, detail: String?) {
    self.lock = lock
    self.extent = extent
    self.reason = reason
    self.graceEnds = graceEnds
    self.detail = detail
    upcoming = lock.holds.first
  }

  func covers(_ hold: Hold) -> Bool {
    guard hold.lock === lock else { return false }
    return switch extent {
    case .under(let lease): hold.lease === lease
    case .tokens(let tokens): tokens.contains(hold.token)
    }
  }
}

extension LockEngine {
  /// Loses the holds under a lease that is gone: all of them, or some and the others in the next turns.
  func loseHolds(under lease: HostLease, reason: LostReason, graceEnds: BootInstant?, now: BootInstant) {
    guard lease.holdCount > 0 else { return }
    if lease.isPermit || lease.lock.holds.count == 1 {
      for hold in lease.holds { lose(hold, reason: reason, graceEnds: graceEnds, now: now) }
      return
    }
    lose(HoldLosses(.under(lease), of: lease.lock, reason: reason, graceEnds: graceEnds, detail: nil), now: now)
  }

  func lose(_ losses: HoldLosses, now: BootInstant) {
    guard !goOn(with: losses, now: now) else { return }
    putOff.losses.append(losses)
    putOffRest(now: now)
  }

  /// Goes on with losses that were put off.
  func goOnWithLosses(now: BootInstant) {
    while !mustPutOff, let losses = putOff.losses.first, goOn(with: losses, now: now) {
      putOff.losses.removeFirst()
      if case .tokens = losses.extent { doubtLeases(of: losses.lock, now: now) }
      advance(losses.lock, now: now)
    }
  }

  /// Loses holds until the steps are used up; true when the last one is lost.
  private func goOn(with losses: HoldLosses, now: BootInstant) -> Bool {
    while let hold = losses.upcoming {
      guard !mustPutOff else { return false }
      stepsLeft -= 1
      losses.upcoming = hold.inLock.next
      if losses.covers(hold) { lose(hold, by: losses, now: now) }
    }
    return true
  }

  private func lose(_ hold: Hold, by losses: HoldLosses, now: BootInstant) {
    lose(hold, reason: losses.reason, graceEnds: losses.graceEnds, detail: losses.detail, now: now)
  }

  /// Moves what is under way past a hold that is about to leave its lock.
  func passOver(_ hold: Hold) {
    for losses in putOff.losses where losses.upcoming === hold { losses.upcoming = hold.inLock.next }
  }

  /// Whether a hold is still to be lost in a later turn.
  func isBeingLost(_ hold: Hold) -> Bool { putOff.losses.contains { $0.covers(hold) } }

  /// Applies to a hold and its lock what has happened and was put off.
  func catchUp(_ hold: Hold, now: BootInstant) {
    guard isBehind else { return }
    catchUp(hold.lock, now: now)
    if !hold.isOver, let losses = putOff.losses.first(where: { $0.covers(hold) }) { lose(hold, by: losses, now: now) }
  }
}
