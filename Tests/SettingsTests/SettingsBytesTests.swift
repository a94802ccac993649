import SystemStrings
import Testing

@testable import SidelockSettings

/// Command line and environment are bytes: paths stay what they are, and every other value must be UTF-8.
@Suite struct SettingsBytesTests {
  private static let odd = SystemText.text(Array("/caf".utf8) + [0xE9])

  private func resolve(_ flags: [SettingKey: String], rules: [String] = [], file: String? = nil) -> SettingsResolution {
    var inputs = SettingsInputs { path, _ in
      file.map { path == Self.odd ? .success(Array($0.utf8)) : .failure(.missing) } ?? .failure(.missing)
    }
    inputs.flags = flags
    if !rules.isEmpty { inputs.listFlags = [.rules: rules] }
    if file != nil { inputs.configFlag = Self.odd }
    inputs.systemHostName = "host"
    return SettingsResolution(inputs)
  }

  @Test func aPathIsKeptAndShown() {
    let resolution = resolve([.local: "true", .socket: Self.odd])
    #expect(resolution.settings?.socketPath == Self.odd)
    #expect(resolution.effective.first { $0.key == .socket }?.shown == "/caf\\xE9")
    #expect(resolution.json.contains(#""/caf\\xE9""#))
    let inForce = SettingsInForce(resolution)
    #expect(inForce.flatMap { SettingsInForce(encoded: $0.encoded) } == inForce)
  }

  @Test func aPathIsMeasuredInBytes() {
    let bytes = [UInt8](repeating: 0xE9, count: 107)
    #expect(resolve([.local: "true", .socket: SystemText.text(bytes)]).problems.isEmpty)
    #expect(resolve([.local: "true", .socket: SystemText.text(bytes + [0xE9])]).problems.count == 1)
  }

  @Test(arguments: SettingKey.allCases)
  func whatIsNoPathMustBeUTF8(_ key: SettingKey) {
    switch key.definition.kind {
    case .redisURL, .filePath, .program, .pemFile, .stateFile, .socketPath: return
    case .boolean, .userName, .mode, .integer, .keyPrefix, .hostName, .serverName, .verification, .durability,
      .logLevel, .rules, .audit:
      break
    }
    let resolution = key == .rules ? resolve([:], rules: [Self.odd]) : resolve([key: Self.odd])
    let problem = resolution.problems.first { $0.setting == key.rawValue }
    #expect(problem?.message.contains("is not UTF-8") == true)
    // What stands for a user may be a password, of which only the beginning is told.
    #expect(problem?.message.contains("caf\\xE9") == (key.definition.kind != .userName))
  }

  private static let notUTF8: [(text: String, bytes: [UInt8], line: Int)] = [
    ("local: true\n# ü\nhost: caf", [0xE9, 0x0A], 3),
    ("\u{FEFF}local: ", [0xC3, 0x28], 1),
    ("a: b\r\n", [0xED, 0xA0, 0x80], 2),
    ("a: b\n", [0xC0, 0x80], 2),
    // UTF-16.
    ("", [0xFF, 0xFE, 0x61, 0x00, 0x3A, 0x00, 0x0A, 0x00], 1),
  ]

  @Test(arguments: notUTF8)
  func aFileThatIsNotUTF8IsRefusedWithTheLine(_ text: String, _ bytes: [UInt8], _ line: Int) {
    let problem = SettingsFile(parsing: Array(text.utf8) + bytes).problems.last
    #expect(problem?.line == line)
    #expect(problem?.message.contains("UTF-8") == true)
  }

  @Test func aMarkOfTheByteOrderIsSkipped() {
    #expect(SettingsFile(parsing: Array("\u{FEFF}local: true\n".utf8)).entries.map(\.key) == ["local"])
  }

  @Test func aCharacterOfTheFileIsNoByte() {
    // The characters that stand for bytes elsewhere are themselves here.
    let resolution = resolve([:], file: "local: true\nsocket: /caf\u{10FFE9}\n")
    #expect(resolution.settings.map { SystemText.bytes($0.socketPath) } == Array("/caf\u{10FFE9}".utf8))
    #expect(resolution.effective.first { $0.key == .socket }?.shown == "/caf\u{10FFE9}")
    #expect(resolution.effective.first { $0.key == .socket }?.source.description == "/caf\\xE9:2")
  }
}
