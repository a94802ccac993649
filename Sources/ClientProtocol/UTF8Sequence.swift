/// UTF-8 sequences: the reader refuses an ill-formed one, the writer replaces it.
enum UTF8Sequence {
  /// Looks at the sequence that begins at `index`, which is inside `bytes`.
  ///
  /// Gives its length when it is well-formed (no overlong form, no surrogate, nothing above U+10FFFF); else the
  /// negated length of the ill-formed part that one U+FFFD stands for, as Unicode recommends (the maximal subpart).
  static func length(in bytes: UnsafeRawBufferPointer, at index: Int) -> Int {
    let first = bytes[index]
    if first < 0x80 { return 1 }
    var low: UInt8 = 0x80
    var high: UInt8 = 0xBF
    let length: Int
    switch first {
    case 0xC2...0xDF: length = 2
    case 0xE0...0xEF:
      length = 3
      if first == 0xE0 { low = 0xA0 } else if first == 0xED { high = 0x9F }
    case 0xF0...0xF4:
      length = 4
      if first == 0xF0 { low = 0x90 } else if first == 0xF4 { high = 0x8F }
    default: return -1
    }
    var offset = 1
    while offset < length {
      guard index + offset < bytes.count, bytes[index + offset] >= low, bytes[index + offset] <= high else {
        return -offset
      }
      low = 0x80
      high = 0xBF
      offset += 1
    }
    return length
  }

  /// How many bytes `scalar` takes.
  static func length(of scalar: UInt32) -> Int {
    scalar < 0x80 ? 1 : scalar < 0x800 ? 2 : scalar < 0x1_0000 ? 3 : 4
  }

  /// Appends the bytes of `scalar`, which is no surrogate and at most 0x10FFFF.
  static func append(_ scalar: UInt32, to bytes: inout [UInt8]) {
    func continuation(_ shift: UInt32) -> UInt8 { 0x80 | UInt8(truncatingIfNeeded: (scalar >> shift) & 0x3F) }
    switch scalar {
    case ..<0x80:
      bytes.append(UInt8(truncatingIfNeeded: scalar))
    case ..<0x800:
      bytes.append(0xC0 | UInt8(truncatingIfNeeded: scalar >> 6))
      bytes.append(continuation(0))
    case ..<0x1_0000:
      bytes.append(0xE0 | UInt8(truncatingIfNeeded: scalar >> 12))
      bytes.append(continuation(6))
      bytes.append(continuation(0))
    default:
      bytes.append(0xF0 | UInt8(truncatingIfNeeded: (scalar >> 18) & 0x07))
      bytes.append(continuation(12))
      bytes.append(continuation(6))
      bytes.append(continuation(0))
    }
  }
}
