import AccessPolicy
import ClientProtocol
import LockTypes
import Testing

@testable import Sidecar

/// `trace`: who is shown which messages, and what of them.
@Suite struct TraceTests {
  private let host: TestSidecar
  private let root: TestClient
  private let client: TestClient

  init() throws {
    host = try TestSidecar(isLocal: true) {
      let rule = AccessRule(verdict: .allow, rights: .break, names: .beginning([]), subjects: [.user(1003)])
      let secret = AccessRule(verdict: .deny, rights: .inspect, names: .exactly([0x78]), subjects: [.user(1003)])
      $0.live.policy = AccessPolicy(rules: [rule, secret])
    }
    root = try host.connect("root", uid: 0)
    client = try host.connect("c", uid: 1001)
  }

  private func trace(_ params: String, id: Int = 1, by tracer: TestClient? = nil) throws {
    try (tracer ?? root).send(#"{"id":\#(id),"method":"trace","params":{\#(params)}}"#)
    host.endTurn()
  }

  /// What a tracer was shown: the kind and the message of each.
  private func shown(_ tracer: TestClient? = nil) -> [String] {
    (tracer ?? root).text.split(separator: "\n").compactMap { line in
      line.firstMatch(of: #/"method":"traced".*"kind":"(\w+)"(.*?)\}\}$|"method":"traced".*"kind":"(\w+)"(.*)/#)
        .map { "\($0.1 ?? $0.3 ?? "") \($0.2 ?? $0.4 ?? "")" }
    }
  }

  private func kinds(_ tracer: TestClient? = nil) -> [String] {
    shown(tracer).map { String($0.prefix { $0 != " " }) }
  }

  @Test func aSessionIsShownFromThenOnToItsEnd() throws {
    try client.ping(id: 1)
    host.endTurn()
    #expect(!host.core.output.isTraced)
    try trace(#""session":"2""#)
    #expect(host.core.output.isTraced)
    try client.acquire("x", id: 2, more: #","meta":"secret \" one","x-note":"secret two""#)
    try root.acquire("own", id: 7)
    try host.connect("other", uid: 1001).acquire("y")
    host.endTurn()
    #expect(kinds() == ["request", "reply"])
    #expect(root.text.contains(#""message":{"id":2,"method":"acquire","params":{"name":"x","meta":"…","x-note":"…"}}"#))
    #expect(root.text.contains(#""kind":"reply","session":"2","bytes":"#) && !root.text.contains("secret"))
    #expect(client.text.contains(#""id":2,"result""#) && !client.text.contains("traced"))
    client.channel.close(promise: nil)
    host.endTurn()
    #expect(kinds().suffix(2) == ["end", "over"])
    #expect(!host.core.output.isTraced && host.core.sessions.values.allSatisfy { $0.watches.traces.isEmpty })
  }

  @Test func answersAndNotificationsAboutALockAreShown() throws {
    try trace(#""name":"x""#)
    let other = try host.connect("d", uid: 1002)
    try client.acquire("y", id: 1)
    try client.acquire("x", id: 2)
    try other.acquire("x", id: 2, more: #","progress":true"#)
    host.endTurn()
    #expect(kinds() == ["request", "reply", "request", "notification"])
    try other.send(#"{"id":"\"3","method":"cancel","params":{"id":2}}"#)
    host.endTurn()
    #expect(kinds().suffix(3) == ["request", "reply", "reply"])
    // A trace of a lock goes on when sessions end.
    client.channel.close(promise: nil)
    host.endTurn()
    try other.acquire("x", id: 4)
    try other.ping(id: 5)
    host.endTurn()
    #expect(kinds().suffix(2) == ["request", "reply"] && !root.text.contains(#""kind":"end""#))
    try root.send(#"{"id":9,"method":"unwatch","params":{"watch":1}}"#)
    try other.release("x", id: 6)
    host.endTurn()
    #expect(!host.core.output.isTraced && root.text.hasSuffix(#""id":9,"result":{}}"# + "\n"))
  }

  @Test func onlyWhoMayInspectAndBreakEveryLockIsShownAnything() throws {
    try trace(#""session":"1""#, by: client)
    #expect(client.text.contains(#""reason":"denied","right":"break"}"#))
    let breaker = try host.connect("b", uid: 1003)
    try trace(#""name":"y""#, by: breaker)
    #expect(breaker.text.contains(#""reason":"denied","right":"inspect"}"#))
    try trace(#""session":"77""#)
    try trace(#""pid":77"#, id: 2)
    #expect(root.text.contains(#""field":"session""#) && root.text.contains(#""field":"pid""#))
    #expect(!host.core.output.isTraced)
    // Whoever loses the right is shown nothing more.
    try trace(#""session":"2""#, id: 3)
    host.core.configuration.settings.live.policy = AccessPolicy(rules: [
      AccessRule(verdict: .deny, rights: .break, names: .beginning([]), subjects: [.everyone])
    ])
    host.core.parts.rights.policyChanged()
    try client.ping(id: 8)
    host.endTurn()
    #expect(shown().isEmpty)
  }

  @Test func tracesCountAsWatches() throws {
    for id in 1...64 { try trace(#""name":"x""#, id: id) }
    try trace(#""name":"x""#, id: 65)
    try root.send(#"{"id":66,"method":"watch","params":{"name":"x"}}"#)
    host.endTurn()
    #expect(root.text.components(separatedBy: "watches_per_session").count == 3)
    root.channel.close(promise: nil)
    host.endTurn()
    #expect(!host.core.output.isTraced)
  }

  @Test func aTracerThatDoesNotReadDelaysNobody() throws {
    try trace(#""session":"2""#)
    root.stall()
    for id in 1...200 {
      try client.ping(id: id)
      host.endTurn()
    }
    #expect(client.text.components(separatedBy: #""result""#).count == 201)
    root.read()
    host.endTurn()
    let missed = try #require(root.text.firstMatch(of: #/"missed","params":\{"count":(\d+)\}/#).flatMap { Int($0.1) })
    #expect(missed + shown().count == 400)
  }

  @Test func twoTracersDoNotShowEachOther() throws {
    let second = try host.connect("second", uid: 0)
    try trace(#""session":"3""#)
    try trace(#""session":"1""#, by: second)
    let before = kinds()
    try second.ping(id: 5)
    try root.ping(id: 5)
    host.endTurn()
    #expect(kinds() == before && kinds(second).isEmpty)
  }
}

struct TracedMessageTests {
  private func shown(_ text: String) -> String? {
    var text = text
    return text.withUTF8 { TracedMessage.shown(request: UnsafeRawBufferPointer($0)) }
      .map { String(decoding: $0, as: UTF8.self) }
  }

  @Test func notesAndAnnotationsAreNotShown() {
    #expect(
      shown(#"{"id":1,"params":{"\u006deta" : "s","name":"meta"},"_a":"s"}"#)
        == #"{"id":1,"params":{"\u006deta" : "…","name":"meta"},"_a":"…"}"#)
    #expect(
      shown(#"{"params":{"client":{"name":"n","x-a":"s","b":{"meta":"s"}},"_c":"s"}}"#)
        == #"{"params":{"client":{"name":"n","x-a":"…","b":{"meta":"…"}},"_c":"…"}}"#)
    #expect(shown(#"{"params":{"client":{"_a":1}}}"#) == nil)
    #expect(shown(#"{"params":{"x-a":{"b":"s"}}}"#) == nil && shown(#"{"params":{"meta":["s"]}}"#) == nil)
    for bad in ["", "s", "[\"s\"]", "{\"s\"", "{\"meta\":\"\u{1}\"}"] { #expect(shown(bad) == nil) }
    let space = String(repeating: " ", count: TracedMessage.bytesMax - 2)
    #expect(shown("{}" + space) == "{}" + space && shown("{} " + space) == nil)
  }

  @Test func whatCannotStandInANotificationIsNotShown() {
    let usual = #"{"a":[-9007199254740991,0,true,"1e400 [[[\""]}"#
    #expect(shown(usual) == usual)
    for number in ["1e400", "1.5", "9007199254740992", "-9223372036854775809", "1E1"] {
      #expect(shown("{\"a\":\(number)}") == nil)
    }
    func nested(_ depth: Int) -> String {
      "{\"a\":" + String(repeating: "[", count: depth - 1) + String(repeating: "]", count: depth - 1) + "}"
    }
    #expect(shown(nested(Limits.nestingMax - 2)) != nil && shown(nested(Limits.nestingMax - 1)) == nil)
    #expect(shown("{\r\"a\":\t1}\r") == #"{ "a": 1} "#)
  }

  @Test func notesInAnswersAreNotShown() {
    let note = #"a \"meta\":\"b\\"#
    let line = #"{"holders":[{"owner":"\"meta\":\"","meta":"\#(note)","token":1},{"meta":""}]}"#
    let told = TracedMessage.shown(message: Array(line.utf8)[...]).map { String(decoding: $0, as: UTF8.self) }
    #expect(told == #"{"holders":[{"owner":"\"meta\":\"","meta":"…","token":1},{"meta":"…"}]}"#)
    let long = [UInt8](repeating: 0x20, count: TracedMessage.bytesMax + 1)
    #expect(TracedMessage.shown(message: long.dropLast()) != nil && TracedMessage.shown(message: long[...]) == nil)
  }
}
