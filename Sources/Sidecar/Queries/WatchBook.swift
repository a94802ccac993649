import ClientProtocol
import LockEngine
import LockTypes
import NIOCore

/// Who watches which locks. Adding, removing and finding a watch takes no longer however many watch others.
private struct Watches {
  /// One watch.
  struct Watch: Hashable {
    var session: SessionID
    /// The session's number for it.
    var number: Int64
  }

  private var byName: [LockName: Set<Watch>] = [:]
  private var byPrefix: [LockName: Set<Watch>] = [:]
  /// The lengths of the prefixes that are watched, each with how many different ones it has.
  private var lengths: [Int: Int] = [:]
  /// How many there are.
  private(set) var count = 0
  private var prefixCount = 0
  /// The most that any one name has had since `byName` was last empty.
  private var ofOneNameMax = 0

  /// How many steps it takes, at most, to find all watches that an event concerns.
  var toldOfOneMax: Int { prefixCount + lengths.count + ofOneNameMax }

  mutating func add(_ target: WatchTarget, _ watch: Watch) {
    count += 1
    switch target {
    case .name(let key):
      byName[key, default: []].insert(watch)
      ofOneNameMax = max(ofOneNameMax, byName[key]?.count ?? 0)
    case .prefix(let prefix):
      let key = LockName(bytes: prefix)
      prefixCount += 1
      if byPrefix[key] == nil { lengths[prefix.count, default: 0] += 1 }
      byPrefix[key, default: []].insert(watch)
    }
  }

  mutating func remove(_ target: WatchTarget, _ watch: Watch) {
    count -= 1
    switch target {
    case .name(let key):
      byName[key]?.remove(watch)
      if byName[key]?.isEmpty == true { byName[key] = nil }
      if byName.isEmpty { ofOneNameMax = 0 }
    case .prefix(let prefix):
      let key = LockName(bytes: prefix)
      prefixCount -= 1
      byPrefix[key]?.remove(watch)
      guard byPrefix[key]?.isEmpty == true else { return }
      byPrefix[key] = nil
      lengths[prefix.count, default: 0] -= 1
      if lengths[prefix.count] == 0 { lengths[prefix.count] = nil }
    }
  }

  /// The watches that a lock of this name concerns.
  func watches(of name: LockName) -> [Watch] {
    var found = byName[name].map { Array($0) } ?? []
    for length in lengths.keys where length <= name.bytes.count {
      if let watches = byPrefix[LockName(bytes: Array(name.bytes.prefix(length)))] { found += watches }
    }
    return found
  }
}

/// Notifies watchers of what happens to locks.
final class WatchBook {
  private let configuration: ConfigurationInForce
  private let counts: LimitCounts
  private let sessions: SessionTable
  private let output: TurnOutput
  private let rights: RightsCache
  private let door: EngineDoor
  private var watches = Watches()

  init(
    configuration: ConfigurationInForce, counts: LimitCounts, sessions: SessionTable, output: TurnOutput,
    rights: RightsCache, door: EngineDoor
  ) {
    self.configuration = configuration
    self.counts = counts
    self.sessions = sessions
    self.output = output
    self.rights = rights
    self.door = door
  }

  /// How many there are.
  var count: Int { watches.count }

  func watch(_ target: WatchTarget, id: MessageID, _ session: ClientSession) {
    if case .name(let name) = target, !rights.mayInspect(session, name) {
      return rights.deny(session, .inspect, name, id: id)
    }
    guard session.watches.targets.count < Limits.watchesPerSessionMax else {
      counts.met(.watchesPerSession, by: session)
      return output.write(to: session) { writer in
        writer.failure(id: id, .limit) { $0.member("limit", LimitName.watchesPerSession.rawValue) }
      }
    }
    if let account = session.charges.account, account.watches >= configuration.settings.live.watchesPerUIDMax {
      counts.met(.watchesPerUID, by: session)
      return output.write(to: session) { writer in
        writer.failure(id: id, .limit) { $0.member("limit", LimitName.watchesPerUID.rawValue) }
      }
    }
    session.charges.account?.watches += 1
    session.watches.last += 1
    let number = session.watches.last
    session.watches.targets[number] = target
    watches.add(target, .init(session: session.id, number: number))
    door.feedAside(.watched(steps: watches.toldOfOneMax))
    output.write(to: session) { $0.watching(id: id, watch: number) }
  }

  func unwatch(_ number: Int64, id: MessageID, _ session: ClientSession) {
    guard let target = session.watches.targets.removeValue(forKey: number) else {
      return output.write(to: session) { writer in
        writer.failure(id: id, .invalidParams, message: "this connection has no watch \(number)") { json in
          json.member("field", "watch")
          json.member("expected", "the number of a watch of this connection")
        }
      }
    }
    ended(target, number, of: session)
    output.write(to: session) { $0.done(id: id) }
  }

  /// A session is gone, and its watches with it.
  func endAll(of session: ClientSession) {
    for (number, target) in session.watches.targets { ended(target, number, of: session) }
    session.watches.targets = [:]
  }

  /// Goes on with a session's watches as the daemon before this one left them.
  func takeOver(_ session: ClientSession, _ record: SavedSession) {
    session.watches.targets = record.watches
    session.watches.last = record.lastWatch
    session.charges.account?.watches += record.watches.count
    for (number, target) in record.watches.sorted(by: { $0.key < $1.key }) {
      watches.add(target, .init(session: session.id, number: number))
    }
    door.feedAside(.watched(steps: watches.toldOfOneMax))
  }

  private func ended(_ target: WatchTarget, _ number: Int64, of session: ClientSession) {
    session.charges.account?.watches -= 1
    watches.remove(target, .init(session: session.id, number: number))
    door.feedAside(.watched(steps: watches.toldOfOneMax))
  }

  func notifyWatchers(of name: LockName, _ event: LockEvent) {
    for watch in watches.watches(of: name) {
      guard let session = sessions[watch.session], !session.isClosing, rights.mayInspect(session, name) else {
        continue
      }
      output.writeUnlessBehind(to: session) { $0.event(watch: watch.number, name: name, event) }
    }
  }

  /// Notifies all watchers that Redis can be reached again, or no longer can, or grants nothing for so long.
  func notifyWatchers(_ state: BackendState, retryMilliseconds: Int64? = nil) {
    guard watches.count > 0 else { return }
    for session in sessions.values where !session.watches.targets.isEmpty && !session.isClosing {
      output.writeUnlessBehind(to: session) { $0.backend(state, retryMilliseconds: retryMilliseconds) }
    }
  }
}
