import AccessPolicy
import DaemonSettings
import LockEngine
import RESP
import Testing

@testable import SidelockSettings

@Suite struct SettingsInForceTests {
  private func settings(_ flags: [SettingKey: String], rules: [String] = []) throws -> SettingsInForce {
    var inputs = SettingsInputs { path, _ in path == "/p" ? .success(Array("hunter2".utf8)) : .failure(.missing) }
    inputs.flags = flags
    inputs.listFlags = [.rules: rules]
    inputs.accounts = AccountLookup(user: { _ in .number(1000) }, group: { _ in .number(50) })
    inputs.systemHostName = "host"
    return try #require(SettingsInForce(SettingsResolution(inputs)))
  }

  @Test(
    arguments: [
      [.local: "true"], [.redis: "redis://u:p%00w@[::1]:7000/3", .logLevel: "trace", .socketMode: "0600"],
      [.redis: "redis-sentinel://u:p@a:1,[::1],c/3?sentinelMasterId=m", .redisSentinelPasswordFile: "/p"],
      [
        .redis: "rediss-sentinel://a?sentinelMasterId=m", .redisSentinelPasswordFile: "/p", .redisSentinelUser: "s",
      ],
      [.redis: "redis-cluster://u:p@a:1,[::1],c"], [.redis: "rediss-cluster://a"],
      [.redis: "unix:///run/r.sock", .leaseMilliseconds: "3000", .connectionsMax: "7", .host: "h", .keyPrefix: "k"],
    ] as [[SettingKey: String]])
  func whatIsWrittenIsReadAsItWas(flags: [SettingKey: String]) throws {
    let rules = [
      "deny use,inspect \"a b\" to user:anna,group:shop", "allow break x* to unit:cron.service",
      "allow use * to everyone",
    ]
    let inForce = try settings(flags, rules: rules)
    #expect(SettingsInForce(encoded: inForce.encoded) == inForce)
  }

  @Test func thePlaceOfTheLoginIsKeptAndNotTheLogin() throws {
    var inputs = SettingsInputs { _, _ in .success(Array("hunter2".utf8)) }
    inputs.refusalOfProgram = { _ in nil }
    inputs.flags = [.redis: "redis://h", .redisUser: "u", .redisPasswordFile: "/p"]
    let withFile = try #require(SettingsInForce(SettingsResolution(inputs)))
    inputs.flags = [.redis: "redis://h", .redisCredentialsCommand: "/c"]
    let withCommand = try #require(SettingsInForce(SettingsResolution(inputs)))
    for inForce in [withFile, withCommand] {
      #expect(SettingsInForce(encoded: inForce.encoded) == inForce)
      #expect(!String(decoding: inForce.encoded, as: UTF8.self).contains("hunter2"))
    }
  }

  @Test func anythingElseIsNotRead() throws {
    let urls = ["redis://u:p@h", "redis-cluster://h,i", "redis-sentinel://u:p@h,i?sentinelMasterId=m"]
    try urls.forEach(nothingElseIsRead)
  }

  private func nothingElseIsRead(url: String) throws {
    let bytes = try settings([.redis: url], rules: ["allow use a to user:anna"]).encoded
    for count in bytes.indices { #expect(SettingsInForce(encoded: Array(bytes[..<count])) == nil) }
    #expect(SettingsInForce(encoded: bytes + [0]) == nil)
    // Whatever bytes are damaged, nothing traps.
    for index in bytes.indices {
      for value in [0, 1, 0x7F, 0xFF] as [UInt8] {
        var damaged = bytes
        damaged[index] = value
        _ = SettingsInForce(encoded: damaged)
      }
    }
  }

  /// Daemons of two versions follow each other: one has a setting that the other does not know.
  @Test func aSettingThatIsNotKnownIsPassedOverAndOneThatIsMissingHasItsDefault() throws {
    let left = try settings([.local: "true", .cohortMax: "7", .lingerMilliseconds: "8"])
    let name = Array(SettingKey.cohortMax.rawValue.utf8)
    var bytes = left.encoded
    for start in bytes.indices.dropLast(name.count) where Array(bytes[start..<(start + name.count)]) == name {
      bytes[start] = UInt8(ascii: "x")
    }
    let found = try #require(SettingsInForce(encoded: bytes))
    var expected = left
    expected.settings.live.engine.cohortMax = EngineSettings().cohortMax
    expected.shown[.cohortMax] = nil
    #expect(found == expected)
  }

  /// Whole bytes with a number that no setting may have: a lease of 1 ms would be renewed without end.
  @Test func numbersThatNoSettingMayHaveAreNotRead() throws {
    let good = try settings([.redis: "redis://h"])
    #expect(SettingsInForce(encoded: good.encoded) == good)
    let changes: [(inout Settings) -> Void] = [
      { $0.live.engine.leaseMilliseconds = 1 }, { $0.live.engine.leaseMilliseconds = .max },
      { $0.live.engine.storeTimeoutMilliseconds = 0 },
      { $0.live.engine.storeTimeoutMilliseconds = 6_000 }, { $0.live.engine.lingerMilliseconds = -1 },
      { $0.live.engine.cohortMax = 0 },
      { $0.live.connectionsMax = 0 }, { $0.live.engine.holdsPerSessionMax = 0 },
      { $0.live.engine.waitsPerUIDMax = .min },
      { $0.live.bytesPerSessionMax = 0 },
      {
        $0.backend = .redis(
          RedisURL(endpoint: .tcp(host: "h", port: 1 << 20), username: nil, password: nil, database: 0))
      },
      { $0.backend = .redis(RedisURL(endpoint: .tcp(host: "h", port: 1), username: nil, password: nil, database: -1)) },
    ]
    for (index, change) in changes.enumerated() {
      var other = good
      change(&other.settings)
      #expect(SettingsInForce(encoded: other.encoded) == nil, "change \(index)")
    }
  }

  /// Wrong settings stay so; accounts that cannot be asked may be there a moment later.
  @Test func onlyAccountsMayBeThereAtAnotherTime() {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.flags = [.local: "true"]
    inputs.accounts = AccountLookup(user: { _ in .failed("down") }, group: { _ in .failed("down") })
    inputs.listFlags = [.rules: ["deny use a to user:anna"]]
    #expect(SettingsResolution(inputs).problems.count == 2)
    #expect(SettingsResolution(inputs).mayPass)
    inputs.flags[.leaseMilliseconds] = "soon"
    #expect(!SettingsResolution(inputs).mayPass)
  }
}
