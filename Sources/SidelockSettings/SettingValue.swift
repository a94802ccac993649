import AccessPolicy
import Logging
import RedisProtocol

/// A setting's value after its own check, before settings are compared with each other.
enum SettingValue: Sendable, Equatable {
  case redis(RedisURL)
  case boolean(Bool)
  case text(String)
  case number(Int)
  case mode(UInt32)
  case level(Logger.Level)
  case rules([AccessRule])

  /// The value for people, without secrets.
  var shown: String {
    switch self {
    case .redis(let url): url.description
    case .boolean(let value): value ? "true" : "false"
    case .text(let text): text
    case .number(let number): String(number)
    case .mode(let mode): octal(mode)
    case .level(let level): level.rawValue
    case .rules(let rules): rules.isEmpty ? "none" : rules.map(\.text).joined(separator: "; ")
    }
  }
}

/// Why a text is not a value of its setting, as a half sentence.
struct SettingValueError: Error {
  let message: String
}

extension SettingDefinition {
  /// Checks a text that a flag, a variable or a file gave for this setting.
  func parse(_ text: String) throws(SettingValueError) -> SettingValue {
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
      guard (1...userNameBytesMax).contains(text.utf8.count), text.utf8.allSatisfy({ $0 > 0x20 && $0 != 0x7F }) else {
        throw refusal(of: text)
      }
      return .text(text)
    case .filePath:
      guard !text.isEmpty, !text.utf8.contains(0) else { throw refusal(of: text) }
      return .text(text)
    case .socketPath:
      // A leading @ means an abstract socket elsewhere; those have no permissions, so they are not offered.
      guard !text.isEmpty, text.utf8.count <= socketPathBytesMax, !text.utf8.contains(0),
        !text.hasPrefix("@")
      else { throw refusal(of: text) }
      return .text(text)
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
      return .text(text)
    case .hostName:
      guard (1...hostNameBytesMax).contains(text.utf8.count), text.utf8.allSatisfy(isHostNameByte) else {
        throw refusal(of: text)
      }
      return .text(text)
    case .logLevel:
      guard let level = Logger.Level(rawValue: text) else { throw refusal(of: text) }
      return .level(level)
    case .rules:
      // Lists are read value by value, with the accounts of the host.
      throw refusal(of: text)
    }
  }

  private func refusal(of text: String) -> SettingValueError {
    SettingValueError(message: "\(quoted(text)) is not allowed; allowed: \(kind.allowed)")
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
func quoted(_ text: String) -> String {
  let shownMax = 64
  var result = "\""
  for scalar in text.unicodeScalars.prefix(shownMax) {
    result += scalar == "\"" ? "\\\"" : scalar.escaped(asASCII: false)
  }
  return result + (text.unicodeScalars.count > shownMax ? "…\"" : "\"")
}
