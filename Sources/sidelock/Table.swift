/// Columns of text for a terminal.
struct Table {
  /// How long a line may be, for terminals of the usual width.
  static let charactersMax = 80

  private var rows: [[String]]
  private let rightAligned: Set<Int>

  /// A table under these headings; the columns of those numbers are aligned at the right.
  init(headings: [String], rightAligned: Set<Int> = []) {
    rows = [headings]
    self.rightAligned = rightAligned
  }

  mutating func append(_ cells: [String]) {
    rows.append(cells.map(printable))
  }

  /// The lines, without spaces at their ends.
  var lines: [String] { lines(within: .max) }

  /// The lines, of at most so many characters as far as cells can be cut: the longest first, and none of a column that
  /// is aligned at the right, or below its heading.
  func lines(within charactersMax: Int) -> [String] {
    let columns = rows.map(\.count).max() ?? 0
    var widths = (0..<columns).map { column in
      rows.map { column < $0.count ? $0[column].count : 0 }.max() ?? 0
    }
    let leasts = (0..<columns).map { rightAligned.contains($0) ? widths[$0] : max(4, rows[0][$0].count) }
    var excess = widths.reduce(2 * (columns - 1), +) - charactersMax
    while excess > 0,
      let widest = widths.indices.filter({ widths[$0] > leasts[$0] }).max(by: { widths[$0] < widths[$1] })
    {
      widths[widest] -= 1
      excess -= 1
    }
    return rows.map { row in
      let cells = row.enumerated().map { column, whole in
        let cell = whole.count > widths[column] ? whole.prefix(widths[column] - 1) + "…" : whole
        let space = String(repeating: " ", count: widths[column] - cell.count)
        return rightAligned.contains(column) ? space + cell : cell + space
      }
      let line = cells.joined(separator: "  ")
      return String(line.reversed().drop { $0 == " " }.reversed())
    }
  }
}

/// Text that cannot steer a terminal: names and notes come from other users.
func printable(_ text: String) -> String {
  var result = ""
  for scalar in text.unicodeScalars {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned:
      result += "\\u{\(String(scalar.value, radix: 16))}"
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result
}

/// A time for people: `250 ms`, `3.2 s`, `5 min 12 s`, `3 h 5 min`, `2 d 4 h`.
func readable(milliseconds: Int64) -> String {
  switch milliseconds {
  case ..<1000: return "\(milliseconds) ms"
  case ..<60_000:
    let tenths = milliseconds / 100
    return "\(tenths / 10).\(tenths % 10) s"
  case ..<3_600_000: return "\(milliseconds / 60_000) min \(milliseconds / 1000 % 60) s"
  case ..<86_400_000: return "\(milliseconds / 3_600_000) h \(milliseconds / 60_000 % 60) min"
  default: return "\(milliseconds / 86_400_000) d \(milliseconds / 3_600_000 % 24) h"
  }
}
