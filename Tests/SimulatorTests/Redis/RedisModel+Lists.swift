/// Lists and sorted sets.
extension RedisModel {
  func listCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply? {
    let known = ["LPUSH", "RPUSH", "LPOP", "RPOP", "LLEN", "LINDEX", "LRANGE", "LREM", "LPOS"]
    guard known.contains(name), let key = a.first else { return nil }
    let old = try entry(key)
    var list: [Bytes] = []
    switch old?.value {
    case nil: break
    case .list(let found): list = found
    case .string, .hash, .sortedSet: return Self.numbersAreGood(name, a) ? .wrongType : .notAnInteger
    }
    switch (name, a.count) {
    case ("LPUSH", 2...):
      list.insert(contentsOf: a.dropFirst().reversed(), at: 0)
      store(key, value: .list(list), keepingExpiryOf: old)
      return .integer(Int64(list.count))
    case ("RPUSH", 2...):
      list += a.dropFirst()
      store(key, value: .list(list), keepingExpiryOf: old)
      return .integer(Int64(list.count))
    case ("LPOP", 1), ("RPOP", 1):
      guard !list.isEmpty else { return .null }
      let taken = name == "LPOP" ? list.removeFirst() : list.removeLast()
      storeList(key, list, old)
      return .bulk(taken)
    case ("LPOP", 2), ("RPOP", 2):
      guard let count = a[1].integer, count >= 0 else { return .error("ERR value is out of range, must be positive") }
      if old == nil { return .null }
      let taken = (0..<min(Int(clamping: count), list.count)).map { _ in
        name == "LPOP" ? list.removeFirst() : list.removeLast()
      }
      if !taken.isEmpty { storeList(key, list, old) }
      return .array(taken.map { .bulk($0) })
    case ("LLEN", 1): return .integer(Int64(list.count))
    case ("LINDEX", 2):
      if old == nil { return .null }
      guard let index = a[1].integer else { return .notAnInteger }
      let at = index < 0 ? index + Int64(list.count) : index
      return at >= 0 && at < list.count ? .bulk(list[Int(at)]) : .null
    case ("LRANGE", 3):
      guard let first = a[1].integer, let last = a[2].integer else { return .notAnInteger }
      return .array(Self.slice(list, first, last).map { .bulk($0) })
    case ("LREM", 3):
      guard let count = a[1].integer else { return .notAnInteger }
      let removed = Self.remove(a[2], count, from: &list)
      if removed > 0 { storeList(key, list, old) }
      return .integer(removed)
    case ("LPOS", 2): return list.firstIndex(of: a[1]).map { .integer(Int64($0)) } ?? .null
    default: return nil
    }
  }

  /// Redis reads the numbers of these before it looks at the key.
  private static func numbersAreGood(_ name: String, _ a: [Bytes]) -> Bool {
    switch (name, a.count) {
    case ("LRANGE", 3), ("ZRANGE", 3): a[1].integer != nil && a[2].integer != nil
    case ("LREM", 3): a[1].integer != nil
    default: true
    }
  }

  private func storeList(_ key: Bytes, _ list: [Bytes], _ old: Entry?) {
    if list.isEmpty { store(key, nil) } else { store(key, value: .list(list), keepingExpiryOf: old) }
  }

  private static func slice<Item>(_ items: [Item], _ first: Int64, _ last: Int64) -> ArraySlice<Item> {
    let count = Int64(items.count)
    let low = max(0, first < 0 ? first + count : first)
    let high = min(count - 1, last < 0 ? last + count : last)
    return low <= high ? items[Int(low)...Int(high)] : []
  }

  private static func remove(_ item: Bytes, _ count: Int64, from list: inout [Bytes]) -> Int64 {
    var removed: Int64 = 0
    var left = count == 0 ? Int64.max : count.magnitude > UInt64(Int64.max) ? Int64.max : abs(count)
    if count < 0 { list.reverse() }
    list.removeAll { candidate in
      guard left > 0, candidate == item else { return false }
      left -= 1
      removed += 1
      return true
    }
    if count < 0 { list.reverse() }
    return removed
  }

  // MARK: Sorted sets

  /// Scores are whole numbers here; a fraction throws.
  func sortedSetCommand(_ name: String, _ a: [Bytes]) throws -> ServerReply? {
    let known = ["ZADD", "ZREM", "ZSCORE", "ZCARD", "ZRANK", "ZRANGE", "ZPOPMIN"]
    guard known.contains(name), let key = a.first else { return nil }
    let old = try entry(key)
    var set: [(member: Bytes, score: Int64)] = []
    switch old?.value {
    case nil: break
    case .sortedSet(let found): set = found
    case .string, .list, .hash: return Self.numbersAreGood(name, a) ? .wrongType : .notAnInteger
    }
    switch (name, a.count) {
    case ("ZADD", 3...): return try add(a, to: &set, key, old)
    case ("ZREM", 2...):
      let before = set.count
      set.removeAll { item in a.dropFirst().contains(item.member) }
      if before != set.count { storeSet(key, set, old) }
      return .integer(Int64(before - set.count))
    // In a script, and to a RESP2 client, a score is a bulk string.
    case ("ZSCORE", 2): return set.first { $0.member == a[1] }.map { .bulk(Bytes($0.score)) } ?? .null
    case ("ZCARD", 1): return .integer(Int64(set.count))
    case ("ZRANK", 2): return set.firstIndex { $0.member == a[1] }.map { .integer(Int64($0)) } ?? .null
    case ("ZRANGE", 3):
      guard let first = a[1].integer, let last = a[2].integer else { return .notAnInteger }
      return .array(Self.slice(set, first, last).map { .bulk($0.member) })
    case ("ZPOPMIN", 1):
      guard !set.isEmpty else { return .array([]) }
      let taken = set.removeFirst()
      storeSet(key, set, old)
      return .array([.bulk(taken.member), .bulk(Bytes(taken.score))])
    default: return nil
    }
  }

  private func storeSet(_ key: Bytes, _ set: [(member: Bytes, score: Int64)], _ old: Entry?) {
    if set.isEmpty { store(key, nil) } else { store(key, value: .sortedSet(set), keepingExpiryOf: old) }
  }

  private func add(
    _ a: [Bytes], to set: inout [(member: Bytes, score: Int64)], _ key: Bytes, _ old: Entry?
  ) throws -> ServerReply {
    var index = 1
    var onlyNew = false
    if a[1].text.uppercased() == "NX" {
      onlyNew = true
      index += 1
    }
    guard (a.count - index) % 2 == 0, index < a.count else { return .syntaxError }
    var added: Int64 = 0
    for at in stride(from: index, to: a.count, by: 2) {
      guard let score = a[at].integer, score.magnitude < 1 << 53 else {
        throw ModelError(description: "ZADD with the score \(a[at])")
      }
      if let found = set.firstIndex(where: { $0.member == a[at + 1] }) {
        if !onlyNew { set[found].score = score }
      } else {
        set.append((a[at + 1], score))
        added += 1
      }
    }
    set.sort {
      $0.score != $1.score ? $0.score < $1.score : $0.member.array.lexicographicallyPrecedes($1.member.array)
    }
    storeSet(key, set, old)
    return .integer(added)
  }
}
