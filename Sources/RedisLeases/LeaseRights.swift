public import RESP

extension RedisRights {
  /// What locks under `keyPrefix` need.
  public static func leases(keyPrefix: [UInt8], inCluster: Bool = false) -> RedisRights {
    RedisRights(
      keyPrefix: keyPrefix, commands: leaseCommands + (inCluster ? clusterCommands : []),
      extraCommands: extraLeaseCommands)
  }

  /// The commands by which the nodes of a cluster are found.
  package static let clusterCommands = ["cluster|myid", "cluster|nodes"]

  /// The commands that scripts use, and those that the daemon uses otherwise. probe.lua tries them; a test holds it, the
  /// other scripts and this list against each other.
  package static let leaseCommands = [
    "del", "exists", "get", "info", "lindex", "llen", "lpop", "lpos", "lrange", "lrem", "pexpire", "ping", "pttl",
    "publish", "pubsub", "rpush", "scan", "set", "time", "type",
  ]

  /// Commands that locks can do without: `scan` is for `list` of all hosts, `type` names the type of other data in a
  /// lock's key, `info` tells a server that has kept its data from another one, and `pubsub` which other hosts are there:
  /// whether any is when the first lock is taken, and who is to be told of an epoch and of longer leases. Without these two
  /// hosts wait for a grace where there is nothing to wait for.
  private static let extraLeaseCommands: Set<String> = ["info", "pubsub", "scan", "type"]
}
