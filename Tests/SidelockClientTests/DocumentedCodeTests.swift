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

  /// The names between double backticks, in articles and in comments, are those of the library, with the labels that they have.
  @Test func symbolsThatAreNamedExist() throws {
    let folder = "Sources/SidelockClient"
    let sources = try FileManager.default.contentsOfDirectory(atPath: Repository.root.appending(path: folder).path)
      .filter { $0.hasSuffix(".swift") }.map { "\(folder)/\($0)" }
    let code = try sources.map { try Repository.text($0) }.joined()
    for path in Self.documents.dropFirst() + sources {
      for link in try Repository.text(path).matches(of: #/``([^`\n]+)``/#).map(\.1) {
        for part in link.split(separator: "/") {
          #expect(try Self.declares(code, part), "\(part) of \(link) in \(path)")
        }
      }
    }
    let acquire: Substring =
      "acquire(_:mode:wait:maxHold:owner:meta:lossAction:replicas:durability:onLost:onWaiting:onContended:)"
    #expect(try Self.declares(code, acquire))
    #expect(try !Self.declares(code, "acquire(_:wait:)") && !Self.declares(code, "nothing"))
  }

  /// Whether `code` declares a name, such as `session` or `withLock(_:wait:)`.
  private static func declares(_ code: String, _ symbol: Substring) throws -> Bool {
    let name = symbol.prefix { $0 != "(" && $0 != "-" }
    let declared = try Regex("\\b(struct|class|enum|case|func|var|let) `?\(name)\\b`?(<[^>]*>)?")
    return code.matches(of: declared).contains { match in
      !symbol.contains("(")
        || labels(code[match.range.upperBound...]) == symbol.dropFirst(name.count).dropFirst().dropLast()
    }
  }

  /// The labels of a list of parameters, which begins with a parenthesis, such as `_:wait:`.
  private static func labels(_ code: Substring) -> String {
    guard code.first == "(" else { return "" }
    var depth = 0
    var labels = ""
    var isAtStart = true
    var word = ""
    for letter in code {
      if "([{".contains(letter) { depth += 1 }
      if ")]}".contains(letter) { depth -= 1 }
      if depth == 0 { break }
      if isAtStart, depth == 1, letter == " " || letter == ":" || letter == "\n" {
        // The first word of a parameter; one before a type that has no label is none.
        if !word.isEmpty {
          labels += word + ":"
          isAtStart = false
        }
      } else if depth == 1, letter == "," {
        if isAtStart, !word.isEmpty { labels += "_:" }
        (isAtStart, word) = (true, "")
      } else if isAtStart, letter != "(" {
        word.append(letter)
      }
    }
    return labels + (isAtStart && !word.isEmpty ? "_:" : "")
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
