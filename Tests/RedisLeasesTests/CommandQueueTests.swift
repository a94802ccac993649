import LockEngine
import LockTypes
import RESP
import Testing

@testable import RedisLeases

@Suite struct CommandQueueTests {
  private func acquire(_ id: UInt64, _ name: String) -> LinkCommand {
    .lease(
      CommandID(id),
      .acquire(name: LockName(name), attempt: id, ask: id, isTry: false, terms: GrantTerms(tokenFloor: 0)))
  }

  private func release(_ id: UInt64, _ name: String) -> LinkCommand {
    .lease(CommandID(id), .release(name: LockName(name), attempt: id, unused: .all))
  }

  private func ids(_ queue: inout CommandQueue) -> [UInt64] {
    var ids: [UInt64] = []
    while let (command, _) = queue.popFirst() {
      if case .lease(let id, _, _) = command { ids.append(id.rawValue) }
    }
    return ids
  }

  @Test func usersTakeTurns() {
    var queue = CommandQueue()
    for id in 1...5 { queue.append(acquire(UInt64(id), "a\(id)"), of: 1000) }
    queue.append(acquire(11, "b"), of: 1001)
    queue.append(acquire(12, "c"), of: 1001)
    queue.append(acquire(21, "d"), of: nil)
    #expect(queue.count == 8)
    #expect(ids(&queue) == [1, 11, 21, 2, 12, 3, 4, 5])
    #expect(queue.isEmpty)
    // And from the beginning.
    queue.append(acquire(31, "a"), of: 1001)
    queue.append(acquire(32, "b"), of: 1000)
    #expect(ids(&queue) == [31, 32])
  }

  @Test func whatIsAboutOneLockKeepsItsOrder() {
    var queue = CommandQueue()
    queue.append(acquire(1, "a"), of: 1000)
    queue.append(acquire(2, "b"), of: 1000)
    queue.append(release(3, "x"), of: 1000)
    queue.append(acquire(4, "x"), of: 1001)
    queue.append(release(5, "x"), of: 1002)
    queue.append(acquire(6, "y"), of: 1001)
    #expect(ids(&queue) == [1, 6, 2, 3, 4, 5])
    // Nothing is remembered of a lock when nothing waits.
    queue.append(acquire(7, "a"), of: 1000)
    queue.append(acquire(8, "b"), of: 1000)
    queue.append(acquire(9, "x"), of: 1001)
    #expect(ids(&queue) == [7, 9, 8])
  }

  /// Whoever's row it is in, it counts for who has asked for it.
  @Test func memoryIsThatOfWhoAsks() {
    var queue = CommandQueue()
    let one = acquire(1, "x").memory
    queue.append(acquire(1, "x"), of: 1000)
    queue.append(release(2, "x"), of: 1001)
    queue.append(acquire(3, "y"), of: 1001)
    #expect(queue.memory(of: 1000) == one && queue.memory(of: 1001) == 2 * one && queue.memory(of: nil) == 0)
    _ = queue.popFirst()
    #expect(queue.memory(of: 1000) == 0 && queue.memory(of: 1001) == 2 * one)
    _ = queue.removeAll()
    #expect(queue.memory(of: 1001) == 0)
  }

  @Test func allAreGivenBackWhenTheConnectionIsGone() {
    var queue = CommandQueue()
    for id in 1...3 { queue.append(acquire(UInt64(id), "a"), of: UInt32(id)) }
    #expect(queue.removeAll().count == 3)
    #expect(queue.isEmpty && queue.popFirst() == nil)
  }

  @Test func whoHasHisShareInFlightIsPassedOver() {
    var queue = CommandQueue()
    for id in 1...3 { queue.append(acquire(UInt64(id), "a\(id)"), of: 1000) }
    queue.append(acquire(11, "b"), of: 1001)
    #expect(queue.popFirst { $0 != 1000 }?.user == 1001)
    #expect(queue.popFirst { $0 != 1000 } == nil)
    #expect(queue.count == 3)
    #expect(ids(&queue) == [1, 2, 3])
  }

  @Test func whatIsInFlightWeighsOnWhoAskedForIt() {
    var pending = PendingCommands()
    let first = pending.append(.query(1, .plain([]), weight: 256), of: 1000)
    let second = pending.append(acquire(1, "a"), of: 1000)
    _ = pending.append(acquire(2, "b"), of: nil)
    #expect(pending.count == 3 && pending.weight == 258)
    #expect(pending.weight(of: 1000) == 257 && pending.weight(of: nil) == 1 && pending.weight(of: 7) == 0)
    _ = pending.remove(first)
    #expect(pending.remove(first) == nil)
    #expect(pending.count == 2 && pending.weight == 2 && pending.weight(of: 1000) == 1)
    _ = pending.remove(second)
    #expect(pending.weight(of: 1000) == 0)
    #expect(pending.removeAll().count == 1)
    #expect(pending.isEmpty && pending.weight == 0 && pending.weight(of: nil) == 0)
  }
}
