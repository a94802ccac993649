import DaemonSettings
import RESP

extension SettingKey {
  /// Those of the login, which means nothing without Redis.
  static let ofLogin: [SettingKey] = [.redisUser, .redisPasswordFile, .redisCredentialsCommand]
}

// The login of Redis: it stands in one place, and can be used.
extension SettingsResolver {
  static let passwordBytesMax = 4096

  mutating func warnOfPassword(_ source: SettingSource) {
    warnings.append(
      SettingProblem(
        source: source,
        message: "every user of this host can read the password in the list of processes: give it in a file with "
          + "redis_password_file"))
  }

  mutating func checkLogin() {
    guard usesRedis, let urlSource = source(of: .redis) else { return }
    let login = settings.live.redisLogin
    let file = given(.redisPasswordFile)
    if let given = given(.redisUser), login.inURL.username != nil {
      reportTwice(.redisUser, given.source, "user", urlSource)
    }
    for key in [SettingKey.redisPasswordFile, .redisCredentialsCommand] where login.inURL.password != nil {
      if let given = given(key) { reportTwice(key, given.source, "password", urlSource) }
    }
    if let command = given(.redisCredentialsCommand) {
      if let file {
        report(
          .redisCredentialsCommand, command.source,
          "excludes redis_password_file, which \(file.source) sets: choose one")
      }
      if let refusal = inputs.refusalOfProgram(login.command) {
        report(.redisCredentialsCommand, command.source, "cannot run \(quoted(login.command)), which \(refusal)")
      }
    } else if !login.passwordFile.isEmpty {
      checkPassword(in: login.passwordFile, source(of: .redisPasswordFile))
    }
    if let given = given(.redisUser), !login.mustBeRead, login.inURL.password == nil {
      report(.redisUser, given.source, "needs a password: give redis_password_file or redis_credentials_command")
    }
    warnIfPlainToLearned()
  }

  /// Whoever answers at an address that a node names is told the password there, and whoever listens reads it.
  private mutating func warnIfPlainToLearned() {
    guard case .redis(let url) = settings.backend, !url.usesTLS else { return }
    let (who, scheme): (String, String)
    let login = settings.live.redisLogin
    var isLogin = login.mustBeRead || login.inURL.password != nil
    switch url.endpoint {
    case .tcp, .unix: return
    case .sentinels(let set):
      (who, scheme) = ("sentinels name", "rediss-sentinel://")
      isLogin = isLogin || set.password != nil
    case .cluster: (who, scheme) = ("nodes of the cluster name", "rediss-cluster://")
    }
    guard isLogin else { return }
    warnings.append(
      SettingProblem(
        setting: SettingKey.redis.rawValue, source: source(of: .redis),
        message: "the password is told, without TLS, to whoever answers at an address that \(who): use \(scheme), or a "
          + "network that you trust"))
  }

  private mutating func report(_ key: SettingKey, _ source: SettingSource?, _ message: String) {
    problems.append(SettingProblem(setting: key.rawValue, source: source, message: message))
  }

  private mutating func reportTwice(
    _ key: SettingKey, _ source: SettingSource, _ what: String, _ urlSource: SettingSource
  ) {
    report(key, source, "the \(what) stands in the URL from \(urlSource) too: choose one")
  }

  /// Looks whether the file can be used: a mistake would show at the next connection only.
  private mutating func checkPassword(in path: String, _ source: SettingSource?) {
    let message: String
    switch inputs.readFile(path, Self.passwordBytesMax) {
    case .failure(let error): message = error.message
    case .success(let bytes):
      if RedisSecret(line: bytes) != nil { return warnIfOpen(path, .redisPasswordFile, source) }
      message = "the file is empty"
    }
    let shown = Self.shown(passwordFile: path)
    report(.redisPasswordFile, source, "cannot use \(quoted(shown)): \(message)")
    for index in effective.indices where effective[index].key == .redisPasswordFile {
      effective[index].shown = shown.asSetting.shown
    }
  }

  /// The path of a password file that cannot be used, as messages show it. It may be the password itself, in the wrong
  /// setting: what does not begin like a path is cut short.
  static func shown(passwordFile path: String) -> String {
    guard !path.hasPrefix("/"), !path.hasPrefix("./"), !path.hasPrefix("../"), path.unicodeScalars.count > 4 else {
      return path
    }
    return String(String.UnicodeScalarView(path.unicodeScalars.prefix(4))) + "…"
  }
}
