import Testing

@testable import SystemdSupport

@Suite struct NotifyOutboxTests {
  @Test func nothingToSay() {
    var outbox = NotifyOutbox()
    #expect(outbox.next(now: 0) == .idle)
  }

  @Test func readyCarriesItsStatus() {
    var outbox = NotifyOutbox()
    outbox.ready(status: "Serving")
    #expect(outbox.next(now: 5) == .send("READY=1\nSTATUS=Serving"))
    #expect(outbox.next(now: 5) == .idle)
  }

  @Test func orderIsReadyStoppingWatchdogStatus() {
    var outbox = NotifyOutbox()
    outbox.watchdogTicked()
    outbox.stopping(status: "b")
    outbox.ready(status: "a")
    #expect(outbox.next(now: 0) == .send("READY=1\nSTOPPING=1\nWATCHDOG=1\nSTATUS=a"))
  }

  @Test func latestStatusIsSentWhenASecondHasPassed() {
    var outbox = NotifyOutbox()
    outbox.status("1")
    #expect(outbox.next(now: 100) == .send("STATUS=1"))
    outbox.status("2")
    #expect(outbox.next(now: 101) == .wait(milliseconds: 999))
    outbox.status("3")
    #expect(outbox.next(now: 1099) == .wait(milliseconds: 1))
    #expect(outbox.next(now: 1100) == .send("STATUS=3"))
    #expect(outbox.next(now: 1100) == .idle)
  }

  @Test func sameStatusIsNotSentAgain() {
    var outbox = NotifyOutbox()
    outbox.status("1")
    #expect(outbox.next(now: 0) == .send("STATUS=1"))
    outbox.status("1")
    #expect(outbox.next(now: 5000) == .idle)
  }

  @Test func statusThatChangesBackIsNotSent() {
    var outbox = NotifyOutbox()
    outbox.status("1")
    _ = outbox.next(now: 0)
    outbox.status("2")
    outbox.status("1")
    #expect(outbox.next(now: 5000) == .idle)
  }

  @Test func watchdogDoesNotWaitForTheStatus() {
    var outbox = NotifyOutbox()
    outbox.status("1")
    _ = outbox.next(now: 0)
    outbox.status("2")
    outbox.watchdogTicked()
    #expect(outbox.next(now: 1) == .send("WATCHDOG=1"))
    #expect(outbox.next(now: 1) == .wait(milliseconds: 999))
  }

  @Test func stoppingIsNotHeldBack() {
    var outbox = NotifyOutbox()
    outbox.status("1")
    _ = outbox.next(now: 0)
    outbox.status("2")
    outbox.stopping(status: "Stopping")
    #expect(outbox.next(now: 1) == .send("STOPPING=1\nSTATUS=Stopping"))
  }

  @Test func ticksThatWaitAreOneTick() {
    var outbox = NotifyOutbox()
    for _ in 0..<1000 { outbox.watchdogTicked() }
    #expect(outbox.next(now: 0) == .send("WATCHDOG=1"))
    #expect(outbox.next(now: 0) == .idle)
  }

  @Test func statusCannotSmuggleInAnotherAssignment() {
    var outbox = NotifyOutbox()
    outbox.status("a\nMAINPID=1\r\u{85}b")
    #expect(outbox.next(now: 0) == .send("STATUS=a MAINPID=1  b"))
  }

  @Test func statusIsCutAtACharacter() {
    var outbox = NotifyOutbox()
    outbox.status(String(repeating: "a", count: 2047) + "é")
    #expect(outbox.next(now: 0) == .send("STATUS=" + String(repeating: "a", count: 2047)))
  }
}
