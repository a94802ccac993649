import AccessPolicy
import ClientProtocol
import LockTypes
import NIOCore
import RedisLeases
import Testing

@testable import LockEngine
@testable import Sidecar

/// Watches of all hosts: `HeardHosts` asks, `WatchBook` tells.
@Suite struct WatchAllTests {
  private let host: TestSidecar

  init() throws {
    host = try TestSidecar {
      let secret = AccessRule(
        verdict: .deny, rights: .inspect, names: .beginning(Array("secret/".utf8)), subjects: [.user(1001)])
      $0.live.policy = AccessPolicy(rules: [secret])
    }
    host.core.parts.watches.others.calls = HostCalls(
      loop: host.loop, store: host.store, timeoutMilliseconds: { 100 })
    host.core.parts.queries.hostCalls = host.core.parts.watches.others.calls
  }

  // MARK: The host that is asked

  private func ask(
    _ targets: [WatchTarget] = [.prefix(Array("jobs/".utf8))], by inbox: String = "b/1", stream: UInt64 = 0,
    since: UInt64 = 0
  ) throws -> EventReport {
    let question = HostQuestion.events(targets, stream: stream, since: since)
    #expect(HostQuestion(question.encoded) == question)
    host.core.heard(.call(5, from: inbox, question.encoded))
    host.endTurn()
    return try #require(host.store.answers.last.flatMap { EventReport($0[...]) })
  }

  /// A client gets locks of these names, one after the other.
  private func take(_ names: String..., by client: TestClient) throws {
    for name in names {
      try client.acquire(name)
      host.endTurn()
      try host.grant(name)
      host.endTurn()
    }
  }

  private func later(milliseconds: Int64) {
    host.clock.advance(milliseconds: milliseconds)
    host.loop.advanceTime(by: .milliseconds(milliseconds))
  }

  @Test func whatHappensIsKeptUntilTheNextQuestionShowsThatItWasHeard() throws {
    let client = try host.connect("c", uid: 1002)
    try take("jobs/0", by: client)
    #expect(host.core.engine.observers == 0)
    let begun = try ask([.prefix(Array("jobs/".utf8)), .name(LockName("jobs/1"))])
    #expect(begun.entries.isEmpty && begun.stream != 0 && host.core.engine.observers > 0)
    try take("jobs/1", "other", "jobs/2", by: client)
    later(milliseconds: 300)
    // What several targets cover is told once; an answer that was lost is told again.
    for _ in 0..<2 {
      let report = try ask(stream: begun.stream, since: begun.next)
      #expect(report.stream == begun.stream && report.first == begun.next)
      let acquired = report.entries.filter { if case .acquired = $0.event { true } else { false } }
      #expect(acquired.map(\.name) == [LockName("jobs/1"), LockName("jobs/2")])
      #expect(report.entries.allSatisfy { $0.ageMilliseconds == 300 })
    }
    let report = try ask(stream: begun.stream, since: begun.next)
    #expect(try ask(stream: begun.stream, since: report.next).entries.isEmpty)
    // Who begins anew is told nothing of before.
    try take("jobs/3", by: client)
    #expect(try ask().entries.isEmpty)
  }

  @Test func whoAsksNoLongerCostsNothing() throws {
    _ = try ask()
    later(milliseconds: 4000)
    _ = try ask()
    later(milliseconds: 4000)
    #expect(host.core.engine.observers > 0)
    later(milliseconds: WatchBook.toldMilliseconds)
    #expect(host.core.engine.observers == 0)
    #expect(host.core.parts.watches.count == 0)
  }

  @Test func whatIsMoreThanIsKeptIsCounted() throws {
    let begun = try ask([.prefix([])])
    let client = try host.connect("c", uid: 1002)
    try take("x", by: client)
    for id in 0..<600 {
      try client.acquire("x", id: 2 * id + 10, more: #","wait_ms":0,"owner":"o""#)
      try client.send(#"{"id":\#(2 * id + 11),"method":"release","params":{"name":"x"}}"#)
      try take("x", by: client)
      try client.release("x", id: 5000 + id)
      host.endTurn()
    }
    let report = try ask([.prefix([])], stream: begun.stream, since: begun.next)
    #expect(report.first > begun.next && report.entries.count > 100)
    #expect(Int(report.next - report.first) == report.entries.count)
    let bytes = try #require(host.store.answers.last).count
    #expect(bytes <= PackedFields.bytesMax && bytes > 20_000)
  }

  @Test func asManyHostsAreToldAsThereIsRoomFor() throws {
    for number in 0..<WatchBook.toldHostsMax { #expect(try ask(by: "h\(number)/1").stream != 0) }
    #expect(try ask(by: "one too many/1").stream == 0)
    #expect(try ask(by: "h0/1").stream != 0)
    later(milliseconds: 2 * WatchBook.toldMilliseconds)
    #expect(try ask(by: "one too many/1").stream != 0)
  }

  @Test func answersOfAnyBytesAreRead() {
    var random = SystemRandomNumberGenerator()
    var good = EventReport.encoding(stream: 7, first: 3)
    let events: [LockEvent] = [
      .acquired(SessionID(1), 5, .permit(of: 3)), .released(SessionID(1), 5), .lost(SessionID(1), 5, .maxHold),
      .waiting(SessionID(2), waiters: 4), .gaveUp(SessionID(2), waiters: 0),
    ]
    for event in events {
      EventReport.append(EventReport.encoding(LockName("x"), event), ageMilliseconds: 9, to: &good)
    }
    // Of a later release.
    EventReport.append([0x30], ageMilliseconds: 1, to: &good)
    let report = EventReport(good[...])
    #expect(report?.entries.map(\.event) == events && report?.first == 3 && report?.next == 9)
    for _ in 0..<5000 {
      var bytes = good
      for _ in 0..<3 {
        bytes[Int.random(in: bytes.indices, using: &random)] = .random(in: .min ... .max, using: &random)
      }
      bytes.removeLast(Int.random(in: 0...bytes.count, using: &random))
      _ = EventReport(bytes[...])
      _ = HostQuestion(bytes)
    }
  }

  // MARK: The host that asks

  private func watch(_ client: TestClient, _ id: Int = 1, more: String = #""prefix":"""#) throws {
    try client.send(#"{"id":\#(id),"method":"watch","params":{\#(more),"scope":"all"}}"#)
    host.endTurn()
    later(milliseconds: 0)
  }

  /// Answers which hosts there are.
  private func found(_ inboxes: String...) throws {
    let asked = host.store.hostQuestions.popLast()
    let completion = try #require(asked)
    completion(.answer(inboxes + [host.core.parts.queries.inbox]))
    host.endTurn()
  }

  /// Takes the one question that is open.
  private func question() throws -> (HostQuestion, UInt64) {
    let call = try #require(host.store.calls.first)
    host.store.calls.removeFirst()
    return (try #require(HostQuestion(call.payload)), call.id)
  }

  private func answer(_ id: UInt64, _ bytes: [UInt8]) {
    host.core.heard(.answer(id, bytes))
    host.endTurn()
  }

  /// What a host tells.
  private func report(_ stream: UInt64, first: UInt64, _ names: String...) -> [UInt8] {
    var bytes = EventReport.encoding(stream: stream, first: first)
    for name in names {
      EventReport.append(
        EventReport.encoding(LockName(name), .released(SessionID(3), 77)), ageMilliseconds: 20, to: &bytes)
    }
    return bytes
  }

  /// Watches, and hears a host.
  private func hear(_ clients: TestClient...) throws {
    for client in clients { try watch(client) }
    try found("b/1")
    let (about, first) = try question()
    #expect(about == .about)
    answer(first, HostAnswer.encoding(version: "9"))
    let (events, second) = try question()
    #expect(events == .events([.prefix([])], stream: 0, since: 0))
    answer(second, report(7, first: 0))
  }

  /// Lets a round begin, and answers its question.
  private func round(_ bytes: [UInt8], expecting expected: HostQuestion) throws {
    later(milliseconds: HeardHosts.askMilliseconds)
    let (asked, id) = try question()
    #expect(asked == expected)
    answer(id, bytes)
  }

  @Test func eventsOfOtherHostsAreTold() throws {
    let client = try host.connect("c", uid: 1002)
    try hear(client)
    #expect(client.text.hasSuffix(#""method":"host","params":{"host":"b","state":"heard"}}"# + "\n"))
    try round(report(7, first: 0, "x"), expecting: .events([.prefix([])], stream: 7, since: 0))
    let told =
      #""params":{"watch":1,"kind":"released","name":"x","session":"3","token":77,"host":"b","age_ms":20}}"# + "\n"
    #expect(client.text.hasSuffix(told))
    // Three are missing.
    try round(report(7, first: 4, "y"), expecting: .events([.prefix([])], stream: 7, since: 1))
    #expect(client.text.contains(#""method":"missed","params":{"count":3,"host":"b"}}"#))
    // The host has forgotten this one, and nobody knows what is missing.
    try round(report(8, first: 0), expecting: .events([.prefix([])], stream: 7, since: 5))
    #expect(client.text.hasSuffix(#""method":"missed","params":{"count":1,"host":"b"}}"# + "\n"))
    try round(report(8, first: 0), expecting: .events([.prefix([])], stream: 8, since: 0))
    // What happens here has the name of this host, and of whom it is.
    try take("here", by: client)
    let here = #""name":"here","session":"1","token":100,"mode":"exclusive","uid":1002,"host":"a"}}"#
    #expect(client.text.contains(here))
    // Who begins later is told who is heard, and its names are asked for, too.
    let other = try host.connect("d", uid: 1002)
    try watch(other, more: #""name":"n""#)
    #expect(!other.text.contains(#""state""#))
    try round(report(8, first: 0), expecting: .events([.prefix([]), .name(LockName("n"))], stream: 8, since: 0))
    #expect(other.text.contains(#"{"host":"b","state":"heard"}"#))
    // With the last watch the questions end.
    try client.send(#"{"id":9,"method":"unwatch","params":{"watch":1}}"#)
    other.channel.close(promise: nil)
    host.endTurn()
    later(milliseconds: 10 * HeardHosts.askMilliseconds)
    #expect(host.store.calls.isEmpty && host.store.hostQuestions.isEmpty)
  }

  @Test func whoWatchesAnewAtOnceHearsInTheNextRound() throws {
    let client = try host.connect("c", uid: 1002)
    try hear(client)
    try client.send(#"{"id":9,"method":"unwatch","params":{"watch":1}}"#)
    host.endTurn()
    try watch(client, 10)
    later(milliseconds: HeardHosts.askMilliseconds)
    try found("b/1")
    #expect(try question().0 == .about)
  }

  @Test func whatAClientMayNotInspectIsNotTold() throws {
    let (client, root) = (try host.connect("c", uid: 1001), try host.connect("r", uid: 0))
    try hear(client, root)
    try round(report(7, first: 5, "secret/1", "x"), expecting: .events([.prefix([])], stream: 7, since: 0))
    #expect(root.text.contains("secret/1") && root.text.contains(#""count":5,"host":"b""#))
    #expect(!client.text.contains("secret/1") && client.text.contains(#""name":"x""#))
    #expect(!client.text.contains(#""method":"host""#) && client.text.contains(#""missed","params":{"count":1}}"#))
  }

  @Test func hostsThatTellNothingAreNamedOnce() throws {
    let client = try host.connect("c", uid: 1002)
    try watch(client)
    try found("old/1", "silent/1", "gone/1")
    for _ in 0..<3 {
      let call = host.store.calls.removeFirst()
      switch call.inbox {
      case "old/1": answer(call.id, [0x31, 0x3A, 0x31])
      case "gone/1": answer(call.id, HostAnswer.encoding(version: "1"))
      default: break
      }
    }
    answer(try question().1, report(7, first: 0))
    #expect(client.text.contains(#"{"host":"old","state":"older"}"#))
    // One that is gone is noticed by the question that nobody hears.
    later(milliseconds: HeardHosts.askMilliseconds)
    let call = try #require(host.store.calls.first)
    #expect(call.inbox == "gone/1")
    call.completion(0)
    host.store.calls.removeFirst()
    host.endTurn()
    #expect(client.text.contains(#"{"host":"gone","state":"gone"}"#))
    for _ in 0..<40 {
      later(milliseconds: HeardHosts.askMilliseconds)
      for call in host.store.calls where call.inbox == "old/1" { answer(call.id, [0x31, 0x3A, 0x31]) }
      host.store.calls.removeAll { $0.inbox == "old/1" }
      if !host.store.hostQuestions.isEmpty { try found("old/1", "silent/1") }
    }
    #expect(client.text.contains(#"{"host":"silent","state":"silent"}"#))
    #expect(client.text.components(separatedBy: #""state":"#).count == 5)
    // One without the right to find the others.
    host.store.hostQuestions = []
    later(milliseconds: 20 * HeardHosts.askMilliseconds)
    let asked = host.store.hostQuestions.popLast()
    let completion = try #require(asked)
    completion(.refused("NOPERM"))
    host.endTurn()
    #expect(client.text.contains(#"{"host":"a","state":"alone"}"#))
  }

  @Test func aWatchOfAllHostsOutlivesTheProcess() throws {
    var session = SavedSession(id: SessionID(7), cookie: 1)
    session.watches = [1: WatchParams(.prefix([])), 2: WatchParams(.name(LockName("n")), scope: .all)]
    session.lastWatch = 2
    #expect(try SavedSession(id: SessionID(7), session.encode()) == session)
    // Up to format 9 none is of all hosts.
    session.watches[2]?.scope = .host
    #expect(try SavedSession(id: SessionID(7), Array(session.encode().dropLast(24))) == session)
    var wrong = session
    wrong.watches[2]?.scope = .all
    var bytes = wrong.encode()
    bytes[bytes.count - 24] = 3
    #expect(throws: StateDamage.self) { try SavedSession(id: SessionID(7), bytes) }
  }
}
