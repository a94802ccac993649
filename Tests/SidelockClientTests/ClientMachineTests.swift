import Testing

@testable import SidelockClient

struct ClientMachineTests {
  static let lines = """
    {"jsonrpc":"2.0","id":1,"result":{"token":3}}\r

    {"jsonrpc":"2.0","method":"lost","params":{"name":"x","token":3,"reason":"max_hold","grace_ms":0}}
    {"jsonrpc":"2.0","id":2,"error":{"code":4,"message":"no","data":{"reason":"not_held"}}}
    {"jsonrpc":"2.0","method":"waiting","params":{"id":5}}

    """
  static let events: [ClientMachine.Event] = [
    .reply(id: 1, .success(["token": 3])),
    .lost(LostNotice(name: "x", token: 3, reason: "max_hold", graceMilliseconds: 0)),
    .reply(
      id: 2, .failure(SidelockError(code: 4, reason: .notHeld, message: "no", data: ["reason": "not_held"]))),
    .notification(method: "waiting", params: ["id": 5]),
  ]

  @Test(arguments: [1, 2, 7, 64, 10_000])
  func linesAreCutHoweverTheyCome(pieceBytes: Int) {
    var machine = ClientMachine()
    var rest = Array(Self.lines.utf8)[...]
    var events: [ClientMachine.Event] = []
    while !rest.isEmpty {
      events += machine.received(rest.prefix(pieceBytes))
      rest = rest.dropFirst(pieceBytes)
    }
    #expect(events == Self.events)
  }

  @Test func requestsAreNumberedAndOnOneLine() throws {
    var machine = ClientMachine()
    let (first, line) = machine.request("acquire", ["name": "a\nb"])
    let (second, _) = machine.request("ping", nil)
    #expect(first == 1)
    #expect(second == 2)
    #expect(line.last == 0x0A)
    #expect(line.dropLast().contains(0x0A) == false)
    #expect(
      try JSONValue(parsing: line) == ["jsonrpc": "2.0", "id": 1, "method": "acquire", "params": ["name": "a\nb"]])
  }

  @Test func aLineAtTheLimitIsTakenAndOnePastItIsNot() {
    func text(_ count: Int) -> [UInt8] {
      let frame = Array(#"{"method":"n","params":""}"#.utf8)
      return frame.dropLast(2) + [UInt8](repeating: 0x78, count: count - frame.count) + frame.suffix(2)
    }
    var machine = ClientMachine()
    #expect(machine.received(text(ClientMachine.lineBytesMax)).isEmpty)
    guard case .notification = machine.received([0x0A]).first else {
      Issue.record("the longest line was not taken")
      return
    }
    guard case .violated = machine.received(text(ClientMachine.lineBytesMax + 1)).first else {
      Issue.record("a longer line was taken")
      return
    }
    #expect(machine.received(Array(Self.lines.utf8)).isEmpty)
  }

  @Test func nonsenseAfterAMessageIsPassedOver() {
    var machine = ClientMachine()
    let nonsense = """
      oops
      []
      17
      {}
      {"method":7}
      {"id":"x","error":{}}
      {"id":0.5,"result":{}}
      {"jsonrpc":"2.0","method":"lost","params":{"name":"x","token":
      \(String(repeating: "[", count: 10_000))

      """
    let lines = Array(Self.lines.utf8)
    #expect(machine.received(lines + Array(nonsense.utf8) + lines) == Self.events + Self.events)
  }

  @Test func aReplyWithoutAResultFailsItsRequest() {
    var machine = ClientMachine()
    let events = machine.received(Array("{\"id\":1}\n".utf8))
    guard case .reply(id: 1, .failure(let error)) = events.first else {
      Issue.record("no reply: \(events)")
      return
    }
    #expect(error.reason == .protocolViolation)
  }

  @Test func aRefusalOfNoRequestIsNeverPassedOver() {
    var machine = ClientMachine()
    let events = machine.received(Array((Self.lines + "{\"id\":null,\"error\":{\"code\":7}}\n" + Self.lines).utf8))
    #expect(events.count == Self.events.count + 1)
    guard case .violated = events.last else {
      Issue.record("it was passed over")
      return
    }
  }

  @Test func nothingIsReadAfterAViolation() {
    var machine = ClientMachine()
    let events = machine.received(Array(("oops\n" + Self.lines).utf8))
    #expect(events.count == 1)
    #expect(machine.received(Array(Self.lines.utf8)).isEmpty)
  }
}
