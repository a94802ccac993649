import LockTypes

/// Values by name. A full hash table is copied when it grows, which takes a tenth of a second for half a million
/// entries; so many entries are spread over many tables, and adding one never takes long. When few are left the memory
/// goes, too: each session has such a table, and only what stands in it is charged to anybody.
struct NameTable<Value> {
  /// With more entries there are many tables. So many can be copied within one turn.
  private static var oneTableMax: Int { 1024 }
  private static var tablesMax: Int { 512 }
  /// With fewer entries there is one table again.
  private static var manyTablesMin: Int { 256 }
  /// A secret, so that nobody can choose names that all come into one table.
  private static var key: UInt64 { UInt64(truncatingIfNeeded: nameTableKey) | 1 }

  /// All entries, until they are spread over `tables`.
  private var few: [LockName: Value] = [:]
  /// Empty until then.
  private var tables: [[LockName: Value]] = []
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }
  /// How many entries it has memory for.
  var capacity: Int { tables.reduce(few.capacity) { $0 + $1.capacity } }

  subscript(name: LockName) -> Value? {
    get { tables.isEmpty ? few[name] : tables[index(of: name)][name] }
    set {
      if let newValue { updateValue(newValue, forKey: name) } else { removeValue(forKey: name) }
    }
  }

  /// Sets the value of a name and returns the one before.
  @discardableResult
  mutating func updateValue(_ value: Value, forKey name: LockName) -> Value? {
    let old =
      tables.isEmpty
      ? few.updateValue(value, forKey: name) : tables[index(of: name)].updateValue(value, forKey: name)
    guard old == nil else { return old }
    count += 1
    if count > Self.oneTableMax, tables.isEmpty { spread() }
    return nil
  }

  mutating func removeValue(forKey name: LockName) {
    if tables.isEmpty {
      guard few.removeValue(forKey: name) != nil else { return }
      count -= 1
      return few.shrinkIfSparse()
    }
    let index = index(of: name)
    guard tables[index].removeValue(forKey: name) != nil else { return }
    count -= 1
    if count < Self.manyTablesMin { gather() } else { tables[index].shrinkIfSparse() }
  }

  /// All values, in no order.
  var values: some Sequence<Value> { ([few] + tables).lazy.flatMap(\.values) }

  private mutating func spread() {
    tables = Array(repeating: [:], count: Self.tablesMax)
    for (name, value) in few { tables[index(of: name)][name] = value }
    few = [:]
  }

  private mutating func gather() {
    few.reserveCapacity(2 * count)
    for table in tables { few.merge(table) { first, _ in first } }
    tables = []
  }

  private func index(of name: LockName) -> Int {
    let hash = name.bytes.withUnsafeBytes { bytes in
      var hash = UInt64(truncatingIfNeeded: bytes.count)
      var offset = 0
      while offset + 8 <= bytes.count {
        hash = (hash ^ bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self)) &* Self.key
        hash ^= hash >> 29
        offset += 8
      }
      while offset < bytes.count {
        hash = (hash ^ UInt64(bytes[offset])) &* Self.key
        offset += 1
      }
      return hash ^ hash >> 32
    }
    return Int(truncatingIfNeeded: hash & UInt64(Self.tablesMax - 1))
  }
}

/// Comes from the seed of Swift's hash tables, which is another one in each process.
private let nameTableKey: Int = {
  var hasher = Hasher()
  hasher.combine(0)
  return hasher.finalize()
}()
