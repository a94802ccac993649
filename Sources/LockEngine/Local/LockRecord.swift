import LockTypes

/// What the engine knows of one lock. It exists while anybody on this host holds it or waits for it, the host has or
/// wants a lease of it, or the store has to be told something about it.
final class LockRecord {
  let name: LockName
  /// Numbers records in the order in which they were made. Work on all of them follows this order, so that a run can be
  /// replayed.
  let serial: UInt64
  /// All of one kind, oldest first: one exclusive hold, or shared ones, or permits.
  private(set) var holds = HoldList()
  var queue = WaiterQueue()
  /// This host's leases: one of a lock, or one for each permit of a semaphore. Lost ones stay until their grace ends. A
  /// shared lease may stand beside its successor for a moment; the lock is granted under the last one.
  var leases = LeaseList()
  /// The lease that this host asks or queues for, also while it has another one that is in use.
  var wanted: HostLease?

  /// The number of the last ask; see ``LeaseCommand/acquire(name:attempt:ask:isTry:terms:mode:leaseMilliseconds:keeping:)``.
  var ask: UInt64 = 0
  /// Attempts that were given up and whose releases the store has not confirmed.
  var unconfirmedReleases: [UnconfirmedRelease] = [] {
    didSet { changes?.touch(self) }
  }
  /// When a hold ended last, while clients wait here and this host keeps the lease.
  var freedAt: BootInstant?
  /// When to ask the store again, in case no push comes.
  var recheckAt: BootInstant?
  /// This host had given the lock back only a short while before it asked for it again.
  var wasRecentlyReleased = false
  /// It is queued for the next turns to go on with.
  var isPutOff = false
  /// The link was down, and the store has said nothing about the lock since.
  var isUnheard = false
  /// The highest token that was given out here while this record was there; see ``LockEngine/grantTerms(of:)``.
  var tokenFloor: Token = 0
  /// The last change of the link that ``LockEngine/catchUp(_:now:)`` has applied to it.
  var linkChange: LinkNumber
  /// The connection to its home, which lives as long as the engine.
  var link: LinkReference
  /// Its place among the locks of that home, and its neighbours.
  var placeInList: UInt64 = 0
  var nextLock: LockRecord?
  var previousLock: LockRecord?

  /// Waiters that the answer to the ask under way will date.
  var undated: [Waiter] = []

  fileprivate var rare: RareFacts?

  /// Where changes are noted for a successor of this process; nil when there will be none.
  let changes: StateChanges?
  let tally: RecordTally
  var mark = StateMark()

  init(name: LockName, serial: UInt64, link: LinkReference, changes: StateChanges?, tally: RecordTally) {
    self.name = name
    self.serial = serial
    self.link = link
    linkChange = link.pointee.change
    self.changes = changes
    self.tally = tally
    tally.counts.locks += 1
  }

  deinit { tally.counts.locks -= 1 }

  /// Nobody here uses the lock or wants it.
  var isUnused: Bool { holds.isEmpty && queue.isEmpty }

  /// The lowest attempt among its leases, those in their grace included; nil when there is none. Permits are left out:
  /// the store keeps them in any case.
  var firstKeptAttempt: UInt64? {
    leases.lazy.filter { !$0.isPermit }.map(\.attempt).min()
  }

  /// How the lock is held here; nil when it is not.
  var heldMode: HoldMode? { holds.first?.mode }

  /// The most permits of one semaphore taken here at a time: all stand in one value, which the store reads for each.
  static var permitsMax: Int { 256 }

  /// Whether a hold in `mode` fits beside those that are here. Leases are not looked at.
  func hasRoom(for mode: HoldMode) -> Bool {
    guard let held = heldMode else { return true }
    return switch (mode, held) {
    case (.shared, .shared): true
    case (.permit(let wanted), .permit(let capacity)):
      wanted == capacity && holds.count < min(Int(clamping: capacity), Self.permitsMax)
    case (.exclusive, _), (.shared, .exclusive), (.shared, .permit), (.permit, .exclusive), (.permit, .shared): false
    }
  }

  func add(_ hold: Hold) {
    holds.append(hold)
    hold.lease?.add(hold)
    if hold.progress { progressHolders += 1 }
    changes?.touch(hold)
  }

  func remove(_ hold: Hold) {
    holds.remove(hold)
    hold.lease?.remove(hold)
    if hold.progress { progressHolders -= 1 }
  }
}

/// What few locks have. It stands apart to save memory, since there can be very many locks.
private final class RareFacts {
  var remoteHolder = HolderSummary.unknown
  var conflict: HoldMode?
  var conflictAt: BootInstant?
  var storeRefusal: String?
  var unacknowledged: [MultiLockRequest] = []
  var refusals = 0
  var progressWaiters = 0
  var progressHolders = 0
  var progressAt: BootInstant?
  var lastProgressAt: BootInstant?
  var progressRound: ProgressRound?
}

extension LockRecord {
  /// Who has the lock, when it is not this host.
  var remoteHolder: HolderSummary {
    get { rare?.remoteHolder ?? .unknown }
    set { if rare != nil || newValue != .unknown { rareFacts.remoteHolder = newValue } }
  }

  /// The conflicting mode that others have the name in, until its holders confirm it.
  var conflict: HoldMode? {
    get { rare?.conflict }
    set { if rare != nil || newValue != nil { rareFacts.conflict = newValue } }
  }

  /// Requests that ask for replicas once the store has confirmed a lease of this lock.
  var unacknowledged: [MultiLockRequest] {
    get { rare?.unacknowledged ?? [] }
    set { if rare != nil || !newValue.isEmpty { rareFacts.unacknowledged = newValue } }
  }

  /// The deadline for the confirmation of `conflict`.
  var conflictAt: BootInstant? {
    get { rare?.conflictAt }
    set { if rare != nil || newValue != nil { rareFacts.conflictAt = newValue } }
  }

  /// The words in which the store refused the last ask that it answered; nil when it did not.
  var storeRefusal: String? {
    get { rare?.storeRefusal }
    set { if rare != nil || newValue != nil { rareFacts.storeRefusal = newValue } }
  }

  /// How many asks in a row the store has refused.
  var refusals: Int {
    get { rare?.refusals ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.refusals = newValue } }
  }

  /// Waiters that asked for `waiting`.
  var progressWaiters: Int {
    get { rare?.progressWaiters ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.progressWaiters = newValue } }
  }

  /// Holds that asked for `contended`.
  var progressHolders: Int {
    get { rare?.progressHolders ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.progressHolders = newValue } }
  }

  /// When both are notified next.
  var progressAt: BootInstant? {
    get { rare?.progressAt }
    set { if rare != nil || newValue != nil { rareFacts.progressAt = newValue } }
  }

  /// When both were notified last.
  var lastProgressAt: BootInstant? {
    get { rare?.lastProgressAt }
    set { if rare != nil || newValue != nil { rareFacts.lastProgressAt = newValue } }
  }

  /// What has been told of a round that goes on in the next turns; nil: none does.
  var progressRound: ProgressRound? {
    get { rare?.progressRound }
    set { if rare != nil || newValue != nil { rareFacts.progressRound = newValue } }
  }

  private var rareFacts: RareFacts {
    if let rare { return rare }
    let facts = RareFacts()
    rare = facts
    return facts
  }
}

struct UnconfirmedRelease {
  var attempt: UInt64
  var unused: UnusedTokens
  /// The lease must have ended by itself by then.
  var worthUntil: BootInstant
  var isExact: Bool
  /// How often the store has refused it.
  var refusals = 0

  /// Whether this release gives `attempt` up, too.
  func covers(_ attempt: UInt64) -> Bool {
    isExact ? self.attempt == attempt : self.attempt >= attempt
  }
}
