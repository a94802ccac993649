import Testing

@testable import SidelockSettings

@Suite struct SettingsFileTests {
  private func parse(_ text: String) -> SettingsFile { SettingsFile(parsing: Array(text.utf8)) }

  @Test func keysValuesAndLines() {
    let file = parse("# a comment\nredis: redis://db\n\nlease_ms: 0100 # ten\nkey_prefix: \"a: b\"\n")
    #expect(file.problems.isEmpty)
    #expect(
      file.entries == [
        .init(key: "redis", value: "redis://db", line: 2), .init(key: "lease_ms", value: "0100", line: 4),
        .init(key: "key_prefix", value: "a: b", line: 5),
      ])
  }

  @Test(arguments: ["", "# nothing\n", "---\n", "---\n...\n"])
  func emptyFilesAreEmpty(_ text: String) {
    let file = parse(text)
    #expect(file.entries.isEmpty)
    #expect(file.problems.isEmpty)
  }

  @Test(arguments: ["a:", "a: ~", "a: null"])
  func missingValueIsNil(_ text: String) {
    #expect(parse(text).entries == [.init(key: "a", value: nil, line: 1)])
  }

  @Test func quotedEmptyValueIsEmptyText() {
    #expect(parse("a: ''").entries == [.init(key: "a", value: "", line: 1)])
  }

  @Test func duplicateIsRefusedWithBothLines() {
    let file = parse("a: 1\nb: 2\na: 3\n")
    #expect(file.entries.map(\.key) == ["a", "b"])
    #expect(file.problems == [.init(key: "a", line: 3, message: "given twice, first in line 1")])
  }

  @Test func nestedValuesAreRefusedAndTheRestIsRead() {
    let file = parse("a:\n  b: 1\n  c: [1, {d: 2}]\ne: [1, *x]\nf: 1\n")
    #expect(file.entries == [.init(key: "f", value: "1", line: 5)])
    #expect(file.problems.map(\.key) == ["a", "e"])
    #expect(file.problems.map(\.line) == [2, 4])
  }

  @Test func complexKeysAreRefusedAndTheRestIsRead() {
    let file = parse("? [a, b]\n: c\nd: 1\n? [a]\n: {x: y}\ne: 2\n")
    #expect(file.entries.map(\.key) == ["d", "e"])
    #expect(file.problems.map(\.line) == [1, 4])
  }

  @Test(arguments: ["a: &x 1\nb: 2\n", "a: *x\nb: 2\n", "a: !!str 1\nb: 2\n", "&x a: 1\nb: 2\n"])
  func anchorsAliasesAndTagsAreRefused(_ text: String) {
    let file = parse(text)
    #expect(file.entries == [.init(key: "b", value: "2", line: 2)])
    #expect(file.problems.count == 1)
  }

  @Test(arguments: ["- a\n- b\n", "just text\n", "[a, b]"])
  func otherShapesAreRefused(_ text: String) {
    let file = parse(text)
    #expect(file.entries.isEmpty)
    #expect(file.problems.count == 1)
  }

  @Test func listsAreReadWhereTheyMeanSomething() {
    let text = "a:\n  - x y\n  - \"z: 1\"\nb: [p, ~]\nc: [q]\nd: []\na: [again]\ne: 1\n"
    let file = SettingsFile(parsing: Array(text.utf8), listKeys: ["a", "b", "d"])
    #expect(
      file.entries == [
        .init(key: "a", items: [.init(value: "x y", line: 2), .init(value: "z: 1", line: 3)], line: 1),
        .init(key: "b", items: [.init(value: "p", line: 4), .init(value: "~", line: 4)], line: 4),
        .init(key: "d", items: [], line: 6), .init(key: "e", value: "1", line: 8),
      ])
    #expect(file.problems.map(\.key) == ["c", "a"])
  }

  @Test(arguments: ["{x: y}", "[y]", "&x y", "*x", "!!str y"])
  func aListHoldsPlainValuesOnly(_ item: String) {
    let file = SettingsFile(parsing: Array("a:\n  - 1\n  - \(item)\n  - 2\nb: 3\n".utf8), listKeys: ["a"])
    #expect(file.problems.map(\.line) == [3])
    #expect(file.problems.map(\.key) == ["a"])
    #expect(file.entries.first?.items?.map(\.value) == ["1", "2"])
    #expect(file.entries.last == .init(key: "b", value: "3", line: 5))
  }

  @Test func secondDocumentIsRefused() {
    let file = parse("a: 1\n---\nb: 2\n")
    #expect(file.entries.map(\.key) == ["a"])
    #expect(file.problems == [.init(line: 2, message: "only one document is allowed")])
  }

  @Test func syntaxErrorsHaveALine() {
    #expect(parse("a: 1\nb: \"open\n").problems.map(\.line) == [3])
    #expect(parse("a: 1\n\tb: 2\n").problems.map(\.line) == [2])
  }

  @Test func invalidUTF8IsRefusedWithItsLine() {
    let file = SettingsFile(parsing: Array("a: 1\nb: ".utf8) + [0xFF, 0x0A])
    #expect(file.problems.map(\.line) == [2])
  }

  @Test func deepNestingIsOnlyAProblem() {
    let file = parse("a: " + String(repeating: "[", count: 500) + String(repeating: "]", count: 500) + "\nb: 1\n")
    #expect(!file.problems.isEmpty)
  }
}
