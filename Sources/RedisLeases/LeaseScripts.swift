public import RESP

extension ScriptName {
  /// Takes a lease or queues for it.
  public static let acquire = ScriptName(rawValue: "acquire")
  /// Gives a lease back or leaves the queue.
  public static let release = ScriptName(rawValue: "release")
  /// Lets other hosts share a lease.
  public static let downgrade = ScriptName(rawValue: "downgrade")
  /// Reserves more tokens for a lease.
  public static let reserve = ScriptName(rawValue: "reserve")
  /// Extends many leases.
  public static let renew = ScriptName(rawValue: "renew")
  /// Takes again the leases that the data set may not know.
  public static let reclaim = ScriptName(rawValue: "reclaim")
  /// Confirms the epoch of the data set, or begins one.
  public static let confirmEpoch = ScriptName(rawValue: "confirm_epoch")
  /// Tells which places in queues are lost.
  public static let places = ScriptName(rawValue: "places")
  /// Tells what stands in Redis about some locks.
  public static let inspect = ScriptName(rawValue: "inspect")
}

extension RedisScript {
  /// The scripts of the host leases, as they run: the quick way through the usual cases, what stands in a lock's value,
  /// what those of one lock share, and the script itself.
  public static let leases = leases(withQuickWays: true)

  /// The same, with or without the quick ways; for tests, which compare the two.
  package static func leases(withQuickWays: Bool) -> [RedisScript] {
    let quickAcquire = withQuickWays ? PackageResources.quick_acquire_lua : []
    let quickRelease = withQuickWays ? PackageResources.quick_release_lua : []
    return [
      ofOneLock(.acquire, PackageResources.acquire_lua, after: quickAcquire),
      ofOneLock(.release, PackageResources.release_lua, after: quickRelease),
      ofOneLock(.downgrade, PackageResources.downgrade_lua),
      ofOneLock(.reserve, PackageResources.reserve_lua),
      ofOneLock(.takeAway, PackageResources.take_away_lua),
      RedisScript(name: .renew, source: PackageResources.values_lua + PackageResources.renew_lua),
      RedisScript(name: .reclaim, source: PackageResources.values_lua + PackageResources.reclaim_lua),
      RedisScript(name: .confirmEpoch, source: PackageResources.values_lua + PackageResources.confirm_epoch_lua),
      RedisScript(name: .places, source: PackageResources.values_lua + PackageResources.places_lua),
      RedisScript(name: .inspect, source: PackageResources.values_lua + PackageResources.inspect_lua),
    ]
  }

  private static func ofOneLock(_ name: ScriptName, _ source: [UInt8], after quickWay: [UInt8] = []) -> RedisScript {
    RedisScript(name: name, source: quickWay + PackageResources.values_lua + PackageResources.common_lua + source)
  }
}
