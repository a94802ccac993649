import CLinux
import Glibc
import LockEngine
import LockTypes
import Logging
import SystemdSupport

/// What a daemon before this one left, read with care: something in it may be what ended that one.
enum Predecessor {
  /// Attempts to begin with the inherited state before it is given up.
  private static let attemptsMax: UInt64 = 2

  /// Reads what the daemon before left, if it can be used. The connections of clients that cannot go on are closed, and
  /// everything that is of no use is taken out of the store.
  static func read(
    _ left: LeftDescriptors, _ configuration: SidecarConfiguration, _ store: DescriptorStore?, logger: Logger
  ) -> SavedDaemon? {
    guard !left.descriptors.isEmpty else { return nil }
    guard let store else {
      // Without a store nothing can be taken out of it.
      left.disconnect()
      return nil
    }
    store.hasFound(left.descriptors.map(\.name))
    let witnesses = left.descriptors.filter { $0.name == KeptDescriptors.witnessName }
    for witness in witnesses { KeptDescriptors.discard(witness, from: store) }
    let left = LeftDescriptors(left.descriptors.filter { $0.name != KeptDescriptors.witnessName })
    if left.descriptors.isEmpty { return nil }
    var found: SavedDaemon?
    var problem = "there is none"
    var memories = 0
    for descriptor in left.descriptors where descriptor.name == KeptDescriptors.memoryName {
      memories += 1
      do {
        let state = try read(descriptor, configuration)
        if found == nil { found = state }
      } catch {
        problem = "\(error)"
      }
    }
    if memories != (found == nil ? 0 : 1) {
      store.remove(KeptDescriptors.memoryName)
      if let found { store.add(found.memory.descriptor, as: KeptDescriptors.memoryName) }
    }
    var discarded = 0
    for descriptor in left.descriptors where descriptor.name != KeptDescriptors.memoryName {
      if let id = UInt64(descriptor.name.dropFirst(KeptDescriptors.clientPrefix.count)).map({ SessionID($0) }),
        let session = found?.sessions[id], found?.connections[id] == nil, isUsable(descriptor.descriptor, session)
      {
        found?.connections[id] = descriptor.descriptor
      } else {
        shutdown(descriptor.descriptor, Int32(SHUT_RDWR))
        KeptDescriptors.discard(descriptor, from: store)
        discarded += 1
      }
    }
    if found == nil {
      logger.warning(
        "what the daemon before left cannot be used; its locks end by their leases",
        metadata: ["reason": "\(problem)", "clients": "\(discarded)"])
    }
    return found
  }

  private static func read(
    _ descriptor: HandedOverDescriptor, _ configuration: SidecarConfiguration
  ) throws -> SavedDaemon {
    guard let memory = StateMemory(owning: descriptor.descriptor) else {
      throw StateUnreadable.damaged("it is no memory of fixed size")
    }
    guard StateLog.countAttempt(memory.bytes) < attemptsMax else {
      throw StateUnreadable.damaged("the daemon has ended \(attemptsMax) times with it")
    }
    let state = try SavedDaemon(memory)
    let own = SavedIdentity(instance: state.identity.instance, configuration.settings)
    guard state.identity == own else { throw StateUnreadable.damaged(state.identity.change(to: own)) }
    return state
  }

  /// Whether the session can go on with this connection.
  private static func isUsable(_ descriptor: CInt, _ session: SavedSession) -> Bool {
    guard socket_cookie(descriptor) == session.cookie, session.cookie != 0, !session.isUncertain else { return false }
    var state = pollfd(fd: descriptor, events: 0, revents: 0)
    return poll(&state, 1, 0) >= 0 && state.revents & Int16(POLLHUP | POLLERR | POLLNVAL) == 0
  }
}
