import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// How a daemon ends: `Lifecycle`, `Handover`.
@Suite struct StopTests {
  @Test func whoHasSpokenIsToldAndEverythingIsGivenBack() throws {
    let host = try TestSidecar()
    let (a, silent) = (try host.connect("a"), try host.connect("silent"))
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    host.journal.lines = []
    host.life.stop()
    host.endTurn()
    host.timerFires()
    #expect(host.journal.lines.contains("store: release x"))
    #expect(a.text.contains(#""method":"draining""#))
    #expect(silent.text == "")
    #expect(!host.isStopped)
    // What is asked now is refused.
    try a.acquire("y", id: 2)
    host.endTurn()
    #expect(a.text.contains("shutting_down"))
    // Redis has it back: that was the last thing to wait for.
    let release = try #require(host.store.sent.last)
    host.core.heard(.reply(release.id, .done))
    host.endTurn()
    #expect(host.isStopped)
    #expect(host.store.isStopped)
    #expect(!a.isConnected && !silent.isConnected)
  }

  @Test func nobodyIsServedWhileItDrains() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    host.life.stop()
    host.endTurn()
    let late = try host.connect("late")
    host.endTurn()
    #expect(late.text.contains("shutting_down"))
    #expect(!late.isConnected)
  }

  /// A store that does not answer keeps it from its end for so long, and no longer.
  @Test func theDrainHasAnEnd() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    host.life.stop()
    host.loop.advanceTime(by: .milliseconds(Lifecycle.drainMillisecondsMax - 1))
    #expect(!host.isStopped)
    host.loop.advanceTime(by: .milliseconds(1))
    #expect(host.isStopped)
  }

  /// The last replies are waited for, but not for a client that takes nothing.
  @Test func whoReadsNothingKeepsItFromItsEndForAWhileOnly() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    try a.ping(id: 1)
    host.endTurn()
    a.stallSilently()
    host.life.stop()
    host.endTurn()
    #expect(!host.isStopped)
    host.loop.advanceTime(by: .milliseconds(Lifecycle.closeMillisecondsMax))
    #expect(host.isStopped)
    #expect(!a.isConnected)
  }

  @Test func whereNothingIsKeptNothingIsHandedOver() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    #expect(!host.life.handover.handOver(to: nil))
    // It goes on.
    try a.ping(id: 2)
    host.endTurn()
    #expect(a.text.contains(#""id":2"#))
    #expect(host.life.stages.stage == .serving)
  }

  /// A daemon for which the locks would be others has no use for them.
  @Test func nothingIsHandedOverToADaemonWithOtherLocks() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    var next = host.core.configuration.settings
    next.keyPrefix = "other:"
    #expect(!host.life.handover.handOver(to: next))
    #expect(host.life.stages.stage == .serving)
    next = host.core.configuration.settings
    next.host = "b"
    #expect(!host.life.handover.handOver(to: next))
    #expect(host.life.stages.stage == .serving)
  }

  @Test func whereTheManagerKeepsNothingNothingIsHandedOver() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    #expect(host.core.keeper?.isUsable == true)
    #expect(!host.life.handover.handOver(to: nil))
    #expect(host.life.stages.stage == .serving)
  }

  @Test(arguments: [
    LifeStage.Stage.starting, .handedOver, .draining, .closing, .stopped,
  ])
  func nothingIsHandedOverByADaemonThatDoesNotServe(_ stage: LifeStage.Stage) throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    host.life.stages.stage = stage
    #expect(!host.life.handover.handOver(to: nil))
    #expect(host.life.stages.stage == stage)
    host.life.stages.stage = .serving
  }

  /// Everything is left: clients are not read from, those that are not kept are told, and nothing is given back.
  @Test func aHandOverLeavesClientsAndLocks() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    #expect(host.life.handover.handOver(to: nil))
    #expect(host.life.stages.stage == .handingOver)
    #expect(!a.isReadFrom)
    #expect(try host.kept().engine.heldNames == ["x"])
    #expect(!a.text.contains("draining"))
    // A second wish, and a stop, mean the same.
    #expect(!host.life.handover.handOver(to: nil))
    host.life.stop()
    #expect(host.life.stages.stage == .handingOver)
    host.endTurn()
    #expect(host.life.stages.stage == .handedOver)
    #expect(host.isStopped)
    #expect(try host.kept().engine.heldNames == ["x"])
  }

  /// Those that cannot be left are told in slices, and what is asked meanwhile is left to the next daemon.
  @Test func aHandOverWithManyClientsTakesManyTurns() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let clients = try (0..<120).map { try host.connect("\($0)") }
    for (number, client) in clients.enumerated() { try client.acquire("\(number)") }
    host.endTurn()
    let kept = try host.kept().engine.heldNames.count
    #expect(kept > 50 && kept < 100)
    // Ten looks at the clock, and the slice is over.
    host.clock.goOn(by: 100_000)
    #expect(host.life.handover.handOver(to: nil))
    func toldCount() -> Int { clients.count { $0.text.contains(#""reason":"shutdown""#) } }
    var (turns, told) = (0, 0)
    let last = try #require(clients.last)
    while host.life.stages.stage != .handedOver, turns < 100 {
      host.endTurn()
      if turns == 0 { try last.acquire("late", id: 2) }
      #expect(toldCount() - told <= 12)
      told = toldCount()
      host.loop.advanceTime(by: .milliseconds(1))
      turns += 1
    }
    #expect(told == 120 - kept && turns >= (120 - kept) / 12)
    #expect(!last.text.contains(#""id":2"#))
    #expect(try host.kept().engine.heldNames.count == kept && host.isStopped)
  }

  /// The end of the wait for those that are not kept may come in the middle of a turn.
  @Test func whatTheLastTurnGrantedIsLeftWithItsReply() throws {
    let host = try TestSidecar(keeping: true, managerReads: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    while host.core.keeper?.hasRoom == true { _ = try host.connect("idle").acquire("y"); host.endTurn() }
    let slow = try host.connect("slow")
    try slow.ping(id: 1)
    try a.acquire("z", id: 2)
    host.endTurn()
    slow.stallSilently()
    #expect(host.life.handover.handOver(to: nil))
    host.endTurn()
    #expect(host.life.stages.stage == .handingOver)
    try host.grant("z")
    var atFlush: [String] = []
    let flush = host.life.handover.flushStore
    host.life.handover.flushStore = {
      atFlush = (try? host.kept().engine.heldNames) ?? []
      flush()
    }
    slow.read()
    #expect(host.life.stages.stage == .handedOver)
    let left = try host.kept()
    #expect(left.engine.heldNames.contains("z") && atFlush.contains("z"))
    let replies = left.outputs.map { String(decoding: $0.bytes, as: UTF8.self) }
    #expect(replies.count { $0.contains(#""id":2"#) } == 1 && replies.count == 1)
    #expect(!a.text.contains(#""id":2"#))
  }

  /// The sweep of clients that have nothing to lose comes when it comes.
  @Test func idleClientsAreLeftHoweverLongTheHandOverTakes() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let (a, idle) = (try host.connect("a"), try host.connect("idle"))
    for client in [a, idle] { try client.acquire("of \(client === a)") }
    try idle.release("of false", id: 2)
    host.endTurn()
    host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds))
    // A slice of one session, and half a sweep between two of them.
    host.clock.goOn(by: 1_000_000)
    #expect(host.life.handover.handOver(to: nil))
    for _ in 0..<3 where host.life.stages.stage != .handedOver {
      host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds))
    }
    #expect(host.life.stages.stage == .handedOver)
    #expect(idle.isConnected && a.isConnected)
    #expect(try host.kept().sessions.count == 2)
  }

  /// Where nobody has said whether another daemon follows, what cannot be left is given back.
  @Test func whatCannotBeLeftIsGivenBack() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    host.life.end(before: nil)
    host.endTurn()
    #expect(a.text.contains(#""method":"draining""#))
    #expect(host.isStopped)
  }
}
