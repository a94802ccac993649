import ClientProtocol
import LockTypes
import Testing

struct ParameterTests {
  /// The refusal says which member is wrong, what it should be, and which bound it passed.
  private func expect(
    _ refusal: RequestRefusal, field: String, limit: Int64? = nil, sourceLocation: SourceLocation = #_sourceLocation
  ) {
    #expect(refusal.code == .invalidParams, sourceLocation: sourceLocation)
    #expect(refusal["field"] == .text(field), sourceLocation: sourceLocation)
    #expect(refusal["limit"] == limit.map { .integer($0) }, sourceLocation: sourceLocation)
    #expect(refusal.message.contains("\"\(field)\""), sourceLocation: sourceLocation)
    if let limit { #expect(refusal.message.contains(String(limit)), sourceLocation: sourceLocation) }
    if field != "params" {
      guard case .text(let expected) = refusal["expected"] else {
        Issue.record("nothing is expected", sourceLocation: sourceLocation)
        return
      }
      #expect(!expected.isEmpty, sourceLocation: sourceLocation)
    }
  }

  private static let year: Int64 = 31_536_000_000

  // MARK: Names

  static let named = ["acquire", "release", "extend", "inspect", "downgrade", "transfer", "watch", "break"]

  private func params(_ method: String, name: String) -> String {
    switch method {
    case "extend": #"{"name":\#(name),"max_hold_ms":1}"#
    case "transfer": #"{"name":\#(name),"session":"7"}"#
    default: #"{"name":\#(name)}"#
    }
  }

  private func name(of request: ClientRequest) -> LockName? {
    switch request {
    case .acquire(let params): params.name
    case .release(let name, _), .extend(let name, _, _), .inspect(let name), .downgrade(let name, _),
      .transfer(let name, _, _), .break(let name, _, _), .trace(.lock(let name)):
      name
    case .watch(let params): if case .name(let name) = params.target { name } else { nil }
    case .initialize, .cancel, .list, .kill, .clients, .hosts, .ping, .stats, .redis, .rpcDiscover, .unwatch, .trace:
      nil
    }
  }

  @Test(arguments: named) func aNameIsAnyText(method: String) throws {
    let names: [(String, [UInt8])] = [
      (#""a""#, [0x61]), (#""\u0000""#, [0]), (#""{}%\/\n""#, Array("{}%/\n".utf8)), (#"" ""#, [0x20]),
      (#""é\u00e9😀\ud83d\ude00""#, Array("éé😀😀".utf8)), ("\"\u{65}\u{301}\"", [0x65, 0xCC, 0x81]),
    ]
    for (text, bytes) in names {
      #expect(name(of: try request(method, params(method, name: text))) == LockName(bytes: bytes))
    }
  }

  @Test(arguments: named) func aNameHasOneTo512Bytes(method: String) throws {
    for (filler, bytes) in [("x", 1), ("é", 2), (#"\u00e9"#, 2), (#"\u20ac"#, 3), (#"\ud83d\ude00"#, 4)] {
      let count = 512 / bytes
      let padding = String(repeating: "p", count: 512 - count * bytes)
      let full = String(repeating: filler, count: count) + padding
      #expect(name(of: try request(method, params(method, name: "\"\(full)\"")))?.bytes.count == 512)
      expect(try refusal(method, params(method, name: "\"\(full)x\"")), field: "name", limit: 512)
    }
    expect(try refusal(method, params(method, name: "\"\"")), field: "name", limit: 1)
  }

  @Test(arguments: named) func aNameMustBeThereAndAString(method: String) throws {
    for wrong in ["1", "null", "true", "[]", #"{"a":"b"}"#, #"["a"]"#] {
      expect(try refusal(method, params(method, name: wrong)), field: "name")
    }
    expect(try refusal(method, #"{"x-name":"a"}"#), field: "name")
    expect(try refusal(line: #"{"id":1,"method":"\#(method)"}"#), field: "name")
  }

  // MARK: Integers

  private func integers(
    _ method: String, _ member: String, _ range: ClosedRange<Int64>, more: String = #""name":"a""#,
    value: (ClientRequest) -> Int64?
  ) throws {
    func params(_ text: String) -> String {
      more.isEmpty ? #"{"\#(member)":\#(text)}"# : #"{\#(more),"\#(member)":\#(text)}"#
    }
    for good in [range.lowerBound, range.lowerBound + 1, range.upperBound - 1, range.upperBound] {
      #expect(value(try request(method, params(String(good)))) == good)
    }
    expect(try refusal(method, params(String(range.lowerBound - 1))), field: member, limit: range.lowerBound)
    expect(try refusal(method, params(String(range.upperBound + 1))), field: member, limit: range.upperBound)
    for huge in ["9223372036854775807", "9223372036854775808", "18446744073709551616", "1e300", "1e9999999999"] {
      expect(try refusal(method, params(huge)), field: member, limit: range.upperBound)
    }
    for wrong in ["1.5", "1e-1", "\"1000\"", "true", "[1000]", "{}", "0.99999999999999999999999"] {
      expect(try refusal(method, params(wrong)), field: member)
    }
  }

  @Test func waitIsZeroToAYear() throws {
    try integers("acquire", "wait_ms", 0...Self.year) {
      if case .acquire(let params) = $0 { params.waitMilliseconds } else { nil }
    }
    expect(try refusal("acquire", #"{"name":"a","wait_ms":null}"#), field: "wait_ms")
  }

  @Test func maxHoldIsOneToAYear() throws {
    try integers("acquire", "max_hold_ms", 1...Self.year) {
      if case .acquire(let params) = $0 { params.maxHoldMilliseconds } else { nil }
    }
    try integers("extend", "max_hold_ms", 1...Self.year) {
      if case .extend(_, _, let maximum) = $0 { maximum } else { nil }
    }
  }

  @Test(arguments: ["release", "extend", "downgrade", "transfer", "break"])
  func aTokenIsBelow2To53(method: String) throws {
    let more =
      switch method {
      case "extend": #""name":"a","max_hold_ms":1"#
      case "transfer": #""name":"a","session":"7""#
      default: #""name":"a""#
      }
    try integers(method, "token", 1...9_007_199_254_740_991, more: more) {
      switch $0 {
      case .release(_, let token), .extend(_, let token, _), .downgrade(_, let token), .transfer(_, let token, _),
        .break(_, let token, _):
        token
      case .initialize, .acquire, .cancel, .inspect, .list, .kill, .clients, .hosts, .ping, .stats, .redis,
        .rpcDiscover, .watch, .unwatch, .trace:
        nil
      }
    }
  }

  @Test(arguments: ["list", "clients", "hosts"]) func aPageHasOneToAThousandEntries(method: String) throws {
    try integers(method, "limit", 1...1_000, more: "") {
      switch $0 {
      case .list(let params): Int64(params.limit)
      case .clients(let params), .hosts(let params): Int64(params.limit)
      default: nil
      }
    }
  }

  @Test func keepaliveIsASecondToADay() throws {
    try integers("initialize", "keepalive_ms", 1_000...86_400_000, more: "") {
      if case .initialize(let params) = $0 { params.keepaliveMilliseconds } else { nil }
    }
  }

  @Test func nullTakesAKeepaliveBack() throws {
    let request = try request("initialize", #"{"keepalive_ms":null}"#)
    #expect(request == .initialize(InitializeParams(endsKeepalive: true)))
  }

  @Test func theVersionIsAtLeastOne() throws {
    try integers("initialize", "protocol", 1...9_007_199_254_740_991, more: "") {
      if case .initialize(let params) = $0 { params.protocolVersion } else { nil }
    }
  }

  @Test(arguments: ["1000", "1e3", "1E+3", "1000.0", "1.0e3", "10000e-1", "1000.000e0", "0.1e4"])
  func anIntegerMayBeWrittenInAnyWay(text: String) throws {
    let expected = ClientRequest.acquire(AcquireParams(name: LockName("a"), waitMilliseconds: 1_000))
    #expect(try request("acquire", #"{"name":"a","wait_ms":\#(text)}"#) == expected)
  }

  @Test func anIntegerIsReadExactlyHoweverLong() throws {
    let zeros = String(repeating: "0", count: 30_000)
    let exact = ClientRequest.release(name: LockName("a"), token: 9_007_199_254_740_991)
    for text in ["9007199254740991\(zeros)e-30000", "0.\(zeros)9007199254740991e30016", "9007199254740991.\(zeros)"] {
      #expect(try request("release", #"{"name":"a","token":\#(text)}"#) == exact)
    }
    for text in ["9007199254740991\(zeros)1e-30000", "9007199254740991.\(zeros)1", "1e-30000", "0.\(zeros)1"] {
      expect(try refusal("release", #"{"name":"a","token":\#(text)}"#), field: "token")
    }
    // Too many digits to be kept: only their last place decides whether it is an integer.
    let ones = String(repeating: "1", count: 30)
    for text in ["\(ones)01e-1", "\(ones).01", "\(ones)e-1"] {
      expect(try refusal("release", #"{"name":"a","token":\#(text)}"#), field: "token")
    }
    for text in ["\(ones)010e-1", "\(ones).0", "\(ones)e1"] {
      expect(try refusal("release", #"{"name":"a","token":\#(text)}"#), field: "token", limit: 9_007_199_254_740_991)
    }
    expect(try refusal("release", #"{"name":"a","token":-0}"#), field: "token", limit: 1)
    expect(try refusal("release", #"{"name":"a","token":1\#(zeros)}"#), field: "token", limit: 9_007_199_254_740_991)
  }

  // MARK: acquire

  @Test func acquireHasDefaults() throws {
    #expect(try request("acquire", #"{"name":"a"}"#) == .acquire(AcquireParams(name: LockName("a"))))
  }

  @Test func acquireTakesEverything() throws {
    let params =
      #"{"progress":true,"meta":"a \"note\"","max_hold_ms":5,"wait_ms":0,"mode":"exclusive","name":"a","x-y":{"name":1}}"#
    let expected = AcquireParams(
      name: LockName("a"), waitMilliseconds: 0, maxHoldMilliseconds: 5, meta: #"a "note""#, progress: true)
    #expect(try request("acquire", params) == .acquire(expected))
  }

  @Test func metaHasUpTo1024Bytes() throws {
    for full in ["", String(repeating: "m", count: 1_024), String(repeating: "é", count: 512)] {
      guard case .acquire(let params) = try request("acquire", #"{"name":"a","meta":"\#(full)"}"#) else { return }
      #expect(params.meta == full)
    }
    let over = String(repeating: "m", count: 1_025)
    expect(try refusal("acquire", #"{"name":"a","meta":"\#(over)"}"#), field: "meta", limit: 1_024)
    for wrong in ["1", "null", "{}", "[]", "false"] {
      expect(try refusal("acquire", #"{"name":"a","meta":\#(wrong)}"#), field: "meta")
    }
  }

  @Test func progressIsABoolean() throws {
    for (text, flag) in [("true", true), ("false", false)] {
      let expected = ClientRequest.acquire(AcquireParams(name: LockName("a"), progress: flag))
      #expect(try request("acquire", #"{"name":"a","progress":\#(text)}"#) == expected)
    }
    for wrong in ["1", "0", "null", #""true""#, "[]"] {
      expect(try refusal("acquire", #"{"name":"a","progress":\#(wrong)}"#), field: "progress")
    }
  }

  private func options(_ params: String) throws -> AcquireOptions? {
    guard case .acquire(let params) = try request("acquire", params) else { return nil }
    return params.more
  }

  @Test func aModeIsExclusiveOrShared() throws {
    #expect(try options(#"{"name":"a","mode":"exclusive"}"#) == nil)
    #expect(try options(#"{"name":"a","mode":"shared"}"#) == AcquireOptions(mode: .shared))
    for wrong in [#""x""#, #""Exclusive""#, #""""#, #""permit""#, "1", "null", #"["exclusive"]"#] {
      expect(try refusal("acquire", #"{"name":"a","mode":\#(wrong)}"#), field: "mode")
    }
  }

  @Test func replicasAreUpToSixteen() throws {
    try integers("acquire", "replicas", 0...16) {
      if case .acquire(let params) = $0 { params.more.map { Int64($0.need.replicas) } ?? 0 } else { nil }
    }
    #expect(try options(#"{"name":"a","durability":"memory","replicas":0}"#) == nil)
    let both = try options(#"{"name":"a","durability":"disk","replicas":2}"#)
    #expect(both == AcquireOptions(need: ReplicaNeed(replicas: 2, durability: .disk)))
    expect(try refusal("acquire", #"{"name":"a","durability":"tape"}"#), field: "durability")
  }

  @Test func permitsAreOneToAMillion() throws {
    try integers("acquire", "permits", 1...1_000_000) {
      guard case .acquire(let params) = $0, case .permit(let capacity)? = params.more?.mode else { return nil }
      return capacity
    }
    for mode in ["exclusive", "shared"] {
      expect(try refusal("acquire", #"{"name":"a","mode":"\#(mode)","permits":2}"#), field: "permits")
    }
  }

  @Test func anOwnerHasOneTo128Bytes() throws {
    for full in ["o", String(repeating: "o", count: 128), String(repeating: "é", count: 64)] {
      #expect(try options(#"{"name":"a","owner":"\#(full)"}"#) == AcquireOptions(owner: full))
    }
    let over = String(repeating: "é", count: 64) + "o"
    expect(try refusal("acquire", #"{"name":"a","owner":"\#(over)"}"#), field: "owner", limit: 128)
    expect(try refusal("acquire", #"{"name":"a","owner":""}"#), field: "owner", limit: 1)
    for wrong in ["1", "null", "{}", "[]", "false"] {
      expect(try refusal("acquire", #"{"name":"a","owner":\#(wrong)}"#), field: "owner")
    }
  }

  @Test func onLostIsOneOfThreeWords() throws {
    #expect(try options(#"{"name":"a","on_lost":"notify"}"#) == nil)
    for word in [LossAction.terminate, .kill] {
      #expect(try options(#"{"name":"a","on_lost":"\#(word.rawValue)"}"#) == AcquireOptions(onLost: word))
    }
    for wrong in [#""stop""#, "1", "null", #""""#] {
      expect(try refusal("acquire", #"{"name":"a","on_lost":\#(wrong)}"#), field: "on_lost")
    }
  }

  @Test func severalLocksAreNamedInPlaceOfOne() throws {
    guard
      case .acquire(let params) = try request(
        "acquire", #"{"names":["b","\u0061","é"],"wait_ms":5,"mode":"shared","owner":"t"}"#)
    else { return }
    let names = [LockName("b"), LockName("a"), LockName("é")]
    #expect(
      params
        == AcquireParams(
          name: LockName(bytes: []), waitMilliseconds: 5, more: AcquireOptions(names: names, mode: .shared, owner: "t"))
    )
    expect(try refusal("acquire", #"{"name":"a","names":["b"]}"#), field: "names")
    expect(try refusal("acquire", #"{"wait_ms":0}"#), field: "name")
    for wrong in ["1", "null", #""a""#, "{}", "true", "[1]", #"["a",null]"#, #"[["a"]]"#, #"[{"name":"a"}]"#] {
      expect(try refusal("acquire", #"{"names":\#(wrong)}"#), field: "names")
    }
  }

  @Test func thereAreOneTo64DifferentNames() throws {
    func list(_ names: [String]) -> String { names.map { "\"\($0)\"" }.joined(separator: ",") }
    let full = (0..<64).map { "n\($0)" }
    #expect(try options(#"{"names":[\#(list(full))]}"#)?.names?.count == 64)
    expect(try refusal("acquire", #"{"names":[\#(list(full + ["x"]))]}"#), field: "names", limit: 64)
    expect(try refusal("acquire", #"{"names":[]}"#), field: "names", limit: 1)
    expect(try refusal("acquire", #"{"names":[\#(list(full.dropLast() + ["\\u006e0"]))]}"#), field: "names")
    let long = String(repeating: "x", count: 512)
    #expect(try options(#"{"names":[\#(list(["a", long]))]}"#)?.names?.count == 2)
    expect(try refusal("acquire", #"{"names":[\#(list(["a", long + "x"]))]}"#), field: "names", limit: 512)
    expect(try refusal("acquire", #"{"names":["a",""]}"#), field: "names", limit: 1)
  }

  @Test func theReplyToManyLongNamesFitsIntoALine() throws {
    // Each name is told again, with a token; a name of control characters is six times as long in a line.
    func names(_ count: Int) -> [String] {
      (0..<64).map { String(repeating: "\\u0001", count: count) + ($0 < 10 ? "0\($0)" : "\($0)") }
    }
    func list(_ names: [String]) -> String { names.map { "\"\($0)\"" }.joined(separator: ",") }
    let id = String(repeating: "\\u0001", count: 128)
    let line = #"{"id":"\#(id)","method":"acquire","params":{"names":[\#(list(names(155)))]}}"#
    guard case .request(let id, .acquire(let params)) = decode(line), let names = params.more?.names else {
      Issue.record("it was refused")
      return
    }
    var writer = MessageWriter()
    writer.acquiredSeveral(
      id: id, locks: names.map { GrantedLock(name: $0, token: Limits.integerMax) }, mode: .permit(of: 1_000_000),
      waitedMilliseconds: Limits.integerMax, validMilliseconds: Limits.integerMax)
    #expect(writer.lineCount <= Limits.lineBytesMax + 1)
    expect(
      try refusal(
        "acquire", #"{"names":[\#(list((0..<64).map { String(repeating: "\\u0001", count: 156) + "\($0 + 10)" }))]}"#),
      field: "names", limit: 60_000)
  }

  @Test func listsAllUnknownMembers() throws {
    let refusal = try refusal("acquire", #"{"wait":0,"owner":"o","name":1,"Wait_ms":0,"permits":2,"":3,"wait_ms ":1}"#)
    #expect(refusal.code == .invalidParams)
    #expect(refusal["unknown"] == .texts(["wait", "Wait_ms", "", "wait_ms "]))
  }

  // MARK: The other methods

  @Test(arguments: ["acquire", "list", "ping", "cancel", "initialize"]) func paramsMustBeAnObject(method: String) throws
  {
    for wrong in ["[]", #"["a"]"#, "null", "1", #""a""#, "true"] {
      expect(try refusal(method, wrong), field: "params")
    }
  }

  @Test(arguments: ["ping", "stats", "rpc.discover"]) func takesNoParams(method: String) throws {
    #expect(try refusal(method, #"{"name":"a"}"#)["unknown"] == .texts(["name"]))
    _ = try request(method, #"{"_name":"a"}"#)
  }

  @Test func extendMustSayHowLong() throws {
    #expect(
      try request("extend", #"{"name":"a","max_hold_ms":null}"#)
        == .extend(name: LockName("a"), token: nil, maxHoldMilliseconds: nil))
    #expect(
      try request("extend", #"{"name":"a","token":7,"max_hold_ms":9}"#)
        == .extend(name: LockName("a"), token: 7, maxHoldMilliseconds: 9))
    expect(try refusal("extend", #"{"name":"a","token":7}"#), field: "max_hold_ms")
  }

  @Test func killNamesASession() throws {
    #expect(
      try request("kill", #"{"session":"12","reason":"hangs"}"#) == .kill(session: "12", reason: "hangs"))
    #expect(try request("kill", #"{"session":"x"}"#) == .kill(session: "x", reason: nil))
    expect(try refusal("kill", "{}"), field: "session")
    expect(try refusal("kill", #"{"session":""}"#), field: "session", limit: 1)
    let reason = String(repeating: "r", count: 257)
    expect(try refusal("kill", #"{"session":"1","reason":"\#(reason)"}"#), field: "reason", limit: 256)
  }

  @Test func transferNamesASession() throws {
    #expect(
      try request("transfer", #"{"name":"a","token":7,"session":"12"}"#)
        == .transfer(name: LockName("a"), token: 7, session: "12"))
    #expect(
      try request("transfer", #"{"name":"a","session":"x"}"#)
        == .transfer(name: LockName("a"), token: nil, session: "x"))
    expect(try refusal("transfer", #"{"name":"a"}"#), field: "session")
    expect(try refusal("transfer", #"{"name":"a","session":""}"#), field: "session", limit: 1)
    let full = String(repeating: "1", count: 64)
    #expect(
      try request("transfer", #"{"name":"a","session":"\#(full)"}"#)
        == .transfer(name: LockName("a"), token: nil, session: full))
    expect(try refusal("transfer", #"{"name":"a","session":"\#(full)1"}"#), field: "session", limit: 64)
    expect(try refusal("transfer", #"{"name":"a","session":7}"#), field: "session")
  }

  @Test func aWatchHasANameOrAPrefix() throws {
    #expect(try request("watch", #"{"name":"a"}"#) == .watch(WatchParams(.name(LockName("a")))))
    #expect(try request("watch", #"{"prefix":""}"#) == .watch(WatchParams(.prefix([]))))
    let full = String(repeating: "p", count: 512)
    #expect(try request("watch", #"{"prefix":"\#(full)"}"#) == .watch(WatchParams(.prefix(Array(full.utf8)))))
    expect(try refusal("watch", #"{"prefix":"\#(full)p"}"#), field: "prefix", limit: 512)
    expect(try refusal("watch", #"{"name":"a","prefix":""}"#), field: "prefix")
    expect(try refusal("watch", "{}"), field: "name")
    expect(try refusal("watch", #"{"prefix":1}"#), field: "prefix")
    let all = WatchParams(.prefix([]), scope: .all)
    #expect(try request("watch", #"{"prefix":"","scope":"all"}"#) == .watch(all))
    #expect(try request("watch", #"{"prefix":"","scope":"host"}"#) == .watch(WatchParams(.prefix([]))))
    for wrong in [#""none""#, "1", "null", "true"] {
      expect(try refusal("watch", #"{"prefix":"","scope":\#(wrong)}"#), field: "scope")
    }
  }

  @Test func aTraceIsOfASessionAProcessOrALock() throws {
    #expect(try request("trace", #"{"session":"7"}"#) == .trace(.session("7")))
    #expect(try request("trace", #"{"pid":2147483647}"#) == .trace(.process(2_147_483_647)))
    #expect(try request("trace", #"{"name":"a"}"#) == .trace(.lock(LockName("a"))))
    expect(try refusal("trace", "{}"), field: "session")
    expect(try refusal("trace", #"{"session":""}"#), field: "session", limit: 1)
    expect(try refusal("trace", #"{"pid":0}"#), field: "pid", limit: 1)
    expect(try refusal("trace", #"{"pid":2147483648}"#), field: "pid", limit: 2_147_483_647)
    expect(try refusal("trace", #"{"session":"7","pid":1}"#), field: "pid")
    expect(try refusal("trace", #"{"session":"7","name":"a"}"#), field: "name")
    expect(try refusal("trace", #"{"pid":7,"name":"a"}"#), field: "name")
  }

  @Test func unwatchNamesAWatch() throws {
    try integers("unwatch", "watch", 1...9_007_199_254_740_991, more: "") {
      if case .unwatch(let watch) = $0 { watch } else { nil }
    }
    expect(try refusal("unwatch", "{}"), field: "watch")
  }

  @Test func theReasonOfABreakHasUpTo256Bytes() throws {
    #expect(try request("break", #"{"name":"a"}"#) == .break(name: LockName("a"), token: nil, reason: nil))
    for full in ["", String(repeating: "r", count: 256), String(repeating: "é", count: 128)] {
      #expect(
        try request("break", #"{"name":"a","token":9,"reason":"\#(full)"}"#)
          == .break(name: LockName("a"), token: 9, reason: full))
    }
    let over = String(repeating: "r", count: 257)
    expect(try refusal("break", #"{"name":"a","reason":"\#(over)"}"#), field: "reason", limit: 256)
    for wrong in ["1", "null", "[]"] {
      expect(try refusal("break", #"{"name":"a","reason":\#(wrong)}"#), field: "reason")
    }
  }

  @Test func cancelNamesAnId() throws {
    #expect(try request("cancel", #"{"id":-7}"#) == .cancel(.integer(-7)))
    #expect(try request("cancel", #"{"id":"\u0061"}"#) == .cancel(.string([0x61])))
    let full = String(repeating: "i", count: 128)
    #expect(try request("cancel", #"{"id":"\#(full)"}"#) == .cancel(.string(Array(full.utf8))))
    expect(try refusal("cancel", #"{"id":"\#(full)i"}"#), field: "id", limit: 128)
    for wrong in ["1.5", "null", "true", "[]", "{}"] {
      expect(try refusal("cancel", #"{"id":\#(wrong)}"#), field: "id")
    }
    #expect(try refusal("cancel", #"{"id":9007199254740992}"#)["field"] == .text("id"))
    expect(try refusal("cancel", "{}"), field: "id")
  }

  @Test func listHasDefaults() throws {
    #expect(try request("list", "{}") == .list(ListParams()))
    let params = #"{"prefix":"a/","scope":"all","limit":7,"cursor":"c\u0000"}"#
    let expected = ListParams(prefix: Array("a/".utf8), scope: .all, limit: 7, cursor: "c\u{0}")
    #expect(try request("list", params) == .list(expected))
    #expect(try request("list", #"{"scope":"host","prefix":""}"#) == .list(ListParams(prefix: [])))
  }

  @Test func pagesOfClientsAndHostsHaveTheDefaultsOfList() throws {
    #expect(try request("clients", "{}") == .clients(PageParams()))
    #expect(try request("hosts", "{}") == .hosts(PageParams()))
    #expect(PageParams().limit == ListParams().limit && PageParams().cursor == nil)
    #expect(try request("clients", #"{"limit":7,"cursor":"12"}"#) == .clients(PageParams(limit: 7, cursor: "12")))
    #expect(try request("hosts", #"{"limit":7,"cursor":"h/1"}"#) == .hosts(PageParams(limit: 7, cursor: "h/1")))
    let cursor = String(repeating: "c", count: 2_048)
    for method in ["clients", "hosts"] {
      expect(try refusal(method, #"{"cursor":"\#(cursor)c"}"#), field: "cursor", limit: 2_048)
      #expect(try refusal(method, #"{"prefix":"a"}"#)["unknown"] == .texts(["prefix"]))
    }
  }

  @Test func listKeepsToItsLimits() throws {
    let prefix = String(repeating: "p", count: 512)
    #expect(try request("list", #"{"prefix":"\#(prefix)"}"#) == .list(ListParams(prefix: Array(prefix.utf8))))
    expect(try refusal("list", #"{"prefix":"\#(prefix)p"}"#), field: "prefix", limit: 512)
    let cursor = String(repeating: "c", count: 2_048)
    #expect(try request("list", #"{"cursor":"\#(cursor)"}"#) == .list(ListParams(cursor: cursor)))
    expect(try refusal("list", #"{"cursor":"\#(cursor)c"}"#), field: "cursor", limit: 2_048)
    for wrong in [#""world""#, #""Host""#, "1", "null"] {
      expect(try refusal("list", #"{"scope":\#(wrong)}"#), field: "scope")
    }
    expect(try refusal("list", #"{"cursor":null}"#), field: "cursor")
    expect(try refusal("list", #"{"prefix":1}"#), field: "prefix")
  }

  @Test func initializeTellsWhoTheClientIs() throws {
    #expect(try request("initialize", "{}") == .initialize(InitializeParams()))
    let params =
      #"{"client":{"version":"1\u002e2","name":"report","x-pid":3},"protocol":1,"lifetime":"process","#
      + #""keepalive_ms":5000,"half_close":"hold","accept_transfers":true}"#
    let expected = InitializeParams(
      clientName: "report", clientVersion: "1.2", protocolVersion: 1, lifetime: .process, keepaliveMilliseconds: 5_000,
      halfClose: .hold, acceptsTransfers: true)
    #expect(try request("initialize", params) == .initialize(expected))
    #expect(try request("initialize", #"{"client":{},"lifetime":"socket"}"#) == .initialize(InitializeParams()))
    #expect(try request("initialize", #"{"half_close":"end"}"#) == .initialize(InitializeParams(halfClose: .end)))
  }

  @Test func initializeKeepsToItsLimits() throws {
    let text = String(repeating: "t", count: 128)
    let expected = InitializeParams(clientName: text, clientVersion: text)
    #expect(
      try request("initialize", #"{"client":{"name":"\#(text)","version":"\#(text)"}}"#) == .initialize(expected))
    for member in ["name", "version"] {
      expect(
        try refusal("initialize", #"{"client":{"\#(member)":"\#(text)t"}}"#), field: "client.\(member)", limit: 128)
      expect(try refusal("initialize", #"{"client":{"\#(member)":""}}"#), field: "client.\(member)", limit: 1)
      expect(try refusal("initialize", #"{"client":{"\#(member)":1}}"#), field: "client.\(member)")
    }
    #expect(
      try refusal("initialize", #"{"client":{"name":"a","nam":"b","verison":"c"}}"#)["unknown"]
        == .texts(["client.nam", "client.verison"]))
    for wrong in ["1", "null", "[]", #""a""#] {
      expect(try refusal("initialize", #"{"client":\#(wrong)}"#), field: "client")
    }
    for wrong in [#""thread""#, "1", "null"] {
      expect(try refusal("initialize", #"{"lifetime":\#(wrong)}"#), field: "lifetime")
      expect(try refusal("initialize", #"{"half_close":\#(wrong)}"#), field: "half_close")
      expect(try refusal("initialize", #"{"accept_transfers":\#(wrong)}"#), field: "accept_transfers")
    }
  }
}
