import AccessPolicy
public import DaemonSettings
import RedisTLS
import RESP
import SystemStrings

/// The outcome of putting flags, environment, file and defaults together.
public struct SettingsResolution: Sendable {
  /// The settings, or nil when there are problems.
  public private(set) var settings: Settings?
  /// Everything that is wrong, not only the first thing.
  public private(set) var problems: [SettingProblem] = []
  /// What is worth a word and no mistake: variables that are not used, a password among the flags.
  public private(set) var warnings: [SettingProblem] = []
  /// What holds, as far as it could be made out, in the order of the table.
  public private(set) var effective: [EffectiveSetting] = []

  /// Whether nothing is wrong but what may be right at another time.
  public var mayPass: Bool { problems.allSatisfy(\.mayPass) }

  /// The first thing that is wrong, and how many more there are, for a line of status.
  public var firstProblem: String {
    (problems.first?.description ?? "") + (problems.count > 1 ? " (and \(problems.count - 1) more)" : "")
  }

  /// Puts everything together. Precedence: flag, environment, file, default.
  public init(_ inputs: SettingsInputs) {
    var resolver = SettingsResolver(inputs: inputs)
    settings = resolver.resolve()
    problems = resolver.problems
    warnings = resolver.warnings
    effective = resolver.effective
    if !problems.isEmpty { settings = nil }
  }
}

/// A checked value and its source.
struct Given {
  var value: SettingValue
  var source: SettingSource
}

struct SettingsResolver {
  let inputs: SettingsInputs
  var problems: [SettingProblem] = []
  var warnings: [SettingProblem] = []
  var effective: [EffectiveSetting] = []
  /// Flag, environment, file: highest precedence first.
  var layers: [[SettingKey: Given]] = []
  var settings = Settings()

  init(inputs: SettingsInputs) { self.inputs = inputs }

  mutating func resolve() -> Settings? {
    readFlags()
    readEnvironment()
    readFile()

    let backend = chooseBackend()
    settings.backend = backend ?? .local
    for key in SettingKey.allCases { choose(key) }
    addAdministrators()
    checkSocketGroup()
    checkLogin()
    checkTLS()
    let order = SettingKey.allCases
    effective.sort { order.firstIndex(of: $0.key)! < order.firstIndex(of: $1.key)! }
    return backend == nil ? nil : settings
  }

  // MARK: Reading the layers

  private mutating func readFlags() {
    var layer: [SettingKey: Given] = [:]
    for key in SettingKey.allCases {
      guard let text = inputs.flags[key] else { continue }
      take(text, for: key, from: .flag("--" + key.flagName), into: &layer)
    }
    for key in SettingKey.allCases {
      guard let texts = inputs.listFlags[key] else { continue }
      let source = SettingSource.flag("--" + key.flagName)
      takeList(texts.map { ($0, source) }, for: key, into: &layer)
    }
    var follows = false
    for argument in inputs.unknownArguments {
      // What follows an option that does not exist was its value, which needs no complaint of its own.
      if follows, !argument.hasPrefix("-") {
        follows = false
        continue
      }
      follows = argument.hasPrefix("-") && !argument.contains("=")
      // A mistyped --redis may carry a password behind it, and so may any other.
      let name = argument.firstIndex(of: "=").map { argument[..<$0] + "=…" } ?? argument[...]
      let shown = argument.contains("@") ? "\"***\"" : quoted(argument.hasPrefix("-") ? String(name) : argument)
      problems.append(SettingProblem(message: "\(shown) is not an option (see --help)"))
    }
    layers.append(layer)
  }

  private mutating func readEnvironment() {
    var layer: [SettingKey: Given] = [:]
    let keys = Dictionary(uniqueKeysWithValues: SettingKey.allCases.map { ($0.environmentName, $0) })
    let links = ServiceLinks.names(in: inputs.environment)
    for (name, text) in inputs.environment.sorted(by: { $0.key < $1.key }) where name.hasPrefix(environmentPrefix) {
      // `SIDELOCK_REDIS` with an address is a mistake: passing over it could mean another Redis than other hosts have.
      let isAddress = keys[name].map { $0 != .redis } == true && ServiceLinks.isAddress(text)
      if !otherEnvironmentNames.contains(name), links.contains(name) || isAddress {
        warnings.append(
          SettingProblem(
            source: .environment(name),
            message: "is not used: it is what Kubernetes or Docker says of a service, and no setting"))
        continue
      }
      if let key = keys[name], key.definition.kind.isList {
        takeList(AccessRule.split(text).map { ($0, .environment(name)) }, for: key, into: &layer)
      } else if let key = keys[name] {
        take(text, for: key, from: .environment(name), into: &layer)
      } else if !otherEnvironmentNames.contains(name) {
        problems.append(SettingProblem(source: .environment(name), message: "no setting has this name (see --help)"))
      }
    }
    layers.append(layer)
  }

  /// A value of the file, which is UTF-8, as those of the command line are.
  private static func systemText(_ value: String) -> String { SystemText.text(Array(value.utf8)) }

  /// A key that is no setting, as messages show it. It may be a secret in the wrong place, so a key that is not like a
  /// setting's name is not repeated beyond its beginning; the line is told beside it.
  private static func shown(key: String) -> String {
    quoted(key, scalarsMax: SettingKey(closestTo: key) == nil ? 4 : 64)
  }

  private static func advice(onKey key: String) -> String {
    SettingKey(closestTo: key).map { "did you mean \($0.rawValue)?" } ?? "see --help"
  }

  private mutating func readFile() {
    var layer: [SettingKey: Given] = [:]
    defer { layers.append(layer) }
    let path: String
    let namedBy: SettingSource
    if let flag = inputs.configFlag {
      (path, namedBy) = (flag, .flag("--config"))
    } else if let variable = inputs.environment[configEnvironmentName] {
      (path, namedBy) = (variable, .environment(configEnvironmentName))
    } else {
      return
    }
    let file: SettingsFile
    switch inputs.readFile(path, SettingsFile.bytesMax) {
    case .success(let bytes):
      let listKeys = SettingKey.allCases.filter(\.definition.kind.isList).map(\.rawValue)
      file = SettingsFile(parsing: bytes, listKeys: Set(listKeys))
    case .failure(let error):
      problems.append(
        SettingProblem(source: namedBy, message: "cannot read \(quotedUnlessLogin(path)): \(error.message)"))
      return
    }
    let problemsBefore = problems.count
    defer {
      // Two passes found them; a reader goes through the file once.
      problems[problemsBefore...].sort { ($0.source?.line ?? 0) < ($1.source?.line ?? 0) }
    }
    for problem in file.problems {
      let source = SettingSource.file(path: path, line: problem.line)
      let key = problem.key.flatMap { SettingKey(rawValue: $0) }
      let prefix = key == nil ? problem.key.map { "\(Self.shown(key: $0)): " } ?? "" : ""
      problems.append(SettingProblem(setting: key?.rawValue, source: source, message: prefix + problem.message))
    }
    for entry in file.entries {
      let source = SettingSource.file(path: path, line: entry.line)
      guard let key = SettingKey(rawValue: entry.key) else {
        problems.append(
          SettingProblem(
            source: source,
            message: "\(Self.shown(key: entry.key)): no setting has this name (\(Self.advice(onKey: entry.key)))"))
        continue
      }
      if let items = entry.items {
        let texts = items.map { (Self.systemText($0.value), SettingSource.file(path: path, line: $0.line)) }
        takeList(texts, for: key, into: &layer)
        continue
      }
      guard let text = entry.value.map(Self.systemText) else {
        problems.append(
          SettingProblem(
            setting: key.rawValue, source: source, message: "has no value; allowed: \(key.definition.kind.allowed)"))
        continue
      }
      if key.definition.kind.isList {
        takeList([(text, source)], for: key, into: &layer)
      } else {
        take(text, for: key, from: source, into: &layer)
      }
    }
  }

  /// Checks every value of a list and reports each that is wrong, with its number in the list.
  private mutating func takeList(
    _ texts: [(String, SettingSource)], for key: SettingKey, into layer: inout [SettingKey: Given]
  ) {
    var rules: [AccessRule] = []
    var audit: [AuditRule] = []
    for (index, (text, source)) in texts.enumerated() {
      guard index < AccessPolicy.rulesMax else {
        let message = "there are \(texts.count) rules; allowed: \(AccessPolicy.rulesMax)"
        problems.append(SettingProblem(setting: key.rawValue, source: source, message: message))
        break
      }
      guard let rule = SystemText.utf8(text) else {
        problems.append(
          SettingProblem(
            setting: key.rawValue, source: source,
            message: "rule \(index + 1), \(quotedUnlessLogin(text)), is not UTF-8"))
        continue
      }
      guard !mayBeLogin(rule) else {
        problems.append(
          SettingProblem(
            setting: key.rawValue, source: source,
            message:
              "rule \(index + 1), \(quotedUnlessLogin(rule)), is no rule; allowed: \(key.definition.kind.allowed)"))
        continue
      }
      do throws(RuleProblem) {
        if key == .audit {
          audit.append(try AuditRule(parsing: rule))
        } else {
          rules.append(try AccessRule(parsing: rule, accounts: inputs.accounts))
        }
      } catch {
        problems.append(
          SettingProblem(
            setting: key.rawValue, source: source, message: "rule \(index + 1), \(quoted(text)), \(error.description)",
            mayPass: error.mayPass))
      }
    }
    layer[key] = Given(value: key == .audit ? .audit(audit) : .rules(rules), source: texts.first?.1 ?? .default)
  }

  private mutating func take(
    _ text: String, for key: SettingKey, from source: SettingSource, into layer: inout [SettingKey: Given]
  ) {
    do throws(SettingValueError) {
      layer[key] = Given(value: try key.definition.parse(text), source: source)
    } catch {
      problems.append(SettingProblem(setting: key.rawValue, source: source, message: error.message))
    }
  }

  // MARK: Putting them together

  func given(_ key: SettingKey) -> Given? {
    for layer in layers { if let given = layer[key] { return given } }
    return nil
  }

  mutating func record(_ key: SettingKey, _ value: SettingValue, _ source: SettingSource) {
    effective.append(EffectiveSetting(key: key, shown: value.shown, source: source))
  }

  /// Puts what holds for a setting into its place. What is a part of the backend has none.
  private mutating func choose(_ key: SettingKey) {
    let row = key.definition
    guard let place = row.place.value, usesRedis || !SettingKey.ofLogin.contains(key) else { return }
    let chosen =
      given(key) ?? credential(key)
      ?? Given(value: row.found?(settings, inputs) ?? place.read(settings), source: .default)
    place.write(chosen.value, &settings)
    record(key, chosen.value, chosen.source)
    guard let problem = row.problem?(settings) else { return }
    let source = chosen.source == .default ? nil : chosen.source
    problems.append(SettingProblem(setting: key.rawValue, source: source, message: problem))
  }

  /// What systemd has put down for a setting; nil where there is nothing, or nothing that is needed.
  private func credential(_ key: SettingKey) -> Given? {
    let needsPassword = settings.live.redisLogin.inURL.password == nil && given(.redisCredentialsCommand) == nil
    guard key == .redisPasswordFile ? needsPassword : usesTLS, let name = key.definition.credential,
      let directory = inputs.environment["CREDENTIALS_DIRECTORY"], !directory.isEmpty
    else { return nil }
    let path = directory + "/" + name
    if case .failure(.missing) = inputs.readFile(path, TLSMaterial.fileBytesMax) { return nil }
    return Given(value: path.asSetting, source: .credential(path: path))
  }

  var usesRedis: Bool { if case .redis = settings.backend { true } else { false } }
  private var usesTLS: Bool { if case .redis(let url) = settings.backend { url.usesTLS } else { false } }

  /// Looks whether the files for TLS can be used: a mistake in one would show at the first connection only.
  private mutating func checkTLS() {
    let keys: [SettingKey] = [
      .redisTLSCA, .redisTLSCertificate, .redisTLSKey, .redisTLSServerName, .redisTLSVerification,
    ]
    guard usesTLS else {
      guard case .redis = settings.backend else { return }
      for key in keys {
        guard let given = given(key), key.definition.place.defaultValue != given.value else { continue }
        warnings.append(
          SettingProblem(
            setting: key.rawValue, source: given.source,
            message: "has no effect: only a URL with rediss://, rediss-sentinel:// or rediss-cluster:// means TLS"))
      }
      return
    }
    let options = settings.live.redisTLS
    if options.verification == .none {
      warnings.append(
        SettingProblem(
          setting: SettingKey.redisTLSVerification.rawValue, source: source(of: .redisTLSVerification),
          message: "none: whoever answers is taken for Redis, and told the password"))
    }
    do throws(TLSMaterial.Problem) {
      let material = try TLSMaterial(options, readFile: inputs.readFile)
      warnings += material.warnings(now: inputs.now).map(problem)
      let keyFile = options.keyFile.isEmpty ? options.certificateFile : options.keyFile
      if !keyFile.isEmpty { warnIfOpen(keyFile, .redisTLSKey, source(of: .redisTLSKey)) }
    } catch {
      problems.append(problem(error))
    }
  }

  private func problem(_ found: TLSMaterial.Problem) -> SettingProblem {
    let key: SettingKey =
      switch found.file {
      case .ca: .redisTLSCA
      case .certificate: .redisTLSCertificate
      case .key: .redisTLSKey
      }
    return SettingProblem(
      setting: key.rawValue, source: source(of: key), message: "cannot use \(quoted(found.path)): \(found.message)")
  }

  func source(of key: SettingKey) -> SettingSource? {
    effective.first { $0.key == key }.flatMap { $0.source == .default ? nil : $0.source }
  }

  mutating func warnIfOpen(_ path: String, _ key: SettingKey, _ source: SettingSource?) {
    guard inputs.isReadableByAll(path) else { return }
    warnings.append(
      SettingProblem(
        setting: key.rawValue, source: source,
        message: "every user of this host can read \(quoted(path)): chmod o= takes that away"))
  }

  /// A host without the group has no administrators but root. Accounts that cannot be looked up are a problem.
  private mutating func addAdministrators() {
    switch inputs.accounts.group(AccessPolicy.administratorsGroup) {
    case .number(let number): settings.live.policy.administrators = number
    case .unknown: break
    case .failed(let reason):
      problems.append(
        SettingProblem(
          message: "the group \(AccessPolicy.administratorsGroup) cannot be looked up: \(reason)", mayPass: true))
    }
  }

  private mutating func checkSocketGroup() {
    let name = settings.socketGroup
    guard !name.isEmpty else { return }
    let number = name.utf8.allSatisfy { (0x30...0x39).contains($0) } ? UInt32(name) : nil
    let why: (words: String, mayPass: Bool)
    switch number.map({ .number($0) }) ?? inputs.accounts.group(name) {
    // To chown that means: leave the group as it is.
    case .number(.max): why = ("no group has the number \(UInt32.max)", false)
    case .number: return
    case .unknown: why = ("this host has no group \(quotedUnlessLogin(name)): groupadd makes one", false)
    case .failed(let reason): why = ("the group \(quotedUnlessLogin(name)) cannot be looked up: \(reason)", true)
    }
    problems.append(
      SettingProblem(
        setting: SettingKey.socketGroup.rawValue, source: source(of: .socketGroup), message: why.words,
        mayPass: why.mayPass))
  }

  // MARK: The backend

  /// Redis and local exclude each other, so the highest layer that names either decides.
  private mutating func chooseBackend() -> Settings.Backend? {
    var localRefused = false
    for layer in layers {
      let local = layer[.local]
      let redis = layer[.redis]
      if let local, case .boolean(let chosen) = local.value {
        if chosen, !localRefused {
          if let redis {
            problems.append(
              SettingProblem(
                setting: SettingKey.local.rawValue, source: local.source,
                message: "excludes redis, which \(redis.source) sets: choose one"))
            return .local
          }
          record(.local, local.value, local.source)
          return .local
        }
        localRefused = localRefused || !chosen
      }
      if let redis, case .redis(let url) = redis.value {
        record(.local, .boolean(false), local?.source ?? .default)
        record(.redis, .redis(url), redis.source)
        settings.live.redisLogin.inURL = url.login
        if url.password != nil, case .flag = redis.source { warnOfPassword(redis.source) }
        var complete = url.withoutLogin
        complete.endpoint = completeSentinelLogin(of: url.endpoint)
        return .redis(complete)
      }
    }
    // A backend that was named, but badly, has its own problem already.
    let named = problems.contains { $0.setting == SettingKey.redis.rawValue || $0.setting == SettingKey.local.rawValue }
    if !named {
      problems.append(
        SettingProblem(message: "no backend: give --redis URL, or --local for locks of this host alone"))
    }
    return nil
  }
}
