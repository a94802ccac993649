/// Log entries on their way out: bounded, with a count of what found no room.
struct LogQueue {
  /// A few thousand entries. More than that unread means that nobody will read them in time to be of use.
  static let bytesMax = 256 * 1024

  private var entries: [LogEntry] = []
  private var bytes = 0
  private var dropped = 0

  var isEmpty: Bool { entries.isEmpty && dropped == 0 }

  /// Takes an entry, or counts it when there is no room.
  mutating func append(_ entry: LogEntry) {
    // Once an entry was dropped the rest follows it: the log then has one gap, at one place.
    guard dropped == 0, bytes + entry.cost <= Self.bytesMax else {
      dropped += 1
      return
    }
    bytes += entry.cost
    entries.append(entry)
  }

  /// Takes out everything, and how many entries were dropped after it.
  mutating func takeAll() -> (entries: [LogEntry], dropped: Int) {
    defer {
      entries = []
      bytes = 0
      dropped = 0
    }
    return (entries, dropped)
  }
}
