import Glibc
import SidelockClient
import Testing

@testable import sidelock

/// Waiting for a lock, and for a daemon that may hang; and what a process that is stopped does to others.
extension SupervisorTests {
  func gone(_ effects: [Supervisor.Effect]) -> Bool {
    withoutWords(effects) == [.withdraw, .exit(ExitStatus.unavailable)] && effects.contains(.sayServiceState)
  }

  // MARK: A daemon that hangs while we wait

  @Test(arguments: [0, 1000, 60_000] as [Int64])
  func aLimitHoldsWhateverTheDaemonDoes(wait: Int64) {
    var machine = waiting(wait)
    // It may be slow by two seconds.
    let end = max(2000, wait)
    #expect(machine.deadline == end)
    #expect(machine.handle(.timerFired, now: end - 1) == [])
    #expect(gone(machine.handle(.timerFired, now: end)))
  }

  @Test func withoutALimitTheDaemonMustAnswerSoonAndThenFromTimeToTime() {
    var machine = waiting()
    #expect(machine.deadline == 5000)
    #expect(machine.handle(.greeted(leaseMilliseconds: 10_000), now: 1) == [])
    #expect(machine.deadline == 1500)
    #expect(machine.handle(.timerFired, now: 1500) == [.check])
    var hung = machine
    #expect(hung.deadline == 11_500)
    #expect(gone(hung.handle(.timerFired, now: 11_500)))
    #expect(machine.handle(.checked(validMilliseconds: nil), now: 9000) == [])
    #expect(machine.handle(.timerFired, now: 9001) == [.check])
    var neverHeard = waiting()
    #expect(gone(neverHeard.handle(.timerFired, now: 5000)))
  }

  @Test func aDaemonThatLivesHasTimeToDecideButNotForEver() {
    var machine = waiting(1000)
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    #expect(machine.deadline == 1000)
    var now: Int64 = 1000
    while now < 301_000 {
      #expect(machine.handle(.timerFired, now: now) == [.check])
      #expect(machine.handle(.checked(validMilliseconds: nil), now: now) == [])
      now = machine.deadline ?? 0
    }
    #expect(gone(machine.handle(.timerFired, now: now)))
    #expect(now < 303_000)
  }

  @Test func aGrantThatNobodyConfirmsStartsNothing() {
    var machine = waiting(1000)
    _ = machine.handle(.greeted(leaseMilliseconds: 10_000), now: 1)
    let granted = Supervisor.Event.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: 8500)
    #expect(machine.handle(granted, now: 500) == [.confirm])
    #expect(machine.deadline == 2500)
    var lost = machine
    #expect(gone(machine.handle(.timerFired, now: 2500)))
    #expect(!machine.mayStart)
    // It was granted to a process that was stopped, whose session is over.
    #expect(withoutWords(lost.handle(.lost(Self.notice), now: 600)) == [.exit(ExitStatus.lost)])
  }

  // MARK: We are stopped while we wait

  @Test func ctrlZWithdrawsTheWaitAndTheShellsContinueQueuesAgain() {
    var machine = waiting(10_000)
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    #expect(machine.handle(.signalled(SIGTSTP), now: 4000) == [.withdraw, .stopSelf(SIGTSTP)])
    #expect(machine.handle(.resumed(terminal: .us), now: 7000) == [.withdraw, .queueAgain])
    #expect(machine.patience?.left(now: 7000) == 3000)
    // The time was over while it was stopped: a short wait is left, and time for its answer.
    _ = machine.handle(.signalled(SIGTSTP), now: 8000)
    #expect(machine.handle(.resumed(terminal: .us), now: 50_000) == [.withdraw, .queueAgain])
    #expect(machine.patience?.left(now: 50_000) == 1)
    #expect(machine.deadline == 52_000)
  }

  @Test func ctrlZGivesAGrantBackThatHasNotStartedTheCommand() {
    var machine = waiting()
    _ = machine.handle(.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: nil), now: 5)
    #expect(machine.handle(.signalled(SIGTSTP), now: 6) == [.withdraw, .stopSelf(SIGTSTP)])
    #expect(machine.handle(.resumed(terminal: .us), now: 100) == [.withdraw, .queueAgain])
    #expect(!machine.mayStart)
  }

  @Test func aSessionThatEndedForOurSilenceIsBegunAnew() {
    var machine = waiting(60_000)
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    var crashed = machine
    #expect(gone(crashed.handle(.disconnected(Self.cut), now: 4000)))
    #expect(machine.handle(.disconnected(Self.cut), now: 20_000) == [.withdraw, .queueAgain])
    #expect(machine.patience?.left(now: 20_000) == 40_000)
    // And the daemon is gone when it cannot be reached then.
    #expect(gone(machine.handle(.disconnected(Self.cut), now: 20_001)))
  }

  @Test func aSessionThatEndedForOurSilenceIsBegunAnewThoughTheDaemonIsAskedFirst() {
    var machine = waiting(60_000)
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    // Something that had come before the end was read, and the end was not.
    #expect(machine.handle(.timerFired, now: 20_000).contains(.check))
    var alive = machine
    #expect(machine.handle(.disconnected(Self.cut), now: 20_001) == [.withdraw, .queueAgain])
    #expect(gone(machine.handle(.disconnected(Self.cut), now: 20_002)))
    _ = alive.handle(.checked(validMilliseconds: nil), now: 20_001)
    #expect(gone(alive.handle(.disconnected(Self.cut), now: 20_002)))
  }

  @Test(arguments: [true, false])
  func aGrantThatWasTakenBackWhileWeWereStoppedIsWaitedForAgain(isTold: Bool) {
    var machine = waiting()
    _ = machine.handle(.greeted(leaseMilliseconds: nil), now: 1)
    let granted = Supervisor.Event.granted(token: 1, waitedMilliseconds: 0, validMilliseconds: nil)
    #expect(machine.handle(granted, now: 20_000) == [.confirm])
    let end = isTold ? Supervisor.Event.lost(Self.notice) : .disconnected(Self.cut)
    #expect(machine.handle(end, now: 20_001) == [.withdraw, .queueAgain])
    #expect(!machine.mayStart)
  }

  // MARK: A daemon that hangs while the command runs

  @Test func theDaemonIsAskedWhenTheLeaseShouldHaveBeenRenewed() {
    var machine = running(valid: 8500)
    #expect(machine.deadline == 3500)
    #expect(machine.handle(.timerFired, now: 3500) == [.check])
    #expect(machine.handle(.checked(validMilliseconds: 8300), now: 3510) == [])
    #expect(machine.deadline == 6800)
    // Not renewed yet: asked again soon, and the end is where it was.
    _ = machine.handle(.timerFired, now: 6800)
    #expect(machine.handle(.checked(validMilliseconds: 5000), now: 6810) == [])
    #expect(machine.deadline == 7610)
    #expect(running(valid: nil).deadline == nil)
  }

  @Test func withoutAnAnswerTheGroupIsEndedWhenTheLeaseIs() {
    var machine = running(valid: 8500)
    _ = machine.handle(.timerFired, now: 3500)
    #expect(machine.deadline == 8500)
    var answered = machine
    #expect(answered.handle(.checked(validMilliseconds: 8500), now: 8499) == [])
    #expect(answered.deadline == 9299)
    #expect(
      withoutWords(machine.handle(.timerFired, now: 8500)) == [.signalGroup(SIGTERM), .signalGroup(SIGCONT)])
    #expect(machine.deadline == 9340)
  }

  @Test func anAnswerCountsFromItsQuestion() {
    var machine = running(valid: 8500)
    _ = machine.handle(.timerFired, now: 3500)
    // It came late, and may have been on its way for all that time.
    _ = machine.handle(.checked(validMilliseconds: 6000), now: 8000)
    #expect(machine.handle(.timerFired, now: 8800) == [.check])
    #expect(machine.deadline == 9500)
  }

  @Test func aDaemonThatDoesNotSayForHowLongIsTrustedForHalfALease() {
    var machine = running(valid: 8500)
    _ = machine.handle(.timerFired, now: 3500)
    _ = machine.handle(.checked(validMilliseconds: nil), now: 3510)
    #expect(machine.deadline == 4310)
    _ = machine.handle(.timerFired, now: 4310)
    #expect(machine.deadline == 8500)
  }

  @Test func theDaemonIsStillAskedAfterMaxHold() {
    var machine = running(valid: 8500, maxHold: 2000)
    _ = machine.handle(.timerFired, now: 2000)
    #expect(machine.deadline == 3500)
    #expect(machine.handle(.timerFired, now: 3500) == [.check])
    #expect(machine.deadline == 8500)
    #expect(withoutWords(machine.handle(.timerFired, now: 8500)) == [])
    #expect(machine.deadline == 9340)
    #expect(machine.handle(.timerFired, now: 9340) == [.signalGroup(SIGKILL)])
  }

  @Test func aStoppedJobWaitsForTheDaemonThatFollows() {
    var machine = running(valid: 8500)
    _ = machine.handle(.commandStopped(signal: SIGTSTP, terminal: .command), now: 1)
    #expect(machine.handle(.resumed(terminal: .us), now: 600_000) == [.check])
    #expect(machine.deadline == 610_000)
    #expect(
      machine.handle(.checked(validMilliseconds: 5000), now: 605_000) == [.giveTerminal, .signalGroup(SIGCONT)])
    #expect(machine.deadline == 605_000)
  }
}
