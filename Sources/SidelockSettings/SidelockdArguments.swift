public import ArgumentParser

/// The daemon's command line. Its options are the rows of the table; the daemon adds none of its own.
///
/// The parser finds out what a type declares by its mirror, and gives back what it found by the same names. So this type
/// needs no property for each setting: its mirror shows an option for each row.
public struct SidelockdArguments: ParsableArguments, CustomReflectable {
  /// What the table's options are to the parser.
  fileprivate enum TableOption {
    case single(Option<String?>)
    case list(Option<[String]>)
    case flag(Flag<Bool>)
  }

  private var options: [SettingKey: TableOption]

  @Option(
    name: .long, parsing: .unconditional,
    help: ArgumentHelp("A YAML file with settings as \"name: value\".", valueName: "FILE"))
  var config: String?

  /// Whether to print the effective settings instead of starting.
  @Flag(name: .long, help: "Check the settings, print them with their sources, and exit.")
  public var check = false

  @Argument(parsing: .allUnrecognized, help: .hidden)
  var unknown: [String] = []

  /// An empty command line.
  public init() {
    options = Dictionary(uniqueKeysWithValues: SettingKey.allCases.map { ($0, $0.option) })
  }

  /// What was parsed.
  public init(from decoder: any Decoder) throws {
    let found = try decoder.container(keyedBy: Name.self)
    options = [:]
    for key in SettingKey.allCases {
      let name = Name(stringValue: key.rawValue)
      options[key] =
        switch key.option {
        case .single: .single(try found.decode(Option<String?>.self, forKey: name))
        case .list: .list(try found.decode(Option<[String]>.self, forKey: name))
        case .flag: .flag(try found.decode(Flag<Bool>.self, forKey: name))
        }
    }
    _config = try found.decode(Option<String?>.self, forKey: .config)
    _check = try found.decode(Flag<Bool>.self, forKey: .check)
    _unknown = try found.decode(Argument<[String]>.self, forKey: .unknown)
  }

  /// What the parser takes for the properties.
  public var customMirror: Mirror {
    let table = SettingKey.allCases.map { key -> Mirror.Child in
      switch options[key] ?? key.option {
      case .single(let option): (key.rawValue, option)
      case .list(let option): (key.rawValue, option)
      case .flag(let flag): (key.rawValue, flag)
      }
    }
    let others: [Mirror.Child] = [
      (Name.config.stringValue, _config), (Name.check.stringValue, _check), (Name.unknown.stringValue, _unknown),
    ]
    return Mirror(self, children: table + others, displayStyle: .struct)
  }

  /// A name in the mirror.
  private struct Name: CodingKey {
    static let config = Name(stringValue: "config")
    static let check = Name(stringValue: "check")
    static let unknown = Name(stringValue: "unknown")

    let stringValue: String
    var intValue: Int? { nil }

    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }

  /// What was given for settings with several values, each for itself.
  var listFlags: [SettingKey: [String]] {
    options.compactMapValues { option in
      guard case .list(let list) = option, !list.wrappedValue.isEmpty else { return nil }
      return list.wrappedValue
    }
  }

  /// What was given for the others, under the table's keys.
  var flags: [SettingKey: String] {
    options.compactMapValues { option in
      switch option {
      case .single(let single): single.wrappedValue
      case .list: nil
      case .flag(let flag): flag.wrappedValue ? "true" : nil
      }
    }
  }
}

extension SettingKey {
  fileprivate var option: SidelockdArguments.TableOption {
    let row = definition
    let name = NameSpecification.customLong(flagName)
    let help = ArgumentHelp(
      "\(row.summary) (\(row.kind.allowed); default: \(row.defaultText)).", valueName: row.valueName)
    switch row.kind {
    case .boolean: return .flag(Flag(wrappedValue: false, name: name, help: ArgumentHelp("\(row.summary).")))
    case .rules, .audit:
      return .list(Option(wrappedValue: [], name: name, parsing: .unconditionalSingleValue, help: help))
    case .redisURL, .userName, .filePath, .program, .pemFile, .stateFile, .socketPath, .mode, .integer, .keyPrefix,
      .hostName, .serverName, .verification, .durability, .logLevel:
      return .single(Option(name: name, parsing: .unconditional, help: help))
    }
  }
}
