import RESP

extension SettingsResolver {
  /// Adds the login of Sentinels, which stands outside of the URL.
  mutating func completeSentinelLogin(of endpoint: RedisURL.Endpoint) -> RedisURL.Endpoint {
    let file = given(.redisSentinelPasswordFile)
    let user = given(.redisSentinelUser)
    guard case .sentinels(var set) = endpoint else {
      for (key, given) in [(SettingKey.redisSentinelUser, user), (.redisSentinelPasswordFile, file)] {
        guard let given, case .text(let text) = given.value else { continue }
        let isUser = key == .redisSentinelUser
        record(key, (isUser ? text.text : Self.shown(passwordFile: text.text)).asSetting, given.source)
        warnings.append(
          SettingProblem(
            setting: key.rawValue, source: given.source,
            message: "has no effect: only a URL with redis-sentinel:// or rediss-sentinel:// means Sentinels"))
      }
      return endpoint
    }
    if let user, case .text(let name) = user.value {
      record(.redisSentinelUser, user.value, user.source)
      set.username = name.text
    }
    let key = SettingKey.redisSentinelPasswordFile
    if let file, case .text(let text) = file.value {
      set.password = password(inFile: text.text, of: key, source: file.source, mayBeMissing: false)
      record(key, (set.password == nil ? Self.shown(passwordFile: text.text) : text.text).asSetting, file.source)
    } else if let directory = inputs.environment["CREDENTIALS_DIRECTORY"], !directory.isEmpty {
      let path = directory + "/" + sentinelPasswordCredential
      set.password = password(inFile: path, of: key, source: .credential(path: path), mayBeMissing: true)
      if set.password != nil { record(key, path.asSetting, .credential(path: path)) }
    }
    if let user, set.password == nil {
      problems.append(
        SettingProblem(
          setting: SettingKey.redisSentinelUser.rawValue, source: user.source,
          message: "needs a password: give redis_sentinel_password_file"))
    }
    return .sentinels(set)
  }

  private mutating func password(
    inFile path: String, of key: SettingKey, source: SettingSource, mayBeMissing: Bool
  ) -> RedisSecret? {
    let message: String
    switch inputs.readFile(path, Self.passwordBytesMax) {
    case .failure(.missing) where mayBeMissing: return nil
    case .failure(let error): message = error.message
    case .success(let bytes):
      if let secret = RedisSecret(line: bytes) {
        warnIfOpen(path, key, source)
        return secret
      }
      message = "the file is empty"
    }
    problems.append(
      SettingProblem(
        setting: key.rawValue, source: source,
        message: "cannot use \(quoted(Self.shown(passwordFile: path))): \(message)"))
    return nil
  }
}
