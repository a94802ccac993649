import Dispatch
import Glibc
import LockTypes
import NIOCore

/// The names of users, for the log. The host's databases are asked beside the loop: they may be on another host.
final class UserNames {
  private static let queue = DispatchQueue(label: "sidelock.users")
  private static let namesMax = 1024
  private static let bytesMax = 1 << 20
  /// For how long an answer is good, in milliseconds.
  private static let knownMilliseconds: Int64 = 600_000

  /// How the databases are asked beside the loop.
  var beside: (DispatchQueue, @escaping @Sendable () -> Void) -> Void = { $0.async(execute: $1) }
  private let loop: any EventLoop
  private let clock: HostClock
  private var known: [uid_t: (name: String?, until: BootInstant)] = [:]
  /// Those that are being looked up, and who waits for the answer.
  private var waiting: [uid_t: [() -> Void]] = [:]

  init(loop: any EventLoop, clock: HostClock) {
    self.loop = loop
    self.clock = clock
  }

  /// A user's name, if it is known by now and there is one.
  func name(of uid: uid_t) -> String? { known[uid]?.name }

  /// Has a user's name looked up unless it is known. Calls `body` when it is known, or at once.
  func lookUp(_ uid: uid_t, _ body: (() -> Void)? = nil) {
    if let known = known[uid], clock.now() < known.until {
      body?()
      return
    }
    if waiting[uid] != nil {
      if let body { waiting[uid]?.append(body) }
      return
    }
    waiting[uid] = body.map { [$0] } ?? []
    let names = NIOLoopBound(self, eventLoop: loop)
    let loop = loop
    beside(Self.queue) {
      let name = Self.ask(uid)
      loop.execute { names.value.found(name, of: uid) }
    }
  }

  private func found(_ name: String?, of uid: uid_t) {
    if known.count >= Self.namesMax { known = [:] }
    known[uid] = (name, clock.now().adding(milliseconds: Self.knownMilliseconds))
    for body in waiting.removeValue(forKey: uid) ?? [] { body() }
  }

  /// Asks the host's databases, which may take long.
  static func ask(_ uid: uid_t) -> String? {
    var count = 1024
    while count <= bytesMax {
      var buffer = [CChar](repeating: 0, count: count)
      var record = passwd()
      var found: UnsafeMutablePointer<passwd>?
      let status = getpwuid_r(uid, &record, &buffer, count, &found)
      if status == ERANGE {
        count *= 4
        continue
      }
      // The name lies in the buffer.
      return withExtendedLifetime(buffer) { found.flatMap { $0.pointee.pw_name.map { String(cString: $0) } } }
    }
    return nil
  }
}
