import AccessPolicy
import ArgumentParser
import Foundation
import ProcessSupport
import TestSupport
import Testing

@testable import SidelockSettings

/// Holds the table, the command line, the reports and the reference page together.
@Suite struct SettingsTableTests {
  private func parse(_ arguments: [String]) throws -> SidelockdArguments { try SidelockdArguments.parse(arguments) }

  @Test(arguments: SettingKey.allCases)
  func everySettingIsAFlag(_ key: SettingKey) throws {
    if key.definition.kind.isList {
      let arguments = try parse(["--\(key.flagName)", "-v-", "--\(key.flagName)", "w"])
      #expect(arguments.listFlags == [key: ["-v-", "w"]])
      #expect(arguments.flags.isEmpty && arguments.unknown.isEmpty)
      return
    }
    let isSwitch = key.definition.kind == .boolean
    let arguments = try parse(isSwitch ? ["--\(key.flagName)"] : ["--\(key.flagName)", "-v-"])
    #expect(arguments.flags == [key: isSwitch ? "true" : "-v-"])
    #expect(arguments.unknown.isEmpty)
  }

  @Test func namesFollowFromTheKey() {
    #expect(SettingKey.redisPasswordFile.flagName == "redis-password-file")
    #expect(SettingKey.redisPasswordFile.environmentName == "SIDELOCK_REDIS_PASSWORD_FILE")
  }

  @Test func unknownArgumentsAreKeptForTheReport() throws {
    let arguments = try parse(["--nonsense", "1", "--local", "stray"])
    #expect(arguments.unknown == ["--nonsense", "1", "stray"])
    #expect(arguments.flags == [.local: "true"])
  }

  @Test(arguments: SettingKey.allCases)
  func helpNamesEverySettingWithItsRangeAndDefault(_ key: SettingKey) {
    let help = SidelockdArguments.helpMessage(columns: 10_000)
    let row = key.definition
    #expect(help.contains("--\(key.flagName)"))
    if row.kind != .boolean {
      #expect(help.contains("\(row.summary) (\(row.kind.allowed); default: \(row.defaultText))."))
    }
  }

  @Test(arguments: SettingKey.allCases)
  func defaultsAreAllowedValues(_ key: SettingKey) throws {
    guard let number = key.definition.defaultNumber else { return }
    #expect(try key.definition.parse(String(number)) == .number(number))
  }

  @Test(arguments: [("settings.md", SettingsDocument.markdown), ("sidelockd.yaml", SettingsDocument.sampleFile)])
  func writtenCopyIsThatOfTheTable(_ name: String, _ text: String) throws {
    let page = Repository.root.appending(path: "packaging/\(name)")
    if ProcessInfo.processInfo.environment["UPDATE_SETTINGS_PAGE"] != nil {
      try text.write(to: page, atomically: true, encoding: .utf8)
    }
    let written = try String(contentsOf: page, encoding: .utf8)
    let hint: Comment = "UPDATE_SETTINGS_PAGE=1 swift test --filter SettingsTests rewrites it"
    #expect(written == text, hint)
  }

  /// With every comment sign taken off in turn: each line that is offered there is allowed.
  @Test(arguments: SettingKey.allCases)
  func everyLineOfTheSampleFileIsValid(_ key: SettingKey) throws {
    let lines = SettingsDocument.sampleFile.split(separator: "\n", omittingEmptySubsequences: false)
    let chosen = lines.map { line in
      if key == .local && line.hasPrefix("redis:") { return "#" + line }
      // A user needs a password.
      if key == .redisUser && line.hasPrefix("#redis_password_file:") { return String(line.dropFirst()) }
      if key == .redisSentinelUser && line.hasPrefix("#redis_sentinel_password_file:") {
        return String(line.dropFirst())
      }
      if [.redisSentinelUser, .redisSentinelPasswordFile].contains(key) && line.hasPrefix("redis:") {
        return "redis: redis-sentinel://h?sentinelMasterId=m"
      }
      return line.hasPrefix("#\(key.rawValue):") ? String(line.dropFirst()) : String(line)
    }
    let file = chosen.joined(separator: "\n")
    #expect(file.contains("\n\(key.rawValue): "))
    var inputs = SettingsInputs { path, _ in .success(Array(path == "f.yaml" ? file.utf8 : "password".utf8)) }
    inputs.configFlag = "f.yaml"
    inputs.refusalOfProgram = { _ in nil }
    inputs.accounts.group = { $0 == "shop" ? .number(1) : .unknown }
    inputs.isRoot = true
    inputs.systemHostName = "h"
    let resolution = SettingsResolution(inputs)
    #expect(resolution.problems == [])
    #expect(resolution.effective.first { $0.key == key }?.source.description.hasPrefix("f.yaml:") == true)
  }

  @Test func exampleInTheReferencePageIsValid() throws {
    let page = SettingsDocument.markdown
    let start = try #require(page.range(of: "```yaml\n"))
    let end = try #require(page.range(of: "```\n", range: start.upperBound..<page.endIndex))
    let example = Array(page[start.upperBound..<end.lowerBound].utf8)
    var inputs = SettingsInputs { _, _ in .success(example) }
    inputs.configFlag = "example.yaml"
    inputs.isRoot = true
    inputs.systemHostName = "h"
    let resolution = SettingsResolution(inputs)
    #expect(resolution.problems == [])
    var defaults = SettingsInputs { _, _ in .failure(.missing) }
    defaults.flags = [.redis: "redis://localhost"]
    defaults.isRoot = true
    defaults.systemHostName = "h"
    #expect(resolution.settings == SettingsResolution(defaults).settings)
  }

  @Test func rulesInTheReferencePageAreValid() throws {
    let page = SettingsDocument.markdown
    let chapter = try #require(page.range(of: "## Rules"))
    let start = try #require(page.range(of: "```yaml\n", range: chapter.upperBound..<page.endIndex))
    let end = try #require(page.range(of: "```\n", range: start.upperBound..<page.endIndex))
    let example = Array(("local: true\n" + page[start.upperBound..<end.lowerBound]).utf8)
    var inputs = SettingsInputs { _, _ in .success(example) }
    inputs.configFlag = "example.yaml"
    inputs.accounts = AccountLookup(user: { _ in .number(1) }, group: { _ in .number(2) })
    let resolution = SettingsResolution(inputs)
    #expect(resolution.problems == [])
    #expect(resolution.settings?.live.policy.rules.count == 5)
    #expect(page.contains("There may be 1,000 rules of 4,096 bytes each."))
    #expect(AccessPolicy.rulesMax == 1000 && AccessRule.textBytesMax == 4096)
  }

  @Test func jsonReportIsJSON() throws {
    var inputs = SettingsInputs { _, _ in .success(Array("\"a\\\"\\n\\\\\": 1\n".utf8)) }
    inputs.flags = [.local: "true", .leaseMilliseconds: "5000"]
    inputs.configFlag = "we\"ird.yaml"
    let report = try JSONSerialization.jsonObject(with: Data(SettingsResolution(inputs).json.utf8))
    let object = try #require(report as? [String: Any])
    #expect(object["valid"] as? Bool == false)
    let settings = try #require(object["settings"] as? [String: [String: Any]])
    #expect(settings["lease_ms"]?["value"] as? Int == 5000)
    #expect(settings["lease_ms"]?["source"] as? String == "--lease-ms")
    #expect((object["problems"] as? [[String: Any]])?.count == 1)
  }

  @Test func filesAreReadUpToTheirLimit() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "sidelock-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: path) }
    #expect(readSmallFile(path, bytesMax: 3) == .failure(.missing))
    try Data("abc".utf8).write(to: URL(filePath: path))
    #expect(readSmallFile(path, bytesMax: 3) == .success(Array("abc".utf8)))
    #expect(readSmallFile(path, bytesMax: 2) == .failure(.tooLong(bytesMax: 2)))
    #expect(readSmallFile("/", bytesMax: 2) == .failure(.failed("Is a directory")))
  }

  /// What may block for ever is not even opened, but for what whoever starts the daemon has opened for it.
  @Test func whatIsNoRegularFileIsNotRead() throws {
    let path = FileManager.default.temporaryDirectory.appending(path: "sidelock-\(UUID().uuidString)").path
    defer { unlink(path) }
    try #require(mkfifo(path, 0o600) == 0)
    let refusal = FileReadError.failed("it is a pipe, and no regular file")
    #expect(readSmallFile(path, bytesMax: 3) == .failure(refusal))
    #expect(readSmallFileAgain(path, bytesMax: 3) == .failure(refusal))
    #expect(readSmallFile("/dev/zero", bytesMax: 3) == .failure(.failed("it is a device, and no regular file")))
    #expect(readSmallFile("/dev/null", bytesMax: 3) == .success([]))
    #expect(readSmallFileAgain("/dev/null", bytesMax: 3) == .success([]))
  }

  @Test(arguments: ["/dev/fd/", "/proc/self/fd/"])
  func aPipeThatIsOpenIsReadAtTheStart(directory: String) throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    defer { close(ends[0]) }
    try #require(write(ends[1], "abc", 3) == 3)
    close(ends[1])
    let path = "\(directory)\(ends[0])"
    #expect(
      readSmallFileAgain(path, bytesMax: 3)
        == .failure(.failed("it is a pipe, which can be read only once, at the start")))
    #expect(readSmallFile(path, bytesMax: 3) == .success(Array("abc".utf8)))
  }
}
