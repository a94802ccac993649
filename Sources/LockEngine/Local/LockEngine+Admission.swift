// When a lock can go to a client of this host, and who has it when it cannot.

import LockTypes

extension LockEngine {
  /// When a lock that has room here can go to a client here.
  enum Admission {
    case now(HostLease)
    /// Too little of the lease is left, or it is in doubt. A renewal is under way, or the lease ends.
    case afterRenewal
    /// The lease has no tokens left; the store is asked for more.
    case afterReserving
    /// A lost lease could still be in use.
    case afterGrace
    /// This host has every permit, and all of them are in use.
    case afterRelease
    /// The lease is of no use: it goes back as soon as nobody here holds anything under it.
    case withNewLease(HostLease)
    /// The store has to be asked first.
    case afterAsking
  }

  /// `arrival`: the number of the wait.
  func admission(to lock: LockRecord, in mode: HoldMode, arrival: UInt64, now: BootInstant) -> Admission {
    switch mode {
    case .exclusive, .shared: admission(toLock: lock, in: mode, arrival: arrival, now: now)
    case .permit(let capacity): admission(toSemaphore: lock, capacity: capacity, arrival: arrival, now: now)
    }
  }

  func admission(
    toLock lock: LockRecord, in mode: HoldMode, arrival: UInt64, now: BootInstant
  ) -> Admission {
    guard let lease = lock.leases.last else { return .afterAsking }
    if lock.leases.contains(where: { $0.isLost }) { return .afterGrace }
    if lease.isPermit || (mode == .exclusive && lease.mode == .shared) { return .withNewLease(lease) }
    return admission(under: lease, arrival: arrival, now: now)
  }

  func admission(
    toSemaphore lock: LockRecord, capacity: Int64, arrival: UInt64, now: BootInstant
  ) -> Admission {
    var isRenewing = false
    for lease in lock.leases where lease.holdCount == 0 {
      switch lease.state {
      case .lost:
        if !lease.isPermit { return .afterGrace }
      case .held:
        if lease.mode != .permit(of: capacity) { return .withNewLease(lease) }
        switch admission(under: lease, arrival: arrival, now: now) {
        case .now(let lease): return .now(lease)
        case .withNewLease(let lease): return .withNewLease(lease)
        case .afterRenewal: isRenewing = true
        case .afterReserving, .afterGrace, .afterRelease, .afterAsking: break
        }
      case .asking, .queued, .over: break
      }
    }
    if isRenewing { return .afterRenewal }
    return lock.leases.count >= capacity ? .afterRelease : .afterAsking
  }

  /// While another host waits, later clients here get the lock only within the cohort's budget; but at least one does,
  /// or two hosts could pass the lease to and fro without any client getting the lock.
  func admission(under lease: HostLease, arrival: UInt64, now: BootInstant) -> Admission {
    let term = lease.term
    // Nobody is given a lock that is valid for 0 ms, by this host's life.
    guard now.adding(milliseconds: 1) <= validUntil(lease) else { return .withNewLease(lease) }
    if let end = cohortEnd(of: lease), lease.grants > 0, arrival > lease.cohort.arrivalMax {
      guard lease.cohort.grants < configuration.settings.cohortMax, now < end else { return .withNewLease(lease) }
    }
    guard term.tokensLeft > 0 else { return lease.holdCount > 0 ? .afterReserving : .withNewLease(lease) }
    let isWorthHaving = now.adding(milliseconds: lease.timeline.grantWorthMilliseconds) <= term.validUntil
    return isWorthHaving && !isInDoubt(lease) ? .now(lease) : .afterRenewal
  }

  /// When the cohort's time is over; nil when no other host waits. It is decided once: a hand-over to another host leaves
  /// the lock unused for about two round trips to the store, so that after so many of them it costs a few per cent, and
  /// nobody waits elsewhere for more than that asks.
  func cohortEnd(of lease: HostLease) -> BootInstant? {
    guard let since = lease.term.contendedSince else { return nil }
    if let end = lease.cohort.end { return end }
    var end = since.adding(milliseconds: configuration.settings.cohortMilliseconds)
    if let trip = lease.lock.link.pointee.roundTrip.typicalNanoseconds, trip > 0 {
      end = min(end, BootInstant(nanoseconds: since.nanoseconds + Self.cohortRoundTrips * trip))
    }
    lease.endCohort(at: end)
    return end
  }

  /// Round trips to the store that a cohort lasts.
  static let cohortRoundTrips: Int64 = 40

  // MARK: Who has it

  var isLocal: Bool {
    switch configuration.tier {
    case .local: true
    case .store: false
    }
  }

  /// Whether an ask at a lock's home could be answered now.
  func isUsable(_ link: LinkReference) -> Bool { isLocal || link.pointee.isUp }

  /// Whether the store can be asked about a lock, does not refuse, and knows who had it; if it recovers, this host knows of
  /// its own clients.
  func storeAnswers(about lock: LockRecord) -> Bool {
    isUsable(lock.link) && lock.storeRefusal == nil && !(lock.link.pointee.isRecovering && lock.holds.isEmpty)
  }

  /// The refusal of a try for a lock that somebody has; with `isUnknown` nobody can say who.
  func refusalOfTry(of lock: LockRecord, isUnknown: Bool, now: BootInstant) -> Refusal {
    isUnknown ? unavailable(lock.storeRefusal, at: lock.link, now: now) : .busy(holderSummary(of: lock), of: lock.name)
  }

  func holderSummary(of lock: LockRecord) -> HolderSummary {
    var summary = isQueued(lock) ? lock.remoteHolder : .unknown
    summary.local = lock.holds.prefix(HolderSummary.localMax).map {
      .init(session: $0.session, token: $0.token)
    }
    return summary
  }

  func isKnownToBeTaken(_ lock: LockRecord) -> Bool {
    !lock.holds.isEmpty || isQueued(lock)
  }
}
