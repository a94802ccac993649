import LockEngine
import Testing

@Suite struct SnapshotTests {
  @Test func namesComeInPagesInTheirOrder() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)), linkUp: false)
    script.open(alice)
    for name in ["b2", "a", "c", "b1", "b3"] { script.acquire(alice, name) }
    func page(_ prefix: String, after cursor: String?, _ limit: Int) -> [String] {
      script.engine.names(prefix: Array(prefix.utf8), after: cursor.map { LockName($0) }, limit: limit)
        .map(\.description)
    }
    #expect(page("", after: nil, 3) == ["a", "b1", "b2"])
    #expect(page("", after: "b2", 3) == ["b3", "c"])
    #expect(page("b", after: nil, 10) == ["b1", "b2", "b3"])
    #expect(page("b", after: "b3", 10).isEmpty)
    #expect(page("", after: nil, 0).isEmpty)
  }

  @Test func aLockShowsItsHolderAndItsFirstWaiters() {
    let script = Script()
    script.open(alice, bob, carol)
    script.hold(alice, token: 70)
    script.acquire(bob)
    script.acquire(carol)
    script.pass(milliseconds: 20)
    let snapshot = script.engine.snapshot(of: x, waitersMax: 1, now: script.now)
    #expect(snapshot?.holders.first?.session == alice)
    #expect(snapshot?.holders.first?.token == 70)
    #expect(snapshot?.holders.first?.heldMilliseconds == 20)
    #expect(snapshot?.waiters.map(\.session) == [bob])
    #expect(snapshot?.waitersTotal == 2)
    #expect(snapshot?.leaseState == .held)
    #expect(snapshot?.validMilliseconds == 8480)
    #expect(script.engine.snapshot(of: LockName("y"), waitersMax: 1, now: script.now) == nil)
  }
}
