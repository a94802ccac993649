import LockTypes

/// Names in byte order: a page of those with one prefix is found without looking at the others.
///
/// They stand in rows of at most ``rowMax``, so that an insertion or a removal moves the rest of one row only.
struct NameIndex {
  /// Names in one row, at the most.
  private static let rowMax = 512

  private var rows: [[LockName]] = []

  mutating func insert(_ name: LockName) {
    guard !rows.isEmpty else {
      rows = [[name]]
      return
    }
    let row = row(of: name)
    let place = Self.place(of: name, in: rows[row])
    if place < rows[row].count, rows[row][place] == name { return }
    rows[row].insert(name, at: place)
    guard rows[row].count > Self.rowMax else { return }
    let half = rows[row].count / 2
    let upper = Array(rows[row][half...])
    rows[row].removeLast(upper.count)
    rows.insert(upper, at: row + 1)
  }

  /// An index of these names, which are distinct.
  init(_ names: [LockName]) {
    // Names lie scattered in memory, and very many begin alike: the sort compares the eight bytes behind their common
    // prefix first.
    let shared = names.dropFirst().reduce(names.first?.bytes.count ?? 0) { shared, name in
      Self.sharedCount(names[0], name, atMost: shared)
    }
    var keys = names.map { (key: Self.key($0, from: shared), name: $0) }
    keys.sort { $0.key != $1.key ? $0.key < $1.key : $0.name < $1.name }
    rows = stride(from: 0, to: keys.count, by: Self.rowMax / 2).map { start in
      keys[start..<min(start + Self.rowMax / 2, keys.count)].map(\.name)
    }
  }

  init() {}

  private static func sharedCount(_ a: LockName, _ b: LockName, atMost count: Int) -> Int {
    a.bytes.withUnsafeBufferPointer { a in
      b.bytes.withUnsafeBufferPointer { b in
        let end = min(count, a.count, b.count)
        return (0..<end).first { a[$0] != b[$0] } ?? end
      }
    }
  }

  /// Eight bytes of a name from `start` on: where they differ they order names that are alike before them.
  private static func key(_ name: LockName, from start: Int) -> UInt64 {
    name.bytes.withUnsafeBytes { bytes in
      if bytes.count - start >= 8 {
        return UInt64(bigEndian: bytes.loadUnaligned(fromByteOffset: start, as: UInt64.self))
      }
      var key: UInt64 = 0
      for place in 0..<8 { key = key << 8 | UInt64(start + place < bytes.count ? bytes[start + place] : 0) }
      return key
    }
  }

  mutating func remove(_ name: LockName) {
    guard !rows.isEmpty else { return }
    let row = row(of: name)
    let place = Self.place(of: name, in: rows[row])
    guard place < rows[row].count, rows[row][place] == name else { return }
    rows[row].remove(at: place)
    if rows[row].isEmpty { rows.remove(at: row) }
  }

  /// Calls `body` with the names from `name` on, or after it, in order, until it returns true.
  func forEach(from name: LockName, inclusive: Bool, until body: (LockName) -> Bool) {
    guard !rows.isEmpty else { return }
    let first = row(of: name)
    var place = Self.place(of: name, in: rows[first])
    if !inclusive, place < rows[first].count, rows[first][place] == name { place += 1 }
    for row in rows[first...] {
      for name in row[place...] where body(name) { return }
      place = 0
    }
  }

  /// The last row whose first name is not behind `name`, or the first row.
  private func row(of name: LockName) -> Int {
    var low = 0
    var high = rows.count
    while high - low > 1 {
      let middle = (low + high) / 2
      if name < rows[middle][0] { high = middle } else { low = middle }
    }
    return low
  }

  /// The place of the first name in `row` that is not before `name`.
  private static func place(of name: LockName, in row: [LockName]) -> Int {
    var low = 0
    var high = row.count
    while low < high {
      let middle = (low + high) / 2
      if row[middle] < name { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
