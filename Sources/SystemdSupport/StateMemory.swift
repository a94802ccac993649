import CLinux
import Glibc

/// A file in memory, mapped, whose descriptor another process can be given.
public final class StateMemory {
  /// What a file is made for: two areas of four gibibytes, of which only what is written takes memory.
  public static let bytesDefault: Int64 = 1 << 33

  /// Its descriptor.
  public let descriptor: CInt
  /// What stands in it, for as long as this object lives.
  public let bytes: UnsafeMutableRawBufferPointer

  /// A new file of that size, all zero; nil when the kernel refuses.
  public convenience init?(bytes: Int64 = StateMemory.bytesDefault) {
    let descriptor = memory_file_create("sidelock-state", bytes)
    guard descriptor >= 0 else { return nil }
    self.init(owning: descriptor)
  }

  /// The file behind a descriptor that another process made, and that is closed with this object; nil, and the descriptor
  /// closed, when it is not one whose size is fixed: a mapping of another one could end the process at any time.
  public init?(owning descriptor: CInt) {
    let size = memory_file_size(descriptor)
    guard size > 0, size <= 1 << 40, let address = memory_file_map(descriptor, size) else {
      close(descriptor)
      return nil
    }
    self.descriptor = descriptor
    bytes = UnsafeMutableRawBufferPointer(start: address, count: Int(size))
  }

  deinit {
    memory_file_unmap(bytes.baseAddress, Int64(bytes.count))
    close(descriptor)
  }
}
