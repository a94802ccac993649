import AccessPolicy
import DaemonSettings
import RESP
import Testing

@testable import SidelockSettings

@Suite struct SettingsResolutionTests {
  private func resolve(
    flags: [SettingKey: String] = [.local: "true"], lists: [SettingKey: [String]] = [:],
    environment: [String: String] = [:], file: String? = nil,
    unknown: [String] = [], files: [String: String] = [:], isRoot: Bool = true
  ) -> SettingsResolution {
    var all = files
    all["/sidelock.yaml"] = file
    let contents = all
    var inputs = SettingsInputs { path, bytesMax in
      guard let text = contents[path] else { return .failure(.missing) }
      return text.utf8.count > bytesMax ? .failure(.tooLong(bytesMax: bytesMax)) : .success(Array(text.utf8))
    }
    inputs.flags = flags
    inputs.listFlags = lists
    inputs.accounts = accounts
    inputs.environment = environment
    inputs.configFlag = file == nil ? nil : "/sidelock.yaml"
    inputs.unknownArguments = unknown
    inputs.isRoot = isRoot
    inputs.systemHostName = "host 1"
    return SettingsResolution(inputs)
  }

  private let accounts = AccountLookup(
    user: { $0 == "anna" ? .number(1000) : .unknown },
    group: { $0 == "sidelock-admin" ? .number(500) : .unknown })

  private func texts(_ resolution: SettingsResolution) -> [String] { resolution.problems.map(\.description) }

  @Test func defaultsAreComplete() throws {
    let resolution = resolve()
    let settings = try #require(resolution.settings)
    var defaults = Settings()
    defaults.host = "host-1"
    defaults.live.policy.administrators = 500
    #expect(settings == defaults)
  }

  @Test func flagWinsOverEnvironmentOverFileOverDefault() throws {
    let file = "lease_ms: 11000\nlinger_ms: 12\ncohort_ms: 13\n"
    let resolution = resolve(
      flags: [.local: "true", .leaseMilliseconds: "31000"],
      environment: ["SIDELOCK_LEASE_MS": "21000", "SIDELOCK_LINGER_MS": "22"], file: file)
    let settings = try #require(resolution.settings)
    #expect(settings.live.engine.leaseMilliseconds == 31_000)
    #expect(settings.live.engine.lingerMilliseconds == 22)
    #expect(settings.live.engine.cohortMilliseconds == 13)
    #expect(settings.live.engine.cohortMax == 100)
    let sources = Dictionary(uniqueKeysWithValues: resolution.effective.map { ($0.key, $0.source) })
    #expect(sources[.leaseMilliseconds] == .flag("--lease-ms"))
    #expect(sources[.lingerMilliseconds] == .environment("SIDELOCK_LINGER_MS"))
    #expect(sources[.cohortMilliseconds] == .file(path: "/sidelock.yaml", line: 3))
    #expect(sources[.cohortMax] == .default)
  }

  @Test func everySettingTakesEffectFromEveryPlace() {
    // Two of them exclude another one.
    let samples = SettingKey.allCases.filter { $0 != .local && $0 != .redisCredentialsCommand }.map { key in
      // Its login comes from the other two.
      (key, key == .redis ? "redis://db:6379/0" : key.anotherValue)
    }
    let fromFlags = resolve(
      flags: Dictionary(uniqueKeysWithValues: samples.filter { !$0.0.definition.kind.isList }),
      lists: Dictionary(uniqueKeysWithValues: samples.filter(\.0.definition.kind.isList).map { ($0.0, [$0.1]) }),
      environment: [:], files: ["/password": "x"])
    let fromEnvironment = resolve(
      flags: [:], environment: Dictionary(uniqueKeysWithValues: samples.map { ($0.0.environmentName, $0.1) }),
      files: ["/password": "x"])
    let fromFile = resolve(
      flags: [:], file: samples.map { "\($0.0.rawValue): \"\($0.1)\"\n" }.joined(), files: ["/password": "x"])
    for resolution in [fromFlags, fromEnvironment, fromFile] {
      #expect(texts(resolution) == [])
      for (key, text) in samples where key != .redis {
        let setting = resolution.effective.first { $0.key == key }
        #expect(setting?.shown == text)
        #expect(setting?.source != .default)
      }
    }
    #expect(fromFlags.settings == fromEnvironment.settings)
    #expect(fromFlags.settings == fromFile.settings)
  }

  @Test func rulesAreListsInEveryPlaceAndOneListWins() throws {
    let file = "local: true\nrules:\n  - deny use a to everyone\n  - \"allow use \\\"b c\\\" to user:anna\"\n"
    let names: [AccessRule.Names] = [.exactly(Array("a".utf8)), .exactly(Array("b c".utf8))]
    let fromFile = resolve(flags: [:], file: file)
    #expect(texts(fromFile) == [])
    #expect(fromFile.settings?.live.policy.rules.map(\.names) == names)
    #expect(fromFile.effective.first { $0.key == .rules }?.source == .file(path: "/sidelock.yaml", line: 3))
    let environment = ["SIDELOCK_RULES": "deny use a to everyone; deny use \"b c\" to everyone\n"]
    let fromEnvironment = resolve(flags: [:], environment: environment, file: file)
    #expect(fromEnvironment.settings?.live.policy.rules.map(\.verdict) == [.deny, .deny])
    let fromFlags = resolve(
      flags: [:], lists: [.rules: ["deny use z to everyone"]], environment: environment, file: file)
    #expect(fromFlags.settings?.live.policy.rules.map(\.text) == ["deny use z to everyone"])
    // An empty list is an answer, too.
    #expect(resolve(flags: [:], environment: ["SIDELOCK_RULES": ""], file: file).settings?.live.policy.rules == [])
    #expect(resolve(flags: [:], file: "local: true\nrules: []\n").settings?.live.policy.rules == [])
    #expect(
      resolve(flags: [:], file: "local: true\nrules: deny use a to everyone\n").settings?.live.policy.rules.count == 1)
  }

  @Test func everyBadRuleIsReportedWithItsPlace() {
    let file =
      "local: true\nrules:\n  - deny use a to user:bert\n  - allow use a to everyone\n  - allow eat a to everyone\n"
    #expect(
      texts(resolve(flags: [:], file: file)) == [
        "/sidelock.yaml:3: rules: rule 1, \"deny use a to user:bert\", at character 15: this host has no user "
          + "\"bert\"; expected: one that it has",
        "/sidelock.yaml:5: rules: rule 3, \"allow eat a to everyone\", at character 7: \"eat\" is not expected here; "
          + "expected: one or several of use, inspect and break, with commas between them",
      ])
    #expect(
      texts(resolve(lists: [.rules: ["deny"]])) == [
        "--rule: rule 1, \"deny\", at character 5: the rule ends; expected: one or several of use, inspect and break, "
          + "with commas between them"
      ])
  }

  @Test func rulesHaveALimit() {
    let most = Array(repeating: "deny use a to everyone", count: AccessPolicy.rulesMax)
    #expect(resolve(lists: [.rules: most]).settings?.live.policy.rules.count == AccessPolicy.rulesMax)
    #expect(texts(resolve(lists: [.rules: most + ["x"]])) == ["--rule: there are 1001 rules; allowed: 1000"])
  }

  @Test func aHostWithoutTheAdministratorsGroupHasNone() {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.flags = [.local: "true"]
    #expect(SettingsResolution(inputs).settings?.live.policy == AccessPolicy())
    inputs.accounts.group = { _ in .failed("no answer") }
    #expect(texts(SettingsResolution(inputs)) == ["the group sidelock-admin cannot be looked up: no answer"])
  }

  @Test func accountsOfThisHostAreFound() {
    #expect(AccountLookup.ofThisHost.user("root") == .number(0))
    #expect(AccountLookup.ofThisHost.group("root") == .number(0))
    #expect(AccountLookup.ofThisHost.user("no such user") == .unknown)
    #expect(AccountLookup.ofThisHost.group("no such group") == .unknown)
  }

  @Test func everythingWrongIsReportedAtOnce() {
    let resolution = resolve(
      flags: [.local: "true", .leaseMilliseconds: "999"],
      environment: ["SIDELOCK_COHORT_MAX": "0", "SIDELOCK_TYPO": "1", "HOME": "/"],
      file: "foo: 1\nlinger_ms: 60001\nhost:\n", unknown: ["--lesae-ms", "5", "stray"])
    #expect(
      texts(resolution) == [
        "--lease-ms: \"999\" is not allowed; allowed: 1000…3600000",
        "\"--lesae-ms\" is not an option (see --help)",
        "\"stray\" is not an option (see --help)",
        "SIDELOCK_COHORT_MAX: \"0\" is not allowed; allowed: 1…1000000",
        "SIDELOCK_TYPO: no setting has this name (see --help)",
        "/sidelock.yaml:1: \"foo\": no setting has this name (see --help)",
        "/sidelock.yaml:2: linger_ms: \"60001\" is not allowed; allowed: 0…60000",
        "/sidelock.yaml:3: host: has no value; allowed: 1…64 characters out of A-Z a-z 0-9 . _ -",
      ])
    #expect(resolution.settings == nil)
  }

  @Test func keyThatMayBeASecretIsNotRepeated() {
    let resolution = resolve(
      flags: [.local: "true"],
      file: "hunter2-is-secret: 1\nlease-ms: 5000\nredis_pasword_file: /x\n\"a\\u009Bb\\nc\": 1\n")
    #expect(
      texts(resolution) == [
        "/sidelock.yaml:1: \"hunt…\": no setting has this name (see --help)",
        "/sidelock.yaml:2: \"lease-ms\": no setting has this name (did you mean lease_ms?)",
        "/sidelock.yaml:3: \"redis_pasword_file\": no setting has this name (did you mean redis_password_file?)",
        "/sidelock.yaml:4: \"a\\u{009B}b\\n…\": no setting has this name (see --help)",
      ])
  }

  @Test func keyGivenTwiceThatIsNoSettingIsQuoted() {
    let resolution = resolve(flags: [.local: "true"], file: "\"x\\ny and more\": 1\n\"x\\ny and more\": 2\n")
    #expect(
      texts(resolution) == [
        "/sidelock.yaml:1: \"x\\ny …\": no setting has this name (see --help)",
        "/sidelock.yaml:2: \"x\\ny …\": given twice, first in line 1",
      ])
  }

  @Test func whatRunTellsItsCommandIsNoMistake() {
    let environment = ["SIDELOCK_LOCAL": "true", "SIDELOCK_NAME": "deploy", "SIDELOCK_TOKEN": "17"]
    #expect(texts(resolve(environment: environment)) == [])
  }

  @Test func badValueIsReportedEvenWhereAnotherWins() {
    let resolution = resolve(
      flags: [.local: "true", .lingerMilliseconds: "1"], environment: ["SIDELOCK_LINGER_MS": "x"])
    #expect(resolution.problems.count == 1)
  }

  @Test(arguments: SettingKey.allCases)
  func rangesHoldAtTheLimitsAndNotBeyond(_ key: SettingKey) throws {
    guard case .integer(let range) = key.definition.kind else { return }
    for accepted in [range.lowerBound, range.upperBound] {
      #expect(try key.definition.parse(String(accepted)) == .number(accepted))
    }
    let beyond = ["\(range.lowerBound - 1)", "\(range.upperBound + 1)"]
    for refused in beyond + ["", " 1000", "1e4", "0x400", "+2000", "１０００"] {
      #expect(throws: SettingValueError.self) { try key.definition.parse(refused) }
    }
  }

  @Test(arguments: ["", "8", "0999", "1777", "01234", "rw", "-660"])
  func badModesAreRefused(_ text: String) {
    #expect(throws: SettingValueError.self) { try SettingKey.socketMode.definition.parse(text) }
  }

  @Test func textLimitsHold() throws {
    let prefix = SettingKey.keyPrefix.definition
    #expect(try prefix.parse("") == "".asSetting)
    #expect(try prefix.parse(String(repeating: "a", count: 64)) == String(repeating: "a", count: 64).asSetting)
    for bad in [String(repeating: "a", count: 65), "a b", "a{", "}", "é", "a\n", "\u{7F}"] {
      #expect(throws: SettingValueError.self) { try prefix.parse(bad) }
    }
    let host = SettingKey.host.definition
    #expect(try host.parse("A-z.0_9") == "A-z.0_9".asSetting)
    for bad in ["", String(repeating: "a", count: 65), "a b", "a/b", "é"] {
      #expect(throws: SettingValueError.self) { try host.parse(bad) }
    }
    let socket = SettingKey.socket.definition
    #expect(try socket.parse(String(repeating: "a", count: 107)) == String(repeating: "a", count: 107).asSetting)
    for bad in ["", String(repeating: "a", count: 108), "@abstract"] {
      #expect(throws: SettingValueError.self) { try socket.parse(bad) }
    }
  }

  @Test func hostNamesOfTheSystemAreMadeToFit() {
    #expect(sanitisedHostName("web-1.example") == "web-1.example")
    #expect(sanitisedHostName("web 1{x}") == "web-1-x-")
    #expect(sanitisedHostName("") == "localhost")
    #expect(sanitisedHostName(String(repeating: "a", count: 99)).utf8.count == 64)
  }

  @Test func timeoutMustBeLessThanHalfALease() {
    let flags: [SettingKey: String] = [.local: "true", .leaseMilliseconds: "2000"]
    #expect(resolve(flags: flags).settings?.live.engine.storeTimeoutMilliseconds == 500)
    var good = flags
    good[.redisTimeoutMilliseconds] = "999"
    #expect(resolve(flags: good).settings?.live.engine.storeTimeoutMilliseconds == 999)
    var bad = flags
    bad[.redisTimeoutMilliseconds] = "1000"
    #expect(
      texts(resolve(flags: bad)) == [
        "--redis-timeout-ms: 1000 must be less than half of lease_ms, which is 2000"
      ])
  }

  @Test func aDeadHostTimeIsBetweenTwoSecondsAndALease() {
    for text in ["0", "2000", "9999"] {
      #expect(texts(resolve(flags: [.local: "true", .deadHostMilliseconds: text])) == [])
    }
    for text in ["1", "1999", "10000", "3600000"] {
      #expect(
        texts(resolve(flags: [.local: "true", .deadHostMilliseconds: text])) == [
          "--dead-host-ms: \(text) must be 0, or at least 2000 and less than lease_ms, which is 10000"
        ])
    }
  }

  @Test func timeoutMustBeLessThanHalfADeadHostTime() {
    var flags: [SettingKey: String] = [.local: "true", .deadHostMilliseconds: "3000"]
    #expect(resolve(flags: flags).settings?.live.engine.storeTimeoutMilliseconds == 750)
    flags[.redisTimeoutMilliseconds] = "1500"
    #expect(
      texts(resolve(flags: flags)) == ["--redis-timeout-ms: 1500 must be less than half of dead_host_ms, which is 3000"]
    )
  }

  @Test func socketDefaultDependsOnTheUser() {
    let environment = ["XDG_RUNTIME_DIR": "/run/user/1000"]
    #expect(resolve(environment: environment, isRoot: true).settings?.socketPath == "/run/sidelock/sidelock.sock")
    #expect(
      resolve(environment: environment, isRoot: false).settings?.socketPath == "/run/user/1000/sidelock/sidelock.sock")
    #expect(resolve(isRoot: false).settings?.socketPath == "/run/sidelock/sidelock.sock")
    let long = ["XDG_RUNTIME_DIR": "/" + String(repeating: "a", count: 100)]
    #expect(resolve(environment: long, isRoot: false).problems.map(\.setting) == ["socket"])
  }

  @Test func unreadableFileIsAProblemOfWhoNamedIt() {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.flags = [.local: "true"]
    inputs.environment = ["SIDELOCK_CONFIG": "/nowhere"]
    #expect(
      texts(SettingsResolution(inputs)) == ["SIDELOCK_CONFIG: cannot read \"/nowhere\": there is no such file"])
    inputs.configFlag = "/elsewhere"
    #expect(texts(SettingsResolution(inputs)) == ["--config: cannot read \"/elsewhere\": there is no such file"])
  }

  // MARK: The backend

  @Test func backendMustBeChosen() {
    #expect(resolve(flags: [:]).problems.count == 1)
    #expect(resolve(flags: [:], environment: ["SIDELOCK_LOCAL": "false"]).problems.count == 1)
    #expect(resolve(flags: [.local: "true"]).settings?.backend == .local)
  }

  @Test func highestPlaceThatNamesABackendDecides() throws {
    let redis = Settings.Backend.redis(try RedisURL(parsing: "redis://db"))
    #expect(resolve(flags: [.local: "true"], file: "redis: redis://db").settings?.backend == .local)
    #expect(resolve(flags: [.redis: "redis://db"], file: "local: true").settings?.backend == redis)
    #expect(
      resolve(flags: [:], environment: ["SIDELOCK_REDIS": "redis://db"], file: "local: yes").settings?.backend == redis)
    #expect(
      resolve(flags: [:], environment: ["SIDELOCK_LOCAL": "0"], file: "redis: redis://db").settings?.backend == redis)
    #expect(resolve(flags: [:], environment: ["SIDELOCK_LOCAL": "0"], file: "local: true").settings == nil)
  }

  @Test func bothInOnePlaceIsAProblem() {
    let resolution = resolve(flags: [.local: "true", .redis: "redis://db"])
    #expect(texts(resolution) == ["--local: excludes redis, which --redis sets: choose one"])
  }

  @Test func badBackendIsOneProblemNotTwo() {
    #expect(resolve(flags: [.redis: "nonsense"]).problems.count == 1)
  }

  // MARK: The password

  private func file(_ resolution: SettingsResolution) -> String? {
    resolution.settings.map { $0.live.redisLogin.passwordFile }
  }

  @Test func thePasswordFileIsNamedAndNotKept() {
    let good = resolve(flags: [.redis: "redis://db", .redisPasswordFile: "/p"], files: ["/p": "hunter2\n"])
    #expect(file(good) == "/p")
    #expect(good.settings.map { "\($0)".contains("hunter2") } == false)
  }

  @Test(arguments: ["", "\n", "\r\n", String(repeating: "a", count: 5000)])
  func badPasswordFilesAreProblems(_ text: String) {
    let flags: [SettingKey: String] = [.redis: "redis://db", .redisPasswordFile: "/p"]
    #expect(resolve(flags: flags, files: ["/p": text]).problems.map(\.setting) == ["redis_password_file"])
  }

  @Test func passwordNeedsToBeNoText() {
    var inputs = SettingsInputs { _, _ in .success([0xFF, 0x00, 0x0A]) }
    inputs.flags = [.redis: "redis://db", .redisPasswordFile: "/p"]
    #expect(SettingsResolution(inputs).problems == [])
  }

  @Test func userIsForAPasswordOutsideOfTheURL() {
    let files = ["/p": "b"]
    let good = resolve(flags: [.redis: "redis://db", .redisUser: "u", .redisPasswordFile: "/p"], files: files)
    #expect(good.settings?.live.redisLogin.login().username == "u")
    let lonely = resolve(flags: [.redis: "redis://db", .redisUser: "u"])
    #expect(texts(lonely) == ["--redis-user: needs a password: give redis_password_file or redis_credentials_command"])
    let twice = resolve(flags: [.redis: "redis://a:b@db", .redisUser: "u"])
    #expect(texts(twice) == ["--redis-user: the user stands in the URL from --redis too: choose one"])
  }

  @Test func sentinelsHaveALoginOfTheirOwn() throws {
    let flags: [SettingKey: String] = [
      .redis: "redis-sentinel://u:own@h?sentinelMasterId=m", .redisSentinelUser: "s", .redisSentinelPasswordFile: "/p",
    ]
    let good = resolve(flags: flags, files: ["/p": "hunter2\n"])
    guard case .redis(let url) = good.settings?.backend, case .sentinels(let set) = url.endpoint else {
      Issue.record("no settings: \(texts(good))")
      return
    }
    #expect(set.username == "s" && set.password?.bytes == Array("hunter2".utf8))
    let own = good.settings?.live.redisLogin.inURL
    #expect(own == RedisLogin(username: "u", password: RedisSecret(Array("own".utf8))))
    #expect(good.settings?.backend.place == "sentinel m 0")
    #expect(!"\(good.table)\(good.json)".contains("hunter2"))
    let lonely = resolve(flags: flags.filter { $0.key != .redisSentinelPasswordFile })
    #expect(texts(lonely) == ["--redis-sentinel-user: needs a password: give redis_sentinel_password_file"])
    let missing = resolve(flags: flags)
    #expect(missing.problems.map(\.setting).first == "redis_sentinel_password_file")
    let plain = resolve(flags: [.redis: "redis://h", .redisSentinelPasswordFile: "/p"], files: ["/p": "x"])
    #expect(plain.problems.isEmpty)
    #expect(
      plain.warnings.map(\.message)
        == ["has no effect: only a URL with redis-sentinel:// or rediss-sentinel:// means Sentinels"])
  }

  @Test func missingPasswordFileIsAProblem() {
    let flags: [SettingKey: String] = [.redis: "redis://db", .redisPasswordFile: "/p"]
    #expect(resolve(flags: flags).problems.count == 1)
  }

  @Test func passwordInURLAndFileIsAProblem() {
    let flags: [SettingKey: String] = [.redis: "redis://:a@db", .redisPasswordFile: "/p"]
    #expect(resolve(flags: flags, files: ["/p": "b"]).problems.count == 1)
  }

  @Test func credentialIsTakenWhenNothingElseGivesAPassword() {
    let environment = ["CREDENTIALS_DIRECTORY": "/cred"]
    let files = ["/cred/sidelock.redis-password": "c\n", "/p": "f\n"]
    let plain: [SettingKey: String] = [.redis: "redis://db"]
    #expect(file(resolve(flags: plain, environment: environment, files: files)) == "/cred/sidelock.redis-password")
    #expect(resolve(flags: plain, environment: environment).settings != nil)
    let inURL = resolve(flags: [.redis: "redis://:u@db"], environment: environment, files: files)
    #expect(file(inURL) == "" && inURL.settings?.live.redisLogin.inURL.password?.bytes == Array("u".utf8))
    #expect(file(resolve(flags: [.local: "true"], environment: environment, files: files)) == "")
    let withFile: [SettingKey: String] = [.redis: "redis://db", .redisPasswordFile: "/p"]
    #expect(file(resolve(flags: withFile, environment: environment, files: files)) == "/p")
  }

  // MARK: The command

  @Test func aCommandIsTaken() {
    var inputs = SettingsInputs { _, _ in .failure(.missing) }
    inputs.refusalOfProgram = { $0 == "/c" ? nil : "is not there" }
    inputs.flags = [.redis: "redis://db", .redisUser: "u", .redisCredentialsCommand: "/c"]
    // What systemd has put down is for when nothing else is given.
    inputs.environment = ["CREDENTIALS_DIRECTORY": "/cred"]
    inputs.readFile = { _, _ in .success(Array("c".utf8)) }
    let login = SettingsResolution(inputs).settings?.live.redisLogin
    #expect(login?.command == "/c" && login?.user == "u" && login?.passwordFile == "")
    inputs.flags[.redisCredentialsCommand] = "/other"
    #expect(
      texts(SettingsResolution(inputs)) == ["--redis-credentials-command: cannot run \"/other\", which is not there"])
  }

  @Test func aCommandExcludesOtherPasswords() {
    var inputs = SettingsInputs { _, _ in .success(Array("c".utf8)) }
    inputs.refusalOfProgram = { _ in nil }
    inputs.flags = [.redis: "redis://db", .redisPasswordFile: "/p", .redisCredentialsCommand: "/c"]
    #expect(
      texts(SettingsResolution(inputs)) == [
        "--redis-credentials-command: excludes redis_password_file, which --redis-password-file sets: choose one"
      ])
    inputs.flags = [.redis: "redis://:x@db", .redisCredentialsCommand: "/c"]
    #expect(
      texts(SettingsResolution(inputs)) == [
        "--redis-credentials-command: the password stands in the URL from --redis too: choose one"
      ])
  }

  @Test(arguments: ["helper", "./helper", "", "token-of-somebody"])
  func aCommandIsAnAbsolutePath(_ text: String) {
    let bad = resolve(flags: [.redis: "redis://db", .redisCredentialsCommand: text])
    #expect(bad.problems.count == 1)
    #expect(texts(bad).first?.contains("absolute path") == true)
    #expect(!texts(bad).contains { $0.contains("somebody") })
  }

  @Test func aPasswordFileThatCanBeReadOnlyOnceIsRefused() {
    let bad = resolve(flags: [.redis: "redis://db", .redisPasswordFile: "/dev/stdin"])
    #expect(texts(bad).first?.contains("can be read only once, and this file is read at each connection") == true)
  }

  @Test func noReportShowsAPassword() {
    let good = resolve(flags: [.redis: "redis://u:hunter2@db"])
    let bad = resolve(
      flags: [.redis: "redis://u:hunter2@db:x"], environment: ["SIDELOCK_REDIS": "redis://:hunter2@"],
      file: "redis: hunter2@db\n", unknown: ["--redsi", "redis://u:hunter2@db", "--redsi=redis://u:hunter2@db"])
    for resolution in [good, bad] {
      #expect(!resolution.json.contains("hunter2"))
      #expect(!resolution.table.contains("hunter2"))
      #expect(!texts(resolution).contains { $0.contains("hunter2") })
    }
    #expect(good.json.contains("\"redis://u:***@db:6379/0\""))
  }
}
