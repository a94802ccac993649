import LockEngine
import LockTypes
import Testing

/// Records know each other both ways. Whatever becomes of a request, none may stay behind when everybody has left.
@Suite struct LeakTests {
  /// What is asked for, and how far it has come.
  enum Situation: CaseIterable {
    case held, shared, permit, entered, queuedHere, queuedInStore, notAnswered, trying
    case allOfSeveral, someOfSeveral, someOfSeveralEntered, severalNotAnswered
    case severalQueuedInStore
    case forReplicas, forReplicasEntered
  }

  /// What becomes of it.
  enum Ending: CaseIterable {
    case sessionCloses, holderCloses, cancelled, released, downgraded, transferred, broken, maxHold, timeOver, evicted
    case linkDown, linkDownForLong, dataLost, refusedByStore, wrongType, usedAsSomethingElse, grantedLate, shutdown
  }

  private static let soon: Int64 = 2000
  private static let aYear: Int64 = 31_536_000_000

  /// A script whose store grants what it is asked for, as long as it is to.
  private final class World {
    let script: Script
    var answer: (LeaseCommand) -> LeaseReply? = World.granting
    private var token: Token = 1000
    private var isUp: Bool
    /// What the store has not answered.
    private var owed: [(CommandID, LeaseCommand)] = []

    init(isLocal: Bool, isKept: Bool) {
      isUp = !isLocal
      script = Script(EngineConfiguration(tier: isLocal ? .local(firstToken: 1) : .store), linkUp: false)
      if isKept { script.engine.recordChanges() }
      if isUp { script.feed(.linkUp(.only)) }
      script.open(alice, bob, carol)
    }

    static func granting(_ command: LeaseCommand) -> LeaseReply? {
      switch command {
      case .acquire(_, _, _, _, let terms, _, _, _, _):
        .granted(LeaseGrant(token: max(terms.tokenFloor, 1000) + 1, tokenCount: 1000, othersWait: false))
      case .renew(let leases, _, _): .renewed(leases.map { _ in .held })
      case .look: .seen(LeaseSight(holders: [], waiting: []))
      case .clock: .clock(StoreInstant(microseconds: 1_000_000))
      case .checkPlaces: .lostPlaces([])
      case .reserve(_, _, let end, _): .reserved(LeaseGrant(token: end, tokenCount: 1000, othersWait: false))
      case .release, .downgrade, .answerInUse, .heartbeat, .hostMessage: .done
      case .reclaim(let leases, _, _): .renewed(leases.map { _ in .held })
      case .confirmEpoch: nil
      }
    }

    static func silent(_ command: LeaseCommand) -> LeaseReply? {
      if case .acquire = command { nil } else { granting(command) }
    }

    /// Has the store answer what it was sent, until nothing more comes of it.
    func settle() {
      while true {
        var replies: [(CommandID, LeaseReply)] = []
        for case .send(_, let id, let command) in script.take() where isUp {
          if let reply = answer(command) { replies.append((id, reply)) } else { owed.append((id, command)) }
        }
        if replies.isEmpty { break }
        for (id, reply) in replies { script.reply(reply, to: id) }
      }
      _ = script.engine.takeChanges { _ in true }
    }

    func pass(milliseconds: Int64) {
      for _ in 0..<20 {
        script.pass(milliseconds: milliseconds / 20)
        settle()
      }
    }

    func link(up: Bool) {
      isUp = up
      owed = []
      script.feed(up ? .linkUp(.only) : .linkDown(.only))
      settle()
    }

    /// Everybody leaves, and the store hears of it.
    func leave() {
      answer = Self.granting
      if !isUp, script.engine.gauges.locks > 0 { link(up: true) }
      for session in [alice, bob, carol] { script.feed(.sessionClosed(session)) }
      for (id, command) in owed { if let reply = answer(command) { script.reply(reply, to: id) } }
      settle()
      pass(milliseconds: 60_000)
      settle()
    }
  }

  private func begin(_ situation: Situation, wait: Int64, _ world: World) -> RequestID? {
    let script = world.script
    var request: RequestID?
    switch situation {
    case .held: request = script.acquire(alice, maxHold: 5000)
    case .shared: request = script.acquire(alice, mode: .shared, maxHold: 5000)
    case .permit: request = script.acquire(alice, mode: .permit(of: 2), maxHold: 5000)
    case .entered:
      script.acquire(alice, owner: "o")
      world.settle()
      request = script.acquire(alice, maxHold: 5000, owner: "o")
    case .queuedHere:
      script.acquire(bob)
      world.settle()
      request = script.acquire(alice, wait: wait, owner: "o", progress: true)
    case .queuedInStore:
      world.answer = { if case .acquire = $0 { queued() } else { World.granting($0) } }
      request = script.acquire(alice, wait: wait, owner: "o", progress: true)
    case .notAnswered:
      world.answer = World.silent
      request = script.acquire(alice, wait: wait)
    case .trying:
      world.answer = { if case .acquire = $0 { queued() } else { World.granting($0) } }
      request = script.acquire(alice, wait: 0)
    case .allOfSeveral: request = script.acquire(alice, all: ["w", "x"], maxHold: 5000)
    case .someOfSeveral:
      script.acquire(bob)
      world.settle()
      request = script.acquire(alice, all: ["w", "x", "y"], wait: wait)
    case .someOfSeveralEntered:
      script.acquire(bob)
      script.acquire(alice, "w", owner: "o")
      world.settle()
      request = script.acquire(alice, all: ["v", "w", "x"], wait: wait, owner: "o")
    case .severalNotAnswered:
      world.answer = World.silent
      request = script.acquire(alice, all: ["x", "y"])
    case .severalQueuedInStore:
      world.answer = {
        if case .acquire(let name, _, _, _, _, _, _, _, _) = $0, name == x { queued() } else { World.granting($0) }
      }
      request = script.acquire(alice, all: ["w", "x"], owner: "o")
    // The store does not say how many have it.
    case .forReplicas: request = script.acquire(alice, maxHold: 5000, need: ReplicaNeed(replicas: 1))
    case .forReplicasEntered:
      script.acquire(alice, owner: "o")
      world.settle()
      request = script.acquire(alice, all: ["w", "x"], owner: "o", need: ReplicaNeed(replicas: 1))
    }
    world.settle()
    return request
  }

  private func end(_ ending: Ending, _ request: RequestID?, _ world: World) {
    let script = world.script
    let names = ["v", "w", "x", "y"]
    switch ending {
    case .sessionCloses: script.feed(.sessionClosed(alice))
    case .holderCloses: script.feed(.sessionClosed(bob))
    case .cancelled: script.cancel(alice, request)
    case .released: for name in names { script.release(alice, name) }
    case .downgraded:
      for name in names {
        script.feed(.downgradeRequested(alice, script.newRequest(), name: LockName(name), token: nil))
      }
    case .transferred:
      for name in names {
        script.feed(.transferRequested(alice, script.newRequest(), name: LockName(name), token: nil, to: carol))
      }
    case .broken:
      for name in names {
        let holders = script.engine.snapshot(of: LockName(name), waitersMax: 0, now: script.now)?.holders ?? []
        script.feed(.breakRequested(name: LockName(name), tokens: holders.map(\.token), reason: ""))
      }
    case .maxHold: world.pass(milliseconds: 10_000)
    case .timeOver: world.pass(milliseconds: Self.soon * 2)
    case .evicted: script.evict(alice)
    case .linkDown: world.link(up: false)
    case .linkDownForLong:
      world.link(up: false)
      world.pass(milliseconds: 60_000)
    case .dataLost:
      let answer = world.answer
      world.answer = {
        if case .renew(let leases, _, _) = $0 { .renewed(leases.map { _ in .lost }) } else { answer($0) }
      }
      world.pass(milliseconds: 10_000)
    case .refusedByStore, .wrongType, .usedAsSomethingElse:
      let reply: LeaseReply =
        switch ending {
        case .refusedByStore: .failed(.fatal("no"))
        case .wrongType: .failed(.wrongType(nil))
        default: .conflict(.permit(of: 7), listeners: 0)
        }
      world.answer = { if case .acquire = $0 { reply } else { World.granting($0) } }
      world.link(up: false)
      world.link(up: true)
    case .grantedLate:
      script.feed(.sessionClosed(alice))
      for attempt in UInt64(1)...4 {
        for name in names {
          script.feed(
            .pushReceived(
              .only,
              .granted(
                name: LockName(name), attempt: attempt, LeaseGrant(token: 5000, tokenCount: 9, othersWait: false))))
        }
      }
    case .shutdown: script.feed(.shutdownRequested)
    }
    world.settle()
  }

  @Test(arguments: Situation.allCases, Ending.allCases)
  func nothingIsLeftOfARequestHoweverItEnds(_ situation: Situation, _ ending: Ending) {
    for isKept in [false, true] {
      for isLocal in [false, true] {
        let world = World(isLocal: isLocal, isKept: isKept)
        let request = begin(situation, wait: ending == .timeOver ? Self.soon : Self.aYear, world)
        end(ending, request, world)
        world.leave()
        #expect(world.script.engine.gauges.locks == 0, "local: \(isLocal)")
        #expect(world.script.engine.recordCounts == RecordCounts(), "local: \(isLocal), kept: \(isKept)")
      }
    }
  }

  /// Two owners who wait for each other: the younger wait is refused, and then both leave.
  @Test(arguments: [false, true])
  func nothingIsLeftOfADeadlock(_ areSeveral: Bool) {
    let world = World(isLocal: true, isKept: false)
    let script = world.script
    script.acquire(alice, "x", owner: "a")
    script.acquire(bob, "w", owner: "b")
    script.acquire(alice, "w", owner: "a")
    if areSeveral { script.acquire(bob, all: ["v", "x"], owner: "b") } else { script.acquire(bob, "x", owner: "b") }
    #expect(
      script.take().compactMap(\.refusal).contains { if case .deadlock = $0 { true } else { false } })
    world.leave()
    #expect(script.engine.recordCounts == RecordCounts())
  }

  /// What is noted for a successor goes when there will be none any more.
  @Test func nothingIsNotedForASuccessorThatWillNotCome() {
    let world = World(isLocal: true, isKept: true)
    let script = world.script
    script.acquire(alice)
    script.engine.stopRecordingChanges()
    for _ in 0..<100 {
      script.release(alice)
      script.acquire(alice)
      script.acquire(bob, wait: 1)
      script.pass(milliseconds: 2)
    }
    #expect(script.engine.recordCounts.holds == 1)
    #expect(script.engine.takeChanges { _ in true }.isEmpty)
    world.leave()
    #expect(script.engine.recordCounts == RecordCounts())
  }

  /// A wait that is to be dated by the answer to an ask ends when that ask has failed.
  @Test func nothingIsLeftOfAWaitThatWasNotDated() {
    let world = World(isLocal: false, isKept: false)
    let script = world.script
    script.acquire(alice, "w")
    world.settle()
    world.answer = { if case .acquire = $0 { .failed(.transient("BUSY")) } else { World.granting($0) } }
    script.acquire(bob, "x", mode: .shared)
    world.settle()
    script.acquire(alice, "x")
    world.leave()
    #expect(script.engine.gauges.locks == 0)
    #expect(script.engine.recordCounts == RecordCounts())
  }
}
