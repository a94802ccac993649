extension ScriptName {
  /// Takes a lease or queues for it.
  public static let acquire = ScriptName(rawValue: "acquire")
  /// Gives a lease back or leaves the queue.
  public static let release = ScriptName(rawValue: "release")
  /// Puts the expiry of many leases off.
  public static let renew = ScriptName(rawValue: "renew")
  /// Tells what stands in Redis about some locks.
  public static let inspect = ScriptName(rawValue: "inspect")
}

extension RedisScript {
  /// The scripts of the host leases, as they run: those of one lock with what they share before them.
  public static let leases: [RedisScript] = [
    RedisScript(name: .acquire, source: PackageResources.common_lua + PackageResources.acquire_lua),
    RedisScript(name: .release, source: PackageResources.common_lua + PackageResources.release_lua),
    RedisScript(name: .renew, source: PackageResources.renew_lua),
    RedisScript(name: .inspect, source: PackageResources.inspect_lua),
  ]
}
