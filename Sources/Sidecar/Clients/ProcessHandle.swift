import CLinux
import Glibc
import NIOCore
import Synchronization
import SystemdSupport

/// A pidfd: one process, and never another one that got its pid.
final class ProcessHandle: Sendable {
  private let descriptor: CInt

  private static let open = Atomic(0)
  /// How many are open.
  static var count: Int { open.load(ordering: .relaxed) }

  private init(_ descriptor: CInt) {
    self.descriptor = descriptor
    Self.open.add(1, ordering: .relaxed)
  }

  deinit {
    Glibc.close(descriptor)
    Self.open.subtract(1, ordering: .relaxed)
  }

  /// Why there is no handle.
  enum Failure: Error, Equatable, CustomStringConvertible {
    /// The process has ended.
    case ended
    /// It is in a pid namespace that this process cannot see.
    case invisible
    /// Clients have as many descriptors as they may.
    case noRoom
    /// The system's own words.
    case failed(String)

    /// The reason, for a message.
    var description: String {
      switch self {
      case .ended: "it has ended"
      case .invisible: "it is in another pid namespace"
      case .noRoom: "too many files are open"
      case .failed(let reason): reason
      }
    }
  }

  /// Whether the kernel has SO_PEERPIDFD (Linux 6.5). On an older one the pidfd is opened as soon as a process
  /// connects, before its pid can be another's.
  static let kernelKnowsPeers: Bool = {
    var pair: [CInt] = [-1, -1]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
      return false
    }
    defer { for descriptor in pair { Glibc.close(descriptor) } }
    let process = peer_process(pair[0])
    if process >= 0 { Glibc.close(process) }
    return process >= 0 || errno != ENOPROTOOPT
  }()

  /// The process that opened a connection.
  static func opened(_ channel: any Channel, peer: Peer?) -> Result<ProcessHandle, Failure> {
    if let descriptor = channel.withDescriptor({ kernelKnowsPeers ? peer_process($0) : nil }) {
      return result(descriptor)
    }
    guard !kernelKnowsPeers, let peer else { return .failure(.ended) }
    guard peer.isVisible else { return .failure(.invisible) }
    return result(process_open(peer.pid))
  }

  private static func result(_ descriptor: CInt) -> Result<ProcessHandle, Failure> {
    if descriptor >= 0 { return .success(ProcessHandle(descriptor)) }
    switch errno {
    // What the kernel says of a process that is no more differs between versions.
    case ESRCH, ENODATA, EINVAL: return .failure(.ended)
    default: return .failure(.failed(errorText()))
    }
  }

  /// Whether the process has ended.
  var hasEnded: Bool { process_has_ended(descriptor) != 0 }

  /// What came of a signal.
  enum Delivery: Equatable {
    case sent
    case ended
    /// This process may not send signals to that one.
    case notAllowed
    /// It has become a process that the client's user may not send signals to.
    case ofAnotherUser
    /// Whose process it is now the system does not say; its own words.
    case ofUnknownUser(String)
    /// No signal reaches it, because it is in a pid namespace that this process cannot see.
    case invisible
    /// The system's own words.
    case failed(String)
  }

  /// Sends a signal on behalf of the client that connected; 0 sends none, and tells whether one could be sent.
  ///
  /// The daemon may have more rights than the client, and a process becomes another user's by running a set-uid
  /// program. So its owner is checked each time, by the rule of kill(2): the client's user must be root, or the
  /// process' real or saved user.
  func send(_ signal: CInt, onBehalfOf peer: Peer?) -> Delivery {
    guard let peer else { return .ofUnknownUser("its client is not known") }
    if peer.uid != 0, peer.isVisible {
      var (real, saved) = (uid_t.max, uid_t.max)
      guard process_users(descriptor, peer.pid, &real, &saved) == 0 else {
        return errno == ESRCH ? .ended : .ofUnknownUser(errorText())
      }
      guard real == peer.uid || saved == peer.uid else { return .ofAnotherUser }
    }
    if process_signal(descriptor, signal) == 0 { return .sent }
    switch errno {
    case ESRCH: return .ended
    case EPERM: return .notAllowed
    // The signals themselves are good, so it can only be the process.
    case EINVAL: return .invisible
    default: return .failed(errorText())
    }
  }

  /// Has `watcher` report the end of the process under `id`.
  fileprivate func watch(with watcher: CInt, id: UInt64) -> Bool {
    process_watcher_add(watcher, descriptor, id) == 0
  }
}

/// Waits for the end of processes, in a thread that starts with the first one. The event loop cannot: it reads from
/// every descriptor that it waits for, and takes it for a fault of the program that a pidfd cannot be read.
final class ProcessWatcher: Sendable {
  private let descriptor: CInt
  private let ended: @Sendable (_ ids: [UInt64]) -> Void

  /// Nil when the system has no more descriptors or threads. `ended` is called in the watcher's thread.
  init?(ended: @escaping @Sendable (_ ids: [UInt64]) -> Void) {
    descriptor = process_watcher_create()
    self.ended = ended
    guard descriptor >= 0 else { return nil }
    // The thread lives as long as the daemon.
    guard DetachedThread.start({ self.run() }) else { return nil }
  }

  deinit {
    if descriptor >= 0 { Glibc.close(descriptor) }
  }

  /// Reports the end of a process under `id`, once, while `handle` lives. False when that is not possible.
  func watch(_ handle: ProcessHandle, id: UInt64) -> Bool {
    handle.watch(with: descriptor, id: id)
  }

  private func run() {
    var ids = [UInt64](repeating: 0, count: 64)
    while true {
      let count = process_watcher_wait(descriptor, &ids, Int32(ids.count))
      if count < 0 { return }
      ended(Array(ids.prefix(Int(count))))
    }
  }
}
