import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// What users may have other hosts asked: `SessionLimits.mayAskHosts`.
@Suite struct HostQuestionTests {
  private let host: TestSidecar

  init() throws {
    host = try TestSidecar()
    host.core.parts.queries.hostCalls = HostCalls(
      loop: host.loop, store: host.store, timeoutMilliseconds: { 1000 })
  }

  /// Asks for a lock that as many other hosts hold.
  private func inspect(_ client: TestClient, id: Int, holders: Int = 1) throws {
    try ask(#"{"id":\#(id),"method":"inspect","params":{"name":"x"}}"#, client, holders: holders)
  }

  /// Asks what Redis answers with so many other hosts as holders.
  private func ask(_ request: String, _ client: TestClient, holders: Int = 1) throws {
    try client.send(request)
    host.endTurn()
    let asked = try #require(host.store.inspections.last)
    host.store.inspections = []
    let found = (0..<holders).map {
      LockInspection.Holder(
        host: "b\($0)", inbox: "b\($0)/1", token: 1, entry: Array("b\($0)/1:1:1".utf8), isMe: false)
    }
    asked.completion(
      .answer([
        LockInspection(
          state: .held(.shared), holders: found, expiresInMilliseconds: 1000, waitingHostsTotal: 0, waiting: [])
      ]))
    host.endTurn()
  }

  private func answer(_ count: Int = .max) {
    for call in host.store.calls.prefix(count) { host.core.heard(.answer(call.id, [])) }
    host.store.calls = Array(host.store.calls.dropFirst(count))
    host.endTurn()
  }

  private var limitsMet: UInt64? {
    host.core.parts.counts.all.first { $0.limit == .hostQuestionsPerUID }?.count
  }

  /// `hosts` asks each other host what it runs, and leaves the version out where no answer comes.
  @Test func hostsTellTheirVersions() throws {
    let client = try host.connect("c", uid: 1001)
    let inbox = host.core.parts.queries.inbox
    try client.send(#"{"id":1,"method":"hosts","params":{"limit":3}}"#)
    host.endTurn()
    let completion = try #require(host.store.hostQuestions.last)
    completion(.answer(["z/1", "c/1", inbox, "b/1"]))
    host.endTurn()
    let asked = host.store.calls
    #expect(asked.map(\.inbox) == ["b/1", "c/1"] && asked.allSatisfy { HostQuestion($0.payload) == .about })
    host.core.heard(.answer(asked[0].id, HostAnswer.encoding(version: "7.1")))
    asked[1].completion(0)
    host.endTurn()
    let instance = inbox.dropFirst(2)
    #expect(
      client.text.contains(
        #"{"hosts":[{"host":"a","instance":"\#(instance)","version":"1","own":true},"#
          + #"{"host":"b","instance":"1","version":"7.1","own":false},{"host":"c","instance":"1","own":false}],"cursor":"c/1"}"#
      ))
    try client.send(#"{"id":2,"method":"hosts","params":{"cursor":"c/1"}}"#)
    host.endTurn()
    let next = try #require(host.store.hostQuestions.last)
    next(.answer(["z/1", "c/1", inbox, "b/1"]))
    host.store.calls.last?.completion(0)
    host.endTurn()
    #expect(client.text.contains(#"{"hosts":[{"host":"z","instance":"1","own":false}],"cursor":null}"#))
    // What is asked here is answered.
    host.core.heard(.call(5, from: "b/1", HostQuestion.about.encoded))
    host.endTurn()
    #expect(host.store.answers.last.flatMap { HostAnswer.version(in: $0[...]) } == "1")
  }

  @Test func oneUserHasAQuarterOfTheQuestions() throws {
    var clients: [TestClient] = []
    while host.store.calls.count < HostCalls.perUserMax, clients.count < 1000 {
      clients.append(try host.connect("\(clients.count)", uid: 1001))
      for id in 1...16 { try inspect(clients[clients.count - 1], id: id) }
    }
    #expect(host.store.calls.count == HostCalls.perUserMax && 4 * HostCalls.perUserMax == HostCalls.openMax)
    #expect(host.core.parts.limits.keptBytes >= 512 * HostCalls.perUserMax)
    #expect(clients.allSatisfy { $0.text == "" } && limitsMet == 0)
    let last = try host.connect("last", uid: 1001)
    try inspect(last, id: 1)
    #expect(last.text.contains(#""limit":"host_questions_per_uid""#) && last.text.contains(#""id":1"#))
    #expect(limitsMet == 1)
    // Nobody else is kept from asking.
    let other = try host.connect("other", uid: 1002)
    try inspect(other, id: 1)
    #expect(host.store.calls.count == HostCalls.perUserMax + 1 && other.text == "")
    // With one answer there is room for one question.
    answer(1)
    #expect(clients[0].text.contains(#""id":1,"#))
    try inspect(last, id: 2)
    try inspect(last, id: 3)
    #expect(!last.text.contains(#""id":2"#) && last.text.contains(#""id":3"#) && limitsMet == 2)
    // What is asked counts though who asked is gone, until it is answered.
    for client in clients + [last] { client.channel.close(promise: nil) }
    host.endTurn()
    let again = try host.connect("again", uid: 1001)
    try inspect(again, id: 1)
    #expect(again.text.contains("host_questions_per_uid"))
    answer()
    #expect(other.text.contains(#""id":1,"#) && host.core.parts.limits.keptBytes == 0)
    try inspect(again, id: 2)
    #expect(host.store.calls.count == 1 && !again.text.contains(#""id":2"#))
    answer()
  }

  /// It is answered, with what some of the hosts tell.
  @Test func aRequestThatNeedsMoreThanOneUserMayAskIsAnsweredAllTheSame() throws {
    let (a, b) = (try host.connect("a", uid: 1001), try host.connect("b", uid: 1001))
    try inspect(a, id: 1, holders: HostCalls.perUserMax + 10)
    #expect(host.store.calls.count == HostCalls.perUserMax)
    try inspect(b, id: 1)
    #expect(b.text.contains("host_questions_per_uid"))
    // All of them count until the last one is answered: the answers wait for it.
    answer(HostCalls.perUserMax - 1)
    try inspect(b, id: 2)
    #expect(a.text == "" && b.text.contains(#""id":2"#))
    answer()
    #expect(a.text.contains(#""result""#) && a.text.contains("b\(HostCalls.perUserMax + 9)"))
    try inspect(b, id: 3)
    answer()
    #expect(b.text.split(separator: "\n").last?.contains(#""result""#) == true)
  }

  @Test func aBreakThatIsRefusedHasBrokenNothing() throws {
    let holder = try host.connect("holder", uid: 1001)
    try holder.acquire("x", more: #","mode":"shared""#)
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    #expect(holder.text.contains(#""result""#))
    let (asking, breaking) = (try host.connect("asking", uid: 0), try host.connect("breaking", uid: 0))
    try inspect(asking, id: 1, holders: HostCalls.perUserMax)
    func breakIt(id: Int) throws {
      try ask(#"{"id":\#(id),"method":"break","params":{"name":"x"}}"#, breaking)
    }
    try breakIt(id: 1)
    #expect(breaking.text.contains("host_questions_per_uid") && limitsMet == 1)
    #expect(!holder.text.contains(#""lost""#))
    answer()
    try breakIt(id: 2)
    #expect(holder.text.contains(#""lost""#))
    answer()
    #expect(breaking.text.contains(#""id":2,"result""#))
  }
}
