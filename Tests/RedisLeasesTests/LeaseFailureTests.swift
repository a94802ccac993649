import LockEngine
import RedisLeases
import Testing

/// What Redis' errors mean to who sent a command about a lock.
@Suite struct LeaseFailureTests {
  private func failure(_ error: String) -> LeaseFailure { LeaseFailure(error: Array(error.utf8)) }

  @Test(arguments: [
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "CLUSTERDOWN The cluster is down",
    "NOSCRIPT No matching script. Please use EVAL.",
    "ERR max number of clients reached",
    "LOADING",
  ])
  func stateThatPassesIsTransient(error: String) {
    #expect(failure(error) == .transient(error))
  }

  @Test(arguments: [
    "ERR unknown command 'EVALSHA'",
    "NOPERM this user has no permissions to run the 'evalsha' command",
    "NOAUTH Authentication required.",
    "ERR user_script:3: Script attempted to access nonexistent global variable 'x' script: 1b, on @user_script:3.",
    "ERR READONLY is only a word here",
    "ERR Error running script (call to f_1b): @user_script:12: attempt to index a nil value",
    "ERR",
    "",
    " LOADING",
    "loading x",
    "LOADINGX x",
    "BUSYGROUP Consumer Group name already exists",
  ])
  func whatNobodyKnowsMayPass(error: String) {
    #expect(failure(error) == .transient(error))
  }

  /// It is of no use to an operator in which script Redis was full.
  @Test func aStateIsToldWithoutThePlaceInAScript() {
    let words = "NOREPLICAS Not enough good replicas to write."
    #expect(failure("\(words) script: 1b936e3fe509bcbc, on @user_script:12.") == .transient(words))
    let wrapped = "ERR Error running script (call to f_1b): @user_script:12: @user_script: 12: -\(words)"
    #expect(failure(wrapped) == .transient(words))
  }

  @Test func dataThatIsNoLockIsToldApart() {
    for error in [
      "WRONGTYPE Operation against a key holding the wrong kind of value",
      "WRONGTYPE Operation against a key holding the wrong kind of value script: 80d15f, on @user_script:1.",
      "ERR Error running script (call to f_80d15f): @user_script:1: WRONGTYPE Operation against a key",
    ] {
      #expect(failure(error) == .wrongType(nil))
    }
  }

  @Test func dataOfOthersAreToldAsAScriptSaysIt() {
    let told: [(String, OtherData?)] = [
      ("lock hash", OtherData(part: .lock, type: "hash")), ("queue string", OtherData(part: .queue, type: "string")),
      ("fence ReJSON-RL", OtherData(part: .fence, type: "ReJSON-RL")), ("queue -", OtherData(part: .queue, type: nil)),
      ("queue", nil), ("inbox hash", nil), ("", nil),
    ]
    for (words, other) in told {
      #expect(failure("WRONGTYPE " + words) == .wrongType(other))
    }
  }

  @Test(arguments: ["MOVED 3999 127.0.0.1:6381", "ASK 3999 127.0.0.1:6381", "CLUSTERDOWN Hash slot not served"])
  func whatAClusterIsInPasses(error: String) { #expect(failure(error) == .transient(error)) }

  @Test func slotsAreExplained() {
    let error = "CROSSSLOT Keys in request don't hash to the same slot"
    #expect(
      failure(error) == .fatal("this is a node of a Redis Cluster, and the URL is not redis-cluster://: \(error)"))
  }
}
