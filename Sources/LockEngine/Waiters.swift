import DequeModule

/// A request that waits for a lock.
final class Waiter {
  let request: AcquireRequest
  let lock: LockRecord
  let since: BootInstant
  /// The request for several locks that waits here for the next of them.
  let several: SeveralRequest?
  /// Its number among all that came into a queue of this host.
  var arrival: UInt64 = 0
  /// When it is answered without success.
  var deadline: BootInstant?
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
  /// Since when it waits, by the store's clock; nil until the store has said so, and where nobody needs to know.
  var began: StoreInstant? {
    didSet { several?.began = began }
  }
  /// The store was asked for that.
  var isBeingDated = false
  /// The search for a deadlock that goes through other hosts.
  var search: DeadlockSearch?
  /// The searches of other waits that have come by, the last of each.
  var searchesSeen: [WaitID: UInt64] = [:]
  var mark = StateMark()
  /// All locks that its client waits for.
  var names: [LockName] {
    switch (several?.request ?? request).target {
    case .one(let name): [name]
    case .several(let names): names
    }
  }

  init(
    _ request: AcquireRequest, lock: LockRecord, since: BootInstant, deadline: BootInstant?, several: SeveralRequest?
  ) {
    self.request = request
    self.lock = lock
    self.since = since
    self.deadline = deadline
    self.several = several
    lock.tally.counts.waiters += 1
    began = several?.began
  }

  deinit { lock.tally.counts.waiters -= 1 }

  var isTry: Bool { request.waitMilliseconds == 0 }
}

/// The waiters of one lock, first come, first served. One that leaves is marked and skipped, so that leaving costs
/// nothing however long the queue is.
struct WaiterQueue {
  private var entries = Deque<Waiter>()
  private(set) var count = 0
  private(set) var tryCount = 0

  var isEmpty: Bool { count == 0 }

  var first: Waiter? {
    mutating get {
      while let head = entries.first, head.isOver { entries.removeFirst() }
      return entries.first
    }
  }

  var last: Waiter? {
    mutating get {
      while let tail = entries.last, tail.isOver { entries.removeLast() }
      return entries.last
    }
  }

  /// Those who wait, in their order.
  var live: some Sequence<Waiter> { entries.lazy.filter { !$0.isOver } }

  /// Those among them that only try, and for which the store has not been asked.
  var triesBeforeAsking: [Waiter] { tries.filter { $0.ask == 0 } }

  /// Those among them that only try, in their order.
  var tries: [Waiter] { tryCount == 0 ? [] : entries.filter { !$0.isOver && $0.isTry } }

  mutating func append(_ waiter: Waiter) {
    entries.append(waiter)
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
    if count == 0 {
      // Most locks have one waiter in their life, and there can be very many locks.
      entries = []
    } else if entries.count > 64 && entries.count > 2 * count {
      entries.removeAll { $0.isOver }
    }
  }
}
