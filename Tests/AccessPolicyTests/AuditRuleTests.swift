import Testing

@testable import AccessPolicy

@Suite struct AuditRuleTests {
  private func rules(_ texts: String...) throws -> [AuditRule] { try texts.map { try AuditRule(parsing: $0) } }

  private func kinds(_ rules: [AuditRule], of name: String) -> Set<AuditKind> {
    Set(AuditKind.allCases.filter { rules.record($0, of: Array(name.utf8)) })
  }

  @Test func nothingIsWrittenUnlessARuleSaysSo() throws {
    #expect(kinds([], of: "a") == [] && [AuditRule]().kinds == [])
    #expect(kinds(try rules("record grant a*"), of: "b") == [])
  }

  @Test func theFirstRuleThatIsAboutAKindAndANameDecides() throws {
    let rules = try rules("omit grant a/hot/*", "record grant,release a/*", "record wait a/hot/1")
    #expect(kinds(rules, of: "a/1") == [.grant, .release])
    #expect(kinds(rules, of: "a/hot/1") == [.release, .wait])
    #expect(kinds(rules, of: "a") == [])
    #expect(rules.kinds == [.grant, .release, .wait])
  }

  @Test func allIsEveryKindAndSessionsHaveNoName() throws {
    #expect(kinds(try rules("record all a"), of: "a") == Set(AuditKind.allCases))
    #expect(kinds(try rules("record all a"), of: "") == [])
    #expect(kinds(try rules("record session *"), of: "") == [.session])
  }

  @Test func namesAreWrittenAsInRulesOfAccess() throws {
    #expect(try rules(#"record grant "a b\*""#)[0].names == .exactly(Array("a b*".utf8)))
  }

  @Test(
    arguments: [
      ("", 1, "record or omit"), ("grant a", 1, "record or omit"), ("record", 7, "one or several of session"),
      ("record grant,x a", 14, "\"x\""), ("record grant", 13, "a name is expected"),
      ("record grant a b", 16, "a name with spaces stands in quotes"),
      ("record session a*", 8, "session goes with the name *"),
      ("record wait,session a", 8, "session goes with the name *"),
    ] as [(String, Int, String)])
  func whatIsWrongIsToldWithItsPlace(_ text: String, _ position: Int, _ words: String) {
    #expect {
      _ = try AuditRule(parsing: text)
    } throws: { error in
      let problem = error as? RuleProblem
      return problem?.position == position && problem?.message.contains(words) == true
    }
  }
}
