/// Input as a row of choices; where it has ended, every choice is the first one.
struct Choices {
  private var rest: ArraySlice<UInt8>

  init(_ input: [UInt8]) { rest = input[...] }

  var isAtEnd: Bool { rest.isEmpty }

  mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

  /// A number from 0 up to `count` - 1.
  mutating func index(_ count: Int) -> Int { count < 2 ? 0 : Int(byte()) % count }

  mutating func bool() -> Bool { byte() & 1 == 1 }

  mutating func word() -> UInt64 { (0..<8).reduce(0) { value, _ in value << 8 | UInt64(byte()) } }

  /// Numbers that matter more often than others: small ones, and those at the ends of their range.
  mutating func number() -> Int64 {
    switch byte() & 7 {
    case 0, 1, 2: return Int64(byte())
    case 3: return Int64(byte()) << 8 | Int64(byte())
    case 4: return (1 << 53) - Int64(byte())
    case 5: return -Int64(byte())
    case 6: return Int64.max - Int64(byte())
    default: return Int64(bitPattern: word())
    }
  }

  /// Takes `count` bytes, or as many as there are.
  mutating func bytes(_ count: Int) -> [UInt8] {
    defer { rest = rest.dropFirst(count) }
    return Array(rest.prefix(count))
  }

  mutating func remaining() -> [UInt8] { bytes(rest.count) }
}

/// A stream whole, and in pieces whose sizes follow from `seed`.
func cuts(_ stream: [UInt8], seed: UInt8) -> [[ArraySlice<UInt8>]] {
  var pieces: [ArraySlice<UInt8>] = []
  var state = UInt32(seed) &+ 1
  var rest = stream[...]
  while !rest.isEmpty {
    state = state &* 1_664_525 &+ 1_013_904_223
    let count = seed == 0 ? 1 : 1 + Int(state >> 24) % 17
    pieces.append(rest.prefix(count))
    rest = rest.dropFirst(count)
  }
  return [[stream[...]], pieces]
}
