import DequeModule
import LockTypes
import SystemStrings

/// Totals over all sessions of one user.
final class UserRecord {
  var sessions = 0
  var holds = 0
  var waits = 0
  var lockBytes = 0
}

/// What a hold or a wait is charged, in bytes. The memory that it takes, here and in what is kept for the next daemon,
/// is at most about twice as much, and its saved records take at most half of it.
enum LockBytes {
  /// Records of the hold or the wait, of its lock and of its lease, with their entries in tables.
  private static let fixed = 1024
  /// An owner has a record and tables of its own.
  private static let ofOwner = 256
  /// No request is charged more.
  static let requestMax = 1 << 18

  static func of(_ hold: Hold) -> Int { of(hold.lock.name) + of(hold.meta, hold.owner) }

  static func of(_ request: AcquireRequest) -> Int {
    let texts = of(request.meta, request.owner)
    return switch request.target {
    case .one(let name): texts + of(name)
    case .several(let names): names.reduce(texts) { $0 + of($1) }
    }
  }

  static func ofLoss(_ name: LockName) -> Int { 128 + 2 * name.bytes.count }

  /// A name stands in the lock's record, and in the saved records of its lease and of the hold.
  private static func of(_ name: LockName) -> Int { fixed + 3 * name.bytes.count }

  private static func of(_ meta: String?, _ owner: String?) -> Int {
    2 * (meta?.utf8.count ?? 0) + (owner.map { ofOwner + 2 * $0.utf8.count } ?? 0)
  }
}

/// What one owner inside a session has.
final class OwnerRecord {
  /// By name: usually one each, and a few while requests for several locks are under way.
  fileprivate(set) var holds: [LockName: [Hold]] = [:]
  fileprivate(set) var waits: [RequestID: Waiter] = [:]
  /// How many of its requests have all of their locks and wait for replicas.
  fileprivate var forReplicas = 0
  /// Requests that wait for replicas and rely on a hold that the owner had before, by its name; nil: none.
  fileprivate var reentering: [LockName: [RequestID: MultiLockRequest]]?

  /// The one wait of the owner; nil when it has none, or more than one, that for replicas included.
  var onlyWait: Waiter? { waits.count == 1 && forReplicas == 0 ? waits.first?.value : nil }
}

/// What one session has, indexed: look-ups take the same time however much it has.
final class SessionRecord {
  /// Losses that are remembered, so that a late release hears what became of its hold.
  static let lossesMax = 64
  /// With more holds of one name, `many` indexes them by token.
  private static let fewHolds = 8

  let id: SessionID
  let user: UserRecord?
  let uid: UInt32?
  var pid: Int32?
  var command: String?
  /// The latest hold of each name; earlier ones are linked by `ofSameName`.
  private var holds = NameTable<Hold>()
  /// Names with many holds: these by their tokens.
  private var many: [LockName: [Token: Hold]] = [:]
  private var owners: [ExactText: OwnerRecord] = [:]
  /// All holds, oldest first, linked by `inSession`.
  private(set) var firstHold: Hold?
  private var lastHold: Hold?
  private(set) var holdCount = 0
  /// Holds whose loss is to be enforced.
  private(set) var enforcedCount = 0
  /// Whether it has lost one of those.
  var isEnforced = false
  private(set) var waits: [RequestID: Waiter] = [:]
  /// Requests that have all of their locks and wait for replicas; nil: none.
  private var forReplicas: [RequestID: MultiLockRequest]?
  private(set) var losses: Deque<LostHold> = []
  /// How many there were, forgotten ones included.
  private(set) var lossCount: UInt64 = 0
  /// Whether its holds and waits outlive this process.
  var isKept = false
  /// The next of its holds to note as changed; nil: none is left. See ``StateChanges/noteHolds(of:)``.
  var nextToNote: Hold?
  /// Its connection is gone, and its holds are being ended.
  var isClosing = false
  /// Its client has closed its half of the connection: no more input comes, so it can release nothing.
  private(set) var isHalfClosed = false {
    didSet { if isHalfClosed != oldValue { noteWaits() } }
  }
  private var halfClose = HalfClose()

  private let tally: RecordTally

  /// How long the holds of a half-closed session last.
  private struct HalfClose {
    /// Its holds last to the end of its connection.
    var keepsHolds = false
    /// The wait that began first, tries aside; nil when the session is not half-closed.
    var eldestWait: Waiter?
    /// How many of its waits are for each name. Its holds of these names end at once, unless it keeps its holds.
    var awaited: [LockName: Int] = [:]
    /// More of its holds end than one turn has room for.
    var isEndPutOff = false
    /// False once its holds of awaited names were looked for, until something is added.
    var isAwaitedHeld = true
  }

  /// The wait of a half-closed session that began first, tries aside; nil for any other session.
  var eldestWait: Waiter? { halfClose.eldestWait }

  /// Half-closed, and more of its holds end than one turn has room for.
  var isEndPutOff: Bool {
    get { halfClose.isEndPutOff }
    set { halfClose.isEndPutOff = newValue }
  }

  /// Its client has closed its half of the connection. With `keepsHolds` its holds last to the end of the connection.
  func inputEnded(keepsHolds: Bool) {
    halfClose.keepsHolds = keepsHolds
    isHalfClosed = true
  }

  init(id: SessionID, uid: UInt32?, user: UserRecord?, tally: RecordTally) {
    self.id = id
    self.uid = uid
    self.user = user
    self.tally = tally
    tally.counts.sessions += 1
  }

  deinit { tally.counts.sessions -= 1 }

  // MARK: Holds

  func add(_ hold: Hold) {
    hold.inSession.previous = lastHold
    if let lastHold { lastHold.inSession.next = hold } else { firstHold = hold }
    lastHold = hold
    holdCount += 1
    user?.holds += 1
    halfClose.isAwaitedHeld = true
    charge(LockBytes.of(hold))
    if hold.onLost != .notify { enforcedCount += 1 }
    let name = hold.lock.name
    if let owner = hold.owner { makeOwner(owner).holds[name, default: []].append(hold) }
    guard let older = holds.updateValue(hold, forKey: name) else { return }
    hold.ofSameName.next = older
    older.ofSameName.previous = hold
    if many[name]?.updateValue(hold, forKey: hold.token) == nil, many[name] == nil { indexIfMany(name) }
  }

  func remove(_ hold: Hold) {
    let name = hold.lock.name
    let (newer, older) = (hold.ofSameName.previous, hold.ofSameName.next)
    if let newer {
      newer.ofSameName.next = older
    } else {
      guard holds[name] === hold else { return }
      holds[name] = older
    }
    older?.ofSameName.previous = newer
    hold.ofSameName = Hold.Neighbours()
    if !many.isEmpty, many[name] != nil {
      many[name]?[hold.token] = nil
      // Now and then: each look into a table in a table costs three allocations.
      if holdCount % 16 == 0 { many[name]?.shrinkIfSparse() }
      if holds[name] == nil { many[name] = nil }
      many.shrinkIfSparse()
    }
    let (previous, next) = (hold.inSession.previous, hold.inSession.next)
    if let previous { previous.inSession.next = next } else { firstHold = next }
    if let next { next.inSession.previous = previous } else { lastHold = previous }
    if nextToNote === hold { nextToNote = next }
    hold.inSession = Hold.Neighbours()
    holdCount -= 1
    user?.holds -= 1
    charge(-LockBytes.of(hold))
    if hold.onLost != .notify { enforcedCount -= 1 }
    if let owner = hold.owner, let record = owners[ExactText(owner)] {
      record.holds[name]?.removeAll { $0 === hold }
      if record.holds[name]?.isEmpty == true { record.holds[name] = nil }
      record.holds.shrinkIfSparse()
      dropIfUnused(owner, record)
    }
  }

  private func indexIfMany(_ name: LockName) {
    guard holds(of: name).dropFirst(Self.fewHolds).first(where: { _ in true }) != nil else { return }
    var index: [Token: Hold] = [:]
    for hold in holds(of: name) { index[hold.token] = hold }
    many[name] = index
  }

  /// The holds of one lock, the latest first.
  func holds(of name: LockName) -> HoldChain { HoldChain(first: holds[name]) }

  /// The hold of one lock under that token.
  func hold(of name: LockName, token: Token) -> Hold? {
    if !many.isEmpty, let index = many[name] { return index[token] }
    return holds(of: name).first { $0.token == token }
  }

  /// All holds, in the order in which they came to be.
  var allHolds: [Hold] { Array(sequence(first: firstHold) { $0?.inSession.next }.lazy.compactMap { $0 }) }

  // MARK: Waits

  /// The holds of a half-closed session that end now, at most `count`: those that its own waits need, or all once every
  /// request is answered. What a request for several locks has taken is left out: its client was not told of it.
  func holdsOfHalfClosed(isAnswered: Bool, atMost count: Int) -> [Hold] {
    var found: [Hold] = []
    if isAnswered {
      var next = firstHold
      while let hold = next, found.count < count {
        if hold.partOf == nil { found.append(hold) }
        next = hold.inSession.next
      }
      return found
    }
    guard halfClose.isAwaitedHeld else { return [] }
    for name in halfClose.awaited.keys.sorted() {
      for hold in holds(of: name) where hold.partOf == nil {
        if found.count == count { return found }
        found.append(hold)
      }
    }
    halfClose.isAwaitedHeld = false
    return found
  }

  /// Not all of the holds found have been ended: they are looked for again.
  func lookAgain() {
    halfClose.isAwaitedHeld = true
    halfClose.isEndPutOff = true
  }

  /// Its client has been told of holds that it has had for a while: they count from now on.
  func toldOfHolds() { halfClose.isAwaitedHeld = true }

  func add(_ waiter: Waiter) {
    waits[waiter.request.request] = waiter
    user?.waits += 1
    charge(LockBytes.of(waiter.request))
    if let owner = waiter.request.owner { makeOwner(owner).waits[waiter.request.request] = waiter }
    if isHalfClosed { note(waiter) }
  }

  func remove(_ waiter: Waiter) {
    guard waits.removeValue(forKey: waiter.request.request) != nil else { return }
    waits.shrinkIfSparse()
    user?.waits -= 1
    charge(-LockBytes.of(waiter.request))
    if isHalfClosed { noteGone(waiter) }
    guard let owner = waiter.request.owner, let record = owners[ExactText(owner)] else { return }
    record.waits[waiter.request.request] = nil
    record.waits.shrinkIfSparse()
    dropIfUnused(owner, record)
  }

  /// Its requests that wait, for locks or for replicas.
  var waitCount: Int { waits.count + (forReplicas?.count ?? 0) }

  /// Those that wait for replicas, in the order in which they came.
  var requestsForReplicas: [MultiLockRequest] {
    forReplicas?.values.sorted { $0.request.request.rawValue < $1.request.request.rawValue } ?? []
  }

  func requestForReplicas(_ request: RequestID) -> MultiLockRequest? { forReplicas?[request] }

  func add(waitingForReplicas multi: MultiLockRequest) {
    forReplicas = forReplicas ?? [:]
    forReplicas?[multi.request.request] = multi
    user?.waits += 1
    charge(LockBytes.of(multi.request))
    guard let owner = multi.request.owner.map({ makeOwner($0) }) else { return }
    owner.forReplicas += 1
    for (hold, isReentered) in multi.taken where isReentered {
      owner.reentering = owner.reentering ?? [:]
      owner.reentering?[hold.lock.name, default: [:]][multi.request.request] = multi
    }
  }

  func remove(waitingForReplicas multi: MultiLockRequest) {
    guard forReplicas?.removeValue(forKey: multi.request.request) != nil else { return }
    if forReplicas?.isEmpty == true { forReplicas = nil }
    user?.waits -= 1
    charge(-LockBytes.of(multi.request))
    guard let name = multi.request.owner, let owner = owner(name) else { return }
    owner.forReplicas -= 1
    if owner.reentering != nil {
      for (hold, isReentered) in multi.taken where isReentered {
        let name = hold.lock.name
        owner.reentering?[name]?[multi.request.request] = nil
        if owner.reentering?[name]?.isEmpty == true { owner.reentering?[name] = nil }
      }
      if owner.reentering?.isEmpty == true { owner.reentering = nil }
    }
    dropIfUnused(name, owner)
  }

  /// Requests that wait for replicas and have re-entered this hold, in the order in which they came.
  func requestsForReplicas(reentering hold: Hold) -> [MultiLockRequest] {
    guard forReplicas != nil, let owner = hold.owner.flatMap({ self.owner($0) }),
      let found = owner.reentering?[hold.lock.name]
    else { return [] }
    return found.values.filter { multi in !multi.isReady && multi.taken.contains { $0.hold === hold } }
      .sorted { $0.request.request.rawValue < $1.request.request.rawValue }
  }

  private func charge(_ bytes: Int) {
    user?.lockBytes += bytes
    tally.lockBytes += bytes
  }

  private func noteWaits() {
    halfClose.eldestWait = nil
    halfClose.awaited = [:]
    if isHalfClosed { for waiter in waits.values { note(waiter) } }
  }

  private func note(_ waiter: Waiter) {
    for name in waiter.names { halfClose.awaited[name, default: 0] += 1 }
    halfClose.isAwaitedHeld = true
    guard !waiter.isTry else { return }
    if let eldest = halfClose.eldestWait, eldest.request.request.rawValue < waiter.request.request.rawValue { return }
    halfClose.eldestWait = waiter
  }

  private func noteGone(_ waiter: Waiter) {
    for name in waiter.names {
      halfClose.awaited[name, default: 1] -= 1
      if halfClose.awaited[name] == 0 { halfClose.awaited[name] = nil }
    }
    guard halfClose.eldestWait === waiter else { return }
    halfClose.eldestWait = waits.values.filter { !$0.isTry }.min {
      $0.request.request.rawValue < $1.request.request.rawValue
    }
  }

  /// The wait that a hold of a half-closed session outlasts; nil when the hold ends before.
  func waitBefore(endOf hold: Hold) -> Waiter? {
    halfClose.keepsHolds || halfClose.awaited[hold.lock.name] == nil ? halfClose.eldestWait : nil
  }

  // MARK: Owners

  /// What an owner has; nil when it has nothing.
  func owner(_ name: String) -> OwnerRecord? { owners[ExactText(name)] }

  private func makeOwner(_ name: String) -> OwnerRecord {
    let key = ExactText(name)
    if let owner = owners[key] { return owner }
    let owner = OwnerRecord()
    owners[key] = owner
    return owner
  }

  private func dropIfUnused(_ name: String, _ owner: OwnerRecord) {
    guard owner.holds.isEmpty, owner.waits.isEmpty, owner.forReplicas == 0 else { return }
    owners[ExactText(name)] = nil
    owners.shrinkIfSparse()
  }

  // MARK: Losses

  func remember(_ loss: LostHold) {
    if losses.count == Self.lossesMax, let first = losses.popFirst() { charge(-LockBytes.ofLoss(first.name)) }
    losses.append(loss)
    lossCount += 1
    charge(LockBytes.ofLoss(loss.name))
  }

  /// To be called when the session is forgotten.
  func forgetLosses() {
    while let loss = losses.popFirst() { charge(-LockBytes.ofLoss(loss.name)) }
  }
}

/// Holds of one lock by one session, the latest first.
struct HoldChain: Sequence, IteratorProtocol {
  var first: Hold?

  mutating func next() -> Hold? {
    defer { first = first?.ofSameName.next }
    return first
  }
}
