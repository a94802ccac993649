public import LockEngine

/// What the error replies of Redis mean to a lock service.
///
/// An error reply is a code word and prose. An error that a script ran into comes as it is since Redis 7
/// (`READONLY You can't write … script: 1b936e…, on @user_script:12.`); older servers wrap it
/// (`ERR Error running script (call to f_1b936e…): @user_script:12: -READONLY You can't write …`).
public enum RedisErrorReply {
  /// What a command that was answered with `error` failed of. The words are Redis' own, made printable.
  public static func classify(error: [UInt8]) -> LeaseFailure {
    let words = text(of: error)
    guard let code = significantCode(of: error) else { return .fatal(words) }
    switch code {
    case "WRONGTYPE":
      return .wrongType
    case "MOVED", "ASK":
      return .transient("Redis Cluster is not supported yet: \(words)")
    case "CROSSSLOT":
      return .fatal("Redis Cluster is not supported yet: \(words)")
    default:
      return transientCodes.contains(code) || isTransientProse(error) ? .transient(words) : .fatal(words)
    }
  }

  /// Whether `error` says that this connection leads to a server that is no primary (any more), so that only a new
  /// connection, to whatever answers under the address then, can help.
  public static func demandsReconnect(error: [UInt8]) -> Bool {
    let code = significantCode(of: error)
    return code == "READONLY" || code == "MASTERDOWN"
  }

  /// The code word of `error`: its first word, if that is in capitals.
  static func code(of error: [UInt8]) -> String? {
    codeWord(error.prefix { $0 != 0x20 })
  }

  /// `bytes` as text of at most ``textBytesMax`` bytes in which every byte that is not printable ASCII is a `?`.
  static func text(of bytes: [UInt8]) -> String {
    let printable = bytes.prefix(textBytesMax).map { $0 >= 0x20 && $0 <= 0x7E ? $0 : 0x3F }
    return String(decoding: printable, as: UTF8.self)
  }

  /// How much of a server's words is kept, in bytes.
  static let textBytesMax = 200

  /// States of a server that pass by themselves, or that an operator ends without touching this host.
  private static let transientCodes: Set<String> = [
    "LOADING", "READONLY", "MISCONF", "OOM", "BUSY", "NOTBUSY", "UNKILLABLE", "TRYAGAIN", "NOREPLICAS", "CLUSTERDOWN",
    "MASTERDOWN", "NOMASTERLINK", "INPROG", "IOERR", "NOSCRIPT", "MOVED", "ASK",
  ]

  /// The code word that tells what happened: the first word, or, where an older server wraps a script's error, the
  /// first known one within.
  private static func significantCode(of error: [UInt8]) -> String? {
    guard let code = code(of: error) else { return nil }
    guard code == "ERR", starts(error, with: "ERR Error running script") else { return code }
    for word in error.split(separator: 0x20).dropFirst() {
      guard let inner = codeWord(word.first == 0x2D ? word.dropFirst() : word) else { continue }
      if inner == "WRONGTYPE" || inner == "CROSSSLOT" || transientCodes.contains(inner) { return inner }
    }
    return code
  }

  /// Errors without a code word of their own that pass.
  private static func isTransientProse(_ error: [UInt8]) -> Bool {
    starts(error, with: "ERR max number of clients")
  }

  static func starts(_ error: [UInt8], with words: String) -> Bool {
    error.starts(with: words.utf8)
  }

  /// `word` if it is one in capitals, digits and underscores of at most 32 bytes.
  private static func codeWord(_ word: ArraySlice<UInt8>) -> String? {
    guard let first = word.first, first >= 0x41, first <= 0x5A, word.count <= 32 else { return nil }
    let isWord = word.allSatisfy {
      ($0 >= 0x41 && $0 <= 0x5A) || ($0 >= 0x30 && $0 <= 0x39) || $0 == 0x5F
    }
    return isWord ? String(decoding: word, as: UTF8.self) : nil
  }
}
