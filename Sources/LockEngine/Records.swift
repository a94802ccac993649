import DequeModule

/// What the engine knows of one lock. It exists while anybody on this host holds it, waits for it or has something to
/// tell the store about it.
final class LockRecord {
  let name: LockName
  /// Records in the order in which they were made: what is done to all of them is done in this order, so that a run
  /// can be replayed.
  let serial: UInt64
  var hold: Hold?
  var queue = WaiterQueue()
  var lease = Lease.none

  /// The number of the last ask; see ``LeaseCommand/acquire(name:attempt:ask:isTry:tokenFloor:)``.
  var ask: UInt64 = 0
  /// The last attempt that was given up without the store having confirmed it, and until when that is worth repeating.
  var unconfirmedRelease: UnconfirmedRelease?
  /// This host had given the lock back only a short while before it asked for it again.
  var cameBack = false
  /// When to ask the store again, for fear that it tells nothing by itself.
  var recheckAt: BootInstant?
  /// Who has the lock, when it is not this host.
  var remoteHolder = HolderSummary.unknown
  /// The words in which the store refused the last ask; nil when it did not.
  var storeRefusal: String?
  /// The highest token that was given out here.
  var tokenFloor: Token = 0

  var progressWaiters = 0
  var progressAt: BootInstant?
  var lastProgressAt: BootInstant?

  init(name: LockName, serial: UInt64) {
    self.name = name
    self.serial = serial
  }

  /// Nobody here uses the lock or wants it.
  var isUnused: Bool { hold == nil && queue.isEmpty }
}

struct UnconfirmedRelease {
  var attempt: UInt64
  var firstUnused: Token?
  var worthUntil: BootInstant
}

/// Whether this host has the lease of a lock.
enum Lease {
  /// No, and it does not want it.
  case none
  /// It asked and does not know the outcome. `command` is nil while the link is down or the ask is to be repeated.
  case asking(attempt: UInt64, wasSent: Bool)
  /// It stands in the store's queue, or looks from time to time when a foreign process has the lock.
  case queued(attempt: UInt64)
  case held(HeldLease)
  /// It had it and could not renew it. Until the end of the grace nobody else can have it, and nobody here shall.
  case lost(attempt: UInt64, graceEnds: BootInstant, firstUnused: Token)

  var attempt: UInt64? {
    switch self {
    case .none: nil
    case .asking(let attempt, _): attempt
    case .queued(let attempt): attempt
    case .held(let lease): lease.attempt
    case .lost(let attempt, _, _): attempt
    }
  }

  var isWaited: Bool {
    switch self {
    case .asking, .queued: true
    case .none, .held, .lost: false
    }
  }
}

struct HeldLease {
  var attempt: UInt64
  /// From here on the lease counts as lost.
  var validUntil: BootInstant
  /// Until here nobody else can have it.
  var graceEnds: BootInstant
  var renewAt: BootInstant
  var renewalInFlight = false
  /// The connection was made anew since, and the store has not said yet that it still has the lease.
  var isInDoubt = false
  var nextToken: Token
  /// One past the last token of the block.
  var tokenEnd: Token
  /// Since when it is known that another host waits.
  var contendedSince: BootInstant?
  /// Grants on this host under this lease since another host waits.
  var grantsWhileContended = 0
  var grants = 0
  var idleUntil: BootInstant?
}

/// A session's possession of a lock.
final class Hold {
  let session: SessionID
  let lock: LockRecord
  let token: Token
  let since: BootInstant
  let meta: String?
  var endsAt: BootInstant?
  var isOver = false

  init(session: SessionID, lock: LockRecord, token: Token, since: BootInstant, meta: String?, endsAt: BootInstant?) {
    self.session = session
    self.lock = lock
    self.token = token
    self.since = since
    self.meta = meta
    self.endsAt = endsAt
  }
}

/// A request that waits for a lock.
final class Waiter {
  let request: AcquireRequest
  let lock: LockRecord
  let since: BootInstant
  /// When it is answered without success.
  var deadline: BootInstant?
  /// For a try: the ask whose answer decides it.
  var ask: UInt64 = 0
  /// For a try: whether the store has said that another host holds the lock.
  var knowsHolder = false
  var isOver = false
  /// The position that the client was told last; 0 before it was told any.
  var toldPosition = 0

  init(request: AcquireRequest, lock: LockRecord, since: BootInstant, deadline: BootInstant?) {
    self.request = request
    self.lock = lock
    self.since = since
    self.deadline = deadline
  }

  var isTry: Bool { request.waitMilliseconds == 0 }
}

/// The waiters of one lock, first come, first served. One that leaves is marked and skipped, so that leaving costs
/// nothing however long the queue is.
struct WaiterQueue {
  private var entries = Deque<Waiter>()
  private(set) var count = 0
  private(set) var tryCount = 0

  var isEmpty: Bool { count == 0 }

  var first: Waiter? {
    mutating get {
      while let head = entries.first, head.isOver { entries.removeFirst() }
      return entries.first
    }
  }

  /// Those who wait, in their order.
  var live: some Sequence<Waiter> { entries.lazy.filter { !$0.isOver } }

  /// Those among them that only try, in their order.
  var tries: [Waiter] { tryCount == 0 ? [] : entries.filter { !$0.isOver && $0.isTry } }

  mutating func append(_ waiter: Waiter) {
    entries.append(waiter)
    count += 1
    if waiter.isTry { tryCount += 1 }
  }

  /// Takes `waiter` out; it must be waiting here.
  mutating func remove(_ waiter: Waiter) {
    waiter.isOver = true
    count -= 1
    if waiter.isTry { tryCount -= 1 }
    if entries.count > 64 && entries.count > 2 * count { entries.removeAll { $0.isOver } }
  }
}

/// What one session has.
final class SessionRecord {
  /// Losses that are remembered, so that a late release hears what became of its hold.
  static let lossesMax = 64

  var holds: [LockName: Hold] = [:]
  var waits: [RequestID: Waiter] = [:]
  private(set) var losses: Deque<(name: LockName, token: Token, reason: LostReason)> = []

  func remember(loss name: LockName, _ token: Token, _ reason: LostReason) {
    if losses.count == Self.lossesMax { losses.removeFirst() }
    losses.append((name, token, reason))
  }
}
