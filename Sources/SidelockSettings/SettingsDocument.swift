/// The reference page of the settings, made from the table. `packaging/settings.md` is a copy; a test compares them.
public enum SettingsDocument {
  /// The page in Markdown.
  public static var markdown: String {
    var text = """
      # Settings of sidelockd

      Every setting is a flag, an environment variable and a key in the YAML file given with `--config` (or
      `SIDELOCK_CONFIG`). A flag wins over the environment, the environment over the file, the file over the default.
      Of `redis` and `local` exactly one is needed; whichever stands in the place that wins is used.

      `sidelockd --check` prints the settings that hold, and where each comes from, without starting anything. Unknown
      names and bad values are all reported at once, and the exit code is 78. A `redis_timeout_ms` that is not less than
      half of `lease_ms` is such a bad value.

      | YAML key | flag | environment | values | default | meaning |
      |---|---|---|---|---|---|

      """
    for key in SettingKey.allCases {
      let row = key.definition
      let value = row.kind == .boolean ? "" : " " + row.valueName
      let cells = [
        "`\(key.rawValue)`", "`--\(key.flagName)\(value)`", "`\(key.environmentName)`", row.kind.allowed,
        row.defaultText, row.summary,
      ]
      text += "| " + cells.joined(separator: " | ") + " |\n"
    }
    text += """

      Names that end in `_ms` are in milliseconds. The password of Redis is best kept out of flags and environment:
      put it into a file for `redis_password_file`, or let systemd pass it as the credential `\(passwordCredential)`.

      A file that says what the defaults say:

      ```yaml
      redis: redis://localhost:6379/0

      """
    for key in SettingKey.allCases {
      switch key.definition.kind {
      case .integer:
        if let number = key.definition.defaultNumber { text += "\(key.rawValue): \(number)\n" }
      case .socketPath: text += "\(key.rawValue): \(systemSocketPath)\n"
      case .mode: text += "\(key.rawValue): \(octal(defaultSocketMode))\n"
      case .keyPrefix: text += "\(key.rawValue): \"\(defaultKeyPrefix)\"\n"
      case .logLevel: text += "\(key.rawValue): \(defaultLogLevel.rawValue)\n"
      case .redisURL, .boolean, .userName, .filePath, .hostName: break
      }
    }
    return text + "```\n"
  }
}
