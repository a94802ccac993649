import LockEngine
import LockTypes
import NIOCore
import Testing

@testable import Sidecar

/// What a turn sends, and in which order: `SidecarCore.endTurn`.
@Suite struct TurnOrderTests {
  /// Each write wakes a process that competes for the processor, and who waits for a lock comes first.
  @Test func grantsGoOutBeforeOtherReplies() throws {
    let host = try TestSidecar(isLocal: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.ping(id: 1)
    try b.acquire("x")
    host.endTurn()
    #expect(host.journal.lines == ["b: result 1", "a: result 1"])
  }

  @Test func aTurnIsOneWriteToEachClientAndTwoToTheStore() throws {
    let host = try TestSidecar()
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.ping(id: 1)
    try b.acquire("x", id: 1)
    try a.ping(id: 2)
    try a.acquire("y", id: 3)
    #expect(host.journal.lines == [])
    host.endTurn()
    #expect(host.journal.lines == ["store: acquire x, acquire y", "a: result 1, result 2"])
  }

  /// Behind grants, and before replies that free nobody, go commands that somebody waits for.
  @Test func urgentCommandsGoOutBehindGrantsAndBeforeOtherReplies() throws {
    let host = try TestSidecar()
    let (a, b, c) = (try host.connect("a"), try host.connect("b"), try host.connect("c"))
    try a.acquire("x")
    host.endTurn()
    host.journal.lines = []
    try b.ping(id: 1)
    try c.acquire("y")
    try host.grant("x")
    host.endTurn()
    #expect(host.journal.lines == ["a: result 1", "store: acquire y", "b: result 1"])
  }

  /// One write, and one wake of the store, for the two.
  @Test func aReleaseThatNobodyWaitsForGoesOutWithTheNextTurnsCommands() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try host.hold("x", by: a)
    try a.release("x", id: 2)
    host.endTurn()
    #expect(host.journal.lines == ["a: result 2"])
    try a.acquire("y", id: 3)
    host.endTurn()
    #expect(host.journal.lines == ["a: result 2", "store: release x, acquire y"])
  }

  /// It waits for no command: the end of the next turn takes it along, behind the replies.
  @Test func aReleaseThatNobodyWaitsForGoesOutWithTheNextTurn() throws {
    let host = try TestSidecar()
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try host.hold("x", by: a)
    try a.release("x", id: 2)
    host.endTurn()
    try b.ping(id: 1)
    host.endTurn()
    #expect(host.journal.lines == ["a: result 2", "b: result 1", "store: release x"])
  }

  @Test func aReleaseThatNothingFollowsGoesOutAfterAMillisecond() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try host.hold("x", by: a)
    try a.release("x", id: 2)
    host.endTurn()
    #expect(host.core.nextDeadline == host.clock.hostClock.now().adding(milliseconds: 1))
    host.timerFires()
    #expect(host.journal.lines == ["a: result 2", "store: release x"])
    #expect(host.core.nextDeadline != host.clock.hostClock.now().adding(milliseconds: 1))
  }

  /// The other host's client waits for it, and its reply to ours frees nobody.
  @Test func aReleaseThatAnotherHostWaitsForGoesOutBeforeReplies() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    guard case .acquire(let name, let attempt, _, _, _, _, _, _, _) = host.store.sent.last?.command else {
      Issue.record("nothing was asked for")
      return
    }
    host.core.heard(.push(.contended(name: name, attempt: attempt, ask: 7, isTry: false, inbox: "b/1")))
    host.endTurn()
    host.journal.lines = []
    try a.release("x", id: 2)
    host.endTurn()
    #expect(host.journal.lines == ["store: release x", "a: result 2"])
    // That was about one turn only.
    try a.acquire("y", id: 3)
    host.endTurn()
    try host.grant("y")
    host.endTurn()
    host.journal.lines = []
    try a.release("y", id: 4)
    host.endTurn()
    #expect(host.journal.lines == ["a: result 4"])
  }

  /// What came due before a question is told before its answer: after a pause of the host nothing is shown as held that is lost.
  @Test func whatIsLostIsToldBeforeAQuestionIsAnswered() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try host.grant("x")
    host.endTurn()
    host.journal.lines = []
    host.clock.advance(milliseconds: 60_000)
    try a.ping(id: 2)
    host.endTurn()
    #expect(host.journal.lines.filter { $0.hasPrefix("a") } == ["a: lost, result 2"])
  }

  /// A command counts for whoever caused it, and for nobody when it is the host's own.
  @Test func aCommandWaitsInTheRowOfWhoeverCausedIt() throws {
    let host = try TestSidecar()
    let a = try host.connect("a", uid: 1001)
    let b = try host.connect("b", uid: 1002)
    try a.acquire("x")
    try b.acquire("y")
    host.endTurn()
    try host.grant("x")
    host.clock.advance(milliseconds: 4000)
    host.timerFires()
    let users = host.store.sent.suffix(3).map(\.user)
    #expect(users == [1001, 1002, nil])
    guard case .renew = host.store.sent.last?.command else {
      Issue.record("nothing was renewed")
      return
    }
  }

  /// A lease counts from when its command was sent, and that can be long after it was submitted when the window is full.
  @Test func aLeaseCountsFromWhenItsCommandLeftTheWindow() throws {
    let host = try TestSidecar()
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    host.clock.advance(milliseconds: 5000)
    let command = try #require(host.store.sent.last)
    host.core.heard(.sent(command.id))
    host.clock.advance(milliseconds: 100)
    try host.grant("x")
    host.endTurn()
    #expect(a.text.contains(#""valid_ms":8400"#))
  }

  @Test func theTimesOfATurnAreOfTheClockThatWasPassed() throws {
    let host = try TestSidecar(isLocal: true)
    let a = try host.connect("a")
    try a.ping(id: 1)
    host.clock.advance(milliseconds: 77)
    host.endTurn()
    #expect(host.core.turns.counts[6] == 1)
  }
}

/// What is in the memory that outlives the process when something leaves it: `SessionKeeper.commit`.
@Suite struct KeptTurnTests {
  @Test func nothingLeavesBeforeItIsKept() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    let a = try host.connect("a")
    host.endTurn()
    var seen: [(held: [String], outputs: Int)] = []
    host.journal.onLine = { [weak host] in
      guard let kept = try? host?.kept() else { return }
      seen.append((kept.engine.heldNames, kept.outputs.count))
    }
    try a.acquire("x")
    host.endTurn()
    #expect(seen.map(\.held) == [["x"]])
    // The reply itself, too, or who asked would never hear of it.
    #expect(seen.map(\.outputs) == [1])
    // It was handed over, and is not sent twice.
    #expect(try host.kept().outputs.count == 0)
  }

  @Test func noCommandLeavesBeforeTheWaitIsKept() throws {
    let host = try TestSidecar(keeping: true)
    let a = try host.connect("a")
    host.endTurn()
    var sessions: [Int] = []
    var waiting: [Int] = []
    host.journal.onLine = { [weak host] in
      guard let kept = try? host?.kept() else { return }
      sessions.append(kept.sessions.count)
      waiting.append(kept.engine.waitingRequests.count)
    }
    try a.acquire("x")
    host.endTurn()
    #expect(host.journal.lines == ["store: acquire x"])
    #expect(sessions == [1])
    #expect(waiting == [1])
  }

  /// A process that is killed between two writes was told of the first: so they are noted in the order of the writes.
  @Test func outputIsNotedInTheOrderInWhichItIsSent() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.acquire("x")
    try b.acquire("y")
    host.endTurn()
    var noted: [[UInt64]] = []
    host.journal.onLine = { [weak host] in
      if let kept = try? host?.kept() { noted.append(kept.outputs.map { $0.session.rawValue }) }
    }
    try a.ping(id: 2)
    try b.acquire("z", id: 2)
    host.endTurn()
    #expect(host.journal.lines.suffix(2) == ["b: result 2", "a: result 2"])
    #expect(noted == [[2, 1], [1]])
  }

  /// Half a line is what its client will go on with, at the daemon that follows, too.
  @Test func inputThatIsNoRequestYetIsKept() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try a.channel.writeInbound(ByteBuffer(string: #"{"id":2,"#))
    host.endTurn()
    #expect(
      try host.kept().sessions.values.map { String(decoding: $0.framer.partial, as: UTF8.self) } == [#"{"id":2,"#])
  }

  @Test func aSessionThatIsGoneIsNotKept() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    #expect(try host.kept().sessions.count == 1)
    a.channel.close(promise: nil)
    host.endTurn()
    #expect(try host.kept().sessions.count == 0)
    #expect(try host.kept().engine.heldNames == [])
  }

  /// Who has nothing to lose costs the service manager nothing, from the second look on.
  @Test func whoHasHadNothingForAWhileIsKeptNoMore() throws {
    let host = try TestSidecar(isLocal: true, keeping: true, managerReads: true)
    let a = try host.connect("a")
    try a.acquire("x")
    host.endTurn()
    try a.release("x", id: 2)
    host.endTurn()
    let keeper = try #require(host.core.keeper)
    #expect(keeper.clients.count == 1)
    host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds))
    #expect(keeper.clients.count == 1)
    host.loop.advanceTime(by: .milliseconds(SessionKeeper.sweepMilliseconds))
    #expect(keeper.clients.count == 0)
    #expect(try host.kept().sessions.count == 0)
  }

  /// Others can have a session looked at in every turn: what it has begun to send is not written down each time.
  @Test func halfALineIsWrittenDownWhenItGrows() throws {
    let host = try TestSidecar(isLocal: true, keeping: true)
    let (a, b) = (try host.connect("a"), try host.connect("b"))
    try a.acquire("x")
    try a.send(#"{"id":2,"method":"watch","params":{"name":"y"}}"#)
    host.endTurn()
    let session = try #require(host.core.sessions[SessionID(1)])
    func kept() throws -> [UInt8]? { try host.kept().sessions[SessionID(1)]?.framer.partial }
    func send(_ text: String) throws {
      try a.channel.writeInbound(ByteBuffer(string: text))
      #expect(session.mustBeWritten)
      host.endTurn()
      #expect(!session.mustBeWritten)
    }
    try send(#"{"id":3,"meth"#)
    #expect(try kept() == Array(#"{"id":3,"meth"#.utf8))
    try b.acquire("y")
    #expect(!session.mustBeWritten)
    host.endTurn()
    #expect(a.text.contains(#""method":"event""#) && !session.mustBeWritten)
    try send("od")
    #expect(try kept() == Array(#"{"id":3,"method"#.utf8))
    try send("\":\"ping\"}\n")
    #expect(try kept() == [] && a.text.contains(#""id":3"#))
  }
}
