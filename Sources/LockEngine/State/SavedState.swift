// The engine's state that outlives the process, in records that change one by one. How their format may change:
// protocol/formats.md.

public import LockTypes

/// A lease that this host asks for, has, or has lost.
struct SavedLease: Equatable {
  enum Stage: UInt8 {
    case wanted = 0
    case held = 1
    case lost = 2
  }

  var name: LockName
  var attempt: UInt64
  var mode: HoldMode
  var milliseconds: Int64
  var stage: Stage
  var validUntil: BootInstant
  var graceEnds: BootInstant
  var nextToken: Token
  var tokenEnd: Token
  var contendedSince: BootInstant?
  var isSharingUnconfirmed: Bool
  var tokenStart: Token
  /// Where the lock had its home.
  var shard = ShardID.only

  func write(to writer: inout StateWriter) {
    writer.write(name.bytes)
    writer.write(attempt)
    writer.write(mode)
    writer.write(milliseconds)
    writer.write(stage.rawValue)
    writer.write(validUntil)
    writer.write(graceEnds)
    writer.write(nextToken)
    writer.write(tokenEnd)
    writer.write(contendedSince)
    writer.write(isSharingUnconfirmed)
    writer.write(tokenStart)
    if shard != .only { writer.write(UInt64(shard.rawValue)) }
  }
}

extension SavedLease {
  init(from reader: inout StateReader) throws(StateDamage) {
    name = try reader.name()
    attempt = try reader.unsigned()
    mode = try reader.mode()
    milliseconds = try reader.signed()
    guard let stage = Stage(rawValue: try reader.byte()) else { throw StateDamage() }
    self.stage = stage
    validUntil = try reader.moment()
    graceEnds = try reader.moment()
    nextToken = try reader.signed()
    tokenEnd = try reader.signed()
    contendedSince = try reader.optionalMoment()
    isSharingUnconfirmed = try reader.bool()
    // Format 4 does not have it. The token before the next one is the last that was issued, if any was. What makes no sense
    // is refused later.
    tokenStart = try reader.isAtEnd ? max(nextToken &- 1, stage == .wanted ? 0 : 1) : reader.signed()
    shard = try reader.isAtEnd ? .only : reader.shard()
  }
}

/// The epoch of the store that this host is in.
struct SavedEpoch: Equatable {
  var id: EpochID
  var isOpen: Bool
  var graceMilliseconds: Int64
  var longestLeaseMilliseconds: Int64
  var learnedAt: BootInstant
  /// What the store's clock showed when it executed something that was sent at `clockSentAt`.
  var clock: StoreInstant
  var clockSentAt: BootInstant
  /// Until when this host counts as alive; nil: without end.
  var life: HostLife.Term?
  /// Which shard's.
  var shard = ShardID.only

  func write(to writer: inout StateWriter) {
    writer.write(id.number)
    writer.write(id.text)
    writer.write(isOpen)
    writer.write(graceMilliseconds)
    writer.write(longestLeaseMilliseconds)
    writer.write(learnedAt)
    writer.write(clock.microseconds)
    writer.write(clockSentAt)
    writer.write(life != nil)
    if let life {
      writer.write(life.validUntil)
      writer.write(life.graceEnds)
    }
    if shard != .only { writer.write(UInt64(shard.rawValue)) }
  }
}

extension StateReader {
  fileprivate mutating func shard() throws(StateDamage) -> ShardID {
    guard let number = UInt32(exactly: try unsigned()) else { throw StateDamage() }
    return ShardID(number)
  }
}

extension SavedEpoch {
  init(from reader: inout StateReader) throws(StateDamage) {
    id = EpochID(number: try reader.unsigned(), text: try reader.text())
    isOpen = try reader.bool()
    graceMilliseconds = try reader.signed()
    longestLeaseMilliseconds = try reader.signed()
    learnedAt = try reader.moment()
    clock = StoreInstant(microseconds: try reader.signed())
    clockSentAt = try reader.moment()
    // Formats 4 and 5 do not have it.
    if !reader.isAtEnd, try reader.bool() {
      life = HostLife.Term(validUntil: try reader.moment(), graceEnds: try reader.moment())
    }
    shard = try reader.isAtEnd ? .only : reader.shard()
  }
}

/// Attempts on one lock that this host gave up, unconfirmed by the store.
struct SavedReleases: Equatable {
  struct Release: Equatable {
    var attempt: UInt64
    var unused: UnusedTokens
    var worthUntil: BootInstant
    var isExact: Bool
  }

  var name: LockName
  var releases: [Release]

  func write(to writer: inout StateWriter) {
    writer.write(name.bytes)
    writer.write(UInt64(releases.count))
    for release in releases {
      writer.write(release.attempt)
      writer.write(release.unused)
      writer.write(release.worthUntil)
      writer.write(release.isExact)
    }
  }
}

extension SavedReleases {
  init(from reader: inout StateReader) throws(StateDamage) {
    name = try reader.name()
    releases = []
    for _ in 0..<(try reader.count()) {
      releases.append(
        Release(
          attempt: try reader.unsigned(), unused: try reader.unused(), worthUntil: try reader.moment(),
          isExact: try reader.bool()))
    }
  }
}

/// A hold of a session.
struct SavedHold: Equatable {
  var session: SessionID
  var name: LockName
  var token: Token
  var since: BootInstant
  var owner: String?
  var meta: String?
  var progress: Bool
  var onLost: LossAction
  /// The attempt of its lease; 0 in the local tier.
  var attempt: UInt64
  var mode: HoldMode
  var count: Int64
  var endsAt: BootInstant?
  /// Whether it belongs to a request for several locks that has not got them all.
  var isPartial: Bool

  func write(to writer: inout StateWriter) {
    writer.write(session.rawValue)
    writer.write(name.bytes)
    writer.write(token)
    writer.write(since)
    writer.write(owner)
    writer.write(meta)
    writer.write(progress)
    writer.write(onLost)
    writer.write(attempt)
    writer.write(mode)
    writer.write(count)
    writer.write(endsAt)
    writer.write(isPartial)
  }
}

extension SavedHold {
  /// The order in which holds began.
  struct Order: Comparable {
    var since: BootInstant
    var token: Token

    static func < (a: Order, b: Order) -> Bool { a.since != b.since ? a.since < b.since : a.token < b.token }
  }

  var order: Order { Order(since: since, token: token) }

  init(from reader: inout StateReader) throws(StateDamage) {
    session = SessionID(try reader.unsigned())
    name = try reader.name()
    token = try reader.signed()
    since = try reader.moment()
    owner = try reader.optionalText()
    meta = try reader.optionalText()
    progress = try reader.bool()
    onLost = try reader.lossAction()
    attempt = try reader.unsigned()
    mode = try reader.mode()
    count = try reader.signed()
    endsAt = try reader.optionalMoment()
    isPartial = try reader.bool()
  }
}

/// A request that waits.
struct SavedWait: Equatable {
  /// One of the locks that a request for several has so far.
  struct Taken: Equatable {
    var name: LockName
    var token: Token
    var isReentered: Bool
  }

  /// Its place among all waits of this host.
  var place: UInt64
  var session: SessionID
  var request: RequestID
  /// One name, or as many as were asked for.
  var names: [LockName]
  var isSeveral: Bool
  var mode: HoldMode
  var waitMilliseconds: Int64?
  var maxHoldMilliseconds: Int64?
  var owner: String?
  var meta: String?
  var progress: Bool
  var onLost: LossAction
  var since: BootInstant
  var deadline: BootInstant?
  var taken: [Taken]
  var need: ReplicaNeed

  /// A request that takes its locks one by one, and of which its client hears when it has all that it asked for.
  var isMultiLock: Bool { isSeveral || !need.isNone }

  func write(to writer: inout StateWriter) {
    writer.write(place)
    writer.write(session.rawValue)
    writer.write(request.rawValue)
    writer.write(UInt64(names.count))
    for name in names { writer.write(name.bytes) }
    writer.write(isSeveral)
    writer.write(mode)
    writer.write(waitMilliseconds)
    writer.write(maxHoldMilliseconds)
    writer.write(owner)
    writer.write(meta)
    writer.write(progress)
    writer.write(onLost)
    writer.write(since)
    writer.write(deadline)
    // Formats before 9 let nothing be taken for one lock. What they find here they take for a plain wait.
    write(isSeveral ? taken : [], to: &writer)
    writer.write(UInt8(clamping: need.replicas))
    writer.write(need.durability == .disk)
    write(isSeveral ? [] : taken, to: &writer)
  }

  private func write(_ taken: [Taken], to writer: inout StateWriter) {
    writer.write(UInt64(taken.count))
    for lock in taken {
      writer.write(lock.name.bytes)
      writer.write(lock.token)
      writer.write(lock.isReentered)
    }
  }
}

extension SavedWait {
  init(from reader: inout StateReader) throws(StateDamage) {
    place = try reader.unsigned()
    session = SessionID(try reader.unsigned())
    request = RequestID(try reader.unsigned())
    names = []
    for _ in 0..<(try reader.count()) { names.append(try reader.name()) }
    isSeveral = try reader.bool()
    mode = try reader.mode()
    waitMilliseconds = try reader.optional()
    maxHoldMilliseconds = try reader.optional()
    owner = try reader.optionalText()
    meta = try reader.optionalText()
    progress = try reader.bool()
    onLost = try reader.lossAction()
    since = try reader.moment()
    deadline = try reader.optionalMoment()
    taken = try Self.taken(from: &reader)
    need = .none
    guard isSeveral ? taken.count <= names.count && !names.isEmpty : names.count == 1 && taken.isEmpty else {
      throw StateDamage()
    }
    // Formats 4 to 8 do not have it.
    guard !reader.isAtEnd else { return }
    need.replicas = Int(try reader.byte())
    need.durability = try reader.bool() ? .disk : .memory
    let ofOne = try Self.taken(from: &reader)
    guard need.replicas <= ReplicaNeed.replicasMax, ofOne.count <= (isSeveral || need.isNone ? 0 : 1) else {
      throw StateDamage()
    }
    taken += ofOne
  }

  private static func taken(from reader: inout StateReader) throws(StateDamage) -> [Taken] {
    var taken: [Taken] = []
    for _ in 0..<(try reader.count()) {
      taken.append(Taken(name: try reader.name(), token: try reader.signed(), isReentered: try reader.bool()))
    }
    return taken
  }

  var acquireRequest: AcquireRequest {
    AcquireRequest(
      session: session, request: request, target: isSeveral ? .several(names) : .one(names[0]), mode: mode,
      waitMilliseconds: waitMilliseconds, maxHoldMilliseconds: maxHoldMilliseconds, owner: owner, meta: meta,
      progress: progress, onLost: onLost, need: need)
  }
}

/// A hold that a session lost, remembered so that a late release hears what became of it.
public struct LostHold: Equatable, Sendable {
  var name: LockName
  var token: Token
  var reason: LostReason

  /// A count and as many losses; of damaged bytes, the losses before the damage.
  public static func all(from reader: inout StateReader) -> [LostHold] {
    var losses: [LostHold] = []
    guard let count = try? reader.count() else { return [] }
    for _ in 0..<count {
      guard let loss = (try? LostHold(&reader)) ?? nil else { break }
      losses.append(loss)
    }
    return losses
  }

  func write(to writer: inout StateWriter) {
    writer.write(name.bytes)
    writer.write(token)
    writer.write(reason.rawValue)
  }
}

extension LostHold {
  /// Nil: for a reason that is not known.
  fileprivate init?(_ reader: inout StateReader) throws(StateDamage) {
    name = try reader.name()
    token = try reader.signed()
    guard let reason = LostReason(rawValue: try reader.text()) else { return nil }
    self.reason = reason
  }
}

/// One of the losses that are remembered of a session, for a record of its own.
public struct SavedLoss: Equatable, Sendable {
  /// How many a session is remembered of at most: the latest.
  public static let countMax = SessionRecord.lossesMax
  /// How many the session had before.
  public var number: UInt64
  /// The number and the loss.
  public var bytes: [UInt8]

  init(number: UInt64, _ loss: LostHold) {
    var writer = StateWriter()
    writer.write(number)
    loss.write(to: &writer)
    (self.number, bytes) = (number, writer.bytes)
  }

  /// Losses that were read, in their order, as ``LostHold/all(from:)`` takes them.
  public static func list(_ records: [[UInt8]], isOfLaterFormat: Bool) throws(StateDamage) -> [UInt8] {
    var losses: [(number: UInt64, loss: LostHold)] = []
    for record in records {
      var reader = StateReader(record)
      let number = try reader.unsigned()
      guard let loss = try LostHold(&reader) else { continue }
      try reader.finish(isOfLaterFormat: isOfLaterFormat)
      losses.append((number, loss))
    }
    var writer = StateWriter()
    writer.write(UInt64(losses.count))
    for (_, loss) in losses.sorted(by: { $0.number < $1.number }) { loss.write(to: &writer) }
    return writer.bytes
  }
}

/// The engine's state as a predecessor of this process left it.
public struct SavedState: Equatable, Sendable {
  /// What a record is about.
  public enum Kind: UInt8, Sendable {
    /// A lease that this host has, had, or asks for.
    case lease = 1
    /// Releases of one lock that the store has not confirmed.
    case releases = 2
    /// A hold of a session.
    case hold = 3
    /// A request that waits.
    case wait = 4
    /// The epoch of the store that this host is in.
    case epoch = 5
  }

  var leases: [SavedLease] = []
  var releases: [SavedReleases] = []
  var holds: [SavedHold] = []
  var waits: [SavedWait] = []
  /// One for each shard.
  var epochs: [SavedEpoch] = []

  /// No state.
  public init() {}

  /// Adds a record that the engine wrote about thing `id` (nil: not known). Records may come in any order. Throws for
  /// what no engine can have written by `now`, even if its bytes are whole. In a later format more fields may follow
  /// the known ones.
  public mutating func add(
    _ kind: Kind, id: UInt64? = nil, _ bytes: [UInt8], now: BootInstant, isOfLaterFormat: Bool = false
  ) throws(StateDamage) {
    var reader = StateReader(bytes)
    switch kind {
    case .lease:
      let lease = try SavedLease(from: &reader)
      try lease.check(id: id, now: now)
      leases.append(lease)
    case .releases:
      let ofLock = try SavedReleases(from: &reader)
      try ofLock.check(now: now)
      releases.append(ofLock)
    case .hold:
      let hold = try SavedHold(from: &reader)
      try hold.check(now: now)
      holds.append(hold)
    case .wait:
      let wait = try SavedWait(from: &reader)
      try wait.check(id: id, now: now)
      waits.append(wait)
    case .epoch:
      let epoch = try SavedEpoch(from: &reader)
      try epoch.check(now: now)
      epochs.append(epoch)
    }
    try reader.finish(isOfLaterFormat: isOfLaterFormat)
  }

  /// The last attempt that was begun, where `numbers` is what ``LockEngine/numbers`` was; 0: none.
  public func lastAttempt(numbers: [UInt64]) -> UInt64 { max(numbers.first ?? 0, leases.map(\.attempt).max() ?? 0) }

  /// The token of the local tier with which to go on, where `numbers` is what ``LockEngine/numbers`` was; 0: none.
  public static func nextLocalToken(numbers: [UInt64]) -> Token {
    numbers.count > 3 ? Token(clamping: numbers[3]) : 0
  }

  /// Whether anybody holds a lock or waits for one, and no lease under a hold has ended by `now`. Without a store no
  /// lease ends.
  public func isWhole(at now: BootInstant) -> Bool {
    let held = Set(holds.lazy.filter { $0.attempt != 0 }.map(\.name))
    return !(holds.isEmpty && waits.isEmpty)
      && leases.allSatisfy { $0.stage != .held || $0.validUntil > now || !held.contains($0.name) }
  }

  /// The names of the locks that are held, for tests.
  package var heldNames: [String] { holds.map { "\($0.name)" } }

  /// The requests that wait.
  public var waitingRequests: Set<RequestID> { Set(waits.map(\.request)) }
}

/// A change to the records that outlive the process.
public enum StateChange: Equatable, Sendable {
  /// The record of thing `id` of that kind is this one from now on.
  case put(SavedState.Kind, id: UInt64, [UInt8])
  /// The record is gone.
  case remove(SavedState.Kind, id: UInt64)
}
