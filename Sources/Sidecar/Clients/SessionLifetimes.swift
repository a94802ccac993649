import CLinux
import ClientProtocol
import DequeModule
import LockEngine
import LockTypes
import Logging
import NIOCore

/// What ends a session, beside the end of its connection, and what ends its holds.
struct SessionLifetime {
  /// Whether it ends with the process that connected.
  var endsWithProcess = false
  /// The session ends after this much silence, in milliseconds; nil: never.
  var keepaliveMilliseconds: Int64?
  /// When anything came last. Only kept up to date with a keepalive.
  var heardAt = BootInstant(nanoseconds: 0)
  /// The client has asked to keep its holds when it half-closes the connection (`half_close` `"hold"`).
  var keepsHoldsHalfClosed = false
  /// It has half-closed its connection while it held something, and that is told (``AuditTrail/halfClosed(_:)``).
  var isHalfCloseTold = false
  /// It has half-closed its connection, and more of its holds end in the next turns.
  var isEndingHolds = false
  /// The daemon hands over, and does not read from it any more.
  var isBeingLeft = false
}

/// Ends sessions whose process has ended, or from which nothing comes.
final class SessionLifetimes {
  /// The least time between two looks at keepalives, in milliseconds: many sessions cost no more than few.
  private static let pauseMilliseconds: Int64 = 50
  /// Silent sessions, and those whose process has ended, that are dealt with in one turn.
  static let lookedAtMax = 64

  private let loop: any EventLoop
  private let clock: HostClock
  private let logger: Logger
  private let sessions: SessionTable
  private let output: TurnOutput
  private let peers: PeerDirectory
  private let losses: LossEnforcer
  private let room: DescriptorRoom
  /// What the log tells of a client.
  var who: (ClientSession) -> Logger.Metadata = { _ in [:] }
  /// The sessions with a keepalive.
  private var keepalives: [SessionID: ClientSession] = [:]
  /// When to look at them again; nil while there are none.
  private var nextLook: BootInstant?
  private var processWatcher: ProcessWatcher?
  /// Sessions whose process has ended, that end in the next turns: one process can have very many.
  private var ofEndedProcesses: Deque<SessionID> = []

  init(
    loop: any EventLoop, clock: HostClock, logger: Logger, sessions: SessionTable, output: TurnOutput,
    peers: PeerDirectory, losses: LossEnforcer, room: DescriptorRoom
  ) {
    self.loop = loop
    self.clock = clock
    self.logger = logger
    self.sessions = sessions
    self.output = output
    self.peers = peers
    self.losses = losses
    self.room = room
  }

  /// Ends a session by the daemon's own decision: its waits are withdrawn and its locks are free.
  func end(_ session: ClientSession, because reason: EndReason) {
    guard sessions.has(session) else { return }
    let fields: Logger.Metadata = ["reason": "\(reason.rawValue)"]
    logger.notice("session ended by the daemon", metadata: fields.about(who(session)))
    losses.enforceEnd(of: session)
    session.isClosing = true
    session.closesAfterOutput = false
    output.touch(session)
  }

  /// Why the daemon ends a session.
  enum EndReason: String {
    case processEnded = "process_ended"
    case silent
    case killed
    case bytesPerSession = "bytes_per_session"
    case bytesPerUID = "bytes_per_uid"
  }

  // MARK: The process that connected

  /// From now on the session ends with its process. Returns why it cannot; nil: it can, or it has ended already.
  func endWithProcess(_ session: ClientSession) -> ProcessHandle.Failure? {
    guard !session.lifetime.endsWithProcess else { return nil }
    switch peers.handle(of: session) {
    case .failure(.ended):
      end(session, because: .processEnded)
      return nil
    case .failure(let failure):
      return failure
    case .success(let handle):
      guard let watcher = makeProcessWatcher(), watcher.watch(handle, id: session.id.rawValue) else {
        return .failed(errorText())
      }
      session.lifetime.endsWithProcess = true
      session.keeping.isChanged = true
      return nil
    }
  }

  /// Refuses an `initialize` whose session cannot end with its process.
  func refuseLifetime(_ failure: ProcessHandle.Failure, id: MessageID, to session: ClientSession) {
    if failure == .noRoom { return room.refuse(id: id, to: session) }
    output.write(to: session) { writer in
      switch failure {
      case .noRoom: break
      case .ended, .failed:
        writer.failure(
          id: id, .internalError, message: "the process of this client cannot be watched: \(failure.description)")
      case .invisible:
        let message = "\(Peer.invisible), so that the session cannot end with it, and lifetime can only be \"socket\""
        writer.failure(id: id, .invalidParams, message: message) { $0.member("field", "lifetime") }
      }
    }
  }

  private func makeProcessWatcher() -> ProcessWatcher? {
    if let processWatcher { return processWatcher }
    let lifetimes = NIOLoopBound(self, eventLoop: loop)
    let loop = loop
    processWatcher = ProcessWatcher { ids in
      loop.execute { lifetimes.value.processesEnded(of: ids.map { SessionID($0) }) }
    }
    return processWatcher
  }

  /// The processes of these sessions have ended.
  func processesEnded(of ids: [SessionID]) {
    ofEndedProcesses += ids
    output.scheduleEnd()
  }

  private func endThoseOfEndedProcesses() {
    for _ in 0..<Self.lookedAtMax {
      guard let id = ofEndedProcesses.popFirst() else { break }
      guard let session = sessions[id], session.lifetime.endsWithProcess else { continue }
      end(session, because: .processEnded)
    }
    if !ofEndedProcesses.isEmpty { output.scheduleEnd() }
  }

  // MARK: Deadlines

  /// When there is something to do next.
  var nextDeadline: BootInstant? {
    // By the timer, and not at once: the loop looks at its sockets first.
    ofEndedProcesses.isEmpty ? nextLook : BootInstant(nanoseconds: 1)
  }

  /// Ends the sessions whose process has ended, and those that were silent for too long.
  func check(now: BootInstant) {
    endThoseOfEndedProcesses()
    endSilent(now: now)
  }

  // MARK: Silence

  /// From now on the session ends after this much silence.
  func keepAlive(_ session: ClientSession, milliseconds: Int64) {
    let now = clock.now()
    session.lifetime.keepaliveMilliseconds = milliseconds
    session.keeping.isChanged = true
    session.lifetime.heardAt = now
    keepalives[session.id] = session
    let deadline = now.adding(milliseconds: milliseconds)
    nextLook = nextLook.map { min($0, deadline) } ?? deadline
    output.scheduleEnd()
  }

  /// From now on the session may be silent.
  func forgetKeepalive(of session: ClientSession) {
    endKeepalive(of: session)
    session.lifetime.keepaliveMilliseconds = nil
    session.keeping.isChanged = true
  }

  /// A session is gone.
  func endKeepalive(of session: ClientSession) {
    if session.lifetime.keepaliveMilliseconds != nil { keepalives[session.id] = nil }
  }

  private func endSilent(now: BootInstant) {
    guard let next = nextLook, next <= now else { return }
    var earliest: BootInstant?
    var isMore = false
    var ended = 0
    for session in keepalives.values {
      guard let milliseconds = session.lifetime.keepaliveMilliseconds, !session.isClosing else { continue }
      var deadline = session.lifetime.heardAt.adding(milliseconds: milliseconds)
      if deadline <= now {
        // The rest goes on in the next turn: to find and end very many takes a while.
        guard ended < Self.lookedAtMax else {
          isMore = true
          break
        }
        ended += 1
        guard isHeard(session) else {
          end(session, because: .silent)
          continue
        }
        session.lifetime.heardAt = now
        deadline = now.adding(milliseconds: milliseconds)
      }
      earliest = earliest.map { min($0, deadline) } ?? deadline
    }
    nextLook = isMore ? now : earliest.map { max($0, now.adding(milliseconds: Self.pauseMilliseconds)) }
  }

  /// Whether the daemon has not listened: it may have been stopped, or have paused reading. When it paused because the
  /// client does not read its replies, that is the client's own doing.
  private func isHeard(_ session: ClientSession) -> Bool {
    if session.input.isPaused { return session.output.isWritable }
    return session.channel.withDescriptor { socket_unread_bytes($0) > 0 } ?? false
  }
}
