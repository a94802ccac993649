public import RESP

extension RedisRights {
  /// What locks under `keyPrefix` need.
  public static func leases(keyPrefix: [UInt8]) -> RedisRights {
    RedisRights(keyPrefix: keyPrefix, commands: leaseCommands, extraCommands: extraLeaseCommands)
  }

  /// The commands that scripts use, and those that the daemon uses otherwise. probe.lua tries them; a test holds it, the
  /// other scripts and this list against each other.
  package static let leaseCommands = [
    "del", "exists", "get", "lindex", "llen", "lpop", "lpos", "lrange", "lrem", "pexpire", "ping", "pttl", "publish",
    "rpush", "scan", "set", "time", "type",
  ]

  /// Commands without which locks work: they are missed by `list` of all hosts, and where a key of a lock holds other data
  /// by who is told so.
  private static let extraLeaseCommands: Set<String> = ["scan", "type"]
}
