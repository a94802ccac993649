/// What the error replies of Redis mean.
///
/// An error reply is a code word and prose. An error that a script ran into comes as it is since Redis 7
/// (`READONLY You can't write … script: 1b936e…, on @user_script:12.`); older servers wrap it
/// (`ERR Error running script (call to f_1b936e…): @user_script:12: -READONLY You can't write …`), and give one that a
/// script has caught a place alone (`@user_script: 12: -READONLY You can't write …`).
public enum RedisErrorReply {
  /// Whether `error` is known to be a state of the server, and no mistake in what it was asked.
  public static func isStateOfServer(error: [UInt8]) -> Bool {
    significantCode(of: error).map(statesOfServer.contains) == true || isKnownProse(error)
  }

  /// The kind of `error`, for counting: its words up to the first that names a key, a command or a number.
  public static func kind(of error: [UInt8]) -> String {
    text(of: Array(error.prefix(48).prefix { $0 != 0x27 && $0 != 0x60 && $0 != 0x3A && !($0 >= 0x30 && $0 <= 0x39) }))
  }

  /// The words of `error`, printable and not too many. Of a state of the server, it does not matter in which script it was met.
  public static func words(of error: [UInt8]) -> String {
    guard isStateOfServer(error: error) else { return text(of: error) }
    let words = Array(error.prefix(2 * textBytesMax))
    let end = words.indices.first { words[$0...].starts(with: " script: ".utf8) } ?? words.endIndex
    // Behind the place, where an older server tells that first.
    let start = words[..<end].indices.first { words[$0] == 0x2D && code(of: Array(words[($0 + 1)...])) != nil }
    let isWrapped = starts(error, with: "ERR Error running script") || starts(error, with: "@user_script:")
    return text(of: Array(words[(isWrapped ? start.map { $0 + 1 } ?? 0 : 0)..<end]))
  }

  /// The same, unless they hold a secret: an old server repeats the arguments of a command that it does not know.
  package static func words(of error: [UInt8], without secrets: [RedisSecret?]) -> String {
    let isSecret = secrets.contains { secret in
      guard let secret = secret?.bytes, !secret.isEmpty else { return false }
      return error.indices.contains { error[$0...].starts(with: secret) }
    }
    return isSecret ? "(words withheld)" : text(of: error)
  }

  /// Whether `error` says that the user may not do something.
  public static func isAboutRights(_ error: [UInt8]) -> Bool {
    switch RedisRights.refusal(in: error) {
    case .command, .key, .channel: true
    case .unknown, .none: false
    }
  }

  /// Why only a new connection can help, if `error` says so: the server is no primary, or a proxy has made the
  /// connection anew and it is not logged in; nil if it says nothing of the kind.
  public static func reasonToReconnect(error: [UInt8]) -> String? {
    switch significantCode(of: error) {
    case "READONLY", "MASTERDOWN": "the server is not the primary any more"
    case "NOAUTH": "the server does not know this connection's user any more"
    default: nil
    }
  }

  /// Whether only a new connection can help against `error`; see ``reasonToReconnect(error:)``.
  public static func demandsReconnect(error: [UInt8]) -> Bool { reasonToReconnect(error: error) != nil }

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
  private static let statesOfServer: Set<String> = [
    "LOADING", "READONLY", "MISCONF", "OOM", "BUSY", "NOTBUSY", "UNKILLABLE", "TRYAGAIN", "NOREPLICAS", "CLUSTERDOWN",
    "MASTERDOWN", "NOMASTERLINK", "INPROG", "IOERR", "NOSCRIPT", "MOVED", "ASK",
  ]

  /// The code word that tells what happened: the first word, or, where an older server wraps a script's error, the
  /// first known one within.
  package static func significantCode(of error: [UInt8]) -> String? {
    let code = code(of: error)
    guard starts(error, with: "ERR Error running script") || starts(error, with: "@user_script:") else { return code }
    for word in error.split(separator: 0x20).dropFirst() {
      guard let inner = codeWord(word.first == 0x2D ? word.dropFirst() : word) else { continue }
      if inner == "WRONGTYPE" || inner == "CROSSSLOT" || statesOfServer.contains(inner) { return inner }
    }
    return code
  }

  /// States of a server without a code word of their own.
  private static func isKnownProse(_ error: [UInt8]) -> Bool {
    starts(error, with: "ERR max number of clients")
  }

  /// Whether `words` stand near the beginning of `error`.
  static func contains(_ error: [UInt8], _ words: String) -> Bool {
    String(decoding: error.prefix(500), as: UTF8.self).contains(words)
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
