import LockTypes

/// A request for several locks, or for one that replicas have to have before its client is told. It takes them one by one in the order of their names, which is the same on every host,
/// so no two such requests can wait for each other. Its client hears of none before it has all.
final class MultiLockRequest {
  let request: AcquireRequest
  /// In the order in which they are taken.
  let order: [LockName]
  let since: BootInstant
  let deadline: BootInstant?
  /// The locks of `order` that it has so far. A re-entered hold is counted once more when it has all.
  var taken: [(hold: Hold, isReentered: Bool)] = []
  var waiter: Waiter?
  /// Since when it waits, by the store's clock, as soon as one of its waits was dated.
  var began: StoreInstant?
  var isOver = false
  /// Somebody was ahead of it at one of its locks.
  var hasWaited = false
  /// It is in the list of those that can go on.
  var isReady = false
  /// It has all of them, and replicas have to have them before its client is told.
  var acknowledging: Acknowledging?
  var mark = StateMark()
  private let tally: RecordTally

  init(
    _ request: AcquireRequest, since: BootInstant, deadline: BootInstant?, tally: RecordTally
  ) {
    self.request = request
    order = request.names.sorted()
    self.since = since
    self.deadline = deadline
    self.tally = tally
    tally.counts.severalRequests += 1
  }

  deinit { tally.counts.severalRequests -= 1 }

  /// How far it is with waiting for replicas. It waits for no client meanwhile.
  struct Acknowledging {
    /// Since when.
    let since: BootInstant
    /// Until when they may take.
    let until: BootInstant
    /// Questions to the store that are not answered.
    var asked: [AcknowledgementID] = []
    /// What enough replicas had when they were last asked, shard by shard.
    var answered: [CoveredLeases] = []
  }

  /// Clears and returns what it has taken so far. Waiter, holds and request refer to each other: every ending breaks
  /// this cycle here.
  func letGoOfTaken() -> [(hold: Hold, isReentered: Bool)] {
    defer { taken = [] }
    for (hold, _) in taken where hold.partOf === self { hold.partOf = nil }
    return taken
  }

  /// Marks it as decided and returns what it had taken.
  @discardableResult
  func finish() -> [(hold: Hold, isReentered: Bool)] {
    isOver = true
    waiter = nil
    return letGoOfTaken()
  }

  /// Whether the deadline has passed. A try has none here: each of its asks has its own bound.
  func isLate(at now: BootInstant) -> Bool {
    guard request.waitMilliseconds != 0, let deadline else { return false }
    return deadline <= now
  }
}
