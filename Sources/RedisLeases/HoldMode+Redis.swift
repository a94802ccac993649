public import LockTypes
import RESP

// A mode as it stands in Redis: `x`, `s`, or `p` and how many permits there are.
extension HoldMode {
  /// The word for it.
  public var word: [UInt8] {
    switch self {
    case .exclusive: [UInt8(ascii: "x")]
    case .shared: [UInt8(ascii: "s")]
    case .permit(let capacity): [UInt8(ascii: "p")] + Array(String(capacity).utf8)
    }
  }

  /// The mode that a word stands for; nil when it is none.
  public init?(word: some Collection<UInt8>) {
    switch (word.first, word.count) {
    case (UInt8(ascii: "x"), 1): self = .exclusive
    case (UInt8(ascii: "s"), 1): self = .shared
    case (UInt8(ascii: "p"), _):
      guard let capacity = Int64(decimal: ArraySlice(word.dropFirst())), capacity > 0 else { return nil }
      self = .permit(of: capacity)
    default: return nil
    }
  }

  /// Writes the word as a blob string.
  func write(to writer: inout BlobWriter) {
    switch self {
    case .exclusive: writer.write(byte: UInt8(ascii: "x"))
    case .shared: writer.write(byte: UInt8(ascii: "s"))
    case .permit: writer.write(word)
    }
  }
}
