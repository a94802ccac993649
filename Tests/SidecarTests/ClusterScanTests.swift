import Testing

@testable import Sidecar

@Suite struct ClusterScanTests {
  /// Reads all pages of two primaries, of which each gives the cells of `homes` that it has, in so many steps. `then` is called
  /// behind each.
  private func read(_ homes: inout [Int], steps: Int, then: (inout [Int]) -> Void = { _ in }) throws -> [Int] {
    var (cursor, found, pages) = (LockPage.start, [Int](), 0)
    repeat {
      var scan = try #require(ClusterScan(cursor))
      let first = try #require(scan.next(served: .max))
      let cells = homes.indices.filter { homes[$0] == homes[first] }
      let step = try #require(Int(String(decoding: scan.begin(cells: cells), as: UTF8.self)))
      let share = cells.filter { $0 % steps == step && scan.isWanted($0) }
      found += share
      cursor = scan.next(after: Array(String((step + 1) % steps).utf8))
      then(&homes)
      pages += 1
      try #require(pages < 200)
    } while cursor != LockPage.start
    return found
  }

  @Test func eachCellIsReadOnce() throws {
    var homes = (0..<64).map { $0 % 3 }
    #expect(try read(&homes, steps: 4).sorted() == Array(0..<64))
    var one = [Int](repeating: 0, count: 64)
    #expect(try read(&one, steps: 1) == Array(0..<64))
  }

  /// A cell that moves meanwhile is read where it is then; some may be read twice, and none is left out.
  @Test func cellsThatMoveAreReadAllTheSame() throws {
    var homes = (0..<64).map { $0 / 32 }
    var moves = [(3, 1), (40, 0), (0, 1), (63, 2), (0, 0)]
    let found = try read(&homes, steps: 3) { homes in
      if let (cell, home) = moves.popLast() { homes[cell] = home }
    }
    #expect(Set(found) == Set(0..<64))
  }

  @Test(arguments: [
    "", "1", "0.0", "0.0.x", "x.0.0", "1.1.0", "ffffffffffffffff.0.0", "0.0.0.0", "10000000000000000.0.0",
  ])
  func otherCursorsAreNone(cursor: String) { #expect(ClusterScan(Array(cursor.utf8)) == nil) }
}
