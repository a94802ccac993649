import LockEngine
import Testing

@testable import Sidecar

@Suite struct CommandQueueTests {
  private func acquire(_ id: UInt64, _ name: String) -> RedisLink.Pending {
    .lease(CommandID(id), .acquire(name: LockName(name), attempt: id, ask: id, isTry: false, tokenFloor: 0))
  }

  private func release(_ id: UInt64, _ name: String) -> RedisLink.Pending {
    .lease(CommandID(id), .release(name: LockName(name), attempt: id, unused: .all))
  }

  private func ids(_ queue: inout CommandQueue) -> [UInt64] {
    var ids: [UInt64] = []
    while let entry = queue.popFirst() {
      if case .lease(let id, _) = entry { ids.append(id.rawValue) }
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

  @Test func allAreGivenBackWhenTheConnectionIsGone() {
    var queue = CommandQueue()
    for id in 1...3 { queue.append(acquire(UInt64(id), "a"), of: UInt32(id)) }
    #expect(queue.removeAll().count == 3)
    #expect(queue.isEmpty && queue.popFirst() == nil)
  }
}
