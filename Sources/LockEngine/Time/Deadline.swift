import LockTypes

/// A moment at which something is to be done, unless its reason has gone away.
enum Deadline {
  /// A request has waited as long as it would, or a try as long as it may.
  case wait(Waiter)
  /// A hold has lasted as long as its client allowed.
  case maxHold(Hold)
  /// A hold has lasted long enough to be told.
  case heldLong(Hold)
  /// The store is to be asked again.
  case recheck(LockRecord)
  /// Hosts that have a name as something else have not said whether they use it.
  case conflict(LockRecord)
  /// A lease that nobody used has lingered long enough.
  case idle(HostLease)
  /// Waiters want to hear their place, or holders who waits.
  case progress(LockRecord)
  /// A release that the store refused is to be repeated.
  case repeatRelease(LockRecord, attempt: UInt64)
  /// The store is to be told again to let others share a lease.
  case share(HostLease)
  /// The store is to be asked again for more tokens.
  case reserve(HostLease)
  /// A place in the store's queue that nobody needs is not kept any longer.
  case place(HostLease)
  /// The search for a deadlock through other hosts is to be made again.
  case search(Waiter)
  /// The search for a deadlock on this host is to be made again.
  case cycle(Waiter)
  /// Replicas have taken as long as they may.
  case acknowledgement(MultiLockRequest)
  /// The link may have been silent while a push is waited for, or places in the store's queue not been looked at.
  case heartbeat(ShardID)

  func meansSomething(at moment: BootInstant) -> Bool {
    switch self {
    case .wait(let waiter): !waiter.isOver && waiter.deadline == moment
    case .maxHold(let hold): !hold.isOver && hold.endsAt == moment
    case .heldLong(let hold): !hold.isOver
    case .recheck(let lock): lock.recheckAt == moment
    case .conflict(let lock): lock.conflictAt == moment
    case .idle(let lease): lease.isHeld && lease.idleUntil == moment
    case .progress(let lock): lock.progressAt == moment
    case .repeatRelease(let lock, let attempt): lock.unconfirmedReleases.contains { $0.attempt == attempt }
    case .share(let lease): lease.isHeld && lease.term.isSharingUnconfirmed
    case .reserve(let lease): lease.isHeld
    case .place(let lease): lease.isHeld && lease.cohort.placeKeptUntil == moment
    case .search(let waiter): !waiter.isOver && waiter.search?.at == moment
    case .cycle(let waiter): !waiter.isOver
    // Where the store was asked, its answer decides.
    case .acknowledgement(let multi): multi.acknowledging.map { $0.until == moment && $0.asked.isEmpty } ?? false
    case .heartbeat: true
    }
  }

  /// The lock that it is about; nil where it is about none.
  var lock: LockRecord? {
    switch self {
    case .wait(let waiter), .search(let waiter), .cycle(let waiter): waiter.lock
    case .maxHold(let hold), .heldLong(let hold): hold.lock
    case .recheck(let lock), .conflict(let lock), .progress(let lock), .repeatRelease(let lock, _): lock
    case .idle(let lease), .share(let lease), .reserve(let lease), .place(let lease): lease.lock
    case .acknowledgement, .heartbeat: nil
    }
  }
}
