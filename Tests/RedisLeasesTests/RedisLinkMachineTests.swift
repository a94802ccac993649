import LockEngine
import LockTypes
import RESP
import Testing

@testable import RedisLeases

/// In which order commands go out, and how many.
@Suite struct RedisLinkOrderTests {
  @Test func whatHasRoomGoesOutWithinTheTurnAndIsNotTold() {
    var link = ScriptedLink.proven()
    link.acquire(1, "a", of: 1000)
    link.release(2, "b", of: 1000)
    link.renew(3, "c", "d")
    #expect(link.query(4, "GET x") == true)
    #expect(link.read() == ["acquire a", "release b", "renew c d", "GET x"])
    #expect(link.answer(4).words == ["1 replied", "2 replied", "3 replied", "query 4 answered"])
    #expect(link.read() == [])
  }

  @Test func aRenewalOvertakesWhatWaits() {
    var link = ScriptedLink.proven()
    link.fill()
    #expect(link.read().count == 1024)
    link.acquire(2001, "a", of: 77)
    link.renew(2002, "b")
    link.renew(2003, "c")
    #expect(link.read() == [])
    #expect(link.machine.waitingCount == 3)
    // Each tells when it is on its way, because only then its lease may begin.
    #expect(link.answer(2).words == ["1 replied", "2 replied", "2002 sent", "2003 sent"])
    #expect(link.answer().words == ["3 replied", "2001 sent"])
    #expect(link.read() == ["renew b", "renew c", "acquire a"])
    #expect(link.machine.waitingCount == 0)
  }

  @Test func whatTakesLeasesAgainGoesWithTheRenewals() {
    var link = ScriptedLink.proven()
    link.fill()
    link.read()
    link.acquire(2001, "a", of: 77)
    link.renew(2002, "b")
    link.reclaim(2003, "c", "d")
    #expect(link.answer(2).words == ["1 replied", "2 replied", "2002 sent", "2003 sent"])
    #expect(link.read() == ["renew b", "reclaim c d"])
  }

  /// Nothing else is of any use before the epoch is known, and whatever floods the link must not keep it from that.
  @Test func theEpochIsAskedForBeforeAllThatWaitsWhateverIsInFlight() {
    var link = ScriptedLink.proven()
    link.fill()
    link.read()
    link.acquire(2001, "a", of: 77)
    link.renew(2002, "b")
    #expect(link.read() == [])
    link.confirmEpoch(2003)
    #expect(link.machine.isUrgent)
    #expect(link.read() == ["confirm_epoch "])
    // It is nobody's share, and it is answered in its turn; what waited goes on as before.
    #expect(link.machine.waitingCount == 2)
    #expect(link.answer().words == ["1 replied"])
    #expect(link.answer().words == ["2 replied", "2002 sent"])
  }

  @Test func theEpochIsAskedForFirstOnANewConnection() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    link.confirmEpoch(1)
    #expect(!link.machine.hasOutput)
    link.beginHandshake()
    Array(ScriptedLink.subscribed.utf8).withUnsafeBytes {
      link.machine.received($0, from: link.number, now: link.now)
    }
    #expect(link.machine.nextEvent(now: link.now)?.words == "up")
    link.confirmEpoch(2)
    link.acquire(3, "a")
    #expect(link.events() == [])
    #expect(link.read() == ["confirm_epoch ", "acquire a"])
  }

  @Test func whatIsAboutOneLockKeepsItsOrderWhoeverAsks() {
    var link = ScriptedLink.proven()
    link.fill()
    link.read()
    link.acquire(2001, "a", of: 10)
    link.acquire(2002, "b", of: 10)
    link.release(2003, "x", of: 10)
    link.acquire(2004, "x", of: 20)
    link.acquire(2005, "y", of: 20)
    _ = link.answer(5)
    #expect(link.read() == ["acquire a", "acquire y", "acquire b", "release x", "acquire x"])
  }

  @Test func nothingPassesWhatWaits() {
    var link = ScriptedLink.proven()
    for id in 1...256 { link.acquire(UInt64(id), "f\(id)", of: 1000) }
    link.acquire(2001, "a", of: 1000)
    link.acquire(2002, "b", of: 1000)
    #expect(link.read().count == 256)
    // Who has his share in flight waits alone: there is room for everybody else.
    link.acquire(2003, "c", of: 1001)
    #expect(link.read() == ["acquire c"])
    // But not for what comes behind his in the order of a lock.
    link.acquire(2004, "a", of: 1001)
    #expect(link.read() == [])
    #expect(link.answer().words == ["1 replied", "2001 sent"])
    #expect(link.answer(2).words == ["2 replied", "3 replied", "2002 sent", "2004 sent"])
    #expect(link.read() == ["acquire a", "acquire b", "acquire a"])
  }

  @Test func theWindowIsFullAtItsLimitAndNotBefore() {
    var link = ScriptedLink.proven()
    for id in 1...UInt64(1023) { link.acquire(id, "f\(id)", of: 1 + UInt32((id - 1) / 256)) }
    link.acquire(1024, "last", of: 9)
    link.acquire(1025, "waits", of: 9)
    #expect(link.read().count == 1024)
    #expect(link.machine.waitingCount == 1)
    link.renew(1026, "r")
    #expect(link.read() == [])
    #expect(link.machine.waitingCount == 2)
  }

  @Test func theDaemonItselfHasHalfOfTheWindow() {
    var link = ScriptedLink.proven()
    for id in 1...UInt64(513) { link.acquire(id, "f\(id)") }
    #expect(link.read().count == 512)
    link.acquire(2000, "a", of: 1000)
    link.renew(2001, "b")
    #expect(link.read() == ["acquire a", "renew b"])
  }

  @Test func aHeavyQueryTakesTheRoomOfMany() {
    var link = ScriptedLink.proven()
    #expect(link.query(1, "SCAN 0", of: 1000, weight: 256) == true)
    #expect(link.query(2, "SCAN 1", of: 1000, weight: 256) == true)
    #expect(link.read() == ["SCAN 0"])
    #expect(link.answer().words == ["query 1 answered"])
    #expect(link.read() == ["SCAN 1"])
  }

  /// What is submitted while replies are taken may go out with what waited; its own lease counts from within the turn.
  @Test func onlyThoseThatHadToWaitAreTold() {
    var link = ScriptedLink.proven()
    link.fill()
    link.read()
    let wire = link.asked.prefix(2).map(\.answer).joined()
    Array(wire.utf8).withUnsafeBytes { link.machine.received($0, from: link.number, now: link.now) }
    #expect(link.machine.nextEvent(now: link.now)?.words == "1 replied")
    link.acquire(2001, "a", of: 77)
    #expect(link.events().words == ["2 replied"])
    #expect(link.read() == ["acquire a"])
  }

  @Test func onlyAReleaseIsNotUrgent() {
    var link = ScriptedLink.proven()
    link.release(1, "a")
    #expect(!link.machine.isUrgent)
    link.acquire(2, "b")
    #expect(link.machine.isUrgent)
    link.read()
    #expect(!link.machine.isUrgent)
    link.renew(3, "b")
    #expect(link.machine.isUrgent)
    link.read()
    #expect(link.query(4, "GET x") == true)
    #expect(link.machine.isUrgent)
    // What had to wait has waited long enough.
    link = .proven()
    link.fill()
    link.release(2001, "a", of: 77)
    link.read()
    #expect(!link.machine.isUrgent)
    #expect(link.answer().words == ["1 replied", "2001 sent"])
    #expect(link.machine.isUrgent)
  }

  @Test func aScriptThatRedisHasLostIsUrgent() {
    var link = ScriptedLink.proven()
    link.acquire(1, "a")
    link.read()
    #expect(link.hear("-NOSCRIPT No matching script.\r\n").words == [])
    #expect(link.machine.isUrgent)
    #expect(link.read().count == 2)
    #expect(
      link.hear("$40\r\n\(String(repeating: "0", count: 40))\r\n*4\r\n+granted\r\n:7\r\n:9\r\n:0\r\n").words == [
        "1 replied"
      ])
  }
}

/// One connection after the other.
@Suite struct RedisLinkConnectionTests {
  @Test func theHandshakeComesFirst() {
    var link = ScriptedLink()
    #expect(!link.machine.isReady && !link.machine.isConnected && link.machine.downReason == "not connected yet")
    #expect(link.machine.start() == 1)
    #expect(link.machine.start() == nil)
    link.number = 1
    link.acquire(1, "a")
    #expect(link.query(2, "PING") == false)
    #expect(!link.machine.hasOutput)
    link.connect()
    #expect(link.machine.isConnected && !link.machine.isReady && link.machine.hasOutput)
    #expect(link.query(3, "PING") == false)
    #expect(link.hear(ScriptedLink.replies(run: 10_000_001)) == [])
    link.machine.drainOutput { _ in }
    #expect(link.hear(ScriptedLink.subscribed) == [.up(ScriptedLink.info(run: 10_000_001))])
    #expect(link.machine.isReady && link.machine.downReason == nil && !link.machine.hasAnswered)
  }

  @Test func aConnectionIsAskedForASignOfLifeIfNothingElseIsAsked() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    _ = link.up()
    #expect(link.read() == ["PING"])
    #expect(link.answer().words == ["proved"])
    #expect(link.machine.hasAnswered)

    _ = link.end()
    link.beginHandshake()
    Array(ScriptedLink.subscribed.utf8).withUnsafeBytes {
      link.machine.received($0, from: link.number, now: link.now)
    }
    #expect(link.machine.nextEvent(now: link.now)?.words == "up")
    #expect(!link.machine.hasAnswered)
    link.acquire(1, "a")
    #expect(link.events() == [])
    #expect(link.read() == ["acquire a"])
    #expect(link.answer().words == ["1 replied", "proved"])
  }

  @Test func theNextConnectionEndsTheOneBefore() {
    var link = ScriptedLink.proven()
    _ = link.end()
    link.connect()
    link.read()
    // It is the same run of the server.
    #expect(link.hear(ScriptedLink.replies(run: 10_000_001)) == [])
    #expect(link.read() == ["CLIENT KILL ID 8", "SUBSCRIBE sl:inbox:a/1f"])
    let events = link.hear(":1\r\n" + ScriptedLink.subscribed)
    #expect(events == [.up(ScriptedLink.info(run: 10_000_001, previousClient: .killed))])
  }

  @Test func aConnectionThatIsClosedBeforeItProvedGoodIsTheFaultOfItsAddress() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    #expect(link.machine.closed(link.number) == nil)
    link.connect()
    #expect(link.machine.closed(link.number)?.isAddressToBlame == true)
    link.beginHandshake()
    #expect(link.machine.closed(link.number)?.isAddressToBlame == true)
    _ = link.hear(ScriptedLink.subscribed)
    #expect(link.machine.closed(link.number)?.isAddressToBlame == true)
    link.machine.drainOutput { _ in }
    _ = link.hear("+PONG\r\n")
    #expect(link.machine.closed(link.number)?.isAddressToBlame == false)
    // A message proves nothing.
    _ = link.end()
    _ = link.up()
    #expect(link.hear(ScriptedLink.message("x")).words == ["message x"])
    #expect(link.machine.closed(link.number)?.isAddressToBlame == true)
  }

  @Test func whatAnEarlierConnectionTellsIsNotHeard() {
    var link = ScriptedLink.proven()
    let old = link.number
    let outage = link.machine.ended(old, reason: "gone", isRoundOver: true, random: 0)
    #expect(outage?.wasReady == true && link.machine.downReason == "gone")
    // It is over once.
    #expect(link.machine.ended(old, reason: "again", isRoundOver: true, random: 0) == nil)
    #expect(link.machine.closed(old) == nil && link.machine.downReason == "gone")
    #expect(link.hear("+PONG\r\n") == [])
    #expect(link.checkLiveness() == nil)
    link.number = link.machine.retryDue(old) ?? 0
    #expect(link.number > old)
    #expect(link.machine.retryDue(old) == nil)
    #expect(link.machine.connected(old, handshakeMilliseconds: 1, now: link.now) == false)
    _ = link.up()
    "-READONLY no\r\n".utf8.withContiguousStorageIfAvailable {
      link.machine.received(UnsafeRawBufferPointer($0), from: old, now: link.now)
    }
    #expect(link.events() == [])
    #expect(link.machine.isReady)
    #expect(link.machine.ended(old, reason: "again", isRoundOver: true, random: 0) == nil)
    #expect(link.machine.isReady)
  }

  @Test func aRefusedHandshakeEndsTheConnection() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    link.connect()
    let events = link.hear("-WRONGPASS no\r\n")
    guard case .ended(let ending)? = events.first, events.count == 1 else {
      Issue.record("\(events)")
      return
    }
    #expect(ending.isAddressToBlame && ending.reason.contains("refused the password"))
    #expect(link.machine.ended(link.number, reason: ending.reason, isRoundOver: true, random: 0)?.wasReady == false)
  }

  @Test func aServerThatIsNoPrimaryAnyMoreIsLeftBehindWhatCameWithIt() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    _ = link.up()
    link.read()
    link.acquire(1, "a")
    link.acquire(2, "b")
    link.acquire(3, "c")
    let events = link.hear("+PONG\r\n-READONLY You can't write against a read only replica.\r\n:5\r\n")
    // It has proved good for nothing.
    #expect(
      events.words == [
        "acquire refused", "1 failed", "2 failed", "ended: the server is not the primary any more",
      ])
    #expect(events.last == .ended(.init(reason: "the server is not the primary any more", isAddressToBlame: true)))
    #expect(!link.machine.hasAnswered)
    #expect(link.end()?.wasReady == true)
  }

  @Test func aRefusalIsToldBeforeItsReply() {
    var link = ScriptedLink.proven()
    #expect(link.query(1, "GET x") == true)
    let events = link.hear("-BUSY no\r\n")
    #expect(
      events == [.refused(Array("BUSY no".utf8), command: "get"), .answered(1, .simpleError(Array("BUSY no".utf8)))])
  }

  @Test func afterTheStopNothingComes() {
    var link = ScriptedLink.proven()
    link.acquire(1, "a")
    link.read()
    let number = link.number
    Array("*4\r\n+granted\r\n:7\r\n:9\r\n:0\r\n:1\r\n".utf8).withUnsafeBytes {
      link.machine.received($0, from: number, now: link.now)
    }
    link.machine.stop()
    #expect(link.events() == [])
    #expect(!link.machine.hasOutput)
    #expect(!link.machine.isReady)
    #expect(!link.machine.isConnected)
    #expect(link.machine.ended(number, reason: "x", isRoundOver: true, random: 0) == nil)
    #expect(link.machine.retryDue(number) == nil)
    #expect(link.checkLiveness() == nil)
  }
}

/// How long the link waits before it connects again.
@Suite struct RedisLinkBackoffTests {
  private func pauses(_ count: Int, random: UInt64) -> [Int64] {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    return (0..<count).compactMap { _ in link.end(random: random)?.retryMilliseconds }
  }

  @Test func pausesDoubleUpToALimitAndHaveJitter() {
    #expect(pauses(8, random: 0) == [25, 50, 100, 200, 400, 800, 1000, 1000])
    #expect(pauses(8, random: 26 * 51 * 101 * 201 * 401 * 801 * 1001 - 1).allSatisfy { $0 >= 25 && $0 <= 2000 })
    for seed in [UInt64.max, 1, 0x9e37_79b9_7f4a_7c15] {
      for (pause, ceiling) in zip(
        pauses(20, random: seed), [50, 100, 200, 400, 800, 1600] + Array(repeating: 2000, count: 14))
      {
        #expect(pause >= Int64(ceiling / 2) && pause <= Int64(ceiling))
      }
    }
    // Both ends are reached.
    #expect(pauses(1, random: 25) == [50] && pauses(1, random: 26) == [25])
  }

  @Test func whereAnotherAddressIsLeftThereIsNoPause() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    for _ in 0..<5 {
      let outage = link.machine.ended(link.number, reason: "no", isRoundOver: false, random: 7)
      #expect(outage?.retryMilliseconds == 0)
      link.number = link.machine.retryDue(outage?.number ?? 0) ?? 0
    }
    #expect(link.end()?.retryMilliseconds == 25)
  }

  @Test func pausesEndWithTheFirstAnsweredCommandAndNotWithTheHandshake() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    #expect((0..<3).map { _ in link.end()?.retryMilliseconds } == [25, 50, 100])
    // A server that takes connections and carries nothing out.
    _ = link.up()
    _ = link.hear(ScriptedLink.message("x"))
    #expect(link.end()?.retryMilliseconds == 200)
    _ = link.up()
    link.read()
    #expect(link.answer().words == ["proved"])
    #expect((0..<2).map { _ in link.end()?.retryMilliseconds } == [25, 50])
  }
}

/// Whether the server lives.
@Suite struct RedisLinkLivenessTests {
  private let silent = RedisLinkMachine.Ending(reason: "no answer within 1000 ms", isAddressToBlame: true)

  @Test func aServerThatPushesAndAnswersNothingIsNotAlive() {
    var link = ScriptedLink.proven()
    link.acquire(1, "a")
    for _ in 0..<9 {
      link.pass(milliseconds: 100)
      #expect(link.hear(ScriptedLink.message("granted 1 7 9 0 a")).count == 1)
      #expect(link.checkLiveness() == nil)
    }
    link.pass(milliseconds: 99)
    #expect(link.hear(">2\r\n+invalidate\r\n_\r\n") == [])
    #expect(link.checkLiveness() == nil)
    link.pass(milliseconds: 1)
    #expect(link.checkLiveness() == silent)
  }

  @Test func eachAnswerIsASignOfLife() {
    var link = ScriptedLink.proven()
    for id in 1...4 { link.acquire(UInt64(id), "a\(id)") }
    link.read()
    for _ in 0..<3 {
      link.pass(milliseconds: 999)
      #expect(link.checkLiveness() == nil)
      #expect(link.answer().count == 1)
    }
    link.pass(milliseconds: 999)
    #expect(link.checkLiveness() == nil)
    link.pass(milliseconds: 1)
    #expect(link.checkLiveness() == silent)
  }

  @Test func silenceCountsFromWhenSomethingWasAsked() {
    var link = ScriptedLink.proven()
    link.pass(milliseconds: 10_000)
    link.acquire(1, "a")
    #expect(link.checkLiveness() == nil)
    link.pass(milliseconds: 600)
    // What is asked beside it puts nothing off.
    link.acquire(2, "b")
    link.pass(milliseconds: 400)
    #expect(link.checkLiveness() == silent)
  }

  @Test func whereAnswersTakeLongTheyMay() {
    var link = ScriptedLink.proven()
    link.acquire(1, "a")
    link.pass(milliseconds: 2999)
    #expect(link.checkLiveness(answerMilliseconds: 3000) == nil)
    link.pass(milliseconds: 1)
    #expect(link.checkLiveness(answerMilliseconds: 3000)?.reason == "no answer within 3000 ms")
    link.machine.timeoutMilliseconds = 5000
    #expect(link.checkLiveness(answerMilliseconds: 3000) == nil)
  }

  @Test func anIdleConnectionIsAskedAndEndsIfItDoesNotAnswer() {
    var link = ScriptedLink.proven()
    link.pass(milliseconds: RedisLinkMachine.idleMillisecondsMax - 1)
    #expect(link.checkLiveness() == nil)
    #expect(link.read() == [])
    link.pass(milliseconds: 1)
    #expect(link.checkLiveness() == nil)
    #expect(link.read() == ["PING"])
    link.pass(milliseconds: 999)
    #expect(link.checkLiveness() == nil)
    #expect(link.read() == [])
    link.pass(milliseconds: 1)
    #expect(link.checkLiveness() == silent)
  }

  @Test func aHandshakeHasItsOwnTime() {
    var link = ScriptedLink()
    link.number = link.machine.start() ?? 0
    #expect(link.checkLiveness() == nil)
    link.connect()
    link.pass(milliseconds: ScriptedLink.handshakeMilliseconds - 1)
    #expect(link.checkLiveness() == nil)
    // A push before the subscription is no answer either.
    #expect(link.hear(ScriptedLink.message("x")) == [])
    link.pass(milliseconds: 1)
    #expect(
      link.checkLiveness() == .init(reason: "no answer to the handshake within 1200 ms", isAddressToBlame: true))
  }
}
