import ClientProtocol
import DequeModule
import LockEngine
import LockTypes
import NIOCore
import SystemStrings

/// Who watches which locks. Adding, removing and finding a watch takes no longer however many watch others.
private struct Watches {
  /// One watch.
  enum Watch: Hashable {
    /// Of a session, with the session's number for it.
    case session(SessionID, number: Int64, HostScope)
    /// Of another host, for its sessions.
    case host(ToldHost)

    /// Whether it is of a session of this host.
    var isOfSession: Bool {
      switch self {
      case .session: true
      case .host: false
      }
    }
  }

  private var byName: [LockName: Set<Watch>] = [:]
  private var byPrefix: [LockName: Set<Watch>] = [:]
  /// The lengths of the prefixes that are watched, each with how many different ones it has.
  private var lengths: [Int: Int] = [:]
  /// How many there are of sessions.
  private(set) var count = 0
  private var prefixCount = 0
  /// The most that any one name has had since `byName` was last empty.
  private var ofOneNameMax = 0

  /// How many steps it takes, at most, to find all watches that an event concerns.
  var toldOfOneMax: Int { prefixCount + lengths.count + ofOneNameMax }

  mutating func add(_ target: WatchTarget, _ watch: Watch) {
    if watch.isOfSession { count += 1 }
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
    if watch.isOfSession { count -= 1 }
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

/// Notifies watchers of what happens to locks: sessions, and other hosts that ask for it.
final class WatchBook {
  /// Hosts that are told what happens here, at most.
  static let toldHostsMax = 64
  /// A host that has not asked for so long is told no more, in milliseconds.
  static let toldMilliseconds: Int64 = 5000

  private let configuration: ConfigurationInForce
  private let counts: LimitCounts
  private let sessions: SessionTable
  private let output: TurnOutput
  private let rights: RightsCache
  private let door: EngineDoor
  private let clock: HostClock
  private let loop: any EventLoop
  /// Asks the other hosts what happens there.
  let others: HeardHosts
  private var watches = Watches()
  /// Hosts that are told what happens here, by their inboxes.
  private var toldHosts: [ExactText: ToldHost] = [:]
  /// Counts what hosts could be told.
  private var lastEvent: UInt64 = 0
  /// A session as it is shown.
  var who: (ClientSession) -> SessionInfo? = { _ in nil }
  private var gone = GoneSessions<SessionInfo>()

  init(
    configuration: ConfigurationInForce, counts: LimitCounts, sessions: SessionTable, output: TurnOutput,
    rights: RightsCache, door: EngineDoor, others: HeardHosts, clock: HostClock, loop: any EventLoop
  ) {
    self.configuration = configuration
    self.counts = counts
    self.sessions = sessions
    self.output = output
    self.rights = rights
    self.door = door
    self.others = others
    self.clock = clock
    self.loop = loop
    others.onEvent = { [unowned self] in heard($0, of: $1) }
    others.onMissed = { [unowned self] in missed($0, of: $1) }
    others.onState = { [unowned self] in stateChanged($0, of: $1) }
  }

  /// How many there are.
  var count: Int { watches.count }

  func watch(_ params: WatchParams, id: MessageID, _ session: ClientSession) {
    if case .name(let name) = params.target, !rights.mayInspect(session, name) {
      return rights.deny(session, .inspect, name, id: id)
    }
    guard mayBeginAnother(session, id: id) else { return }
    session.charges.account?.watches += 1
    session.watches.last += 1
    let number = session.watches.last
    session.watches.targets[number] = params
    began(params, number, of: session)
    stepsChanged()
    output.write(to: session) { $0.watching(id: id, watch: number) }
    guard params.scope == .all, rights.seesAll(session) else { return }
    for (host, state) in others.states { output.writeUnlessBehind(to: session) { $0.host(host, state) } }
  }

  /// Whether a session may have one more watch or trace; if not, its request is refused.
  func mayBeginAnother(_ session: ClientSession, id: MessageID) -> Bool {
    var limit: LimitName?
    if session.watches.targets.count + session.watches.traces.count >= Limits.watchesPerSessionMax {
      limit = .watchesPerSession
    } else if let account = session.charges.account,
      account.watches >= configuration.settings.live.watchesPerUIDMax
    {
      limit = .watchesPerUID
    }
    guard let limit else { return true }
    counts.met(limit, by: session)
    output.write(to: session) { writer in
      writer.failure(id: id, .limit) { $0.member("limit", limit.rawValue) }
    }
    return false
  }

  func unwatch(_ number: Int64, id: MessageID, _ session: ClientSession) {
    guard let params = session.watches.targets.removeValue(forKey: number) else {
      return output.write(to: session) { writer in
        writer.failure(id: id, .invalidParams, message: "this connection has no watch \(number)") { json in
          json.member("field", "watch")
          json.member("expected", "the number of a watch of this connection")
        }
      }
    }
    ended(params, number, of: session)
    output.write(to: session) { $0.done(id: id) }
  }

  /// A session is gone, and its watches with it.
  func endAll(of session: ClientSession) {
    for (number, params) in session.watches.targets { ended(params, number, of: session) }
    session.watches.targets = [:]
    remember(session)
  }

  /// A session that is gone is named by what it had, which ends now.
  private func remember(_ session: ClientSession) {
    guard watches.count > 0 else { return gone.removeAll() }
    if let info = who(session) { gone.remember(session.id, info) }
  }

  /// Whom an event is about.
  private func participant(in event: LockEvent) -> SessionInfo? {
    switch event {
    case .acquired(let id, _, _), .released(let id, _), .lost(let id, _, _), .waiting(let id, _), .gaveUp(let id, _):
      sessions[id].flatMap { who($0) } ?? gone[id]
    case .remote: nil
    }
  }

  /// Goes on with a session's watches as the daemon before this one left them.
  func takeOver(_ session: ClientSession, _ record: SavedSession) {
    session.watches.targets = record.watches
    session.watches.last = record.lastWatch
    session.charges.account?.watches += record.watches.count
    for (number, params) in record.watches.sorted(by: { $0.key < $1.key }) { began(params, number, of: session) }
    stepsChanged()
  }

  private func began(_ params: WatchParams, _ number: Int64, of session: ClientSession) {
    watches.add(params.target, .session(session.id, number: number, params.scope))
    if params.scope == .all { others.want(params.target) }
  }

  private func ended(_ params: WatchParams, _ number: Int64, of session: ClientSession) {
    session.charges.account?.watches -= 1
    watches.remove(params.target, .session(session.id, number: number, params.scope))
    if params.scope == .all { others.unwant(params.target) }
    stepsChanged()
  }

  private func stepsChanged() { door.feedAside(.watched(steps: watches.toldOfOneMax)) }

  // MARK: What happens here

  func notifyWatchers(of name: LockName, _ event: LockEvent) {
    lastEvent &+= 1
    // Most events are about locks that nobody watches.
    lazy var by = participant(in: event)
    for watch in watches.watches(of: name) {
      switch watch {
      case .session(let id, let number, let scope):
        guard let session = mayTell(id, name) else { continue }
        switch scope {
        case .host: output.writeUnlessBehind(to: session) { $0.event(watch: number, name: name, event, by: by) }
        case .all:
          // The host that has the lock tells it itself.
          if case .remote = event { continue }
          let host = configuration.settings.host
          output.writeUnlessBehind(to: session) { $0.event(watch: number, name: name, event, by: by, on: host) }
        }
      case .host(let host):
        if case .remote = event { continue }
        host.happened(lastEvent, name, event, now: clock.now())
      }
    }
  }

  private func mayTell(_ id: SessionID, _ name: LockName) -> ClientSession? {
    guard let session = sessions[id], !session.isClosing, rights.mayInspect(session, name) else { return nil }
    return session
  }

  /// Notifies all watchers that Redis can be reached again, or no longer can, or grants nothing for so long.
  func notifyWatchers(_ state: BackendState, retryMilliseconds: Int64? = nil) {
    guard watches.count > 0 else { return }
    for session in sessions.values where !session.watches.targets.isEmpty && !session.isClosing {
      output.writeUnlessBehind(to: session) { $0.backend(state, retryMilliseconds: retryMilliseconds) }
    }
  }

  // MARK: What other hosts are told

  /// Another host asks what has happened here (``HostQuestion/events(_:stream:since:)``). Returns the answer.
  func asked(by inbox: String, _ targets: [WatchTarget], stream: UInt64, since: UInt64) -> [UInt8] {
    let inbox = ExactText(inbox)
    let now = clock.now()
    guard let host = toldHosts[inbox] ?? addToldHost(inbox) else { return EventReport.encoding(stream: 0, first: 0) }
    if host.targets != targets {
      for target in host.targets { watches.remove(target, .host(host)) }
      host.targets = targets
      for target in targets { watches.add(target, .host(host)) }
      stepsChanged()
    }
    return host.answer(stream: stream, since: since, now: now)
  }

  private func addToldHost(_ inbox: ExactText) -> ToldHost? {
    guard toldHosts.count < Self.toldHostsMax else { return nil }
    if toldHosts.isEmpty { scheduleForgetting() }
    let host = ToldHost(stream: .random(in: 1...UInt64(Limits.integerMax)))
    toldHosts[inbox] = host
    return host
  }

  private func scheduleForgetting() {
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.toldMilliseconds)) { [weak self] in
      self?.forgetHosts()
    }
  }

  /// Keeps nothing more for hosts that do not ask any longer.
  private func forgetHosts() {
    let now = clock.now()
    for (inbox, host) in toldHosts where now.milliseconds(since: host.askedAt) >= Self.toldMilliseconds {
      toldHosts[inbox] = nil
      for target in host.targets { watches.remove(target, .host(host)) }
    }
    stepsChanged()
    if !toldHosts.isEmpty { scheduleForgetting() }
  }

  // MARK: What other hosts tell

  private func heard(_ entry: EventReport.Entry, of host: String) {
    for case .session(let id, let number, .all) in watches.watches(of: entry.name) {
      guard let session = mayTell(id, entry.name) else { continue }
      output.writeUnlessBehind(to: session) {
        $0.event(
          watch: number, name: entry.name, entry.event, on: host, ageMilliseconds: entry.ageMilliseconds)
      }
    }
  }

  /// Who may not inspect every lock is told only that something is missing.
  private func missed(_ count: Int64, of host: String) {
    for session in watchersOfAllHosts {
      let seesAll = rights.seesAll(session)
      output.writeUnlessBehind(to: session) { $0.missed(count: seesAll ? count : 1, of: seesAll ? host : nil) }
    }
  }

  private func stateChanged(_ state: HeardState, of host: String) {
    for session in watchersOfAllHosts where rights.seesAll(session) {
      output.writeUnlessBehind(to: session) { $0.host(host, state) }
    }
  }

  private var watchersOfAllHosts: [ClientSession] {
    sessions.values.filter { session in
      !session.isClosing && session.watches.targets.values.contains { $0.scope == .all }
    }
  }
}

/// Another host that is told what happens here, for its sessions.
private final class ToldHost: Hashable {
  /// Events that are kept for it until it asks, in bytes; the oldest go first.
  static let bytesMax = 48_000
  /// What is counted for an event besides its own bytes, in bytes.
  private static let bytesPerEvent = 32

  /// Names the row of events.
  let stream: UInt64
  var targets: [WatchTarget] = []
  private(set) var askedAt = BootInstant(nanoseconds: 0)
  private var events: Deque<(bytes: [UInt8], at: BootInstant)> = []
  private var bytes = 0
  /// The number of the first of them.
  private var first: UInt64 = 0
  /// What happened last, however many of its targets that concerns.
  private var lastEvent: UInt64 = 0

  init(stream: UInt64) {
    self.stream = stream
  }

  func happened(_ number: UInt64, _ name: LockName, _ event: LockEvent, now: BootInstant) {
    guard number != lastEvent else { return }
    lastEvent = number
    let encoded = EventReport.encoding(name, event)
    events.append((encoded, now))
    bytes += encoded.count + Self.bytesPerEvent
    while bytes > Self.bytesMax { removeFirst() }
  }

  private func removeFirst() {
    guard let gone = events.popFirst() else { return }
    bytes -= gone.bytes.count + Self.bytesPerEvent
    first += 1
  }

  /// What it has not heard. That is kept until the next question shows that it came. Who knows another row begins to
  /// hear, and is told nothing of before.
  func answer(stream: UInt64, since: UInt64, now: BootInstant) -> [UInt8] {
    askedAt = now
    while !events.isEmpty, stream != self.stream || first < since { removeFirst() }
    var answer = EventReport.encoding(stream: self.stream, first: first)
    for (bytes, at) in events {
      EventReport.append(bytes, ageMilliseconds: max(0, now.milliseconds(since: at)), to: &answer)
    }
    return answer
  }

  static func == (a: ToldHost, b: ToldHost) -> Bool { a === b }
  func hash(into hasher: inout Hasher) { hasher.combine(ObjectIdentifier(self)) }
}
