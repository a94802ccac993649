import ClientProtocol
import Foundation
import TestSupport
import Testing

@testable import LockEngine
@testable import Sidecar

/// The table of figures, its documentation, and what `stats` tells.
@Suite struct StatisticsTests {
  @Test func theDocumentIsThatOfTheTable() throws {
    let path = Repository.root.appending(path: "protocol/README.md")
    var text = try String(contentsOf: path, encoding: .utf8)
    let start = try #require(text.range(of: "| name | kind | what it tells |\n"))
    let end = text[start.upperBound...].range(of: "\n\n")?.lowerBound ?? text.index(before: text.endIndex)
    if ProcessInfo.processInfo.environment["UPDATE_STATISTICS"] != nil {
      text.replaceSubrange(start.lowerBound...end, with: Statistic.document)
      try text.write(to: path, atomically: true, encoding: .utf8)
      return
    }
    let hint: Comment = "UPDATE_STATISTICS=1 swift test --filter StatisticsTests rewrites it"
    #expect(text[start.lowerBound...end] == Statistic.document, hint)
  }

  @Test func theSchemaIsThatOfTheTable() throws {
    let path = Repository.root.appending(path: "protocol/openrpc.json")
    var text = try String(contentsOf: path, encoding: .utf8)
    let schema = try #require(text.range(of: "      \"Statistics\": {\n"))
    let start = try #require(text[schema.upperBound...].range(of: "        \"properties\": {\n")?.upperBound)
    let end = try #require(text[start...].range(of: "\n        }\n")?.lowerBound)
    if ProcessInfo.processInfo.environment["UPDATE_STATISTICS"] != nil {
      text.replaceSubrange(start..<end, with: Statistic.schema)
      try text.write(to: path, atomically: true, encoding: .utf8)
      return
    }
    let hint: Comment = "UPDATE_STATISTICS=1 swift test --filter StatisticsTests rewrites it"
    #expect(text[start..<end] == Statistic.schema, hint)
  }

  @Test func namesSayWhatTheyAre() {
    #expect(Set(Statistic.all.map(\.name)).count == Statistic.all.count)
    for row in Statistic.all {
      let last = row.path.last ?? ""
      #expect(last.hasSuffix("total") == (row.kind == .counter), "\(row.name)")
      switch row.unit {
      case .one: #expect(!["_ms", "us"].contains { last.hasSuffix($0) } && !last.contains("bytes"), "\(row.name)")
      case .milliseconds: #expect(last.hasSuffix("_ms") || last.hasSuffix("_ms_total"), "\(row.name)")
      case .microseconds: #expect(last.hasSuffix("us") || last.hasSuffix("_microseconds"), "\(row.name)")
      case .bytes: #expect(last.contains("bytes"), "\(row.name)")
      }
      #expect(row.help.first?.isUppercase == false && !row.help.hasSuffix("."), "\(row.name)")
    }
  }

  /// A group whose rows do not stand together would come twice.
  @Test func aGroupStandsTogether() {
    for depth in 0..<3 {
      let groups = Statistic.all.map { Array($0.path.prefix(depth + 1)) }
      var runs: [[String]] = []
      for group in groups where group != runs.last { runs.append(group) }
      #expect(Set(runs).count == runs.count)
    }
  }

  /// A counter that counts, and is told nowhere, would be forgotten.
  @Test func eachCounterHasOneRow() throws {
    let table = try Repository.text("Sources/Sidecar/Queries/Statistics.swift")
    let rows = table[(try #require(table.range(of: "static let all"))).upperBound...]
    let counters: [(String, Any)] = [
      ("statistics.", SidecarStatistics()), ("engine.statistics.", EngineCounters()),
      ("store?.statistics.", LinkStatistics()),
    ]
    for (owner, record) in counters {
      for name in Mirror(reflecting: record).children.compactMap(\.label) {
        let reads = rows.matches(
          of: try Regex("(\\$0\\.\(NSRegularExpression.escapedPattern(for: owner))|ofStore\\(\\\\\\.)\(name)\\b"))
        #expect(reads.count == 1, "\(owner)\(name)")
      }
    }
  }
}
