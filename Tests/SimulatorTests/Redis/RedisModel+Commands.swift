/// The commands on data, inside scripts and outside.
extension RedisModel {
  func dataCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply {
    switch (name, a.count) {
    case ("PING", 0): return .status("PONG")
    case ("TIME", 0):
      return .array([.bulk(Bytes(wallMicroseconds / 1_000_000)), .bulk(Bytes(wallMicroseconds % 1_000_000))])
    // More than COUNT may come, and all of it.
    case ("SCAN", 3) where a[0] == "0" && a[1] == "COUNT":
      return .array([.bulk("0"), .array(liveKeys().sorted { $0.text < $1.text }.map { .bulk($0) })])
    case ("PUBLISH", 2): return .integer(publish(a[0], a[1]))
    case ("EXISTS", 1...): return .integer(Int64(try a.filter { try entry($0) != nil }.count))
    case ("DEL", 1...): return try del(a)
    case ("TYPE", 1): return .status(try type(a[0]))
    case ("PTTL", 1): return .integer(try ttl(a[0]))
    case ("PEXPIRE", 2...3): return try expire(a)
    case ("PERSIST", 1): return try persist(a[0])
    case ("GET", 1): return try string(a[0]) { $0.map { .bulk($0) } ?? .null }
    case ("STRLEN", 1): return try string(a[0]) { .integer(Int64($0?.count ?? 0)) }
    case ("SET", 2...): return try set(a)
    case ("INCR", 1): return try increment(a[0], 1)
    case ("INCRBY", 2):
      guard let step = a[1].integer else { return .notAnInteger }
      return try increment(a[0], step)
    default:
      if let reply = try listCommand(name, a) { return reply }
      if let reply = try hashCommand(name, a) { return reply }
      if let reply = try sortedSetCommand(name, a) { return reply }
      throw ModelError(description: "the command \(name) with \(a.count) arguments is not in the model")
    }
  }

  private func del(_ keys: [Bytes]) throws -> ServerReply {
    var count: Int64 = 0
    for key in keys where try entry(key) != nil {
      store(key, nil)
      count += 1
    }
    return .integer(count)
  }

  private func type(_ key: Bytes) throws -> Bytes {
    switch try entry(key)?.value {
    case nil: "none"
    case .string: "string"
    case .list: "list"
    case .hash: "hash"
    case .sortedSet: "zset"
    }
  }

  private func ttl(_ key: Bytes) throws -> Int64 {
    guard let found = try entry(key) else { return -2 }
    guard let end = found.expiresAtMilliseconds else { return -1 }
    return max(0, end - nowMilliseconds)
  }

  private func expire(_ a: [Bytes]) throws -> ServerReply {
    if a.count == 3, !["NX", "XX", "GT", "LT"].contains(a[2].text.uppercased()) {
      return .error(Bytes("ERR Unsupported option \(a[2])"))
    }
    guard let span = a[1].integer else { return .notAnInteger }
    let (end, overflow) = nowMilliseconds.addingReportingOverflow(span)
    if overflow { return .error("ERR invalid expire time in 'pexpire' command") }
    guard var found = try entry(a[0]) else { return .integer(0) }
    let current = found.expiresAtMilliseconds
    if a.count == 3 {
      switch a[2].text.uppercased() {
      case "NX": if current != nil { return .integer(0) }
      case "XX": if current == nil { return .integer(0) }
      case "GT": if current.map({ end <= $0 }) ?? true { return .integer(0) }
      case "LT": if current.map({ end >= $0 }) ?? false { return .integer(0) }
      default: break
      }
    }
    found.expiresAtMilliseconds = end
    store(a[0], end <= nowMilliseconds ? nil : found)
    return .integer(1)
  }

  private func persist(_ key: Bytes) throws -> ServerReply {
    guard var found = try entry(key), found.expiresAtMilliseconds != nil else { return .integer(0) }
    found.expiresAtMilliseconds = nil
    store(key, found)
    return .integer(1)
  }

  // MARK: Strings

  private func string(_ key: Bytes, _ body: (Bytes?) -> ServerReply) throws -> ServerReply {
    switch try entry(key)?.value {
    case nil: body(nil)
    case .string(let bytes): body(bytes)
    case .list, .hash, .sortedSet: .wrongType
    }
  }

  private struct SetOptions {
    var onlyIfNew = false
    var onlyIfThere = false
    var keepsExpiry = false
    var givesOld = false
    var expireMilliseconds: Int64?
  }

  private func set(_ a: [Bytes]) throws -> ServerReply {
    var options = SetOptions()
    var index = 2
    while index < a.count {
      let word = a[index].text.uppercased()
      index += 1
      switch word {
      case "NX" where !options.onlyIfThere: options.onlyIfNew = true
      case "XX" where !options.onlyIfNew: options.onlyIfThere = true
      case "KEEPTTL" where options.expireMilliseconds == nil: options.keepsExpiry = true
      case "GET": options.givesOld = true
      case "PX" where !options.keepsExpiry && options.expireMilliseconds == nil && index < a.count,
        "EX" where !options.keepsExpiry && options.expireMilliseconds == nil && index < a.count:
        guard let span = a[index].integer else { return .notAnInteger }
        let (scaled, overflow) = span.multipliedReportingOverflow(by: word == "EX" ? 1000 : 1)
        if span <= 0 || overflow || nowMilliseconds.addingReportingOverflow(scaled).overflow {
          return .error("ERR invalid expire time in 'set' command")
        }
        options.expireMilliseconds = scaled
        index += 1
      case "NX", "XX", "KEEPTTL", "PX", "EX": return .syntaxError
      default: throw ModelError(description: "SET with the option \(word)")
      }
    }
    let old = try entry(a[0])
    var oldBytes: Bytes?
    if let old {
      if case .string(let bytes) = old.value { oldBytes = bytes } else if options.givesOld { return .wrongType }
    }
    let refused: ServerReply = options.givesOld ? oldBytes.map { .bulk($0) } ?? .null : .null
    if options.onlyIfNew && old != nil || options.onlyIfThere && old == nil { return refused }
    var end = options.expireMilliseconds.map { nowMilliseconds + $0 }
    if options.keepsExpiry { end = old?.expiresAtMilliseconds }
    store(a[0], Entry(value: .string(a[1]), expiresAtMilliseconds: end))
    return options.givesOld ? refused : .ok
  }

  private func increment(_ key: Bytes, _ step: Int64) throws -> ServerReply {
    let old = try entry(key)
    var value: Int64 = 0
    switch old?.value {
    case nil: break
    case .string(let bytes):
      guard let read = bytes.integer else { return .notAnInteger }
      value = read
    case .list, .hash, .sortedSet: return .wrongType
    }
    let (sum, overflow) = value.addingReportingOverflow(step)
    if overflow { return .error("ERR increment or decrement would overflow") }
    store(key, value: .string(Bytes(sum)), keepingExpiryOf: old)
    return .integer(sum)
  }

  // MARK: Hashes

  private func hashCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply? {
    guard ["HSET", "HGET", "HDEL", "HGETALL", "HLEN", "HEXISTS"].contains(name), let key = a.first else { return nil }
    let old = try entry(key)
    var fields: [(field: Bytes, value: Bytes)] = []
    switch old?.value {
    case nil: break
    case .hash(let found): fields = found
    case .string, .list, .sortedSet: return .wrongType
    }
    switch (name, a.count) {
    case ("HSET", 3...) where a.count % 2 == 1:
      var added: Int64 = 0
      for index in stride(from: 1, to: a.count, by: 2) {
        if let at = fields.firstIndex(where: { $0.field == a[index] }) {
          fields[at].value = a[index + 1]
        } else {
          fields.append((a[index], a[index + 1]))
          added += 1
        }
      }
      store(key, value: .hash(fields), keepingExpiryOf: old)
      return .integer(added)
    case ("HGET", 2): return fields.first { $0.field == a[1] }.map { .bulk($0.value) } ?? .null
    case ("HEXISTS", 2): return .integer(fields.contains { $0.field == a[1] } ? 1 : 0)
    case ("HLEN", 1): return .integer(Int64(fields.count))
    case ("HGETALL", 1): return .map(fields.flatMap { [.bulk($0.field), .bulk($0.value)] })
    case ("HDEL", 2...):
      let before = fields.count
      fields.removeAll { field in a.dropFirst().contains(field.field) }
      if before != fields.count {
        if fields.isEmpty { store(key, nil) } else { store(key, value: .hash(fields), keepingExpiryOf: old) }
      }
      return .integer(Int64(before - fields.count))
    default: return nil
    }
  }
}
