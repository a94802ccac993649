import LockTypes

/// A request that waits for a lock.
final class Waiter {
  let request: AcquireRequest
  let lock: LockRecord
  let since: BootInstant
  /// The request for several locks that waits here for the next of them.
  let partOf: MultiLockRequest?
  /// Its number among all waits of this host, in the order in which they were queued.
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
  /// Whether it was told that it waits (``LockEngine/recordWait(_:)``).
  var isRecorded = false
  /// When it came the lock was in use here, or others waited.
  var hasOthersAhead = false
  /// Whether those who watch were told that it waits (``LockEngine/observeWait(_:)``), or would have been.
  var isObserved = false
  /// The position that the client was told last; 0 before it was told any.
  var toldPosition = 0
  /// The trouble with the store that it was told last.
  var toldTrouble: StoreTrouble?
  /// Since when it waits, by the store's clock; nil until the store has said so, and where no search needs it.
  var began: StoreInstant? {
    didSet { partOf?.began = began }
  }
  /// The link over which the store was asked for `began`, without an answer; 0: none.
  var dateAskedOn: LinkNumber = 0
  /// Its search for a deadlock through other hosts.
  var search: DeadlockSearch?
  /// The last search that has come by, of each other wait.
  var searchesSeen: [WaitID: UInt64] = [:]
  /// Its place among all waiters, in the order in which they came into their queues; 0 while none of them was kept.
  var place: UInt64 = 0
  var mark = StateMark()
  /// All names of its request.
  var names: [LockName] { request.names }

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

/// The waiters of one lock, first come, first served: an intrusive linked list, so that leaving takes constant time.
struct WaiterQueue {
  private(set) var first: Waiter?
  private(set) var last: Waiter?
  private(set) var count = 0
  private(set) var tryCount = 0

  var isEmpty: Bool { count == 0 }

  /// The waiters in order. None may leave during the iteration.
  var live: some Sequence<Waiter> { sequence(first: first) { $0?.next }.lazy.compactMap { $0 } }

  /// The tries for which the store has not been asked.
  var triesBeforeAsking: [Waiter] { tries.filter { $0.ask == 0 } }

  /// The tries in order. They usually come first: a try is refused behind anybody who waits.
  var tries: [Waiter] { tries(atMost: tryCount) }

  /// The first `count` tries.
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
