public import LockEngine
import LockTypes
public import RESP

/// Puts the engine's lease commands into Redis' words, for one daemon.
///
/// A change to a key, an argument or a message here needs the same change in Scripts/ and in the section on Redis in
/// protocol/README.md.
public struct LeaseCommandEncoder: Sendable {
  /// The keys of the locks.
  public let keys: LockKeys
  /// `<host>/<instance>`: the name of this host, and a random hexadecimal number that no other daemon has, nor this
  /// one after a restart.
  public let me: [UInt8]
  /// How many tokens a lease reserves: each grant takes one, and when few are left more are reserved. The counter
  /// follows Redis' clock in microseconds: a host that dies takes it 65 ms ahead of the clock, less than the shortest
  /// lease, so the clock makes up for a counter that is lost.
  package var tokenCount: Int64 = 1 << 16
  /// How long a counter is kept once Redis' clock has reached it, in milliseconds, in case that clock is set back; see
  /// common.lua.
  let fenceMilliseconds: Int64 = 60_000

  /// An encoder for one daemon. `host` consists of letters, digits, `.`, `_` and `-`; `instance` of hexadecimal digits.
  /// `database`: Redis' number of the one that the keys are in. Messages know no databases, so that each has channels of its own.
  public init(keyPrefix: String, database: Int = 0, host: String, instance: String) {
    keys = LockKeys(prefix: Array(keyPrefix.utf8))
    me = Array("\(host)/\(instance)".utf8)
    inboxWord = database == 0 ? "inbox:" : "inbox@\(database):"
    inboxPrefix = Array("\(keyPrefix)\(inboxWord)".utf8)
    epochKey = keys.epochKey
    rights = .leases(keyPrefix: keys.prefix)
  }

  /// The same for one cell of a cluster, at a node of that name. What is published at a node comes to the connections of all
  /// others, too, and there its order tells nothing; so each node has channels of its own.
  init(keyPrefix: String, cell: Int, node: ClusterTopology.NodeID, host: String, instance: String) {
    keys = LockKeys(prefix: Array("\(keyPrefix){".utf8) + ClusterCells.tags[cell] + [0x7D])
    me = Array("\(host)/\(instance)".utf8)
    inboxWord = "inbox:"
    inboxPrefix = Array("\(keyPrefix)\(inboxWord)\(node):".utf8)
    epochKey = keys.epochKey
    rights = .leases(keyPrefix: Array(keyPrefix.utf8), inCluster: true)
  }

  /// The channel that this daemon listens to.
  public var inboxChannel: [UInt8] { inboxPrefix + me }

  let inboxPrefix: [UInt8]
  /// What stands behind the prefix of the keys in the names of all inboxes of this database.
  let inboxWord: String
  let epochKey: [UInt8]
  private let rights: RedisRights

  /// The key that this daemon writes to before it asks how many replicas have what was written by then.
  public var acknowledgementKey: [UInt8] { keys.acknowledgementKey(of: me) }

  /// A key that no lock has: none has an empty name.
  private var keyOfProbe: [UInt8] { keys.prefix + Array("{}probe:".utf8) + me }

  /// What shows this daemon, at connect, that a plain primary serves it.
  public var trial: RedisTrial {
    RedisTrial(script: PackageResources.trial_lua, key: keyOfProbe, message: InboxMessage.encode("trial", []))
  }

  /// What this daemon needs of Redis, to be tried at connect.
  public var probe: RedisProbe {
    // No daemon has the instance 0.
    RedisProbe(
      script: PackageResources.probe_lua, key: keyOfProbe,
      channel: inboxPrefix + Array("-/0".utf8), rights: rights)
  }

  /// The command in Redis' words.
  public func encode(_ command: LeaseCommand) -> RedisCommand {
    switch command {
    case .acquire(
      let name, let attempt, let ask, let isTry, let terms, let mode, let milliseconds, let kept, let since):
      return script(
        .acquire, of: name, attempt: attempt, leaseMilliseconds: milliseconds, terms: terms,
        argumentCount: since == nil ? 4 : 6
      ) {
        mode.write(to: &$0)
        $0.write(decimal: ask)
        $0.write(byte: isTry ? 0x31 : 0x30)
        $0.write(decimal: kept ?? attempt)
        guard let since else { return }
        $0.write(decimal: since.epoch)
        $0.write(decimal: since.clock.microseconds)
      }
    case .release(let name, let attempt, let unused, let isExact, let terms):
      return script(.release, of: name, attempt: attempt, terms: terms, argumentCount: 2) {
        switch unused {
        case .all: $0.write("")
        case .from(let token): $0.write(decimal: token)
        case .unknown: $0.write("-")
        }
        $0.write(byte: isExact ? 0x31 : 0x30)
      }
    case .downgrade(let name, let attempt, let tokenEnd, let terms):
      return script(.downgrade, of: name, attempt: attempt, terms: terms, argumentCount: 1) {
        $0.write(decimal: tokenEnd)
      }
    case .reserve(let name, let attempt, let tokenEnd, let terms):
      return script(.reserve, of: name, attempt: attempt, terms: terms, argumentCount: 1) {
        $0.write(decimal: tokenEnd)
      }
    case .renew(let leases, let milliseconds, let epoch):
      return renew(leases, milliseconds, epoch)
    case .confirmEpoch(let claim):
      return confirm(claim)
    case .reclaim(let leases, let milliseconds, let epoch):
      return reclaim(leases, milliseconds, epoch)
    case .answerInUse(let name, let ask, let inbox):
      return publish(InboxMessage.encode("inuse \(ask)", name.bytes), to: inbox)
    case .checkPlaces(let places, let epoch):
      return checkPlaces(places, epoch)
    case .heartbeat:
      return .plain([Array("PING".utf8)])
    case .clock:
      return .plain([Array("TIME".utf8)])
    case .look(let name):
      return inspect([name], waitingHostsMax: Self.waitingHostsSeenMax)
    case .hostMessage(let inbox, let message):
      return publish(InboxMessage.encode("tell", HostMessageCodec.encode(message)), to: inbox)
    }
  }

  /// Sends a message to another daemon's inbox. The reply is the number of connections that received it: with 0 the
  /// daemon is gone.
  private func publish(_ message: [UInt8], to inbox: String) -> RedisCommand {
    .plain([Array("PUBLISH".utf8), inboxPrefix + Array(inbox.utf8), message])
  }

  /// The most waiting hosts that `look` names.
  static let waitingHostsSeenMax = 64

  /// Asks another daemon something. `id` comes back with its answer.
  public func call(_ payload: [UInt8], id: UInt64, inbox: String) -> RedisCommand {
    publish(
      InboxMessage.encode("call \(id) \(String(decoding: me, as: UTF8.self))", payload), to: inbox)
  }

  /// Answers what another daemon has asked.
  public func answer(_ payload: [UInt8], id: UInt64, inbox: String) -> RedisCommand {
    publish(InboxMessage.encode("answer \(id)", payload), to: inbox)
  }

  /// A script of one lock, with the keys and arguments that all of them have; `body` writes the others, each no longer
  /// than a number.
  private func script(
    _ script: ScriptName, of name: LockName, attempt: UInt64, leaseMilliseconds: Int64 = 0, terms: GrantTerms,
    argumentCount: Int, _ body: (inout BlobWriter) -> Void
  ) -> RedisCommand {
    let tagged = KeyOfLock(name)
    let capacity =
      tagged.capacityOfAll(after: keys.prefix) + BlobWriter.capacity(me.count)
      + BlobWriter.capacity(inboxPrefix.count) + BlobWriter.capacity(name.bytes.count)
      + BlobWriter.capacity(epochKey.count) + terms.epoch.openingCapacity
      + (5 + argumentCount) * BlobWriter.decimalCapacity
    return RedisCommand(script: script, keyCount: 3, argumentCount: 10 + argumentCount, capacity: capacity) {
      tagged.writeAll(after: keys.prefix, to: &$0)
      $0.write(me)
      $0.write(decimal: attempt)
      $0.write(decimal: leaseMilliseconds)
      $0.write(inboxPrefix)
      $0.write(name.bytes)
      $0.write(decimal: tokenCount)
      $0.write(decimal: fenceMilliseconds)
      $0.write(decimal: terms.tokenFloor)
      $0.write(epochKey)
      terms.epoch.writeOpening(to: &$0)
      body(&$0)
    }
  }

  private func renew(_ leases: [LeaseReference], _ leaseMilliseconds: Int64, _ epoch: EpochID) -> RedisCommand {
    var capacity =
      BlobWriter.capacity(me.count) + BlobWriter.capacity(epochKey.count) + epoch.openingCapacity
      + (1 + leases.count) * BlobWriter.decimalCapacity
    for lease in leases { capacity += BlobWriter.capacity(keys.prefix.count + 2 + 3 * lease.name.bytes.count) }
    return RedisCommand(
      script: .renew, keyCount: leases.count, argumentCount: 4 + leases.count, capacity: capacity
    ) {
      for lease in leases { KeyOfLock(lease.name).write(after: keys.prefix, suffix: "", to: &$0) }
      $0.write(me)
      $0.write(decimal: leaseMilliseconds)
      $0.write(epochKey)
      epoch.writeOpening(to: &$0)
      for lease in leases { $0.write(decimal: lease.attempt) }
    }
  }
}
