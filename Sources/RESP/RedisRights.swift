/// What a user of Redis needs to be allowed, and how that is granted.
public struct RedisRights: Hashable, Sendable {
  /// The commands that the handshake itself uses: a missing right to one of them shows at once.
  package static let connectionCommands = ["evalsha", "script|load", "subscribe"]

  /// What stands before every key and channel.
  public var keyPrefix: [UInt8]
  /// The commands that scripts use, and those that are sent beside them, in small letters.
  public var commands: [String]
  /// Those of them that can be done without; ``RedisReadyInfo/missingRules`` tells when they are missing.
  public var extraCommands: Set<String>

  /// Rights to use `commands` on what begins with `keyPrefix`.
  public init(keyPrefix: [UInt8], commands: [String], extraCommands: Set<String>) {
    self.keyPrefix = keyPrefix
    self.commands = commands
    self.extraCommands = extraCommands
  }

  /// All the rules of ACL SETUSER, in one line. Redis 6.2 lets a new user use all channels, and refuses a pattern then.
  public var rules: String {
    let pattern = Self.escaped(keyPrefix)
    let commands = (Self.connectionCommands + commands).map { "+\($0)" }
    return (["~\(pattern)*", "resetchannels", "&\(pattern)*"] + commands).joined(separator: " ")
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

  /// What `error` says about rights, outside scripts or within. Within, servers before and since 7.2 use different
  /// words, and older ones put a place in the script before them.
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
  /// A script that takes one key and one channel, and replies the commands that were refused, each with its error.
  package var script: [UInt8]
  /// A key that nobody uses.
  package var key: [UInt8]
  /// A channel to which nobody listens.
  package var channel: [UInt8]
  /// What it tries.
  package var rights: RedisRights

  /// A probe.
  public init(script: [UInt8], key: [UInt8], channel: [UInt8], rights: RedisRights) {
    self.script = script
    self.key = key
    self.channel = channel
    self.rights = rights
  }

  /// The name of the script in Redis.
  package var digest: [UInt8] { SHA1.hexDigits(of: script) }

  /// What runs it, when it is loaded.
  var command: [[UInt8]] { [Array("EVALSHA".utf8), digest, [0x31], key, channel] }
}

/// What a probe has found out.
struct ProbeFindings: Equatable {
  /// What it has tried.
  let rights: RedisRights
  /// Commands that the user may not use.
  var commands: [String] = []
  /// Commands that are missing too, but that can be done without.
  var extras: [String] = []
  /// Whether it may not use keys, or channels, that begin with the prefix.
  var lacksKeys = false
  var lacksChannels = false
  /// The probe was not let near its key, so that nothing was tried.
  var isUntried = false
  /// Commands that the server does not have.
  var unknown: [String] = []

  /// What the reply of the probe says. States of the server are left out: they pass.
  init(_ reply: RESPValue, of rights: RedisRights) {
    self.rights = rights
    var parts = (reply.elements ?? [])[...]
    while let command = parts.popFirst()?.string, let error = parts.popFirst()?.bytes {
      switch RedisRights.refusal(in: error) {
      case .command: addCommand(command)
      case .key: lacksKeys = true
      case .channel: lacksChannels = true
      case .unknown where rights.extraCommands.contains(command.lowercased()): addCommand(command)
      case .unknown: if !unknown.contains(command) { unknown.append(command) }
      case .none: break
      }
    }
  }

  /// EVALSHA is allowed, but not with the key.
  mutating func wasUntried() {
    lacksKeys = true
    isUntried = true
  }

  private mutating func addCommand(_ command: String) {
    if rights.extraCommands.contains(command.lowercased()) {
      extras.append(command)
    } else if !commands.contains(command) {
      commands.append(command)
    }
  }

  /// Whether nothing is missing that cannot be done without.
  var isEnough: Bool { commands.isEmpty && !lacksKeys && !lacksChannels }

  /// The rules of ACL SETUSER that are missing, in one line.
  var rules: String {
    // Nothing else could be tried: all rights are named.
    guard !isUntried else { return rights.rules }
    let pattern = RedisRights.escaped(rights.keyPrefix)
    return
      ((lacksKeys ? ["~\(pattern)*"] : []) + (lacksChannels ? ["&\(pattern)*"] : [])
      + (commands + extras).map { "+\($0.lowercased())" }).joined(separator: " ")
  }

  /// What is missing, in words.
  var words: String {
    let prefix = RedisErrorReply.text(of: rights.keyPrefix)
    return
      (commands + (lacksKeys ? ["keys that begin with \(prefix) (to read and write each of them)"] : [])
      + (lacksChannels ? ["channels that begin with \(prefix)"] : [])).joined(separator: ", ")
  }
}
