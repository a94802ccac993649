import Foundation
import TestSupport
import Testing

@testable import SystemdSupport

@Suite struct JournalTests {
  private func texts(_ entry: LogEntry) -> [String] {
    JournalSink.fields(of: entry).map { String(decoding: $0, as: UTF8.self) }
  }

  @Test func eachDatumIsAFieldOfItsOwn() {
    let entry = LogEntry(
      level: .notice, message: "lock lost", metadata: [("lock", "a\nb"), ("maxmemory-policy", "x")], time: timespec())
    #expect(
      texts(entry) == [
        "MESSAGE=lock lost lock=\"a\\nb\" maxmemory-policy=x", "PRIORITY=5",
        "MESSAGE_ID=144505c4199e459b96609fdc0c50649f", "SIDELOCK_LOCK=a\nb", "SIDELOCK_MAXMEMORY_POLICY=x",
      ])
  }

  @Test func aMessageWithoutExplanationHasNoIdentifier() {
    let entry = LogEntry(level: .debug, message: "other", metadata: [], time: timespec())
    #expect(texts(entry) == ["MESSAGE=other", "PRIORITY=7"])
  }

  @Test func fieldNamesHoldOnlyWhatTheJournalTakes() {
    #expect(JournalSink.fieldName(of: "a-b c9_é") == "SIDELOCK_A_B_C9___")
    #expect(JournalSink.fieldName(of: String(repeating: "a", count: 100)).utf8.count == 64)
  }

  @Test func identifiersAreDistinctAndWellFormed() {
    let identifiers = JournalMessage.allCases.map(\.identifier)
    #expect(Set(identifiers).count == identifiers.count)
    for identifier in identifiers {
      #expect(identifier.utf8.count == 32)
      #expect(identifier.allSatisfy { "0123456789abcdef".contains($0) })
    }
  }

  @Test func theCatalogueExplainsEveryMessageAndNoOther() throws {
    let catalogue = try Repository.text("packaging/systemd/sidelock.catalog")
    let explained = catalogue.split(separator: "\n").filter { $0.hasPrefix("-- ") }.map { String($0.dropFirst(3)) }
    #expect(explained.sorted() == JournalMessage.allCases.map(\.identifier).sorted())
  }

  @Test func everyMessageIsLoggedSomewhere() throws {
    let sources = Repository.root.appending(path: "Sources")
    var code = ""
    for target in ["Sidecar", "SystemdSupport", "sidelockd"] {
      let files = try #require(FileManager.default.enumerator(atPath: sources.appending(path: target).path))
      for case let file as String in files where file.hasSuffix(".swift") && file != "JournalMessage.swift" {
        code += try Repository.text("Sources/\(target)/\(file)")
      }
    }
    for message in JournalMessage.allCases where message != .messagesDropped && message != .messagesLeftOut {
      #expect(code.contains("\"\(message.rawValue)\""), "\(message) is logged nowhere")
    }
  }
}
