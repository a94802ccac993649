import LockEngine
import LockTypes

/// The daemon, as its keeper sees it.
protocol KeptSource: AnyObject {
  /// The record of who the daemon is.
  var identity: SavedIdentity { get }
  /// Its settings, for the daemon that follows.
  var settings: [UInt8] { get }
  /// The counters that a successor goes on with.
  var counters: [UInt64] { get }
  /// Bytes to keep: of holds and waiters, and of the input and the unread output of sessions.
  var bytesToKeep: Int { get }

  /// The engine's changes since the last time, of the sessions that `keeps` says are kept.
  func changes(keeps: (SessionID) -> Bool) -> [StateChange]
  /// Whether ``changes(keeps:)`` has more, even if nothing happens.
  var hasMoreChanges: Bool { get }
  /// Whether ``changes(keeps:)`` has not yet given all that a session holds.
  func isBeingNoted(_ id: SessionID) -> Bool
  func session(_ id: SessionID) -> ClientSession?
  /// The sessions that hold nothing, wait for nothing and are not kept, in their order.
  func idleSessions() -> [ClientSession]
  /// Whether a session has nothing to lose.
  func isIdle(_ id: SessionID) -> Bool
  /// The engine's memory of what a session lost, from the loss of that number on.
  func losses(of id: SessionID, from number: UInt64) -> [SavedLoss]

  /// A session is no longer kept.
  func keepingStopped(_ id: SessionID)
  /// Changes are wanted again, after there was no room for them.
  func resumeChanges()
  /// Has about `count` more things come as changes again. Returns false when all have.
  func noteEverything(_ progress: inout NotingProgress, atMost count: Int) -> Bool
  /// There is something to commit.
  func scheduleTurnEnd()
}

/// The running daemon as a source.
final class KeptDaemon: KeptSource {
  private let instance: String
  private let configuration: ConfigurationInForce
  private let engine: LockEngine
  private let sessions: SessionTable
  private let limits: SessionLimits
  private let output: TurnOutput
  private let door: EngineDoor

  init(
    instance: String, configuration: ConfigurationInForce, engine: LockEngine, sessions: SessionTable,
    limits: SessionLimits, output: TurnOutput, door: EngineDoor
  ) {
    self.instance = instance
    self.configuration = configuration
    self.engine = engine
    self.sessions = sessions
    self.limits = limits
    self.output = output
    self.door = door
  }

  var identity: SavedIdentity { SavedIdentity(instance: instance, configuration.settings) }
  var settings: [UInt8] { configuration.savedSettings }
  var counters: [UInt64] { [sessions.last, door.lastRequest] + engine.numbers }
  var bytesToKeep: Int { engine.recordBytesMax + limits.keptBytes }

  func changes(keeps: (SessionID) -> Bool) -> [StateChange] { engine.takeChanges(isKept: keeps) }

  var hasMoreChanges: Bool { engine.hasMoreToNote }

  func isBeingNoted(_ id: SessionID) -> Bool { engine.isBeingNoted(id) }

  func session(_ id: SessionID) -> ClientSession? { sessions[id] }

  func idleSessions() -> [ClientSession] {
    sessions.values.filter { !$0.keeping.isKept && !$0.isClosing && isIdle($0.id) }.sorted { $0.id < $1.id }
  }

  func isIdle(_ id: SessionID) -> Bool { engine.isIdle(id) }

  func losses(of id: SessionID, from number: UInt64) -> [SavedLoss] { engine.savedLosses(of: id, from: number) }

  func keepingStopped(_ id: SessionID) { door.feedAside(.keepingStopped(id)) }

  func resumeChanges() { engine.resumeRecordingChanges() }

  func noteEverything(_ progress: inout NotingProgress, atMost count: Int) -> Bool {
    engine.noteEverything(&progress, atMost: count)
  }

  func scheduleTurnEnd() { output.scheduleEnd() }
}
