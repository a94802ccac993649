import SidelockClient
import Testing

@testable import sidelock

/// `sidelock run` inside `sidelock run`.
struct NestedWaitTests {
  static let outer = EnclosingRun(name: "a", token: 5, pid: 1, host: "h", session: "10")

  func lock(_ name: String, holders: JSONValue = .array([]), waiters: JSONValue = .array([]), permits: Int64? = nil)
    -> LockDescription
  {
    var lock = LockDescription(["name": .string(name), "holders": holders, "waiters": waiters, "holding": 1])
    lock.permits = permits
    return lock
  }

  static let ours: JSONValue = [["host": "h", "session": "10", "pid": 1, "token": 5]]
  static let theirs: JSONValue = [["host": "g", "session": "20", "pid": 2, "uid": 1000, "token": 6]]

  func nested(_ loudness: WaitNews.Loudness = .usual) -> Supervisor {
    var machine = Supervisor(
      options: .init(name: "b", loudness: loudness, enclosing: [Self.outer], names: ["b"]), now: 0)
    _ = machine.handle(.greeted(leaseMilliseconds: nil, host: "h", session: "11"), now: 1)
    return machine
  }

  @Test func theEnvironmentTellsOfTheRunsAround() {
    let second = EnclosingRun(name: "é \"x\"", token: 7, pid: 2, host: "h", session: "11")
    let text = EnclosingRun.text([Self.outer, second])
    #expect(EnclosingRun.inherited(text) == [Self.outer, second])
    #expect(EnclosingRun.inherited("nonsense") == [] && EnclosingRun.inherited(nil) == [])
    #expect(EnclosingRun.owner([Self.outer, second]) == "run h/11/10" && EnclosingRun.owner([]) == nil)
  }

  @Test func theOwnerHasRoomForTheInnermostRuns() throws {
    let runs = (0..<60).map { EnclosingRun(name: "a", token: 1, pid: 1, host: "h", session: "\(1000 + $0)") }
    let owner = try #require(EnclosingRun.owner(runs))
    #expect(owner.utf8.count <= 128 && owner.hasPrefix("run h/1059/1058/"))
  }

  @Test(arguments: [WaitNews.Loudness.usual, .quiet])
  func whoWouldWaitForItselfIsToldAtOnce(loudness: WaitNews.Loudness) {
    var machine = Supervisor(
      options: .init(name: "a", loudness: loudness, enclosing: [Self.outer], names: ["a"]), now: 0)
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    #expect(machine.handle(.waits(.init(name: "a")), now: 2) == [.inspect("a")])
    let effects = machine.handle(.inspected(name: "a", lock("a", holders: Self.ours)), now: 3)
    #expect(effects.first == .withdraw && effects.last == .exit(ExitStatus.deadlock))
  }

  @Test func aHoldThatEndedMeanwhileIsWaitedForLikeAnyOther() {
    // The token is another one.
    let other = lock("a", holders: [["host": "h", "session": "10", "token": 9]])
    #expect(NestedWait.wouldWaitForItself(other, [Self.outer]) == nil)
    // Another permit may become free.
    #expect(NestedWait.wouldWaitForItself(lock("a", holders: Self.ours), [Self.outer]) != nil)
    var permits = lock("a", holders: Self.ours, permits: 2)
    permits.holding = 2
    #expect(NestedWait.wouldWaitForItself(permits, [Self.outer]) == nil)
  }

  @Test func theYoungerOfTwoRunsThatCrossGivesUp() {
    let waiter: (Int64) -> JSONValue = { waited in
      [["host": "g", "session": "21", "pid": 3, "uid": 1000, "owner": "run g/20", "waited_ms": .int(waited)]]
    }
    var machine = nested()
    #expect(machine.handle(.waits(.init(name: "b")), now: 2) == [.inspect("b")])
    #expect(machine.handle(.inspected(name: "b", lock("b", holders: Self.theirs)), now: 3) == [.inspect("a")])
    var elder = machine
    let effects = machine.handle(.inspected(name: "a", lock("a", waiters: waiter(500))), now: 4)
    #expect(effects.first == .withdraw && effects.last == .exit(ExitStatus.deadlock))
    #expect(elder.handle(.inspected(name: "a", lock("a", waiters: waiter(1))), now: 400) == [])
    // Whoever should have given up has not.
    let late = elder.handle(
      .inspected(name: "a", lock("a", waiters: waiter(1))), now: NestedWait.giveWayMilliseconds)
    #expect(late.last == .exit(ExitStatus.deadlock))
  }

  @Test(arguments: ["", "run g/21", "run h/20", "run g/200", "other"])
  func othersWhoWaitAreNoDeadlock(owner: String) {
    var machine = nested()
    _ = machine.handle(.waits(.init(name: "b")), now: 2)
    _ = machine.handle(.inspected(name: "b", lock("b", holders: Self.theirs)), now: 3)
    let waiters: JSONValue = [["host": "g", "session": "21", "uid": 1000, "owner": .string(owner), "waited_ms": 500]]
    #expect(machine.handle(.inspected(name: "a", lock("a", waiters: waiters)), now: 4) == [])
  }

  @Test(arguments: [1001, nil] as [Int64?])
  func anOwnerThatAnotherUserHasChosenIsNoDeadlock(uid: Int64?) {
    var machine = nested()
    _ = machine.handle(.waits(.init(name: "b")), now: 2)
    _ = machine.handle(.inspected(name: "b", lock("b", holders: Self.theirs)), now: 3)
    let user: JSONValue = uid.map { .int($0) } ?? .null
    let waiters: JSONValue = [["host": "g", "session": "21", "uid": user, "owner": "run g/20", "waited_ms": 500]]
    let late = NestedWait.giveWayMilliseconds
    #expect(machine.handle(.inspected(name: "a", lock("a", waiters: waiters)), now: late) == [])
  }
}
