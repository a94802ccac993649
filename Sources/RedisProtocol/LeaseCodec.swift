public import LockEngine

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
  /// The length of a lease, in milliseconds.
  public let leaseMilliseconds: Int64

  /// How many tokens a lease reserves: a hand-over needs one, and when they are used up the lease is taken anew. The
  /// counter follows Redis' clock in microseconds, so that a host that dies takes it ahead of the clock by 65 ms, which
  /// is less than the shortest lease; a counter that is lost is therefore made up for by the clock.
  static let tokenCount: Int64 = 1 << 16
  /// How long a counter outlives the last grant, in milliseconds: a day, by which Redis' clock may be set back.
  static let fenceMilliseconds: Int64 = 86_400_000

  /// A codec for one daemon. `host` consists of letters, digits, `.`, `_` and `-`; `instance` of hexadecimal digits.
  public init(keyPrefix: String, host: String, instance: String, leaseMilliseconds: Int64) {
    self.keyPrefix = Array(keyPrefix.utf8)
    self.me = Array("\(host)/\(instance)".utf8)
    self.leaseMilliseconds = leaseMilliseconds
  }

  /// The channel that this daemon listens to.
  public var inboxChannel: [UInt8] { inboxPrefix + me }

  private var inboxPrefix: [UInt8] { keyPrefix + Array("inbox:".utf8) }

  // MARK: Keys

  /// The key that exists if and only if somebody holds the lock.
  ///
  /// The name stands in braces, so that all keys of a lock are in one slot of a Redis Cluster. `%`, `{` and `}` in it are
  /// written `%25`, `%7B` and `%7D`: the first closing brace ends a hash tag, and two names must never give one key.
  public func lockKey(_ name: LockName) -> [UInt8] {
    var key = keyPrefix
    key.append(0x7B)
    for byte in name.bytes {
      switch byte {
      case 0x25: key.append(contentsOf: [0x25, 0x32, 0x35])
      case 0x7B: key.append(contentsOf: [0x25, 0x37, 0x42])
      case 0x7D: key.append(contentsOf: [0x25, 0x37, 0x44])
      default: key.append(byte)
      }
    }
    key.append(0x7D)
    return key
  }

  /// The list of hosts that wait for the lock.
  public func queueKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":queue".utf8) }

  /// The highest token reserved.
  public func fenceKey(_ name: LockName) -> [UInt8] { lockKey(name) + Array(":fence".utf8) }

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
    case .acquire(let name, let attempt, let ask, let isTry, let floor, _):
      return .script(
        name: .acquire, keys: keys(of: name),
        arguments: common(name, attempt: attempt, floor: floor) + [decimal(ask), isTry ? [0x31] : [0x30]])
    case .release(let name, let attempt, let firstUnused, _):
      return .script(
        name: .release, keys: keys(of: name),
        arguments: common(name, attempt: attempt, floor: 0) + [firstUnused.map(decimal) ?? []])
    case .renew(let leases):
      return .script(
        name: .renew, keys: leases.map { lockKey($0.name) },
        arguments: [me, decimal(leaseMilliseconds)] + leases.map { decimal($0.attempt) })
    case .answerInUse(let name, let ask, let inbox):
      return .plain([
        Array("PUBLISH".utf8), inboxPrefix + Array(inbox.utf8), Array("inuse \(ask) ".utf8) + name.bytes,
      ])
    case .heartbeat, .downgrade, .look, .tell:
      return .plain([Array("PING".utf8)])
    }
  }

  private func keys(of name: LockName) -> [[UInt8]] {
    [lockKey(name), queueKey(name), fenceKey(name)]
  }

  private func common(_ name: LockName, attempt: UInt64, floor: Token) -> [[UInt8]] {
    [
      me, decimal(attempt), decimal(leaseMilliseconds), inboxPrefix, name.bytes, decimal(Self.tokenCount),
      decimal(Self.fenceMilliseconds), decimal(floor),
    ]
  }

  private func decimal(_ number: some BinaryInteger) -> [UInt8] { Array(String(number).utf8) }

  // MARK: Replies

  /// What a reply to `command` means. Nothing that Redis sends can trap here; what does not fit is a failure.
  public func decode(_ reply: RESPValue, to command: LeaseCommand) -> LeaseReply {
    if let error = reply.error { return .failed(RedisErrorReply.classify(error: error)) }
    switch command {
    case .acquire:
      return acquireReply(reply) ?? .failed(.fatal("Redis gave a reply to acquire.lua that is not understood"))
    case .release, .answerInUse, .heartbeat, .downgrade, .look, .tell:
      return .done
    case .renew(let leases):
      guard let results = reply.elements, results.count == leases.count else {
        return .failed(.fatal("Redis gave a reply to renew.lua that is not understood"))
      }
      return .renewed(results.map { $0.integer == 1 })
    }
  }

  private func acquireReply(_ reply: RESPValue) -> LeaseReply? {
    guard let parts = reply.elements, let outcome = parts.first?.string else { return nil }
    switch (outcome, parts.count) {
    case ("granted", 4):
      guard let token = parts[1].integer, let count = parts[2].integer, let waiting = parts[3].integer else {
        return nil
      }
      return .granted(LeaseGrant(token: token, tokenCount: count, othersWait: waiting > 0))
    case ("queued", 4):
      guard let holder = parts[1].bytes, let expires = parts[2].integer, let receivers = parts[3].integer else {
        return nil
      }
      return .queued(
        holderHost: Self.host(ofInstance: holder), holderExpiresInMilliseconds: max(0, expires),
        listeners: Int(clamping: receivers))
    case ("foreign", 2):
      guard let expires = parts[1].integer else { return nil }
      return .foreign(expiresInMilliseconds: expires < 0 ? nil : expires)
    case ("stale", 1):
      // Executed after a later attempt of this host; the engine has forgotten what it was about.
      return .done
    default:
      return nil
    }
  }

  /// The host's name in `<host>/<instance>`.
  static func host(ofInstance instance: [UInt8]) -> String {
    String(decoding: instance.prefix { $0 != 0x2F }, as: UTF8.self)
  }

  /// What a message to this daemon's inbox means; nil when it is not understood.
  public func decode(message: [UInt8]) -> LeasePush? {
    var rest = message[...]
    func word() -> ArraySlice<UInt8>? {
      guard let space = rest.firstIndex(of: 0x20) else { return nil }
      defer { rest = rest[(space + 1)...] }
      return rest[..<space]
    }
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
      guard let attempt = positive(), let ask = positive(), let isTry = number(), let inbox = word(), !rest.isEmpty
      else { return nil }
      return .contended(
        name: LockName(bytes: Array(rest)), attempt: attempt, ask: ask, isTry: isTry == 1,
        inbox: String(decoding: inbox, as: UTF8.self))
    case "inuse":
      guard let ask = positive(), !rest.isEmpty else { return nil }
      return .inUse(name: LockName(bytes: Array(rest)), ask: ask)
    default:
      return nil
    }
  }
}

/// What stands in Redis about one lock.
public struct LockInspection: Equatable, Sendable {
  /// Who has the lock in Redis.
  public enum Holder: Equatable, Sendable {
    /// Nobody.
    case nobody
    /// A sidelock host: its name, and whether it is this very daemon.
    case host(String, isMe: Bool)
    /// A process that does not use sidelock.
    case foreign
    /// The key holds data that is not a lock.
    case wrongType
  }
  /// Who has the lock.
  public var holder: Holder
  /// When the key expires, in milliseconds; nil where there is no key, or none that expires.
  public var expiresInMilliseconds: Int64?
  /// How many hosts wait.
  public var waitingHostsTotal: Int64
  /// The first of them, by name.
  public var waitingHosts: [String]
}

extension LeaseCodec {
  /// Asks what stands in Redis about `names`, without changing anything.
  public func inspect(_ names: [LockName], waitingHostsMax: Int) -> RedisCommand {
    .script(
      name: .inspect, keys: names.flatMap { [lockKey($0), queueKey($0)] }, arguments: [decimal(waitingHostsMax)])
  }

  /// The reply to ``inspect(_:waitingHostsMax:)`` for `count` names; nil when it is not understood.
  public func decodeInspections(_ reply: RESPValue, count: Int) -> [LockInspection]? {
    guard let entries = reply.elements, entries.count == count else { return nil }
    var found: [LockInspection] = []
    for entry in entries {
      guard let parts = entry.elements, parts.count == 4, let holder = holder(inValue: parts[0]),
        let expires = parts[1].integer,
        let total = parts[2].integer, let hosts = parts[3].elements
      else { return nil }
      found.append(
        LockInspection(
          holder: holder, expiresInMilliseconds: expires < 0 ? nil : expires, waitingHostsTotal: total,
          waitingHosts: hosts.compactMap { $0.bytes.map(Self.host(ofInstance:)) }))
    }
    return found
  }

  private func holder(inValue reply: RESPValue) -> LockInspection.Holder? {
    if reply == .integer(0) { return .wrongType }
    if reply == .null { return .nobody }
    guard let value = reply.bytes else { return nil }
    let parts = value.split(separator: 0x3A, omittingEmptySubsequences: false)
    guard parts.count == 3, parts[0].contains(0x2F), Int64(decimal: parts[1]) != nil, Int64(decimal: parts[2]) != nil
    else { return .foreign }
    return .host(Self.host(ofInstance: Array(parts[0])), isMe: Array(parts[0]) == me)
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
