import CLinux
import Glibc

/// A mapped memfd, whose descriptor can be given to another process.
public final class StateMemory {
  /// The size of a new file: two areas of four gibibytes. Only what is written takes memory.
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

  /// The file behind a descriptor that another process made; closed with this object. nil, and the descriptor closed,
  /// when its size is not sealed: a file that shrinks could end the process at any time (SIGBUS).
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
