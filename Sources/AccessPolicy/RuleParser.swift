/// What the accounts of this host say about a name.
public enum AccountAnswer: Equatable, Sendable {
  /// Its number.
  case number(UInt32)
  /// There is no such account.
  case unknown
  /// It could not be asked: the system's own words.
  case failed(String)
}

/// Where the numbers of users and groups are looked up.
public struct AccountLookup: Sendable {
  /// The number of a user.
  public var user: @Sendable (_ name: String) -> AccountAnswer
  /// The number of a group.
  public var group: @Sendable (_ name: String) -> AccountAnswer

  /// Looks up with these.
  public init(
    user: @escaping @Sendable (_ name: String) -> AccountAnswer,
    group: @escaping @Sendable (_ name: String) -> AccountAnswer
  ) {
    self.user = user
    self.group = group
  }

  /// Knows nobody.
  public static let empty = AccountLookup(user: { _ in .unknown }, group: { _ in .unknown })
}

/// Why a text is no rule.
public struct RuleProblem: Error, Equatable, Sendable, CustomStringConvertible {
  /// The character at which it is wrong, counted from 1.
  public var position: Int
  /// What is wrong there, and what is expected.
  public var message: String
  /// Whether it may be right at another time: the accounts could not be asked.
  public var mayPass = false

  /// Both, as half a sentence.
  public var description: String { "at character \(position): \(message)" }
}

extension AccessRule {
  /// How long the text of a rule may be, in bytes.
  public static let textBytesMax = 4096
  /// The form of a rule in words.
  public static let form =
    "allow or deny, then RIGHT,… NAME to WHO,… — RIGHT: use, inspect, break; NAME: a lock, or PREFIX*; "
    + "WHO: everyone, user:NAME, group:NAME, unit:NAME"
  static let nameBytesMax = 512

  /// Reads a rule such as `allow use,inspect orders/* to group:shop,user:anna`.
  ///
  /// A name with spaces stands in double quotes. `\` escapes `*`, `"` and `\`; `\n` and `\t` are a line end and a tab.
  /// A user or a group may be given as a number, too.
  public init(parsing text: String, accounts: AccountLookup) throws(RuleProblem) {
    guard text.utf8.count <= Self.textBytesMax else {
      throw RuleProblem(position: 1, message: "the rule is longer than \(Self.textBytesMax) bytes")
    }
    var parser = RuleParser(text)
    let verdict = try parser.verdict()
    let rights = try parser.rights()
    let names = try parser.names(bytesMax: Self.nameBytesMax)
    try parser.word("to", expected: "to, and then whom the rule is about")
    let subjects = try parser.subjects(accounts)
    try parser.end()
    self.init(verdict: verdict, rights: rights, names: names, subjects: subjects, text: text)
  }

  /// Splits a text with several rules, one a line or with `;` between them. Both may stand inside a quoted name.
  public static func split(_ text: String) -> [String] {
    var rules: [String] = []
    var rule = ""
    var isQuoted = false
    var isEscaped = false
    for character in text.unicodeScalars {
      if !isQuoted, !isEscaped, character == ";" || character == "\n" || character == "\r" {
        rules.append(rule)
        rule = ""
        continue
      }
      if isEscaped {
        isEscaped = false
      } else if character == "\\" {
        isEscaped = true
      } else if character == "\"" {
        isQuoted.toggle()
      }
      rule.unicodeScalars.append(character)
    }
    rules.append(rule)
    return rules.filter { rule in rule.unicodeScalars.contains { $0 != " " && $0 != "\t" } }
  }
}

struct RuleParser {
  private let scalars: [Unicode.Scalar]
  private var index = 0

  init(_ text: String) {
    scalars = Array(text.unicodeScalars)
  }

  // MARK: The parts of a rule

  mutating func verdict() throws(RuleProblem) -> AccessRule.Verdict {
    let (word, at) = try nextWord(expected: "allow or deny")
    guard let verdict = AccessRule.Verdict(rawValue: word) else { throw problem(at, word, "allow or deny") }
    return verdict
  }

  mutating func rights() throws(RuleProblem) -> AccessRights {
    let expected = "one or several of use, inspect and break, with commas between them"
    let (word, at) = try nextWord(expected: expected)
    var rights: AccessRights = []
    for (part, offset) in Self.parts(of: word) {
      guard let right = AccessRight(rawValue: part) else { throw problem(at + offset, part, expected) }
      rights.insert(AccessRights(right))
    }
    return rights
  }

  mutating func names(bytesMax: Int) throws(RuleProblem) -> AccessRule.Names {
    skipBlanks()
    let start = index
    let isQuoted = peek == "\""
    if isQuoted { index += 1 }
    var bytes: [UInt8] = []
    var isPrefix = false
    while let scalar = peek, isQuoted ? scalar != "\"" : !Self.isBlank(scalar) {
      if isPrefix {
        throw RuleProblem(
          position: index, message: #"a "*" stands for the rest of the name and comes last; a literal one is "\*""#)
      }
      index += 1
      switch scalar {
      case "*":
        isPrefix = true
      case "\\":
        bytes += try escaped().utf8
      case "\"":
        throw RuleProblem(position: index, message: #"a quote inside a name is written "\"""#)
      case _ where scalar.value < 0x20 || scalar.value == 0x7F:
        throw RuleProblem(position: index, message: "a control character; write a line end as \\n and a tab as \\t")
      default:
        bytes += Array(String(scalar).utf8)
      }
    }
    if isQuoted {
      guard peek == "\"" else { throw RuleProblem(position: index + 1, message: "the quote of the name is not closed") }
      index += 1
      guard peek.map(Self.isBlank) ?? true else {
        throw RuleProblem(position: index + 1, message: "a space is expected behind the quoted name")
      }
    }
    guard isPrefix || !bytes.isEmpty else {
      throw RuleProblem(position: start + 1, message: "a name is expected, or the beginning of names and a *")
    }
    guard bytes.count <= bytesMax else {
      throw RuleProblem(position: start + 1, message: "the name is longer than \(bytesMax) bytes")
    }
    return isPrefix ? .beginning(bytes) : .exactly(bytes)
  }

  private mutating func escaped() throws(RuleProblem) -> String {
    let scalar = peek
    index += 1
    switch scalar {
    case "*": return "*"
    case "\"": return "\""
    case "\\": return "\\"
    case "n": return "\n"
    case "t": return "\t"
    case _: throw RuleProblem(position: index, message: #"one of * " \ n t is expected behind a \"#)
    }
  }

  mutating func word(_ wanted: String, expected: String) throws(RuleProblem) {
    let (word, at) = try nextWord(expected: expected)
    guard word == wanted else { throw problem(at, word, expected) }
  }

  mutating func subjects(_ accounts: AccountLookup) throws(RuleProblem) -> [AccessRule.Subject] {
    let expected = "everyone, user:NAME, group:NAME or unit:NAME, or several with commas between them"
    let (word, at) = try nextWord(expected: expected)
    var subjects: [AccessRule.Subject] = []
    for (part, offset) in Self.parts(of: word) {
      let position = at + offset
      if part == "everyone" {
        subjects.append(.everyone)
        continue
      }
      let halves = part.unicodeScalars.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        .map { String($0) }
      guard halves.count == 2, !halves[1].isEmpty else { throw problem(position, part, expected) }
      let name = halves[1]
      switch halves[0] {
      case "user": subjects.append(.user(try number(name, "user", accounts.user, position)))
      case "group": subjects.append(.group(try number(name, "group", accounts.group, position)))
      case "unit":
        guard ControlGroup.isUnit(name) else {
          throw problem(position, name, "a unit with its ending, such as \(name).service")
        }
        subjects.append(.unit(name))
      default: throw problem(position, part, expected)
      }
    }
    return subjects
  }

  private func number(
    _ name: String, _ kind: String, _ lookUp: (String) -> AccountAnswer, _ position: Int
  ) throws(RuleProblem) -> UInt32 {
    switch lookUp(name) {
    case .number(let number): return number
    case .unknown:
      // As for chown: only what is no name is a number.
      if name.utf8.allSatisfy({ (0x30...0x39).contains($0) }), let number = UInt32(name) { return number }
      throw RuleProblem(
        position: position, message: "this host has no \(kind) \(Self.quoted(name)); expected: one that it has")
    case .failed(let reason):
      throw RuleProblem(
        position: position, message: "the \(kind) \(Self.quoted(name)) cannot be looked up: \(reason)",
        mayPass: true)
    }
  }

  mutating func end(
    expected: String = "the end is expected; put commas between several of whom it is about"
  ) throws(RuleProblem) {
    skipBlanks()
    guard index == scalars.count else { throw RuleProblem(position: index + 1, message: expected) }
  }

  // MARK: Words

  private var peek: Unicode.Scalar? { index < scalars.count ? scalars[index] : nil }

  private mutating func skipBlanks() {
    while let scalar = peek, Self.isBlank(scalar) { index += 1 }
  }

  /// The next word, and the position of its first character, counted from 1.
  mutating func nextWord(expected: String) throws(RuleProblem) -> (String, Int) {
    skipBlanks()
    let start = index
    var word = ""
    while let scalar = peek, !Self.isBlank(scalar) {
      word.unicodeScalars.append(scalar)
      index += 1
    }
    guard !word.isEmpty else { throw RuleProblem(position: start + 1, message: "the rule ends; expected: \(expected)") }
    return (word, start + 1)
  }

  private static func isBlank(_ scalar: Unicode.Scalar) -> Bool { scalar == " " || scalar == "\t" }

  /// The parts between commas, each with its distance from the beginning.
  static func parts(of word: String) -> [(String, Int)] {
    var offset = 0
    return word.unicodeScalars.split(separator: ",", omittingEmptySubsequences: false).map { part in
      defer { offset += part.count + 1 }
      return (String(part), offset)
    }
  }

  func problem(_ position: Int, _ found: String, _ expected: String) -> RuleProblem {
    RuleProblem(position: position, message: "\(Self.quoted(found)) is not expected here; expected: \(expected)")
  }

  /// Somebody else's text for an error message, cut short, with control characters made visible.
  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars.prefix(64) { result += scalar.escaped(asASCII: false) }
    return result + (text.unicodeScalars.count > 64 ? "…\"" : "\"")
  }
}
