import LockTypes

/// A request that waits for a lock.
final class Waiter {
  let request: AcquireRequest
  let lock: LockRecord
  let since: BootInstant
  /// The request for several locks that waits here for the next of them.
  let partOf: MultiLockRequest?
  /// Its number among all that came into a queue of this host.
  var arrival: UInt64 = 0
  /// When it is answered without success.
  var deadline: BootInstant?
  /// Its neighbours in the queue; nil when it is not in it.
  var next: Waiter?
  var previous: Waiter?
  /// For a try: the ask whose answer decides it.
  var ask: UInt64 = 0
  /// For a try: whether the store has said that another host holds the lock.
  var knowsHolder = false
  /// For a try: how many holders have to say that they use it, and to which ask they answer.
  var answersWanted = 0
  var answersToAsk: UInt64 = 0
  var isOver = false
  /// The position that the client was told last; 0 before it was told any.
  var toldPosition = 0
  /// What it was told that it waits for the store for.
  var toldTrouble: StoreTrouble?
  /// Since when it waits, by the store's clock; nil until the store has said so, and where nobody needs to know.
  var began: StoreInstant? {
    didSet { partOf?.began = began }
  }
  /// The link on which the store was asked for that, and has not answered; 0: on none.
  var dateAskedOn: LinkNumber = 0
  /// The search for a deadlock that goes through other hosts.
  var search: DeadlockSearch?
  /// The searches of other waits that have come by, the last of each.
  var searchesSeen: [WaitID: UInt64] = [:]
  var mark = StateMark()
  /// All locks that its client waits for.
  var names: [LockName] {
    switch (partOf?.request ?? request).target {
    case .one(let name): [name]
    case .several(let names): names
    }
  }

  init(
    _ request: AcquireRequest, lock: LockRecord, since: BootInstant, deadline: BootInstant?, partOf: MultiLockRequest?
  ) {
    self.request = request
    self.lock = lock
    self.since = since
    self.deadline = deadline
    self.partOf = partOf
    lock.tally.counts.waiters += 1
    began = partOf?.began
  }

  deinit { lock.tally.counts.waiters -= 1 }

  var isTry: Bool { request.waitMilliseconds == 0 }
}

/// The waiters of one lock, first come, first served. They are linked, so that whoever leaves does so at once, however many
/// there are.
struct WaiterQueue {
  private(set) var first: Waiter?
  private(set) var last: Waiter?
  private(set) var count = 0
  private(set) var tryCount = 0

  var isEmpty: Bool { count == 0 }

  /// Those who wait, in their order. None of them may leave while they are gone through.
  var live: some Sequence<Waiter> { sequence(first: first) { $0?.next }.lazy.compactMap { $0 } }

  /// Those among them that only try, and for which the store has not been asked.
  var triesBeforeAsking: [Waiter] { tries.filter { $0.ask == 0 } }

  /// Those among them that only try, in their order. A try is refused behind anybody who waits, so that they come first.
  var tries: [Waiter] { tries(atMost: tryCount) }

  /// The first so many of those that only try.
  func tries(atMost count: Int) -> [Waiter] {
    let most = min(count, tryCount)
    var found: [Waiter] = []
    var next = first
    while let waiter = next, found.count < most {
      if waiter.isTry { found.append(waiter) }
      next = waiter.next
    }
    return found
  }

  mutating func append(_ waiter: Waiter) {
    waiter.previous = last
    if let last { last.next = waiter } else { first = waiter }
    last = waiter
    waiter.lock.changes?.touch(waiter)
    count += 1
    if waiter.isTry { tryCount += 1 }
  }

  /// Takes `waiter` out; it must be waiting here.
  mutating func remove(_ waiter: Waiter) {
    waiter.isOver = true
    waiter.lock.changes?.touch(waiter)
    count -= 1
    if waiter.isTry { tryCount -= 1 }
    let (previous, next) = (waiter.previous, waiter.next)
    if let previous { previous.next = next } else { first = next }
    if let next { next.previous = previous } else { last = previous }
    waiter.previous = nil
    waiter.next = nil
  }
}
