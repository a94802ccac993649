// What happens to locks and sessions, for the log: what the setting `audit` wants, and what is always told.
//
// An entry names the client's user and unit, which are looked up beside the loop: until they are known it is held back. A
// new entry needs a text in JournalMessage.swift and one in packaging/systemd/sidelock.catalog.

import AccessPolicy
import LockEngine
import LockTypes
import Logging
import NIOCore
import SystemdSupport

/// Writes down what happens to locks and sessions.
final class AuditTrail {
  /// Entries of one kind about the clients of one user that are written at once.
  static let burst: Int64 = 1000
  /// After a burst, one entry of its kind and user in this many milliseconds.
  static let everyMilliseconds: Int64 = 10
  /// Kinds and users that are told apart at a time; the rest of each kind count as those of one user.
  static let ratesMax = 1024
  /// How often it is told what was left out, in milliseconds.
  private static let tellMilliseconds: Int64 = 10_000
  /// Entries that wait until it is known whose they are. Those beyond are written with what is known.
  private static let heldBackMax = 1024
  /// A client that has half-closed its connection is named when it still holds something after so long, in milliseconds.
  static let halfClosedMilliseconds: Int64 = 5000

  /// What has a limit of its own, so that no user can have others' entries left out.
  private struct RateKey: Hashable {
    var message: String
    /// Nil where it is not known, and for those beyond ``ratesMax``.
    var uid: UInt32?
  }

  /// What was written of one kind about one user.
  private struct Rate {
    /// When a full burst may be written again, in milliseconds.
    var fullAt: Int64
    var leftOut = 0
  }

  /// A client as entries tell of it. A session itself has buffers, and is not kept when it is gone.
  struct Client {
    let session: SessionID
    let peer: Peer?
    let process: DescribedProcess?
    /// What it says of itself.
    let words: String?

    init(_ session: ClientSession) {
      self.session = session.id
      peer = session.peer
      process = session.process
      words = session.client
    }
  }

  private let configuration: ConfigurationInForce
  private let loop: any EventLoop
  private let clock: HostClock
  /// Whatever `log_level` says.
  private let logger: Logger
  private let sessions: SessionTable
  private let peers: PeerDirectory
  private let engine: LockEngine
  private let door: EngineDoor
  let users: UserNames
  private var kinds: Set<AuditKind> = []
  private var rates: [RateKey: Rate] = [:]
  /// When it may next be looked which rates can be forgotten, in milliseconds.
  private var sweepAt: Int64 = 0
  private var isTellingLater = false
  private var limits = MessageTally()
  private var gone = GoneSessions<Client>()
  /// Entries that are held back, by their numbers.
  private var heldBack: [UInt64: () -> Void] = [:]
  private var lastNumber: UInt64 = 0

  init(
    configuration: ConfigurationInForce, loop: any EventLoop, clock: HostClock, logger: Logger, sessions: SessionTable,
    peers: PeerDirectory, engine: LockEngine, door: EngineDoor
  ) {
    self.configuration = configuration
    self.loop = loop
    self.clock = clock
    self.sessions = sessions
    self.peers = peers
    self.engine = engine
    self.door = door
    users = UserNames(loop: loop, clock: clock)
    var own = logger
    own.logLevel = min(logger.logLevel, .info)
    self.logger = own
  }

  /// Goes by the settings in force from now on.
  func settingsChanged() {
    kinds = configuration.settings.live.audit.kinds
    var wanted: HistoryKinds = [.losses]
    if kinds.contains(.grant) { wanted.insert(.grants) }
    if kinds.contains(.release) { wanted.insert(.releases) }
    if kinds.contains(.wait) { wanted.insert(.waits) }
    if kinds.contains(.timeout) { wanted.insert(.failures) }
    door.feedAside(.historyWanted(wanted))
  }

  // MARK: Sessions

  /// A client has connected.
  func began(_ session: ClientSession) {
    // Known by the time at which there is something to tell.
    if let peer = session.peer, peer.isVisible { users.lookUp(peer.uid) }
    // Sessions may be logged by the time it ends.
    session.beganAt = clock.now()
    guard kinds.contains(.session), isWanted(.session, []), admits("session began", session.peer?.uid) else { return }
    log("session began", of: looked(at: session), [:])
  }

  /// A client's connection is gone. What it had may end later.
  func ended(_ session: ClientSession) {
    // Of what it holds a loss is told in any case.
    guard !kinds.isEmpty || engine.hasHolds(session.id) else { return }
    let client = looked(at: session)
    gone.remember(session.id, client)
    guard kinds.contains(.session), isWanted(.session, []), admits("session ended", client.peer?.uid) else { return }
    var fields: Logger.Metadata = [:]
    // Of a connection that the daemon before has accepted it is not known.
    if let began = session.beganAt { fields["lasted_ms"] = "\(clock.now().milliseconds(since: began))" }
    log("session ended", of: client, fields)
  }

  /// A client has closed its half of the connection. If it goes on holding something it is named, once.
  func halfClosed(_ session: ClientSession) {
    guard !session.lifetime.isHalfCloseTold, engine.hasHolds(session.id) else { return }
    session.lifetime.isHalfCloseTold = true
    let trail = NIOLoopBound((trail: self, session: session), eventLoop: loop)
    loop.scheduleTask(in: .milliseconds(Self.halfClosedMilliseconds)) {
      let (trail, session) = trail.value
      guard trail.sessions.has(session), !session.isClosing else { return }
      trail.tellHalfClosed(session)
    }
  }

  private func tellHalfClosed(_ session: ClientSession) {
    let holds = engine.load(of: session.id).holds
    guard holds > 0 else {
      session.lifetime.isHalfCloseTold = false
      return
    }
    let lock = engine.eldestLock(of: session.id)
    log(
      "a client has half-closed its connection and keeps locks", .notice, of: Client(session),
      ["lock": "\(lock.map { "\($0)" } ?? "")", "held": "\(holds)"])
  }

  // MARK: Limits

  /// A client has met a limit. One that does so again and again is told of once a minute.
  func met(_ limit: LimitName, _ session: ClientSession?, peer: Peer?) {
    let uid = session?.peer?.uid ?? peer?.uid
    let kind = "\(limit.rawValue) \(uid.map { "\($0)" } ?? "")"
    guard let count = limits.toLog(kind: kind, now: clock.now()) else { return }
    let fields: Logger.Metadata = ["limit": "\(limit.rawValue)", "count": "\(count)"]
    log("a limit was met", .notice, of: session.map { Client($0) }, peer: peer, fields)
  }

  // MARK: Locks

  /// Something happened to a lock.
  func recorded(_ history: LockHistory) {
    guard isWritten(history) else { return }
    let client = client(history.session)
    var fields: Logger.Metadata = ["lock": "\(history.name)", "mode": "\(history.mode.word)"]
    if let token = history.token { fields["token"] = "\(token)" }
    if let owner = history.owner { fields["owner"] = "\(owner)" }
    if let meta = history.meta { fields["meta"] = "\(meta)" }
    switch history.deed {
    case .granted(let waited):
      fields["waited_ms"] = "\(waited)"
      log("lock granted", of: client, fields)
    case .released(let held, let cause):
      fields["held_ms"] = "\(held)"
      fields["reason"] = "\(cause.rawValue)"
      log("lock released", of: client, fields)
    case .lost(let held, let reason):
      fields["held_ms"] = "\(held)"
      fields["reason"] = "\(reason.rawValue)"
      log("lock lost", .notice, of: client, fields)
    case .waits(let holders, let waiters):
      fields["waiters"] = "\(waiters)"
      fields["holder"] = "\(words(about: holders))"
      log("waiting for a lock", of: client, fields)
    case .failed(let waited, let refusal):
      fields["waited_ms"] = "\(waited)"
      fields["reason"] = "\(refusal.word)"
      log("lock not acquired", of: client, fields)
    case .leftQueue(let waited):
      fields["waited_ms"] = "\(waited)"
      fields["reason"] = "session_ended"
      log("lock not acquired", of: client, fields)
    }
  }

  /// A session has had a lock for longer than the settings have it, and so many wait for it here.
  func heldLong(by session: SessionID, _ name: LockName, _ token: Token, since: BootInstant, waiters: Int) {
    let held = clock.now().milliseconds(since: since)
    log(
      "lock held for long", .warning, of: client(session),
      [
        "lock": "\(name)", "token": "\(token)", "held_ms": "\(held)", "waiting": "\(waiters)",
        "since": "\(LogFormat.timestamp(milliseconds: clock.wallMicroseconds() / 1000 - held))",
      ])
  }

  /// A client may not have a lock, and its request did not reach the engine.
  func denied(_ names: [LockName], to session: ClientSession) {
    guard kinds.contains(.timeout) else { return }
    for name in names where isWanted(.timeout, name.bytes) && admits("lock not acquired", session.peer?.uid) {
      log("lock not acquired", of: looked(at: session), ["lock": "\(name)", "waited_ms": "0", "reason": "denied"])
    }
  }

  /// A client that is there, or was a little before.
  private func client(_ session: SessionID) -> Client? {
    sessions[session].map { looked(at: $0) } ?? gone[session]
  }

  /// Whether an entry is to be written; asked before it is made, as there can be very many.
  private func isWritten(_ history: LockHistory) -> Bool {
    let name = history.name.bytes
    let (kind, message): (AuditKind?, String) =
      switch history.deed {
      case .granted: (.grant, "lock granted")
      case .released: (.release, "lock released")
      case .waits: (.wait, "waiting for a lock")
      case .failed, .leftQueue: (.timeout, "lock not acquired")
      case .lost: (nil, "lock lost")
      }
    guard kind.map({ isWanted($0, name) }) ?? true else { return false }
    return admits(message, (sessions[history.session]?.peer ?? gone[history.session]?.peer)?.uid)
  }

  private func isWanted(_ kind: AuditKind, _ name: [UInt8]) -> Bool {
    configuration.settings.live.audit.record(kind, of: name)
  }

  private func words(about holders: HolderSummary) -> String {
    var words = holders.local.map { holder in
      let peer = sessions[holder.session]?.peer
      return "pid \(peer.pidText) (session \(holder.session.rawValue))"
    }
    words += holders.hosts.map { "host \($0)" }
    if holders.isForeign { words.append("a process without sidelock") }
    return words.joined(separator: ", ")
  }

  // MARK: Writing

  /// Writes an entry as soon as it is known whose it is.
  private func log(_ message: String, of client: Client?, _ fields: Logger.Metadata) {
    guard let client, heldBack.count < Self.heldBackMax else {
      return log(message, .info, of: client, fields)
    }
    lastNumber += 1
    let number = lastNumber
    heldBack[number] = { [unowned self] in log(message, .info, of: client, fields) }
    peers.whenDescribed(client.process) { [weak self] in
      guard let self else { return }
      guard let peer = client.peer, peer.isVisible else { return write(number) }
      users.lookUp(peer.uid) { [weak self] in self?.write(number) }
    }
  }

  /// A client whose process is looked up, if it was not before.
  private func looked(at session: ClientSession) -> Client {
    if session.process == nil { peers.describe(session) }
    return Client(session)
  }

  private func write(_ number: UInt64) { heldBack.removeValue(forKey: number)?() }

  /// Writes an entry with what is known of its client.
  private func log(
    _ message: String, _ level: Logger.Level, of client: Client?, peer: Peer? = nil, _ fields: Logger.Metadata
  ) {
    logger.log(level: level, "\(message)", metadata: fields.about(who(client, peer)))
  }

  /// What is told of a client. Not the arguments of its program, which may hold secrets.
  private func who(_ client: Client?, _ peer: Peer?) -> Logger.Metadata {
    guard let peer = peer ?? client?.peer else { return client.map { ["session": "\($0.session.rawValue)"] } ?? [:] }
    var found: Logger.Metadata = ["pid": "\(peer.pidText)", "uid": "\(peer.uid)"]
    if let session = client?.session { found["session"] = "\(session.rawValue)" }
    // A container has users of its own.
    if peer.isVisible, let user = users.name(of: peer.uid) { found["user"] = "\(user)" }
    if let command = client?.process?.name ?? peer.name { found["command"] = "\(command)" }
    if let unit = client?.process?.description.unit { found["unit"] = "\(unit)" }
    if let words = client?.words { found["client"] = "\(words)" }
    return found
  }

  /// What is told of a session.
  func who(_ session: ClientSession?) -> Logger.Metadata { who(session.map { Client($0) }, nil) }

  /// Whether one more entry of a kind about a user's client is written; otherwise it is counted.
  private func admits(_ message: String, _ uid: UInt32?) -> Bool {
    let now = clock.now().nanoseconds / 1_000_000
    let key = rateKey(message, uid, now)
    var rate = rates[key] ?? Rate(fullAt: now)
    defer { rates[key] = rate }
    let fullAt = max(rate.fullAt, now) + Self.everyMilliseconds
    guard fullAt - now <= Self.burst * Self.everyMilliseconds else {
      rate.leftOut += 1
      tellLater()
      return false
    }
    rate.fullAt = fullAt
    return true
  }

  /// Whose limit it is. Room is made by forgetting those of whom a full burst may be written again.
  private func rateKey(_ message: String, _ uid: UInt32?, _ now: Int64) -> RateKey {
    let key = RateKey(message: message, uid: uid)
    guard rates[key] == nil, rates.count >= Self.ratesMax else { return key }
    // Not at every entry: there can be very many.
    if now >= sweepAt {
      sweepAt = now + Self.tellMilliseconds
      rates = rates.filter { $0.value.fullAt > now || $0.value.leftOut > 0 }
    }
    return rates.count < Self.ratesMax ? key : RateKey(message: message, uid: nil)
  }

  private func tellLater() {
    guard !isTellingLater else { return }
    isTellingLater = true
    let trail = NIOLoopBound(self, eventLoop: loop)
    loop.scheduleTask(in: .milliseconds(Self.tellMilliseconds)) { trail.value.tellLeftOut() }
  }

  private func tellLeftOut() {
    isTellingLater = false
    let left = rates.filter { $0.value.leftOut > 0 }
    for (key, rate) in left.sorted(by: { ($0.key.message, $0.key.uid ?? .max) < ($1.key.message, $1.key.uid ?? .max) })
    {
      rates[key]?.leftOut = 0
      var fields: Logger.Metadata = ["kind": "\(key.message)", "count": "\(rate.leftOut)"]
      if let uid = key.uid { fields["uid"] = "\(uid)" }
      logger.info("log messages left out", metadata: fields)
    }
  }

  /// Writes all that is left: the daemon is about to end.
  func finish() {
    for number in heldBack.keys.sorted() { write(number) }
    tellLeftOut()
  }
}

extension HoldMode {
  /// It in the protocol's words.
  fileprivate var word: String {
    switch self {
    case .exclusive: "exclusive"
    case .shared: "shared"
    case .permit(let capacity): "permit of \(capacity)"
    }
  }
}

extension Refusal {
  /// It in the words of `error.data.reason`, and of the limits.
  fileprivate var word: String {
    switch self {
    case .busy: "busy"
    case .timeout: "timeout"
    case .cancelled: "cancelled"
    case .notHeld: "not_held"
    case .lost: "lost"
    case .unavailable, .recovering: "unavailable"
    case .wrongType: "wrong_type"
    case .modeConflict: "mode_conflict"
    case .deadlock: "deadlock"
    case .noSuchSession, .notAccepted: "invalid_params"
    case .limit(let limit): "limit \(limit.rawValue)"
    case .underReplicated: "under_replicated"
    case .shuttingDown: "shutting_down"
    }
  }
}

extension Logger.Metadata {
  /// These fields of an entry, and beside them those that tell of its client.
  func about(_ client: Logger.Metadata) -> Logger.Metadata { merging(client) { own, _ in own } }
}
