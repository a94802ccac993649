import Foundation
import TestSupport

/// The files of the repository, and what pages say of them.
enum Tree {
  static let folders = ["Sources", "Tests", "protocol", "packaging", ".github", ".ci"]

  /// The paths of all files, from the root on.
  static let files: [String] = {
    let top = (try? FileManager.default.contentsOfDirectory(atPath: Repository.root.path)) ?? []
    let below = folders.flatMap { folder in
      let names = FileManager.default.enumerator(atPath: Repository.root.appending(path: folder).path)?.compactMap {
        $0 as? String
      }
      return (names ?? []).filter { !$0.contains("__pycache__") && !$0.contains(".venv") }.map { "\(folder)/\($0)" }
    }
    return top + below
  }()

  static func exists(_ path: some StringProtocol) -> Bool {
    FileManager.default.fileExists(atPath: Repository.root.appending(path: String(path)).path)
  }

  /// The paths of all files of that name.
  static func files(named name: some StringProtocol) -> [String] {
    files.filter { $0.hasSuffix("/\(name)") || $0 == name }
  }

  /// Whether a file declares something of that name.
  static func declares(_ path: String, _ name: some StringProtocol) throws -> Bool {
    let declared = try Regex("\\b(func|def|function|var|let|case|struct|class|enum) `?\(name)\\b")
    return try Repository.text(path).contains(declared)
  }

  /// Whether a file has a test of that name, or a check of the simulator's.
  static func tests(_ path: String, _ name: some StringProtocol) throws -> Bool {
    guard try declares(path, name) else { return false }
    if path.hasSuffix(".py") { return name.hasPrefix("test_") }
    if path.hasPrefix("Tests/SimulatorTests/World/Checker") { return true }
    let text = try Repository.text(path)
    guard path.hasPrefix("Tests/"), let place = text.firstMatch(of: try Regex("func \(name)\\b"))?.range.lowerBound
    else { return false }
    let before = text[..<place]
    return (before.range(of: "\n\n", options: .backwards).map { before[$0.upperBound...] } ?? before).contains("@Test")
  }
}

/// A page in Markdown.
struct Page {
  let path: String
  let text: String
  /// Without its blocks of code.
  let prose: String
  /// The lines of its blocks of code that are typed.
  let commands: [String]

  init(_ path: String) throws {
    self.init(path: path, text: try Repository.text(path))
  }

  init(path: String, text: String) {
    self.path = path
    self.text = text
    let parts = text.components(separatedBy: "```")
    prose = parts.enumerated().filter { $0.offset % 2 == 0 }.map(\.element).joined()
    commands = parts.enumerated().filter { $0.offset % 2 == 1 && $0.element.hasPrefix("console\n") }
      .flatMap { $0.element.split(separator: "\n").dropFirst() }.filter { $0.hasPrefix("$ ") || $0.hasPrefix("   ") }
      .map { $0.trimmingCharacters(in: CharacterSet(charactersIn: "$ ")) }
  }

  var folder: String { path.split(separator: "/").dropLast().joined(separator: "/") }

  /// What stands in backquotes.
  var codes: [Substring] {
    // Double ones are symbols of a library.
    prose.replacing(#/``[^`]+``/#, with: "").matches(of: #/`([^`\n]+)`/#).map(\.1).map { Substring(String($0)) }
  }

  /// The cells of the rows below the heading whose table has this head.
  func rows(headedBy head: String) -> [[String]] {
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    guard let start = lines.firstIndex(of: Substring(head)) else { return [] }
    return lines[(start + 2)...].prefix { $0.hasPrefix("|") }.map { line in
      line.dropFirst().dropLast().components(separatedBy: "|").map { $0.trimmingCharacters(in: .whitespaces) }
    }
  }

  // MARK: What is untrue

  /// The paths, functions, parts and tests that it names and that are not there.
  var untrue: [String] {
    get throws {
      try codes.compactMap(untrue) + commands.flatMap(untrue(command:)) + untrueLinks
    }
  }

  private func untrue(_ code: Substring) throws -> String? {
    if let match = code.wholeMatch(
      of: #/((?:[\w.+-]+\/)*[\w.+-]+\.(?:swift|lua|py|sh|c|h|md|json|jsonl|yaml|tsv))(?::(\w+))?/#)
    {
      guard let path = place(of: match.1) else { return "there is no \(match.1), or several" }
      if let name = match.2, !(try Tree.declares(path, name)) { return "\(path) declares no \(name)" }
      return nil
    }
    let words = code.split(separator: " ")
    guard let first = words.first, Tree.folders.contains(where: { first.hasPrefix("\($0)/") }) else { return nil }
    if first == "Tests/run.sh" { return try untrue(command: String(code)).first }
    // What stands for several is written in capitals.
    let named = first.split(separator: "/").prefix { $0.contains { $0.isLowercase } }
    return Tree.exists(named.joined(separator: "/")) ? nil : "there is no \(first)"
  }

  /// The file that a path means, from the root or from the page on, or a name that only one file has.
  private func place(of path: Substring) -> String? {
    if path == "README.md" { return "README.md" }
    let near = folder.isEmpty ? String(path) : "\(folder)/\(path)"
    if let found = [String(path), near].first(where: Tree.exists) { return found }
    let found = path.contains("/") ? [] : Tree.files(named: path)
    return found.count == 1 ? found[0] : nil
  }

  private func untrue(command: String) throws -> [String] {
    var found: [String] = []
    if let match = command.firstMatch(of: #/Tests\/run\.sh((?: [a-z]+)*)/#) {
      let parts = try TestRun.parts
      found += match.1.split(separator: " ").filter { !parts.contains(String($0)) }.map { "there is no part \($0)" }
    }
    if let match = command.firstMatch(of: #/--filter '?([\w\/|]+)/#) {
      for name in match.1.split(whereSeparator: { "|/".contains($0) }) {
        let isTarget = Tree.exists("Tests/\(name)")
        let isDeclared = try Tree.files.contains { path in
          guard path.hasSuffix(".swift"), path.hasPrefix("Tests/") else { return false }
          return try Tree.declares(path, name)
        }
        if !isTarget && !isDeclared { found.append("there is no test \(name)") }
      }
    }
    for name in command.matches(of: #/SIDELOCK_\w+|\w+_ARGS/#).map(\.output) {
      let isRead = try Tree.files.contains { path in
        guard path.hasPrefix("Tests/"), path.hasSuffix(".swift") || path.hasSuffix(".py") || path.hasSuffix(".sh")
        else { return false }
        return try Repository.text(path).contains(name)
      }
      if !isRead { found.append("nothing reads \(name)") }
    }
    for name in command.matches(of: #/\b(?:Tests|packaging)\/[\w\/.-]+|\btest_\w+\.py/#).map(\.output)
    where !Tree.exists(name) && Tree.files(named: name).count != 1 {
      found.append("there is no \(name)")
    }
    return found
  }

  /// Links to files, and to headings of pages.
  private var untrueLinks: [String] {
    get throws {
      try prose.matches(of: #/\]\(([^)\s]+)\)/#).map { String($0.1) }.filter { !$0.contains("://") }.compactMap {
        link in
        let parts = link.split(separator: "#", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        let target = parts[0].isEmpty ? path : Self.resolved(parts[0], from: folder)
        guard Tree.exists(target) else { return "the link \(link) leads nowhere" }
        guard parts.count == 2 else { return nil }
        let page = parts[0].isEmpty ? self : try Page(target)
        return page.anchors.contains(parts[1]) ? nil : "\(target) has no heading \(parts[1])"
      }
    }
  }

  private static func resolved(_ link: String, from folder: String) -> String {
    var parts = folder.split(separator: "/").map(String.init)
    for part in link.split(separator: "/") {
      switch part {
      case ".": break
      case "..": _ = parts.popLast()
      case _: parts.append(String(part))
      }
    }
    return parts.joined(separator: "/")
  }

  private var anchors: [String] {
    prose.split(separator: "\n").filter { $0.hasPrefix("#") }.map { line in
      line.drop { $0 == "#" }.dropFirst().lowercased().filter { $0.isLetter || $0.isNumber || " -_".contains($0) }
        .replacing(" ", with: "-")
    }
  }
}

/// What `Tests/run.sh` says of itself.
enum TestRun {
  /// The parts, in the order in which they are run.
  static var parts: [String] {
    get throws {
      let line = try Repository.text("Tests/run.sh").firstMatch(of: #/(?m)^all_parts=\(([a-z ]+)\)$/#)
      return (line?.1 ?? "").split(separator: " ").map(String.init)
    }
  }
}
