import Foundation
import SidelockClient
import TestSupport
import Testing

/// What the documents show of the library is its real interface.
@Suite struct DocumentedCodeTests {
  private static let articles = "Sources/SidelockClient/SidelockClient.docc"
  private static let documents =
    ["README.md"] + ["SidelockClient", "GettingStarted", "LosingALock", "Errors"].map { "\(articles)/\($0).md" }

  /// Lines without the indentation of the first of them.
  private static func unindented(_ lines: ArraySlice<Substring>) -> [Substring] {
    let indentation = lines.first?.prefix { $0 == " " }.count ?? 0
    return lines.map { $0.prefix(indentation).allSatisfy { $0 == " " } ? $0.dropFirst(indentation) : $0 }
  }

  /// The blocks of Swift in a document.
  private static func blocks(_ text: String) -> [ArraySlice<Substring>] {
    var rest = text.split(separator: "\n", omittingEmptySubsequences: false)[...]
    var found: [ArraySlice<Substring>] = []
    while let start = rest.firstIndex(of: "```swift") {
      guard let end = rest[start...].dropFirst().firstIndex(of: "```") else { break }
      found.append(rest[(start + 1)..<end])
      rest = rest[end...].dropFirst()
    }
    return found
  }

  private static func contains(_ block: ArraySlice<Substring>, in compiled: [Substring]) -> Bool {
    let block = unindented(block)
    return compiled.indices.contains { start in
      let end = start + block.count
      return end <= compiled.count && unindented(compiled[start..<end]) == block
    }
  }

  @Test(arguments: documents)
  func codeInADocumentIsCompiled(_ path: String) throws {
    let compiled = try Repository.text("Tests/SidelockClientTests/DocumentedCode.swift")
      .split(separator: "\n", omittingEmptySubsequences: false)
    let blocks = Self.blocks(try Repository.text(path))
    #expect(!blocks.isEmpty)
    for block in blocks where !Self.contains(block, in: compiled) {
      Issue.record("DocumentedCode.swift does not have this of \(path):\n\(block.joined(separator: "\n"))")
    }
    // What differs is found.
    for block in blocks {
      #expect(!Self.contains(block.map { $0.replacing("await", with: "async") }[...], in: compiled))
    }
  }

  @Test func everyArticleIsListed() throws {
    let directory = Repository.root.appending(path: Self.articles)
    let found = try FileManager.default.contentsOfDirectory(atPath: directory.path).map { "\(Self.articles)/\($0)" }
    #expect(Set(found) == Set(Self.documents.dropFirst()))
  }

  /// The names between double backticks are those of the library.
  @Test(arguments: documents.dropFirst())
  func symbolsInAnArticleExist(_ path: String) throws {
    let sources = Repository.root.appending(path: "Sources/SidelockClient")
    let code = try FileManager.default.contentsOfDirectory(atPath: sources.path).filter { $0.hasSuffix(".swift") }
      .map { try String(contentsOf: sources.appending(path: $0), encoding: .utf8) }.joined()
    let links = try Repository.text(path).matches(of: #/``([^`\n]+)``/#).map(\.1)
    #expect(!links.isEmpty)
    for link in links {
      for part in link.split(separator: "/") {
        let name = part.prefix { $0 != "(" && $0 != "-" }
        let declared = try Regex("(struct|class|enum|case|func|var|let) `?\(name)\\b")
        let isDeclared = code.contains(declared)
        #expect(isDeclared, "\(name) of \(link)")
      }
    }
  }

  @Test func theReasonsInTheArticleAreTheLibrarys() throws {
    let article = try Repository.text("\(Self.articles)/Errors.md")
    let code = try Repository.text("Sources/SidelockClient/SidelockError.swift")
    let told = Set(article.matches(of: #/(?m)^\| `(\w+)` \|/#).map { String($0.1) })
    let known = Set(code.matches(of: #/Reason\(rawValue: "(\w+)"\)/#).map { String($0.1) })
    #expect(known.subtracting(told) == [])
    struct Table: Decodable {
      struct Row: Decodable { var code: Int, reason: String, retry: String }
      var errors: [Row]
    }
    let table = try JSONDecoder().decode(Table.self, from: Data(try Repository.text("protocol/errors.json").utf8))
    let again = ["no": "no", "later": "later", "after_change": "after a change"]
    for error in table.errors where error.code > 0 {
      let row = try #require(article.split(separator: "\n").first { $0.hasPrefix("| `\(error.reason)` |") })
      #expect(row.hasSuffix("| \(again[error.retry] ?? "") |"), "\(error.reason)")
    }
    let ofTheDaemon = Set(table.errors.filter { $0.code > 0 }.map(\.reason))
    #expect(told.subtracting(known).subtracting(ofTheDaemon) == [])
  }
}
