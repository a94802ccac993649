/// The name of a lock: any bytes that are valid UTF-8, compared byte for byte.
///
/// A `String` would not do: Swift compares strings by canonical equivalence, so that two names which differ in Redis
/// would share one local queue.
public struct LockName: Hashable, Comparable, Sendable, CustomStringConvertible {
  /// The name's UTF-8 bytes.
  public let bytes: [UInt8]

  /// The name with these UTF-8 bytes.
  @inlinable public init(bytes: [UInt8]) {
    self.bytes = bytes
  }

  /// The name that `string` spells.
  @inlinable public init(_ string: String) {
    self.bytes = Array(string.utf8)
  }

  /// The name as text; bytes that are not UTF-8 are shown as U+FFFD.
  @inlinable public var description: String {
    String(decoding: bytes, as: UTF8.self)
  }

  /// Whether the name is not empty and its bytes are UTF-8.
  @inlinable public var isText: Bool {
    !bytes.isEmpty && String(validating: bytes, as: UTF8.self) != nil
  }

  /// Names are equal when their bytes are.
  @inlinable public static func == (a: LockName, b: LockName) -> Bool { a.bytes == b.bytes }

  /// Hashes the bytes.
  @inlinable public func hash(into hasher: inout Hasher) {
    bytes.withUnsafeBytes { hasher.combine(bytes: $0) }
  }

  /// Names are ordered by their bytes.
  @inlinable public static func < (a: LockName, b: LockName) -> Bool {
    // Eight at a time: names can be long and begin alike.
    a.bytes.withUnsafeBytes { a in
      b.bytes.withUnsafeBytes { b in
        let shared = min(a.count, b.count)
        var offset = 0
        while offset + 8 <= shared {
          let left = UInt64(bigEndian: a.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
          let right = UInt64(bigEndian: b.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
          if left != right { return left < right }
          offset += 8
        }
        while offset < shared {
          if a[offset] != b[offset] { return a[offset] < b[offset] }
          offset += 1
        }
        return a.count < b.count
      }
    }
  }

  /// Whether the name begins with these bytes.
  @inlinable public func hasPrefix(_ prefix: [UInt8]) -> Bool {
    bytes.starts(with: prefix)
  }
}
