import LockEngine
import LockTypes
import Testing

/// An engine whose changes are kept, and the engines that come after it.
final class Kept {
  private(set) var script: Script
  /// What the next engine is told at its start.
  var configuration: EngineConfiguration
  private var records: [StateRecord: [UInt8]] = [:]
  /// Sessions whose connection outlives the engine.
  var sessions: Set<SessionID> = [alice, bob, carol, dave]

  private struct StateRecord: Hashable {
    var kind: UInt8
    var id: UInt64
  }

  init(_ configuration: EngineConfiguration = EngineConfiguration(tier: .store)) {
    self.configuration = configuration
    script = Script(configuration, linkUp: false)
    script.engine.recordChanges()
    script.feed(.linkUp(.only))
    script.open(alice, bob, carol, dave)
    _ = script.take()
  }

  /// Notes what changed, as at the end of a turn of the event loop.
  @discardableResult
  func commit() -> [StateChange] {
    let changes = script.engine.takeChanges { self.sessions.contains($0) }
    for change in changes {
      switch change {
      case .put(let kind, let id, let bytes): records[StateRecord(kind: kind.rawValue, id: id)] = bytes
      case .remove(let kind, let id):
        let wasThere = records.removeValue(forKey: StateRecord(kind: kind.rawValue, id: id)) != nil
        #expect(wasThere || hasBegunAnew)
      }
    }
    return changes
  }

  /// How many there are beside the one of the epoch.
  var recordCount: Int { records.keys.count { $0.kind != SavedState.Kind.epoch.rawValue } }

  /// Whether what was noted once was forgotten, so that more may be taken back than there is.
  private var hasBegunAnew = false

  /// Nobody has room for what changes any more.
  func stopNoting() {
    script.engine.stopRecordingChanges()
    records = [:]
    hasBegunAnew = true
  }

  /// Somebody has, and is told everything in pieces; `between` comes between two of them.
  func noteAnew(between: () -> Void = {}) {
    script.engine.resumeRecordingChanges()
    var progress = NotingProgress()
    while script.engine.noteEverything(&progress, atMost: 1) {
      commit()
      between()
    }
    commit()
  }

  func state(withEpoch: Bool = true) throws -> SavedState {
    var state = SavedState()
    for (record, bytes) in records where withEpoch || record.kind != SavedState.Kind.epoch.rawValue {
      try state.add(try #require(SavedState.Kind(rawValue: record.kind)), id: record.id, bytes, now: script.now)
    }
    return state
  }

  /// A new engine in the place of the one that there was, `milliseconds` later, with its link down. The connections of
  /// `gone` did not outlive it. `damage` is done to what was noted.
  func restart(
    after milliseconds: Int64 = 100, gone: Set<SessionID> = [], damage: (inout SavedState) -> Void = { _ in }
  ) throws {
    commit()
    let next = Script(configuration, linkUp: false)
    next.jump(milliseconds: script.now.milliseconds(since: next.now) + milliseconds)
    next.engine.recordChanges()
    for session in [alice, bob, carol, dave] where sessions.contains(session) && !gone.contains(session) {
      next.open(session)
    }
    var state = try state()
    damage(&state)
    next.restore(state, numbers: script.engine.numbers)
    script = next
    records = [:]
    commit()
  }
}
