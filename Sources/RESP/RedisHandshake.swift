internal import DequeModule

/// The conversation from the open connection to the confirmed subscription.
///
/// Everything is sent at once. SUBSCRIBE comes behind what the connection needs, and the trial behind that: it publishes
/// to the inbox, and PING's reply, which ends the handshake, shows that the message has come or never will. Other
/// messages that come before are left out: when a connection is ready, everything is asked anew. Only when there is a previous connection to kill does it take a second round trip: a
/// server numbers its clients from 1 each time it starts, so the number alone could be a stranger's by now. It is
/// killed only if HELLO and INFO have shown that this is still the same run of the same server.
struct RedisHandshake: Sendable {
  /// What was sent and is not answered yet.
  enum Step: Hashable, Sendable {
    case hello
    case selectDatabase
    case clusterID
    case serverInfo
    case evictionPolicy
    case loadScript(index: Int)
    case loadProbe
    case probe
    case loadTrial
    case killPreviousClient
    case subscribe
    case trial
    case ping
  }

  /// What an input has led to.
  enum Outcome: Sendable {
    case goOn
    /// All is answered; under which digest Redis knows each script.
    case ready(RedisReadyInfo, digests: [ScriptName: [UInt8]])
    case failed(RedisHandshakeFailure)
    case fault(RedisFault)
  }

  private let configuration: RedisConnectionConfiguration
  /// In the order in which the replies come.
  private var awaited: Deque<Step> = []
  private var server = "unknown"
  private var version = "unknown"
  private var mode = "unknown"
  private var clientID: Int64 = 0
  private var runID: String?
  private var evictionPolicy: String?
  private var previousClient = RedisReadyInfo.PreviousClient.none
  private var digests: [ScriptName: [UInt8]] = [:]
  /// What the probe has found; nil where there is none.
  private var findings: ProbeFindings?
  private var trial = TrialFindings()

  init(configuration: RedisConnectionConfiguration) {
    self.configuration = configuration
    findings = configuration.probe.map { ProbeFindings(.null, of: $0.rights) }
  }

  /// Appends the first commands to `output`.
  mutating func begin(output: inout [UInt8]) {
    send(.hello, to: &output)
    if configuration.database != 0 { send(.selectDatabase, to: &output) }
    if case .primary = configuration.clusterRole { send(.clusterID, to: &output) }
    send(.serverInfo, to: &output)
    send(.evictionPolicy, to: &output)
    for index in configuration.scripts.indices { send(.loadScript(index: index), to: &output) }
    if configuration.probe != nil {
      send(.loadProbe, to: &output)
      send(.probe, to: &output)
    }
    if configuration.trial != nil { send(.loadTrial, to: &output) }
    if configuration.previousClient == nil { sendLast(to: &output) }
  }

  /// Takes a reply to the oldest step; may append commands to `output`.
  mutating func replyReceived(_ reply: RESPValue, output: inout [UInt8]) -> Outcome {
    guard let step = awaited.popFirst() else {
      return .fault(.unsolicitedReply(reply.error.map(withheld)))
    }
    let outcome: Outcome
    switch step {
    case .hello:
      outcome = helloReplied(reply)
    case .selectDatabase:
      outcome = required(step, reply) { _, reply in reply.isOK }
    case .clusterID:
      outcome = clusterIDReplied(reply)
    case .serverInfo:
      // Some providers and narrow ACLs refuse it, or answer strangely: it is unknown then. The same for the next one.
      runID = reply.bytes.flatMap { Self.field("run_id", ofInfo: $0) }
      outcome = .goOn
    case .evictionPolicy:
      evictionPolicy = text(reply, "maxmemory-policy")
      outcome = .goOn
    case .loadScript(let index):
      outcome = required(step, reply) { handshake, reply in
        guard let digest = reply.bytes, Self.isDigest(digest) else { return false }
        handshake.digests[handshake.configuration.scripts[index].name] = digest
        return true
      }
    case .loadProbe, .loadTrial:
      outcome = required(step, reply) { _, reply in reply.bytes.map(Self.isDigest) ?? false }
    case .probe:
      outcome = probeReplied(reply)
    case .killPreviousClient:
      previousClient = previousClientOutcome(reply)
      outcome = .goOn
    case .subscribe:
      outcome = required(step, reply) { _, _ in false }
    case .trial:
      outcome = trialReplied(reply)
    case .ping:
      outcome = required(step, reply) { _, _ in true }
      if case .goOn = outcome {
        return trial.failure(isInCluster: configuration.clusterRole != nil).map(Outcome.failed) ?? ready
      }
    }
    switch outcome {
    case .goOn:
      if awaited.isEmpty { finish(output: &output) }
      return .goOn
    case .ready, .failed, .fault:
      return outcome
    }
  }

  /// Takes the confirmation of a subscription.
  mutating func subscribed(to channel: [UInt8]) -> Outcome {
    guard awaited.first == .subscribe, channel == configuration.inbox else { return .fault(.subscriptionChanged) }
    awaited.removeFirst()
    if let findings, !findings.isEnough { return .failed(RedisHandshakeFailure(findings, naming: names)) }
    return awaited.isEmpty ? ready : .goOn
  }

  /// Takes a message to the inbox; false if it is another's.
  mutating func messageReceived(_ payload: [UInt8]) -> Bool {
    guard !awaited.contains(.subscribe), payload == configuration.trial?.message else { return false }
    trial.cameBack = true
    return true
  }

  private var ready: Outcome {
    var info = RedisReadyInfo(
      server: server, version: version, mode: mode, client: RedisClientIdentity(id: clientID, runID: runID),
      previousClient: previousClient, evictionPolicy: evictionPolicy)
    if let findings, !findings.extras.isEmpty {
      info.missingRules = "ACL SETUSER \(names.user) \(findings.rules)"
    }
    return .ready(info, digests: digests)
  }
}

// MARK: - Sending

extension RedisHandshake {
  private mutating func send(_ step: Step, to output: inout [UInt8]) {
    RESPEncoder.append(command: command(of: step), to: &output)
    awaited.append(step)
  }

  private func command(of step: Step) -> [[UInt8]] {
    switch step {
    case .hello:
      var parts = ["HELLO", "3"].map { Array($0.utf8) }
      if configuration.password != nil || configuration.username != nil {
        parts.append(Array("AUTH".utf8))
        parts.append(Array((configuration.username ?? "default").utf8))
        parts.append(configuration.password?.bytes ?? [])
      }
      parts.append(Array("SETNAME".utf8))
      parts.append(Self.clientName(configuration.clientName))
      return parts
    case .selectDatabase:
      return ["SELECT", String(configuration.database)].map { Array($0.utf8) }
    case .clusterID:
      return ["CLUSTER", "MYID"].map { Array($0.utf8) }
    case .serverInfo:
      return ["INFO", "server"].map { Array($0.utf8) }
    case .evictionPolicy:
      return ["CONFIG", "GET", "maxmemory-policy"].map { Array($0.utf8) }
    case .loadScript(let index):
      return ["SCRIPT", "LOAD"].map { Array($0.utf8) } + [configuration.scripts[index].source]
    case .loadProbe:
      return ["SCRIPT", "LOAD"].map { Array($0.utf8) } + [configuration.probe?.script ?? []]
    case .probe:
      return configuration.probe?.command ?? []
    case .killPreviousClient:
      let id = configuration.previousClient?.id ?? 0
      return ["CLIENT", "KILL", "ID", String(id)].map { Array($0.utf8) }
    case .subscribe:
      return [Array("SUBSCRIBE".utf8), configuration.inbox]
    case .loadTrial:
      return ["SCRIPT", "LOAD"].map { Array($0.utf8) } + [configuration.trial?.script ?? []]
    case .trial:
      guard let trial = configuration.trial else { return [] }
      return [Array("EVALSHA".utf8), trial.digest, [0x31], trial.key, configuration.inbox, trial.message]
    case .ping:
      return [Array("PING".utf8)]
    }
  }

  private mutating func sendLast(to output: inout [UInt8]) {
    guard !configuration.inbox.isEmpty else { return send(.ping, to: &output) }
    send(.subscribe, to: &output)
    guard configuration.trial != nil else { return }
    send(.trial, to: &output)
    send(.ping, to: &output)
  }

  /// Sends what had to wait for the first replies. Does nothing if the subscription was among the first commands,
  /// because then the replies do not run out before it is confirmed.
  private mutating func finish(output: inout [UInt8]) {
    if let previous = configuration.previousClient, previousClient == .none {
      if let previousRun = previous.runID, let runID {
        if previousRun == runID {
          send(.killPreviousClient, to: &output)
        } else {
          previousClient = .gone
        }
      } else {
        previousClient = .unknown("the server does not tell its run_id (INFO)")
      }
    }
    sendLast(to: &output)
  }
}

// MARK: - Receiving

extension RedisHandshake {
  private mutating func helloReplied(_ reply: RESPValue) -> Outcome {
    if let error = reply.error { return .failed(failure(of: .hello, error: error)) }
    guard reply.value(forKey: "proto")?.integer == 3, let id = reply.value(forKey: "id")?.integer else {
      return .fault(.badHandshakeReply(to: Self.name(of: .hello)))
    }
    clientID = id
    server = text(reply, "server") ?? server
    version = text(reply, "version") ?? version
    mode = text(reply, "mode") ?? mode
    if let failure = RedisHandshakeFailure(
      mode: mode, role: text(reply, "role"), clusterRole: configuration.clusterRole)
    {
      return .failed(failure)
    }
    let modules = reply.value(forKey: "modules")?.elements ?? []
    if modules.contains(where: { text($0, "name")?.lowercased() == "crdt" }) {
      return .failed(
        RedisHandshakeFailure(
          noPlainPrimary: "this database is active-active (module crdt), and two members would grant the same lock"))
    }
    return .goOn
  }

  private func clusterIDReplied(_ reply: RESPValue) -> Outcome {
    if let error = reply.error { return .failed(failure(of: .clusterID, error: error)) }
    guard case .primary(let id) = configuration.clusterRole, let bytes = reply.bytes else {
      return .fault(.badHandshakeReply(to: Self.name(of: .clusterID)))
    }
    return bytes.elementsEqual(id.utf8) ? .goOn : .failed(.otherNode)
  }

  private mutating func trialReplied(_ reply: RESPValue) -> Outcome {
    if let error = reply.error {
      // The slot of its key has gone elsewhere, or is on its way: the first command tells that as well.
      if configuration.clusterRole != nil, TrialFindings.isAboutCluster(error) { return .goOn }
      if TrialFindings.isAboutCluster(error) { return .failed(TrialFindings.isCluster) }
      // A state of the server, or a script that somebody has just taken away, shows nothing.
      return RedisErrorReply.isStateOfServer(error: error) ? .goOn : .failed(failure(of: .trial, error: error))
    }
    return trial.take(reply) ? .goOn : .fault(.badHandshakeReply(to: Self.name(of: .trial)))
  }

  private mutating func probeReplied(_ reply: RESPValue) -> Outcome {
    if let error = reply.error {
      switch RedisRights.refusal(in: error) {
      // A state of the server, or a script that somebody has just taken away, says nothing about rights.
      case .none: return .goOn
      case .key:
        // EVALSHA itself is allowed. The failure is reported when SUBSCRIBE is answered.
        findings?.wasUntried()
        return .goOn
      case .command, .channel, .unknown: return .failed(failure(of: .probe, error: error))
      }
    }
    findings = configuration.probe.map { ProbeFindings(reply, of: $0.rights) }
    guard let unknown = findings?.unknown.first else { return .goOn }
    return .failed(RedisHandshakeFailure(unknownCommand: unknown))
  }

  private func previousClientOutcome(_ reply: RESPValue) -> RedisReadyInfo.PreviousClient {
    if let error = reply.error {
      return RedisErrorReply.starts(error, with: "ERR No such client") ? .gone : .unknown(withheld(error))
    }
    // The number of the connections that were killed; `OK` from a server that knows only the old form.
    guard let count = reply.isOK ? 1 : reply.integer else {
      return .unknown("the reply to CLIENT KILL is not understood")
    }
    return count > 0 ? .killed : .gone
  }

  /// Takes the reply to a step without which the connection is of no use.
  private mutating func required(
    _ step: Step, _ reply: RESPValue, accept: (inout RedisHandshake, RESPValue) -> Bool
  ) -> Outcome {
    if let error = reply.error { return .failed(failure(of: step, error: error)) }
    return accept(&self, reply) ? .goOn : .fault(.badHandshakeReply(to: Self.name(of: step)))
  }

  private func failure(of step: Step, error: [UInt8]) -> RedisHandshakeFailure {
    RedisHandshakeFailure(
      step: step, error: error, words: withheld(error), hasPassword: configuration.password != nil,
      database: configuration.database, naming: names, findings: findings)
  }

  private var names: RedisHandshakeFailure.Names {
    RedisHandshakeFailure.Names(
      user: RedisErrorReply.text(of: userBytes), inbox: RedisErrorReply.text(of: configuration.inbox))
  }

  private var userBytes: [UInt8] { Array((configuration.username ?? "default").utf8) }

  /// The words of an error, or its code word alone if they hold the password: an old server repeats the arguments
  /// of a command that it does not know.
  private func withheld(_ error: [UInt8]) -> String {
    RedisErrorReply.words(of: error, without: [configuration.password])
  }

  private func text(_ reply: RESPValue, _ key: String) -> String? {
    reply.value(forKey: key)?.bytes.map(RedisErrorReply.text(of:))
  }

  /// How a step is called in messages.
  static func name(of step: Step) -> String {
    switch step {
    case .hello: return "HELLO"
    case .selectDatabase: return "SELECT"
    case .clusterID: return "CLUSTER MYID"
    case .serverInfo: return "INFO"
    case .evictionPolicy: return "CONFIG GET"
    case .loadScript, .loadProbe, .loadTrial: return "SCRIPT LOAD"
    case .probe, .trial: return "EVALSHA"
    case .killPreviousClient: return "CLIENT KILL"
    case .subscribe: return "SUBSCRIBE"
    case .ping: return "PING"
    }
  }

  /// Redis takes printable ASCII without spaces.
  static func clientName(_ name: String) -> [UInt8] {
    let bytes = name.utf8.prefix(256).map { $0 > 0x20 && $0 < 0x7F ? $0 : 0x2D }
    return bytes.isEmpty ? Array("sidelock".utf8) : bytes
  }

  private static func isDigest(_ bytes: [UInt8]) -> Bool {
    bytes.count == 40 && bytes.allSatisfy { ($0 >= 0x30 && $0 <= 0x39) || ($0 >= 0x61 && $0 <= 0x66) }
  }

  /// The value in the line `name:value` of an INFO reply; nil if there is none, or an empty one.
  private static func field(_ name: String, ofInfo text: [UInt8]) -> String? {
    let prefix = Array("\(name):".utf8)
    for line in text.split(whereSeparator: { $0 == 0x0A || $0 == 0x0D }) where line.starts(with: prefix) {
      let value = Array(line.dropFirst(prefix.count))
      return value.isEmpty ? nil : RedisErrorReply.text(of: value)
    }
    return nil
  }
}
