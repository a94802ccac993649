import CLinux
import CSystemd
import DequeModule
import Glibc
import SystemStrings

/// The service manager's store of descriptors (FDSTORE=, FDSTOREREMOVE=): what is in it stays open when this process
/// ends, and is handed to the one that takes its place, if the unit is being started again.
///
/// Only ``flush(withinMilliseconds:)`` waits. What the service manager does not read is queued, in its order, for the
/// next ``retry()``. Not thread-safe: one event loop owns it.
public final class DescriptorStore {
  private enum Message {
    /// `isGiven`: it is closed here as soon as it is sent.
    case add(name: String, descriptor: CInt, isGiven: Bool = false)
    case remove(name: String)
  }

  /// How many descriptors have room, by what the environment says.
  public let capacity: Int
  private let path: String
  private let socket: CInt
  private var backlog: Deque<Message> = []
  /// Names of which something was sent, or was there at the start: it may still be there.
  private var sent: Set<String> = []
  /// The end of a pipe whose other end is in the store and nowhere else; -1: there is none.
  private var witness: CInt = -1

  /// The store of the service manager that started this process; nil when there is none. Its capacity is in `FDSTORE`,
  /// which systemd sets from version 254 on, and the unit for older ones. `environment`: a variable's value, as
  /// `SystemText` has it.
  public convenience init?(environment: (String) -> String?) {
    guard let path = environment("NOTIFY_SOCKET"), let text = environment("FDSTORE"), let capacity = Int(text) else {
      return nil
    }
    self.init(notifySocket: path, capacity: capacity)
  }

  /// The store behind that socket.
  init?(notifySocket path: String, capacity: Int) {
    guard capacity > 0, path.hasPrefix("/") || path.hasPrefix("@") else { return nil }
    socket = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard socket >= 0 else { return nil }
    self.path = path
    self.capacity = capacity
  }

  deinit {
    for case .add(_, let descriptor, true) in backlog { close(descriptor) }
    if witness >= 0 { close(witness) }
    close(socket)
  }

  /// Whether the environment of this process offers a store.
  public static var isOffered: Bool {
    DescriptorStore { name in getenv(name).map { SystemText.text(cString: $0) } } != nil
  }

  /// Puts one end of a pipe into the store: by the other end ``isKept`` sees whether it stays there. The service
  /// manager takes it out when this process has ended.
  public func addWitness(as name: String) {
    var ends: [CInt] = [-1, -1]
    guard witness < 0, pipe(&ends) == 0 else { return }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    witness = ends[0]
    backlog.append(.add(name: name, descriptor: ends[1], isGiven: true))
    retry()
  }

  /// Whether the store keeps what is put into it, as far as can be known: a service manager may have less room than the
  /// environment says, or none, and closes what finds none without a word.
  public var isKept: Bool {
    guard witness >= 0 else { return true }
    var state = pollfd(fd: witness, events: 0, revents: 0)
    return poll(&state, 1, 0) < 0 || state.revents & Int16(POLLHUP) == 0
  }

  /// Whether something waits for the service manager to read.
  public var hasBacklog: Bool { !backlog.isEmpty }

  /// Puts a descriptor into the store. It must stay open until it is sent, or ``remove(_:)`` is called for it; names
  /// have up to 255 ASCII characters, none of them a colon or a control character.
  public func add(_ descriptor: CInt, as name: String) {
    backlog.append(.add(name: name, descriptor: descriptor))
    retry()
  }

  /// Takes the descriptors of that name out of the store. The service manager does so by itself with a socket whose
  /// other end is gone.
  public func remove(_ name: String) {
    let hasDropped = dropUnsent(name)
    if sent.remove(name) == nil, hasDropped { return }
    backlog.append(.remove(name: name))
    retry()
  }

  /// The service manager has taken the descriptors of that name out by itself, or will; those that were not sent yet are
  /// dropped.
  public func forget(_ name: String) {
    _ = dropUnsent(name)
    sent.remove(name)
  }

  /// Descriptors of these names are in the store since before this process.
  public func hasFound(_ names: [String]) { sent.formUnion(names) }

  private func dropUnsent(_ name: String) -> Bool {
    guard !backlog.isEmpty else { return false }
    let count = backlog.count
    backlog.removeAll {
      if case .add(name, _, false) = $0 { return true }
      return false
    }
    return backlog.count < count
  }

  /// Sends what could not be sent before.
  public func retry() {
    while let message = backlog.first {
      guard send(message) else { return }
      if case .add(let name, _, _) = message { sent.insert(name) }
      if case .add(_, let descriptor, true) = message { close(descriptor) }
      backlog.removeFirst()
    }
  }

  /// Waits until the service manager has read everything; for the end of the process.
  ///
  /// - Returns: false when that took longer than the given time.
  public func flush(withinMilliseconds limit: Int) -> Bool {
    let end = monotonicMilliseconds() + UInt64(max(0, limit))
    retry()
    while hasBacklog, monotonicMilliseconds() < end {
      usleep(1000)
      retry()
    }
    let now = monotonicMilliseconds()
    guard !hasBacklog, now < end else { return false }
    return sd_notify_barrier(0, (end - now) * 1000) > 0
  }

  /// Whether the message is done with. What the service manager will never take is given up: its client will be treated
  /// as if there were no store.
  private func send(_ message: Message) -> Bool {
    let text: String
    let descriptor: CInt
    switch message {
    case .add(let name, let toStore, _): (text, descriptor) = ("FDSTORE=1\nFDNAME=\(name)", toStore)
    case .remove(let name): (text, descriptor) = ("FDSTOREREMOVE=1\nFDNAME=\(name)", -1)
    }
    var bytes = text
    let result = bytes.withUTF8 { bytes in
      SystemText.withCString(path) { datagram_send(socket, $0, bytes.baseAddress, bytes.count, descriptor) }
    }
    return result == 0 || (errno != EAGAIN && errno != ETOOMANYREFS && errno != ENOBUFS)
  }
}
