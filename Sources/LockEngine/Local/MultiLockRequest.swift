import LockTypes

/// A request for several locks: it takes them one after the other, in the order of their names, which is the same for
/// everybody on every host, so that no two such requests can wait for each other. Its client hears of none before it
/// has all.
final class MultiLockRequest {
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
    for (hold, _) in taken where hold.partOf === self { hold.partOf = nil }
    return taken
  }

  /// It is decided. Gives what it had taken.
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
