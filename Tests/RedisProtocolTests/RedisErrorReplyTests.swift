import LockEngine
import RedisProtocol
import Testing

@Suite struct RedisErrorReplyTests {
  static let transient: [String] = [
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "READONLY You can't write against a read only replica. script: 756928, on @user_script:1.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "OOM command not allowed when used memory > 'maxmemory'. script: 756928, on @user_script:1.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "NOTBUSY No scripts in execution right now.",
    "UNKILLABLE Sorry the script already executed write commands against the dataset.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOREPLICAS Not enough good replicas to write.",
    "CLUSTERDOWN The cluster is down",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "NOSCRIPT No matching script. Please use EVAL.",
    "ERR max number of clients reached",
    "LOADING",
  ]

  @Test(arguments: transient)
  func stateThatPassesIsTransient(error: String) {
    #expect(RedisErrorReply.classify(error: bytes(error)) == .transient(error))
    #expect(RedisErrorReply.isStateOfServer(error: bytes(error)))
  }

  @Test(arguments: [
    "ERR unknown command 'EVALSHA'",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOAUTH Authentication required.",
    "ERR user_script:3: Script attempted to access nonexistent global variable 'x' script: 1b, on @user_script:3.",
    "ERR READONLY is only a word here",
    "ERR",
    "",
    " LOADING",
    "loading x",
    "LOADINGX x",
    "BUSYGROUP Consumer Group name already exists",
  ])
  func whatNobodyKnowsMayPass(error: String) {
    #expect(RedisErrorReply.classify(error: bytes(error)) == .transient(error))
    #expect(!RedisErrorReply.isStateOfServer(error: bytes(error)))
  }

  @Test func kindsOfErrorsAreToldApartWithoutTheirNames() {
    let kinds: [(String, String)] = [
      (
        "NOPERM this user has no permissions to run the 'evalsha' command",
        "NOPERM this user has no permissions to run the "
      ),
      ("ERR unknown command `X`, with args", "ERR unknown command "),
      ("ERR user_script:12: what", "ERR user_script"),
      ("BUSY Redis is busy", "BUSY Redis is busy"),
      ("", ""),
    ]
    for (error, kind) in kinds { #expect(RedisErrorReply.kind(of: bytes(error)) == kind) }
    #expect(RedisErrorReply.kind(of: [0xFF, 0x0A]) == "??")
  }

  @Test func dataThatIsNoLockIsToldApart() {
    for error in [
      "WRONGTYPE Operation against a key holding the wrong kind of value",
      "WRONGTYPE Operation against a key holding the wrong kind of value script: 80d15f, on @user_script:1.",
      "ERR Error running script (call to f_80d15f): @user_script:1: WRONGTYPE Operation against a key",
    ] {
      #expect(RedisErrorReply.classify(error: bytes(error)) == .wrongType(nil))
    }
  }

  @Test func dataOfOthersAreToldAsAScriptSaysIt() {
    let told: [(String, OtherData?)] = [
      ("lock hash", OtherData(part: .lock, type: "hash")), ("queue string", OtherData(part: .queue, type: "string")),
      ("fence ReJSON-RL", OtherData(part: .fence, type: "ReJSON-RL")), ("queue -", OtherData(part: .queue, type: nil)),
      ("queue", nil), ("inbox hash", nil), ("", nil),
    ]
    for (words, other) in told {
      #expect(RedisErrorReply.classify(error: bytes("WRONGTYPE " + words)) == .wrongType(other))
    }
  }

  @Test(arguments: ["-READONLY", "READONLY", "-OOM", "-MISCONF", "LOADING", "-NOREPLICAS"])
  func errorThatAnOlderServerWrapsIsRecognised(code: String) {
    let error = "ERR Error running script (call to f_1b): @user_script:12: @user_script: 12: \(code) You can't"
    #expect(RedisErrorReply.classify(error: bytes(error)) == .transient(error))
    #expect(RedisErrorReply.demandsReconnect(error: bytes(error)) == code.hasSuffix("READONLY"))
  }

  @Test func wrappedErrorOfAnotherKindIsNoStateOfTheServer() {
    let error = "ERR Error running script (call to f_1b): @user_script:12: attempt to index a nil value"
    #expect(RedisErrorReply.classify(error: bytes(error)) == .transient(error))
    #expect(!RedisErrorReply.isStateOfServer(error: bytes(error)))
  }

  @Test(arguments: ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381"])
  func clusterRedirectionIsExplained(error: String) {
    #expect(
      RedisErrorReply.classify(error: bytes(error)) == .transient("Redis Cluster is not supported yet: \(error)"))
  }

  @Test func slotsAreExplained() {
    let error = "CROSSSLOT Keys in request don't hash to the same slot"
    #expect(RedisErrorReply.classify(error: bytes(error)) == .fatal("Redis Cluster is not supported yet: \(error)"))
  }

  @Test func onlyADemotedPrimaryAndALostLoginDemandAReconnect() {
    #expect(RedisErrorReply.demandsReconnect(error: bytes("READONLY x")))
    #expect(RedisErrorReply.demandsReconnect(error: bytes("MASTERDOWN x")))
    #expect(RedisErrorReply.demandsReconnect(error: bytes("NOAUTH x")))
    for error in ["NOPERM x", "WRONGPASS x", "LOADING x", "ERR READONLY", "OOM x", "", "READONLYX"] {
      #expect(!RedisErrorReply.demandsReconnect(error: bytes(error)))
    }
  }

  @Test func wordsAreMadePrintableAndCut() {
    let error = bytes("ERR \r\n\t\u{1B}é") + [0xFF, 0] + bytes(String(repeating: "x", count: 1000))
    guard case .transient(let words) = RedisErrorReply.classify(error: error) else {
      Issue.record("not transient")
      return
    }
    #expect(words.utf8.count == 200)
    #expect(words.hasPrefix("ERR ????????xx"))
  }
}
