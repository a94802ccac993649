internal import DequeModule

/// One connection to Redis as a state machine without I/O: it takes facts (connected, bytes received, closed) and
/// commands, and gives bytes to send and actions.
///
/// Replies are matched to commands by their order; pushes may come between any two replies. A script that Redis does
/// not know (NOSCRIPT) is loaded and run again, and answers under its own id; it is then executed later than commands
/// that were sent after it, which a script has to allow for.
///
/// Nothing that a server sends can trap it. Once it has reported a failure or a fault it is dead: further input is
/// ignored, there is nothing to send, and ``closed()`` gives the commands whose outcome is unknown.
public struct RedisConnection: Sendable {
  private enum State: Sendable {
    /// There is no connection yet.
    case unconnected
    /// The commands of the handshake are sent.
    case handshaking(RedisHandshake)
    /// Commands may be submitted.
    case ready
    /// Failed, at fault or closed.
    case dead
  }

  /// A command that was sent and is not answered.
  private enum Pending: Sendable {
    /// Any reply answers it.
    case plain(id: UInt64)
    /// A script by its digest, for the first time. NOSCRIPT has it sent again.
    case script(id: UInt64, RedisCommand)
    /// A script by its digest, behind a command that loads it again for another one. NOSCRIPT has it loaded again.
    case scriptAgain(id: UInt64, RedisCommand)
    /// Loads a script again, for the command behind it.
    case load(ScriptName)
    /// A script by its digest, behind the command that loads it. Any reply answers it.
    case loadedScript(id: UInt64, ScriptName)

    /// Nil for what nobody has submitted.
    var id: UInt64? {
      switch self {
      case .plain(let id), .script(let id, _), .scriptAgain(let id, _), .loadedScript(let id, _): id
      case .load: nil
      }
    }
  }

  private let configuration: RedisConnectionConfiguration
  private let sources: [ScriptName: [UInt8]]
  /// What stands before the text of each message to the inbox.
  private let messageOpening: [UInt8]
  private var state = State.unconnected
  private var decoder: RESPDecoder
  private var output: [UInt8] = []
  private var pending: Deque<Pending> = []
  /// The beginning of a command that runs a script by its digest, behind the array's header.
  private var openings: [ScriptName: [UInt8]] = [:]
  /// Scripts that a command under way loads again, so that the others need not carry the text too.
  private var reloading: Set<ScriptName> = []
  /// Why a script could not be loaded again, until the command that needs it is answered.
  private var loadRefusals: [ScriptName: RESPValue] = [:]

  /// How many pushes were ignored because nothing here wants them.
  public private(set) var ignoredPushCount: UInt64 = 0
  /// Counts replies and the confirmed subscription. Pushes show that the server has a connection, not that it answers.
  public private(set) var answerCount: UInt64 = 0

  /// A connection that is not made yet. Of two scripts with the same name the last one counts.
  public init(configuration: RedisConnectionConfiguration) {
    self.configuration = configuration
    self.sources = Dictionary(configuration.scripts.map { ($0.name, $0.source) }) { _, last in last }
    self.decoder = RESPDecoder(limits: configuration.limits)
    var opening = Array(">3\r\n".utf8)
    RESPEncoder.append(blobString: "message".utf8, to: &opening)
    RESPEncoder.append(blobString: configuration.inbox, to: &opening)
    messageOpening = opening
  }

  /// Whether commands may be submitted.
  public var isReady: Bool {
    switch state {
    case .ready: return true
    case .unconnected, .handshaking, .dead: return false
    }
  }

  /// How many commands are not answered.
  public var pendingCount: Int { pending.count { $0.id != nil } }

  /// The command that has to be answered next; nil if none is pending.
  public var oldestPendingID: UInt64? { pending.first { $0.id != nil }?.id }

  // MARK: - Output

  /// Whether there are bytes to send.
  public var hasOutput: Bool { !output.isEmpty }

  /// Takes the bytes to send.
  public mutating func takeOutput() -> [UInt8] {
    defer { output = [] }
    return output
  }

  /// Takes the bytes to send; they are valid only within `body`. Keeps their room for the next ones.
  public mutating func drainOutput<Result>(_ body: (UnsafeRawBufferPointer) throws -> Result) rethrows -> Result {
    defer {
      if output.capacity > Self.retainedBytesMax {
        output = []
      } else {
        output.removeAll(keepingCapacity: true)
      }
    }
    return try output.withUnsafeBytes(body)
  }

  private static let retainedBytesMax = 1 << 20

  // MARK: - Facts

  /// The connection is open: the handshake begins.
  public mutating func connected() {
    switch state {
    case .unconnected:
      var handshake = RedisHandshake(configuration: configuration)
      handshake.begin(output: &output)
      state = .handshaking(handshake)
    case .handshaking, .ready, .dead:
      break
    }
  }

  /// Bytes came from the server.
  public mutating func received(_ bytes: UnsafeRawBufferPointer) -> [RedisConnectionAction] {
    switch state {
    case .unconnected, .dead:
      return []
    case .handshaking, .ready:
      break
    }
    decoder.append(bytes)
    var actions: [RedisConnectionAction] = []
    do throws(RESPError) {
      while true {
        // Fast path: anybody who may write to the inbox can send very many.
        if isReady, let payload = decoder.nextBlob(after: messageOpening) {
          actions.append(.message(channel: configuration.inbox, payload: payload))
          continue
        }
        guard let value = try decoder.next() else { break }
        let isAlive = valueReceived(value, actions: &actions)
        guard isAlive else { return actions }
      }
    } catch {
      die(.fault(.malformed(error)), actions: &actions)
    }
    return actions
  }

  /// The connection is closed, by either side. Gives the ids of the commands that were not answered, in the order in
  /// which they were last sent: whether Redis has executed them is unknown.
  public mutating func closed() -> [UInt64] {
    state = .dead
    output = []
    reloading = []
    defer { pending = [] }
    return pending.compactMap(\.id)
  }

  // MARK: - Commands

  /// Sends a command; its reply comes under `id`, exactly once, or ``closed()`` gives the id. False if the connection
  /// is not ready: nothing is sent then, and nothing comes.
  ///
  /// A plain command must have a name, and a script must be among the configuration's.
  public mutating func submit(_ command: RedisCommand, id: UInt64) -> Bool {
    guard isReady else { return false }
    if command.script != nil {
      appendByDigest(command)
      pending.append(.script(id: id, command))
    } else {
      // Redis does not reply to an empty command, and every later reply would be matched wrongly.
      precondition(command.partCount > 0, "a command without a name")
      RESPEncoder.appendArrayHeader(count: command.partCount, to: &output)
      output.append(contentsOf: command.bytes)
      pending.append(.plain(id: id))
    }
    return true
  }

  private mutating func appendByDigest(_ command: RedisCommand) {
    guard let name = command.script, let opening = openings[name] else {
      preconditionFailure("the script \(command.script?.rawValue ?? "") is not among the connection's")
    }
    RESPEncoder.appendArrayHeader(count: 2 + command.partCount, to: &output)
    output.append(contentsOf: opening)
    output.append(contentsOf: command.bytes)
  }

  /// Not EVAL with the text: the ACL user would need one more right.
  private mutating func appendLoad(_ name: ScriptName) {
    guard let source = sources[name] else {
      preconditionFailure("the script \(name.rawValue) is not among the connection's")
    }
    RESPEncoder.append(command: [Array("SCRIPT".utf8), Array("LOAD".utf8), source], to: &output)
  }

  /// What a script that Redis knows by this digest begins with.
  private static func opening(digest: [UInt8]) -> [UInt8] {
    var opening: [UInt8] = []
    RESPEncoder.append(blobString: "EVALSHA".utf8, to: &opening)
    RESPEncoder.append(blobString: digest, to: &opening)
    return opening
  }
}

// MARK: - Values from the server

extension RedisConnection {
  /// Takes one value; whether the connection lives on.
  private mutating func valueReceived(_ value: RESPValue, actions: inout [RedisConnectionAction]) -> Bool {
    switch value {
    case .push(let parts):
      return pushReceived(RedisPush(parts: parts), actions: &actions)
    case .simpleString, .simpleError, .blobString, .integer, .double, .boolean, .null, .bigNumber, .array, .map, .set:
      return replyReceived(value, actions: &actions)
    }
  }

  private mutating func replyReceived(_ reply: RESPValue, actions: inout [RedisConnectionAction]) -> Bool {
    answerCount += 1
    switch state {
    case .handshaking(var handshake):
      let outcome = handshake.replyReceived(reply, output: &output)
      return handshakeMoved(handshake, outcome, actions: &actions)
    case .ready:
      guard let oldest = pending.popFirst() else {
        return die(.fault(.unsolicitedReply(reply.error.map(RedisErrorReply.text(of:)))), actions: &actions)
      }
      answer(oldest, with: reply, actions: &actions)
      return true
    case .unconnected, .dead:
      return false
    }
  }

  private mutating func answer(_ oldest: Pending, with reply: RESPValue, actions: inout [RedisConnectionAction]) {
    let isUnknownScript = reply.error.map(RedisErrorReply.code(of:)) == "NOSCRIPT"
    switch oldest {
    case .script(let id, let command) where isUnknownScript && command.script.map(reloading.contains) == true:
      appendByDigest(command)
      pending.append(.scriptAgain(id: id, command))
    case .script(let id, let command) where isUnknownScript, .scriptAgain(let id, let command) where isUnknownScript:
      guard let name = command.script else { return }
      appendLoad(name)
      pending.append(.load(name))
      appendByDigest(command)
      pending.append(.loadedScript(id: id, name))
      reloading.insert(name)
    case .load(let name):
      loadRefusals[name] = reply.error == nil ? nil : reply
    case .loadedScript(let id, let name):
      reloading.remove(name)
      let refusal = loadRefusals.removeValue(forKey: name)
      actions.append(.reply(id: id, isUnknownScript ? refusal ?? reply : reply))
    case .plain(let id), .script(let id, _), .scriptAgain(let id, _):
      actions.append(.reply(id: id, reply))
    }
  }

  private mutating func pushReceived(_ push: RedisPush, actions: inout [RedisConnectionAction]) -> Bool {
    switch push {
    case .message(let channel, let payload):
      switch state {
      case .ready where channel == configuration.inbox:
        actions.append(.message(channel: channel, payload: payload))
      case .handshaking(var handshake) where channel == configuration.inbox:
        if !handshake.messageReceived(payload) { ignoredPushCount += 1 }
        state = .handshaking(handshake)
      case .unconnected, .handshaking, .ready, .dead:
        ignoredPushCount += 1
      }
      return true
    case .subscribed(let channel):
      switch state {
      case .handshaking(var handshake):
        answerCount += 1
        let outcome = handshake.subscribed(to: channel)
        return handshakeMoved(handshake, outcome, actions: &actions)
      case .ready:
        return die(.fault(.subscriptionChanged), actions: &actions)
      case .unconnected, .dead:
        return false
      }
    case .unsubscribed:
      return die(.fault(.subscriptionChanged), actions: &actions)
    case .other:
      ignoredPushCount += 1
      return true
    case .malformed:
      return die(.fault(.badPush), actions: &actions)
    }
  }

  private mutating func handshakeMoved(
    _ handshake: RedisHandshake, _ outcome: RedisHandshake.Outcome, actions: inout [RedisConnectionAction]
  ) -> Bool {
    switch outcome {
    case .goOn:
      state = .handshaking(handshake)
      return true
    case .ready(let info, let digests):
      openings = digests.mapValues(Self.opening)
      state = .ready
      actions.append(.ready(info))
      return true
    case .failed(let failure):
      return die(.failed(failure), actions: &actions)
    case .fault(let fault):
      return die(.fault(fault), actions: &actions)
    }
  }

  /// Reports the end. What is pending stays so until ``closed()``.
  @discardableResult
  private mutating func die(_ action: RedisConnectionAction, actions: inout [RedisConnectionAction]) -> Bool {
    state = .dead
    output = []
    decoder = RESPDecoder(limits: configuration.limits)
    actions.append(action)
    return false
  }
}

extension RedisConnection: CustomStringConvertible, CustomDebugStringConvertible {
  /// The state, without anything that was sent or received.
  public var description: String {
    switch state {
    case .unconnected: return "Redis connection (unconnected)"
    case .handshaking: return "Redis connection (handshaking)"
    case .ready: return "Redis connection (ready, \(pending.count) pending)"
    case .dead: return "Redis connection (dead, \(pending.count) pending)"
    }
  }

  /// The same.
  public var debugDescription: String { description }
}
