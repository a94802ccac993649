import Logging
import RESP
import Testing

@testable import SidelockSettings

@Suite struct SettingsChangesTests {
  private func settings(_ flags: [SettingKey: String]) throws -> Settings {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.flags = flags.filter { $0.key != .rules }
    inputs.listFlags = flags[.rules].map { [.rules: [$0]] } ?? [:]
    inputs.isRoot = true
    inputs.systemHostName = "h"
    if flags[.local] == nil && flags[.redis] == nil { inputs.flags[.redis] = "redis://localhost" }
    return try #require(SettingsResolution(inputs).settings)
  }

  /// A value that is not the default, for every setting that shows in `Settings` under its own name.
  private static let others: [(SettingKey, String)] = [
    (.redis, "redis://:secret@localhost"), (.local, "true"), (.socket, "/x"), (.socketMode, "0600"),
    (.leaseMilliseconds, "20000"), (.lingerMilliseconds, "1"), (.cohortMax, "1"), (.cohortMilliseconds, "1"),
    (.redisTimeoutMilliseconds, "1000"), (.keyPrefix, "p"), (.host, "other"), (.connectionsMax, "1"),
    (.connectionsPerUIDMax, "1"), (.holdsPerSessionMax, "1"), (.holdsPerUIDMax, "1"), (.waitsPerSessionMax, "1"),
    (.waitsPerUIDMax, "1"), (.bytesPerSessionMax, "2000000"), (.bytesPerUIDMax, "2000000"),
    (.lockBytesPerUIDMax, "2000000"), (.watchesPerUIDMax, "2"),
    (.rules, "deny use a to everyone"), (.logLevel, "error"),
  ]

  @Test(arguments: others)
  func aChangeIsTold(_ key: SettingKey, _ value: String) throws {
    let old = try settings([:])
    let new = try settings([key: value])
    #expect(old.changes(to: new) == [key])
    #expect(old.changes(to: old) == [])
    let taken = old.takingLiveChanges(from: new)
    #expect(taken.changes(to: new) == (key.changesLive ? [] : [key]))
    #expect(taken == (key.changesLive ? new : old))
  }

  @Test func everySettingThatIsNotALoginIsCovered() {
    let covered = Set(Self.others.map(\.0.rawValue)).union(["redis_user", "redis_password_file"])
    #expect(covered == Set(SettingKey.allCases.map(\.rawValue)))
  }
}
