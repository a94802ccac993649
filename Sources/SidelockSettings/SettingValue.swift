import AccessPolicy
import LockTypes
import Logging
import ProcessSupport
import RESP
import SystemStrings

/// A setting's value after its own check, before settings are compared with each other.
enum SettingValue: Sendable, Equatable {
  case redis(RedisURL)
  case boolean(Bool)
  case text(ExactText)
  case number(Int)
  case mode(UInt32)
  case level(Logger.Level)
  case verification(RedisTLSOptions.Verification)
  case durability(Durability)
  case rules([AccessRule])
  case audit([AuditRule])

  /// The text that gives this value again; for a list or a login, the one for people.
  var text: String {
    switch self {
    case .text(let text): text.text
    case .audit(let rules): rules.map(\.text).joined(separator: "\n")
    case .redis, .boolean, .number, .mode, .level, .verification, .durability, .rules: shown
    }
  }

  /// The value for people, without secrets.
  var shown: String {
    switch self {
    case .redis(let url): url.description
    case .boolean(let value): value ? "true" : "false"
    case .text(let text): SystemText.shown(text.text)
    case .number(let number): String(number)
    case .mode(let mode): octal(mode)
    case .level(let level): level.rawValue
    case .verification(let verification): verification.rawValue
    case .durability(let durability): durability.rawValue
    case .rules(let rules): rules.isEmpty ? "none" : rules.map(\.text).joined(separator: "; ")
    case .audit(let rules): rules.isEmpty ? "none" : rules.map(\.text).joined(separator: "; ")
    }
  }
}

/// Why a text is not a value of its setting, as a half sentence.
struct SettingValueError: Error {
  let message: String
}

extension SettingDefinition {
  /// Checks a text that a flag, a variable or a file gave for this setting, as `SystemText` has it. Paths stay as they
  /// are; what is no path must be UTF-8.
  func parse(_ given: String) throws(SettingValueError) -> SettingValue {
    let text: String
    switch kind {
    case .redisURL, .filePath, .program, .pemFile, .stateFile, .socketPath: text = given
    case .boolean, .userName, .mode, .integer, .keyPrefix, .hostName, .serverName, .verification, .durability,
      .logLevel, .rules, .audit:
      guard let utf8 = SystemText.utf8(given) else {
        throw SettingValueError(message: "\(shown(given)) is not UTF-8; allowed: \(kind.allowed)")
      }
      text = utf8
    }
    switch kind {
    case .redisURL:
      // The text is not repeated: it may hold a password.
      do { return .redis(try RedisURL(parsing: text)) } catch {
        throw SettingValueError(message: "the \(error.description); allowed: \(kind.allowed)")
      }
    case .boolean:
      switch text {
      case "true", "yes", "1": return .boolean(true)
      case "false", "no", "0": return .boolean(false)
      default: throw refusal(of: text)
      }
    case .userName:
      guard (1...userNameBytesMax).contains(text.utf8.count), text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }),
        !mayBeLogin(text)
      else { throw refusal(of: text) }
      return .text(ExactText(text))
    case .filePath:
      guard !text.isEmpty, !SystemText.bytes(text).contains(0) else { throw refusal(of: text) }
      try refuseIfOpen(text)
      return .text(ExactText(text))
    case .program:
      guard !SystemText.bytes(text).contains(0), text.utf8.first == UInt8(ascii: "/"), !mayBeLogin(text) else {
        throw refusal(of: text)
      }
      return .text(ExactText(text))
    case .pemFile:
      guard !SystemText.bytes(text).contains(0), !mayBeLogin(text) else { throw refusal(of: text) }
      try refuseIfOpen(text)
      return .text(ExactText(text))
    case .stateFile:
      guard !SystemText.bytes(text).contains(0), text.utf8.last != UInt8(ascii: "/"), !mayBeLogin(text) else {
        throw refusal(of: text)
      }
      return .text(ExactText(text))
    case .socketPath:
      // A leading @ means an abstract socket elsewhere; those have no permissions, so they are not offered.
      let bytes = SystemText.bytes(text)
      guard (1...socketPathBytesMax).contains(bytes.count), !bytes.contains(0), bytes.first != UInt8(ascii: "@") else {
        throw refusal(of: text)
      }
      return .text(ExactText(text))
    case .mode:
      guard (1...4).contains(text.utf8.count), text.utf8.allSatisfy({ (0x30...0x37).contains($0) }),
        let mode = UInt32(text, radix: 8), mode <= 0o777
      else { throw refusal(of: text) }
      return .mode(mode)
    case .integer(let range):
      guard let number = decimal(text), range.contains(number) else { throw refusal(of: text) }
      return .number(number)
    case .keyPrefix:
      let forbidden: [UInt8] = [UInt8(ascii: "{"), UInt8(ascii: "}")]
      guard text.utf8.count <= keyPrefixBytesMax,
        text.utf8.allSatisfy({ (0x21...0x7E).contains($0) && !forbidden.contains($0) })
      else { throw refusal(of: text) }
      return .text(ExactText(text))
    case .hostName:
      guard (1...hostNameBytesMax).contains(text.utf8.count), text.utf8.allSatisfy(isHostNameByte) else {
        throw refusal(of: text)
      }
      return .text(ExactText(text))
    case .serverName:
      guard text.utf8.count <= serverNameBytesMax,
        text.utf8.allSatisfy({ isHostNameByte($0) || $0 == UInt8(ascii: ":") })
      else { throw refusal(of: text) }
      return .text(ExactText(text))
    case .verification:
      guard let verification = RedisTLSOptions.Verification(rawValue: text) else { throw refusal(of: text) }
      return .verification(verification)
    case .durability:
      guard let durability = Durability(rawValue: text) else { throw refusal(of: text) }
      return .durability(durability)
    case .logLevel:
      guard let level = Logger.Level(rawValue: text) else { throw refusal(of: text) }
      return .level(level)
    case .rules:
      // Lists are read value by value, with the accounts of the host.
      throw refusal(of: text)
    case .audit:
      var rules: [AuditRule] = []
      for text in AccessRule.split(text) {
        do throws(RuleProblem) { rules.append(try AuditRule(parsing: text)) } catch { throw refusal(of: text) }
      }
      return .audit(rules)
    }
  }

  private func refuseIfOpen(_ text: String) throws(SettingValueError) {
    guard isOpenAlready(text) else { return }
    throw SettingValueError(message: "\(shown(text)) can be read only once, and this file is read at each connection")
  }

  private func refusal(of text: String) -> SettingValueError {
    SettingValueError(message: "\(shown(text)) is not allowed; allowed: \(kind.allowed)")
  }

  /// A value that is wrong, as messages show it: what stands where a login belongs may be a password, or a token.
  private func shown(_ text: String) -> String {
    kind == .userName || kind == .program ? beginning(of: text) : quotedUnlessLogin(text)
  }
}

/// A decimal number without sign, blanks or separators; nil for anything else and for overflow.
func decimal(_ text: String) -> Int? {
  guard !text.isEmpty, text.utf8.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
  return Int(text)
}

func isHostNameByte(_ byte: UInt8) -> Bool {
  switch byte {
  case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
    UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
    true
  default: false
  }
}

/// Turns whatever the system calls itself into a name that the `host` setting would accept.
func sanitisedHostName(_ name: String) -> String {
  let bytes = name.utf8.prefix(hostNameBytesMax).map { isHostNameByte($0) ? $0 : UInt8(ascii: "-") }
  return bytes.isEmpty ? "localhost" : String(decoding: bytes, as: UTF8.self)
}

/// Somebody else's text for an error message: quoted, cut short, control characters escaped.
func quoted(_ text: String, scalarsMax: Int = 64) -> String {
  let text = SystemText.utf8(text) ?? text
  var result = "\""
  for scalar in text.unicodeScalars.prefix(scalarsMax) {
    result += scalar == "\"" || scalar == "\\" ? "\\\(scalar)" : printable(scalar)
  }
  return result + (text.unicodeScalars.count > scalarsMax ? "…\"" : "\"")
}

/// The same; hides what may be a URL with a password in it.
func quotedUnlessLogin(_ text: String) -> String { mayBeLogin(text) ? "\"***\"" : quoted(text) }

/// Whether a text could be a URL with a password in it.
func mayBeLogin(_ text: String) -> Bool { text.contains("@") && text.contains("://") }

/// The beginning of somebody else's text that may be a secret in the wrong place.
func beginning(of text: String) -> String { quoted(text, scalarsMax: 4) }

/// Somebody else's text without anything that a terminal would act on, or that would begin another line.
func printable(_ text: String) -> String {
  (SystemText.utf8(text) ?? text).unicodeScalars.map { printable($0) }.joined()
}

private func printable(_ scalar: Unicode.Scalar) -> String {
  if SystemText.utf8(String(scalar)) == nil { return SystemText.shown(String(scalar)) }
  switch scalar.properties.generalCategory {
  case .control, .format, .lineSeparator, .paragraphSeparator: return scalar.escaped(asASCII: true)
  case _: return String(scalar)
  }
}

extension SettingKey {
  /// The setting that was probably meant by `name`; nil where none is like it.
  init?(closestTo name: String) {
    // Longer than any setting's name with a mistake in it.
    guard name.utf8.count <= 40 else { return nil }
    let wanted = name.lowercased().map { $0 == "-" ? "_" : $0 }
    // A short name is like too many others.
    let mistakesMax = min(2, wanted.count / 3)
    let distances = Self.allCases.compactMap { key -> (key: SettingKey, distance: Int)? in
      // Each letter that is too many or missing is a mistake.
      guard abs(key.rawValue.utf8.count - wanted.count) <= mistakesMax else { return nil }
      return (key, editDistance(wanted, Array(key.rawValue)))
    }
    guard let best = distances.min(by: { $0.distance < $1.distance }), best.distance <= mistakesMax else { return nil }
    self = best.key
  }
}

/// How many letters must be put in, taken out or replaced to make `b` of `a`.
private func editDistance(_ a: [Character], _ b: [Character]) -> Int {
  var row = Array(0...b.count)
  for (i, letter) in a.enumerated() {
    var diagonal = row[0]
    row[0] = i + 1
    for (j, other) in b.enumerated() {
      let replaced = diagonal + (letter == other ? 0 : 1)
      diagonal = row[j + 1]
      row[j + 1] = min(replaced, row[j] + 1, diagonal + 1)
    }
  }
  return row[b.count]
}
