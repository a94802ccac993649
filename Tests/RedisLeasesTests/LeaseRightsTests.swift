import RESP
import RedisLeases
import Testing

@Suite struct LeaseRightsTests {
  private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

  /// What `source` calls by `function`.
  private func commands(in source: [UInt8], by function: String) -> Set<String> {
    let calls = text(source).split(separator: function + "('", omittingEmptySubsequences: false).dropFirst()
    return Set(calls.map { $0.prefix { $0 != "'" }.lowercased() })
  }

  @Test func theProbeTriesWhatTheScriptsUse() throws {
    let probe = LeaseCommandEncoder(keyPrefix: "p:", host: "h", instance: "1").probe
    let tried = commands(in: probe.script, by: "try")
    var used: Set<String> = []
    for script in RedisScript.leases {
      used.formUnion(commands(in: script.source, by: "redis.call"))
      used.formUnion(commands(in: script.source, by: "redis.pcall"))
      // No other way to call anything has come up.
      let calls = text(script.source).split(separator: "redis.", omittingEmptySubsequences: false).dropFirst()
      #expect(
        calls.allSatisfy {
          $0.hasPrefix("call('") || $0.hasPrefix("pcall('") || $0.hasPrefix("pcall, an") || $0.hasPrefix("pcall is an")
        })
    }
    #expect(used.count > 10)
    // The daemon itself asks these.
    #expect(tried == used.union(["ping", "scan"]))
    #expect(RedisRights.leaseCommands == tried.sorted())
  }

  @Test func theProbeIsRunWhereNoLockIs() {
    let probe = LeaseCommandEncoder(keyPrefix: "p:", host: "h", instance: "1").probe
    #expect(text(probe.key) == "p:{}probe:h/1")
    #expect(text(probe.channel) == "p:inbox:-/0")
    #expect(probe.rights == .leases(keyPrefix: Array("p:".utf8)))
  }

  @Test func theRulesNameThePrefixAndTheCommands() {
    let rules = RedisRights.leases(keyPrefix: Array("p:".utf8)).rules
    #expect(rules.hasPrefix("~p:* resetchannels &p:* +evalsha +script|load +subscribe +del "))
    #expect(rules.contains(" +publish ") && rules.hasSuffix(" +type"))
    #expect(
      RedisRights.leases(keyPrefix: Array("p:".utf8), inCluster: true).rules == rules + " +cluster|myid +cluster|nodes")
  }
}
