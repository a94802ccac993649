import SidelockClient

/// The answer of Redis to INFO.
struct RedisInfo {
  private var fields: [String: String] = [:]

  init(_ text: String) {
    for line in text.split(whereSeparator: \.isNewline) {
      guard let end = line.firstIndex(of: ":"), line.first != "#" else { continue }
      fields["\(line[..<end])"] = "\(line[line.index(after: end)...])"
    }
  }

  subscript(field: String) -> String? { fields[field] }

  func number(_ field: String) -> Int64? { fields[field].flatMap { Int64($0) } }
}

/// In how many parts the locks on a Redis Cluster are (`protocol/formats.md`).
let partsOfCluster: Int64 = 64

/// What the figures of `stats` about a Redis Cluster say of parts that it does not serve; nil: it serves all, or is none.
func unservedParts(_ cluster: JSONValue?) -> String? {
  guard let place = unservedPlace(cluster) else { return nil }
  let reason = cluster?["unserved_reason"]?.stringValue.map { ": \(printable($0))" } ?? "; the log tells why"
  return "\(place) of all locks are not served by the Redis Cluster\(reason)"
}

/// Which those are, such as "3 of 64 parts"; nil: there are none.
func unservedPlace(_ cluster: JSONValue?) -> String? {
  guard let parts = cluster?["parts_unserved"]?.intValue, parts > 0 else { return nil }
  return "\(parts) of \(partsOfCluster) parts"
}

/// What the figures of `stats` about Redis say of a grace, in which nothing new is granted.
struct GraceWords: Equatable {
  /// For how long yet, in milliseconds.
  var leftMilliseconds: Int64
  /// In how many of the parts of a Redis Cluster; nil: there are no parts, or it is in all of them.
  var parts: Int64?

  /// nil: there is none.
  init?(_ redis: JSONValue) {
    guard let left = redis["grace_ms"]?.intValue, left > 0 else { return nil }
    leftMilliseconds = left
    parts = redis["cluster"]?["parts_recovering"]?.intValue.flatMap { (1..<partsOfCluster).contains($0) ? $0 : nil }
  }

  /// Where it is, such as " in 3 of 64 parts"; nil: there are no parts, or it is in all of them.
  var place: String? { parts.map { " in \($0) of \(partsOfCluster) parts" } }

  var text: String {
    let place = place.map { "\($0) of all locks" } ?? ""
    return "Redis has other data than before\(place); nothing new is granted \(parts == nil ? "" : "there ")"
      + "for \(readable(milliseconds: leftMilliseconds))"
  }
}

/// What is found about Redis, by what the daemon knows and is told.
enum RedisFindings {
  /// The oldest version that works.
  private static let versionMin = (6, 2)
  /// A clock that is apart by less than this says nothing, in microseconds.
  private static let skewMax: Int64 = 2_000_000

  /// - Parameter detail: why, in the daemon's words, as far as it knows.
  private static func useless(_ what: String, _ detail: String?) -> Finding {
    .bad(
      "redis", what + (detail.map { ": \(printable($0))" } ?? ""),
      fix: detail.flatMap(ErrorWords.remedy) ?? "journalctl -u sidelockd -n 50")
  }

  static func unreachable(_ figures: JSONValue) -> Finding {
    useless("the daemon cannot use Redis", figures["down_reason"]?.stringValue)
  }

  static func reached(_ figures: JSONValue, _ server: RedisServerWords) -> Finding {
    if let words = unservedParts(figures["cluster"]) {
      return .bad("redis", words, fix: "\(server.command("CLUSTER NODES")); journalctl -u sidelockd -n 50")
    }
    if let refusal = figures["refused"]?.stringValue { return useless("Redis refuses locks", refusal) }
    if let grace = GraceWords(figures) {
      return .warn(
        "redis", grace.text, fix: "sleep \((grace.leftMilliseconds + 999) / 1000); sidelock health --ready")
    }
    return .ok("redis", "it answers within \(figures["round_trip_ms"]?.intValue ?? 0) ms")
  }

  /// What Redis said where it refused what may be missing; nil where it did not.
  static func rights(_ server: RedisServerWords, info: String?, pubsub: String?, scan: String?) -> [Finding] {
    let missing = [
      (info, "info", "each new connection begins a grace, in which nothing new is granted"),
      (pubsub, "pubsub", "the first host begins with a grace, and hosts are not told"),
      (scan, "scan", "list --all does not work"),
    ].filter { $0.0?.contains("NOPERM") == true || $0.0?.contains("no permissions") == true }
    if missing.isEmpty { return [.ok("rights", "Redis allows the daemon what it needs")] }
    return missing.map { _, right, loss in
      .warn(
        "rights", "Redis does not allow \(right): \(loss)",
        fix: server.command("ACL SETUSER \(server.user) +\(right)"))
    }
  }

  /// - Parameters:
  ///   - replicasNeeded: how many replicas the daemon's settings ask for.
  ///   - microseconds: the time of this host.
  ///   - needsDisk: whether leases must be on the disk of Redis.
  ///   - keyPrefix: the daemon's; nil where it is not known.
  ///   - prefixes: those under which hosts listen.
  static func server(
    _ server: RedisServerWords, _ info: RedisInfo, replicasNeeded: Int64, microseconds: Int64, needsDisk: Bool,
    keyPrefix: String?, prefixes: [String]
  ) -> [Finding] {
    [
      version(info, server), eviction(info, server), persistence(info, server, needsDisk: needsDisk),
      replicas(info, server, needed: replicasNeeded),
      clock(info, microseconds: microseconds), self.prefixes(prefixes, own: keyPrefix),
    ]
  }

  private static func version(_ info: RedisInfo, _ server: RedisServerWords) -> Finding {
    let name = info["valkey_version"].map { "Valkey \($0)" } ?? info["redis_version"].map { "Redis \($0)" }
    guard let name else {
      return .warn("server", "the server does not tell its version", fix: server.command("INFO server"))
    }
    let parts = (info["redis_version"] ?? "").split(separator: ".").compactMap { Int($0) }
    guard parts.count >= 2, (parts[0], parts[1]) < versionMin else { return .ok("server", name) }
    return .bad("server", "\(name) is too old: 6.2 or newer is needed", fix: "sudo apt-get install redis-server")
  }

  private static func eviction(_ info: RedisInfo, _ server: RedisServerWords) -> Finding {
    let policy = info["maxmemory_policy"] ?? "noeviction"
    guard policy != "noeviction" else { return .ok("eviction", "no key is evicted") }
    let fix = server.command("CONFIG SET maxmemory-policy noeviction")
    guard info.number("maxmemory") ?? 0 > 0 else {
      return .warn("eviction", "the policy \(policy) would evict locks, once maxmemory is set", fix: fix)
    }
    return .bad("eviction", "the policy \(policy) evicts locks when memory is short", fix: fix)
  }

  private static func persistence(_ info: RedisInfo, _ server: RedisServerWords, needsDisk: Bool) -> Finding {
    if info["aof_enabled"] == "1" {
      guard info["aof_last_write_status"] ?? "ok" == "ok" else {
        return .bad(
          "persistence", "the append-only file cannot be written", fix: server.command("INFO persistence") + "; df -h")
      }
      return .ok("persistence", "an append-only file is kept")
    }
    if info["rdb_last_bgsave_status"] ?? "ok" != "ok" {
      return .bad(
        "persistence", "the last snapshot failed, after which Redis may refuse writes",
        fix: server.command("INFO persistence") + "; df -h")
    }
    if needsDisk {
      return .bad(
        "persistence", "the settings ask for leases on disk, and no append-only file is kept",
        fix: server.command("CONFIG SET appendonly yes"))
    }
    return .ok(
      "persistence",
      "no append-only file is kept, and none is needed: the daemons remember, and a restart costs a grace either way")
  }

  private static func replicas(_ info: RedisInfo, _ server: RedisServerWords, needed: Int64) -> Finding {
    let check = "replicas"
    if info["role"] == "slave" {
      return .bad(
        check, "the daemon is connected to a replica, which takes no writes", fix: server.command("REPLICAOF NO ONE"))
    }
    let count = info.number("connected_slaves") ?? 0
    let states = (0..<max(0, count)).compactMap { info["slave\($0)"] }
    let good = Int64(states.count { $0.contains("state=online") })
    if info.number("min_slaves_good_slaves") == 0 {
      return .bad(
        check, "Redis refuses writes, as it has fewer replicas than min-replicas-to-write",
        fix: server.command("CONFIG SET min-replicas-to-write 0"))
    }
    if good < needed {
      return .bad(
        check, "the settings ask for \(needed) replica\(needed == 1 ? "" : "s"), and \(good) have what Redis has",
        fix: server.command("INFO replication"))
    }
    if good < count {
      return .warn(
        check, "\(good) of \(count) replicas have what Redis has", fix: server.command("INFO replication"))
    }
    return .ok(check, count == 0 ? "there are none, and none are asked for" : "\(count), all of them in time")
  }

  private static func clock(_ info: RedisInfo, microseconds: Int64) -> Finding {
    guard let server = info.number("server_time_usec") else { return .ok("clock", "the server does not tell its time") }
    let apart = microseconds - server
    guard abs(apart) > skewMax else { return .ok("clock", "that of Redis is as that of this host") }
    let words = readable(milliseconds: abs(apart) / 1000)
    return .warn(
      "clock",
      "that of Redis is \(words) \(apart > 0 ? "behind" : "ahead of") that of this host; locks are safe, and tokens rise all the same",
      fix: "timedatectl timesync-status")
  }

  private static func prefixes(_ prefixes: [String], own: String?) -> Finding {
    let others = prefixes.filter { $0 != own }
    guard let own, !others.isEmpty else {
      return prefixes.count < 2 || own != nil
        ? .ok("prefixes", "all hosts there have the same key_prefix")
        : .warn(
          "prefixes", "hosts there have different key_prefixes: \(prefixes.joined(separator: ", "))",
          fix: Finding.doctorAsRoot)
    }
    return .warn(
      "prefixes",
      "this host has the key_prefix \(own), and others there \(others.joined(separator: ", ")): they do not share locks",
      fix: "sidelockd --check | jq .settings.key_prefix")
  }

  static func hosts(_ hosts: [JSONValue]) -> Finding {
    let own = hosts.first { $0["own"]?.boolValue == true }?["version"]?.stringValue
    let names = { (chosen: [JSONValue]) in chosen.compactMap { $0["host"]?.stringValue }.joined(separator: ", ") }
    let others = hosts.filter { $0["version"] != nil && $0["version"]?.stringValue != own }
    let silent = hosts.filter { $0["version"] == nil }
    let twice = HostsCommand.namesOfSeveral(hosts)
    if !twice.isEmpty {
      return .warn(
        "hosts", "several daemons have the name \(twice.joined(separator: ", ")), and nobody can tell them apart",
        fix: HostsCommand.ownNameFix)
    }
    if !silent.isEmpty {
      return .warn("hosts", "no answer comes from \(names(silent))", fix: "sidelock hosts")
    }
    if !others.isEmpty {
      return .warn("hosts", "another version than here runs on \(names(others))", fix: "sidelock hosts")
    }
    return .ok("hosts", "\(hosts.count), of one version")
  }
}
