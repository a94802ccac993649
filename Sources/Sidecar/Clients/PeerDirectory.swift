import AccessPolicy
import ClientProtocol
import DequeModule
import Dispatch
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore

/// Looks up the processes of clients: what they run, their systemd units, and their pidfds.
final class PeerDirectory {
  /// How long a description is reused for further connections of the same pid, in milliseconds; shorter than pids take
  /// to be reused.
  private static let descriptionsMilliseconds: Int64 = 1000

  /// Where /proc is read.
  private static let descriptions = DispatchQueue(label: "sidelock.descriptions")
  /// How the files of a process are read beside the loop.
  var beside: (DispatchQueue, @escaping @Sendable () -> Void) -> Void = { $0.async(execute: $1) }

  /// Where units are looked up. Not on the queue of descriptions: a client could hold that one up.
  private static let units = DispatchQueue(label: "sidelock.units")
  private static let unitsBeingReadMax = 4

  private let loop: any EventLoop
  private let clock: HostClock
  private let logger: Logger
  private let sessions: SessionTable
  private let rights: RightsCache
  private let room: DescriptorRoom
  private let door: EngineDoor
  /// Descriptions by pid, and since when they were collected.
  private var describedProcesses: [pid_t: DescribedProcess] = [:]
  private var describedProcessesSince = BootInstant(nanoseconds: 0)
  /// Sessions whose units are still to be looked up, and how many lookups are under way.
  private var unitsToRead: Deque<ClientSession> = []
  private var unitsBeingRead = 0
  /// Called when the unit of a session is known, or cannot be.
  var onUnit: (ClientSession) -> Void = { _ in }

  init(
    loop: any EventLoop, clock: HostClock, logger: Logger, sessions: SessionTable, rights: RightsCache,
    room: DescriptorRoom, door: EngineDoor
  ) {
    self.loop = loop
    self.clock = clock
    self.logger = logger
    self.sessions = sessions
    self.rights = rights
    self.room = room
    self.door = door
  }

  // MARK: Descriptions

  /// Looks up the process of a session that asks for locks; `inspect` and `list` show it. A process that opens many
  /// connections is looked up once a second at most.
  func describe(_ session: ClientSession) {
    // Nothing can be known of processes that are not visible, and all have pid 0.
    guard session.process == nil, let peer = session.peer, peer.isVisible else { return }
    let now = clock.now()
    if describedProcessesSince.adding(milliseconds: Self.descriptionsMilliseconds) <= now {
      describedProcesses = [:]
      describedProcessesSince = now
    }
    if let known = describedProcesses[peer.pid] {
      session.process = known
      return described(session, pid: peer.pid)
    }
    let process = DescribedProcess(Peer.Description(command: peer.name, unit: nil))
    describedProcesses[peer.pid] = process
    session.process = process
    described(session, pid: peer.pid)
    let found = NIOLoopBound(process, eventLoop: loop)
    let peers = NIOLoopBound(self, eventLoop: loop)
    let loop = loop
    beside(Self.descriptions) {
      let description = peer.readDescription()
      loop.execute { peers.value.found(description, of: found.value, pid: peer.pid) }
    }
  }

  private func found(_ description: Peer.Description, of process: DescribedProcess, pid: pid_t) {
    process.description = description
    process.isComplete = true
    let waiting = process.sessions
    process.sessions = []
    for id in waiting {
      if let session = sessions[id] { described(session, pid: pid) }
    }
    let bodies = process.waiting
    process.waiting = []
    for body in bodies { body() }
  }

  /// Calls `body` when a process was looked up; at once if it was, or nothing can be known of it.
  func whenDescribed(_ process: DescribedProcess?, _ body: @escaping () -> Void) {
    guard let process, !process.isComplete else { return body() }
    process.waiting.append(body)
  }

  /// Feeds the engine what is known of a client's process; reports of deadlocks show it.
  private func described(_ session: ClientSession, pid: pid_t) {
    guard let process = session.process else { return }
    if !process.isComplete { process.sessions.append(session.id) }
    let command = process.description.command.map {
      String(decoding: $0.utf8.prefix(Limits.shownTextBytesMax), as: UTF8.self)
    }
    door.feed(.sessionDescribed(session.id, pid: pid, command: command))
  }

  // MARK: Handles

  /// The pidfd of the process that opened a session.
  ///
  /// - Parameter isOwed: it was promised before, and may take from the reserve of descriptors.
  func handle(
    of session: ClientSession, isOwed: Bool = false
  ) -> Result<ProcessHandle, ProcessHandle.Failure> {
    if let handle = session.handle { return .success(handle) }
    // On a kernel without SO_PEERPIDFD it was opened when the session connected, or never.
    guard ProcessHandle.kernelKnowsPeers else { return .failure(.ended) }
    guard isOwed || room.has(1) else { return .failure(.noRoom) }
    let opened = ProcessHandle.opened(session.channel, peer: session.peer)
    if case .success(let handle) = opened { session.handle = handle }
    return opened
  }

  // MARK: Units

  /// Has the unit of a session's process looked up, if any rule needs it. Until it is known, nothing is read from the
  /// session.
  func lookUpUnit(of session: ClientSession) {
    guard rights.needsUnits, session.rights.unit == nil, !session.rights.isUnitAsked else { return }
    session.rights.isUnitAsked = true
    unitsToRead.append(session)
    readUnits()
  }

  /// Few at a time: each lookup takes a descriptor while it lasts.
  private func readUnits() {
    while unitsBeingRead < Self.unitsBeingReadMax, let session = unitsToRead.popFirst() {
      if sessions.has(session) { readUnit(of: session) }
    }
  }

  private func readUnit(of session: ClientSession) {
    guard let peer = session.peer, case .success(let handle) = handle(of: session, isOwed: true) else {
      return loop.assumeIsolated().execute { self.found(.unknown(.unreadable), of: session) }
    }
    unitsBeingRead += 1
    let found = NIOLoopBound((peers: self, session: session), eventLoop: loop)
    let loop = loop
    Self.units.async {
      let unit = peer.readUnit(handle)
      loop.execute {
        found.value.peers.unitsBeingRead -= 1
        found.value.peers.found(unit, of: found.value.session)
        found.value.peers.readUnits()
      }
    }
  }

  private func found(_ unit: PeerUnit, of session: ClientSession) {
    session.rights.unit = unit
    session.rights.access = nil
    guard sessions.has(session) else { return }
    // A handle is a descriptor: it is dropped unless the session ends with its process.
    if ProcessHandle.kernelKnowsPeers, !session.lifetime.endsWithProcess { session.handle = nil }
    if case .unknown(let doubt) = unit { rights.logDoubt(doubt, of: session) }
    onUnit(session)
  }

  /// New rules are in force: looks up the units that they need, and warns if other processes cannot be seen.
  func policyChanged() {
    guard rights.needsUnits else { return }
    for session in sessions.values { lookUpUnit(of: session) }
    let logger = logger
    Self.units.async {
      guard !Peer.seesOthers else { return }
      logger.warning(
        "rules name units, and other processes cannot be seen",
        metadata: ["help": "show-programs.conf in /usr/share/doc/sidelock/examples"])
    }
  }
}

/// A process that has connections, with what is known of it so far.
final class DescribedProcess {
  var description: Peer.Description
  /// Whether the lookup is done.
  var isComplete = false
  /// The sessions to describe to the engine again once it is.
  var sessions: [SessionID] = []
  /// What else is to be done then.
  var waiting: [() -> Void] = []
  /// The name of the program.
  let name: String?

  init(_ description: Peer.Description) {
    self.description = description
    name = description.command
  }
}
