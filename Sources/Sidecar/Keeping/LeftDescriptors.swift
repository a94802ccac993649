import Glibc
import LockEngine
public import SystemdSupport

/// What the service manager kept of a daemon before this one.
public struct LeftDescriptors: Sendable {
  /// The memory with the state of the daemon before, and connections of its clients.
  public let descriptors: [HandedOverDescriptor]

  /// The names under which such descriptors are stored begin with one of these.
  public static var namePrefixes: [String] { [KeptDescriptors.memoryName, KeptDescriptors.clientPrefix] }

  /// What was handed over at the start under names that begin with ``namePrefixes``.
  public init(_ descriptors: [HandedOverDescriptor]) {
    self.descriptors = descriptors
  }

  /// The settings that the daemon before had in force, encoded; nil when they cannot be read.
  public var settings: [UInt8]? {
    for descriptor in descriptors where descriptor.name == KeptDescriptors.memoryName {
      // Borrowed: the takeover needs the descriptor, too.
      guard let memory = StateMemory(borrowing: descriptor.descriptor),
        let settings = try? StateImage.record(
          StateLog.Key(kind: SavedRecordKind.settings, id: 0), in: UnsafeRawBufferPointer(memory.bytes))
      else { continue }
      return settings
    }
    return nil
  }

  /// Whether a daemon that begins now could go on with it, and nobody has lost anything yet: somebody holds a lock or
  /// waits for one, and no lease of a lock that is held has ended.
  public var isOfUse: Bool {
    descriptors.contains { descriptor in
      guard descriptor.name == KeptDescriptors.memoryName,
        let memory = StateMemory(borrowing: descriptor.descriptor), let state = try? SavedDaemon(memory)
      else { return false }
      return state.engine.isWhole(at: BootClock.now())
    }
  }

  /// Disconnects clients, unless the next attempt to start a daemon may go on with them.
  public func disconnectUnlessOfUse() {
    if !isOfUse { disconnect() }
  }

  /// Ends the connections of clients, because nobody will take them over: so they learn that their locks are lost.
  public func disconnect() {
    for descriptor in descriptors { shutdown(descriptor.descriptor, Int32(SHUT_RDWR)) }
  }
}
