/// Cuts a stream of bytes, however it was split into chunks, into lines.
///
/// `\n` ends a line, one `\r` before it belongs to the line end, and empty lines are skipped. The caller takes one
/// line at a time and may stop between any two; what it has not taken stays in its own buffer, so back-pressure needs
/// no queue here. A line that lies wholly inside a chunk is handed out without a copy. Of an unfinished line only the
/// beginning is kept, and never more than ``Limits/lineBytesMax`` bytes and a `\r`.
public struct LineFramer: Sendable {
  /// What ``next(from:_:)`` found.
  public enum Frame<Value> {
    /// A line; the closure's result.
    case line(Value)
    /// The end of a line that was longer than the limit; its bytes are gone. Given once a line.
    case tooLong
    /// More than `unendedBytesMax` bytes came without a line end: the caller closes the connection. From then on this
    /// is the only answer, and all input is thrown away.
    case hopeless
    /// The input is used up, and no further line has ended.
    case needsInput
  }

  /// A buffer of more than this many bytes is given back after use: otherwise each of a thousand idle sessions that
  /// once sent a long line would keep one.
  private static let keptCapacityMax = 256

  private let lineBytesMax: Int
  private let unendedBytesMax: Int
  /// The beginning of the unfinished line; empty once the line is known to be too long.
  private var partial: [UInt8] = []
  /// Bytes of the unfinished line so far, kept or not.
  private var seen = 0
  private var isHopeless = false

  /// A framer at the beginning of a stream. `lineBytesMax`: bytes of a line without its end; `unendedBytesMax`: bytes
  /// (a `\r` included) that may come without a `\n`, at least as many.
  public init(lineBytesMax: Int = Limits.lineBytesMax, unendedBytesMax: Int = Limits.unendedBytesMax) {
    precondition(lineBytesMax > 0 && unendedBytesMax > lineBytesMax && unendedBytesMax < Int.max)
    self.lineBytesMax = lineBytesMax
    self.unendedBytesMax = unendedBytesMax
  }

  /// The state that another framer needs to go on in the middle of a stream.
  public struct Position: Equatable, Sendable {
    /// What is kept of the unfinished line.
    public var partial: [UInt8]
    /// Bytes of it that were seen.
    public var seen: Int
    /// Whether more than `unendedBytesMax` bytes came without a line end.
    public var isHopeless: Bool

    /// A position in a stream.
    public init(partial: [UInt8], seen: Int, isHopeless: Bool) {
      self.partial = partial
      self.seen = seen
      self.isHopeless = isHopeless
    }
  }

  /// Where the framer is. A position that no framer can be in is taken for the beginning of a line.
  public var position: Position {
    get { Position(partial: partial, seen: seen, isHopeless: isHopeless) }
    set {
      let isPossible =
        newValue.seen >= newValue.partial.count && newValue.seen <= unendedBytesMax
        && newValue.partial.count <= lineBytesMax + 1
        && (newValue.seen > lineBytesMax + 1 ? newValue.partial.isEmpty : newValue.partial.count == newValue.seen)
      partial = isPossible ? newValue.partial : []
      seen = isPossible ? newValue.seen : 0
      isHopeless = newValue.isHopeless
    }
  }

  /// Whether a line has begun and not yet ended.
  public var isInsideLine: Bool { seen > 0 }

  /// Bytes of memory that are kept for the unfinished line.
  public var bufferedBytes: Int { partial.count }

  /// Takes bytes off the front of `input` up to the next line end, or all of them when there is none.
  ///
  /// `body` is called with the line, without its end, when there is one; the pointer is good during the call only.
  /// Call again with what is left of `input` until the answer is ``Frame/needsInput`` (or ``Frame/hopeless``).
  @inlinable
  public mutating func next<Value>(
    from input: inout UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) -> Value
  ) -> Frame<Value> {
    while true {
      switch advance(&input) {
      case .whole(let line): return .line(body(line))
      case .kept: return .line(withPartial(body))
      case .tooLong: return .tooLong
      case .hopeless: return .hopeless
      case .blank: continue
      case .needsInput: return .needsInput
      }
    }
  }

  /// At the end of the stream: an unterminated last line counts as a line. ``Frame/needsInput`` when there is none.
  @inlinable
  public mutating func finish<Value>(_ body: (UnsafeRawBufferPointer) -> Value) -> Frame<Value> {
    switch advanceToEnd() {
    case .kept: return .line(withPartial(body))
    case .tooLong: return .tooLong
    case .hopeless: return .hopeless
    case .whole, .blank, .needsInput: return .needsInput
    }
  }

  @usableFromInline
  enum Step {
    case whole(UnsafeRawBufferPointer)
    case kept
    case blank
    case tooLong
    case hopeless
    case needsInput
  }

  @usableFromInline
  mutating func advance(_ input: inout UnsafeRawBufferPointer) -> Step {
    if isHopeless {
      input = UnsafeRawBufferPointer(start: nil, count: 0)
      return .hopeless
    }
    if input.isEmpty { return .needsInput }
    // One byte past the limit, so that the answer does not depend on where the chunks were cut.
    let window = min(input.count, unendedBytesMax - seen + 1)
    guard let end = indexOfNewline(in: input, count: window) else {
      if window > unendedBytesMax - seen {
        isHopeless = true
        partial = []
        input = UnsafeRawBufferPointer(start: nil, count: 0)
        return .hopeless
      }
      keep(input, count: window)
      input = UnsafeRawBufferPointer(rebasing: input[window...])
      return .needsInput
    }
    defer { input = UnsafeRawBufferPointer(rebasing: input[(end + 1)...]) }
    if seen == 0 {
      let length = end > 0 && input[end - 1] == 0x0D ? end - 1 : end
      if length == 0 { return .blank }
      return length > lineBytesMax ? .tooLong : .whole(UnsafeRawBufferPointer(rebasing: input[..<length]))
    }
    keep(input, count: end)
    return endKept()
  }

  @usableFromInline
  mutating func advanceToEnd() -> Step {
    if isHopeless { return .hopeless }
    return seen == 0 ? .needsInput : endKept()
  }

  @usableFromInline
  mutating func withPartial<Value>(_ body: (UnsafeRawBufferPointer) -> Value) -> Value {
    defer { partial.removeAll(keepingCapacity: partial.capacity <= Self.keptCapacityMax) }
    return partial.withUnsafeBytes(body)
  }

  /// Adds to the unfinished line. It may end up one byte over the limit, because that byte may be the `\r` of its end.
  private mutating func keep(_ input: UnsafeRawBufferPointer, count: Int) {
    seen += count
    if seen <= lineBytesMax + 1 {
      partial.append(contentsOf: UnsafeRawBufferPointer(rebasing: input[..<count]))
    } else {
      partial = []
    }
  }

  /// The unfinished line has ended: with a `\n` after it, or with the stream.
  private mutating func endKept() -> Step {
    let length = seen
    seen = 0
    if length > lineBytesMax + 1 { return .tooLong }
    if partial.last == 0x0D { partial.removeLast() }
    if partial.count > lineBytesMax {
      partial = []
      return .tooLong
    }
    return partial.isEmpty ? .blank : .kept
  }
}

/// The place of the first `\n` among the first `count` bytes of `bytes`. Looks at eight bytes at a time.
private func indexOfNewline(in bytes: UnsafeRawBufferPointer, count: Int) -> Int? {
  let ones: UInt64 = 0x0101_0101_0101_0101
  let highs: UInt64 = 0x8080_8080_8080_8080
  var index = 0
  while count - index >= 8 {
    let word = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: index, as: UInt64.self)) ^ (ones &* 0x0A)
    // Only the lowest mark is exact: a borrow may mark higher bytes.
    let marks = (word &- ones) & ~word & highs
    if marks != 0 { return index + marks.trailingZeroBitCount / 8 }
    index += 8
  }
  while index < count {
    if bytes[index] == 0x0A { return index }
    index += 1
  }
  return nil
}
