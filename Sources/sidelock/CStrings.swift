import Glibc
import SidelockClient
import SystemStrings

/// Arguments for another program, byte for byte as ``SystemText`` has them, for as long as this object lives.
final class CStrings {
  /// With the terminating nil.
  let pointers: UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>
  private let count: Int

  init(_ texts: [String]) {
    count = texts.count
    pointers = .allocate(capacity: count + 1)
    for (index, text) in texts.enumerated() {
      let bytes = SystemText.bytes(text)
      let copy = UnsafeMutablePointer<CChar>.allocate(capacity: bytes.count + 1)
      for (offset, byte) in bytes.enumerated() { copy[offset] = CChar(bitPattern: byte) }
      copy[bytes.count] = 0
      pointers.advanced(by: index).initialize(to: copy)
    }
    pointers.advanced(by: count).initialize(to: nil)
  }

  deinit {
    for index in 0..<count { pointers[index]?.deallocate() }
    pointers.deallocate()
  }
}
