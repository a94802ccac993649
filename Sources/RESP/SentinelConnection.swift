internal import DequeModule

/// What a Sentinel has said of the primary.
public struct SentinelAnswer: Equatable, Sendable {
  /// Which Sentinel it is; nil where it does not say.
  public var id: String?
  /// Where the primary is.
  public var primary: RedisAddress
  /// Counts the failovers of that name. Of two answers the one with the higher number is younger.
  public var configEpoch: Int64
  /// How many Sentinels watch that name by its own count, itself among them.
  public var sentinelCount: Int
  /// Whether it cannot reach the primary.
  public var seesPrimaryDown: Bool
  /// The others that it knows.
  public var others: [Other]

  /// A Sentinel that another one knows.
  public struct Other: Equatable, Sendable {
    /// Which one it is; nil where that is not told.
    public var id: String?
    /// Where it listens.
    public var address: RedisAddress

    /// That one.
    public init(id: String?, address: RedisAddress) {
      self.id = id
      self.address = address
    }
  }

  /// An answer of these parts.
  public init(
    id: String?, primary: RedisAddress, configEpoch: Int64, sentinelCount: Int, seesPrimaryDown: Bool = false,
    others: [Other] = []
  ) {
    self.id = id
    self.primary = primary
    self.configEpoch = configEpoch
    self.sentinelCount = sentinelCount
    self.seesPrimaryDown = seesPrimaryDown
    self.others = others
  }
}

/// One connection to a Sentinel as a state machine without I/O. It listens to failovers before it asks where the primary
/// is: none can come between the two unheard.
///
/// Nothing that a Sentinel sends can trap it. After ``Event/refused(_:)`` it is dead, and further input is ignored.
public struct SentinelConnection: Sendable {
  /// What it tells, in order.
  public enum Event: Equatable, Sendable {
    /// All questions are answered.
    case answered(SentinelAnswer)
    /// A failover of the name is over, and this is the new primary.
    case switched(to: RedisAddress)
    /// It is of no use: close the connection. The reason in words.
    case refused(String)
  }

  private enum Step: Equatable {
    case hello
    case subscribe
    case id
    case primary
    case master
    case others
  }

  /// What tells that a failover is over. The Sentinel that leads it knows that when the replica is promoted, and the others
  /// when they switch.
  private static let channels = ["+switch-master", "+promoted-slave"]
  private let sentinels: RedisSentinels
  private let clientName: String
  private var decoder = RESPDecoder(
    limits: RESPLimits(blobBytesMax: 1 << 16, lineBytesMax: 1 << 16, elementCountMax: 1 << 14, replyBytesMax: 1 << 20))
  private var awaited: Deque<Step> = []
  private var output: [UInt8] = []
  private var id: String?
  /// Not that of MASTER: in a failover, which may take minutes, it is still the old one there.
  private var primary: RedisAddress?
  private var answer: SentinelAnswer?
  private var isDead = false

  /// A connection that is not made yet.
  public init(_ sentinels: RedisSentinels, clientName: String) {
    self.sentinels = sentinels
    self.clientName = clientName
  }

  /// The connection is open: logs in, listens and asks.
  public mutating func connected() {
    send(.hello)
    send(.subscribe)
    awaited += Self.channels.dropFirst().map { _ in .subscribe }
    ask()
  }

  /// Asks again.
  public mutating func ask() {
    guard !isDead else { return }
    send(.id)
    send(.primary)
    send(.master)
    send(.others)
  }

  /// Takes the bytes to send.
  public mutating func takeOutput() -> [UInt8] {
    defer { output = [] }
    return output
  }

  /// Bytes came from the Sentinel.
  public mutating func received(_ bytes: UnsafeRawBufferPointer) -> [Event] {
    guard !isDead else { return [] }
    decoder.append(bytes)
    var events: [Event] = []
    do throws(RESPError) {
      while !isDead, let value = try decoder.next() {
        if let event = taken(value) { events.append(event) }
      }
    } catch {
      events.append(refused("it broke the Redis protocol: \(error)"))
    }
    return events
  }

  private mutating func send(_ step: Step) {
    let name = sentinels.master
    let words: [String] =
      switch step {
      case .hello: ["HELLO", "3"]
      case .subscribe: ["SUBSCRIBE"] + Self.channels
      case .id: ["SENTINEL", "MYID"]
      case .primary: ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]
      case .master: ["SENTINEL", "MASTER", name]
      case .others: ["SENTINEL", "SENTINELS", name]
      }
    var parts = words.map { Array($0.utf8) }
    if step == .hello {
      if let password = sentinels.password {
        parts += [Array("AUTH".utf8), Array(user.utf8), password.bytes]
      }
      parts += [Array("SETNAME".utf8), RedisHandshake.clientName(clientName)]
    }
    RESPEncoder.append(command: parts, to: &output)
    awaited.append(step)
  }

  private var user: String { sentinels.username ?? "default" }

  private mutating func refused(_ words: String) -> Event {
    isDead = true
    awaited = []
    return .refused(words)
  }

  // MARK: What comes back

  private mutating func taken(_ value: RESPValue) -> Event? {
    guard case .push(let parts) = value else { return replied(value) }
    switch RedisPush(parts: parts) {
    case .message(let channel, let payload):
      return primary(in: payload, of: channel).map { .switched(to: $0) }
    case .subscribed:
      guard awaited.first == .subscribe else { return refused("it sent what was not asked for") }
      awaited.removeFirst()
      return nil
    case .unsubscribed, .malformed: return refused("it sent what was not asked for")
    case .other: return nil
    }
  }

  /// Where `NAME OLD-HOST OLD-PORT HOST PORT` of a switch, or `slave HOST:PORT HOST PORT @ NAME OLD-HOST OLD-PORT` of a
  /// promotion leads to; nil for another name.
  private func primary(in payload: [UInt8], of channel: [UInt8]) -> RedisAddress? {
    let words = payload.split(separator: 0x20, omittingEmptySubsequences: false)
    let (count, name, host) = channel.elementsEqual(Self.channels[0].utf8) ? (5, 0, 3) : (8, 5, 2)
    guard words.count == count, words[name].elementsEqual(sentinels.master.utf8) else { return nil }
    return RedisAddress(host: Array(words[host]), port: Int64(decimal: words[host + 1]))
  }

  private mutating func replied(_ reply: RESPValue) -> Event? {
    guard let step = awaited.popFirst(), step != .subscribe || reply.error != nil else {
      return refused("it sent what was not asked for")
    }
    if let error = reply.error { return refusedStep(step, error) }
    switch step {
    case .hello:
      guard reply.value(forKey: "mode")?.isText("sentinel") == true else {
        return refused("this is a Redis, and no Sentinel: a Sentinel has a port of its own")
      }
    case .subscribe: break
    case .id: id = reply.bytes.map(RedisErrorReply.text(of:))
    case .primary:
      guard let parts = reply.elements, parts.count == 2 else {
        return refused(reply == .null ? Self.unknown(shownMaster) : "its answer about the primary is not understood")
      }
      primary = RedisAddress(host: parts[0].bytes, port: parts[1].integer)
    case .master:
      answer = masterTold(reply)
      guard answer != nil else { return refused("its answer about the master \(shownMaster) is not understood") }
    case .others:
      guard var answer else { return nil }
      answer.others = (reply.elements ?? []).prefix(RedisSentinels.addressesMax).compactMap { other in
        RedisAddress(host: other.value(forKey: "ip")?.bytes, port: other.value(forKey: "port")?.integer).map {
          SentinelAnswer.Other(id: other.value(forKey: "runid")?.bytes.map(RedisErrorReply.text(of:)), address: $0)
        }
      }
      return .answered(answer)
    }
    return nil
  }

  private func masterTold(_ reply: RESPValue) -> SentinelAnswer? {
    guard let primary, let epoch = reply.value(forKey: "config-epoch")?.integer, epoch >= 0,
      let others = reply.value(forKey: "num-other-sentinels")?.integer, others >= 0
    else { return nil }
    let flags = reply.value(forKey: "flags")?.bytes.map { String(decoding: $0, as: UTF8.self) } ?? ""
    return SentinelAnswer(
      id: id, primary: primary, configEpoch: epoch, sentinelCount: Int(min(others, 1000)) + 1,
      seesPrimaryDown: flags.split(separator: ",").contains { $0 == "s_down" || $0 == "o_down" })
  }

  private var shownMaster: String { "'\(RedisErrorReply.text(of: Array(sentinels.master.utf8)))'" }

  private mutating func refusedStep(_ step: Step, _ error: [UInt8]) -> Event? {
    switch RedisErrorReply.code(of: error) {
    case "NOAUTH": return refused("it asks for a password: give it in a file with redis_sentinel_password_file")
    case "WRONGPASS":
      return refused("it refused the password of user '\(user)' (redis_sentinel_user, redis_sentinel_password_file)")
    case "DENIED": return refused("it is in protected mode and refuses connections from other hosts")
    case "NOPERM" where step != .id && step != .others:
      return refused("user '\(user)' may not do what is needed: ACL SETUSER \(user) \(Self.rules)")
    case _: break
    }
    switch step {
    case .hello:
      // An old server repeats the arguments of a command that it does not know, the password among them.
      let isAboutLogin = RedisErrorReply.starts(error, with: "ERR AUTH ")
      return refused(
        isAboutLogin
          ? "it has no password set, but one was given (redis_sentinel_password_file)"
          : "it does not take HELLO 3: Redis 6.2 or newer is needed")
    // Without them all goes on, by the addresses of the URL.
    case .id: return nil
    case .others: return answer.map { .answered($0) }
    case .master where RedisErrorReply.starts(error, with: "ERR No such master"):
      return refused(Self.unknown(shownMaster))
    case .primary, .master, .subscribe: return refused("it refused: \(RedisErrorReply.text(of: error))")
    }
  }

  private static func unknown(_ master: String) -> String { "it knows no master \(master)" }

  private static let rules =
    "+hello +subscribe +sentinel|myid +sentinel|get-master-addr-by-name +sentinel|master +sentinel|sentinels "
    + channels.map { "&\($0)" }.joined(separator: " ")
}
