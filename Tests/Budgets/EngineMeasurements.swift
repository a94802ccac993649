import Glibc
import LockEngine
import LockTypes

/// Ends the program: what is measured does not do what it should, so that its cost means nothing.
func fail(_ reason: String) -> Never {
  print("Budgets: \(reason)")
  exit(1)
}

/// An engine with a clock that a measurement moves, and the effects of the last event.
final class EngineDriver {
  let engine: LockEngine
  var now = BootInstant(nanoseconds: 1_000_000_000_000)
  private(set) var effects: [Effect] = []
  private var lastRequest: UInt64 = 0

  init(
    tier: EngineConfiguration.Tier, lingerMilliseconds: Int64 = 0, sessions: Int = 1, waitsPerSessionMax: Int = 128
  ) {
    engine = LockEngine(
      configuration: EngineConfiguration(tier: tier) {
        $0.settings.lingerMilliseconds = lingerMilliseconds
        $0.settings.waitsPerSessionMax = waitsPerSessionMax
      })
    if case .store = tier {
      feed(.linkUp(.only))
      answer(
        .epoch(
          EpochSight(
            id: EpochID(number: 1, text: "1:host/0123456789abcdef:1"), isOpen: true, graceMilliseconds: 10_000,
            longestLeaseMilliseconds: 10_000, tokenFloor: 0, clock: StoreInstant(microseconds: 1_764_000_000_000_000))))
    }
    for session in 1...sessions { feed(.sessionOpened(SessionID(UInt64(session)))) }
  }

  func feed(_ event: Event) {
    now.nanoseconds += 1000
    effects.removeAll(keepingCapacity: true)
    engine.handle(event, now: now, into: &effects)
    engine.handle(.turnEnded, now: now, into: &effects)
  }

  func acquire(_ name: LockName, session: UInt64 = 1) {
    ask(name, session: session)
  }

  func ask(_ name: LockName, session: UInt64 = 1, mode: HoldMode = .exclusive, owner: String? = nil) {
    lastRequest += 1
    feed(
      .acquireRequested(
        AcquireRequest(
          session: SessionID(session), request: RequestID(lastRequest), target: .one(name), mode: mode, owner: owner)))
  }

  func release(_ name: LockName, session: UInt64 = 1) {
    lastRequest += 1
    feed(.releaseRequested(SessionID(session), RequestID(lastRequest), name: name, token: nil))
  }

  /// The first command to the store among the effects.
  var command: (id: CommandID, command: LeaseCommand)? {
    for effect in effects {
      if case .send(_, let id, let command) = effect { return (id, command) }
    }
    return nil
  }

  /// Whether a client was told that it has a lock.
  var didGrant: Bool {
    effects.contains { if case .reply(_, _, .acquired) = $0 { true } else { false } }
  }

  /// Lets the store answer the last command.
  func answer(_ reply: LeaseReply) {
    guard let command else { fail("the engine sent nothing") }
    feed(.replyReceived(.only, command.id, reply))
  }

  func mustGrant() {
    guard didGrant else { fail("the engine did not grant a lock") }
  }
}

let granted = LeaseReply.granted(LeaseGrant(token: 1_764_000_000_000_001, tokenCount: 1 << 40, othersWait: false))

/// The state machine.
var engineMeasurements: [Measurement] {
  [
    Measurement(name: "engine/local-cycle") {
      let driver = EngineDriver(tier: .local(firstToken: 1))
      let name = lockName
      return {
        driver.acquire(name)
        driver.mustGrant()
        driver.release(name)
      }
    },
    Measurement(name: "engine/lingering-cycle") {
      let driver = EngineDriver(tier: .store, lingerMilliseconds: 3_600_000)
      let name = lockName
      driver.bringBack(name)
      return {
        driver.acquire(name)
        driver.mustGrant()
        driver.release(name)
      }
    },
    Measurement(name: "engine/cold-cycle") {
      let driver = EngineDriver(tier: .store)
      let name = lockName
      return {
        driver.acquire(name)
        driver.answer(granted)
        driver.mustGrant()
        driver.release(name)
        driver.answer(.done)
      }
    },
    Measurement(name: "engine/hand-over") {
      let clients: UInt64 = 8
      let driver = EngineDriver(tier: .store, lingerMilliseconds: 3_600_000, sessions: Int(clients))
      let name = lockName
      driver.acquire(name)
      driver.answer(granted)
      for session in 2...clients { driver.acquire(name, session: session) }
      var holder: UInt64 = 1
      return {
        driver.release(name, session: holder)
        driver.mustGrant()
        driver.acquire(name, session: holder)
        holder = holder % clients + 1
      }
    },
    Measurement(name: "engine/session") {
      let driver = EngineDriver(tier: .local(firstToken: 1))
      let name = lockName
      var session: UInt64 = 1
      return {
        session += 1
        driver.feed(.sessionOpened(SessionID(session)))
        driver.acquire(name, session: session)
        driver.feed(.sessionClosed(SessionID(session)))
      }
    },
    Measurement(name: "engine/renewal-of-1000") {
      let driver = EngineDriver(tier: .store)
      for index in 0..<1000 {
        driver.acquire(LockName("held-\(index)"))
        driver.answer(granted)
      }
      return { driver.renewEverything(count: 1000) }
    },
  ]
}

extension EngineDriver {
  /// Leaves the lease of a name here, idle and lingering: only a name that the host comes back to is worth that.
  func bringBack(_ name: LockName) {
    for _ in 0..<2 {
      acquire(name)
      if command != nil { answer(granted) }
      mustGrant()
      release(name)
      if command != nil { answer(.done) }
    }
    guard command == nil else { fail("the lease does not linger") }
  }

  /// Lets the time pass to the next renewals and on, until so many leases have been renewed.
  func renewEverything(count: Int) {
    var rest = count
    while rest > 0 {
      guard let deadline = engine.nextDeadline else { fail("nothing is to be renewed") }
      now = max(now, deadline)
      feed(.timerFired)
      rest -= answerRenewals()
    }
  }

  /// Lets the store confirm all renewals that are under way.
  func confirmRenewals() { _ = answerRenewals() }

  /// Lets the store confirm the renewals among the effects, and those that go out when these are confirmed.
  private func answerRenewals() -> Int {
    var count = 0
    var sent = renewals
    while let (id, leases) = sent.popLast() {
      count += leases
      feed(.replyReceived(.only, id, .renewed(Array(repeating: .held, count: leases))))
      sent += renewals
    }
    return count
  }

  private var renewals: [(CommandID, Int)] {
    effects.compactMap { effect in
      guard case .send(_, let id, .renew(let leases, _, _)) = effect else { return nil }
      return (id, leases.count)
    }
  }
}
