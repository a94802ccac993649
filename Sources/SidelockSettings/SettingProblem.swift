/// Where a value came from.
public enum SettingSource: Sendable, Equatable, CustomStringConvertible {
  /// A flag, such as `--lease-ms`.
  case flag(String)
  /// An environment variable.
  case environment(String)
  /// A line of the configuration file, counted from 1.
  case file(path: String, line: Int)
  /// Nobody said anything.
  case `default`
  /// A file that holds the value, found by default.
  case credential(path: String)

  /// The source as people name it.
  public var description: String {
    switch self {
    case .flag(let name): name
    case .environment(let name): printable(name)
    case .file(let path, let line): "\(printable(path)):\(line)"
    case .default: "default"
    case .credential(let path): "credential \(printable(path))"
    }
  }

  /// The line of the file; nil for what stands elsewhere.
  var line: Int? {
    guard case .file(_, let line) = self else { return nil }
    return line
  }
}

/// Something wrong with the settings.
public struct SettingProblem: Sendable, Equatable, CustomStringConvertible {
  /// The setting by its name in the file; nil when the problem is not about one.
  public var setting: String?
  /// Where it was said; nil when it is about something that nobody said.
  public var source: SettingSource?
  /// What is wrong, and what is allowed.
  public var message: String
  /// Whether it may be right at another time: the accounts of this host could not be asked.
  public var mayPass = false

  /// One line for people.
  public var description: String {
    var parts: [String] = []
    if let source { parts.append(source.description) }
    // The flag and the variable name the setting already.
    if let setting, case .file? = source { parts.append(setting) }
    if let setting, source == nil { parts.append(setting) }
    parts.append(message)
    return parts.joined(separator: ": ")
  }
}

/// A setting that holds, for `--check`.
public struct EffectiveSetting: Sendable, Equatable {
  /// Which one.
  public var key: SettingKey
  /// The value for people, without secrets.
  public var shown: String
  /// Where the value came from.
  public var source: SettingSource
}
