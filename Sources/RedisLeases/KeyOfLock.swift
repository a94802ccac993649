import LockEngine
import LockTypes
import RESP

/// The part of a lock's keys that has its name: in braces, so that all keys of a lock are in one slot of a Redis
/// Cluster. `%`, `{` and `}` in it are written `%25`, `%7B` and `%7D`: the first closing brace ends a hash tag, and two
/// names must never give one key.
struct KeyOfLock {
  private let name: [UInt8]
  /// With the braces.
  let byteCount: Int

  init(_ name: LockName) {
    self.name = name.bytes
    var count = 2 + name.bytes.count
    for byte in name.bytes where Self.isEscaped(byte) { count += 2 }
    byteCount = count
  }

  var bytes: [UInt8] {
    var bytes: [UInt8] = [0x7B]
    bytes.reserveCapacity(byteCount)
    for byte in name {
      switch byte {
      case 0x25: bytes.append(contentsOf: [0x25, 0x32, 0x35])
      case 0x7B: bytes.append(contentsOf: [0x25, 0x37, 0x42])
      case 0x7D: bytes.append(contentsOf: [0x25, 0x37, 0x44])
      default: bytes.append(byte)
      }
    }
    bytes.append(0x7D)
    return bytes
  }

  private static func isEscaped(_ byte: UInt8) -> Bool { byte == 0x25 || byte == 0x7B || byte == 0x7D }

  /// The room for ``writeAll(after:to:)``.
  func capacityOfAll(after prefix: [UInt8]) -> Int { 3 * BlobWriter.capacity(prefix.count + byteCount + 6) }

  /// Writes the keys of the lock, its queue and its fence, as blob strings.
  func writeAll(after prefix: [UInt8], to writer: inout BlobWriter) {
    write(after: prefix, suffix: "", to: &writer)
    write(after: prefix, suffix: ":queue", to: &writer)
    write(after: prefix, suffix: ":fence", to: &writer)
  }

  /// Writes a whole key as a blob string.
  func write(after prefix: [UInt8], suffix: StaticString, to writer: inout BlobWriter) {
    writer.begin(byteCount: prefix.count + byteCount + suffix.utf8CodeUnitCount)
    writer.append(prefix)
    if byteCount == 2 + name.count {
      writer.append(0x7B)
      writer.append(name)
      writer.append(0x7D)
    } else {
      writer.append(bytes)
    }
    writer.append(suffix)
    writer.end()
  }
}
