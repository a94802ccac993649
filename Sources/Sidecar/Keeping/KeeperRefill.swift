import LockEngine
import LockTypes

/// How far a keeper has come in writing all records anew.
struct KeeperRefill {
  /// Clients and things of the engine in one turn, which take about a millisecond.
  private static let clientsInTurn = 64
  private static let thingsInTurn = 256

  /// The clients that are left.
  private var clients: [SessionID]
  private var progress = NotingProgress()

  init(clients: [SessionID]) { self.clients = clients }

  /// Notes a slice. Returns false when everything was noted.
  mutating func takeSlice(of source: any KeptSource, client: (SessionID) -> Void) -> Bool {
    guard clients.isEmpty else {
      for id in clients.suffix(Self.clientsInTurn) { client(id) }
      clients.removeLast(min(clients.count, Self.clientsInTurn))
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
