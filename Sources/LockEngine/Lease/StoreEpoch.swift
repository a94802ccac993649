import LockTypes

/// Numbers the epochs that an engine was in; 0: none. Unlike the store's numbers it never goes back.
typealias EpochNumber = UInt32

/// The epoch of the store that this host is in, as far as it knows.
struct StoreEpoch {
  private(set) var id = EpochID.none
  private(set) var number: EpochNumber = 0
  /// Whether anything may be granted in it.
  private(set) var isOpen = false
  /// How long it has to be waited for before it may be opened, in milliseconds.
  private(set) var graceMilliseconds: Int64 = 0
  /// The longest lease of those who joined it, in milliseconds.
  private(set) var longestLeaseMilliseconds: Int64 = 0
  /// When this host learned of it. Whoever had a lease before had it from a command sent before that.
  private(set) var learnedAt = BootInstant(nanoseconds: 0)
  /// What the store's clock showed when it executed something that was sent at `sentAt`.
  private(set) var clock: (instant: StoreInstant, sentAt: BootInstant)?
  /// How many epochs in a row, this one included, followed the one before within ``briefMilliseconds``.
  private(set) var briefCount = 0

  /// What a reply told.
  enum News {
    case nothing
    /// Its grace is over.
    case opened
    /// The store has other data than those that this host knew.
    case other
  }

  /// No epoch: this host was in none.
  init() {}

  /// What a predecessor of this process knew.
  init(_ saved: SavedEpoch) {
    id = saved.id
    number = 1
    isOpen = saved.isOpen
    graceMilliseconds = saved.graceMilliseconds
    longestLeaseMilliseconds = saved.longestLeaseMilliseconds
    learnedAt = saved.learnedAt
    clock = (saved.clock, saved.clockSentAt)
  }

  /// What a successor of this process has to know, with the life of this host; nil where there is nothing.
  func saved(_ life: HostLife.Term?, of shard: ShardID) -> SavedEpoch? {
    guard number != 0 else { return nil }
    return SavedEpoch(
      id: id, isOpen: isOpen, graceMilliseconds: graceMilliseconds, longestLeaseMilliseconds: longestLeaseMilliseconds,
      learnedAt: learnedAt, clock: clock?.instant ?? StoreInstant(microseconds: 0),
      clockSentAt: clock?.sentAt ?? learnedAt, life: life, shard: shard)
  }

  /// The store has told, to something that was sent at `sentAt`, how its epoch is.
  mutating func learned(_ sight: EpochSight, sentAt: BootInstant, now: BootInstant) -> News {
    // One that was open and is not any more was set back, with what was granted in it since.
    let isOther = sight.id != id || (isOpen && !sight.isOpen)
    let news: News = isOther ? .other : sight.isOpen && !isOpen ? .opened : .nothing
    if isOther {
      let isBrief = number != 0 && now.milliseconds(since: learnedAt) < Self.briefMilliseconds
      briefCount = isBrief ? briefCount + 1 : 0
      id = sight.id
      number &+= 1
      learnedAt = now
      clock = nil
    }
    isOpen = sight.isOpen
    graceMilliseconds = min(max(sight.graceMilliseconds, 0), EpochSight.millisecondsMax)
    longestLeaseMilliseconds = min(max(sight.longestLeaseMilliseconds, 0), EpochSight.millisecondsMax)
    clockShown(sight.clock, sentAt: sentAt)
    return news
  }

  /// Somebody takes leases of this length, in milliseconds, as he told this host's inbox.
  mutating func leasesAreLonger(_ milliseconds: Int64) {
    longestLeaseMilliseconds = max(longestLeaseMilliseconds, min(milliseconds, EpochSight.millisecondsMax))
  }

  /// Whether it is not known that there are leases of this length, in milliseconds.
  func isNews(leaseMilliseconds: Int64) -> Bool {
    min(leaseMilliseconds, EpochSight.millisecondsMax) > longestLeaseMilliseconds
  }

  // MARK: Epochs that follow each other

  /// An epoch that lasts for less was a brief one, in milliseconds.
  static let briefMilliseconds: Int64 = 2000
  /// So many brief ones are taken as they come.
  static let briefMax = 3

  /// How long to wait before the store is asked for its epoch again, in milliseconds. With another epoch at each look it would
  /// otherwise be asked all the time, and each answer has all that is held and waited for asked for. The pauses grow to a tenth of
  /// `leaseMilliseconds`, so that what is held can be taken again several times before it is lost.
  func pauseMilliseconds(leaseMilliseconds: Int64, first: Int64) -> Int64 {
    guard briefCount > Self.briefMax else { return 0 }
    return min(first << Int64(min(briefCount - Self.briefMax - 1, 10)), max(first, leaseMilliseconds / 10), 1000)
  }

  // MARK: Grace

  /// When this host may have it opened, by its own clock; nil: it is open, or there is none. One per cent is for clocks that
  /// run apart: until then every lease of the epoch before has ended, wherever it was.
  var graceEnds: BootInstant? {
    guard !isOpen, number != 0 else { return nil }
    return learnedAt.adding(milliseconds: (graceMilliseconds * 101 + 99) / 100 + 1)
  }

  /// How long its grace was waited for, in milliseconds; 0 before it is over.
  func waitedMilliseconds(now: BootInstant) -> Int64 {
    guard let graceEnds, now >= graceEnds else { return 0 }
    return min(now.milliseconds(since: learnedAt) - 1, 1 << 53) * 100 / 101
  }

  /// The grace that another epoch has to have if it begins now, in milliseconds: somebody may have a lease of this one, and
  /// while its own grace is not over, of the one before.
  var graceOfNextMilliseconds: Int64 {
    isOpen ? longestLeaseMilliseconds : max(longestLeaseMilliseconds, graceMilliseconds)
  }

  // MARK: Clock

  /// The store executed something that was sent at `sentAt` when its clock showed `instant`. One that was set back is not
  /// followed: tokens were given by what it showed before. One that is behind by a hundredth of the time since then is: what
  /// it showed before lies below that all the same, and a command that was under way for long makes it look ahead.
  mutating func clockShown(_ instant: StoreInstant, sentAt: BootInstant) {
    guard (0..<NumberSource.tokenFloorEnd).contains(instant.microseconds) else { return }
    if let clock, clock.sentAt <= sentAt {
      let elapsed = (sentAt.nanoseconds - clock.sentAt.nanoseconds) / 1000
      guard instant.microseconds >= clock.instant.microseconds + elapsed - min(1_000_000, elapsed / 100) else { return }
    }
    clock = (instant, sentAt)
  }

  /// A token above all that the store has granted by its clock until now; nil where that is not known. Holders that are
  /// dead tell nobody of theirs.
  func tokenByClock(now: BootInstant) -> Token? {
    guard let clock, clock.sentAt <= now else { return nil }
    let elapsed = (now.nanoseconds - clock.sentAt.nanoseconds) / 1000
    return clock.instant.microseconds + elapsed / 100 * 101 + 1_000_000
  }
}

/// How far this host is with asking for the epoch on one connection.
struct EpochConfirmation {
  /// The question under way.
  private(set) var command: CommandID?
  /// When it is asked next; nil: not before something has happened.
  var at: BootInstant?
  /// When it is asked next, unless that is under way: what is asked then is decided by the answer.
  var due: BootInstant? { command == nil ? at : nil }
  /// When it was asked last.
  private(set) var askedAt: BootInstant?
  /// Whether the store has not named its epoch on this connection.
  private(set) var isFirst = true
  /// Whether it has, and nothing has put that in doubt.
  private(set) var isGood = false
  /// Whether a command was answered that its epoch is not the store's.
  var isDoubted = false
  /// The words in which it refused to name it; nil when it did not.
  private(set) var refusal: String?
  /// How often in a row it refused, or named the same epoch as before to somebody who was told that it is another.
  private(set) var refusals = 0
  /// The longest lease, in milliseconds, that this host has told the store of on this connection.
  private(set) var toldLeaseMilliseconds: Int64 = 0

  mutating func sent(_ command: CommandID, now: BootInstant) {
    self.command = command
    askedAt = now
    at = nil
  }

  mutating func refused(_ words: String) {
    command = nil
    refusal = words
    refusals += 1
  }

  /// It has named its epoch, `isAgain`: the one of which it was said that it is not the store's.
  mutating func answered(toldLeaseMilliseconds told: Int64, isAgain: Bool) {
    command = nil
    refusal = nil
    refusals = isAgain ? refusals + 1 : 0
    isFirst = false
    isDoubted = false
    isGood = true
    toldLeaseMilliseconds = told
  }

  /// The epoch has to be asked for anew before anything else.
  mutating func voided() { isGood = false }
}

extension EpochSight {
  /// No lease, and so no grace, is longer than this, in milliseconds: no setting allows for it.
  static let millisecondsMax: Int64 = 3_600_000
  /// A name with more bytes is nobody's.
  static let nameBytesMax = 512
}

extension EpochID {
  /// Whether a store can have named it. Scripts count in floating point numbers, and one more has to be exact, too.
  package var isSound: Bool {
    number >= 1 && number < 1 << 50 && (1...EpochSight.nameBytesMax).contains(text.utf8.count)
  }
}
