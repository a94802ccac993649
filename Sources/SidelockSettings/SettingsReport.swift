/// What `--check` prints.
extension SettingsResolution {
  /// A table for people: one setting a line with its value and source, then the problems.
  public var table: String {
    let nameWidth = effective.map(\.key.rawValue.utf8.count).max() ?? 0
    let valueWidth = min(48, effective.map(\.shown.count).max() ?? 0)
    var lines = effective.map { setting in
      padded(setting.key.rawValue, nameWidth) + "  " + padded(setting.shown, valueWidth) + "  (\(setting.source))"
    }
    lines += warnings.map { "warning: \($0)" }
    if problems.isEmpty {
      lines.append("The settings are good.")
    } else {
      lines += problemLines
    }
    return lines.joined(separator: "\n") + "\n"
  }

  /// The problems for people, the count first.
  public var problemLines: [String] {
    let count = problems.count == 1 ? "1 problem" : "\(problems.count) problems"
    return ["sidelockd: \(count) with the settings:"] + problems.map { "  " + $0.description }
  }

  /// One JSON object for programs: `valid`, `settings` (value and source by name), `problems` and `warnings`.
  public var json: String {
    let settings = effective.map { setting in
      "\(jsonString(setting.key.rawValue)):{\"value\":\(jsonValue(setting)),"
        + "\"source\":\(jsonString(setting.source.description))}"
    }
    return "{\"valid\":\(problems.isEmpty),\"settings\":{\(settings.joined(separator: ","))},"
      + "\"problems\":\(Self.list(problems)),\"warnings\":\(Self.list(warnings))}\n"
  }

  private static func list(_ problems: [SettingProblem]) -> String {
    let objects = problems.map { problem in
      "{\"setting\":\(problem.setting.map(jsonString) ?? "null"),"
        + "\"source\":\(problem.source.map { jsonString($0.description) } ?? "null"),"
        + "\"message\":\(jsonString(problem.message))}"
    }
    return "[\(objects.joined(separator: ","))]"
  }

  private func jsonValue(_ setting: EffectiveSetting) -> String {
    switch setting.key.definition.kind {
    case .integer, .boolean: setting.shown
    case .redisURL, .userName, .filePath, .program, .pemFile, .stateFile, .socketPath, .mode, .keyPrefix, .hostName,
      .serverName, .verification, .durability, .logLevel, .rules, .audit:
      jsonString(setting.shown)
    }
  }

  private func padded(_ text: String, _ width: Int) -> String {
    text + String(repeating: " ", count: max(0, width - text.count))
  }
}

private func jsonString(_ text: String) -> String {
  var result = "\""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\"": result += "\\\""
    case "\\": result += "\\\\"
    case _ where scalar.value < 0x20:
      let digits = String(scalar.value, radix: 16)
      result += "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}
