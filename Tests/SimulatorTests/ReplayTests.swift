import Foundation
import LockEngine
import LockTypes
import Testing

/// The events of an engine are its whole input: given to another one, they have the same effects.
///
/// With `SIDELOCK_SIM_SEED` and `SIDELOCK_SIM_EVENTS`, the name of a file, the events of all engines of that seed are
/// written there, with the effects of each.
@Suite struct ReplayTests {
  @Test func aReplayOfASeedGivesTheSameEffects() throws {
    for seed in UInt64(1)...12 {
      let records = Self.records(of: seed)
      #expect(!records.isEmpty)
      for record in records { #expect(record.replay() == nil, "seed \(seed)") }
    }
    let environment = ProcessInfo.processInfo.environment
    guard let seed = environment["SIDELOCK_SIM_SEED"].flatMap({ UInt64($0) }) else { return }
    let records = Self.records(of: seed)
    if let path = environment["SIDELOCK_SIM_EVENTS"] {
      try records.map(\.text).joined(separator: "\n").write(toFile: path, atomically: true, encoding: .utf8)
    }
    for record in records { #expect(record.replay() == nil, "seed \(seed)") }
  }

  @Test func aRecordWithoutOneOfItsEventsIsFoundOut() throws {
    let record = try #require(Self.records(of: 1).first { $0.entries.contains { $0.event.isAcquire } })
    let index = try #require(record.entries.firstIndex { $0.event.isAcquire })
    var shorter = record
    shorter.entries.remove(at: index)
    #expect(shorter.replay() != nil)
  }

  /// Events that only a daemon gives an engine: before a restart, after it, and while somebody watches.
  @Test func whatTheDriverSaysOfItselfIsRecordedToo() throws {
    var now = BootInstant(nanoseconds: 1_000_000_000_000)
    let name = LockName("x")
    let (alice, bob) = (SessionID(1), SessionID(2))
    let configuration = EngineConfiguration(tier: .local(firstToken: 1000))

    let first = LockEngine(configuration: configuration)
    first.recordChanges()
    var record = EventRecord(title: "the first", configuration: configuration)
    func feed(_ event: Event, _ engine: LockEngine, _ record: inout EventRecord) -> [Effect] {
      now.nanoseconds += 1000
      return record.feed(event, to: engine, now: now)
    }
    func acquire(_ session: SessionID, _ request: UInt64) -> Event {
      .acquireRequested(AcquireRequest(session: session, request: RequestID(request), target: .one(name)))
    }
    _ = feed(.sessionOpened(alice, uid: 1), first, &record)
    _ = feed(.sessionOpened(bob, uid: 1), first, &record)
    #expect(feed(.watched(steps: 1), first, &record).isEmpty)
    #expect(feed(acquire(alice, 1), first, &record).count == 2)
    var narrow = configuration.settings
    narrow.holdsPerUIDMax = 1
    #expect(feed(.reconfigured(narrow), first, &record).isEmpty)
    #expect(feed(acquire(bob, 2), first, &record) == [.reply(bob, RequestID(2), .refused(.limit(.holdsPerUID)))])
    #expect(feed(.reconfigured(configuration.settings), first, &record).isEmpty)
    #expect(feed(.watched(steps: 0), first, &record).isEmpty)
    _ = feed(acquire(bob, 3), first, &record)
    #expect(feed(.turnEnded, first, &record).isEmpty)
    // The wait of one session is granted before the other's records are taken.
    #expect(feed(.sessionEvicted(alice), first, &record).count == 2)
    #expect(record.replay() == nil)

    var state = SavedState()
    for change in first.takeChanges(isKept: { $0 == bob }) {
      guard case .put(let kind, let id, let bytes) = change else { continue }
      try state.add(kind, id: id, bytes, now: now)
    }
    #expect(feed(.keepingStopped(bob), first, &record).isEmpty)
    let losses = first.savedLosses(of: alice, from: 0).map(\.bytes)
    var reader = StateReader(try SavedLoss.list(losses, isOfLaterFormat: false))

    let second = LockEngine(configuration: configuration)
    var next = EventRecord(title: "the second", configuration: configuration)
    _ = feed(.sessionOpened(alice), second, &next)
    _ = feed(.sessionOpened(bob), second, &next)
    #expect(feed(.lossesRestored(alice, LostHold.all(from: &reader)), second, &next).isEmpty)
    _ = feed(.restored(state, numbers: first.numbers), second, &next)
    #expect(second.gauges.held == 1)
    #expect(
      feed(.releaseRequested(alice, RequestID(4), name: name, token: nil), second, &next)
        == [.reply(alice, RequestID(4), .refused(.lost(.shutdown)))])
    #expect(next.replay() == nil)
    next.entries.removeAll { if case .restored = $0.event { true } else { false } }
    _ = feed(.releaseRequested(bob, RequestID(5), name: name, token: nil), second, &next)
    #expect(next.replay() != nil)
  }

  private static func records(of seed: UInt64) -> [EventRecord] {
    let world = Simulation(Plan(seed: seed), recorded: true)
    world.runPlan()
    return world.records
  }
}

extension Event {
  fileprivate var isAcquire: Bool { if case .acquireRequested = self { true } else { false } }
}
