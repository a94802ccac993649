import Foundation
import TestSupport
import Testing

/// The pages for contributors name what is there.
@Suite struct MapDocumentTests {
  static let articles = "Sources/SidelockClient/SidelockClient.docc"
  static let pages = [
    "README.md", "Sources/README.md", "Tests/README.md", "Tests/system/README.md", "Tests/Fuzz/README.md",
    ".github/CONTRIBUTING.md", "packaging/NEWS.md", "packaging/settings.md", "protocol/README.md",
    "protocol/security.md", "protocol/formats.md", "protocol/guarantees.md", "\(articles)/SidelockClient.md",
    "\(articles)/GettingStarted.md", "\(articles)/LosingALock.md", "\(articles)/Errors.md",
  ]

  @Test(arguments: pages)
  func whatAPageNamesIsThere(_ path: String) throws {
    for words in try Page(path).untrue { Issue.record("\(path): \(words)") }
  }

  /// A check that finds nothing may be blind.
  @Test(arguments: [
    ("`Sources/Nothing.swift`", "there is no Sources/Nothing.swift, or several"),
    ("`Nothing.swift`", "there is no Nothing.swift, or several"),
    ("`Sources/Nothing`", "there is no Sources/Nothing"),
    ("`Tests/Nothing/TARGET`", "there is no Tests/Nothing/TARGET"),
    ("`LockEngine.swift:nothing`", "Sources/LockEngine/LockEngine.swift declares no nothing"),
    ("`acquire.lua:nothing`", "Sources/RedisLeases/Scripts/acquire.lua declares no nothing"),
    ("`test_outage.py:test_nothing`", "Tests/system/test_outage.py declares no test_nothing"),
    ("`Tests/run.sh nothing`", "there is no part nothing"),
    ("```console\n$ Tests/run.sh unit nothing\n```", "there is no part nothing"),
    ("```console\n$ swift test --filter 'LockEngineTests|Nothing'\n```", "there is no test Nothing"),
    ("```console\n$ SIDELOCK_NOTHING_AT_ALL=1 true\n```", "nothing reads SIDELOCK_NOTHING_AT_ALL"),
    ("```console\n$ PYTEST_ARGS='test_nothing.py' Tests/run.sh system\n```", "there is no test_nothing.py"),
    ("[a](nothing.md)", "the link nothing.md leads nowhere"),
    ("[a](run.sh/../../Sources/README.md#nothing)", "Sources/README.md has no heading nothing"),
    ("[a](#nothing)", "Tests/README.md has no heading nothing"),
  ])
  func whatIsNotThereIsFound(_ text: String, _ words: String) throws {
    // The name of no variable stands in this file as a whole, or it would be taken for one that is read.
    let text = text.replacing("NOTHING_AT_ALL", with: "NOTHING_" + "ANYWHERE")
    #expect(
      try Page(path: "Tests/README.md", text: text).untrue
        == [words.replacing("NOTHING_AT_ALL", with: "NOTHING_" + "ANYWHERE")])
  }

  @Test(arguments: [
    "`Sources/LockEngine/LockEngine.swift`", "`LockEngine.swift:handle`", "`Tests/Fuzz/found/TARGET/`",
    "`Tests/run.sh unit`", "`system/test_outage.py`", "[a](system/README.md)", "`SET key value NX PX 1`", "`a/b`",
    "```console\n$ swift test --filter 'LockEngineTests|LeakTests/nothingIsLeftOfADeadlock'\n```",
  ])
  func whatIsThereIsFoundToBe(_ text: String) throws {
    #expect(try Page(path: "Tests/README.md", text: text).untrue == [])
  }

  // MARK: The map of the sources

  /// The targets of Sources, in the order of Package.swift, and what they import of each other.
  private func targets() throws -> [(name: String, imports: Set<String>)] {
    let package = try Repository.text("Package.swift")
    let own = try Repository.names(in: "Sources").filter { $0 != "README.md" }
    return package.split(separator: #/\.(?:target|executableTarget|systemLibrary|testTarget)\(/#).compactMap { part in
      guard let name = part.firstMatch(of: #/name: "(\w+)"/#)?.1, own.contains(String(name)) else { return nil }
      let list = part.firstMatch(of: #/dependencies: \[((?:[^\[\]]|\[[^\]]*\])*)\]/#)?.1 ?? ""
      let names = list.matches(of: #/"(\w+)"/#).map { String($0.1) }.filter(own.contains)
      return (String(name), Set(names))
    }
  }

  @Test func theTargetsAreThoseOfThePackage() throws {
    let rows = try Page("Sources/README.md").rows(headedBy: "| target | kind | what it holds | imports of ours |")
    let targets = try targets()
    #expect(rows.map { $0[0] }.sorted() == targets.map { "`\($0.name)`" }.sorted())
    let folders = try Repository.names(in: "Sources")
    #expect(Set(targets.map(\.name)) == Set(folders).subtracting(["README.md"]))
    var above: Set<String> = []
    for row in rows {
      let target = try #require(targets.first { "`\($0.name)`" == row[0] })
      let imports = Set(row[3].matches(of: #/`(\w+)`/#).map { String($0.1) })
      #expect(imports == target.imports, "\(target.name)")
      #expect(imports.isSubset(of: above), "\(target.name) stands above what it imports")
      above.insert(target.name)
    }
  }

  @Test func everyInvariantIsShown() throws {
    let rows = try Page("Sources/README.md").rows(headedBy: "| invariant | code | checks |")
    #expect(rows.count > 15)
    for row in rows { try expectTests(in: row[2], of: row[0]) }
  }

  /// Expects that `cell` names tests, and that there are such.
  private func expectTests(in cell: String, of what: String) throws {
    let references = cell.matches(of: #/`([\w+]+\.(?:swift|py)):(\w+)`/#)
    #expect(!references.isEmpty, "\(what)")
    for reference in references {
      let files = Tree.files(named: reference.1)
      #expect(files.count == 1)
      #expect(try files.allSatisfy { try Tree.tests($0, reference.2) }, "\(reference.0) is no test and no check")
    }
  }

  @Test func everyGuaranteeIsShownAndEveryExceptionIsNamed() throws {
    let page = try Page("protocol/guarantees.md")
    let rows = page.rows(
      headedBy: "| event | who holds a lock | who waits or tries | for at most | one holder | tokens rise | shown by |")
    #expect(rows.count > 20)
    let unsafe = page.rows(headedBy: "| name | what may happen | for how long | what helps |").map { $0[0] }
    var named: Set<String> = []
    for row in rows {
      try expectTests(in: row[6], of: row[0])
      for cell in row[4...5] {
        let exceptions = cell.matches(of: #/\[([^\]]+)\]\(#unsafe\)/#).map { String($0.1) }
        #expect(!exceptions.isEmpty || ["yes", "as good as who overwrote it"].contains(cell), "\(row[0]): \(cell)")
        named.formUnion(exceptions)
      }
    }
    #expect(named.isSubset(of: unsafe), "\(named.subtracting(unsafe)) stand under no such name")
    // The others belong to no event, but to how a Redis or a client is run.
    #expect(Set(unsafe).subtracting(named) == ["hidden server", "foreign"])
  }

  @Test func whatIsNoTestIsTakenForNone() throws {
    #expect(try Tree.tests("Tests/LockEngineTests/LeakTests.swift", "nothingIsLeftOfADeadlock"))
    #expect(try !Tree.tests("Tests/LockEngineTests/LeakTests.swift", "settle"))
    #expect(try !Tree.tests("Sources/LockEngine/LockEngine.swift", "handle"))
    #expect(try !Tree.tests("Tests/system/test_chaos.py", "seeds"))
  }

  @Test func noWordHasTwoGlossaries() throws {
    let inner = try Page("Sources/README.md").rows(headedBy: "| word | meaning |").map { $0[0] }
    let users = try Page("protocol/README.md").rows(headedBy: "| word | meaning |").map { $0[0] }
    #expect(inner.count > 30 && users.count > 10)
    #expect(Set(inner).intersection(users) == [])
    #expect(inner == inner.sorted())
    #expect(Set(inner).count == inner.count)
  }

  // MARK: The map of the tests

  @Test func thePartsAreThoseOfTheScript() throws {
    let rows = try Page("Tests/README.md").rows(headedBy: "| part | what it proves | time |")
    let parts = try TestRun.parts
    #expect(!parts.isEmpty)
    #expect(rows.map { $0[0] } == parts.map { "`\($0)`" })
    let script = try Repository.text("Tests/run.sh")
    for part in parts {
      #expect(script.contains("\n  \(part) "), "--help does not tell of \(part)")
      #expect(script.contains("\npart_\(part)() {"))
    }
  }

  @Test func everyFolderOfTheTestsIsNamed() throws {
    let text = try Repository.text("Tests/README.md")
    for name in try Repository.names(in: "Tests") where name != "README.md" {
      #expect(text.contains("`Tests/\(name)"), "\(name)")
    }
  }

  // MARK: Whose the parts are

  @Test func theCopyrightNamesEachPackageThatIsLinked() throws {
    let packages = try Repository.text("Package.swift").matches(
      of: #/\.package\([^)]*?url: "[^"]*\/([^"\/]+?)(?:\.git)?"/#
    )
    .map { String($0.1) }
    #expect(packages.count > 4)
    let parts = try Repository.text("packaging/debian/copyright").split(separator: "\n")
      .filter { $0.hasPrefix("Files:") }.flatMap { $0.split(separator: " ").map(String.init) }
    #expect(packages.filter { !parts.contains($0) } == [])
  }

  // MARK: The news

  @Test func theNewestVersionIsThatOfThePrograms() throws {
    let versions = try Repository.text("packaging/NEWS.md").matches(
      of: #/(?m)^## (\d+\.\d+\.\d+) \((?:unreleased|\d{4}-\d\d-\d\d)\)$/#
    )
    .map { String($0.1) }
    let programs = try Repository.text("Sources/ProcessSupport/Version.swift").firstMatch(
      of: #/sidelockVersion = "([^"]+)"/#)
    #expect(versions.first == programs.map { String($0.1) })
    #expect(Set(versions).count == versions.count)
  }
}
