import Testing

@testable import SidelockSettings

/// A password in the wrong place is told of, and not repeated: logs are read by many.
@Suite struct SettingsSecretsTests {
  private func resolve(
    flags: [SettingKey: String] = [:], rules: [String] = [], environment: [String: String] = [:], file: String? = nil,
    config: String? = nil, unknown: [String] = [], files: [String: String] = [:]
  ) -> SettingsResolution {
    var inputs = SettingsInputs { path, _ in
      (path == "/c" ? file : files[path]).map { .success(Array($0.utf8)) } ?? .failure(.missing)
    }
    inputs.flags = flags
    if !rules.isEmpty { inputs.listFlags = [.rules: rules] }
    inputs.environment = environment
    inputs.configFlag = config ?? file.map { _ in "/c" }
    inputs.unknownArguments = unknown
    inputs.systemHostName = "host"
    return SettingsResolution(inputs)
  }

  private func everything(_ resolution: SettingsResolution) -> String {
    "\(resolution.table)\(resolution.json)\(resolution.problems)\(resolution.warnings)\(resolution.firstProblem)"
  }

  @Test func aPasswordOnTheCommandLineIsWarnedOf() throws {
    for url in ["redis://:hunter2@db", "redis://u:hunter2@db", "unix://:hunter2@/s"] {
      let resolution = resolve(flags: [.redis: url])
      #expect(resolution.problems.isEmpty)
      let warning = try #require(resolution.warnings.first)
      #expect(warning.source == .flag("--redis"))
      #expect(warning.message.contains("redis_password_file"))
      #expect(!everything(resolution).contains("hunter2"))
    }
  }

  @Test func elsewhereAPasswordInTheURLIsNotInSight() {
    #expect(resolve(environment: ["SIDELOCK_REDIS": "redis://:hunter2@db"]).warnings.isEmpty)
    #expect(resolve(file: "redis: redis://:hunter2@db\n").warnings.isEmpty)
    #expect(resolve(flags: [.redis: "redis://db"]).warnings.isEmpty)
    let outside: [SettingKey: String] = [.redis: "redis://db", .redisUser: "u", .redisPasswordFile: "/p"]
    #expect(resolve(flags: outside, files: ["/p": "hunter2"]).warnings.isEmpty)
  }

  /// The daemon logs in wherever a node or a sentinel says that Redis is.
  @Test func aPasswordForAddressesThatAreLearnedIsWarnedOfWithoutTLS() {
    let learned = { (url: String) in ["\(url)://:hunter2@db/?sentinelMasterId=m", "\(url)://db/?sentinelMasterId=m"] }
    for url in learned("redis-sentinel") + ["redis-cluster://:hunter2@db", "redis-cluster://db"] {
      let isPassword = url.contains("hunter2")
      let plain = resolve(environment: ["SIDELOCK_REDIS": url])
      #expect(plain.problems.isEmpty && plain.warnings.count == (isPassword ? 1 : 0), "\(url)")
      #expect(plain.warnings.allSatisfy { $0.setting == "redis" && $0.message.contains("rediss-") })
      let secret = resolve(environment: ["SIDELOCK_REDIS": url.replacing("redis-", with: "rediss-")])
      #expect(secret.warnings.isEmpty, "\(url)")
    }
    let file = resolve(flags: [.redis: "redis-cluster://db", .redisPasswordFile: "/p"], files: ["/p": "hunter2"])
    #expect(file.warnings.count == 1)
  }

  /// A URL with a password where another value belongs. Some settings take it for what they want.
  @Test(
    arguments: SettingKey.allCases.filter {
      ![.redis, .socket, .keyPrefix, .redisUser, .redisSentinelUser].contains($0)
    })
  func aURLInTheWrongSettingIsNotRepeated(_ key: SettingKey) {
    let value = "redis://u:hunter2@db"
    let flags: [SettingKey: String] =
      switch key {
      case .redisPasswordFile: [.redis: "redis://db"]
      case .redisSentinelPasswordFile: [.redis: "redis-sentinel://db?sentinelMasterId=m"]
      case _: [.local: "true"]
      }
    let given =
      key.definition.kind.isList
      ? resolve(flags: flags, rules: [value]) : resolve(flags: flags.merging([key: value]) { $1 })
    let set = resolve(flags: flags.filter { $0.key != key }, environment: [key.environmentName: value])
    let written = resolve(flags: flags.filter { $0.key != key }, file: "\(key.rawValue): \(value)\n")
    for resolution in [given, set, written] {
      #expect(!resolution.problems.isEmpty)
      #expect(!everything(resolution).contains("hunter2"))
    }
  }

  @Test(arguments: ["hunter2hunter2", "hunter2/+==", "hunter2 "])
  func aPasswordInThePlaceOfItsFileIsNotRepeated(_ value: String) {
    let resolution = resolve(flags: [.redis: "redis://db", .redisPasswordFile: value])
    #expect(resolution.problems.map(\.setting) == ["redis_password_file"])
    #expect(!everything(resolution).contains("hunter2"))
    // A path is told in full, and so is whatever can be used.
    let missing = resolve(flags: [.redis: "redis://db", .redisPasswordFile: "/etc/missing"])
    #expect(everything(missing).contains("/etc/missing"))
    let good = resolve(flags: [.redis: "redis://db", .redisPasswordFile: "password"], files: ["password": "x"])
    #expect(good.problems.isEmpty && everything(good).contains("\"password\""))
  }

  @Test(arguments: ["hunter2 ", "hunter2\u{7}"])
  func aPasswordInThePlaceOfTheUserIsNotRepeated(_ value: String) {
    let resolution = resolve(flags: [.redis: "redis://db", .redisUser: value])
    #expect(resolution.problems.contains { $0.setting == "redis_user" })
    #expect(!everything(resolution).contains("hunter2"))
  }

  @Test func anOptionThatDoesNotExistIsNamedWithoutItsValue() {
    let arguments = ["--redis-password=hunter2", "--redis-pasword", "hunter2", "redis://:hunter2@h"]
    let resolution = resolve(flags: [.local: "true"], unknown: arguments)
    #expect(resolution.problems.count == 3)
    #expect(everything(resolution).contains("--redis-password"))
    #expect(!everything(resolution).contains("hunter2"))
  }

  @Test func aFileThatIsNamedByAURLIsNotRepeated() {
    let resolution = resolve(flags: [.local: "true"], config: "redis://:hunter2@h")
    #expect(resolution.problems.count == 1)
    #expect(!everything(resolution).contains("hunter2"))
  }

  @Test(arguments: [
    "redis://:hunter2@h: x\n", "hunter2hunter2: 1\nhunter2hunter2: 2\n", "? [hunter2]\n: x\n", "hunter2 hunter2\n",
    "redis: [redis://:hunter2@h]\n", "redis: {a: redis://:hunter2@h}\n", "redis: &a redis://:hunter2@h\n",
    "redis: \"redis://:hunter2@h\n", "redis: redis://:hunter2@h: x\n", "redis_password: hunter2\n",
    "rules: {hunter2: x}\n", "rules: [[hunter2]]\n", "local: hunter2@hunter2://\n",
  ])
  func aSecretInAnUnfitFileIsNotRepeated(_ text: String) {
    let resolution = resolve(file: text)
    #expect(!resolution.problems.isEmpty)
    #expect(!everything(resolution).contains("hunter2"))
  }
}
