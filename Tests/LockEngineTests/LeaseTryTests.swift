import LockEngine
import LockTypes
import Testing

/// Tries for what another host may have.
@Suite struct LeaseTryTests {
  let script = Script()

  @Test func aTryOnAnotherHostsLockWaitsForThatHostsWord() {
    script.open(alice)
    script.acquire(alice, wait: 0)
    #expect(
      script.take() == [
        .send(.only, CommandID(1), .acquire(name: x, attempt: 1, ask: 1, isTry: true, terms: .above(0)))
      ])
    script.reply(queued(), to: CommandID(1))
    #expect(script.take().isEmpty)
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 1)))
    let effects = script.take()
    #expect(effects.first?.refusal == .busy(.host("other"), of: x))
    #expect(effects.last == .send(.only, CommandID(2), .release(name: x, attempt: 1, unused: .all, terms: .above(0))))
  }

  @Test func aTryEndsWithoutThatWordAfterAShortWhile() {
    script.reconfigure { $0.storeTimeoutMilliseconds = 500 }
    script.open(alice)
    script.acquire(alice, wait: 0)
    script.reply(queued(), to: script.takeSent().first)
    script.pass(milliseconds: 499)
    #expect(script.take().isEmpty)
    script.pass(milliseconds: 1)
    #expect(script.take().first?.refusal == .busy(.host("other"), of: x))
  }

  @Test func aTryBehindAHostThatDoesNotListenEndsAtOnce() {
    script.open(alice)
    script.acquire(alice, wait: 0)
    script.reply(queued(listens: false), to: script.takeSent().first)
    #expect(script.take().first?.refusal == .busy(.host("other"), of: x))
  }

  @Test func aTryGetsTheLockThatTheHolderHandsOver() {
    script.open(alice)
    script.acquire(alice, wait: 0)
    script.reply(queued(), to: script.takeSent().first)
    script.feed(
      .pushReceived(.only, .granted(name: x, attempt: 1, LeaseGrant(token: 7, tokenCount: 10, othersWait: false))))
    #expect(script.take().compactMap(\.grantedToken) == [7])
  }

  @Test func aSecondTryIsNotAnsweredByWhatWasSaidToTheFirst() {
    script.open(alice, bob)
    script.acquire(alice, wait: 0)
    script.reply(queued(), to: script.takeSent().first)
    script.acquire(bob, wait: 0)
    #expect(script.sent() == [.acquire(name: x, attempt: 1, ask: 2, isTry: true, terms: .above(0))])
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 1)))
    #expect(script.take().map { $0.refusal != nil ? 1 : 0 } == [1])
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 2)))
    #expect(script.take().first?.refusal == .busy(.host("other"), of: x))
  }

  @Test func aLateAnswerToATryThatLeftDoesNotDecideTheNextOne() {
    script.open(alice, bob)
    let first = script.acquire(alice, wait: 0)
    script.reply(queued(), to: script.takeSent().first)
    script.cancel(alice, first)
    script.reply(.done, to: script.takeSent().first)
    #expect(script.engine.gauges.locks == 0)
    // The holder answered before it released; its answer is still under way.
    script.acquire(bob, wait: 0)
    let ask = script.takeSent().first
    script.feed(.pushReceived(.only, .inUse(name: x, ask: 1)))
    #expect(script.take().isEmpty)
    script.reply(granted(7), to: ask)
    #expect(script.take().compactMap(\.grantedSession) == [bob])
  }

  @Test func aTryBehindAForeignHolderIsBusyAtOnce() {
    script.open(alice)
    script.acquire(alice, wait: 0)
    script.reply(.foreign(expiresInMilliseconds: 5000), to: script.takeSent().first)
    #expect(script.take().first?.refusal == .busy(.foreign, of: x))
  }
}
