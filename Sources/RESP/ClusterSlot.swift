/// The hash slots of a Redis Cluster: which of its 16,384 parts a key belongs to.
public enum ClusterSlot {
  /// How many there are.
  public static let count = 16_384

  /// The slot of a key: that of its hash tag, where it has one that is not empty, and of the whole key elsewhere.
  public static func of(key: some Collection<UInt8>) -> Int {
    if let open = key.firstIndex(of: 0x7B) {
      let rest = key[key.index(after: open)...]
      if let close = rest.firstIndex(of: 0x7D), close != rest.startIndex { return of(tag: rest[..<close]) }
    }
    return of(tag: key)
  }

  /// The slot of what is hashed as it is, braces and all.
  public static func of(tag bytes: some Sequence<UInt8>) -> Int {
    var sum: UInt16 = 0
    for byte in bytes { sum = (sum << 8) ^ table[Int(UInt8(truncatingIfNeeded: sum >> 8) ^ byte)] }
    return Int(sum) % count
  }

  /// Of CRC-16/XMODEM, polynomial 0x1021.
  private static let table: [UInt16] = (0..<256).map { byte in
    var sum = UInt16(byte) << 8
    for _ in 0..<8 { sum = sum & 0x8000 == 0 ? sum << 1 : (sum << 1) ^ 0x1021 }
    return sum
  }
}
