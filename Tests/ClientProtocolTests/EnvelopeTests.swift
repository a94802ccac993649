import ClientProtocol
import LockTypes
import Testing

struct EnvelopeTests {
  // MARK: What is a request

  @Test func readsARequest() {
    let name = LockName("orders")
    let expected = ClientMessage.request(.integer(1), .acquire(AcquireParams(name: name, waitMilliseconds: 0)))
    #expect(decode(#"{"jsonrpc":"2.0","id":1,"method":"acquire","params":{"name":"orders","wait_ms":0}}"#) == expected)
    #expect(decode(#"{"id":1,"method":"acquire","params":{"name":"orders","wait_ms":0}}"#) == expected)
    #expect(
      decode(#" { "params" : { "wait_ms" : 0 , "name" : "orders" } , "method" : "acquire" , "id" : 1 } "#) == expected)
    #expect(
      decode(#"{"\u0069d":1,"m\u0065thod":"acquir\u0065","params":{"na\u006de":"\u006frders","wait\u005fms":0}}"#)
        == expected)
    #expect(
      decode("\t{\"id\":1,\r\"method\":\"acquire\",\"params\":{\"name\":\"orders\",\"wait_ms\":0}}\r") == expected)
  }

  @Test func readsEveryMethod() throws {
    let params: [String: String] = [
      "acquire": #"{"name":"a"}"#, "release": #"{"name":"a"}"#, "extend": #"{"name":"a","max_hold_ms":1}"#,
      "downgrade": #"{"name":"a"}"#, "transfer": #"{"name":"a","session":"7"}"#, "cancel": #"{"id":1}"#,
      "inspect": #"{"name":"a"}"#, "watch": #"{"name":"a"}"#, "unwatch": #"{"watch":1}"#, "break": #"{"name":"a"}"#,
      "kill": #"{"session":"7"}"#, "trace": #"{"session":"7"}"#,
    ]
    for method in ProtocolMethod.allCases {
      let request = try request("\(method.name)", params["\(method.name)"] ?? "{}")
      #expect(request.method == method)
    }
    for method in [ProtocolMethod.ping, .stats, .redis, .rpcDiscover, .list, .clients, .hosts, .initialize] {
      guard case .request(.integer(5), let request) = decode(#"{"id":5,"method":"\#(method.name)"}"#) else {
        Issue.record("\(method) needs no params")
        continue
      }
      #expect(request.method == method)
    }
  }

  // MARK: Ids

  @Test(arguments: [
    ("0", MessageID.integer(0)), ("-0", .integer(0)), ("1", .integer(1)), ("-1", .integer(-1)),
    ("9007199254740991", .integer(9_007_199_254_740_991)), ("-9007199254740991", .integer(-9_007_199_254_740_991)),
    ("1.0", .integer(1)), ("1e2", .integer(100)), ("1200e-2", .integer(12)), (#""""#, .string([])),
    (#""1""#, .string([0x31])),
    (#""\u0000\n""#, .string([0, 0x0A])), (#""é""#, .string([0xC3, 0xA9])), (#""\u00e9""#, .string([0xC3, 0xA9])),
    (#""\ud83d\ude00""#, .string([0xF0, 0x9F, 0x98, 0x80])),
  ])
  func readsAnId(text: String, id: MessageID) {
    #expect(decode(#"{"id":\#(text),"method":"ping"}"#) == .request(id, .ping))
  }

  @Test func idsThatLookTheSameAreTwo() {
    #expect(
      decode("{\"id\":\"\u{E9}\",\"method\":\"ping\"}") != decode("{\"id\":\"\u{65}\u{301}\",\"method\":\"ping\"}"))
    #expect(MessageID.integer(1) != MessageID.string([0x31]))
  }

  @Test func anIdHasUpTo128Bytes() throws {
    for filler in ["x", "é", #"\u00e9"#, "😀", #"\ud83d\ude00"#, #"\n"#] {
      let bytes = filler == "x" || filler == #"\n"# ? 1 : filler.contains("😀") || filler.contains("ud83d") ? 4 : 2
      let full = String(repeating: filler, count: 128 / bytes)
      guard case .request(.string(let id), .ping) = decode(#"{"id":"\#(full)","method":"ping"}"#) else {
        Issue.record("\(filler) was refused")
        continue
      }
      #expect(id.count == 128)
      let refusal = try refusal(line: #"{"id":"\#(full)x","method":"ping"}"#)
      #expect(refusal.id == nil)
      #expect(refusal.code == .invalidRequest)
      #expect(refusal["field"] == .text("id"))
      #expect(refusal["limit"] == .integer(128))
    }
  }

  @Test(arguments: [
    "1.5", "9007199254740992", "-9007199254740992", "1e16", "123456789012345678901234567890", "0.1", "true", "false",
    "{}",
    "[]", "[1]", #"{"a":1}"#,
  ])
  func refusesWhatIsNoId(text: String) throws {
    let refusal = try refusal(line: #"{"id":\#(text),"method":"ping"}"#)
    #expect(refusal.id == nil)
    #expect(refusal.code == .invalidRequest)
    #expect(refusal["field"] == .text("id"))
    #expect(refusal.message.contains("id"))
  }

  @Test(arguments: ["acquire", "release", "extend", "inspect", "ping", "nothing", "break"])
  func refusesARequestWithoutAnId(method: String) throws {
    for id in ["", #""id":null,"#] {
      let refusal = try refusal(line: #"{\#(id)"method":"\#(method)","params":{"name":"a"}}"#)
      #expect(refusal.id == nil)
      #expect(refusal.code == .invalidRequest)
      #expect(refusal["field"] == .text("id"))
    }
  }

  @Test func cancelMayBeANotification() throws {
    #expect(decode(#"{"method":"cancel","params":{"id":7}}"#) == .cancelNotification(.integer(7)))
    #expect(decode(#"{"id":null,"method":"cancel","params":{"id":"w"}}"#) == .cancelNotification(.string([0x77])))
    let refusal = try refusal(line: #"{"method":"cancel","params":{"ID":7}}"#)
    #expect(refusal.id == nil)
    #expect(refusal.code == .invalidParams)
    #expect(refusal["unknown"] == .texts(["ID"]))
  }

  // MARK: What is no request

  @Test(arguments: [
    "[]", "[1]", #"[{"id":1,"method":"ping"}]"#, "1", "null", "true", #""ping""#, "{}", #"{"id":null}"#,
  ])
  func refusesWhatIsNoRequest(line: String) throws {
    let refusal = try refusal(line: line)
    #expect(refusal.id == nil)
    #expect(refusal.code == .invalidRequest)
  }

  @Test func saysThatBatchesAreNotOffered() throws {
    #expect(try refusal(line: "[]").message.contains("batches"))
  }

  @Test(arguments: ["", #","method":null"#, #","method":1"#, #","method":["ping"]"#])
  func refusesARequestWithoutAMethod(member: String) throws {
    let refusal = try refusal(line: #"{"id":9\#(member)}"#)
    #expect(refusal.id == .integer(9))
    #expect(refusal.code == .invalidRequest)
    #expect(refusal["field"] == .text("method"))
  }

  @Test(arguments: [#""1.0""#, #""2""#, #""2.00""#, "2.0", "2", "null", "{}", #""""#])
  func refusesAnotherVersionOfJSONRPC(version: String) throws {
    let refusal = try refusal(line: #"{"jsonrpc":\#(version),"id":"a","method":"ping"}"#)
    #expect(refusal.id == .string([0x61]))
    #expect(refusal.code == .invalidRequest)
    #expect(refusal["field"] == .text("jsonrpc"))
  }

  @Test func refusesUnknownMembersOfTheEnvelope() throws {
    let refusal = try refusal(line: #"{"id":3,"method":"ping","parms":{},"Id":4,"x_y":1,"X-y":2}"#)
    #expect(refusal.id == .integer(3))
    #expect(refusal.code == .invalidRequest)
    #expect(refusal["unknown"] == .texts(["parms", "Id", "x_y", "X-y"]))
  }

  @Test func namesAnUnknownMemberEvenWithoutAnId() throws {
    for line in [#"{"Id":3,"method":"ping"}"#, #"{"id":1.5,"Id":3,"method":"ping"}"#] {
      let refusal = try refusal(line: line)
      #expect(refusal.id == nil)
      #expect(refusal.code == .invalidRequest)
      #expect(refusal["unknown"] == .texts(["Id"]))
    }
  }

  @Test func ignoresTheClientsOwnMembers() {
    let line =
      #"{"id":1,"x-a":[1,{"b":2}],"_":null,"_b":"c","\u005fc":0,"\u0078-d":0,"method":"ping","params":{"x-":1,"_":2}}"#
    #expect(decode(line) == .request(.integer(1), .ping))
  }

  @Test func namesManyUnknownMembersUpToABound() throws {
    let members = (0..<2_000).map { #""member-number-\#($0)":0"# }.joined(separator: ",")
    let refusal = try refusal(line: #"{"id":1,"method":"ping","params":{\#(members)}}"#)
    guard case .texts(let names) = refusal["unknown"] else {
      Issue.record("no names")
      return
    }
    #expect(names.count == Limits.reportedNamesMax)
    #expect(refusal["unknown_count"] == .integer(2_000))
  }

  @Test func cutsALongNameThatItRepeats() throws {
    let long = String(repeating: "é", count: 1_000)
    let refusal = try refusal(line: #"{"id":1,"method":"ping","params":{"a\#(long)":1}}"#)
    #expect(refusal["unknown"] == .texts(["a" + String(repeating: "é", count: 63) + "…"]))
    #expect(try self.method(long).message.utf8.count < 500)
  }

  // MARK: Methods

  private func method(_ name: String) throws -> RequestRefusal {
    try refusal(line: #"{"id":1,"method":"\#(name)"}"#)
  }

  @Test(arguments: ["Acquire", "", "acquire ", "rpc.discover2", "\\u0000", "initialise", "x-acquire", "_"])
  func refusesAnUnknownMethod(name: String) throws {
    let refusal = try method(name)
    #expect(refusal.id == .integer(1))
    #expect(refusal.code == .methodNotFound)
    #expect(refusal["unsupported"] == nil)
  }

  // MARK: Bad JSON has no effect, wherever it stands

  @Test(arguments: [
    "ping", #"{"id":9,"method":"ping""#, #"{"id":9,"method":"ping"} x"#, #"{"id":9,"id":10,"method":"ping"}"#,
    #"{"id":9,"method":"ping","params":{"x-a":1,"x-a":1}}"#, #"{"id":9,"method":"ping","x-a":{"b":1,"b":1}}"#,
    #"{"id":9,"method":"acquire","params":{"name":"a","na\u006de":"b"}}"#, #"{'id':9}"#, #"{"id":09,"method":"ping"}"#,
    #"{"id":9,"method":"ping",}"#, #"{"id":9,"method":"\ud800"}"#, #"{"bad":1,"id":9,"method":"ping"} ]"#, " ", "",
  ])
  func refusesBadJSONWithoutAnId(line: String) throws {
    let refusal = try refusal(line: line)
    #expect(refusal.id == nil)
    #expect(refusal.code == .parseError)
    #expect(refusal["offset"] != nil)
  }

  @Test func countsTheEnvelopeAsOneLevelOfNesting() throws {
    func line(_ depth: Int) -> String {
      #"{"id":1,"method":"ping","x-":"# + String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        + "}"
    }
    #expect(decode(line(15)) == .request(.integer(1), .ping))
    #expect(try refusal(line: line(16)).code == .parseError)
  }

  @Test func readsALineAtTheLimitAndRefusesALongerOne() throws {
    let around = #"{"id":1,"method":"ping","x-":""}"#
    let filler = String(repeating: "a", count: Limits.lineBytesMax - around.utf8.count)
    #expect(decode(#"{"id":1,"method":"ping","x-":"\#(filler)"}"#) == .request(.integer(1), .ping))
    #expect(try refusal(line: #"{"id":1,"method":"ping","x-":"\#(filler)a"}"#) == .lineTooLong)
  }

  @Test func anIdInFlightIsRefusedWithoutAnId() {
    for id in [MessageID.integer(5), .string([0x61])] {
      let refusal = RequestRefusal.idInFlight(id)
      #expect(refusal.id == nil)
      #expect(refusal.code == .invalidRequest)
    }
  }

  @Test func aDecoderIsAsGoodAfterABadLine() {
    var decoder = RequestDecoder()
    let many = "{" + (0..<500).map { "\"\($0)\":{\"a\":[]}" }.joined(separator: ",")
    for line in [many, many + "}", "[", "{\"params\":{\"name\":1}}", "{\"id\":1,\"params\":{\"a\":1,\"a\":"] {
      guard case .refused = decoder.decode(Array(line.utf8)) else {
        Issue.record("accepted \(line.prefix(40))")
        return
      }
      #expect(
        decoder.decode(Array(#"{"id":1,"method":"inspect","params":{"name":"a"}}"#.utf8))
          == .request(.integer(1), .inspect(name: LockName("a"))))
      #expect(decoder.decode(Array(#"{"id":1,"method":"ping"}"#.utf8)) == .request(.integer(1), .ping))
    }
  }
}
