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
  }

  @Test(
    arguments: [
      ("redis_version:6.0.16", "server", .bad), ("redis_version:6.2.0", "server", .ok),
      ("redis_version:7.2.4\r\nvalkey_version:8.1.0", "server", .ok), ("", "server", .warn),
      ("role:slave", "replicas", .bad),
      ("role:master\r\nconnected_slaves:1\r\nslave0:ip=a,port=1,state=wait_bgsave,offset=0,lag=0", "replicas", .warn),
      ("role:master\r\nconnected_slaves:1\r\nslave0:ip=a,port=1,state=online,offset=0,lag=0", "replicas", .ok),
      ("aof_enabled:1\r\naof_last_write_status:err", "persistence", .bad), ("aof_enabled:1", "persistence", .ok),
      ("maxmemory:0\r\nmaxmemory_policy:volatile-ttl", "eviction", .warn),
      ("maxmemory:5\r\nmaxmemory_policy:volatile-ttl", "eviction", .bad),
    ] as [(String, String, Finding.State)])
  func whatRedisTells(info: String, check: String, state: Finding.State) {
    let findings = RedisFindings.server(
      RedisInfo("# Server\r\n" + info + "\r\n"), replicasNeeded: 0, microseconds: 0, keyPrefix: "a:", prefixes: ["a:"])
    let found = findings.first { $0.check == check }
    #expect(found?.state == state)
    #expect((found?.fix == nil) == (state == .ok))
  }
}
