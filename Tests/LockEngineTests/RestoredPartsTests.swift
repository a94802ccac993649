import LockTypes
import Testing

@testable import LockEngine

/// Holds that are parts of requests whose clients were told of none of them, after a restart.
@Suite struct RestoredPartsTests {
  private let two = ReplicaNeed(replicas: 2)

  /// In the order of their numbers its wait comes behind, but what it has is its own.
  @Test func anotherRequestOfItsOwnerDoesNotReenterItAfterARestart() throws {
    let kept = Kept()
    kept.script.acquire(alice, wait: 5000, owner: "o", need: two)
    kept.script.reply(granted(100))
    #expect(kept.script.takeAsked().count == 1)
    kept.script.acquire(alice, all: ["x"], wait: 5000, owner: "o")
    _ = kept.script.take()
    try kept.restart()
    let script = kept.script
    #expect(script.take().isEmpty)
    #expect(script.engine.gauges.waiting == 2)
  }

  @Test func ofADamagedStateAHoldIsAPartOfOneRequestAlone() throws {
    let kept = Kept()
    kept.script.acquire(alice, wait: 5000, need: two)
    kept.script.reply(granted(100))
    #expect(kept.script.takeAsked().count == 1)
    try kept.restart { state in
      var twin = state.waits[0]
      twin.request = RequestID(99)
      twin.place += 1
      state.waits.append(twin)
    }
    let script = kept.script
    #expect(script.take().isEmpty && script.engine.gauges.waiting == 2)
    script.feed(.linkUp(.only))
    _ = script.take()
    script.reply(.renewed([.held]), to: CommandID(1))
    let asked = script.takeAsked(ignoringOthers: true)
    #expect(asked.count == 1)
    script.answer(asked, .enough(replicas: 2))
    #expect(script.take().compactMap(\.grantedToken) == [100])
    #expect(script.engine.gauges.held == 1 && script.engine.gauges.waiting == 1)
  }
}
