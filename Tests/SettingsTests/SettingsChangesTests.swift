import AccessPolicy
import DaemonSettings
import Glibc
import LockEngine
import Logging
import NIOCore
import NIOPosix
import RESP
import Testing

@testable import Sidecar
@testable import SidelockSettings
@testable import SystemdSupport

@Suite struct SettingsChangesTests {
  private func settings(_ flags: [SettingKey: String]) throws -> Settings {
    var inputs = SettingsInputs { path, _ in path == "/password" ? .success([0x70]) : .failure(.missing) }
    inputs.refusalOfProgram = { _ in nil }
    inputs.flags = flags.filter { !$0.key.definition.kind.isList }
    inputs.listFlags = flags.filter(\.key.definition.kind.isList).mapValues { [$0] }
    inputs.isRoot = true
    inputs.systemHostName = "h"
    if flags[.local] == nil && flags[.redis] == nil { inputs.flags[.redis] = "redis://localhost" }
    return try #require(SettingsResolution(inputs).settings)
  }

  /// What a setting cannot be without.
  private func beside(_ key: SettingKey) -> [SettingKey: String] {
    key == .redisUser ? [.redisPasswordFile: SettingKey.redisPasswordFile.anotherValue] : [:]
  }

  /// The login of Sentinels is a part of `redis`.
  @Test(arguments: SettingKey.allCases.filter { ![.redisSentinelUser, .redisSentinelPasswordFile].contains($0) })
  func aChangeIsTold(_ key: SettingKey) throws {
    let old = try settings(beside(key))
    let new = try settings(beside(key).merging([key: key.anotherValue]) { $1 })
    #expect(old.changes(to: new) == [key])
    #expect(old.changes(to: old) == [])
    let taken = old.takingLiveChanges(from: new)
    #expect(taken.changes(to: new) == (key.changesLive ? [] : [key]))
    #expect(taken == (key.changesLive ? new : old))
  }

  /// It is not shown, and needs no restart.
  @Test func aLoginInTheURLChangesLive() throws {
    let old = try settings([.redis: "redis://:one@localhost"])
    let new = try settings([.redis: "redis://u:two@localhost"])
    #expect(old.changes(to: new) == [] && old != new)
    #expect(old.takingLiveChanges(from: new) == new)
    #expect(new.live.redisLogin.inURL == RedisLogin(username: "u", password: RedisSecret(Array("two".utf8))))
  }

  /// A property of the settings that no row leads to would keep its default whatever is given, and one that two rows lead to
  /// would be told twice.
  @Test func eachPropertyHasOneRow() throws {
    var rows: [String: [SettingKey]] = [:]
    let defaults = leaves(Settings())
    for key in SettingKey.allCases {
      guard let place = key.definition.place.value else { continue }
      var other = Settings()
      if key == .rules {
        other.live.policy.rules = try settings([key: key.anotherValue]).live.policy.rules
      } else {
        place.write(try key.definition.parse(key.anotherValue), &other)
      }
      #expect(place.read(other) != place.read(Settings()), "\(key) is not written")
      for (path, text) in leaves(other) where text != defaults[path] {
        rows[path, default: []].append(key)
        #expect(path.hasPrefix("live.") == key.changesLive, "\(key)")
      }
    }
    // The first two are those of `redis` and `local`; the others are no settings, but numbers of accounts.
    let others: Set = ["backend", "live.redisLogin.inURL", "live.policy.administrators", "live.policy.owner"]
    #expect(Set(rows.keys).union(others) == Set(defaults.keys))
    for (path, keys) in rows { #expect(keys.count == 1, "\(path) is that of \(keys)") }
  }

  // MARK: In force

  /// A daemon that is told other settings goes by them alone: no part of it keeps a copy of those before.
  @Test func everyLiveSettingIsInForceAfterAReload() throws {
    var new = LiveSettings()
    for key in SettingKey.allCases where key.changesLive {
      new = try settings(beside(key).merging([key: key.anotherValue]) { $1 }).takingOnly(key, into: new)
    }
    // Each differs from the default, so that a forgotten one would be found.
    let before = leaves(LiveSettings())
    let others = ["redisLogin.inURL", "policy.administrators", "policy.owner"]
    for (path, text) in leaves(new) where !others.contains(path) {
      #expect(text != before[path], "\(path)")
    }
    let daemon = try Daemon()
    #expect(try daemon.inForce() == InForce(LiveSettings()))
    try daemon.reload(new)
    #expect(try daemon.inForce() == InForce(new))
  }
}

extension Settings {
  /// `live` with the value that one setting has here.
  fileprivate func takingOnly(_ key: SettingKey, into live: LiveSettings) throws -> LiveSettings {
    var result = Settings()
    result.live = live
    let place = try #require(key.definition.place.value)
    place.write(place.read(self), &result)
    return result.live
  }
}

/// What the parts of a daemon go by.
private struct InForce: Equatable {
  var live: LiveSettings
  var engine: EngineSettings
  var linkTimeoutMilliseconds: Int64?
  var needsUnits: Bool

  init(_ live: LiveSettings) {
    self.live = live
    engine = live.engine
    linkTimeoutMilliseconds = live.engine.storeTimeoutMilliseconds
    needsUnits = live.policy.needsUnits
  }

  init(_ core: SidecarCore) {
    live = core.configuration.settings.live
    engine = core.engine.configuration.settings
    linkTimeoutMilliseconds = core.store?.timeoutMilliseconds
    needsUnits = core.parts.rights.needsUnits
  }
}

/// A daemon in this process, whose Redis is not there.
private final class Daemon {
  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
  private let life: NIOLoopBound<Lifecycle>
  private let directory: String

  init() throws {
    var template = Array("/tmp/sidelock-reload-XXXXXX".utf8CString)
    directory = try #require(mkdtemp(&template).map { String(cString: $0) })
    var settings = Settings()
    settings.backend = .redis(try RedisURL(parsing: "unix://\(directory)/redis"))
    settings.host = "a"
    let configuration = SidecarConfiguration(settings: settings, version: "1")
    let socket = try Unchecked(ListeningSocket(path: "\(directory)/socket", mode: 0o600))
    let loop = group.next()
    life = try loop.flatSubmit {
      let life = Lifecycle(
        configuration: configuration, loop: loop, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
        notifier: Notifier(isEnabled: false, watchdogIntervalMicroseconds: nil, clock: { 0 }, send: { _ in }))
      let bound = NIOLoopBound(life, eventLoop: loop)
      return life.start(on: socket.value).map { bound }
    }.wait()
  }

  private struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
  }

  deinit {
    let life = life
    _ = try? group.next().submit { life.value.stop() }.wait()
    try? group.syncShutdownGracefully()
    unlink("\(directory)/socket")
    unlink("\(directory)/socket.lock")
    rmdir(directory)
  }

  func reload(_ settings: LiveSettings) throws {
    try group.next().submit { [life] in life.value.reload(settings, saved: [], note: nil) }.wait()
  }

  func inForce() throws -> InForce { try group.next().submit { [life] in InForce(life.value.core) }.wait() }
}
