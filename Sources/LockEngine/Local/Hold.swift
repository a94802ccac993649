import LockTypes

/// A session's possession of a lock.
final class Hold {
  /// Its links in a list; nil at the ends of the list, and while it is not in it.
  struct Neighbours {
    var next: Hold?
    var previous: Hold?
  }

  let session: SessionID
  let lock: LockRecord
  let token: Token
  /// When its client was granted it: of a request for several locks, all of them.
  private(set) var since: BootInstant
  let owner: String?
  let meta: String?
  /// The lease under which it stands; nil in the local tier.
  private(set) var lease: HostLease? {
    didSet { lock.changes?.touch(self) }
  }
  var mode: HoldMode {
    didSet { lock.changes?.touch(self) }
  }
  let progress: Bool
  let onLost: LossAction
  /// How often its owner has acquired it and not released it.
  var count = 1 {
    didSet { lock.changes?.touch(self) }
  }
  var endsAt: BootInstant? {
    didSet { lock.changes?.touch(self) }
  }
  var isOver = false {
    didSet { lock.changes?.touch(self) }
  }
  /// Whether its client was told that it has it. A part of a request for several locks is told with the others.
  private(set) var isTold: Bool
  /// The request for several locks that it is a part of, until that is granted.
  var partOf: MultiLockRequest? {
    didSet {
      if let oldValue { lock.changes?.touch(oldValue) }
      lock.changes?.touch(self)
    }
  }
  /// Its neighbours among the lock's holds.
  var inLock = Neighbours()
  /// Its neighbours among the session's holds.
  var inSession = Neighbours()
  /// Its neighbours among the session's holds of the same lock: the next one is older.
  var ofSameName = Neighbours()
  /// How many waiters the client was told of.
  var toldWaiters = 0
  var mark = StateMark()

  init(
    _ request: AcquireRequest, lock: LockRecord, token: Token, lease: HostLease?, since: BootInstant,
    isTold: Bool = true
  ) {
    session = request.session
    owner = request.owner
    meta = request.meta
    progress = request.progress
    onLost = request.onLost
    mode = request.mode
    self.lock = lock
    self.token = token
    self.lease = lease
    self.since = since
    self.isTold = isTold
    lock.tally.counts.holds += 1
  }

  /// It is a part of a request for several locks, and counts when that is granted.
  func isPart(of multi: MultiLockRequest) {
    partOf = multi
    isTold = false
  }

  /// The request that it was a part of is granted.
  func told(now: BootInstant) {
    isTold = true
    since = now
    lock.changes?.touch(self)
  }

  /// `hold` after its transfer to another session.
  init(_ hold: Hold, handedTo session: SessionID, token: Token, since: BootInstant) {
    self.session = session
    self.token = token
    self.since = since
    isTold = true
    owner = nil
    lock = hold.lock
    meta = hold.meta
    progress = hold.progress
    // The new holder has asked for no loss action.
    onLost = .notify
    lease = hold.lease
    mode = hold.mode
    endsAt = hold.endsAt
    lock.tally.counts.holds += 1
  }

  deinit { lock.tally.counts.holds -= 1 }
}

extension Hold {
  /// Puts it under another lease of the same lock.
  func move(to other: HostLease) {
    lease?.remove(self)
    other.add(self)
    lease = other
  }
}
