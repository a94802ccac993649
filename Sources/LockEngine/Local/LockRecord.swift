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

  /// What others have the name as, until it is known whether they use it.
  var conflict: HoldMode? {
    get { rare?.conflict }
    set { if rare != nil || newValue != nil { rareFacts.conflict = newValue } }
  }

  /// Waiters that the answer to the ask that is under way will date.
  var undated: [Waiter] {
    get { rare?.undated ?? [] }
    set { if rare != nil || !newValue.isEmpty { rareFacts.undated = newValue } }
  }

  /// Until when that is waited for.
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

/// A session's possession of a lock.
final class Hold {
  /// Its place in a list; nil at an end of it, and when it is not there.
  struct Neighbours {
    var next: Hold?
    var previous: Hold?
  }

  let session: SessionID
  let lock: LockRecord
  let token: Token
  let since: BootInstant
  let owner: String?
  let meta: String?
  let progress: Bool
  let onLost: LossAction
  /// The lease under which it stands; nil in the local tier.
  private(set) var lease: HostLease? {
    didSet { lock.changes?.touch(self) }
  }
  var mode: HoldMode {
    didSet { lock.changes?.touch(self) }
  }
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
  /// The request for several locks that it is a part of, until that is granted.
  var several: SeveralRequest? {
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

  init(_ request: AcquireRequest, lock: LockRecord, token: Token, lease: HostLease?, since: BootInstant) {
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
    lock.tally.counts.holds += 1
  }

  /// What `hold` becomes in the hands of another session.
  init(_ hold: Hold, handedTo session: SessionID, token: Token, since: BootInstant) {
    self.session = session
    self.token = token
    self.since = since
    owner = nil
    lock = hold.lock
    meta = hold.meta
    progress = hold.progress
    // Its new holder has not asked for anything of the kind.
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

/// A request for several locks: it takes them one after the other, in the order of their names, which is the same for
/// everybody on every host, so that no two such requests can wait for each other. Its client hears of none before it
/// has all.
final class SeveralRequest {
  let request: AcquireRequest
  /// As the client named them.
  let names: [LockName]
  /// In the order in which they are taken.
  let order: [LockName]
  let since: BootInstant
  let deadline: BootInstant?
  /// What it has of `order` so far. A hold that its owner had before is counted once more when it has all.
  var taken: [(hold: Hold, isReentered: Bool)] = []
  var waiter: Waiter?
  /// Since when it waits, by the store's clock, as soon as one of its waits was dated.
  var began: StoreInstant?
  var isOver = false
  /// It is in the list of those that can go on.
  var isReady = false
  var mark = StateMark()
  private let tally: RecordTally

  init(
    _ request: AcquireRequest, names: [LockName], since: BootInstant, deadline: BootInstant?, tally: RecordTally
  ) {
    self.request = request
    self.names = names
    order = names.sorted()
    self.since = since
    self.deadline = deadline
    self.tally = tally
    tally.counts.severalRequests += 1
  }

  deinit { tally.counts.severalRequests -= 1 }

  /// Lets go of what it has taken so far, and gives it. The waiter and the holds know the request, and it knows them: who
  /// ends it, in whatever way, takes them apart.
  func letGoOfTaken() -> [(hold: Hold, isReentered: Bool)] {
    defer { taken = [] }
    for (hold, _) in taken where hold.several === self { hold.several = nil }
    return taken
  }

  /// It is decided. Gives what it had taken.
  @discardableResult
  func finish() -> [(hold: Hold, isReentered: Bool)] {
    isOver = true
    waiter = nil
    return letGoOfTaken()
  }

  /// Whether its time is over. That of a try is what each ask takes.
  func isLate(at now: BootInstant) -> Bool {
    guard request.waitMilliseconds != 0, let deadline else { return false }
    return deadline <= now
  }
}
