import ClientProtocol
import DequeModule
import LockEngine
import LockTypes
import Logging
import SystemStrings

/// What clients and other hosts ask about locks, clients and hosts: `inspect`, `list`, `break`, `clients`, `hosts`, and
/// questions between hosts.
final class LockQueries {
  /// Holders of this host that `inspect` and `list` name.
  static let holdersShownMax = 64
  /// Waiters of this host that `inspect` names.
  static let waitersShownMax = 16
  /// Waiting hosts that Redis is asked to name.
  static let waitingHostsMax = 16

  let configuration: ConfigurationInForce
  let engine: LockEngine
  let sessions: SessionTable
  let output: TurnOutput
  let rights: RightsCache
  let limits: SessionLimits
  let door: EngineDoor
  let inputs: InputTurns
  let statistics: SidecarStatistics
  let clock: HostClock
  let logger: Logger
  /// Where other hosts reach this one.
  let inbox: String
  /// Where the leases of all hosts are; nil: this host is alone.
  var store: (any LeaseStore)?
  var hostCalls: HostCalls?
  /// Answers what another host asks about events.
  var tellEvents: (_ inbox: String, [WatchTarget], _ stream: UInt64, _ since: UInt64) -> [UInt8] = { _, _, _, _ in [] }
  /// The names of users, for the log.
  var users: UserNames?
  /// What the log tells of a client.
  var who: (ClientSession?) -> Logger.Metadata = { _ in [:] }
  /// Pages that are not complete.
  var listings: Deque<PageInTurns> = []

  init(
    configuration: ConfigurationInForce, engine: LockEngine, sessions: SessionTable, output: TurnOutput,
    rights: RightsCache, limits: SessionLimits, door: EngineDoor, inputs: InputTurns, statistics: SidecarStatistics,
    clock: HostClock, logger: Logger, inbox: String
  ) {
    self.configuration = configuration
    self.engine = engine
    self.sessions = sessions
    self.output = output
    self.rights = rights
    self.limits = limits
    self.door = door
    self.inputs = inputs
    self.statistics = statistics
    self.clock = clock
    self.logger = logger
    self.inbox = inbox
  }

  // MARK: Holders

  /// Who has a lock, as far as this host knows and the client may know.
  func holders(of summary: HolderSummary, of name: LockName, for session: ClientSession) -> [HolderInfo] {
    guard rights.mayInspect(session, name) else { return [] }
    return summary.local.map { .session(info($0.session), token: $0.token) } + summary.hosts.map { .host($0) }
      + (summary.isForeign ? [.foreign] : [])
  }

  /// A session as it is shown.
  func info(_ id: SessionID) -> SessionInfo {
    sessions[id].map { info($0) } ?? SessionInfo(host: configuration.settings.host, session: "\(id.rawValue)")
  }

  /// The same of a session that may have ended.
  func info(_ session: ClientSession) -> SessionInfo {
    let peer = session.peer
    return SessionInfo(
      host: configuration.settings.host, session: "\(session.id.rawValue)",
      pid: peer.flatMap { $0.isVisible ? Int64($0.pid) : nil },
      uid: (peer?.uid).map(Int64.init), command: session.process?.description.command ?? peer?.name,
      unit: session.process?.description.unit, client: session.client)
  }

  // MARK: One lock

  func inspect(_ name: LockName, id: MessageID, _ session: ClientSession) {
    guard rights.mayInspect(session, name) else { return rights.deny(session, .inspect, name, id: id) }
    guard store != nil else { return output.write(to: session) { $0.inspected(id: id, self.localInfo(name)) } }
    // Without Redis, what this host knows of a lock is still worth telling, if it is anything.
    let isKnown = engine.snapshot(of: name, holdersMax: 0, waitersMax: 0, now: clock.now())?.isInUse == true
    let fallback = isKnown ? { self.output.write(to: session) { $0.inspected(id: id, self.localInfo(name)) } } : nil
    queryStore(session, id, about: [name], fallback: fallback) { store, user, completion in
      store.inspect([name], waitingHostsMax: Self.waitingHostsMax, of: user, completion)
    } answer: { inspections in
      let found = inspections[0]
      if found.state == .wrongType || found.otherData != nil {
        return self.output.write(to: session) { self.writeWrongType(found.otherData, of: name, id: id, to: &$0) }
      }
      self.queryHosts(self.whoQuestions([name], [found]), for: session, id) { told in
        self.output.write(to: session) { $0.inspected(id: id, self.localInfo(name, inRedis: found, told: told)) }
      }
    }
  }

  /// Somebody else's words; nil where there are none.
  static func said(_ words: String?) -> String? { words.flatMap { $0.isEmpty ? nil : $0 } }

  /// A lock as it is now on this host, what Redis just said about it, and what other hosts tell of it.
  private func localInfo(_ name: LockName, inRedis found: LockInspection? = nil, told: [RemoteLockReport] = [])
    -> LockInfo
  {
    info(
      name,
      engine.snapshot(
        of: name, holdersMax: Self.holdersShownMax, waitersMax: Self.waitersShownMax, now: clock.now()),
      inRedis: found, told: told.filter { $0.name == name })
  }

  func info(
    _ name: LockName, _ snapshot: LockSnapshot?, inRedis found: LockInspection?, told: [RemoteLockReport] = []
  ) -> LockInfo {
    var mode = snapshot?.mode
    var holders = (snapshot?.holders ?? []).map(holder(in:))
    if found == nil, let known = snapshot?.summary {
      holders += known.hosts.map { .host($0) } + (known.isForeign ? [.foreign] : [])
      if known.isForeign { mode = .exclusive }
    }
    if mode != .exclusive {
      switch found?.state {
      case .held(let held)?:
        // This host's own lease without a hold is idle, or on its way here or back: nobody holds the lock under it. So
        // it is for a host that reports no hold.
        let silent = Set((found?.holders ?? []).filter { !$0.isMe }.map { ExactText($0.inbox) })
          .subtracting(told.map { ExactText($0.inbox) })
        // A host of which one daemon is not dead is not.
        var isDead: [ExactText: Bool] = [:]
        for holder in found?.holders ?? [] where silent.contains(ExactText(holder.inbox)) {
          isDead[ExactText(holder.host)] = isDead[ExactText(holder.host)] != false && holder.isDead
        }
        let others =
          told.flatMap(\.holders).map { HolderInfo.told($0) }
          + isDead.keys.sorted().map { HolderInfo.host($0.text, isDead: isDead[$0] == true) }
        if !others.isEmpty { mode = held }
        holders += others
      case .foreign?:
        holders.append(.foreign)
        mode = .exclusive
      case .free?, .wrongType?, nil: break
      }
    }
    return LockInfo(
      name: name, mode: mode, holders: holders,
      holdingCount: Int64(snapshot?.holdersTotal ?? 0), waiters: (snapshot?.waiters ?? []).map(waiter(in:)),
      toldWaiters: told.flatMap(\.waiters), waitingCount: Int64(snapshot?.waitersTotal ?? 0),
      lease: snapshot?.leaseState ?? .none, leaseValidMilliseconds: snapshot?.validMilliseconds)
  }

  func holder(in holder: LockSnapshot.Holder) -> HolderInfo {
    .session(
      info(holder.session), mode: holder.mode, owner: holder.owner, meta: holder.meta, token: holder.token,
      count: holder.owner == nil ? nil : Int64(holder.count), heldMilliseconds: holder.heldMilliseconds)
  }

  func waiter(in waiting: LockSnapshot.Waiting) -> WaiterInfo {
    WaiterInfo(
      session: info(waiting.session), mode: waiting.mode, owner: waiting.owner, meta: waiting.meta,
      waitedMilliseconds: waiting.waitedMilliseconds)
  }

  // MARK: Asking the store

  /// About how much memory a question to the store or another host takes until it is answered, in bytes: a command has
  /// several keys for each name.
  static func questionBytes(_ names: [LockName]) -> Int {
    names.reduce(512) { $0 + 256 + 3 * $1.bytes.count }
  }

  /// Asks the store on behalf of a session. `answer` replies to the client or asks on. `fallback` replies when there is
  /// no answer; without it the client is told that there is none. `name`: the one lock that an answer is about, and
  /// `names` all that the question has.
  func queryStore<Answer>(
    _ session: ClientSession, _ id: MessageID, of name: LockName? = nil, about names: [LockName] = [],
    fallback: (() -> Void)? = nil,
    _ question: (any LeaseStore, _ user: UInt32?, @escaping StoreCompletion<Answer>) -> Void,
    answer: @escaping (Answer) -> Void
  ) {
    guard let store else { return }
    let request = door.newRequest()
    session.beganQuery(request, as: id)
    let bytes = Self.questionBytes(names)
    limits.chargeQuestion(of: session, bytes: bytes)
    question(store, session.peer?.uid) { outcome in
      _ = session.endedQuery(request)
      self.limits.questionEnded(of: session, bytes: bytes)
      self.door.feedWhatIsDue(before: .redis)
      // The turn must end even where the session is gone.
      guard self.sessions.has(session) else { return self.output.scheduleEnd() }
      var words: String?
      switch outcome {
      case .answer(let found):
        answer(found)
        return self.output.touch(session)
      case .wrongType(let other, let said):
        if let name { return self.output.write(to: session) { self.writeWrongType(other, of: name, id: id, to: &$0) } }
        words = said
      case .refused(let said): words = said
      case .senseless, .none: break
      }
      if let fallback { return fallback() }
      let detail = Self.said(words) ?? Self.said(store.downReason)
      self.output.write(to: session) { writer in
        writer.failure(id: id, .unavailable) { json in
          if let detail { json.member("detail", detail) }
        }
      }
    }
  }

  /// Refuses what cannot be done because a key of the lock holds data of others.
  func writeWrongType(_ other: OtherData?, of name: LockName, id: MessageID, to writer: inout MessageWriter) {
    guard let other, let key = store?.key(of: other, in: name) else { return writer.failure(id: id, .wrongType) }
    let shown = SystemText.shown(String(decoding: key, as: UTF8.self))
    let kind = other.type.map { "other data (type \($0))" } ?? "other data"
    writer.failure(
      id: id, .wrongType, message: "the Redis key \(shown) holds \(kind); remove that key or choose another name"
    ) { json in
      json.member("key", utf8: key)
      if let type = other.type { json.member("type", type) }
    }
  }
}
