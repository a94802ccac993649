import LockEngine
import LockTypes
import Testing

/// One event takes so many steps and no more, however much follows from it; the rest goes on when the timer fires, and
/// what it takes in all grows with what there is, not with its square.
@Suite struct SliceTests {
  private static let steps = 16

  private func script(_ sessions: Int) -> Script {
    let script = Script(.withSlices(of: Self.steps, .local(firstToken: 1)), linkUp: false)
    for session in 1...sessions { script.open(SessionID(UInt64(session))) }
    return script
  }

  /// Fires the timer until the engine does not ask for it at once, and gives how often that was.
  private func settle(_ script: Script, eachTime check: ([Effect]) -> Void = { _ in }) -> Int {
    var turns = 0
    while let next = script.engine.nextDeadline, next <= script.now, turns < 100_000 {
      script.feed(.timerFired)
      check(script.take())
      turns += 1
    }
    return turns
  }

  @Test(arguments: [true, false])
  func aSessionIsClosedInSlices(ofOneName: Bool) {
    func turns(_ count: Int) -> Int {
      let script = script(2)
      for index in 0..<count {
        script.acquire(bob, ofOneName ? "x" : "x\(index)", mode: ofOneName ? .shared : .exclusive)
      }
      _ = script.take()
      script.feed(.watched(steps: 1))
      script.feed(.sessionClosed(bob))
      #expect(script.engine.gauges.held >= count - Self.steps)
      // Nobody else is kept from what he wants meanwhile.
      script.acquire(alice, "y")
      #expect(script.take().compactMap(\.grantedSession) == [alice])
      var most = 0
      let turns = settle(script) { effects in
        most = max(most, effects.count { if case .observed = $0 { true } else { false } })
      }
      #expect(most > 0 && most <= Self.steps)
      #expect(script.engine.gauges.held == 1)
      #expect(script.engine.gauges.sessions == 1)
      return turns
    }
    let few = turns(400)
    #expect(few >= 400 / Self.steps - 1)
    #expect(turns(1600) <= 5 * few)
  }

  /// A session that has ended hears nothing more, though what it had goes back in slices.
  @Test func aSessionThatIsClosedIsNotToldWhoWaits() {
    let script = script(2)
    let names = (0..<10 * Self.steps).map { "x\($0)" }
    for name in names { script.acquire(bob, name, progress: true) }
    _ = script.take()
    script.feed(.sessionClosed(bob))
    #expect(script.engine.gauges.held > 1)
    for name in names { script.acquire(alice, name) }
    var told = 0
    func count(_ effects: [Effect]) {
      for case .notify(bob, _) in effects { told += 1 }
    }
    count(script.take())
    _ = settle(script, eachTime: count)
    #expect(told == 0)
    #expect(script.engine.gauges.held == names.count)
  }

  /// Everybody is told that the daemon stops, in slices; it has stopped only when all have been.
  @Test(arguments: [true, false])
  func aShutdownIsInSlices(ofOneName: Bool) {
    func turns(_ count: Int) -> Int {
      let script = script(2)
      for index in 0..<count {
        script.acquire(bob, ofOneName ? "x" : "x\(index)", mode: ofOneName ? .shared : .exclusive)
      }
      for index in 0..<count { script.acquire(alice, ofOneName ? "x" : "x\(index)") }
      _ = script.take()
      script.feed(.shutdownRequested)
      var effects = script.take()
      #expect(effects.count <= 3 * Self.steps && !effects.contains(.shutdownCompleted))
      // Nobody gets anything any more.
      script.acquire(alice, "y")
      #expect(script.take().compactMap(\.refusal) == [.shuttingDown])
      let turns = settle(script) { more in
        #expect(more.count <= 3 * Self.steps)
        effects += more
      }
      #expect(effects.last == .shutdownCompleted && effects.count { $0 == .shutdownCompleted } == 1)
      let lost = effects.count { if case .notify(bob, .lost(_, _, .shutdown, _, _, _)) = $0 { true } else { false } }
      // A lock whose turn has not come may pass to who waits for it, who loses it then.
      #expect(lost == count && effects.count { $0.refusal == .shuttingDown } == count)
      #expect(script.engine.gauges.held == 0 && script.engine.gauges.waiting == 0 && script.engine.gauges.locks == 0)
      return turns
    }
    let few = turns(200)
    #expect(few >= 200 / Self.steps)
    #expect(turns(800) <= 5 * few)
  }

  /// Somebody with very many locks, and somebody whom each of their ends is told, keep nobody else waiting: there may not
  /// be time for all of them.
  @Test func aShutdownTakesUsersInTurn() {
    let script = script(1)
    let (many, one) = (SessionID(11), SessionID(12))
    script.feed(.sessionOpened(many, uid: 1000))
    script.feed(.sessionOpened(one, uid: 1001))
    for index in 0..<20 * Self.steps { script.acquire(many, "a\(index)") }
    script.acquire(one, "b")
    script.acquire(many, "c")
    script.feed(.watched(steps: Self.steps))
    _ = script.take()
    script.feed(.shutdownRequested)
    var order = script.take().compactMap(\.lossOf)
    for _ in 0..<2 {
      script.feed(.timerFired)
      order += script.take().compactMap(\.lossOf)
    }
    #expect(order.contains(one) && order.contains(many) && order.count <= 4)
    _ = settle(script)
    #expect(script.engine.gauges.held == 0)
  }

  @Test func aSessionIsEvictedInSlices() {
    let script = script(3)
    let count = 10 * Self.steps
    for index in 0..<count { script.acquire(bob, "x\(index)") }
    script.acquire(carol, "y")
    script.acquire(bob, "y")
    script.acquire(alice, "x0")
    script.acquire(alice, "x\(count - 1)")
    _ = script.take()
    var (turns, effects): (Int, [Effect]) = (0, [])
    while !script.engine.isIdle(bob), turns < 100 {
      script.evict(bob)
      var more = script.take()
      #expect(more.count <= Self.steps + 2)
      // Whoever waits for what is free has it before the next slice.
      _ = settle(script) { more += $0 }
      if turns == 0 { #expect(more.compactMap(\.grantedSession) == [alice]) }
      effects += more
      turns += 1
    }
    #expect(turns >= count / Self.steps && turns <= count / Self.steps + 2)
    #expect(effects.count { $0.lossOf == bob } == count && effects.compactMap(\.refusal) == [.shuttingDown])
    #expect(effects.compactMap(\.grantedSession) == [alice, alice])
  }

  /// Also what stands in one long queue, and whatever leaves it meanwhile.
  @Test func everythingIsNotedAnewInSlices() {
    let script = script(3)
    script.engine.recordChanges()
    for _ in 0..<200 { script.acquire(alice, mode: .shared) }
    for _ in 0..<200 { script.acquire(bob) }
    _ = script.engine.takeChanges { _ in true }
    script.engine.stopRecordingChanges()
    script.engine.resumeRecordingChanges()
    var progress = NotingProgress()
    var (turns, noted) = (0, Set<String>())
    while script.engine.noteEverything(&progress, atMost: Self.steps) {
      // Somebody leaves from the middle of what is left, and somebody comes.
      if turns == 3 {
        script.cancel(bob, RequestID(390))
        script.acquire(carol)
      }
      let changes = script.engine.takeChanges { _ in true }
      #expect(changes.count <= Self.steps + 2)
      for case .put(let kind, let id, _) in changes { noted.insert("\(kind) \(id)") }
      turns += 1
    }
    for case .put(let kind, let id, _) in script.engine.takeChanges(isKept: { _ in true }) {
      noted.insert("\(kind) \(id)")
    }
    #expect(noted.count == 400 && turns >= 400 / Self.steps)
  }

  /// It outlives the process from a moment on at which all of it is written, whatever it does meanwhile.
  @Test func whatASessionHoldsIsKeptInSlices() throws {
    let script = script(2)
    script.engine.recordChanges()
    let count = 10 * Self.steps
    for index in 0..<count { script.acquire(bob, "x\(index)") }
    #expect(script.engine.takeChanges { _ in false }.isEmpty)
    var records: [UInt64: LockName] = [:]
    func takeChanges() throws {
      let changes = script.engine.takeChanges { _ in true }
      #expect(changes.count <= Self.steps)
      for change in changes {
        switch change {
        case .put(let kind, let id, let bytes):
          var state = SavedState()
          try state.add(kind, id: id, bytes, now: script.now)
          records[id] = state.heldNames.first.map { LockName($0) }
        case .remove(_, let id): #expect(records.removeValue(forKey: id) != nil)
        }
      }
    }
    func settle(eachTime: (Int) throws -> Void = { _ in }) throws -> Int {
      var turns = 0
      while script.engine.hasMoreToNote, turns < 1000 {
        try eachTime(turns)
        try takeChanges()
        turns += 1
      }
      return turns
    }
    // Whoever has little does not wait for who has much.
    script.acquire(alice, "y")
    script.acquire(bob, "z")
    try takeChanges()
    #expect(script.engine.isBeingNoted(bob) && script.engine.hasMoreToNote)
    let turns = try settle { turn in
      #expect(script.engine.isBeingNoted(bob) && !script.engine.isBeingNoted(alice))
      // Of what is noted and of what is not, something goes, and something comes.
      script.release(bob, "x\(turn)")
      script.release(bob, "x\(count - 1 - turn)")
      script.acquire(bob, "new\(turn)")
    }
    #expect(turns >= count / Self.steps)
    #expect(!script.engine.isBeingNoted(bob))
    #expect(records.count == script.engine.gauges.held)
    #expect(Set(records.values).count == records.count)
    // The same when it is to outlive it no longer.
    script.feed(.keepingStopped(bob))
    #expect(try settle { script.release(bob, "x\(40 + $0)") } >= count / Self.steps)
    #expect(Array(records.values) == [LockName("y")])
    // And when that changes on the way.
    script.acquire(bob, "again")
    try takeChanges()
    script.feed(.keepingStopped(bob))
    try takeChanges()
    script.acquire(bob, "and again")
    _ = try settle()
    #expect(records.count == script.engine.gauges.held)
    script.feed(.sessionClosed(bob))
    _ = self.settle(script)
    _ = script.engine.takeChanges { _ in true }
    #expect(!script.engine.hasMoreToNote)
  }

  /// A slice of one step has to come to an end, too.
  @Test func aShutdownInTheSmallestSlicesComesToItsEnd() {
    let script = Script(EngineConfiguration(tier: .local(firstToken: 1)) { $0.stepsPerSlice = 1 }, linkUp: false)
    script.open(alice, bob)
    script.acquire(bob)
    for _ in 0..<3 { script.acquire(alice) }
    script.feed(.shutdownRequested)
    var effects: [Effect] = []
    #expect(settle(script) { effects += $0 } < 100)
    #expect(effects.last == .shutdownCompleted)
  }

  /// Those with little are not kept waiting by those with much, and neither takes more of a turn for being many.
  @Test(arguments: [(2, 16), (2, 40), (12, 40), (60, 1), (60, 16)])
  func manySessionsAreClosedInSlices(sessions: Int, holdsEach: Int) {
    let script = script(sessions + 1)
    let gone = (2...(sessions + 1)).map { SessionID(UInt64($0)) }
    for session in gone {
      for index in 0..<holdsEach { script.acquire(session, "\(session.rawValue)/\(index)") }
    }
    let held = sessions * holdsEach
    script.isOneTurn = true
    for session in gone { script.feed(.sessionClosed(session)) }
    let ended = held - script.engine.gauges.held
    #expect(ended <= holdsEach + 4 * Self.steps)
    #expect(ended >= min(held, Self.steps))
    script.isOneTurn = false
    _ = settle(script)
    #expect(script.engine.gauges.held == 0 && script.engine.gauges.sessions == 1)
    // The next turn has room again.
    script.open(gone[0])
    script.acquire(gone[0])
    script.feed(.sessionClosed(gone[0]))
    #expect(script.engine.gauges.held == 0)
  }

  /// Nobody's lock passes to somebody who is gone meanwhile.
  @Test(arguments: [(2, 16), (2, 40), (12, 40), (60, 16)])
  func sessionsThatWaitAreClosedInSlices(sessions: Int, waitsEach: Int) {
    let script = script(sessions + 2)
    let (holder, last) = (SessionID(1), SessionID(UInt64(sessions + 2)))
    let gone = (2...(sessions + 1)).map { SessionID(UInt64($0)) }
    for index in 0..<waitsEach {
      script.acquire(holder, "\(index)")
      for session in gone { script.acquire(session, "\(index)", wait: 60_000) }
      script.acquire(last, "\(index)", wait: 60_000)
    }
    _ = script.take()
    let waits = sessions * waitsEach
    #expect(script.engine.gauges.waiting == waits + waitsEach)
    script.isOneTurn = true
    for session in gone { script.feed(.sessionClosed(session)) }
    let ended = waits + waitsEach - script.engine.gauges.waiting
    #expect(ended <= waitsEach + 4 * Self.steps)
    #expect(ended >= min(waits, Self.steps))
    for index in 0..<waitsEach { script.release(holder, "\(index)") }
    script.isOneTurn = false
    _ = settle(script) { effects in
      for case .reply(let session, _, _) in effects { #expect(!gone.contains(session)) }
    }
    #expect(script.engine.gauges.waiting == 0 && script.engine.gauges.sessions == 2)
    #expect(script.engine.gauges.held == waitsEach)
    #expect(script.engine.isIdle(holder) && !script.engine.isIdle(last))
  }

  /// The sidecar tells it again in each turn.
  @Test(arguments: [1, 12])
  func holdsOfHalfClosedSessionsEndInSlices(sessions: Int) {
    let script = script(sessions)
    let gone = (1...sessions).map { SessionID(UInt64($0)) }
    for session in gone {
      for index in 0..<100 { script.acquire(session, "\(session.rawValue)/\(index)") }
    }
    _ = script.take()
    var turns = 0
    while script.engine.gauges.held > 0 {
      let before = script.engine.gauges.held
      script.isOneTurn = true
      for session in gone { script.feed(.inputEnded(session, isAnswered: true)) }
      script.isOneTurn = false
      script.feed(.turnEnded)
      let ended = before - script.engine.gauges.held
      #expect(ended > 0 && ended <= Self.steps + sessions)
      turns += 1
    }
    #expect(turns <= sessions * 100 / Self.steps + 1)
    #expect(script.take().count == sessions * 100)
  }

  /// What its own wait needs ends first, whenever it comes to be held, and nothing else does.
  @Test func ofManyHoldsOfAHalfClosedSessionThoseThatItWaitsForEnd() {
    let script = script(2)
    for index in 0..<100 { script.acquire(alice, "x\(index)") }
    script.acquire(bob, "y")
    script.acquire(alice, all: ["x3", "x5", "y"])
    _ = script.take()
    for _ in 0..<2 {
      script.feed(.inputEnded(alice, isAnswered: false))
      _ = settle(script)
    }
    #expect(script.engine.gauges.held == 99 + 2)
    script.release(bob, "y")
    script.feed(.inputEnded(alice, isAnswered: false))
    _ = settle(script)
    #expect(script.take().contains { if case .reply(_, _, .acquiredAll) = $0 { true } else { false } })
    script.feed(.inputEnded(alice, isAnswered: true))
    while script.engine.gauges.held > 0 { script.feed(.inputEnded(alice, isAnswered: true)) }
  }

  /// However many wait before it, who comes is told where it stands, and the others are when that changes: some in each turn.
  @Test func manyWhoWantToHearOfTheirPlaceAreToldInSlices() {
    let script = script(3)
    script.acquire(alice)
    _ = script.take()
    for index in 1...200 {
      script.acquire(bob, progress: true)
      #expect(script.waits() == [index])
    }
    #expect(settle(script) <= 2)
    script.release(alice)
    _ = script.take()
    // Bob holds it now, and the other 199 have moved up.
    var places: [Int] = []
    var turns = 0
    while let next = script.engine.nextDeadline, turns < 1000 {
      script.now = max(script.now, next)
      script.feed(.timerFired)
      let told = script.waits()
      #expect(told.count <= Self.steps)
      places += told
      turns += 1
    }
    #expect(places == Array(1...199))
  }

  /// What is told to those who watch counts, too.
  @Test func eventsTakeAsManyStepsAsThereAreWhoWatch() {
    let script = script(2)
    for index in 0..<100 { script.acquire(bob, "x\(index)") }
    _ = script.take()
    script.feed(.watched(steps: 8))
    script.feed(.sessionClosed(bob))
    #expect(script.take().count <= 2)
    let turns = settle(script) { #expect($0.count <= 2) }
    #expect(turns >= 45)
    #expect(script.engine.gauges.held == 0)
    // Also where a half-closed session loses what it holds.
    for index in 0..<20 { script.acquire(alice, "x\(index)") }
    _ = script.take()
    while script.engine.gauges.held > 0 {
      let before = script.engine.gauges.held
      script.feed(.inputEnded(alice, isAnswered: true))
      #expect(before - script.engine.gauges.held <= 2 && before > script.engine.gauges.held)
    }
  }

  /// Who tries for a lock of somebody who is gone is not told that it is in use, although it still is being freed.
  @Test func aTryWaitsForASessionThatIsBeingClosed() {
    let script = script(3)
    for index in 0..<100 { script.acquire(bob, "x\(index)") }
    _ = script.take()
    script.feed(.sessionClosed(bob))
    script.acquire(alice, "x99", wait: 0)
    script.acquire(carol, "x98", wait: 0)
    #expect(script.take().isEmpty)
    var granted: [SessionID] = []
    _ = settle(script) { granted += $0.compactMap(\.grantedSession) }
    #expect(Set(granted) == [alice, carol])
    #expect(script.engine.snapshot(of: LockName("x1"), waitersMax: 0, now: script.now) == nil)
  }

  /// All readers behind a writer enter, in their order, and so many at a time.
  @Test func aLongQueueIsServedInSlices() {
    let script = script(2)
    script.acquire(alice)
    let readers = (0..<200).map { _ in script.acquire(bob, mode: .shared) }
    _ = script.take()
    script.release(alice)
    var served: [RequestID] = []
    var most = 0
    func note(_ effects: [Effect]) {
      let replies = effects.compactMap { if case .reply(bob, let request, .acquired) = $0 { request } else { nil } }
      most = max(most, replies.count)
      served += replies
    }
    note(script.take())
    _ = settle(script, eachTime: note)
    #expect(served == readers)
    #expect(most <= Self.steps)
  }

  @Test func manyTimeLimitsEndInSlices() {
    let script = script(2)
    script.acquire(alice)
    for _ in 0..<200 { script.acquire(bob, wait: 100) }
    _ = script.take()
    script.jump(milliseconds: 100)
    var most = 0
    var count = 0
    let turns = settle(script) { effects in
      most = max(most, effects.compactMap(\.refusal).count)
      count += effects.compactMap(\.refusal).count
    }
    #expect(count == 200)
    #expect(most <= Self.steps)
    #expect(turns >= 200 / Self.steps)
  }

  /// Two rows of owners, each of which waits for the whole next row: a search looks at each hold once, and is put off.
  @Test func aSearchForADeadlockGoesOnInTheNextTurns() {
    func turns(_ count: Int) -> Int {
      let script = script(4)
      for index in 0..<count {
        script.acquire(alice, "a", mode: .shared, owner: "\(index)")
        script.acquire(bob, "b", mode: .shared, owner: "\(index)")
      }
      script.acquire(carol, "c", owner: "z")
      for index in 0..<count { script.acquire(alice, "b", owner: "\(index)") }
      for index in 0..<count { script.acquire(bob, "c", owner: "\(index)") }
      _ = settle(script)
      #expect(script.take().compactMap(\.refusal).isEmpty)
      // Now it is closed: each of the first row is in a cycle with the last wait, which is the youngest.
      let last = script.acquire(carol, "a", owner: "z")
      var refused: [RequestID] = []
      func note(_ effects: [Effect]) {
        for case .reply(_, let request, .refused(.deadlock)) in effects { refused.append(request) }
      }
      note(script.take())
      let turns = settle(script, eachTime: note)
      #expect(refused == [last])
      return turns
    }
    let few = turns(50)
    #expect(turns(200) <= 5 * max(few, 1))
  }

  /// A session finds its hold by its token, and an owner its own, at once: with very many of one name this test would
  /// otherwise take minutes.
  @Test func manyHoldsOfOneNameAreFoundAtOnce() {
    let script = script(1)
    let count = 20_000
    for index in 0..<count { script.acquire(alice, mode: .shared, owner: "\(index)") }
    for index in 0..<count { script.acquire(alice, mode: .shared, owner: "\(index)") }
    #expect(script.engine.gauges.held == count)
    let tokens = script.take().compactMap(\.grantedToken)
    #expect(Array(tokens[..<count]) == Array(tokens[count...]))
    for token in tokens { script.release(alice, token: token) }
    #expect(script.take().compactMap(\.refusal).isEmpty)
    #expect(script.engine.recordCounts.holds == 0)
  }
}

extension Effect {
  /// Who is told that a hold is lost because the daemon stops.
  fileprivate var lossOf: SessionID? {
    if case .notify(let session, .lost(_, _, .shutdown, _, _, _)) = self { session } else { nil }
  }
}

extension Script {
  /// The places that were told since the last time.
  fileprivate func waits() -> [Int] {
    take().compactMap { effect in
      if case .notify(_, .waiting(_, _, let position, _, _)) = effect { position } else { nil }
    }
  }
}
