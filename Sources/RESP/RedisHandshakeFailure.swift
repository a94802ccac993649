// The words for an operator whose Redis cannot be used.

extension RedisHandshakeFailure {
  /// A failure for a server that is no plain primary, by what HELLO told; nil if it is one.
  init?(mode: String, role: String?, clusterRole: ClusterRole?) {
    switch mode {
    case "cluster" where clusterRole == .any:
      return nil
    case "sentinel":
      self.init(
        reason: .unsupportedServer,
        message: "this is a Redis Sentinel: write redis-sentinel://host:port?sentinelMasterId=NAME",
        retryMayHelp: false)
    case "cluster" where clusterRole == nil:
      self.init(
        reason: .unsupportedServer,
        message: "this is a node of a Redis Cluster: write redis-cluster://host:port, or rediss-cluster:// for TLS",
        retryMayHelp: false)
    case "standalone" where clusterRole != nil:
      self.init(
        reason: .unsupportedServer,
        message: "this is a Redis that is in no Cluster: write redis://host:port, or rediss:// for TLS",
        retryMayHelp: false)
    default:
      // A server that tells no role (some compatible ones do not) is taken at its word when it accepts writes.
      guard let role, role != "master", role != "primary" else { return nil }
      self.init(
        reason: .notPrimary,
        message: "this Redis is a \(role), which takes no writes: give the address of the primary, or wait for the "
          + "failover to end",
        retryMayHelp: true)
    }
  }

  /// A failure for the error that answered a step. `words` are the error's, without the password.
  init(
    step: RedisHandshake.Step, error: [UInt8], words: String, hasPassword: Bool, database: Int, naming names: Names,
    findings: ProbeFindings?
  ) {
    let user = names.user
    switch RedisErrorReply.code(of: error) {
    case "WRONGPASS":
      self.init(
        reason: .authenticationFailed,
        message: "Redis refused the password of user '\(user)': check user and password, and that the user is "
          + "enabled (ACL LIST)",
        retryMayHelp: false)
    case "NOAUTH":
      self.init(
        reason: .authenticationFailed,
        message: hasPassword
          ? "Redis did not accept user '\(user)': check user and password"
          : "Redis asks for a password: give it in a file with redis_password_file",
        retryMayHelp: false)
    case "NOPERM":
      self.init(forbidden: step, error: error, naming: names, findings: findings)
    case "NOPROTO":
      self.init(reason: .unsupportedServer, message: Self.tooOld, retryMayHelp: false)
    case "DENIED":
      self.init(
        reason: .notPermitted,
        message: "Redis is in protected mode and refuses connections from other hosts: set a password, or bind it",
        retryMayHelp: false)
    default:
      self.init(uncoded: error, step: step, words: words, database: database)
    }
  }

  /// A failure for an error that its code word alone does not explain.
  private init(uncoded error: [UInt8], step: RedisHandshake.Step, words: String, database: Int) {
    let command = RedisHandshake.name(of: step)
    if RedisErrorReply.starts(error, with: "ERR unknown command") {
      self.init(
        reason: .unsupportedServer,
        message: step == .hello ? Self.tooOld : "this server does not offer \(command), which is needed",
        retryMayHelp: false)
      return
    }
    if step == .hello, Self.isAboutAuthentication(error) {
      self.init(
        reason: .authenticationFailed,
        message: "Redis has no password set, but one was given: leave it out, or set it in Redis",
        retryMayHelp: false)
      return
    }
    if RedisErrorReply.isStateOfServer(error: error) {
      self.init(reason: .temporary, message: "Redis cannot serve now: \(words)", retryMayHelp: true)
    } else if step == .selectDatabase {
      self.init(
        reason: .noSuchDatabase,
        message: "Redis has no database \(database): \(words)", retryMayHelp: false)
    } else {
      // What is not known may pass (a proxy's error, say); a script that does not compile never will.
      let isScript = RedisHandshake.name(of: step) == "SCRIPT LOAD"
      self.init(reason: .refused, message: "Redis refused \(command): \(words)", retryMayHelp: !isScript)
    }
  }

  /// What a message names.
  struct Names {
    var user: String
    var inbox: String
  }

  /// A failure for rights that are missing, by what the probe has found.
  init(_ findings: ProbeFindings, naming names: Names) {
    self.init(
      reason: .notPermitted,
      message: "the Redis user '\(names.user)' may not use \(findings.words): allow it with "
        + "ACL SETUSER \(names.user) \(findings.rules)",
      retryMayHelp: false)
  }

  /// A failure for a command that the server does not have, or not in the form that the scripts use.
  init(unknownCommand command: String) {
    self.init(
      reason: .unsupportedServer,
      message: "this server does not offer \(command) in the form that is needed: it must be Redis 6.2 or newer, with "
        + "all its commands",
      retryMayHelp: false)
  }

  /// A failure for what does not keep the promises of a plain primary; `finding` says which.
  init(noPlainPrimary finding: String) {
    self.init(
      reason: .unsupportedServer,
      message: "this is no plain primary of Redis, or something stands before it (a proxy that shards, a cluster, "
        + "pub/sub of another server): \(finding): give the address of the primary itself",
      retryMayHelp: false)
  }

  /// A failure for a node that is not the one that was meant.
  static let otherNode = RedisHandshakeFailure(
    reason: .notPrimary,
    message: "another node of the cluster answers at this address: wait until the nodes agree where each of them is",
    retryMayHelp: true)

  /// A failure for a step that the user has no right to.
  private init(forbidden step: RedisHandshake.Step, error: [UInt8], naming names: Names, findings: ProbeFindings?) {
    var rule = Self.rule(for: step, inbox: names.inbox)
    if var findings {
      switch step {
      case .loadScript, .loadProbe, .probe, .loadTrial, .trial:
        // Nothing else could be tried: all rights are named.
        rule = findings.rights.rules
      case .subscribe:
        if RedisRights.refusal(in: error) == .channel {
          findings.lacksChannels = true
        } else {
          findings.commands.insert("SUBSCRIBE", at: 0)
        }
        self.init(findings, naming: names)
        return
      case .hello, .selectDatabase, .clusterID, .serverInfo, .evictionPolicy, .killPreviousClient, .ping: break
      }
    }
    self.init(
      reason: .notPermitted,
      message: "the Redis user '\(names.user)' may not use \(RedisHandshake.name(of: step)): allow it with "
        + "ACL SETUSER \(names.user) \(rule)",
      retryMayHelp: false)
  }

  private static let tooOld = "this server does not speak RESP3 (HELLO 3): Redis 6.0 or newer is needed"

  private static func isAboutAuthentication(_ error: [UInt8]) -> Bool {
    RedisErrorReply.starts(error, with: "ERR Client sent AUTH")
      || RedisErrorReply.starts(error, with: "ERR AUTH ")
  }

  /// What ACL SETUSER takes to allow a step.
  private static func rule(for step: RedisHandshake.Step, inbox: String) -> String {
    switch step {
    case .hello: return "+hello"
    case .selectDatabase: return "+select"
    case .clusterID: return "+cluster|myid"
    case .serverInfo: return "+info"
    case .evictionPolicy: return "+config|get"
    case .loadScript, .loadProbe, .loadTrial: return "+script|load"
    case .probe, .trial: return "+evalsha"
    case .ping: return "+ping"
    case .killPreviousClient: return "+client|kill"
    case .subscribe: return "+subscribe and a channel pattern (&…) that matches \(inbox)"
    }
  }
}
