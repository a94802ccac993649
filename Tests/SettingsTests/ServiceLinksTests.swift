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
    let environment = [
      "SIDELOCK_REDIS_NAME": "/web/db", "SIDELOCK_REDIS_ENV_REDIS_VERSION": "7", "SIDELOCK_REDIS_ENV__X": "",
      "SIDELOCK_REDIS_ENV_PORT": "tcp://a", "SIDELOCK_REDIS_ENV_npm_config": "a b",
    ]
    #expect(resolve(environment).problems.isEmpty)
    #expect(resolve(environment).warnings.count == 5)
  }

  /// All that Docker sets for `--link redis:sidelock-redis`, and each of it by itself.
  @Test func everyVariableOfADockerLinkIsAWarning() {
    let environment = [
      "SIDELOCK_REDIS_PORT": "tcp://172.17.0.5:6379", "SIDELOCK_REDIS_PORT_6379_TCP": "tcp://172.17.0.5:6379",
      "SIDELOCK_REDIS_PORT_6379_TCP_PROTO": "tcp", "SIDELOCK_REDIS_PORT_6379_TCP_PORT": "6379",
      "SIDELOCK_REDIS_PORT_6379_TCP_ADDR": "172.17.0.5", "SIDELOCK_REDIS_NAME": "/web/sidelock-redis",
      "SIDELOCK_REDIS_ENV_GOSU_VERSION": "1.17",
      "SIDELOCK_REDIS_ENV_REDIS_DOWNLOAD_URL": "http://download.redis.io/r.tgz",
      "SIDELOCK_REDIS_ENV_REDIS_PASSWORD": "hunter2",
    ]
    #expect(resolve(environment).problems.isEmpty)
    #expect(resolve(environment).warnings.map(\.source) == environment.keys.sorted().map { .environment($0) })
    #expect(!resolve(environment).json.contains("hunter2"))
    for (name, value) in environment {
      #expect(resolve([name: value]).problems.isEmpty)
      #expect(resolve([name: value]).warnings.map(\.source) == [.environment(name)])
    }
  }

  @Test func aServiceOfTheDaemonsOwnNameIsKnownByItsOtherVariables() {
    #expect(resolve(["SIDELOCK_ENV_LEASE_MS": "5"]).problems.count == 1)
    let link = ["SIDELOCK_ENV_LEASE_MS": "5", "SIDELOCK_PORT": "tcp://10.0.0.1:6379"]
    #expect(resolve(link).problems.isEmpty && resolve(link).warnings.count == 2)
  }

  @Test(arguments: [
    ("SIDELOCK_PORT", "6379"), ("SIDELOCK_REDIS_PORT", "6379"), ("SIDELOCK_REDIS_PORT", "redis://10.0.0.1"),
    ("SIDELOCK_REDIS_HOST", "10.0.0.1"), ("SIDELOCK_REDIS_URL", "tcp://10.0.0.1:6379"), ("SIDELOCK_LEASE_MSS", "1"),
    ("SIDELOCK_SERVICE", "x"), ("SIDELOCK_REDIS_SERVICE_HOST", ""), ("SIDELOCK_REDIS_SERVICE_PORT", "redis"),
    ("SIDELOCK__PORT", "tcp://10.0.0.1:6379"), ("SIDELOCK_REDIS_NAME", "db"), ("SIDELOCK_PORT_X_TCP", "tcp://a"),
    ("SIDELOCK_REDIS", "tcp://10.0.0.1:6379"), ("SIDELOCK_HOST", "a b"), ("SIDELOCK_REDIS_ENV", "x"),
    ("SIDELOCK_REDIS_ENV_", "x"), ("SIDELOCK_REDIS_EVN_X", "x"), ("SIDELOCK__ENV_X", "x"), ("SIDELOCK_ENV_X", "x"),
    ("SIDELOCK_REDISENV_X", "x"),
  ])
  func aMistakeStaysAnError(_ name: String, _ value: String) {
    let resolution = resolve([name: value])
    #expect(resolution.problems.map(\.source) == [.environment(name)])
    #expect(resolution.warnings.isEmpty)
  }

  @Test func whatRunTellsItsCommandIsNeither() {
    let resolution = resolve([
      "SIDELOCK_NAME": "ci", "SIDELOCK_TOKEN": "7", "SIDELOCK_TOKENS": "7 8", "SIDELOCK_RUNS": "[]",
    ])
    #expect(resolution.problems.isEmpty && resolution.warnings.isEmpty)
  }
}
