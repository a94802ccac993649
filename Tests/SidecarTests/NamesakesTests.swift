import RedisLeases
import SystemStrings
import Testing

@testable import Sidecar

/// Other daemons with the name of this host, which is `a`.
@Suite struct NamesakesTests {
  private let host: TestSidecar
  private var namesakes: Namesakes { host.core.parts.namesakes }

  init() throws {
    host = try TestSidecar()
    let calls = HostCalls(loop: host.loop, store: host.store, timeoutMilliseconds: { 100 })
    host.core.parts.namesakes.calls = calls
    host.core.parts.queries.hostCalls = calls
    host.core.heard(.down)
    host.core.heard(.up)
    host.endTurn()
    host.store.hostQuestions = []
  }

  /// Lets the time of the look come; Redis lists these daemons beside this one.
  private func look(_ inboxes: String...) throws {
    later(milliseconds: Namesakes.lookMilliseconds)
    let asked = host.store.hostQuestions.popLast()
    let completion = try #require(asked)
    #expect(host.store.hostQuestions.isEmpty)
    completion(.answer(inboxes + [host.core.parts.queries.inbox]))
    host.endTurn()
  }

  private func later(milliseconds: Int64) {
    host.clock.advance(milliseconds: milliseconds)
    host.loop.advanceTime(by: .milliseconds(milliseconds))
    host.endTurn()
  }

  /// Takes the questions that are open, and has these daemons answer.
  private func answer(_ inboxes: String...) {
    let calls = host.store.calls
    host.store.calls = []
    for call in calls where inboxes.contains(call.inbox) {
      #expect(HostQuestion(call.payload) == .about)
      host.core.heard(.answer(call.id, HostAnswer.encoding(version: "9")))
    }
    for call in calls where !inboxes.contains(call.inbox) { call.completion(0) }
    host.endTurn()
  }

  @Test func oneThatAnswersIsTold() throws {
    try look("a/2", "b/1", "ab/1")
    #expect(host.store.calls.map(\.inbox) == ["a/2"])
    answer("a/2")
    #expect(namesakes.told == [ExactText("a/2")])
    // Once.
    host.core.heard(.down)
    host.core.heard(.up)
    try look("a/2")
    #expect(host.store.calls.isEmpty)
  }

  @Test func oneThatWasKilledIsNone() throws {
    try look("a/2")
    answer()
    #expect(namesakes.told.isEmpty)
  }

  @Test func theLookIsLongAfterTheConnectionAndOnce() throws {
    later(milliseconds: Namesakes.lookMilliseconds - 1)
    #expect(host.store.hostQuestions.isEmpty)
    later(milliseconds: 1)
    #expect(host.store.hostQuestions.count == 1)
    later(milliseconds: 10 * Namesakes.lookMilliseconds)
    #expect(host.store.hostQuestions.count == 1)
  }
}
