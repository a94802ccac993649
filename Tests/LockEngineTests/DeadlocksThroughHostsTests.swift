import LockEngine
import LockTypes
import Testing

/// Waits on several hosts that would never end.
@Suite struct DeadlocksThroughHostsTests {
  /// Two hosts whose messages a test carries to and fro: alice on `one` has "a" and waits for "b", bob on `two` has
  /// "b" and waits for "a".
  private func crossed(
    at clocks: (one: Int64, two: Int64) = (1000, 1001), owner: String? = "t"
  ) -> (one: Script, two: Script) {
    func host(_ name: String, _ session: SessionID, has: String, wants: String, at clock: Int64) -> Script {
      let script = Script(EngineConfiguration(tier: .store, host: name, inbox: "\(name)/1"))
      script.open(session)
      script.acquire(session, has, owner: owner)
      script.reply(granted(100))
      script.acquire(session, wants, owner: owner)
      script.reply(queued(at: clock))
      // The other host waits for what this one has.
      script.feed(
        .pushReceived(.only, .contended(name: LockName(has), attempt: 1, ask: 9, isTry: false, inbox: "other/1")))
      _ = script.take()
      return script
    }
    return (
      host("one", alice, has: "a", wants: "b", at: clocks.one), host("two", bob, has: "b", wants: "a", at: clocks.two)
    )
  }

  /// Answers looks and carries messages until there are no more. Gives what clients were told.
  private func carry(_ scripts: [String: Script], losing lost: (HostMessage) -> Bool = { _ in false }) -> [Effect] {
    var told: [Effect] = []
    var goesOn = true
    while goesOn {
      goesOn = false
      for (inbox, script) in scripts.sorted(by: { $0.key < $1.key }) {
        for effect in script.take() {
          switch effect {
          case .send(_, let id, .look):
            goesOn = true
            let sight = LeaseSight(holders: scripts.keys.filter { $0 != inbox }, waiting: [])
            script.feed(.replyReceived(.only, id, .seen(sight)))
          case .send(_, _, .hostMessage(let inbox, let message)):
            goesOn = true
            if !lost(message) { scripts[inbox]?.feed(.pushReceived(.only, .hostMessage(message))) }
          case .reply, .notify: told.append(effect)
          case .send, .acknowledge, .forgetAcknowledgement, .flushSoon, .observed, .recorded, .shutdownCompleted,
            .heldLong:
            break
          }
        }
      }
    }
    return told
  }

  @Test func aCycleThroughTwoHostsIsFoundAndOneWaitRefused() {
    let (one, two) = crossed()
    let hosts = ["one/1": one, "two/1": two]
    one.pass(milliseconds: 5)
    var told: [Effect] = []
    for _ in 0..<20 where told.isEmpty {
      for script in [one, two] { script.pass(milliseconds: 50) }
      told += carry(hosts)
    }
    #expect(told.count == 1)
    guard let steps = cycle(told) else {
      Issue.record("\(told)")
      return
    }
    // bob's wait is the younger one.
    #expect(steps.map(\.host) == ["two", "one"])
    #expect(steps.map(\.waitsFor.description) == ["a", "b"])
    #expect(steps.map { $0.holds?.description } == ["b", "a"])
    #expect(one.engine.statistics.deadlocks + two.engine.statistics.deadlocks == 1)
  }

  /// What the hosts' own clocks show is of no matter: the wait that the store heard of last is the youngest, and of two in
  /// one microsecond it is always the same one.
  @Test(arguments: [(Int64(1000), Int64(1001), "two"), (1001, 1000, "one"), (1000, 1000, "two")])
  func theWaitThatTheStoreHeardOfLastIsTheYoungest(_ one: Int64, _ two: Int64, _ youngest: String) {
    for late in [0, 1] {
      let (first, second) = crossed(at: (one, two))
      [first, second][late].jump(milliseconds: 3)
      var told: [Effect] = []
      for _ in 0..<20 where told.isEmpty {
        for script in [first, second] { script.pass(milliseconds: 50) }
        told += carry(["one/1": first, "two/1": second])
      }
      #expect(cycle(told)?.first?.host == youngest)
    }
  }

  /// The age of a wait that has no owner is known from its beginning, also where it comes to matter when its client closes
  /// its half of the connection.
  @Test(arguments: [false, true])
  func waitsOfHalfClosedSessionsAreAsOldAsTheStoreSaid(keepsHolds: Bool) {
    let (one, two) = crossed(owner: nil)
    var told: [Effect] = []
    for script in [one, two] { script.pass(milliseconds: 50) }
    one.halfClose(alice, keepsHolds: keepsHolds)
    two.halfClose(bob, keepsHolds: keepsHolds)
    for _ in 0..<20 where told.isEmpty {
      for script in [one, two] { script.pass(milliseconds: 50) }
      told += carry(["one/1": one, "two/1": two])
    }
    #expect(cycle(told)?.map(\.host) == ["two", "one"])
  }

  /// It has no ask of its own whose answer could date it. Nobody hears that it waits before it is dated.
  @Test func aWaitBehindWhatItsOwnHostHoldsIsDatedByACommandOfItsOwn() {
    let script = Script()
    script.open(alice, bob)
    script.hold(bob, "b")
    script.hold(alice, "free", token: 500)
    // Who holds nothing is in no cycle.
    script.acquire(alice, "b", owner: "other", progress: true)
    #expect(script.take().compactMap(\.command) == [])
    script.acquire(alice, "a", owner: "t")
    script.reply(granted(300))
    _ = script.take()
    let wait = script.acquire(alice, "b", owner: "t", progress: true)
    let effects = script.take()
    #expect(effects.compactMap(\.command) == [.clock])
    #expect(effects.compactMap(\.notification).isEmpty)
    script.reply(.clock(StoreInstant(microseconds: 77)), to: effects.compactMap(\.commandID).last)
    guard case .waiting(wait, _, position: 2, _, _)? = script.take().compactMap(\.notification).first else {
      Issue.record("nobody was told that the request waits")
      return
    }
  }

  /// The store may answer late, and be asked again after the link was lost: what counts is when the wait began.
  @Test func aWaitIsAsOldAsItsBeginningHoweverLateItIsDated() {
    let (one, two) = crossed(at: (1_000_000, 1_000_001))
    for script in [one, two] {
      script.feed(.linkDown(.only))
      script.pass(milliseconds: 10)
    }
    func comeBack(_ script: Script, at clock: Int64) {
      script.feed(.linkUp(.only))
      for case .send(_, let id, let command) in script.take() {
        switch command {
        case .acquire: script.feed(.replyReceived(.only, id, queued(at: clock)))
        case .renew: script.feed(.replyReceived(.only, id, .renewed([.held])))
        default: break
        }
      }
    }
    comeBack(two, at: 1_010_002)
    one.pass(milliseconds: 40)
    comeBack(one, at: 1_050_000)
    for (script, name) in [(one, "a"), (two, "b")] {
      script.feed(
        .pushReceived(.only, .contended(name: LockName(name), attempt: 1, ask: 9, isTry: false, inbox: "o/1")))
    }
    var told: [Effect] = []
    for _ in 0..<20 where told.isEmpty {
      for script in [one, two] { script.pass(milliseconds: 50) }
      told += carry(["one/1": one, "two/1": two])
    }
    #expect(cycle(told)?.map(\.host) == ["two", "one"])
  }

  /// Between the moment at which the chain comes back and the moment at which it has been gone along again, bob gives up
  /// his wait, or what he has.
  @Test(arguments: [true, false]) func aCycleThatWasOnlySeenOnceIsNone(_ isWait: Bool) {
    let (one, two) = crossed()
    var confirmations = 0
    var refutations = 0
    one.pass(milliseconds: 205)
    let told = carry(["one/1": one, "two/1": two]) { message in
      if case .refuted = message { refutations += 1 }
      guard case .confirm(_, let next) = message else { return false }
      #expect(next == 1)
      confirmations += 1
      if isWait { two.cancel(bob, RequestID(2)) } else { two.release(bob, "b") }
      return false
    }
    #expect(confirmations == 1 && refutations == 1)
    #expect(cycle(told) == nil)
    #expect(one.engine.statistics.deadlocks + two.engine.statistics.deadlocks == 0)
  }

  @Test func aCycleWhoseConfirmationIsLostIsFoundAgain() {
    let (one, two) = crossed()
    var lost = 0
    var told: [Effect] = []
    var elapsed = 0
    while told.isEmpty, elapsed < 5000 {
      for script in [one, two] { script.pass(milliseconds: 50) }
      elapsed += 50
      told += carry(["one/1": one, "two/1": two]) { message in
        guard case .confirm = message, lost == 0 else { return false }
        lost += 1
        return true
      }
    }
    #expect(lost == 1)
    #expect(cycle(told)?.map(\.host) == ["two", "one"])
    #expect(elapsed > 2000)
  }

  /// Only the smallest wait of a cycle looks for it: what comes from a larger one ends at a smaller one.
  @Test func aSearchPassesOverSmallerWaits() {
    let (_, two) = crossed()
    two.pass(milliseconds: 205)
    let (one, _) = crossed()
    var probes = 0
    _ = carry(["one/1": one, "two/1": two]) { message in
      if case .probe(let probe) = message {
        #expect(probe.path.map(\.inbox) == ["two/1"])
        probes += 1
      }
      return false
    }
    #expect(probes == 1)
  }

  /// Two locks that many agents share, each of whom waits for the other one: the paths through them are beyond number, and
  /// a search costs no more than there are waits.
  @Test func searchesThroughSharedLocksDoNotMultiply() {
    let hosts = 6
    let agents = 4
    var scripts: [String: Script] = [:]
    for host in 0..<hosts {
      let (has, wants) = host % 2 == 0 ? ("x", "y") : ("y", "x")
      let script = Script(EngineConfiguration(tier: .store, host: "h\(host)", inbox: "h\(host)/1"))
      let sessions = (1...agents).map { SessionID(UInt64($0)) }
      for session in sessions { script.open(session) }
      for session in sessions { script.acquire(session, has, mode: .shared, owner: "t") }
      script.reply(granted(Token(100 + host * 1000)))
      for session in sessions {
        script.acquire(session, wants, owner: "t")
        let wait = script.take().compactMap {
          if case .send(_, let id, let command) = $0 { (id, command) } else { nil }
        }
        for (id, command) in wait {
          script.feed(
            .replyReceived(.only, id, command == .clock ? .clock(StoreInstant(microseconds: 9)) : queued(at: 9)))
        }
      }
      script.feed(
        .pushReceived(.only, .contended(name: LockName(has), attempt: 1, ask: 9, isTry: false, inbox: "other/1")))
      #expect(script.engine.gauges.waiting == agents)
      _ = script.take()
      scripts["h\(host)/1"] = script
    }
    for script in scripts.values { script.pass(milliseconds: 205) }
    var messages = 0
    let told = carry(scripts) { _ in
      messages += 1
      return messages > 100_000
    }
    // Every wait looks for a cycle, and its search goes on from every other wait to the other hosts once.
    let waits = hosts * agents
    #expect(messages > waits && messages <= waits * waits * (hosts - 1))
    #expect(cycle(told) != nil)
  }

  /// What clients want goes over the same connection as the questions of searches.
  @Test func questionsUnderWayAreBounded() {
    let (_, two) = crossed()
    let looks = (UInt64(1)...400).flatMap { number in
      let step = DeadlockStep(
        host: "one", inbox: "one/1", session: 1, request: number, pid: nil, command: nil, owner: "t",
        waitsFor: LockName("b"), holds: nil, token: 0, began: StoreInstant(microseconds: 5))
      two.feed(.pushReceived(.only, .hostMessage(.probe(DeadlockProbe(number: number, path: [step])))))
      return two.take().compactMap { effect -> CommandID? in
        if case .send(_, let id, .look) = effect { id } else { nil }
      }
    }
    #expect(looks.count == 256)
    // Nor does it begin a search of its own.
    two.pass(milliseconds: 210)
    #expect(two.take().compactMap(\.command).isEmpty)
    for id in looks { two.feed(.replyReceived(.only, id, .seen(LeaseSight(holders: [], waiting: [])))) }
    two.pass(milliseconds: 100)
    #expect(two.take().compactMap(\.command) == [.look(name: LockName("a"))])
  }

  @Test func aVictimThatDoesNotWaitAnyMoreIsLeftAlone() {
    let (one, two) = crossed()
    two.cancel(bob, RequestID(2))
    _ = two.take()
    let step = DeadlockStep(
      host: "two", inbox: "two/1", session: bob.rawValue, request: 2, pid: nil, command: nil, owner: "t",
      waitsFor: LockName("a"), holds: LockName("b"), token: 100, began: StoreInstant(microseconds: 5))
    two.feed(.pushReceived(.only, .hostMessage(.victim(path: [step]))))
    two.feed(.pushReceived(.only, .hostMessage(.victim(path: []))))
    for probe in [DeadlockProbe(number: 1, path: [step]), DeadlockProbe(number: 1, path: [])] {
      for next in [0, 1, -1] { two.feed(.pushReceived(.only, .hostMessage(.confirm(probe, next: next)))) }
      two.feed(.pushReceived(.only, .hostMessage(.confirmed(probe))))
      two.feed(.pushReceived(.only, .hostMessage(.refuted(probe))))
    }
    #expect(two.take().isEmpty)
    #expect(one.engine.gauges.waiting == 1)
  }

  @Test func aChainThatGrowsTooLongOrTurnsInACircleEnds() {
    let (_, two) = crossed()
    let step = DeadlockStep(
      host: "one", inbox: "one/1", session: 9, request: 9, pid: nil, command: nil, owner: nil,
      waitsFor: LockName("b"), holds: nil, token: 0, began: StoreInstant(microseconds: 5))
    func commands(_ number: UInt64, _ path: [DeadlockStep]) -> [LeaseCommand] {
      two.feed(.pushReceived(.only, .hostMessage(.probe(DeadlockProbe(number: number, path: path)))))
      return two.take().compactMap(\.command)
    }
    #expect(commands(1, Array(repeating: step, count: 32)).isEmpty)
    #expect(commands(1, []).isEmpty)
    #expect(commands(2, [step]) == [.look(name: LockName("a"))])
    // It has come this way, and a later one has.
    #expect(commands(2, [step]).isEmpty)
    #expect(commands(1, [step]).isEmpty)
    #expect(commands(3, [step]) == [.look(name: LockName("a"))])
  }
}
