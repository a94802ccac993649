import Glibc
import NIOCore
import SystemdSupport

/// What a keeper has in the service manager's store: the memory with the state, connections of clients, and a witness.
final class KeptDescriptors {
  /// The beginning of the names under which connections are stored; the session's number follows.
  static let clientPrefix = "client-"
  /// The name under which the memory is stored.
  static let memoryName = "sidelock-state"
  /// The name of the witness, which shows whether anything is kept.
  static let witnessName = "sidelock-state-witness"
  /// Descriptors of the store that are not clients: the memory, and connections that have just ended.
  private static let reserved = 16
  /// How long until what the service manager did not read is sent again, in milliseconds.
  private static let retryMilliseconds: Int64 = 5

  private let store: DescriptorStore
  private let loop: any EventLoop
  private var retry: Scheduled<Void>?
  /// How many clients have room.
  let clientsMax: Int

  /// Nil when no client has room.
  init?(store: DescriptorStore, loop: any EventLoop) {
    guard store.capacity > Self.reserved else { return nil }
    self.store = store
    self.loop = loop
    clientsMax = store.capacity - Self.reserved
  }

  /// Whether the service manager keeps what it is given, as far as can be known.
  var isKept: Bool { store.isKept }

  func addWitness() { store.addWitness(as: Self.witnessName) }

  func add(_ memory: StateMemory) { store.add(memory.descriptor, as: Self.memoryName) }

  func removeMemory() { store.remove(Self.memoryName) }

  /// Stores the connection of a session.
  func add(_ session: ClientSession) { session.withSocket { store.add($0, as: Self.name(of: session)) } }

  func remove(_ session: ClientSession) { store.remove(Self.name(of: session)) }

  /// The connection is gone; the service manager sees that by itself.
  func forget(_ session: ClientSession) { store.forget(Self.name(of: session)) }

  private static func name(of session: ClientSession) -> String { "\(clientPrefix)\(session.id.rawValue)" }

  /// Retries until the service manager has read everything.
  func scheduleRetry() {
    guard store.hasBacklog, retry == nil else { return }
    retry = loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.retryMilliseconds)) { [weak self] in
      guard let self else { return }
      self.retry = nil
      self.store.retry()
      self.scheduleRetry()
    }
  }

  func stopRetrying() { retry?.cancel() }

  /// Waits until the service manager has read everything; whether it has.
  func flush(withinMilliseconds limit: Int) -> Bool { store.flush(withinMilliseconds: limit) }

  /// Takes a connection that nobody wants out of the store.
  static func discard(_ descriptor: HandedOverDescriptor, from store: DescriptorStore) {
    store.remove(descriptor.name)
    close(descriptor.descriptor)
  }
}
