import SidelockClient
import Testing

@testable import sidelock

/// Findings of `doctor` that no server of the tests can be brought to; `test_doctor.py` has the others.
struct FindingTests {
  @Test func whoIsInTheGroup() {
    let find = { (isRoot: Bool, group: (gid_t: UInt32, members: [String])?, own: [UInt32]) in
      HostFindings.groups(isRoot: isRoot, user: "anna", group: group.map { ($0.gid_t, $0.members) }, own: own)
    }
    #expect(find(true, nil, []).state == .ok && find(false, nil, [1]).state == .ok)
    #expect(find(false, (7, []), [1, 7]).state == .ok)
    #expect(find(false, (7, ["bert", "anna"]), [1]).fix == "newgrp sidelock")
    #expect(find(false, (7, ["bert"]), [1]).fix == "sudo usermod -aG sidelock anna")
  }

  @Test func onlyVariablesOfSettingsAreTakenFromADaemon() {
    let variables = ["SIDELOCK_REDIS=x", "LD_PRELOAD=/tmp/x.so", "CREDENTIALS_DIRECTORY=/x", "PATH=/x", "SIDELOCKED=1"]
    #expect(variables.filter(HostFindings.isOfSettings) == ["SIDELOCK_REDIS=x", "CREDENTIALS_DIRECTORY=/x"])
  }

  @Test func anotherVersionDeservesALook() {
    #expect(HostFindings.version("999.0.0").state == .warn)
    #expect(
      RedisFindings.hosts([["host": "a", "version": "1", "own": true], ["host": "b", "version": "2"]]).state == .warn)
    let own: JSONValue = ["host": "a", "instance": "1", "version": "1", "own": true]
    let twice = RedisFindings.hosts([own, ["host": "a", "instance": "2", "version": "1"]])
    #expect(twice.state == .warn && twice.why.contains("several daemons have the name a"))
    // A daemon that was killed a moment ago.
    #expect(HostsCommand.namesOfSeveral([own, ["host": "a", "instance": "0"]]) == [])
  }

  @Test(
    arguments: [
      ("redis_version:6.0.16", "server", .bad), ("redis_version:6.2.0", "server", .ok),
      ("redis_version:7.2.4\r\nvalkey_version:8.1.0", "server", .ok), ("", "server", .warn),
      ("role:slave", "replicas", .bad),
      ("role:master\r\nconnected_slaves:1\r\nslave0:ip=a,port=1,state=wait_bgsave,offset=0,lag=0", "replicas", .warn),
      ("role:master\r\nconnected_slaves:1\r\nslave0:ip=a,port=1,state=online,offset=0,lag=0", "replicas", .ok),
      ("aof_enabled:1\r\naof_last_write_status:err", "persistence", .bad), ("aof_enabled:1", "persistence", .ok),
      ("aof_enabled:0", "persistence", .ok), ("rdb_last_bgsave_status:err", "persistence", .bad),
      ("maxmemory:0\r\nmaxmemory_policy:volatile-ttl", "eviction", .warn),
      ("maxmemory:5\r\nmaxmemory_policy:volatile-ttl", "eviction", .bad),
    ] as [(String, String, Finding.State)])
  func whatRedisTells(info: String, check: String, state: Finding.State) {
    let found = findings(info, needsDisk: false).first { $0.check == check }
    #expect(found?.state == state)
    #expect((found?.fix == nil) == (state == .ok))
  }

  @Test func aGraceOfSomePartsIsNoneOfAll() {
    let redis = { (parts: Int64) -> JSONValue in
      ["connected": 1, "grace_ms": 7000, "cluster": ["parts_unserved": 0, "parts_recovering": .int(parts)]]
    }
    let health = { (parts: Int64, isReadiness: Bool) in
      HealthCommand.Verdict(stats: ["redis": redis(parts)], isReadiness: isReadiness)
    }
    let some = "Redis has other data than before in 21 of 64 parts of all locks; nothing new is granted there for 7.0 s"
    let all = "Redis has other data than before; nothing new is granted for 7.0 s"
    #expect(health(21, true) == HealthCommand.Verdict(state: .warning, why: some))
    #expect(health(21, false) == HealthCommand.Verdict(state: .warning, why: some))
    #expect(health(64, true) == HealthCommand.Verdict(state: .critical, why: all))
    #expect(GraceWords(["grace_ms": 7000])?.text == all && GraceWords(["grace_ms": 0]) == nil)
    let found = RedisFindings.reached(redis(21), RedisServerWords(url: nil) { _ in nil })
    #expect(found.state == .warn && found.why == some)
  }

  @Test(arguments: [(3, false, "WARNING"), (3, true, "WARNING"), (64, true, "CRITICAL"), (64, false, "WARNING")])
  func partsThatAreNotServedAreNotAll(parts: Int64, isReadiness: Bool, state: String) {
    let redis: JSONValue = ["connected": 1, "cluster": ["parts_unserved": .int(parts)]]
    let verdict = HealthCommand.Verdict(stats: ["redis": redis], isReadiness: isReadiness)
    #expect(verdict.state.rawValue == state && verdict.why.hasPrefix("\(parts) of 64 parts"))
  }

  @Test func aRefusalIsToldBeforePartsThatAreNotServed() {
    let redis: JSONValue = ["connected": 1, "refused": "OOM command not allowed", "cluster": ["parts_unserved": 3]]
    let verdict = HealthCommand.Verdict(stats: ["redis": redis], isReadiness: true)
    #expect(verdict.state == .critical && verdict.why.contains("OOM"))
  }

  private func findings(_ info: String, needsDisk: Bool) -> [Finding] {
    RedisFindings.server(
      RedisServerWords(url: nil) { _ in nil }, RedisInfo("# Server\r\n" + info + "\r\n"), replicasNeeded: 0,
      microseconds: 0, needsDisk: needsDisk, keyPrefix: "a:", prefixes: ["a:"])
  }

  @Test func whoAsksForADiskNeedsAnAppendOnlyFile() {
    let found = findings("aof_enabled:0", needsDisk: true).first { $0.check == "persistence" }
    #expect(found?.state == .bad && found?.fix?.hasSuffix("CONFIG SET appendonly yes") == true)
    #expect(findings("aof_enabled:1", needsDisk: true).first { $0.check == "persistence" }?.state == .ok)
  }

  @Test(
    arguments: [
      ("redis://h:7000/2", "redis-cli -h h -p 7000 -n 2 PING"),
      ("redis://anna:***@[::1]:6379/0", "redis-cli -h ::1 -p 6379 PING"),
      ("unix:///tmp/a%20b.sock?db=3", "redis-cli -s '/tmp/a b.sock' -n 3 PING"),
      ("rediss://h:1/0", "redis-cli -h h -p 1 --tls --cacert '/c a.pem' --insecure PING"),
      ("redis-cluster://a:1,b:2", "redis-cli --cluster call a:1 PING"),
      (
        "redis-sentinel://a:1,b:2/1?sentinelMasterId=m",
        "redis-cli $(redis-cli -h a -p 1 SENTINEL GET-MASTER-ADDR-BY-NAME m | sed '1s/^/-h /;2s/^/-p /') -n 1 PING"
      ),
      (nil, "redis-cli -u THE-DAEMONS-URL PING"),
    ] as [(String?, String)])
  func theDaemonsRedisIsAskedAndNoOther(url: String?, command: String) {
    let server = RedisServerWords(url: url) { ["redis_tls_ca": "/c a.pem", "redis_tls_verify": "none"][$0] }
    #expect(server.command("PING") == command)
  }

  @Test(
    arguments: [
      ("cannot connect to a:1: Connection refused", "b:2"), ("a:1: no answer within 500 ms", "b:2"),
      ("b:2: no answer within 500 ms", "a:1"), ("a:10: no answer within 500 ms", "a:1"), ("", "a:1"),
    ])
  func aNodeThatAnswersIsAsked(trouble: String, node: String) {
    var server = RedisServerWords(url: "redis-cluster://a:1,b:2") { _ in nil }
    server.trouble = trouble
    #expect(server.command("PING") == "redis-cli --cluster call \(node) PING")
  }

  @Test(
    arguments: [
      ("b:2", "redis-cli -h b -p 2 -n 1 PING"), ("[::1]:2", "redis-cli -h ::1 -p 2 -n 1 PING"),
    ])
  func thePrimaryThatSentinelsHaveNamedIsAsked(primary: String, command: String) {
    var server = RedisServerWords(url: "redis-sentinel://a:1/1?sentinelMasterId=m") { _ in nil }
    server.primary = primary
    #expect(server.command("PING") == command)
  }

  @Test func theDaemonsUserIsNamedWhereItIsKnown() {
    let user = { (url: String?, settings: [String: String]) in RedisServerWords(url: url) { settings[$0] }.user }
    #expect(user("redis://anna:***@h:1/0", [:]) == "anna" && user("redis://h:1/0", [:]) == "default")
    #expect(user("redis://h:1/0", ["redis_user": "bert"]) == "bert")
    #expect(user("redis://h:1/0", ["redis_credentials_command": "x"]) == "THE-DAEMONS-USER")
    #expect(user(nil, [:]) == "THE-DAEMONS-USER")
  }
}
