import LockTypes

/// Reads the members of an object that was scanned before, and checks their types and ranges. Its refusals have no id
/// yet.
struct ParameterReader {
  let scanner: JSONScanner
  let members: [MemberToken]
  /// What stands before a member's name in errors, such as `client.`; empty for `params` itself.
  let prefix: StaticString

  typealias Detail = RequestRefusal.Detail

  /// Refuses every member that is neither known, nor begins with `x-` or `_`.
  func refuseOthers(than known: [StaticString]) throws(RequestRefusal) {
    for member in members where !isKnown(member.key, known) && !isIgnored(member.key) {
      throw refusalOfOthers(than: known)
    }
  }

  private func isKnown(_ key: StringToken, _ names: [StaticString]) -> Bool {
    for name in names where scanner.text(key, is: name) { return true }
    return false
  }

  private func isIgnored(_ key: StringToken) -> Bool { scanner.isIgnored(key) }

  private func refusalOfOthers(than known: [StaticString]) -> RequestRefusal {
    let others = members.map(\.key).filter { !isKnown($0, known) && !isIgnored($0) }
    let unknown = ReportedNames(others, scanner, prefix: prefix)
    return RequestRefusal(
      code: .invalidParams,
      message: "unknown members: \(unknown.shown); correct or remove them (x-… and _… are ignored)",
      details: unknown.details(as: "unknown", count: "unknown_count"))
  }

  /// The member `name`; nil when it is absent.
  func value(_ name: StaticString) -> ValueToken? {
    for member in members where scanner.text(member.key, is: name) { return member.value }
    return nil
  }

  func has(_ name: StaticString) -> Bool { value(name) != nil }

  // MARK: Strings

  func string(_ name: StaticString, bytes range: ClosedRange<Int>) throws(RequestRefusal) -> String? {
    guard let token = try stringToken(name, bytes: range) else { return nil }
    return scanner.decodeText(token)
  }

  func bytes(_ name: StaticString, bytes range: ClosedRange<Int>) throws(RequestRefusal) -> [UInt8]? {
    guard let token = try stringToken(name, bytes: range) else { return nil }
    return scanner.decode(token)
  }

  func lockNameIfAny() throws(RequestRefusal) -> LockName? {
    try bytes("name", bytes: 1...Limits.nameBytesMax).map { LockName(bytes: $0) }
  }

  /// The lock's name; refused when it is missing.
  func lockName() throws(RequestRefusal) -> LockName {
    if let name = try lockNameIfAny() { return name }
    throw missing("name", expected: Self.describe(bytes: 1...Limits.nameBytesMax))
  }

  /// The name or the prefix that a watch is about; exactly one must be given.
  func watchTarget() throws(RequestRefusal) -> WatchTarget {
    let name = try lockNameIfAny()
    let prefix = try bytes("prefix", bytes: 0...Limits.nameBytesMax)
    switch (name, prefix) {
    case (let name?, nil): return .name(name)
    case (nil, let prefix?): return .prefix(prefix)
    case (_?, _?): throw refusal("prefix", "excludes \"name\"; give one of the two", expected: "nothing beside name")
    case (nil, nil):
      throw missing(
        "name", expected: "\(Self.describe(bytes: 1...Limits.nameBytesMax)), or \"prefix\", which may be empty")
    }
  }

  /// The member `names`: all different; nil when it is absent.
  func lockNames() throws(RequestRefusal) -> [LockName]? {
    let each = Self.describe(bytes: 1...Limits.nameBytesMax)
    let expected = "a list of 1 to \(Limits.namesMax) different names, \(each) each"
    switch value("names") {
    case nil: return nil
    case .array(let start): return try lockNames(at: start, expected: expected)
    case .string, .number, .bool, .null, .object: throw wrongType("names", expected: expected)
    }
  }

  private func lockNames(at start: Int, expected: String) throws(RequestRefusal) -> [LockName] {
    var inner = JSONScanner(scanner.bytes, at: start)
    // It was scanned before, so it cannot be malformed.
    let elements = (try? inner.elements(Limits.namesMax + 1)) ?? []
    if elements.isEmpty { throw refusal("names", "is empty and must be \(expected)", expected: expected, limit: 1) }
    if elements.count > Limits.namesMax {
      throw refusal(
        "names", "has more than \(Limits.namesMax) names", expected: expected, limit: Int64(Limits.namesMax))
    }
    var names: [LockName] = []
    var seen: Set<LockName> = []
    var written = 0
    for element in elements {
      guard case .string(let token) = element else { throw wrongType("names", expected: expected) }
      guard 1...Limits.nameBytesMax ~= token.decodedCount else {
        let bound = token.decodedCount < 1 ? 1 : Limits.nameBytesMax
        throw refusal(
          "names", "has a name of \(token.decodedCount) bytes and must be \(expected)", expected: expected,
          limit: Int64(bound))
      }
      written += token.end - token.start
      let name = LockName(bytes: scanner.decode(token))
      if !seen.insert(name).inserted {
        throw refusal("names", "has \"\(scanner.reported(token))\" twice", expected: expected)
      }
      names.append(name)
    }
    if written > Limits.namesWrittenBytesMax {
      throw refusal(
        "names", "take \(written) bytes of the line and may take \(Limits.namesWrittenBytesMax)", expected: expected,
        limit: Int64(Limits.namesWrittenBytesMax))
    }
    return names
  }

  private func stringToken(
    _ name: StaticString, bytes range: ClosedRange<Int>
  ) throws(RequestRefusal) -> StringToken? {
    switch value(name) {
    case nil: return nil
    case .string(let token):
      if range.contains(token.decodedCount) { return token }
      let bound = token.decodedCount < range.lowerBound ? range.lowerBound : range.upperBound
      throw refusal(
        name, "is \(token.decodedCount) bytes long and must be \(Self.describe(bytes: range))",
        expected: Self.describe(bytes: range), limit: Int64(bound))
    case .number, .bool, .null, .object, .array:
      throw wrongType(name, expected: Self.describe(bytes: range))
    }
  }

  /// A member that must be one of `words`; nil when it is absent.
  func word<Word>(_ name: StaticString, _ words: [(StaticString, Word)]) throws(RequestRefusal) -> Word? {
    guard let value = value(name) else { return nil }
    if case .string(let token) = value {
      for (text, word) in words where scanner.text(token, is: text) { return word }
    }
    let expected = words.map { "\"\($0.0)\"" }.joined(separator: " or ")
    throw refusal(name, "must be \(expected)", expected: expected)
  }

  // MARK: Numbers

  func integer(_ name: StaticString, _ range: ClosedRange<Int64>) throws(RequestRefusal) -> Int64? {
    switch value(name) {
    case nil: return nil
    case .number(.integer(let number)):
      if range.contains(number) { return number }
      throw refusal(
        name, "is \(number) and must be \(Self.describe(range))", expected: Self.describe(range),
        limit: number < range.lowerBound ? range.lowerBound : range.upperBound)
    case .number(.outOfRange):
      throw refusal(name, "must be \(Self.describe(range))", expected: Self.describe(range), limit: range.upperBound)
    case .number(.fraction), .string, .bool, .null, .object, .array:
      throw wrongType(name, expected: Self.describe(range))
    }
  }

  func token() throws(RequestRefusal) -> Int64? {
    try integer("token", 1...Limits.integerMax)
  }

  // MARK: The others

  func bool(_ name: StaticString) throws(RequestRefusal) -> Bool? {
    switch value(name) {
    case nil: return nil
    case .bool(let value): return value
    case .number, .string, .null, .object, .array: throw wrongType(name, expected: "true or false")
    }
  }

  /// A reader of the object `name`, which may have the members `known`; nil when it is absent.
  func object(
    _ name: StaticString, prefix: StaticString, known: [StaticString]
  ) throws(RequestRefusal) -> ParameterReader? {
    switch value(name) {
    case nil: return nil
    case .object(let start, _):
      var inner = JSONScanner(scanner.bytes, at: start)
      // It was scanned before, so it cannot be malformed.
      try? inner.outermostObject()
      let reader = ParameterReader(scanner: scanner, members: inner.members, prefix: prefix)
      try reader.refuseOthers(than: known)
      return reader
    case .number, .string, .bool, .null, .array: throw wrongType(name, expected: "an object")
    }
  }

  // MARK: Refusals

  static func describe(bytes range: ClosedRange<Int>) -> String {
    "a string of \(range.lowerBound) to \(range.upperBound) bytes of UTF-8"
  }

  static func describe(_ range: ClosedRange<Int64>) -> String {
    "an integer from \(range.lowerBound) to \(range.upperBound)"
  }

  func missing(_ name: StaticString, expected: String) -> RequestRefusal {
    refusal(name, "is missing; give \(expected)", expected: expected)
  }

  func wrongType(_ name: StaticString, expected: String) -> RequestRefusal {
    var hint = ""
    if case .null = value(name) { hint = "; leave it out for its default" }
    return refusal(name, "must be \(expected)\(hint)", expected: expected)
  }

  func refusal(_ name: StaticString, _ problem: String, expected: String, limit: Int64? = nil) -> RequestRefusal {
    let field = "\(prefix)\(name)"
    var details = [Detail("field", .text(field)), Detail("expected", .text(expected))]
    if let limit { details.append(Detail("limit", .integer(limit))) }
    return RequestRefusal(code: .invalidParams, message: "\"\(field)\" \(problem)", details: details)
  }
}

extension JSONScanner {
  /// Whether a member of this name is the client's own annotation.
  func isIgnored(_ key: StringToken) -> Bool {
    if key.hasEscapes {
      let name = decode(key)
      return name.first == 0x5F || name.starts(with: [0x78, 0x2D])
    }
    if key.decodedCount >= 1, bytes[key.start] == 0x5F { return true }
    return key.decodedCount >= 2 && bytes[key.start] == 0x78 && bytes[key.start + 1] == 0x2D
  }

  /// Text of the client's, cut for an error.
  func reported(_ token: StringToken) -> String {
    decodeText(token).cut(toBytes: Limits.reportedTextBytesMax)
  }
}

/// Names of members as an error repeats them.
struct ReportedNames {
  /// How many there are.
  let count: Int
  /// The first of them.
  let names: [String]

  init(_ keys: [StringToken], _ scanner: JSONScanner, prefix: StaticString) {
    count = keys.count
    names = keys.prefix(Limits.reportedNamesMax).map { "\(prefix)\(scanner.reported($0))" }
  }

  /// The names in prose.
  var shown: String {
    let first = names.prefix(3).map { "\"\($0)\"" }.joined(separator: ", ")
    return count > 3 ? "\(first) and \(count - 3) more" : first
  }

  /// The members of `data` that list the names, and say how many there are when not all are listed.
  func details(as key: StaticString, count countKey: StaticString) -> [RequestRefusal.Detail] {
    if count == 0 { return [] }
    let all = RequestRefusal.Detail(key, .texts(names))
    return count > names.count ? [all, .init(countKey, .integer(Int64(count)))] : [all]
  }
}
