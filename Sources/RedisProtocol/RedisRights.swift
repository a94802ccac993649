/// What a user of Redis may do, as far as locks need it, and how that is granted.
public enum RedisRights {
  /// The commands that scripts use, and those that the daemon uses otherwise. probe.lua tries them; a test holds it, the
  /// other scripts and this list against each other.
  package static let triedCommands = [
    "del", "exists", "get", "lindex", "llen", "lpop", "lpos", "lrange", "lrem", "pexpire", "ping", "pttl", "publish",
    "rpush", "scan", "set", "time", "type",
  ]
  /// The commands by which the daemon gets there. What lets none of them through shows it at once.
  package static let connectionCommands = ["evalsha", "script|load", "subscribe"]

  /// Commands without which locks work: they are missed by `list` of all hosts, and where a key of a lock holds other data
  /// by who is told so.
  static let extraCommands: Set<String> = ["scan", "type"]

  /// All rules of ACL SETUSER that locks under `keyPrefix` need, in one line.
  public static func all(keyPrefix: [UInt8]) -> String {
    let pattern = escaped(keyPrefix)
    let commands = (connectionCommands + triedCommands).map { "+\($0)" }
    return (["~\(pattern)*", "&\(pattern)*"] + commands).joined(separator: " ")
  }

  /// What an error that answered a command says about rights.
  enum Refusal: Equatable {
    /// The command is not allowed.
    case command
    /// A key is not allowed.
    case key
    /// A channel is not allowed.
    case channel
    /// The server does not have the command, or not in this form.
    case unknown
    /// Nothing.
    case none
  }

  /// What `error` says about rights, outside scripts or within. Servers before 7.2 and after it have words of their own for
  /// what happens within, and older ones put a place in the script before them.
  static func refusal(in error: [UInt8]) -> Refusal {
    let words = String(decoding: error.prefix(500), as: UTF8.self)
    let isAbout = { (parts: [String]) in parts.contains { words.contains($0) } }
    if isAbout(["Unknown Redis command", "unknown command", "Wrong number of args", "syntax error"]) {
      return .unknown
    }
    guard RedisErrorReply.code(of: error) == "NOPERM" || isAbout(["The user executing the script", "ACL failure"])
    else {
      return .none
    }
    if isAbout(["of the channels", "to the channel", "access a channel", "' channel"]) { return .channel }
    if isAbout(["of the keys", "access a key", "' key"]) { return .key }
    return .command
  }

  /// `prefix` for a pattern, in which some characters have a meaning.
  static func escaped(_ prefix: [UInt8]) -> String {
    let bytes = prefix.flatMap { byte in [0x2A, 0x3F, 0x5B, 0x5C, 0x5D].contains(byte) ? [0x5C, byte] : [byte] }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// What a connection tries before it serves commands, to find out what its user may not do.
public struct RedisProbe: Hashable, Sendable {
  /// The script; see Scripts/probe.lua.
  var script: [UInt8]
  /// A key that no lock can have.
  var key: [UInt8]
  /// A channel to which nobody listens.
  var channel: [UInt8]
  /// What stands before every key and channel.
  var keyPrefix: [UInt8]

  /// The name of the script in Redis.
  var digest: [UInt8] { SHA1.hexDigits(of: script) }
}

/// What a probe has found out.
struct ProbeFindings: Equatable {
  /// Commands that the user may not use.
  var commands: [String] = []
  /// Commands that are missing too, but that locks can do without.
  var extras: [String] = []
  /// Whether the keys of locks, or the channels of hosts, are not its own.
  var lacksKeys = false
  var lacksChannels = false
  /// The probe was not let near its key, so that nothing was tried.
  var isUntried = false
  /// Commands that the server does not have.
  var unknown: [String] = []

  /// What the reply of probe.lua says. States of the server are not among it: they pass.
  init(_ reply: RESPValue) {
    var parts = (reply.elements ?? [])[...]
    while let command = parts.popFirst()?.string, let error = parts.popFirst()?.bytes {
      switch RedisRights.refusal(in: error) {
      case .command: addCommand(command)
      case .key: lacksKeys = true
      case .channel: lacksChannels = true
      case .unknown: if !unknown.contains(command) { unknown.append(command) }
      case .none: break
      }
    }
  }

  private mutating func addCommand(_ command: String) {
    if RedisRights.extraCommands.contains(command.lowercased()) {
      extras.append(command)
    } else if !commands.contains(command) {
      commands.append(command)
    }
  }

  /// Whether locks work.
  var isEnough: Bool { commands.isEmpty && !lacksKeys && !lacksChannels }

  /// The rules of ACL SETUSER that are missing, in one line.
  func rules(keyPrefix: [UInt8]) -> String {
    // What else is missing cannot be found out, so this is all that is needed.
    guard !isUntried else { return RedisRights.all(keyPrefix: keyPrefix) }
    let pattern = RedisRights.escaped(keyPrefix)
    return
      ((lacksKeys ? ["~\(pattern)*"] : []) + (lacksChannels ? ["&\(pattern)*"] : [])
      + (commands + extras).map { "+\($0.lowercased())" }).joined(separator: " ")
  }

  /// What is missing, in words.
  func words(keyPrefix: [UInt8]) -> String {
    let prefix = RedisErrorReply.text(of: keyPrefix)
    return
      (commands + (lacksKeys ? ["keys that begin with \(prefix) (to read and write each of them)"] : [])
      + (lacksChannels ? ["channels that begin with \(prefix)"] : [])).joined(separator: ", ")
  }
}
