import Glibc
import SidelockClient
import Testing

@testable import sidelock

/// Scripts of facts and what is to be done. Times are milliseconds.
struct SupervisorTests {
  static let notice = LostNotice(name: "x", token: 1, reason: "lease_expired", graceMilliseconds: 2000)
  static let cut = SidelockError(reason: .connectionLost, message: "the connection ended")

  /// A supervisor that waits since time 0.
  func waiting(_ wait: Int64? = nil, conflict: Int32 = 1, loudness: WaitNews.Loudness = .quiet) -> Supervisor {
    Supervisor(
      options: .init(name: "x", conflictExitCode: conflict, waitMilliseconds: wait, loudness: loudness), now: 0)
  }

  /// A supervisor whose command runs since time 0. `valid`: for how long its lease of `lease` was told to be valid.
  func running(
    valid: Int64? = nil, lease: Int64 = 10_000, termGrace: Int64 = 10_000, maxHold: Int64? = nil,
    onLost: LossReaction = .terminate
  ) -> Supervisor {
    var machine = Supervisor(
      options: .init(name: "x", termGraceMilliseconds: termGrace, maxHoldMilliseconds: maxHold, onLost: onLost),
      now: 0)
    #expect(machine.handle(.greeted(leaseMilliseconds: valid.map { _ in lease }), now: 0) == [])
    #expect(
      machine.handle(.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: valid), now: 0) == [.confirm])
    #expect(!machine.mayStart)
    #expect(machine.handle(.checked(validMilliseconds: valid), now: 0) == [.spawn])
    #expect(machine.mayStart)
    #expect(machine.handle(.spawned, now: 0) == [])
    return machine
  }

  func withoutWords(_ effects: [Supervisor.Effect]) -> [Supervisor.Effect] {
    effects.filter { if case .say = $0 { false } else { $0 != .sayServiceState } }
  }

  // MARK: The usual course

  @Test func theLockIsReleasedWhenTheCommandHasEndedAndItsStatusKept() {
    var machine = running()
    #expect(machine.handle(.commandExited(status: 7), now: 5) == [.takeTerminal, .release])
    #expect(machine.handle(.released, now: 6) == [.takeTerminal, .exit(7)])
  }

  @Test func aCommandThatASignalEndedGives128AndTheSignal() {
    var machine = running()
    #expect(machine.handle(.commandKilled(signal: SIGKILL, terminal: .other), now: 5) == [.takeTerminal, .release])
    #expect(machine.handle(.released, now: 6) == [.takeTerminal, .exit(137)])
  }

  @Test func weDieOfTheSignalThatWePassedOn() {
    var machine = running()
    #expect(machine.handle(.signalled(SIGTERM), now: 1) == [.signalGroup(SIGTERM)])
    _ = machine.handle(.commandKilled(signal: SIGTERM, terminal: .other), now: 5)
    #expect(machine.handle(.released, now: 6) == [.takeTerminal, .dieOf(SIGTERM)])
  }

  @Test func ctrlCAtTheCommandReachesOurGroupToo() {
    var machine = running()
    _ = machine.handle(.commandKilled(signal: SIGINT, terminal: .command), now: 5)
    #expect(machine.handle(.released, now: 6) == [.takeTerminal, .signalOwnGroup(SIGINT), .dieOf(SIGINT)])
  }

  @Test func aDaemonThatDoesNotConfirmTheReleaseIsNotWaitedForForEver() {
    var machine = running()
    _ = machine.handle(.commandExited(status: 0), now: 5)
    #expect(machine.deadline == 2005)
    #expect(machine.handle(.timerFired, now: 2004) == [])
    #expect(withoutWords(machine.handle(.timerFired, now: 2005)) == [.takeTerminal, .exit(0)])
  }

  @Test func aLossAfterTheCommandHasEndedDoesNotChangeItsStatus() {
    var machine = running()
    _ = machine.handle(.commandExited(status: 3), now: 5)
    #expect(machine.handle(.lost(Self.notice), now: 6) == [.takeTerminal, .exit(3)])
    #expect(machine.handle(.released, now: 7) == [])
  }

  @Test(arguments: [126, 127] as [Int32])
  func aCommandThatCannotBeStartedFreesTheLock(status: Int32) {
    var machine = waiting()
    _ = machine.handle(.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: nil), now: 0)
    _ = machine.handle(.checked(validMilliseconds: nil), now: 0)
    let effects = machine.handle(.spawnFailed(status: status, problem: "no"), now: 1)
    #expect(effects == [.say("no"), .takeTerminal, .release])
    #expect(machine.handle(.released, now: 2) == [.takeTerminal, .exit(status)])
  }

  // MARK: Not acquired

  @Test(arguments: [SidelockError.Reason.busy, .timeout])
  func aConflictGivesItsOwnStatusAndSaysWhoHasTheLock(reason: SidelockError.Reason) {
    var machine = waiting(conflict: 9, loudness: .usual)
    let refusal = Supervisor.Event.refused(SidelockError(reason: reason, message: ""))
    #expect(machine.handle(refusal, now: 0) == [.inspect("x")])
    var silent = machine
    let effects = machine.handle(.inspected(name: "x", WaitNewsTests.lock), now: 1)
    #expect(effects.last == .exit(9))
    guard case .say(let words) = effects.first else { return #expect(Bool(false), "\(effects)") }
    #expect(words.hasPrefix("x: \(reason)") && words.hasSuffix("held by 4711 (pg_dump) on db1 for 3 min"), "\(words)")
    // Nobody waits for ever to be told why.
    #expect(silent.deadline == Supervisor.explainMilliseconds)
    #expect(silent.handle(.timerFired, now: Supervisor.explainMilliseconds).last == .exit(9))
  }

  @Test(arguments: [SidelockError.Reason.busy, .timeout])
  func aQuietConflictIsToldByTheStatusAlone(reason: SidelockError.Reason) {
    var machine = waiting(conflict: 9)
    #expect(machine.handle(.refused(SidelockError(reason: reason, message: "")), now: 0) == [.exit(9)])
  }

  @Test(
    arguments: [
      (.unavailable, 5, ExitStatus.noRedis), (.shuttingDown, 8, ExitStatus.unavailable),
      (.denied, 6, ExitStatus.denied), (.init(rawValue: "wrong_type"), 13, ExitStatus.otherUse),
      (.modeConflict, 12, ExitStatus.otherUse), (.limit, 7, ExitStatus.limit), (.deadlock, 11, ExitStatus.deadlock),
      (.underReplicated, 14, ExitStatus.underReplicated),
      (.init(rawValue: "internal_error"), -32603, ExitStatus.software),
      (.init(rawValue: "invalid_params"), -32602, ExitStatus.usage),
    ] as [(SidelockError.Reason, Int64, Int32)])
  func otherRefusalsHaveStatusesOfTheirOwn(reason: SidelockError.Reason, code: Int64, status: Int32) {
    var machine = waiting(conflict: 9)
    let error = SidelockError(code: code, reason: reason, message: "")
    #expect(withoutWords(machine.handle(.refused(error), now: 0)) == [.exit(status)])
  }

  @Test func aConnectionThatEndsWhileWaitingIsUnavailable() {
    var machine = waiting()
    #expect(machine.handle(.disconnected(Self.cut), now: 0).contains(.sayServiceState))
    machine = waiting()
    #expect(
      withoutWords(machine.handle(.disconnected(Self.cut), now: 0)) == [.withdraw, .exit(ExitStatus.unavailable)])
  }

  @Test func aSignalEndsTheWait() {
    var machine = waiting()
    #expect(machine.handle(.signalled(SIGWINCH), now: 0) == [])
    #expect(machine.handle(.signalled(SIGINT), now: 10) == [.dieOf(SIGINT)])
  }

  // MARK: Lost

  @Test func aLossEndsTheGroupWellBeforeTheGraceIsOver() {
    var machine = running()
    #expect(
      withoutWords(machine.handle(.lost(Self.notice), now: 100)) == [.signalGroup(SIGTERM), .signalGroup(SIGCONT)])
    #expect(machine.deadline == 1300)
    #expect(machine.handle(.timerFired, now: 1300) == [.signalGroup(SIGKILL)])
    #expect(
      machine.handle(.commandKilled(signal: SIGKILL, terminal: .other), now: 1301)
        == [.takeTerminal, .exit(ExitStatus.lost)])
  }

  @Test func aShorterTermGraceHolds() {
    var machine = running(termGrace: 300)
    _ = machine.handle(.lost(Self.notice), now: 100)
    #expect(machine.deadline == 400)
  }

  @Test(arguments: [nil, 0, -5] as [Int64?])
  func withoutGraceTheKillFollowsAtOnce(grace: Int64?) {
    var machine = running()
    let notice = LostNotice(name: "x", token: 1, reason: "max_hold", graceMilliseconds: grace)
    #expect(
      withoutWords(machine.handle(.lost(notice), now: 100)) == [.signalGroup(SIGTERM), .signalGroup(SIGKILL)])
    #expect(machine.deadline == nil)
    #expect(
      machine.handle(.commandKilled(signal: SIGTERM, terminal: .other), now: 101)
        == [.takeTerminal, .exit(ExitStatus.lost)])
  }

  @Test func whatTheLeaderLeavesBehindIsWaitedForAndKilled() {
    var machine = running()
    _ = machine.handle(.lost(Self.notice), now: 0)
    #expect(!machine.watchesGroup)
    #expect(machine.handle(.commandExited(status: 0), now: 10) == [])
    #expect(machine.watchesGroup)
    var other = machine
    #expect(other.handle(.groupEmpty, now: 20) == [.takeTerminal, .exit(ExitStatus.lost)])
    #expect(
      machine.handle(.timerFired, now: 1200) == [.signalGroup(SIGKILL), .takeTerminal, .exit(ExitStatus.lost)])
  }

  @Test func aCutWithoutNoticeLeavesASecondAtMost() {
    var machine = running(valid: 10_000)
    #expect(
      withoutWords(machine.handle(.disconnected(Self.cut), now: 0)) == [.signalGroup(SIGTERM), .signalGroup(SIGCONT)])
    #expect(machine.deadline == 1000)
    var short = running(valid: 850, lease: 1000)
    _ = short.handle(.disconnected(Self.cut), now: 0)
    #expect(short.deadline == 600)
    var local = running(valid: nil)
    _ = local.handle(.disconnected(Self.cut), now: 0)
    #expect(local.deadline == 100)
  }

  @Test func theEndOfTheConnectionAfterANoticeDoesNotShortenTheGrace() {
    var machine = running()
    _ = machine.handle(.lost(Self.notice), now: 0)
    #expect(machine.handle(.disconnected(Self.cut), now: 1) == [])
    #expect(machine.deadline == 1200)
  }

  @Test func aLossThatComesWithTheGrantStartsNothing() {
    var machine = waiting()
    _ = machine.handle(.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: nil), now: 0)
    #expect(withoutWords(machine.handle(.lost(Self.notice), now: 0)) == [.exit(ExitStatus.lost)])
    #expect(!machine.mayStart)
  }

  @Test func signalsStillReachAGroupThatIsEnding() {
    var machine = running()
    _ = machine.handle(.lost(Self.notice), now: 0)
    #expect(machine.handle(.signalled(SIGINT), now: 1) == [.signalGroup(SIGINT)])
  }

  // MARK: The longest hold

  @Test func atMaxHoldTheCommandHasItsGraceAndTheLockIsKeptUntilTheGroupIsEmpty() {
    var machine = running(termGrace: 500, maxHold: 2000)
    #expect(machine.deadline == 2000)
    #expect(machine.handle(.timerFired, now: 1999) == [])
    #expect(
      withoutWords(machine.handle(.timerFired, now: 2000)) == [.signalGroup(SIGTERM), .signalGroup(SIGCONT)])
    #expect(machine.deadline == 2500)
    #expect(machine.handle(.timerFired, now: 2500) == [.signalGroup(SIGKILL)])
    #expect(!machine.watchesGroup)
    #expect(machine.handle(.commandKilled(signal: SIGKILL, terminal: .other), now: 2501) == [])
    #expect(machine.watchesGroup)
    var stuck = machine
    #expect(machine.handle(.groupEmpty, now: 2502) == [.takeTerminal, .exit(ExitStatus.heldTooLong)])
    // Not even SIGKILL ends everything.
    #expect(stuck.deadline == 3500)
    #expect(stuck.handle(.timerFired, now: 3500) == [.takeTerminal, .exit(ExitStatus.heldTooLong)])
  }

  @Test func aCommandThatEndsWithinItsGraceIsNotKilled() {
    var machine = running(maxHold: 2000)
    _ = machine.handle(.timerFired, now: 2000)
    #expect(machine.handle(.commandExited(status: 0), now: 2100) == [])
    #expect(machine.handle(.groupEmpty, now: 2101) == [.takeTerminal, .exit(ExitStatus.heldTooLong)])
  }

  @Test func withoutTermGraceTheKillFollowsAtOnceAtMaxHold() {
    var machine = running(termGrace: 0, maxHold: 2000)
    #expect(
      withoutWords(machine.handle(.timerFired, now: 2000))
        == [.signalGroup(SIGTERM), .signalGroup(SIGCONT), .signalGroup(SIGKILL)])
  }

  @Test func aLossAfterMaxHoldShortensTheGrace() {
    var machine = running(maxHold: 2000)
    _ = machine.handle(.timerFired, now: 2000)
    #expect(machine.deadline == 12_000)
    #expect(withoutWords(machine.handle(.lost(Self.notice), now: 3000)) == [])
    #expect(machine.deadline == 4200)
    #expect(machine.handle(.timerFired, now: 4200) == [.signalGroup(SIGKILL)])
    #expect(
      machine.handle(.commandKilled(signal: SIGKILL, terminal: .other), now: 4201)
        == [.takeTerminal, .exit(ExitStatus.lost)])
  }

  @Test func theDaemonsOwnEndOfTheHoldKillsAtOnce() {
    var machine = running(maxHold: 2000)
    _ = machine.handle(.timerFired, now: 2000)
    let notice = LostNotice(name: "x", token: 1, reason: "max_hold", graceMilliseconds: 0)
    #expect(withoutWords(machine.handle(.lost(notice), now: 3000)) == [.signalGroup(SIGKILL)])
  }

  @Test func aStoppedJobThatIsContinuedAfterMaxHoldIsEnded() {
    var machine = running(maxHold: 2000)
    _ = machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    _ = machine.handle(.resumed(terminal: .us), now: 5000)
    // Not before the daemon has said that the lock is still ours.
    #expect(machine.deadline == 6000)
    #expect(machine.handle(.checked(validMilliseconds: nil), now: 5001) == [.giveTerminal, .signalGroup(SIGCONT)])
    #expect(machine.deadline == 2000)
    #expect(
      withoutWords(machine.handle(.timerFired, now: 5001)) == [.signalGroup(SIGTERM), .signalGroup(SIGCONT)])
    #expect(machine.deadline == 12_000)
  }

  // MARK: --on-lost

  @Test func aCommandMayGoOnWithoutTheLock() {
    var machine = running(valid: 8500, onLost: .notify)
    var stopped = machine
    #expect(withoutWords(machine.handle(.lost(Self.notice), now: 1000)) == [])
    #expect(machine.deadline == nil)
    #expect(machine.handle(.disconnected(Self.cut), now: 2000) == [])
    #expect(machine.handle(.signalled(SIGTERM), now: 3000) == [.signalGroup(SIGTERM)])
    #expect(machine.handle(.commandExited(status: 0), now: 4000) == [.takeTerminal, .exit(ExitStatus.lost)])
    // A job that finds the loss when it is continued goes on, too.
    _ = stopped.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    _ = stopped.handle(.resumed(terminal: .us), now: 5000)
    #expect(withoutWords(stopped.handle(.lost(Self.notice), now: 5001)) == [.giveTerminal, .signalGroup(SIGCONT)])
  }

  @Test func aCommandMayBeKilledAtOnce() {
    var machine = running(valid: 8500, onLost: .kill)
    #expect(withoutWords(machine.handle(.lost(Self.notice), now: 1000)) == [.signalGroup(SIGKILL)])
    #expect(
      machine.handle(.commandKilled(signal: SIGKILL, terminal: .other), now: 1001)
        == [.takeTerminal, .exit(ExitStatus.lost)])
  }

  // MARK: Job control

  @Test func ctrlZStopsTheJobAndTheLockIsCheckedBeforeItGoesOn() {
    var machine = running()
    #expect(
      machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1) == [
        .takeTerminal, .stopGroup(SIGTSTP),
      ])
    #expect(machine.handle(.resumed(terminal: .us), now: 9000) == [.check])
    #expect(machine.handle(.checked(validMilliseconds: nil), now: 9001) == [.giveTerminal, .signalGroup(SIGCONT)])
  }

  @Test func aLossDuringTheStopIsFoundBeforeTheCommandGoesOn() {
    var machine = running(valid: 10_000)
    _ = machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    _ = machine.handle(.resumed(terminal: .us), now: 90_000)
    let late = LostNotice(name: "x", token: 1, reason: "lease_expired", graceMilliseconds: 0)
    #expect(
      withoutWords(machine.handle(.lost(late), now: 90_000)) == [.signalGroup(SIGTERM), .signalGroup(SIGKILL)])
    #expect(machine.handle(.checked(validMilliseconds: nil), now: 90_001) == [])
  }

  @Test func aDaemonThatDoesNotAnswerAfterAStopCountsAsLost() {
    var machine = running(valid: 10_000)
    _ = machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    _ = machine.handle(.resumed(terminal: .us), now: 90_000)
    #expect(
      withoutWords(machine.handle(.timerFired, now: 100_000)) == [.signalGroup(SIGTERM), .signalGroup(SIGKILL)])
  }

  @Test func aStopFromElsewhereLeavesUsAwake() {
    var machine = running()
    #expect(machine.handle(.commandStopped(signal: SIGSTOP, terminal: .other), now: 1) == [])
    #expect(machine.handle(.signalled(SIGCONT), now: 2) == [.signalGroup(SIGCONT)])
  }

  @Test func aStopSignalThatWasSentToUsStopsUsWithTheCommand() {
    var machine = running()
    #expect(machine.handle(.signalled(SIGTSTP), now: 1) == [.signalGroup(SIGTSTP)])
    #expect(
      machine.handle(.commandStopped(signal: SIGTSTP, terminal: .other), now: 2) == [.takeTerminal, .stopSelf(SIGTSTP)])
  }

  @Test func aSignalThatWasSentToUsAloneReachesNobodyElseOfOurGroup() {
    var stopped = running()
    _ = stopped.handle(.signalled(SIGTSTP), now: 1)
    #expect(
      stopped.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 2)
        == [.takeTerminal, .stopSelf(SIGTSTP)])
    var ended = running()
    _ = ended.handle(.signalled(SIGINT), now: 1)
    _ = ended.handle(.commandKilled(signal: SIGINT, terminal: .command), now: 2)
    #expect(ended.handle(.released, now: 3) == [.takeTerminal, .dieOf(SIGINT)])
  }

  @Test(arguments: [SIGTTIN, SIGTTOU])
  func whoeverOfOurGroupWantsTheTerminalStopsUsWithTheCommand(signal: Int32) {
    var machine = running()
    #expect(machine.handle(.signalled(signal), now: 1) == [.signalGroup(SIGTSTP)])
    #expect(
      machine.handle(.commandStopped(signal: SIGTSTP, terminal: .other), now: 2) == [.takeTerminal, .stopSelf(SIGTSTP)])
    var waiter = waiting()
    #expect(waiter.handle(.signalled(signal), now: 1) == [.withdraw, .stopSelf(signal)])
  }

  @Test func aCommandThatIsStoppedForGoodGivesTheTerminalBackAndStopsUsAlone() {
    var machine = running()
    #expect(
      machine.handle(.commandStopped(signal: SIGSTOP, terminal: .command), now: 1)
        == [.takeTerminal, .stopSelf(SIGTSTP)])
  }

  @Test func withoutATerminalNobodyCanHaveReachedForIt() {
    var machine = running()
    #expect(machine.handle(.commandStopped(signal: SIGTTIN, terminal: .none), now: 1) == [])
  }

  @Test func aCommandThatWantsTheTerminalGetsItFromUs() {
    var machine = running()
    let effects = machine.handle(.commandStopped(signal: SIGTTIN, terminal: .us), now: 1)
    #expect(effects == [.giveTerminal, .signalGroup(SIGCONT)])
  }

  @Test func aCommandThatWantsTheTerminalOfAnotherJobStopsUsAndStaysStoppedInTheBackground() {
    var machine = running()
    #expect(
      machine.handle(.commandStopped(signal: SIGTTIN, terminal: .other), now: 1) == [
        .takeTerminal, .stopGroup(SIGTTIN),
      ])
    #expect(machine.handle(.resumed(terminal: .other), now: 2) == [])
    #expect(
      machine.handle(.commandStopped(signal: SIGTTIN, terminal: .other), now: 3) == [
        .takeTerminal, .stopGroup(SIGTTIN),
      ])
    #expect(machine.handle(.resumed(terminal: .us), now: 4) == [.check])
    #expect(machine.handle(.checked(validMilliseconds: nil), now: 5) == [.giveTerminal, .signalGroup(SIGCONT)])
  }

  @Test func whatContinuesUsDoesNotContinueTheCommandBeforeTheDaemonHasAnswered() {
    var machine = running()
    _ = machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    _ = machine.handle(.resumed(terminal: .us), now: 9000)
    #expect(machine.handle(.signalled(SIGCONT), now: 9000) == [])
    #expect(machine.handle(.signalled(SIGTERM), now: 9000) == [.signalGroup(SIGTERM)])
  }
}
