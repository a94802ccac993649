import Testing

@testable import AccessPolicy

/// Users anna (1000) and 77 (1077), and the group shop (2000).
let accounts = AccountLookup(
  user: { name in
    switch name {
    case "anna": .number(1000)
    case "77": .number(1077)
    case "slow": .failed("the directory does not answer")
    default: .unknown
    }
  },
  group: { $0 == "shop" ? .number(2000) : .unknown })

func rule(_ text: String) throws -> AccessRule {
  try AccessRule(parsing: text, accounts: accounts)
}

func problem(_ text: String) -> String? {
  do throws(RuleProblem) {
    _ = try AccessRule(parsing: text, accounts: accounts)
    return nil
  } catch {
    return error.description
  }
}

@Suite struct RuleTests {
  @Test func rulesAreRead() throws {
    let first = try rule("allow use,inspect orders/* to group:shop")
    #expect(first.verdict == .allow)
    #expect(first.rights == [.use, .inspect])
    #expect(first.names == .beginning(Array("orders/".utf8)))
    #expect(first.subjects == [.group(2000)])
    #expect(first.text == "allow use,inspect orders/* to group:shop")
    let second = try rule("  deny\tuse *  to unit:cron.service ")
    #expect(second.verdict == .deny)
    #expect(second.names == .beginning([]))
    #expect(second.subjects == [.unit("cron.service")])
    #expect(try rule("allow break a to user:anna,everyone").subjects == [.user(1000), .everyone])
    #expect(try rule("allow break a to user:anna").rights == [.break])
  }

  @Test(arguments: [
    (#"a"#, "a", false), (#"a*"#, "a", true), (#"a\*"#, "a*", false), (#"\**"#, "*", true),
    (#""two words""#, "two words", false), (#""two words*""#, "two words", true), (#""to""#, "to", false),
    (#""*""#, "", true), (#""a\"b""#, #"a"b"#, false), (#"a\\b"#, #"a\b"#, false), (#""a\nb\tc""#, "a\nb\tc", false),
    (#"größe/{x};y"#, "größe/{x};y", false),
  ])
  func namesAreRead(_ written: String, _ name: String, _ isPrefix: Bool) throws {
    let bytes = Array(name.utf8)
    #expect(try rule("allow use \(written) to everyone").names == (isPrefix ? .beginning(bytes) : .exactly(bytes)))
  }

  @Test func accountsAreNamesOrNumbers() throws {
    #expect(try rule("deny use a to user:0").subjects == [.user(0)])
    #expect(try rule("deny use a to group:4294967295").subjects == [.group(.max)])
    // What is the name of an account is not taken for a number.
    #expect(try rule("deny use a to user:77").subjects == [.user(1077)])
    #expect(problem("deny use a to user:4294967296")?.contains("no user") == true)
  }

  @Test(arguments: [
    ("", 1, "expected: allow or deny"), ("permit use a to everyone", 1, "allow or deny"),
    ("allow", 6, "use, inspect and break"), ("allow lock a to everyone", 7, "\"lock\" is not expected"),
    ("allow use,,break a to everyone", 11, "use, inspect and break"), ("allow use", 10, "a name is expected"),
    ("allow use a", 12, "expected: to"), ("allow use a for everyone", 13, "\"for\" is not expected"),
    ("allow use a to", 15, "everyone, user:NAME"), ("allow use a to all", 16, "everyone, user:NAME"),
    ("allow use a to user:", 16, "everyone, user:NAME"), ("allow use a to everyone,", 25, "everyone, user:NAME"),
    ("allow use a to user:anna,user:bert", 26, "no user \"bert\""), ("allow use a to group:x", 16, "no group \"x\""),
    ("allow use a to user:slow", 16, "cannot be looked up: the directory does not answer"),
    ("allow use a to unit:cron", 16, "cron.service"), ("allow use a to unit:.service", 16, "with its ending"),
    ("allow use a to everyone else", 25, "the end is expected"), ("allow use a*b to everyone", 12, "comes last"),
    ("allow use \"a to everyone", 25, "not closed"), ("allow use \"a\"b to everyone", 14, "a space is expected"),
    ("allow use a\"b to everyone", 12, "a quote inside"), ("allow use a\\b to everyone", 13, "is expected behind"),
    ("allow use a\\", 13, "is expected behind"), ("allow use \"\" to everyone", 11, "a name is expected"),
    ("allow use \"a\u{7}\" to everyone", 13, "control character"),
  ])
  func badRulesSayWhereAndWhatIsExpected(_ text: String, _ position: Int, _ words: String) throws {
    let found = try #require(problem(text))
    #expect(found.hasPrefix("at character \(position): "), "\(found)")
    #expect(found.contains(words), "\(found)")
  }

  @Test func lengthsAreLimited() throws {
    let name = String(repeating: "n", count: 512)
    #expect(try rule("allow use \(name) to everyone").names == .exactly(Array(name.utf8)))
    #expect(problem("allow use n\(name) to everyone") == "at character 11: the name is longer than 512 bytes")
    let blanks = String(repeating: " ", count: AccessRule.textBytesMax - "allow use a to everyone".utf8.count)
    #expect(problem("allow use a to everyone\(blanks)") == nil)
    #expect(problem("allow use a to everyone \(blanks)") == "at character 1: the rule is longer than 4096 bytes")
  }

  @Test func severalRulesStandInOneText() {
    #expect(AccessRule.split("a b;c\nd\r\n ; ;") == ["a b", "c", "d"])
    #expect(AccessRule.split(#"deny use "a;\"b" to x;e\;f"#) == [#"deny use "a;\"b" to x"#, #"e\;f"#])
    #expect(AccessRule.split("") == [])
  }
}
