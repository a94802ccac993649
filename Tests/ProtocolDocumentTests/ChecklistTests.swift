import Foundation
import TestSupport
import Testing

/// The checklists of `.github/CONTRIBUTING.md` are as short as they say: a thing that is there already stands in the files
/// that its checklist names, and in the one that no list can name, which does it or uses it.
@Suite struct ChecklistTests {
  @Test(arguments: [
    ("A method", "unwatch"),
    ("A setting", "waits_per_uid_max"), ("A setting", "watches_per_uid_max"), ("A setting", "holds_per_session_max"),
    ("A setting", "bytes_per_uid_max"),
    ("A statistic", "signals_sent"), ("A statistic", "slow_readers_closed"), ("A statistic", "connections_refused"),
  ])
  func aThingStandsWhereItsChecklistSays(_ checklist: String, _ name: String) throws {
    let list = try Checklist(checklist)
    let files = try Trace.files(of: name)
    #expect(files.count == list.count, "\(files.sorted())")
    #expect(files.subtracting(list.files).count == 1, "\(files.subtracting(list.files).sorted())")
  }

  @Test func aNameIsFoundInEachSpelling() throws {
    for text in ["waits_per_uid_max", "waitsPerUIDMax", "--waits-per-uid-max", "SIDELOCK_WAITS_PER_UID_MAX"] {
      #expect(try Trace.stands("waits_per_uid_max", in: "let a = \(text)\n"))
    }
    for text in ["waitsPerUID", "a // waitsPerUIDMax", "/// waitsPerUIDMax", "waitsPerUIDMaxima"] {
      #expect(try !Trace.stands("waits_per_uid_max", in: "\(text)\n"))
    }
  }
}

/// One of the checklists.
private struct Checklist {
  /// How many source files it says that there are.
  let count: Int
  /// The source files that its table names.
  let files: Set<String>

  init(_ heading: String) throws {
    let text = try Repository.text(".github/CONTRIBUTING.md")
    let start = try #require(text.range(of: "### \(heading)\n")).upperBound
    let section = text[start...].prefix(upTo: text[start...].range(of: "\n### ")?.lowerBound ?? text.endIndex)
    count = try #require(section.firstMatch(of: #/(\d+) source files/#).flatMap { Int($0.1) })
    let rows = section.split(separator: "\n").filter { $0.hasPrefix("|") }
    files = Set(rows.flatMap { $0.matches(of: #/`(Sources/[^`]+\.swift)`/#).map { String($0.1) } })
  }
}

/// Where a name stands in the code of the daemon.
private enum Trace {
  /// A name with underscores is looked for as other places spell it, too.
  static func files(of name: String) throws -> Set<String> {
    let files = Tree.files.filter { path in
      path.hasPrefix("Sources/") && path.hasSuffix(".swift")
        && !["Sources/SidelockClient/", "Sources/sidelock/"].contains { path.hasPrefix($0) }
    }
    return Set(try files.filter { try stands(name, in: try Repository.text($0)) })
  }

  static func stands(_ name: String, in text: String) throws -> Bool {
    let spelling = name.split(separator: "_").joined(separator: "[_-]?")
    let code = text.replacing(#/(?m)(^|\s)//.*$/#, with: "")
    // In another word it is another name; a counter ends in "total" where it is told.
    return code.contains(try Regex("(?i)(^|[^a-z])\(spelling)(_total)?([^a-z]|$)"))
  }
}
