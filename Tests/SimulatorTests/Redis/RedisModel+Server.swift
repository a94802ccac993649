/// What a server says about itself and its channels, inside scripts and outside, and what is done to whole databases.
extension RedisModel {
  /// Each process has its own.
  var runID: String { Self.identity(runCount, "a") }
  /// What the data are a history of.
  var replicationID: String { Self.identity(historyCount, "b") }

  /// What they were a history of before this server was promoted.
  var secondReplicationID: String {
    wasPromoted ? Self.identity(historyCount - 1, "b") : String(repeating: "0", count: 40)
  }

  private static func identity(_ number: Int, _ kind: Character) -> String {
    let digits = String(number, radix: 16)
    return String(repeating: kind, count: 40 - digits.count) + digits
  }

  /// nil for what is no such command.
  func serverCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply? {
    switch name {
    case "INFO":
      guard a.count == 1 else { throw ModelError(description: "INFO \(a)") }
      switch a[0].text.lowercased() {
      case "server": return .bulk(Bytes("# Server\r\nredis_version:7.0.15\r\nrun_id:\(runID)\r\n"))
      case "replication":
        let role = trouble == .readOnly ? "slave" : "master"
        let ids = "master_replid:\(replicationID)\r\nmaster_replid2:\(secondReplicationID)\r\n"
        return .bulk(Bytes("# Replication\r\nrole:\(role)\r\n\(ids)"))
      default: throw ModelError(description: "INFO \(a)")
      }
    case "PUBSUB":
      guard a.count == 2, a[0].text.uppercased() == "CHANNELS" else { throw ModelError(description: "PUBSUB \(a)") }
      let channels = Set(clients.values.flatMap(\.channels)).filter { Self.matches($0.array[...], a[1].array[...]) }
      return .array(channels.sorted { $0.text < $1.text }.map { .bulk($0) })
    default: return nil
    }
  }

  func databaseCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply {
    switch (name, a) {
    case ("FLUSHALL", []): flushAll()
    case ("FLUSHDB", []): flushDatabase()
    case ("SWAPDB", ["0", "1"]), ("SWAPDB", ["1", "0"]): swapDatabases()
    default: throw ModelError(description: "\(name) \(a)")
    }
    return .ok
  }

  /// Whether a name fits a pattern of `*`, `?` and `\`, as Redis reads it. Sets of characters are not in the model.
  private static func matches(_ name: ArraySlice<UInt8>, _ pattern: ArraySlice<UInt8>) -> Bool {
    guard let first = pattern.first else { return name.isEmpty }
    let rest = pattern.dropFirst()
    switch first {
    case UInt8(ascii: "*"):
      return matches(name, rest) || (!name.isEmpty && matches(name.dropFirst(), pattern))
    case UInt8(ascii: "?"): return !name.isEmpty && matches(name.dropFirst(), rest)
    case UInt8(ascii: "\\") where !rest.isEmpty:
      return name.first == rest.first && matches(name.dropFirst(), rest.dropFirst())
    default: return name.first == first && matches(name.dropFirst(), rest)
    }
  }
}

extension Array where Element == UInt8 {
  func ends(with suffix: [UInt8]) -> Bool {
    count >= suffix.count && self[(count - suffix.count)...].elementsEqual(suffix)
  }
}
