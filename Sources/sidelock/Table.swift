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

  /// The lines, of at most so many columns of the terminal as far as cells can be cut: the longest first, and none of a column that
  /// is aligned at the right, or below its heading.
  func lines(within charactersMax: Int) -> [String] {
    let count = rows.map(\.count).max() ?? 0
    var widths = (0..<count).map { column in
      rows.map { column < $0.count ? columns(of: $0[column]) : 0 }.max() ?? 0
    }
    let leasts = (0..<count).map { rightAligned.contains($0) ? widths[$0] : max(4, rows[0][$0].count) }
    var excess = widths.reduce(2 * (count - 1), +) - charactersMax
    while excess > 0,
      let widest = widths.indices.filter({ widths[$0] > leasts[$0] }).max(by: { widths[$0] < widths[$1] })
    {
      widths[widest] -= 1
      excess -= 1
    }
    return rows.map { row in
      let cells = row.enumerated().map { column, whole in
        let isCut = columns(of: whole) > widths[column]
        let cell = isCut ? beginning(of: whole, columns: widths[column] - 1) + "…" : whole
        let space = String(repeating: " ", count: max(0, widths[column] - columns(of: cell)))
        return rightAligned.contains(column) ? space + cell : cell + space
      }
      let line = cells.joined(separator: "  ")
      return String(line.reversed().drop { $0 == " " }.reversed())
    }
  }
}

/// How many columns of a terminal a text takes: characters of East Asia and emoji take two.
func columns(of text: some StringProtocol) -> Int {
  // Most texts; counting characters is dear.
  if text.utf8.allSatisfy({ $0 < 0x80 }) { return text.utf8.count }
  return text.reduce(0) { $0 + ($1.isWide ? 2 : 1) }
}

/// As much of the beginning of a text as has room in so many columns.
func beginning(of text: String, columns limit: Int) -> String {
  var taken = 0
  return String(
    text.prefix {
      taken += $0.isWide ? 2 : 1
      return taken <= limit
    })
}

extension Character {
  /// Whether a terminal shows it in two columns.
  fileprivate var isWide: Bool {
    unicodeScalars.contains { scalar in
      switch scalar.value {
      case 0x1100...0x115F, 0x2E80...0x303E, 0x3041...0xA4CF, 0xA960...0xA97F, 0xAC00...0xD7A3, 0xF900...0xFAFF,
        0xFE10...0xFE19, 0xFE30...0xFE6F, 0xFF00...0xFF60, 0xFFE0...0xFFE6, 0x20000...0x3FFFD:
        true
      case 0xFE0F: true
      case _: scalar.properties.isEmojiPresentation
      }
    }
  }
}

/// Text that cannot steer a terminal: names and notes come from other users.
func printable(_ text: String) -> String {
  var result = ""
  for scalar in text.unicodeScalars {
    if isShownAsItIs(scalar) {
      result.unicodeScalars.append(scalar)
    } else {
      result += "\\u{\(String(scalar.value, radix: 16))}"
    }
  }
  return result
}

/// Whether a terminal shows a character, and does nothing else for it.
func isShownAsItIs(_ scalar: Unicode.Scalar) -> Bool {
  switch scalar.properties.generalCategory {
  case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .unassigned: false
  case _: true
  }
}

/// A word as a shell takes it: in quotes where it has to.
func shellWord(_ word: String) -> String {
  let isPlain = word.utf8.allSatisfy { byte in
    switch byte {
    case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
      UInt8(ascii: "0")...UInt8(ascii: "9"):
      true
    case _: "-._/:@%+=,".utf8.contains(byte)
    }
  }
  return isPlain && !word.isEmpty ? word : "'\(word.replacing("'", with: "'\\''"))'"
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
