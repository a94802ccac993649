import LockEngine
import LockTypes
import Testing

@Suite struct SnapshotTests {
  @Test func namesComeInPagesInTheirOrder() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)), linkUp: false)
    script.open(alice)
    for name in ["b2", "a", "c", "b1", "b3"] { script.acquire(alice, name) }
    func page(_ prefix: String, after cursor: String?, _ limit: Int) -> [String] {
      script.engine.names(prefix: Array(prefix.utf8), after: cursor.map { LockName($0) }, limit: limit)
        .page.map(\.description)
    }
    #expect(page("", after: nil, 3) == ["a", "b1", "b2"])
    #expect(page("", after: "b2", 3) == ["b3", "c"])
    #expect(page("b", after: nil, 10) == ["b1", "b2", "b3"])
    #expect(page("b", after: "b3", 10).isEmpty)
    #expect(page("", after: nil, 0).isEmpty)
    script.release(alice, "b2")
    #expect(page("b", after: "b1", 10) == ["b3"])
    #expect(script.engine.names(prefix: [], after: nil, limit: 2).next == LockName("b1"))
    #expect(script.engine.names(prefix: [], after: nil, limit: 4).next == nil)
  }

  /// The index against a plain list, with more names than it keeps in a row.
  @Test func everyNameIsFoundHoweverManyThereAre() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)), linkUp: false)
    script.open(alice)
    let all = (0..<3000).map { "\($0 * 7919 % 3000)" }
    for name in all { script.acquire(alice, name) }
    for name in all where name.hasSuffix("3") || name.hasPrefix("1") { script.release(alice, name) }
    let left = all.filter { !$0.hasSuffix("3") && !$0.hasPrefix("1") }.map { LockName($0) }.sorted()
    var found: [LockName] = []
    var cursor: LockName?
    repeat {
      let (page, next) = script.engine.names(prefix: [], after: cursor, limit: 100)
      found += page
      cursor = next
    } while cursor != nil
    #expect(found == left)
    #expect(script.engine.names(prefix: Array("1".utf8), after: nil, limit: 10).page.isEmpty)
    let some = script.engine.names(prefix: Array("25".utf8), after: LockName("2"), limit: 5000).page
    #expect(some == left.filter { $0.hasPrefix(Array("25".utf8)) })
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
