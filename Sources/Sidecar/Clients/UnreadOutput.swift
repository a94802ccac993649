import DequeModule

/// What a connection was given to send and has not sent, in bytes and in the memory that they take: a buffer is kept
/// whole until its last byte is sent.
struct UnreadOutput {
  /// Memory of a buffer beside its bytes: of the buffer itself, of its entry in the connection's queue, and of ours.
  static let bytesPerBuffer = 192
  /// What is given to a connection at once is cut into buffers of this size, in bytes, so that the one that is half
  /// sent keeps little memory that is of no more use.
  static let pieceBytesMax = 16_384

  private struct Given {
    var bytes: Int
    var memory: Int
  }

  /// The first one may be half sent.
  private var given: Deque<Given> = []
  /// Bytes that were not sent when last measured, and those that were given since then.
  private(set) var bytes = 0
  /// The memory of all buffers that are not wholly sent.
  private(set) var memory = 0

  /// The connection has got a buffer.
  ///
  /// - Parameter capacity: bytes that it has room for.
  mutating func gave(_ bytes: Int, capacity: Int, buffers: Int = 1) {
    let memory = capacity + buffers * Self.bytesPerBuffer
    given.append(Given(bytes: bytes, memory: memory))
    self.bytes += bytes
    self.memory += memory
  }

  /// The connection still has so many bytes, which are the last that it was given.
  mutating func measured(_ left: Int) {
    while let first = given.first, bytes - first.bytes >= left {
      given.removeFirst()
      bytes -= first.bytes
      memory -= first.memory
    }
    if !given.isEmpty { given[0].bytes -= bytes - left }
    // Its memory goes, too: most sessions have nothing unread for the rest of their lives.
    if given.isEmpty { given = [] }
    bytes = left
  }

  /// What is charged for it, with `copies` bytes of memory besides: the bytes, unless they take more than twice as much
  /// memory.
  func charge(copies: Int) -> Int { max(bytes, (memory + copies) / 2) }
}
