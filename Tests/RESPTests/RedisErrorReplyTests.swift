import RESP
import Testing

@Suite struct RedisErrorReplyTests {
  static let statesOfServer: [String] = [
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

  @Test(arguments: statesOfServer)
  func aStateOfTheServerIsKnown(error: String) {
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
  func whatNobodyKnowsIsNoStateOfTheServer(error: String) {
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

  @Test(arguments: ["-READONLY", "READONLY", "-OOM", "-MISCONF", "LOADING", "-NOREPLICAS"])
  func errorThatAnOlderServerWrapsIsRecognised(code: String) {
    let error = "ERR Error running script (call to f_1b): @user_script:12: @user_script: 12: \(code) You can't"
    #expect(RedisErrorReply.demandsReconnect(error: bytes(error)) == code.hasSuffix("READONLY"))
  }

  @Test func wrappedErrorOfAnotherKindIsNoStateOfTheServer() {
    let error = "ERR Error running script (call to f_1b): @user_script:12: attempt to index a nil value"
    #expect(!RedisErrorReply.isStateOfServer(error: bytes(error)))
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
    let words = RedisErrorReply.words(of: error)
    #expect(words.utf8.count == 200)
    #expect(words.hasPrefix("ERR ????????xx"))
  }
}
