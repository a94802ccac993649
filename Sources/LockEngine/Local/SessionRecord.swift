import DequeModule
import LockTypes
import SystemStrings

/// What all sessions of one user have together.
final class UserRecord {
  var sessions = 0
  var holds = 0
  var waits = 0
  var lockBytes = 0
}

/// What a hold or a wait is charged with: about what its records take that outlive the process, where the name stands twice,
/// in that of the lease, too.
enum LockBytes {
  private static let fixed = 256
  /// More than any request is charged with.
  static let requestMax = 1 << 18

  static func of(_ hold: Hold) -> Int { of(hold.lock.name) + of(hold.meta) + of(hold.owner) }

  static func of(_ request: AcquireRequest) -> Int {
    let texts = of(request.meta) + of(request.owner)
    return switch request.target {
    case .one(let name): texts + of(name)
    case .several(let names): names.reduce(texts) { $0 + of($1) }
    }
  }

  static func ofLoss(_ name: LockName) -> Int { 32 + name.bytes.count }

  private static func of(_ name: LockName) -> Int { fixed + 2 * name.bytes.count }

  private static func of(_ text: String?) -> Int { text?.utf8.count ?? 0 }
}

/// What one owner inside a session has.
final class OwnerRecord {
  /// By name: as a rule one, and a few while requests for several locks are under way.
  fileprivate(set) var holds: [LockName: [Hold]] = [:]
  fileprivate(set) var waits: [RequestID: Waiter] = [:]

  /// The one wait of the owner; nil when it has none, or more than one.
  var onlyWait: Waiter? { waits.count == 1 ? waits.first?.value : nil }
}

/// What one session has. Whatever it is asked for it finds at once, however much it has.
final class SessionRecord {
  /// Losses that are remembered, so that a late release hears what became of its hold.
  static let lossesMax = 64
  /// Holds of one name beyond which they are found by their tokens.
  private static let fewHolds = 8

  let id: SessionID
  let user: UserRecord?
  let uid: UInt32?
  var pid: Int32?
  var command: String?
  /// The latest hold of each name; earlier ones follow it.
  private var holds = NameTable<Hold>()
  /// The holds of those names of which there are many.
  private var many: [LockName: [Token: Hold]] = [:]
  private var owners: [ExactText: OwnerRecord] = [:]
  /// All of them, in the order in which they came to be.
  private(set) var firstHold: Hold?
  private var lastHold: Hold?
  private(set) var holdCount = 0
  /// Holds whose loss is to be enforced.
  private(set) var enforcedCount = 0
  private(set) var waits: [RequestID: Waiter] = [:]
  private(set) var losses: Deque<LostHold> = []
  /// Whether what it has outlives this process.
  var isKept = false
  /// Its connection is gone, and its holds are being ended.
  var isClosing = false
  /// Nothing more comes from its client: what it holds it holds until none of its waits is left, or longer.
  private(set) var isHalfClosed = false {
    didSet { if isHalfClosed != oldValue { noteWaits() } }
  }
  private var halfClose = HalfClose()

  private let tally: RecordTally

  /// What becomes of what a half-closed session has.
  private struct HalfClose {
    /// What it holds lasts to the end of its connection, half-closed or not.
    var keepsHolds = false
    /// The wait that began first, tries aside; of a session that is not half-closed nil.
    var eldestWait: Waiter?
    /// How many of its waits are for each name: its holds of these do not last that long, unless it keeps them.
    var awaited: [LockName: Int] = [:]
    /// More of its holds end than one turn has room for.
    var isEndPutOff = false
    /// Whether it may hold any of these: not, when it was looked and nothing has come since.
    var isAwaitedHeld = true
  }

  /// Of a half-closed session, the wait that began first, tries aside; of any other nil.
  var eldestWait: Waiter? { halfClose.eldestWait }

  /// Half-closed, and more of its holds end than one turn has room for.
  var isEndPutOff: Bool {
    get { halfClose.isEndPutOff }
    set { halfClose.isEndPutOff = newValue }
  }

  /// Nothing more comes from its client. What it holds lasts to the end of its connection where it `keepsHolds`.
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
      if holds[name] == nil { many[name] = nil }
    }
    let (previous, next) = (hold.inSession.previous, hold.inSession.next)
    if let previous { previous.inSession.next = next } else { firstHold = next }
    if let next { next.inSession.previous = previous } else { lastHold = previous }
    hold.inSession = Hold.Neighbours()
    holdCount -= 1
    user?.holds -= 1
    charge(-LockBytes.of(hold))
    if hold.onLost != .notify { enforcedCount -= 1 }
    if let owner = hold.owner, let record = owners[ExactText(owner)] {
      record.holds[name]?.removeAll { $0 === hold }
      if record.holds[name]?.isEmpty == true { record.holds[name] = nil }
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

  /// The holds of a half-closed session that end now, some of them where they are very many: those that its own waits need,
  /// or all when nothing is to be answered any more. What a request for several locks has taken meanwhile its client was not
  /// told of.
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

  /// Not all of the holds that were found have been ended.
  func lookAgain() {
    halfClose.isAwaitedHeld = true
    halfClose.isEndPutOff = true
  }

  func add(_ waiter: Waiter) {
    waits[waiter.request.request] = waiter
    user?.waits += 1
    charge(LockBytes.of(waiter.request))
    if let owner = waiter.request.owner { makeOwner(owner).waits[waiter.request.request] = waiter }
    if isHalfClosed { note(waiter) }
  }

  func remove(_ waiter: Waiter) {
    guard waits.removeValue(forKey: waiter.request.request) != nil else { return }
    user?.waits -= 1
    charge(-LockBytes.of(waiter.request))
    if isHalfClosed { noteGone(waiter) }
    guard let owner = waiter.request.owner, let record = owners[ExactText(owner)] else { return }
    record.waits[waiter.request.request] = nil
    dropIfUnused(owner, record)
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

  /// Of a half-closed session, the wait that a hold of it lasts for at least; nil when it ends before.
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
    if owner.holds.isEmpty && owner.waits.isEmpty { owners[ExactText(name)] = nil }
  }

  // MARK: Losses

  func remember(_ loss: LostHold) {
    if losses.count == Self.lossesMax, let first = losses.popFirst() { charge(-LockBytes.ofLoss(first.name)) }
    losses.append(loss)
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
