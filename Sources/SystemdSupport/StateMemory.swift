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
  private let isOwner: Bool

  /// A new file of that size, all zero; nil when the kernel refuses.
  public convenience init?(bytes: Int64 = StateMemory.bytesDefault) {
    let descriptor = memory_file_create("sidelock-state", bytes)
    guard descriptor >= 0 else { return nil }
    self.init(owning: descriptor)
  }

  /// The file behind a descriptor that another process made, and that is closed with this object; nil, and the descriptor
  /// closed, when it is not one whose size is fixed: a mapping of another one could end the process at any time.
  public convenience init?(owning descriptor: CInt) { self.init(descriptor, isOwner: true) }

  /// The same, but for the descriptor, which is left open.
  public convenience init?(borrowing descriptor: CInt) { self.init(descriptor, isOwner: false) }

  private init?(_ descriptor: CInt, isOwner: Bool) {
    let size = memory_file_size(descriptor)
    guard size > 0, size <= 1 << 40, let address = memory_file_map(descriptor, size) else {
      if isOwner { close(descriptor) }
      return nil
    }
    self.descriptor = descriptor
    self.isOwner = isOwner
    bytes = UnsafeMutableRawBufferPointer(start: address, count: Int(size))
  }

  deinit {
    memory_file_unmap(bytes.baseAddress, Int64(bytes.count))
    if isOwner { close(descriptor) }
  }
}
