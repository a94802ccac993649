import LockTypes

/// Values by names. However many there are, adding one never takes long: a hash table that is full is copied, which for half
/// a million entries takes a tenth of a second, so that many entries are spread over many tables.
struct NameTable<Value> {
  /// Entries above which there are many tables. It is less than what one turn may take to copy.
  private static var oneTableMax: Int { 1024 }
  private static var tablesMax: Int { 512 }
  /// Nobody outside knows it, so that nobody can choose names that all come into one table.
  private static var key: UInt64 { UInt64(truncatingIfNeeded: nameTableKey) | 1 }

  /// All of them while they are few.
  private var few: [LockName: Value] = [:]
  /// Empty while they are few.
  private var tables: [[LockName: Value]] = []
  private(set) var count = 0

  var isEmpty: Bool { count == 0 }

  subscript(name: LockName) -> Value? {
    get { tables.isEmpty ? few[name] : tables[index(of: name)][name] }
    set {
      if let newValue { updateValue(newValue, forKey: name) } else { removeValue(forKey: name) }
    }
  }

  /// Puts a value in the place of the one that there was, which it gives.
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
    let old = tables.isEmpty ? few.removeValue(forKey: name) : tables[index(of: name)].removeValue(forKey: name)
    if old != nil { count -= 1 }
  }

  /// All values, in no order.
  var values: some Sequence<Value> { ([few] + tables).lazy.flatMap(\.values) }

  private mutating func spread() {
    tables = Array(repeating: [:], count: Self.tablesMax)
    for (name, value) in few { tables[index(of: name)][name] = value }
    few = [:]
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

/// What the process' hash tables are keyed with, which is another one in each process.
private let nameTableKey: Int = {
  var hasher = Hasher()
  hasher.combine(0)
  return hasher.finalize()
}()
