import LockEngine
import LockTypes
import Testing

/// What the store is to grant lies above every token that this host knows of, whichever lock it was of: a store that has
/// lost its data may have a clock that is behind them.
@Suite struct TokenFloorTests {
  private func store() -> Script {
    let script = Script()
    script.open(alice, bob)
    return script
  }

  private func floors(_ commands: [LeaseCommand]) -> [Token] {
    commands.compactMap { command in
      switch command {
      case .acquire(_, _, _, _, let terms, _, _, _, _), .release(_, _, _, _, let terms), .downgrade(_, _, _, let terms),
        .reserve(_, _, _, let terms):
        terms.tokenFloor
      case .renew, .answerInUse, .heartbeat, .checkPlaces, .clock, .look, .hostMessage, .confirmEpoch, .reclaim: nil
      }
    }
  }

  @Test func oneLockIsAskedForAboveTheTokensOfAnother() {
    let script = store()
    script.hold(alice, "x", token: 100)
    script.acquire(bob, "y")
    #expect(floors(script.sent()) == [100])
  }

  @Test func aLockIsHandedOnAboveTheTokensOfAnother() {
    let script = store()
    script.hold(alice, "x", token: 100)
    script.hold(bob, "y", token: 7_000)
    script.release(alice, "x")
    #expect(floors(script.sent()) == [7_000])
  }

  /// A grant that came too late was not issued from here, but others had what lies below.
  @Test func aGrantThatNobodyWantsAnyMoreIsHeardOf() {
    let script = store()
    let wait = script.acquire(alice, "x")
    let ask = script.takeSent().first
    script.cancel(alice, wait)
    _ = script.take()
    script.reply(granted(500), to: ask)
    _ = script.take()
    script.acquire(bob, "y")
    #expect(floors(script.sent()) == [499])
  }

  /// The counter of one lock that somebody has set too high would leave few tokens to all others.
  @Test(arguments: [1 << 52 + 1, 1 << 53 - 100] as [Token]) func aTokenThatIsTooHighConcernsItsOwnLockAlone(
    _ token: Token
  ) {
    let script = store()
    script.hold(alice, "x", token: token)
    script.acquire(bob, "y")
    #expect(floors(script.sent()) == [0])
    script.release(alice, "x")
    #expect(floors(script.sent()) == [token])
  }

  @Test func theHighestTokenBelowIsKnown() {
    let script = store()
    script.hold(alice, "x", token: 1 << 52 - 1)
    script.acquire(bob, "y")
    #expect(floors(script.sent()) == [1 << 52 - 1])
  }

  /// Nothing is held or waited for any more when the process ends.
  @Test func theNextDaemonGoesOnAboveIt() {
    let script = store()
    script.hold(alice, "x", token: 100)
    script.release(alice, "x")
    script.reply(.done)
    let next = store()
    next.restore(SavedState(), numbers: script.engine.numbers)
    next.acquire(alice, "y")
    #expect(floors(next.sent()) == [100])
  }

  /// A release before kept four numbers; and what is damaged is no token.
  @Test(arguments: [[1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 1, 1, .max], [1, 1, 1, 1, 1 << 52]] as [[UInt64]])
  func numbersWithoutAFloorAreTaken(_ numbers: [UInt64]) {
    let script = store()
    script.restore(SavedState(), numbers: numbers)
    script.acquire(alice, "y")
    #expect(floors(script.sent()) == [0])
  }
}
