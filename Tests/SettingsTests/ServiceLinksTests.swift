import Testing

@testable import SidelockSettings

@Suite struct ServiceLinksTests {
  private func resolve(_ environment: [String: String], flags: [SettingKey: String] = [.local: "true"])
    -> SettingsResolution
  {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.flags = flags
    inputs.environment = environment
    inputs.systemHostName = "host"
    return SettingsResolution(inputs)
  }

  /// For services called sidelock, sidelock-redis and sidelock-host.
  @Test(arguments: [
    ("SIDELOCK_SERVICE_HOST", "10.0.0.1"), ("SIDELOCK_SERVICE_PORT", "6379"), ("SIDELOCK_SERVICE_PORT_METRICS", "9100"),
    ("SIDELOCK_PORT", "tcp://10.0.0.1:6379"), ("SIDELOCK_PORT_6379_TCP", "tcp://10.0.0.1:6379"),
    ("SIDELOCK_PORT_6379_TCP_PROTO", "tcp"), ("SIDELOCK_PORT_6379_TCP_PORT", "6379"),
    ("SIDELOCK_PORT_6379_TCP_ADDR", "10.0.0.1"), ("SIDELOCK_PORT_53_UDP", "udp://10.0.0.1:53"),
    ("SIDELOCK_REDIS_SERVICE_HOST", "fd00::1"), ("SIDELOCK_REDIS_SERVICE_PORT", "6379"),
    ("SIDELOCK_REDIS_PORT", "tcp://[fd00::1]:6379"), ("SIDELOCK_REDIS_PORT_6379_TCP_ADDR", "fd00::1"),
    ("SIDELOCK_REDIS_NAME", "/web/sidelock_redis"), ("SIDELOCK_HOST_SERVICE_HOST", "10.0.0.1"),
    ("SIDELOCK_HOST_PORT", "tcp://10.0.0.1:80"), ("SIDELOCK_LEASE_MS_PORT_80_TCP_PROTO", "tcp"),
    // Where the name is a setting's, the value tells.
    ("SIDELOCK_HOST", "tcp://10.0.0.1:80"), ("SIDELOCK_SOCKET", "tcp://10.0.0.1:80"),
    ("SIDELOCK_LEASE_MS", "tcp://10.0.0.1:80"), ("SIDELOCK_RULES", "tcp://10.0.0.1:80"),
  ])
  func aServiceLinkIsAWarning(_ name: String, _ value: String) {
    let resolution = resolve([name: value])
    #expect(resolution.problems.isEmpty)
    #expect(resolution.warnings.map(\.source) == [.environment(name)])
    #expect(resolution.settings == resolve([:]).settings)
    #expect(resolution.json.contains(name) && resolution.table.contains("warning: \(name)"))
  }

  @Test func dockerPassesTheOtherContainersVariablesOn() {
    let environment = ["SIDELOCK_REDIS_NAME": "/web/db", "SIDELOCK_REDIS_ENV_REDIS_VERSION": "7"]
    #expect(resolve(environment).problems.isEmpty)
    #expect(resolve(environment).warnings.count == 2)
    #expect(resolve(["SIDELOCK_REDIS_ENV_REDIS_VERSION": "7"]).problems.count == 1)
  }

  @Test(arguments: [
    ("SIDELOCK_PORT", "6379"), ("SIDELOCK_REDIS_PORT", "6379"), ("SIDELOCK_REDIS_PORT", "redis://10.0.0.1"),
    ("SIDELOCK_REDIS_HOST", "10.0.0.1"), ("SIDELOCK_REDIS_URL", "tcp://10.0.0.1:6379"), ("SIDELOCK_LEASE_MSS", "1"),
    ("SIDELOCK_SERVICE", "x"), ("SIDELOCK_REDIS_SERVICE_HOST", ""), ("SIDELOCK_REDIS_SERVICE_PORT", "redis"),
    ("SIDELOCK__PORT", "tcp://10.0.0.1:6379"), ("SIDELOCK_REDIS_NAME", "db"), ("SIDELOCK_PORT_X_TCP", "tcp://a"),
    ("SIDELOCK_REDIS", "tcp://10.0.0.1:6379"), ("SIDELOCK_HOST", "a b"),
  ])
  func aMistakeStaysAnError(_ name: String, _ value: String) {
    let resolution = resolve([name: value])
    #expect(resolution.problems.map(\.source) == [.environment(name)])
    #expect(resolution.warnings.isEmpty)
  }

  @Test func whatRunTellsItsCommandIsNeither() {
    let resolution = resolve(["SIDELOCK_NAME": "ci", "SIDELOCK_TOKEN": "7", "SIDELOCK_TOKENS": "7 8"])
    #expect(resolution.problems.isEmpty && resolution.warnings.isEmpty)
  }
}
