/// Where a list of all locks of a cluster stands. Primaries are scanned one after the other, each for the cells that it
/// serves; a cell that has moved meanwhile is scanned where it is.
struct ClusterScan {
  private var done: UInt64 = 0
  private var current: UInt64 = 0
  private var step: [UInt8] = LockPage.start

  /// The place that a cursor names: `<cells that are done>.<cells that are being scanned>.<cursor of SCAN>`, or that of the
  /// first page; nil for others.
  init?(_ cursor: [UInt8]) {
    if cursor == LockPage.start { return }
    let parts = cursor.split(separator: 0x2E, omittingEmptySubsequences: false).map {
      String(decoding: $0, as: UTF8.self)
    }
    guard parts.count == 3, let done = UInt64(parts[0], radix: 16), let current = UInt64(parts[1], radix: 16),
      done & current == 0, done != .max, UInt64(parts[2]) != nil
    else { return nil }
    (self.done, self.current, step) = (done, current, Array(parts[2].utf8))
  }

  /// A cell that has to be scanned next; nil: all are. Those that are not among `served` come last.
  func next(served: UInt64) -> Int? {
    let wanted = current & served != 0 ? current : ~done
    if wanted & served != 0 { return (wanted & served).trailingZeroBitCount }
    return wanted == 0 ? nil : wanted.trailingZeroBitCount
  }

  /// Goes on at the primary that serves `cells`, ``next(served:)`` among them. Gives the cursor for it.
  mutating func begin(cells: [Int]) -> [UInt8] {
    let there = cells.reduce(UInt64(0)) { $0 | 1 << UInt64($1) } & ~done
    if current == 0 || current & ~there != 0 { (current, step) = (there, LockPage.start) }
    return step
  }

  /// Whether locks of a cell are to be told.
  func isWanted(_ cell: Int) -> Bool { current & 1 << UInt64(cell) != 0 }

  /// The cursor for what follows when the primary has given this one.
  func next(after step: [UInt8]) -> [UInt8] {
    var (done, current) = (done, current)
    if step == LockPage.start { (done, current) = (done | current, 0) }
    if done == .max { return LockPage.start }
    let cells = "\(String(done, radix: 16)).\(String(current, radix: 16))."
    return Array(cells.utf8) + step
  }
}
