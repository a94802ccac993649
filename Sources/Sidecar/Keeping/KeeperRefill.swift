import LockEngine
import LockTypes

/// How far a keeper has come in writing all records anew.
struct KeeperRefill {
  /// Records of clients and things of the engine in one turn, which take about a millisecond.
  private static let recordsInTurn = 256
  private static let thingsInTurn = 256

  /// The clients that are left.
  private var clients: [SessionID]
  private var progress = NotingProgress()

  init(clients: [SessionID]) { self.clients = clients }

  /// Notes a slice. Returns false when everything was noted.
  ///
  /// - Parameter client: has a client noted, and tells how many records that is.
  mutating func takeSlice(of source: any KeptSource, client: (SessionID) -> Int) -> Bool {
    guard clients.isEmpty else {
      var left = Self.recordsInTurn
      while left > 0, let id = clients.popLast() { left -= client(id) }
      return true
    }
    return source.noteEverything(&progress, atMost: Self.thingsInTurn)
  }
}

/// How long nothing is kept after the memory was full.
struct RefillPause {
  /// At first, and at most, in milliseconds; it doubles.
  static let millisecondsMin: Int64 = 5000
  private static let millisecondsMax: Int64 = 300_000
  private var milliseconds = Self.millisecondsMin

  /// The next pause, in milliseconds.
  mutating func next() -> Int64 {
    defer { milliseconds = min(2 * milliseconds, Self.millisecondsMax) }
    return milliseconds
  }
}

/// What the next commit writes beside what the engine and the sessions have changed.
struct DueRecords {
  /// Nothing was committed yet: the identity is due, too.
  var isFirst = true
  /// The settings, at first and when they have changed.
  var hasSettings = true
  /// Input was noted, or a record removed, since the last commit.
  var hasNotes = false
}
