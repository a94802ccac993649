/// Something that happens to a lock or a session and can be written to the log.
public enum AuditKind: String, CaseIterable, Hashable, Sendable {
  /// A client connects, and its connection ends.
  case session
  /// A client gets a lock.
  case grant
  /// A client gives a lock back, or ends with it.
  case release
  /// A client waits for a lock.
  case wait
  /// A client asks for a lock and does not get it: not in time, not at once, or not at all.
  case timeout
}

/// One line of what is written to the log: which kinds, for which locks.
public struct AuditRule: Equatable, Sendable {
  /// What a rule says about what it is about.
  public enum Verdict: String, CaseIterable, Sendable {
    /// It is written down.
    case record
    /// It is not.
    case omit
  }

  /// What it says.
  public var verdict: Verdict
  /// What it is about.
  public var kinds: Set<AuditKind>
  /// The locks that it is about.
  public var names: AccessRule.Names
  /// The rule as it was written.
  public var text: String

  /// A rule.
  public init(verdict: Verdict, kinds: Set<AuditKind>, names: AccessRule.Names, text: String = "") {
    self.verdict = verdict
    self.kinds = kinds
    self.names = names
    self.text = text
  }

  /// The form of a rule in words.
  public static let form =
    "record or omit, then KIND,… NAME — KIND: session, grant, release, wait, timeout, or all; NAME: a lock, or PREFIX*"

  /// Reads a rule such as `record grant,release orders/*`. Names are written as in an ``AccessRule``.
  public init(parsing text: String) throws(RuleProblem) {
    guard text.utf8.count <= AccessRule.textBytesMax else {
      throw RuleProblem(position: 1, message: "the rule is longer than \(AccessRule.textBytesMax) bytes")
    }
    var parser = RuleParser(text)
    let (word, at) = try parser.nextWord(expected: "record or omit")
    guard let verdict = Verdict(rawValue: word) else { throw parser.problem(at, word, "record or omit") }
    let (kinds, kindsAt) = try parser.kinds()
    let names = try parser.names(bytesMax: AccessRule.nameBytesMax)
    try parser.end(expected: "the end is expected; a name with spaces stands in quotes")
    guard kinds == nil || kinds?.contains(.session) == false || names == .beginning([]) else {
      throw RuleProblem(position: kindsAt, message: "a session is not about one lock: session goes with the name *")
    }
    self.init(verdict: verdict, kinds: kinds ?? Set(AuditKind.allCases), names: names, text: text)
  }
}

extension RuleParser {
  /// The kinds, nil for all, and the position of the first.
  fileprivate mutating func kinds() throws(RuleProblem) -> (Set<AuditKind>?, Int) {
    let expected = "one or several of session, grant, release, wait and timeout with commas between them, or all"
    let (word, at) = try nextWord(expected: expected)
    if word == "all" { return (nil, at) }
    var kinds: Set<AuditKind> = []
    for (part, offset) in Self.parts(of: word) {
      guard let kind = AuditKind(rawValue: part) else { throw problem(at + offset, part, expected) }
      kinds.insert(kind)
    }
    return (kinds, at)
  }
}

extension [AuditRule] {
  /// The kinds of which anything is written down.
  public var kinds: Set<AuditKind> {
    reduce(into: []) { kinds, rule in if rule.verdict == .record { kinds.formUnion(rule.kinds) } }
  }

  /// Whether what happens of `kind` to the lock `name` is written down: the first rule that is about both decides.
  /// Sessions have no name, which is empty then.
  public func record(_ kind: AuditKind, of name: [UInt8]) -> Bool {
    for rule in self where rule.kinds.contains(kind) && rule.names.cover(name) { return rule.verdict == .record }
    return false
  }
}
