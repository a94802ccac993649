import LockEngine
import LockTypes
import RESP
import RedisLeases
import Testing

@Suite struct KeyDocumentTests {
  @Test func theRightsInTheProseAreThoseThatTheDaemonTries() throws {
    let rules = RedisRights.leases(keyPrefix: Array("sidelock:".utf8)).rules
    #expect(try Documents.text("README.md").contains("\nACL SETUSER locks on >PASSWORD \(rules)\n"))
  }

  @Test func theLockKeysInTheProseAreThoseOfTheDaemon() throws {
    let keys = LockKeys(prefix: Array("sidelock:".utf8))
    let rows = try Documents.table(headedBy: ["name", "lock key with the default prefix"])
    #expect(rows.count >= 3)
    for row in rows {
      #expect(String(decoding: keys.lockKey(LockName(row[0])), as: UTF8.self) == row[1])
    }
  }
}
