extension ScriptName {
  /// Takes a lease or queues for it.
  public static let acquire = ScriptName(rawValue: "acquire")
  /// Gives a lease back or leaves the queue.
  public static let release = ScriptName(rawValue: "release")
  /// Lets other hosts share a lease.
  public static let downgrade = ScriptName(rawValue: "downgrade")
  /// Puts the end of many leases off.
  public static let renew = ScriptName(rawValue: "renew")
  /// Tells what stands in Redis about some locks.
  public static let inspect = ScriptName(rawValue: "inspect")
}

extension RedisScript {
  /// The scripts of the host leases, as they run: what stands in a lock's value before all of them, and what those of
  /// one lock share before those.
  public static let leases: [RedisScript] = [
    ofOneLock(.acquire, PackageResources.acquire_lua),
    ofOneLock(.release, PackageResources.release_lua),
    ofOneLock(.downgrade, PackageResources.downgrade_lua),
    RedisScript(name: .renew, source: PackageResources.values_lua + PackageResources.renew_lua),
    RedisScript(name: .inspect, source: PackageResources.values_lua + PackageResources.inspect_lua),
  ]

  private static func ofOneLock(_ name: ScriptName, _ source: [UInt8]) -> RedisScript {
    RedisScript(name: name, source: PackageResources.values_lua + PackageResources.common_lua + source)
  }
}
