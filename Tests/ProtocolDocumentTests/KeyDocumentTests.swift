import Foundation
import LockEngine
import LockTypes
import RESP
import RedisLeases
import TestSupport
import Testing

@Suite struct KeyDocumentTests {
  @Test func theRightsInTheProseAreThoseThatTheDaemonTries() throws {
    let rules = RedisRights.leases(keyPrefix: Array("sidelock:".utf8)).rules
    let line = "\nACL SETUSER locks on >PASSWORD \(rules)\n"
    #expect(try Documents.text("README.md").contains(line))
    let settings = Repository.root.appending(path: "packaging/settings.md")
    #expect(try String(contentsOf: settings, encoding: .utf8).contains(line))
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
