/// Names in the order of their bytes, so that a page of those that begin alike is found without looking at the others.
///
/// They stand in rows of at most ``rowMax``: putting one in or taking one out moves the rest of one row.
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

  mutating func remove(_ name: LockName) {
    guard !rows.isEmpty else { return }
    let row = row(of: name)
    let place = Self.place(of: name, in: rows[row])
    guard place < rows[row].count, rows[row][place] == name else { return }
    rows[row].remove(at: place)
    if rows[row].isEmpty { rows.remove(at: row) }
  }

  /// The names from `name` on, or behind it, in their order, until `body` says that it is enough.
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
