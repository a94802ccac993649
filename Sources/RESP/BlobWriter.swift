/// Writes blob strings into memory that was set aside for them, so that a command of many parts costs one allocation.
@usableFromInline package struct BlobWriter: ~Copyable {
  @usableFromInline let memory: UnsafeMutableBufferPointer<UInt8>
  @usableFromInline var count = 0

  @inlinable init(_ memory: UnsafeMutableBufferPointer<UInt8>) {
    self.memory = memory
  }

  /// What `body` writes, at most `capacity` bytes.
  @inlinable package static func bytes(capacity: Int, _ body: (inout BlobWriter) -> Void) -> [UInt8] {
    [UInt8](unsafeUninitializedCapacity: capacity) { memory, count in
      var writer = BlobWriter(memory)
      body(&writer)
      count = writer.count
    }
  }

  /// The room that a blob string of so many bytes needs at the most.
  @inlinable package static func capacity(_ byteCount: Int) -> Int { byteCount + 25 }

  /// The room that a number needs at the most.
  @inlinable package static var decimalCapacity: Int { 32 }

  /// Writes a blob string.
  @inlinable package mutating func write(_ bytes: [UInt8]) {
    begin(byteCount: bytes.count)
    append(bytes)
    end()
  }

  /// Writes a blob string.
  @inlinable package mutating func write(_ text: StaticString) {
    begin(byteCount: text.utf8CodeUnitCount)
    append(text)
    end()
  }

  /// Writes a blob string that is a number in decimal digits.
  @inlinable package mutating func write(decimal number: some BinaryInteger) {
    begin(byteCount: Self.digitCount(number))
    append(decimal: number)
    end()
  }

  /// Writes a blob string of one byte.
  @inlinable package mutating func write(byte: UInt8) {
    begin(byteCount: 1)
    append(byte)
    end()
  }

  /// Begins a blob string of so many bytes; they and ``end()`` must follow.
  @inlinable package mutating func begin(byteCount: Int) {
    append(0x24)
    append(decimal: byteCount)
    end()
  }

  /// The line end behind a blob string.
  @inlinable package mutating func end() {
    append(0x0D)
    append(0x0A)
  }

  /// A part of a blob string.
  @inlinable package mutating func append(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { append($0) }
  }

  /// A part of a blob string.
  @inlinable package mutating func append(_ text: StaticString) {
    append(UnsafeRawBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  /// A part of a blob string.
  @inlinable package mutating func append(_ text: String) {
    var text = text
    text.withUTF8 { append(UnsafeRawBufferPointer($0)) }
  }

  @inlinable mutating func append(_ bytes: UnsafeRawBufferPointer) {
    // The capacity is computed from the same parts, so this cannot happen; writing past it must not.
    precondition(memory.count - count >= bytes.count, "a command is longer than it was said to be")
    guard let source = bytes.baseAddress, let target = memory.baseAddress else { return }
    UnsafeMutableRawPointer(target + count).copyMemory(from: source, byteCount: bytes.count)
    count += bytes.count
  }

  /// A part of a blob string.
  @inlinable package mutating func append(_ byte: UInt8) {
    precondition(count < memory.count, "a command is longer than it was said to be")
    memory[count] = byte
    count += 1
  }

  /// A part of a blob string: a number in decimal digits.
  @inlinable @inline(__always)
  package mutating func append(decimal number: some BinaryInteger) {
    append(digitsOf: UInt64(truncatingIfNeeded: number.magnitude), isNegative: number < 0)
  }

  @usableFromInline mutating func append(digitsOf magnitude: UInt64, isNegative: Bool) {
    let length = Self.digitCount(of: magnitude) + (isNegative ? 1 : 0)
    precondition(memory.count - count >= length, "a command is longer than it was said to be")
    var rest = magnitude
    var index = count + length
    count = index
    repeat {
      let (quotient, digit) = rest.quotientAndRemainder(dividingBy: 10)
      index -= 1
      memory[index] = 0x30 + UInt8(truncatingIfNeeded: digit)
      rest = quotient
    } while rest > 0
    if isNegative { memory[index - 1] = 0x2D }
  }

  /// How many characters a number takes.
  @inlinable @inline(__always)
  static func digitCount(_ number: some BinaryInteger) -> Int {
    digitCount(of: UInt64(truncatingIfNeeded: number.magnitude)) + (number < 0 ? 1 : 0)
  }

  @usableFromInline static func digitCount(of magnitude: UInt64) -> Int {
    var count = 1
    var rest = magnitude
    while rest >= 10 {
      rest /= 10
      count += 1
    }
    return count
  }
}
