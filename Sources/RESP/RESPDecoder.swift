/// Reads values of the Redis protocol from bytes that come in pieces of any size.
///
/// What was read is never read again: an aggregate that is not complete stands on a stack with the elements that it
/// has, a blob is awaited by its length, and the search for a line's end goes on where it stopped. So the work is
/// linear in the bytes, however they are cut.
///
/// The first error is final: ``next()`` throws it again for ever, and what is appended after it is dropped.
public struct RESPDecoder: Sendable {
  /// The limits that are applied.
  public let limits: RESPLimits

  /// The bytes that were appended; those before `position` are read.
  private var buffer: [UInt8] = []
  private var position = 0
  /// Up to here there is no line end in the line that begins at `position`.
  private var scanned = 0
  /// The blob whose header is read and whose bytes are awaited.
  private var blob: BlobHeader?
  /// The aggregates that are not complete, the outermost one first.
  private var stack: [Aggregate] = []
  /// Elements announced, and bytes read, in the current top-level value.
  private var elementCount = 0
  private var replyBytes = 0
  private var failure: RESPError?

  /// A decoder that has read nothing.
  public init(limits: RESPLimits = RESPLimits()) {
    self.limits = limits
  }

  /// How many bytes of input it keeps room for; for tests.
  package var bufferCapacity: Int { buffer.capacity }

  /// Takes the next bytes of the stream.
  public mutating func append(_ bytes: UnsafeRawBufferPointer) {
    guard failure == nil else { return }
    compact()
    buffer.append(contentsOf: bytes)
  }

  /// The next complete top-level value; nil when more bytes are needed. Throws when the bytes are no such value, or
  /// one beyond the limits.
  public mutating func next() throws(RESPError) -> RESPValue? {
    if let failure { throw failure }
    do throws(RESPError) {
      return try advance()
    } catch {
      failure = error
      buffer = []
      stack = []
      blob = nil
      throw error
    }
  }

  /// Fast path: the last of the three parts of the next value, a blob string, where `opening` is all before it. Nil for
  /// any other value, and for one that has not come as a whole: ``next()`` reads it then, and finds its mistakes.
  mutating func nextBlob(after opening: [UInt8]) -> [UInt8]? {
    guard failure == nil, stack.isEmpty, blob == nil, buffer.count - position > opening.count,
      limits.blobBytesMax >= opening.count, limits.elementCountMax - elementCount >= 3, limits.depthMax > 0
    else { return nil }
    let isOpening = buffer.withUnsafeBufferPointer { bytes in
      opening.withUnsafeBufferPointer { opening in
        var index = 0
        while index < opening.count {
          guard bytes[position &+ index] == opening[index] else { return false }
          index &+= 1
        }
        return true
      }
    }
    let line = position + opening.count
    guard isOpening, buffer[line] == 0x24, let length = plainNumber(at: line), length.number <= limits.blobBytesMax
    else {
      return nil
    }
    let begin = line + length.byteCount
    let end = begin + Int(length.number)
    guard end + 2 <= buffer.count, end + 2 - position <= limits.replyBytesMax - replyBytes, buffer[end] == 0x0D,
      buffer[end + 1] == 0x0A
    else { return nil }
    position = end + 2
    scanned = position
    elementCount = 0
    replyBytes = 0
    return Array(buffer[begin..<end])
  }

  /// Gives back the room of what is read, at a cost in proportion to what was read since the last time.
  private mutating func compact() {
    guard position > 0 else { return }
    if position == buffer.count {
      if buffer.capacity > Self.retainedBytesMax {
        buffer = []
      } else {
        buffer.removeAll(keepingCapacity: true)
      }
    } else if position >= Self.compactionBytesMin, position >= buffer.count / 2 {
      buffer.removeSubrange(..<position)
    } else {
      return
    }
    scanned -= position
    position = 0
  }

  /// An empty buffer larger than this is freed, so that one large reply does not hold memory to the end.
  private static let retainedBytesMax = 1 << 20
  private static let compactionBytesMin = 4096
  /// Room for so many elements of an aggregate is made at once.
  private static let reservedElementsMax = 512
  /// The longest line of a type whose lines are short: lengths, integers, doubles, booleans, nulls.
  private static let shortLineBytesMax = 128
}

// MARK: - Parsing

extension RESPDecoder {
  private struct BlobHeader {
    var type: UInt8
    var length: Int
  }

  private enum AggregateKind {
    case array
    case map
    case set
    case push
    /// Read and dropped; the value that follows it stands in its place.
    case attribute
  }

  private struct Aggregate {
    var kind: AggregateKind
    /// How many values are still to come; a pair of a map is two.
    var missing: Int
    var elements: [RESPValue] = []
    var pairs: [RESPPair] = []
    /// The key whose value comes next.
    var key: RESPValue?

    mutating func add(_ value: RESPValue) {
      missing -= 1
      switch kind {
      case .array, .set, .push:
        elements.append(value)
      case .map:
        if let key {
          pairs.append(RESPPair(key, value))
          self.key = nil
        } else {
          key = value
        }
      case .attribute:
        break
      }
    }
  }

  /// What one step of reading gave.
  private enum Step {
    /// A value that has no elements to wait for.
    case value(RESPValue)
    /// An aggregate or a blob was begun, or an attribute is over.
    case more
    /// The bytes do not suffice.
    case starved
  }

  private mutating func advance() throws(RESPError) -> RESPValue? {
    while true {
      let step: Step
      if let blob {
        step = try readBlob(blob)
      } else {
        step = try readLine()
      }
      switch step {
      case .starved:
        return nil
      case .more:
        continue
      case .value(let value):
        if let whole = settle(value) { return whole }
      }
    }
  }

  /// Puts a complete value where it belongs, and closes every aggregate that it completes; the top-level value if
  /// that is complete now.
  private mutating func settle(_ value: RESPValue) -> RESPValue? {
    var value = value
    while let last = stack.indices.last {
      stack[last].add(value)
      guard stack[last].missing == 0 else { return nil }
      let aggregate = stack.removeLast()
      switch aggregate.kind {
      case .array:
        value = .array(aggregate.elements)
      case .map:
        value = .map(aggregate.pairs)
      case .set:
        value = .set(aggregate.elements)
      case .push:
        value = .push(aggregate.elements)
      case .attribute:
        return nil
      }
    }
    elementCount = 0
    replyBytes = 0
    return value
  }

  /// Counts bytes of the current top-level value as read.
  private mutating func consume(_ count: Int) throws(RESPError) {
    position += count
    scanned = position
    replyBytes += count
    guard replyBytes <= limits.replyBytesMax else { throw .replyTooLong(bytesMax: limits.replyBytesMax) }
  }

  /// Reads the awaited blob once all of it and the line end after it are there.
  private mutating func readBlob(_ header: BlobHeader) throws(RESPError) -> Step {
    guard buffer.count - position - 2 >= header.length else { return .starved }
    let end = position + header.length
    guard buffer[end] == 0x0D, buffer[end + 1] == 0x0A else { throw .badBlobEnd }
    let value: RESPValue
    switch header.type {
    case 0x21:  // !
      value = .simpleError(Array(buffer[position..<end]))
    case 0x3D:  // =
      guard header.length >= 4, buffer[position + 3] == 0x3A else { throw .badVerbatimString }
      value = .blobString(Array(buffer[(position + 4)..<end]))
    default:
      value = .blobString(Array(buffer[position..<end]))
    }
    blob = nil
    try consume(header.length + 2)
    return .value(value)
  }

  /// Reads the line that begins at `position`: a scalar, or the header of something longer.
  private mutating func readLine() throws(RESPError) -> Step {
    guard position < buffer.count else { return .starved }
    let type = buffer[position]
    if type == 0x3A || type == 0x24 || type == 0x2A, let line = plainNumber(at: position) {  // : $ *
      try consume(line.byteCount)
      switch type {
      case 0x3A: return .value(.integer(line.number))
      case 0x24: return try beginBlob(type: type, length: Int(line.number))
      default: return try beginAggregate(.array, type: type, announced: Int(line.number))
      }
    }
    let bytesMax: Int
    switch type {
    case 0x2B, 0x2D, 0x28:  // + - (
      bytesMax = limits.lineBytesMax
    case 0x3A, 0x2C, 0x23, 0x5F, 0x24, 0x21, 0x3D, 0x2A, 0x25, 0x7E, 0x3E, 0x7C:  // : , # _ $ ! = * % ~ > |
      bytesMax = Self.shortLineBytesMax
    default:
      throw .unknownType(type)
    }
    guard let end = try lineEnd(bytesMax: bytesMax) else { return .starved }
    let text = buffer[(position + 1)..<end]
    let step = try interpret(type: type, text: text)
    try consume(end + 2 - position)
    return step
  }

  /// Where the line that begins at `position` has its line end; nil when that has not come yet.
  private mutating func lineEnd(bytesMax: Int) throws(RESPError) -> Int? {
    var index = max(scanned, position + 1)
    let stop = min(buffer.count, position + 1 + bytesMax + 1)
    while index < stop {
      let byte = buffer[index]
      if byte == 0x0A { throw .badLineEnd }
      if byte == 0x0D {
        scanned = index
        guard index + 1 < buffer.count else { return nil }
        guard buffer[index + 1] == 0x0A else { throw .badLineEnd }
        return index
      }
      index += 1
    }
    scanned = index
    guard index - position - 1 <= bytesMax else { throw .lineTooLong(bytesMax: bytesMax) }
    return nil
  }

  /// Fast path: the number in the line that begins at `start`, if it has no sign, at most 15 digits and its line end.
  /// All else, mistakes included, is for the slow path.
  private func plainNumber(at start: Int) -> (number: Int64, byteCount: Int)? {
    buffer.withUnsafeBufferPointer { bytes in
      let stop = min(bytes.count, start + 18)
      var index = start + 1
      var number: Int64 = 0
      while index < stop {
        let digit = bytes[index] &- 0x30
        guard digit <= 9 else { break }
        number = number &* 10 &+ Int64(digit)
        index += 1
      }
      let digitCount = index - start - 1
      guard digitCount > 0, digitCount <= 15, index + 1 < bytes.count, bytes[index] == 0x0D, bytes[index + 1] == 0x0A
      else { return nil }
      guard digitCount == 1 || bytes[start + 1] != 0x30 else { return nil }
      return (number, digitCount + 3)
    }
  }

  private mutating func interpret(type: UInt8, text: ArraySlice<UInt8>) throws(RESPError) -> Step {
    switch type {
    case 0x2B:  // +
      return .value(.simpleString(Array(text)))
    case 0x2D:  // -
      return .value(.simpleError(Array(text)))
    case 0x3A:  // :
      return .value(.integer(try Self.integer(text)))
    case 0x2C:  // ,
      return .value(.double(try Self.double(text)))
    case 0x28:  // (
      return .value(.bigNumber(try Self.bigNumber(text)))
    case 0x23:  // #
      guard text.count == 1, let letter = text.first, letter == 0x74 || letter == 0x66 else {
        throw .badScalar(type: type)
      }
      return .value(.boolean(letter == 0x74))
    case 0x5F:  // _
      guard text.isEmpty else { throw .badScalar(type: type) }
      return .value(.null)
    case 0x24, 0x21, 0x3D:  // $ ! =
      return try beginBlob(type: type, text: text)
    case 0x2A:  // *
      return try beginAggregate(.array, type: type, text: text)
    case 0x25:  // %
      return try beginAggregate(.map, type: type, text: text)
    case 0x7E:  // ~
      return try beginAggregate(.set, type: type, text: text)
    case 0x3E:  // >
      return try beginAggregate(.push, type: type, text: text)
    case 0x7C:  // |
      return try beginAggregate(.attribute, type: type, text: text)
    default:
      throw .unknownType(type)
    }
  }

  private mutating func beginBlob(type: UInt8, text: ArraySlice<UInt8>) throws(RESPError) -> Step {
    guard let length = try Self.length(type: type, text: text) else { return .value(.null) }
    return try beginBlob(type: type, length: length)
  }

  private mutating func beginBlob(type: UInt8, length: Int) throws(RESPError) -> Step {
    guard length <= limits.blobBytesMax else { throw .blobTooLong(bytesMax: limits.blobBytesMax) }
    // Refused before its bytes come.
    guard length <= limits.replyBytesMax - replyBytes else { throw .replyTooLong(bytesMax: limits.replyBytesMax) }
    blob = BlobHeader(type: type, length: length)
    return .more
  }

  private mutating func beginAggregate(
    _ kind: AggregateKind, type: UInt8, text: ArraySlice<UInt8>
  ) throws(RESPError) -> Step {
    guard let announced = try Self.length(type: type, text: text) else { return .value(.null) }
    return try beginAggregate(kind, type: type, announced: announced)
  }

  private mutating func beginAggregate(
    _ kind: AggregateKind, type: UInt8, announced: Int
  ) throws(RESPError) -> Step {
    let isPaired = kind == .map || kind == .attribute
    guard announced <= (limits.elementCountMax - elementCount) / (isPaired ? 2 : 1) else {
      throw .tooManyElements(countMax: limits.elementCountMax)
    }
    if kind == .push, !stack.isEmpty { throw .nestedPush }
    guard stack.count < limits.depthMax else { throw .tooDeep(depthMax: limits.depthMax) }
    guard announced > 0 else {
      switch kind {
      case .array: return .value(.array([]))
      case .map: return .value(.map([]))
      case .set: return .value(.set([]))
      case .push: return .value(.push([]))
      case .attribute: return .more
      }
    }
    let missing = isPaired ? announced * 2 : announced
    elementCount += missing
    var aggregate = Aggregate(kind: kind, missing: missing)
    // What is announced may never come; the first elements are not worth growing for.
    if !isPaired { aggregate.elements.reserveCapacity(min(missing, Self.reservedElementsMax)) }
    stack.append(aggregate)
    return .more
  }
}

// MARK: - The texts of scalars and lengths

extension RESPDecoder {
  /// A length or count; nil for the nulls of RESP2, which only `$` and `*` have.
  private static func length(type: UInt8, text: ArraySlice<UInt8>) throws(RESPError) -> Int? {
    if text.count == 1, text.first == 0x3F { throw .streamed }
    guard let number = Int64(decimal: text) else {
      // A number that does not fit is above every limit; it is told apart only to name it rightly.
      guard !text.isEmpty, text.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), text.first != 0x30 else {
        throw .badLength(type: type)
      }
      return Int.max
    }
    if number == -1, type == 0x24 || type == 0x2A { return nil }
    guard number >= 0 else { throw .badLength(type: type) }
    return Int(clamping: number)
  }

  private static func integer(_ text: ArraySlice<UInt8>) throws(RESPError) -> Int64 {
    // The specification allows a plus sign here.
    let digits = text.first == 0x2B ? text.dropFirst() : text
    guard let number = Int64(decimal: digits), digits.first != 0x2D || digits.count == text.count else {
      throw .badScalar(type: 0x3A)
    }
    return number
  }

  private static func double(_ text: ArraySlice<UInt8>) throws(RESPError) -> Double {
    let isNegative = text.first == 0x2D
    let unsigned = isNegative || text.first == 0x2B ? text.dropFirst() : text
    let word = String(decoding: unsigned, as: UTF8.self)
    switch word {
    case "inf":
      return isNegative ? -Double.infinity : Double.infinity
    case "nan":
      return Double.nan
    default:
      // Checked before the conversion, which also reads hexadecimal numbers and words.
      guard isDecimal(unsigned), let number = Double(word) else { throw .badScalar(type: 0x2C) }
      return isNegative ? -number : number
    }
  }

  /// Whether `text` is digits, with a fraction or an exponent as it may be.
  private static func isDecimal(_ text: ArraySlice<UInt8>) -> Bool {
    var rest = text
    func takeDigits() -> Bool {
      let digits = rest.prefix { $0 >= 0x30 && $0 <= 0x39 }
      rest = rest[digits.endIndex...]
      return !digits.isEmpty
    }
    guard takeDigits() else { return false }
    if rest.first == 0x2E {
      rest.removeFirst()
      guard takeDigits() else { return false }
    }
    if rest.first == 0x65 || rest.first == 0x45 {
      rest.removeFirst()
      if rest.first == 0x2B || rest.first == 0x2D { rest.removeFirst() }
      guard takeDigits() else { return false }
    }
    return rest.isEmpty
  }

  private static func bigNumber(_ text: ArraySlice<UInt8>) throws(RESPError) -> [UInt8] {
    let digits = text.first == 0x2D || text.first == 0x2B ? text.dropFirst() : text
    guard !digits.isEmpty, digits.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }) else { throw .badScalar(type: 0x28) }
    return Array(text)
  }
}
