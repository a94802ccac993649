/// Log lines on their way to standard error: bounded, with a count of what found no room.
struct LogLineQueue {
  /// A few thousand lines. More than that unread means that nobody will read them in time to be of use.
  static let bytesMax = 256 * 1024

  private var bytes: [UInt8] = []
  private var dropped = 0

  var isEmpty: Bool { bytes.isEmpty && dropped == 0 }

  /// Takes a complete line, or counts it when there is no room.
  mutating func append(_ line: String) {
    // Once a line was dropped the rest follows it, so that what is read has one gap, at one place.
    guard dropped == 0, bytes.count + line.utf8.count <= Self.bytesMax else {
      dropped += 1
      return
    }
    bytes.append(contentsOf: line.utf8)
  }

  /// Takes out everything, and how many lines were dropped after it.
  mutating func takeAll() -> (bytes: [UInt8], dropped: Int) {
    defer {
      bytes = []
      dropped = 0
    }
    return (bytes, dropped)
  }
}
