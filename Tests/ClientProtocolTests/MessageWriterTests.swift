import ClientProtocol
import Foundation
import LockTypes
import Testing

struct MessageWriterTests {
  private static let name = LockName("a\"b\u{0}é")
  private static let id = MessageID.string(Array("i\n1".utf8))

  /// Expects that `body` writes one line which Foundation reads as the same as `text`.
  private func expect(
    _ text: String, sourceLocation: SourceLocation = #_sourceLocation, _ body: (inout MessageWriter) -> Void
  ) throws {
    let message = try written(body)
    let expected = try json(text)
    #expect(message == expected, sourceLocation: sourceLocation)
  }

  // MARK: Replies

  @Test func answersAcquire() throws {
    let redis = try written {
      $0.acquired(
        id: Self.id, name: Self.name, token: 9_007_199_254_740_991, waitedMilliseconds: 3, validMilliseconds: 9_980)
    }
    #expect(
      try redis
        == json(
          #"{"jsonrpc":"2.0","id":"i\n1","result":{"name":"a\"b\u0000é","token":9007199254740991,"mode":"exclusive","waited_ms":3,"valid_ms":9980}}"#
        ))
    let local = try written {
      $0.acquired(id: .integer(-5), name: LockName("a"), token: 1, waitedMilliseconds: 0, validMilliseconds: nil)
    }
    #expect(
      try local
        == json(
          #"{"jsonrpc":"2.0","id":-5,"result":{"name":"a","token":1,"mode":"exclusive","waited_ms":0,"valid_ms":null}}"#
        ))
  }

  @Test func answersTheSmallMethods() throws {
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":7,"remaining":0}}"#
    ) { $0.released(id: .integer(1), name: LockName("a"), token: 7, remaining: 0) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":7,"max_hold_ms":5}}"#
    ) { $0.extended(id: .integer(1), name: LockName("a"), token: 7, maxHoldMilliseconds: 5) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":7,"max_hold_ms":null}}"#
    ) { $0.extended(id: .integer(1), name: LockName("a"), token: 7, maxHoldMilliseconds: nil) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":7,"mode":"shared"}}"#
    ) { $0.downgraded(id: .integer(1), name: LockName("a"), token: 7) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":8,"session":"12"}}"#
    ) { $0.transferred(id: .integer(1), name: LockName("a"), token: 8, session: "12") }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","broken":[7,9],"taken":[]}}"#
    ) { $0.broken(id: .integer(1), name: LockName("a"), tokens: [7, 9]) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","broken":[],"taken":[{"host":"b","reason":"host_gone","#
        + #""might_run_ms":90},{"foreign":true,"reason":"foreign","might_run_ms":null}]}}"#
    ) {
      $0.broken(
        id: .integer(1), name: LockName("a"), tokens: [],
        taken: [
          TakenInfo(host: "b", reason: .hostGone, mightRunMilliseconds: 90),
          TakenInfo(host: nil, reason: .foreign, mightRunMilliseconds: nil),
        ])
    }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"watch":4}}"#
    ) { $0.watching(id: .integer(1), watch: 4) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"locks":[{"name":"b","token":2},{"name":"a","token":7}],"mode":"shared","waited_ms":3,"valid_ms":null}}"#
    ) {
      $0.acquiredSeveral(
        id: .integer(1),
        locks: [GrantedLock(name: LockName("b"), token: 2), GrantedLock(name: LockName("a"), token: 7)], mode: .shared,
        waitedMilliseconds: 3, validMilliseconds: nil)
    }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","token":7,"mode":"permit","permits":4,"waited_ms":0,"valid_ms":5}}"#
    ) {
      $0.acquired(
        id: .integer(1), name: LockName("a"), token: 7, mode: .permit(of: 4), waitedMilliseconds: 0,
        validMilliseconds: 5)
    }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"cancelled":true}}"#
    ) { $0.cancelled(id: .integer(1), true) }
    try expect(
      #"{"jsonrpc":"2.0","id":"","result":{}}"#
    ) { $0.pong(id: .string([])) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"openrpc":"1.3.2"}}"#
    ) { $0.discovered(id: .integer(1), document: Array(#"{"openrpc":"1.3.2"}"#.utf8)) }
  }

  @Test func answersInitialize() throws {
    let server = ServerInfo(
      version: "0.1.0", instance: "8c1f", session: "7", host: "web1", backend: .redis, leaseMilliseconds: 10_000)
    let limits =
      #"{"line_bytes":65536,"unended_bytes":1048576,"nesting":16,"id_bytes":128,"name_bytes":512,"names":64,"owner_bytes":128,"permits":1000000,"#
      + #""meta_bytes":1024,"reason_bytes":256,"#
      + #""wait_ms":31536000000,"max_hold_ms":31536000000,"list_limit":1000,"requests_in_flight":128,"#
      + #""watches_per_session":64}"#
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"protocol":1,"server":{"name":"sidelock","version":"0.1.0"},"instance":"8c1f","session":"7","host":"web1","backend":"redis","lease_ms":10000,"limits":\#(limits)}}"#
    ) { $0.initialized(id: .integer(1), server) }
    let local = ServerInfo(
      version: "0.1.0", instance: "8c1f", session: "7", host: "web1", backend: .local, leaseMilliseconds: nil)
    let reply = try written { $0.initialized(id: .integer(1), local) }
    let result = try #require(reply["result"] as? NSDictionary)
    #expect(result["lease_ms"] is NSNull)
    #expect(result["backend"] as? String == "local")
  }

  @Test func answersStatsInTheirOrder() {
    var writer = MessageWriter()
    writer.stats(
      id: .integer(1),
      [
        Stat("z", .integer(1)), Stat("a", .group([Stat("y", .flag(true)), Stat("b\"", .text("c"))])),
        Stat("n", .group([])),
      ])
    #expect(
      String(decoding: writer.bytes, as: UTF8.self)
        == #"{"jsonrpc":"2.0","id":1,"result":{"z":1,"a":{"y":true,"b\"":"c"},"n":{}}}"# + "\n")
  }

  // MARK: Locks

  private static let session = SessionInfo(
    host: "web1", session: "7", pid: 4_711, uid: 1_000, command: "report", unit: "report.service")

  @Test func answersInspect() throws {
    let lock = LockInfo(
      name: Self.name, mode: .shared,
      holders: [
        .session(Self.session, mode: .shared, owner: "t1", meta: "m", token: 5, count: 2, heldMilliseconds: 250),
        .host("web2"), .foreign,
        .session(SessionInfo(host: "h", session: "1"), token: 6),
      ],
      holdingCount: 2,
      waiters: [
        WaiterInfo(session: Self.session, mode: .permit(of: 3), owner: "t2", meta: "n", waitedMilliseconds: 3),
        WaiterInfo(session: SessionInfo(host: "h", session: "2"), waitedMilliseconds: 0),
      ],
      waitingCount: 2, lease: .held, leaseValidMilliseconds: 9_730)
    let who = #""host":"web1","session":"7","pid":4711,"uid":1000,"command":"report","unit":"report.service""#
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a\"b\u0000é","mode":"shared","holders":[{\#(who),"mode":"shared","owner":"t1","meta":"m","token":5,"count":2,"held_ms":250},{"host":"web2"},{"foreign":true},{"host":"h","session":"1","token":6}],"holding":2,"waiting":2,"lease":{"state":"held","valid_ms":9730},"waiters":[{\#(who),"mode":"permit","permits":3,"owner":"t2","meta":"n","waited_ms":3},{"host":"h","session":"2","mode":"exclusive","waited_ms":0}]}}"#
    ) { $0.inspected(id: .integer(1), lock) }
    try expect(
      #"{"jsonrpc":"2.0","id":1,"result":{"name":"a","mode":null,"holders":[],"holding":0,"waiting":0,"lease":{"state":"none","valid_ms":null},"waiters":[]}}"#
    ) { $0.inspected(id: .integer(1), LockInfo(name: LockName("a"), lease: .none)) }
  }

  /// The worst that a client and a host can make of it: every byte is written as six.
  private static let worst = String(repeating: "\u{1}", count: 70_000)
  private static let worstSession = SessionInfo(
    host: worst, session: worst, pid: .max, uid: .max, command: worst, unit: worst)
  private static let worstHolder = HolderInfo.session(
    worstSession, mode: .permit(of: .max), owner: worst, meta: worst, token: .max, count: .max, heldMilliseconds: .max)
  private static let worstLock = LockInfo(
    name: LockName(bytes: [UInt8](repeating: 1, count: Limits.nameBytesMax)),
    holders: Array(repeating: worstHolder, count: 100),
    waiters: Array(
      repeating: WaiterInfo(session: worstSession, owner: worst, meta: worst, waitedMilliseconds: .max), count: 1_000),
    waitingCount: 1_000, lease: .waiting, leaseValidMilliseconds: .max)
  private static let worstID = MessageID.string([UInt8](repeating: 1, count: Limits.idBytesMax))

  @Test func aLineOfInspectKeepsToItsLimit() throws {
    var writer = MessageWriter()
    writer.inspected(id: Self.worstID, Self.worstLock)
    #expect(writer.lineCount <= Limits.lineBytesMax + 1)
    let result = try #require(try object(writer.bytes)["result"] as? NSDictionary)
    #expect((result["holders"] as? NSArray)?.count ?? 0 > 0)
    #expect((result["waiters"] as? NSArray)?.count ?? 0 > 0)
    #expect(result["waiting"] as? Int == 1_000)
  }

  @Test func inspectShowsTheFirstSixteenWaiters() throws {
    let waiters = (0..<17).map {
      WaiterInfo(session: SessionInfo(host: "h", session: "\($0)"), waitedMilliseconds: 0)
    }
    let lock = LockInfo(name: LockName("a"), waiters: waiters, waitingCount: 17, lease: .held)
    let reply = try written { $0.inspected(id: .integer(1), lock) }
    let result = try #require(reply["result"] as? NSDictionary)
    let shown = try #require(result["waiters"] as? [NSDictionary])
    #expect(shown.map { $0["session"] as? String } == (0..<16).map { "\($0)" })
  }

  @Test func aPageOfListIsFilledUpToItsLimit() throws {
    for lock in [
      Self.worstLock, LockInfo(name: LockName("a"), holders: [.host("h")], lease: .idle, leaseValidMilliseconds: 5),
    ] {
      var writer = MessageWriter()
      writer.beginList(id: Self.worstID)
      var count = 0
      while writer.listEntry(lock) { count += 1 }
      #expect(count >= 1, "an empty page has room for any lock")
      writer.endList(cursor: String(repeating: "\u{1}", count: Limits.cursorBytesMax))
      #expect(writer.lineCount <= Limits.lineBytesMax + 1)
      let result = try #require(try object(writer.bytes)["result"] as? NSDictionary)
      #expect((result["locks"] as? NSArray)?.count == count)
      #expect((result["cursor"] as? String)?.utf8.count == Limits.cursorBytesMax)
    }
  }

  @Test func answersList() throws {
    let lock = LockInfo(
      name: LockName("a"), mode: .permit(of: 2), holders: [.host("h")],
      waiters: [WaiterInfo(session: Self.session, waitedMilliseconds: 1)],
      waitingCount: 1, lease: .waiting)
    let page = try written { writer in
      writer.beginList(id: .integer(1))
      let first = writer.listEntry(lock)
      let second = writer.listEntry(LockInfo(name: LockName("b"), lease: .idle, leaseValidMilliseconds: 7))
      #expect(first && second)
      writer.endList(cursor: nil)
    }
    #expect(
      try page
        == json(
          #"{"jsonrpc":"2.0","id":1,"result":{"locks":[{"name":"a","mode":"permit","permits":2,"holders":[{"host":"h"}],"holding":0,"waiting":1,"lease":{"state":"waiting","valid_ms":null}},{"name":"b","mode":null,"holders":[],"holding":0,"waiting":0,"lease":{"state":"idle","valid_ms":7}}],"cursor":null}}"#
        ))
  }

  @Test func cutsLongTextBetweenCharacters() throws {
    let long = "a" + String(repeating: "é", count: 200)
    let lock = LockInfo(
      name: LockName("a"), holders: [.session(SessionInfo(host: "h", session: "1", command: long), token: 1)],
      lease: .held)
    let reply = try written { $0.inspected(id: .integer(1), lock) }
    let result = try #require(reply["result"] as? NSDictionary)
    let holder = try #require((result["holders"] as? [NSDictionary])?.first)
    #expect(holder["command"] as? String == "a" + String(repeating: "é", count: 127) + "…")
  }

  // MARK: Errors

  @Test(arguments: ErrorCode.allCases) func tellsAnError(code: ErrorCode) throws {
    let reply = try written { $0.failure(id: .integer(4), code) }
    #expect(
      reply == [
        "jsonrpc": "2.0", "id": 4,
        "error": [
          "code": code.rawValue, "message": "\(code.defaultMessage)", "data": ["reason": "\(code.reason)"],
        ],
      ])
  }

  @Test func tellsMoreAboutAnError() throws {
    let reply = try written {
      $0.failure(id: nil, .busy, message: "it's \"busy\"") { json in
        MessageWriter.writeHolders([.foreign], to: &json)
        json.member("more", 1)
      }
    }
    #expect(
      try reply
        == json(
          #"{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"it's \"busy\"","data":{"reason":"busy","holders":[{"foreign":true}],"more":1}}}"#
        ))
  }

  @Test func tellsARefusal() throws {
    let refusal = try ClientProtocolTests.refusal("acquire", #"{"nam\n":1,"owner":2}"#)
    let told = try written { $0.refusal(refusal) }
    #expect(
      told == [
        "jsonrpc": "2.0", "id": 1,
        "error": [
          "code": -32602, "message": refusal.message,
          "data": ["reason": "invalid_params", "unknown": ["nam\n"]],
        ],
      ])
    let parseError = try self.refusal(of: "{")
    let parse = try written { $0.refusal(parseError) }
    #expect((parse["error"] as? NSDictionary)?["data"] as? NSDictionary == ["reason": "parse_error", "offset": 1])
    #expect(parse["id"] is NSNull)
  }

  private func refusal(of line: String) throws -> RequestRefusal { try ClientProtocolTests.refusal(line: line) }

  @Test func aRefusalKeepsToTheLimitOfALine() throws {
    // Of each byte of a line the writer may make six at most, and of names it repeats a bounded part.
    let names = (0..<170).map { "\"\(String(repeating: "\\u0001", count: 60))\($0)\":0" }.joined(separator: ",")
    let id = String(repeating: "\\u0001", count: 128)
    let refusal = try self.refusal(of: #"{"id":"\#(id)","method":"ping","params":{\#(names)}}"#)
    var writer = MessageWriter()
    writer.refusal(refusal)
    #expect(writer.lineCount <= Limits.lineBytesMax + 1)
  }

  @Test func tellsTheModeThatIsInTheWay() throws {
    for (mode, held) in [
      (HoldMode.exclusive, #"{"mode":"exclusive"}"#), (.shared, #"{"mode":"shared"}"#),
      (.permit(of: 4), #"{"permits":4}"#),
    ] {
      let reply = try written {
        $0.failure(id: .integer(1), .modeConflict) { MessageWriter.writeHeld(mode, to: &$0) }
      }
      let data = (reply["error"] as? NSDictionary)?["data"] as? NSDictionary
      #expect(try data == json(#"{"reason":"mode_conflict","held":\#(held)}"#))
    }
  }

  @Test func tellsTheCycleOfADeadlock() throws {
    let cycle = [
      DeadlockInfo(session: Self.session, owner: "t", waitsFor: Self.name, held: LockName("b")),
      DeadlockInfo(session: SessionInfo(host: "h", session: "2"), waitsFor: LockName("b"), held: nil),
    ]
    let who = #""host":"web1","session":"7","pid":4711,"uid":1000,"command":"report","unit":"report.service""#
    let reply = try written { $0.failure(id: .integer(1), .deadlock) { MessageWriter.writeCycle(cycle, to: &$0) } }
    let data = (reply["error"] as? NSDictionary)?["data"] as? NSDictionary
    #expect(
      try data
        == json(
          #"{"reason":"deadlock","cycle":[{\#(who),"owner":"t","waits_for":"a\"b\u0000é","held":["b"]},{"host":"h","session":"2","waits_for":"b","held":[]}]}"#
        ))
    let step = DeadlockInfo(
      session: Self.worstSession, owner: Self.worst, waitsFor: Self.worstLock.name, held: Self.worstLock.name)
    var writer = MessageWriter()
    writer.failure(id: Self.worstID, .deadlock) {
      MessageWriter.writeCycle(Array(repeating: step, count: 32), to: &$0)
    }
    #expect(writer.lineCount <= Limits.lineBytesMax + 1)
    let told = try #require(try object(writer.bytes)["error"] as? NSDictionary)["data"] as? NSDictionary
    #expect((told?["cycle"] as? NSArray)?.count ?? 0 > 0)
  }

  // MARK: Notifications

  @Test func tellsNotifications() throws {
    try expect(
      #"{"jsonrpc":"2.0","method":"lost","params":{"name":"a","token":5,"reason":"max_hold","grace_ms":20}}"#
    ) { $0.lost(name: LockName("a"), token: 5, reason: .maxHold, graceMilliseconds: 20) }
    try expect(
      #"{"jsonrpc":"2.0","method":"waiting","params":{"id":"i\n1","name":"a","position":2,"holders":[{"host":"h"}]}}"#
    ) { $0.waiting(id: Self.id, name: LockName("a"), position: 2, holders: [.host("h")]) }
    try expect(
      #"{"jsonrpc":"2.0","method":"waiting","params":{"id":"i\n1","name":"a","position":1,"holders":[],"detail":"OOM no"}}"#
    ) { $0.waiting(id: Self.id, name: LockName("a"), position: 1, holders: [], detail: "OOM no") }
    try expect(
      #"{"jsonrpc":"2.0","method":"lost","params":{"name":"a","token":5,"reason":"broken","grace_ms":0,"detail":"stuck"}}"#
    ) { $0.lost(name: LockName("a"), token: 5, reason: .broken, graceMilliseconds: 0, detail: "stuck") }
    try expect(
      #"{"jsonrpc":"2.0","method":"contended","params":{"name":"a","token":5,"waiters":3}}"#
    ) { $0.contended(name: LockName("a"), token: 5, waiters: 3) }
    try expect(
      #"{"jsonrpc":"2.0","method":"transferred","params":{"name":"a","token":5,"mode":"permit","permits":2,"from":"7"}}"#
    ) { $0.transferred(name: LockName("a"), token: 5, mode: .permit(of: 2), from: "7") }
    try expect(
      #"{"jsonrpc":"2.0","method":"backend","params":{"state":"disconnected"}}"#
    ) { $0.backend(.disconnected) }
    try expect(
      #"{"jsonrpc":"2.0","method":"backend","params":{"state":"recovering","retry_ms":9000}}"#
    ) { $0.backend(.recovering, retryMilliseconds: 9000) }
    try expect(
      #"{"jsonrpc":"2.0","method":"waiting","params":{"id":"i\n1","name":"a","position":1,"holders":[],"detail":"other data","retry_ms":0}}"#
    ) {
      $0.waiting(
        id: Self.id, name: LockName("a"), position: 1, holders: [], detail: "other data", retryMilliseconds: 0)
    }
    try expect(
      #"{"jsonrpc":"2.0","method":"draining","params":{}}"#
    ) { $0.draining() }
    try expect(
      #"{"jsonrpc":"2.0","method":"missed","params":{"count":12}}"#
    ) { $0.missed(count: 12) }
  }

  @Test func tellsEvents() throws {
    let events: [(LockEvent, String)] = [
      (
        .acquired(SessionID(7), 5, .shared),
        #""kind":"acquired","name":"a","session":"7","token":5,"mode":"shared""#
      ),
      (.released(SessionID(7), 5), #""kind":"released","name":"a","session":"7","token":5"#),
      (
        .lost(SessionID(7), 5, .broken),
        #""kind":"lost","name":"a","session":"7","token":5,"reason":"broken""#
      ),
      (.waiting(SessionID(7), waiters: 2), #""kind":"waiting","name":"a","session":"7","waiters":2"#),
      (.gaveUp(SessionID(7), waiters: 1), #""kind":"gave_up","name":"a","session":"7","waiters":1"#),
      (.remote(host: "web2"), #""kind":"remote","name":"a","host":"web2""#),
    ]
    for (event, members) in events {
      try expect(#"{"jsonrpc":"2.0","method":"event","params":{"watch":3,\#(members)}}"#) {
        $0.event(watch: 3, name: LockName("a"), event)
      }
    }
    try expect(
      #"{"jsonrpc":"2.0","method":"event","params":{"watch":3,"kind":"released","name":"a","session":"8","token":5,"host":"h","age_ms":0}}"#
    ) {
      $0.event(watch: 3, name: LockName("a"), .released(SessionID(8), 5), on: "h", ageMilliseconds: 0)
    }
    try expect(
      #"{"jsonrpc":"2.0","method":"event","params":{"watch":3,"kind":"released","name":"a","session":"8","token":5,"pid":4711,"uid":7,"command":"dump -a","unit":"n.service","client":"c 1","host":"h"}}"#
    ) {
      let session = SessionInfo(
        host: "h", session: "8", pid: 4711, uid: 7, command: "dump -a", unit: "n.service", client: "c 1")
      $0.event(watch: 3, name: LockName("a"), .released(SessionID(8), 5), by: session, on: "h")
    }
  }

  @Test func aHostIsToldWithItsState() throws {
    for state in HeardState.allCases {
      try expect(#"{"jsonrpc":"2.0","method":"host","params":{"host":"h","state":"\#(state.rawValue)"}}"#) {
        $0.host("h", state)
      }
    }
    try expect(#"{"jsonrpc":"2.0","method":"missed","params":{"count":2,"host":"h"}}"#) { $0.missed(count: 2, of: "h") }
  }

  @Test func writesLinesOneBehindTheOther() throws {
    var writer = MessageWriter()
    writer.pong(id: .integer(1))
    let first = writer.count
    writer.failure(id: nil, .parseError)
    #expect(writer.lineCount == writer.count - first)
    writer.draining()
    let lines = writer.bytes.split(separator: 0x0A, omittingEmptySubsequences: false)
    #expect(lines.count == 4)
    #expect(lines.last == [])
    for line in lines.dropLast() { _ = try object(Array(line) + [0x0A]) }
    writer.removeAll()
    #expect(writer.count == 0)
    #expect(writer.lineCount == 0)
  }
}
