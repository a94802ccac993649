public import LockEngine
public import LockTypes
public import RESP

/// Puts the engine's lease commands into Redis' words, and Redis' answers into the engine's.
///
/// Who changes a key, an argument or a message here changes the scripts in Scripts/ and the section on Redis in
/// protocol/README.md with it.
public struct LeaseCodec: Sendable {
  /// What stands before every key and channel.
  public let keyPrefix: [UInt8]
  /// `<host>/<instance>`: the name of this host, and a random hexadecimal number that no other daemon has, nor this
  /// one after a restart.
  public let me: [UInt8]
  /// How many tokens a lease reserves: a hand-over needs one, and when few are left more are reserved. The
  /// counter follows Redis' clock in microseconds, so that a host that dies takes it ahead of the clock by 65 ms, which
  /// is less than the shortest lease; a counter that is lost is therefore made up for by the clock.
  package var tokenCount: Int64 = 1 << 16
  /// How long a counter is kept when Redis' clock has come to what it counts, in milliseconds: a minute, by which that clock
  /// may be set back; see common.lua.
  let fenceMilliseconds: Int64 = 60_000

  /// A codec for one daemon. `host` consists of letters, digits, `.`, `_` and `-`; `instance` of hexadecimal digits.
  public init(keyPrefix: String, host: String, instance: String) {
    self.keyPrefix = Array(keyPrefix.utf8)
    self.me = Array("\(host)/\(instance)".utf8)
    self.inboxPrefix = Array("\(keyPrefix)inbox:".utf8)
  }

  /// The channel that this daemon listens to.
  public var inboxChannel: [UInt8] { inboxPrefix + me }

  let inboxPrefix: [UInt8]

  /// What this daemon needs of Redis, to be tried at connect.
  public var probe: RedisProbe {
    // No lock has an empty name, and no daemon the instance 0.
    RedisProbe(
      script: PackageResources.probe_lua, key: keyPrefix + Array("{}probe:".utf8) + me,
      channel: inboxPrefix + Array("-/0".utf8), rights: .leases(keyPrefix: keyPrefix))
  }

  // MARK: Keys

  /// The key that exists if and only if somebody holds the lock.
  ///
  /// The name stands in braces, so that all keys of a lock are in one slot of a Redis Cluster. `%`, `{` and `}` in it are
  /// written `%25`, `%7B` and `%7D`: the first closing brace ends a hash tag, and two names must never give one key.
  public func lockKey(_ name: LockName) -> [UInt8] { keyPrefix + KeyOfLock(name).bytes }

  /// The list of hosts that wait for the lock.
  public func queueKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":queue".utf8) }

  /// The highest token reserved.
  public func fenceKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":fence".utf8) }

  /// The key of a lock that holds data of others.
  public func key(_ other: OtherData, of name: LockName) -> [UInt8] {
    switch other.part {
    case .lock: lockKey(name)
    case .queue: queueKey(name)
    case .fence: fenceKey(name)
    }
  }

  /// The name of the lock whose key this is; nil for the keys beside it and for what is no lock of this prefix.
  public func name(ofLockKey key: [UInt8]) -> LockName? {
    guard key.count > keyPrefix.count + 2, key.starts(with: keyPrefix), key[keyPrefix.count] == 0x7B, key.last == 0x7D
    else { return nil }
    var bytes: [UInt8] = []
    var rest = key[(keyPrefix.count + 1)..<(key.count - 1)]
    while let byte = rest.popFirst() {
      switch byte {
      case 0x25:
        switch (rest.popFirst(), rest.popFirst()) {
        case (0x32, 0x35): bytes.append(0x25)
        case (0x37, 0x42): bytes.append(0x7B)
        case (0x37, 0x44): bytes.append(0x7D)
        default: return nil
        }
      case 0x7B, 0x7D: return nil
      default: bytes.append(byte)
      }
    }
    return LockName(bytes: bytes)
  }

  // MARK: Commands

  /// The command in Redis' words.
  public func encode(_ command: LeaseCommand) -> RedisCommand {
    switch command {
    case .acquire(let name, let attempt, let ask, let isTry, let floor, let mode, let milliseconds, let kept):
      return script(
        .acquire, of: name, attempt: attempt, leaseMilliseconds: milliseconds, floor: floor, argumentCount: 4
      ) {
        Self.write(mode, to: &$0)
        $0.write(decimal: ask)
        $0.write(byte: isTry ? 0x31 : 0x30)
        $0.write(decimal: kept ?? attempt)
      }
    case .release(let name, let attempt, let unused, let isExact):
      return script(.release, of: name, attempt: attempt, floor: 0, argumentCount: 2) {
        switch unused {
        case .all: $0.write("")
        case .from(let token): $0.write(decimal: token)
        case .unknown: $0.write("-")
        }
        $0.write(byte: isExact ? 0x31 : 0x30)
      }
    case .downgrade(let name, let attempt, let tokenEnd):
      return script(.downgrade, of: name, attempt: attempt, floor: 0, argumentCount: 1) {
        $0.write(decimal: tokenEnd)
      }
    case .reserve(let name, let attempt, let tokenEnd, let floor):
      return script(.reserve, of: name, attempt: attempt, floor: floor, argumentCount: 1) {
        $0.write(decimal: tokenEnd)
      }
    case .renew(let leases, let milliseconds):
      return renew(leases, milliseconds)
    case .answerInUse(let name, let ask, let inbox):
      return publish(Array("inuse \(ask) ".utf8) + name.bytes, to: inbox)
    case .checkPlaces(let places):
      return checkPlaces(places)
    case .heartbeat:
      return .plain([Array("PING".utf8)])
    case .clock:
      return .plain([Array("TIME".utf8)])
    case .look(let name):
      return inspect([name], waitingHostsMax: Self.waitingHostsSeenMax)
    case .tell(let inbox, let message):
      return publish(Array("tell ".utf8) + HostMessageCodec.encode(message), to: inbox)
    }
  }

  /// Sends a message to another daemon's inbox. The reply is the number of connections that received it: with 0 the
  /// daemon is gone.
  private func publish(_ message: [UInt8], to inbox: String) -> RedisCommand {
    .plain([Array("PUBLISH".utf8), inboxPrefix + Array(inbox.utf8), message])
  }

  /// Hosts in a queue of which `look` tells.
  static let waitingHostsSeenMax = 64

  /// A mode as it stands in Redis.
  static func word(for mode: HoldMode) -> [UInt8] {
    switch mode {
    case .exclusive: [0x78]
    case .shared: [0x73]
    case .permit(let capacity): [0x70] + Array(String(capacity).utf8)
    }
  }

  /// The mode of a word in Redis; nil when it is none.
  static func mode(of word: some Collection<UInt8>) -> HoldMode? {
    switch (word.first, word.count) {
    case (0x78, 1): return .exclusive
    case (0x73, 1): return .shared
    case (0x70, _):
      guard let capacity = Int64(decimal: ArraySlice(word.dropFirst())), capacity > 0 else { return nil }
      return .permit(of: capacity)
    default: return nil
    }
  }

  private static func write(_ mode: HoldMode, to writer: inout BlobWriter) {
    switch mode {
    case .exclusive: writer.write(byte: 0x78)
    case .shared: writer.write(byte: 0x73)
    case .permit: writer.write(word(for: mode))
    }
  }

  /// A script of one lock, with the keys and arguments that all of them have; `body` writes the others, none of which is
  /// longer than a number.
  private func script(
    _ script: ScriptName, of name: LockName, attempt: UInt64, leaseMilliseconds: Int64 = 0, floor: Token,
    argumentCount: Int, _ body: (inout BlobWriter) -> Void
  ) -> RedisCommand {
    let tagged = KeyOfLock(name)
    let capacity =
      3 * BlobWriter.capacity(keyPrefix.count + tagged.byteCount + 6) + BlobWriter.capacity(me.count)
      + BlobWriter.capacity(inboxPrefix.count) + BlobWriter.capacity(name.bytes.count)
      + (5 + argumentCount) * BlobWriter.decimalCapacity
    return RedisCommand(script: script, keyCount: 3, argumentCount: 8 + argumentCount, capacity: capacity) {
      tagged.write(after: keyPrefix, suffix: "", to: &$0)
      tagged.write(after: keyPrefix, suffix: ":queue", to: &$0)
      tagged.write(after: keyPrefix, suffix: ":fence", to: &$0)
      $0.write(me)
      $0.write(decimal: attempt)
      $0.write(decimal: leaseMilliseconds)
      $0.write(inboxPrefix)
      $0.write(name.bytes)
      $0.write(decimal: tokenCount)
      $0.write(decimal: fenceMilliseconds)
      $0.write(decimal: floor)
      body(&$0)
    }
  }

  private func renew(_ leases: [LeaseReference], _ leaseMilliseconds: Int64) -> RedisCommand {
    var capacity = BlobWriter.capacity(me.count) + (1 + leases.count) * BlobWriter.decimalCapacity
    for lease in leases { capacity += BlobWriter.capacity(keyPrefix.count + 2 + 3 * lease.name.bytes.count) }
    return RedisCommand(
      script: .renew, keyCount: leases.count, argumentCount: 2 + leases.count, capacity: capacity
    ) {
      for lease in leases { KeyOfLock(lease.name).write(after: keyPrefix, suffix: "", to: &$0) }
      $0.write(me)
      $0.write(decimal: leaseMilliseconds)
      for lease in leases { $0.write(decimal: lease.attempt) }
    }
  }

  private func decimal(_ number: some BinaryInteger) -> [UInt8] { Array(String(number).utf8) }

  // MARK: Replies

  /// What a reply to `command` means. Nothing that Redis sends can trap here; what does not fit is a failure.
  public func decode(_ reply: RESPValue, to command: LeaseCommand) -> LeaseReply {
    if let error = reply.error { return .failed(LeaseFailure(error: error)) }
    switch command {
    case .acquire:
      return acquireReply(reply) ?? .failed(.transient("Redis gave a reply to acquire.lua that is not understood"))
    case .release, .answerInUse, .heartbeat, .downgrade, .tell:
      return .done
    case .checkPlaces(let places):
      return lostPlaces(reply, among: places.count)
    case .clock:
      guard let parts = reply.elements, parts.count == 2, let seconds = parts[0].integer,
        let microseconds = parts[1].integer, let clock = Self.clock(seconds: seconds, microseconds: microseconds)
      else { return .failed(.fatal("Redis gave a reply to TIME that is not understood")) }
      return .clock(clock)
    case .reserve:
      if reply.integer == 0 { return .renewed([false]) }
      return acquireReply(reply) ?? .failed(.transient("Redis gave a reply to reserve.lua that is not understood"))
    case .look:
      return leaseSight(reply).map { .seen($0) }
        ?? .failed(.transient("Redis gave a reply to inspect.lua that is not understood"))
    case .renew(let leases, _):
      guard let results = reply.elements, results.count == leases.count else {
        return .failed(.transient("Redis gave a reply to renew.lua that is not understood"))
      }
      return .renewed(results.map { $0.integer == 1 })
    }
  }

  private func acquireReply(_ reply: RESPValue) -> LeaseReply? {
    guard let parts = reply.elements else { return nil }
    // Nearly every reply is this one.
    if parts.count == 4, parts[0].isText("granted"), let token = parts[1].integer, let count = parts[2].integer,
      let waiting = parts[3].integer
    {
      return .granted(LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0))
    }
    guard let outcome = parts.first?.string else { return nil }
    switch (outcome, parts.count) {
    case ("queued", 6):
      guard let holder = parts[1].bytes, let expires = parts[2].integer, let receivers = parts[3].integer,
        let seconds = parts[4].integer, let microseconds = parts[5].integer,
        let clock = Self.clock(seconds: seconds, microseconds: microseconds)
      else { return nil }
      return .queued(
        holderHost: Self.host(ofInstance: holder), holderExpiresInMilliseconds: max(0, expires),
        listeners: Int(clamping: receivers), clock: clock)
    case ("foreign", 2):
      guard let expires = parts[1].integer else { return nil }
      return .foreign(expiresInMilliseconds: expires < 0 ? nil : expires)
    case ("conflict", 3):
      guard let mode = parts[1].bytes.flatMap({ Self.mode(of: $0) }), let listeners = parts[2].integer else {
        return nil
      }
      return .conflict(mode, listeners: Int(clamping: listeners))
    case ("stale", 2):
      return parts[1].integer.flatMap { UInt64(exactly: $0) }.map { .stale(attempt: $0) }
    default:
      return nil
    }
  }

  /// A moment by Redis' TIME; nil where it is none.
  private static func clock(seconds: Int64, microseconds: Int64) -> StoreInstant? {
    guard 0..<(1 << 42) ~= seconds, 0..<1_000_000 ~= microseconds else { return nil }
    return StoreInstant(microseconds: seconds * 1_000_000 + microseconds)
  }

  /// The host's name in `<host>/<instance>`.
  static func host(ofInstance instance: [UInt8]) -> String {
    String(decoding: instance.prefix { $0 != 0x2F }, as: UTF8.self)
  }

  private func leaseSight(_ reply: RESPValue) -> LeaseSight? {
    guard let found = decodeInspections(reply, count: 1)?.first else { return nil }
    return LeaseSight(
      holders: found.holders.map(\.inbox), waiting: found.waiting.map { .init(inbox: $0.inbox, mode: $0.mode) })
  }

  /// What a message to this daemon's inbox means; nil when it is not understood.
  public func decode(message: [UInt8]) -> InboxMessage? {
    if let push = push(in: message) { return .lease(push) }
    var rest = message[...]
    guard let kind = rest.nextWord(),
      let id = rest.nextWord().flatMap({ Int64(decimal: $0) }).flatMap({ UInt64(exactly: $0) })
    else { return nil }
    switch String(decoding: kind, as: UTF8.self) {
    case "call": return rest.nextWord().map { .call(id, from: String(decoding: $0, as: UTF8.self), Array(rest)) }
    case "answer": return .answer(id, Array(rest))
    default: return nil
    }
  }

  /// Whether a message may be one that is waited for, by its first letters: neither a question nor one of a search for
  /// deadlocks.
  public static func mayBeAwaited(message: [UInt8]) -> Bool {
    !message.starts(with: "tell ".utf8) && !message.starts(with: "call ".utf8)
  }

  /// Asks another daemon something. `id` comes back with its answer.
  public func call(_ payload: [UInt8], id: UInt64, inbox: String) -> RedisCommand {
    publish(Array("call \(id) ".utf8) + me + [0x20] + payload, to: inbox)
  }

  /// Answers what another daemon has asked.
  public func answer(_ payload: [UInt8], id: UInt64, inbox: String) -> RedisCommand {
    publish(Array("answer \(id) ".utf8) + payload, to: inbox)
  }

  private func push(in message: [UInt8]) -> LeasePush? {
    var rest = message[...]
    func word() -> ArraySlice<UInt8>? { rest.nextWord() }
    func number() -> Int64? { word().flatMap { Int64(decimal: $0) } }
    func positive() -> UInt64? { number().flatMap { UInt64(exactly: $0) } }
    guard let kind = word().map({ String(decoding: $0, as: UTF8.self) }) else { return nil }
    switch kind {
    case "granted":
      guard let attempt = positive(), let token = number(), let count = number(), let waiting = number(), !rest.isEmpty
      else { return nil }
      return .granted(
        name: LockName(bytes: Array(rest)), attempt: attempt,
        LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0))
    case "contended":
      guard let attempt = positive(), let ask = positive(), let isTry = number(), let inbox = word(),
        let mode = word().flatMap({ Self.mode(of: $0) }), !rest.isEmpty
      else { return nil }
      return .contended(
        name: LockName(bytes: Array(rest)), attempt: attempt, ask: ask, isTry: isTry == 1,
        inbox: String(decoding: inbox, as: UTF8.self), mode: mode)
    case "tell":
      return HostMessageCodec.decode(rest).map { .told($0) }
    case "inuse":
      guard let ask = positive(), !rest.isEmpty else { return nil }
      return .inUse(name: LockName(bytes: Array(rest)), ask: ask)
    default:
      return nil
    }
  }
}

/// What comes to a daemon's inbox.
public enum InboxMessage: Equatable, Sendable {
  /// Something that concerns leases.
  case lease(LeasePush)
  /// Another daemon asks something; the answer goes to its inbox, with the number.
  case call(UInt64, from: String, [UInt8])
  /// The answer to what this daemon has asked under that number.
  case answer(UInt64, [UInt8])
}

extension ArraySlice<UInt8> {
  /// Takes what stands before the next space, and the space; nil where there is none.
  fileprivate mutating func nextWord() -> ArraySlice<UInt8>? {
    guard let space = firstIndex(of: 0x20) else { return nil }
    defer { self = self[(space + 1)...] }
    return self[..<space]
  }
}

extension LeaseCodec {
  /// Asks what stands in Redis about `names`, without changing anything.
  public func inspect(_ names: [LockName], waitingHostsMax: Int) -> RedisCommand {
    .script(
      name: .inspect, keys: names.flatMap { [lockKey($0), queueKey($0), fenceKey($0)] },
      arguments: [decimal(waitingHostsMax)])
  }

  /// The reply to ``inspect(_:waitingHostsMax:)`` for `count` names; nil when it is not understood.
  public func decodeInspections(_ reply: RESPValue, count: Int) -> [LockInspection]? {
    guard let entries = reply.elements, entries.count == count else { return nil }
    var found: [LockInspection] = []
    for entry in entries {
      guard let parts = entry.elements, parts.count == 6, let state = Self.state(of: parts[0]),
        let expires = parts[1].integer, let holders = parts[2].elements, let total = parts[3].integer,
        let waiting = parts[4].elements
      else { return nil }
      found.append(
        LockInspection(
          state: state, holders: holders.compactMap { $0.bytes.flatMap(holder(in:)) },
          expiresInMilliseconds: expires < 0 ? nil : expires, waitingHostsTotal: total,
          waiting: waiting.compactMap { $0.bytes.flatMap(Self.waiting(in:)) },
          otherData: parts[5].bytes.flatMap { OtherData(words: $0[...]) }))
    }
    return found
  }

  private static func state(of reply: RESPValue) -> LockInspection.State? {
    if reply == .null { return .free }
    guard let word = reply.bytes else { return nil }
    switch String(decoding: word, as: UTF8.self) {
    case "foreign": return .foreign
    case "wrongtype": return .wrongType
    default: return mode(of: word).map { .held($0) }
    }
  }

  /// `<host>/<instance>:<attempt>:<first token>`.
  private func holder(in bytes: [UInt8]) -> LockInspection.Holder? {
    let parts = bytes.split(separator: 0x3A, omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0].contains(0x2F), let token = Int64(decimal: parts[2]) else { return nil }
    return LockInspection.Holder(
      host: Self.host(ofInstance: Array(parts[0])), inbox: String(decoding: parts[0], as: UTF8.self), token: token,
      entry: bytes, isMe: Array(parts[0]) == me)
  }

  /// An entry of the queue.
  private static func waiting(in bytes: [UInt8]) -> LockInspection.Waiting? {
    let parts = bytes.split(separator: 0x3A, omittingEmptySubsequences: false)
    guard parts.count == 4, parts[0].contains(0x2F), let mode = mode(of: parts[3]) else { return nil }
    return LockInspection.Waiting(
      host: host(ofInstance: Array(parts[0])), inbox: String(decoding: parts[0], as: UTF8.self), mode: mode)
  }

  /// One step through all lock keys of this prefix that may begin with `namePrefix`.
  public func scan(cursor: [UInt8], namePrefix: [UInt8], count: Int) -> RedisCommand {
    var pattern: [UInt8] = []
    let opening = lockKey(LockName(bytes: namePrefix)).dropLast()
    for byte in opening {
      if [0x2A, 0x3F, 0x5B, 0x5D, 0x5C].contains(byte) { pattern.append(0x5C) }
      pattern.append(byte)
    }
    pattern.append(contentsOf: [0x2A, 0x7D])
    return .plain([
      Array("SCAN".utf8), cursor, Array("MATCH".utf8), pattern, Array("COUNT".utf8), decimal(count),
    ])
  }

  /// The reply to ``scan(cursor:namePrefix:count:)``: the next cursor (`0` when it is through) and the locks found.
  public func decodeScan(_ reply: RESPValue) -> (cursor: [UInt8], names: [LockName])? {
    guard let parts = reply.elements, parts.count == 2, let cursor = parts[0].bytes, let keys = parts[1].elements else {
      return nil
    }
    return (cursor, keys.compactMap { $0.bytes.flatMap(name(ofLockKey:)) })
  }
}
