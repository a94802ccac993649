import LockTypes

/// What the engine knows of one lock. It exists while anybody on this host holds it, waits for it or has something to
/// tell the store about it.
final class LockRecord {
  let name: LockName
  /// Records in the order in which they were made: what is done to all of them is done in this order, so that a run
  /// can be replayed.
  let serial: UInt64
  /// All of one kind: one exclusive hold, or shared ones, or permits; in the order in which they came to be.
  private(set) var holds = HoldList()
  var queue = WaiterQueue()
  /// What this host has of the lock in the store: one lease of a lock, or one for each permit of a semaphore. Those that
  /// were lost are here until their grace ends. A shared lease may be here beside its successor for a moment; the last
  /// one is that under which the lock is given out.
  var leases: [HostLease] = []
  /// The lease that this host asks or queues for, also while it has another one that is in use.
  var wanted: HostLease?

  /// The number of the last ask; see ``LeaseCommand/acquire(name:attempt:ask:isTry:tokenFloor:mode:)``.
  var ask: UInt64 = 0
  /// Attempts that were given up without the store having confirmed it.
  var unconfirmedReleases: [UnconfirmedRelease] = [] {
    didSet { changes?.touch(self) }
  }
  /// This host had given the lock back only a short while before it asked for it again.
  var wasRecentlyReleased = false
  /// When to ask the store again, for fear that it tells nothing by itself.
  var recheckAt: BootInstant?
  /// The highest token that was given out here.
  var tokenFloor: Token = 0
  /// It is in the list of those with which the next turns go on.
  var isPutOff = false
  /// The link was down, and the store has said nothing about the lock since.
  var isUnheard = false
  /// The last change of the link that has come to it.
  var linkChange: LinkNumber
  /// Its neighbours among all locks.
  var nextLock: LockRecord?
  var previousLock: LockRecord?

  fileprivate var rare: RareFacts?

  /// Where changes are noted for a successor of this process; nil when there will be none.
  let changes: StateChanges?
  let tally: RecordTally
  var mark = StateMark()

  init(name: LockName, serial: UInt64, linkChange: LinkNumber, changes: StateChanges?, tally: RecordTally) {
    self.name = name
    self.serial = serial
    self.linkChange = linkChange
    self.changes = changes
    self.tally = tally
    tally.counts.locks += 1
  }

  deinit { tally.counts.locks -= 1 }

  /// Nobody here uses the lock or wants it.
  var isUnused: Bool { holds.isEmpty && queue.isEmpty }

  /// The first attempt under which this host has the lock, or has lost it so lately that somebody may still use it; nil
  /// when there is none. The permits of a semaphore are kept in any case.
  var firstKeptAttempt: UInt64? {
    leases.lazy.filter { !$0.isPermit }.map(\.attempt).min()
  }

  /// How the lock is held here; nil when it is not.
  var heldMode: HoldMode? { holds.first?.mode }

  /// Permits of one semaphore that are taken here at a time. All of them stand in one value in the store, which is read for each.
  static var permitsMax: Int { 256 }

  /// Whether a hold in `mode` could be added to those that are here. The lease is another matter.
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

/// What few locks have anything to say about. It takes memory only where it does, since there can be very many locks.
private final class RareFacts {
  var remoteHolder = HolderSummary.unknown
  var conflict: HoldMode?
  var conflictAt: BootInstant?
  var storeRefusal: String?
  var undated: [Waiter] = []
  var refusals = 0
  var progressWaiters = 0
  var progressHolders = 0
  var progressAt: BootInstant?
  var lastProgressAt: BootInstant?
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

  /// Waiters that the answer to the ask that is under way will date.
  var undated: [Waiter] {
    get { rare?.undated ?? [] }
    set { if rare != nil || !newValue.isEmpty { rareFacts.undated = newValue } }
  }

  /// The deadline for that confirmation.
  var conflictAt: BootInstant? {
    get { rare?.conflictAt }
    set { if rare != nil || newValue != nil { rareFacts.conflictAt = newValue } }
  }

  /// The words in which the store refused the last ask that it answered; nil when it did not.
  var storeRefusal: String? {
    get { rare?.storeRefusal }
    set { if rare != nil || newValue != nil { rareFacts.storeRefusal = newValue } }
  }

  /// How many asks the store has refused one after the other.
  var refusals: Int {
    get { rare?.refusals ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.refusals = newValue } }
  }

  /// Waiters who want to hear of the holders.
  var progressWaiters: Int {
    get { rare?.progressWaiters ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.progressWaiters = newValue } }
  }

  /// Holders who want to hear of the waiters.
  var progressHolders: Int {
    get { rare?.progressHolders ?? 0 }
    set { if rare != nil || newValue != 0 { rareFacts.progressHolders = newValue } }
  }

  /// When they are told next.
  var progressAt: BootInstant? {
    get { rare?.progressAt }
    set { if rare != nil || newValue != nil { rareFacts.progressAt = newValue } }
  }

  /// When they were told last.
  var lastProgressAt: BootInstant? {
    get { rare?.lastProgressAt }
    set { if rare != nil || newValue != nil { rareFacts.lastProgressAt = newValue } }
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

  /// Whether the store gives `attempt` up when it carries this out.
  func covers(_ attempt: UInt64) -> Bool {
    isExact ? self.attempt == attempt : self.attempt >= attempt
  }
}
