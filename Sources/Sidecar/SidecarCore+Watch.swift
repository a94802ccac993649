// Those who watch.

import ClientProtocol
import LockEngine

/// Who watches which locks.
struct Watches {
  /// One watch.
  struct Watch: Equatable {
    var session: SessionID
    /// The session's number for it.
    var number: Int64
  }

  private var byName: [LockName: [Watch]] = [:]
  private var byPrefix: [(prefix: [UInt8], watch: Watch)] = []
  /// How many there are.
  private(set) var count = 0

  mutating func add(_ target: WatchTarget, _ watch: Watch) {
    count += 1
    switch target {
    case .name(let name): byName[LockName(bytes: name), default: []].append(watch)
    case .prefix(let prefix): byPrefix.append((prefix, watch))
    }
  }

  mutating func remove(_ target: WatchTarget, _ watch: Watch) {
    count -= 1
    switch target {
    case .name(let name):
      let name = LockName(bytes: name)
      byName[name]?.removeAll { $0 == watch }
      if byName[name]?.isEmpty == true { byName[name] = nil }
    case .prefix: byPrefix.removeAll { $0.watch == watch }
    }
  }

  /// The watches that a lock of this name concerns.
  func watches(of name: LockName) -> [Watch] {
    var found = byName[name] ?? []
    for (prefix, watch) in byPrefix where name.hasPrefix(prefix) { found.append(watch) }
    return found
  }
}

extension SidecarCore {
  // MARK: Watching

  func watch(_ target: WatchTarget, id: MessageID, _ session: ClientSession) {
    if case .name(let bytes) = target {
      let name = LockName(bytes: bytes)
      guard mayInspect(session, name) else { return deny(session, .inspect, name, id: id) }
    }
    guard session.watches.count < Limits.watchesPerSessionMax else {
      limitCounts.met(.watchesPerSession)
      return write(to: session) { $0.failure(id: id, .limit) { $0.member("limit", "watches_per_session") } }
    }
    session.lastWatch += 1
    let number = session.lastWatch
    session.watches[number] = target
    watches.add(target, .init(session: session.id, number: number))
    engine.isObserved = true
    write(to: session) { $0.watching(id: id, watch: number) }
  }

  func unwatch(_ number: Int64, id: MessageID, _ session: ClientSession) {
    guard let target = session.watches.removeValue(forKey: number) else {
      return write(to: session) { writer in
        writer.failure(id: id, .invalidParams, message: "this connection has no watch \(number)") { json in
          json.member("field", "watch")
          json.member("expected", "the number of a watch of this connection")
        }
      }
    }
    ended(target, number, of: session)
    write(to: session) { $0.done(id: id) }
  }

  /// A session is gone, and its watches with it.
  func endWatches(of session: ClientSession) {
    for (number, target) in session.watches { ended(target, number, of: session) }
    session.watches = [:]
  }

  private func ended(_ target: WatchTarget, _ number: Int64, of session: ClientSession) {
    watches.remove(target, .init(session: session.id, number: number))
    engine.isObserved = watches.count > 0
  }

  func tellWatchers(of event: ObservedEvent) {
    let told: EventInfo =
      switch event.kind {
      case .acquired(let session, let token, let mode):
        .acquired(session: "\(session.rawValue)", token: token, mode: ModeInfo(mode))
      case .released(let session, let token): .released(session: "\(session.rawValue)", token: token)
      case .lost(let session, let token, let reason):
        .lost(session: "\(session.rawValue)", token: token, reason: reason.rawValue)
      case .waiting(let session, let waiters): .waiting(session: "\(session.rawValue)", waiters: Int64(waiters))
      case .gaveUp(let session, let waiters): .gaveUp(session: "\(session.rawValue)", waiters: Int64(waiters))
      case .remote(let host): .remote(host: host)
      }
    for watch in watches.watches(of: event.name) {
      guard let session = sessions[watch.session], !session.isClosing, mayInspect(session, event.name) else { continue }
      write(to: session) { $0.event(watch: watch.number, name: event.name.bytes, told) }
    }
  }

  /// Tells those who watch that Redis can be reached again, or cannot any more.
  func tellWatchers(_ state: BackendStateWord) {
    guard watches.count > 0 else { return }
    for session in sessions.values where !session.watches.isEmpty && !session.isClosing {
      write(to: session) { $0.backend(state) }
    }
  }
}
