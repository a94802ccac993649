import Glibc
import SidelockClient
import SystemStrings

/// What `sidelock run` does when, without doing any of it: it is told facts and says what to do. Its phases:
///
///     waiting -granted→ confirming -checked→ starting -spawned→ running -exited→ releasing -released→ done
///
///     waiting, confirming    refused → explaining; no daemon or a signal → done; stopped, or away too long → waiting
///     explaining             told who has the lock, a second over or a signal → done
///     confirming, starting   lost → done
///     starting               a signal → done; not spawned → releasing
///     running                continued after a stop → resuming -checked→ running; max-hold over → ending
///     running, resuming      exited → releasing; lost → ending, or → killed where there is no grace, or → running where
///                            the command may go on (--on-lost notify)
///     ending                 time over → killed; group empty → done
///     killed                 leader exited and, unless the lock is lost, group empty or 1 s over → done
///
/// The times around a loss, with the daemon's notice at 0 and `grace` the time until another may have the lock:
///
///     0                    SIGTERM and SIGCONT to the group
///     at most 0.6 grace    SIGKILL to the group (earlier with a shorter --term-grace)
///     grace                another may have the lock
///
/// A connection that ends without a notice gives no such time. A daemon that crashed left its lease in Redis, which
/// lasts for a good part of `valid_ms`; without Redis the lock died with the daemon, and a new one may be up soon.
///
/// With `--max-hold S` the daemon is asked for a later limit than S: the command has its whole grace, and is gone
/// before the lock is free. With the grant at 0:
///
///     S                          SIGTERM and SIGCONT to the group
///     S + term-grace             SIGKILL to the group
///     … and when it is empty     the lock is given up
///     S + term-grace + 1 s       the daemon would end the hold, if this process were late or stopped
struct Supervisor {
  /// The part of the grace after which SIGKILL is sent, in percent.
  static let gracePercent = RunTimeline.killPercentOfGrace
  /// How long the group may take to end when the connection ended without notice, in milliseconds: at most …
  static let cutGraceMilliseconds: Int64 = 1000
  /// … and for a lock that has no lease.
  static let cutGraceLocalMilliseconds: Int64 = 100
  /// How long to wait for the daemon's word that the lock is released.
  static let releaseMilliseconds: Int64 = 2000
  /// How long to wait, after a stop, for the daemon's word that the lock is still held. The command does not run
  /// meanwhile, and a daemon that hangs may be replaced by one that knows the lock.
  static let resumeMilliseconds: Int64 = 10_000
  /// The same for a lock that has no lease.
  static let resumeLocalMilliseconds: Int64 = 1000
  /// How much later than SIGKILL the daemon is to take the lock away by itself.
  static let maxHoldMarginMilliseconds: Int64 = 1000
  /// How long to wait, when the lock was refused, for the daemon's word who has it.
  static let explainMilliseconds: Int64 = 2500
  /// Locks that are looked at then.
  static let explainedMax = 8
  /// How often to look whether the group is empty, once its leader has ended.
  static let groupPollMilliseconds: Int64 = 20

  private let options: Options
  private var phase: Phase
  /// How long the daemon's leases last, as it says.
  private var leaseLength: Int64?
  /// Signals that were passed on to the command.
  private var passedOn: Set<Int32> = []
  /// The command was stopped because it reached for a terminal that another job has.
  private var wantsTerminal = false
  private var lease: Lease?
  private var news: WaitNews
  /// The lock that is waited for, while runs that wait for each other are looked for.
  private var wanted: LockDescription?
  /// Since when this run has waited.
  private var waitsSince: Int64
  /// The lock is lost, and the command goes on without it.
  private var isUnguarded = false
  /// When max-hold is over.
  private var maxHoldAt: Int64?

  /// `now`: since when the user waits, in milliseconds on the boot clock.
  init(options: Options, now: Int64) {
    self.options = options
    phase = .waiting(Patience(waitMilliseconds: options.waitMilliseconds, now: now))
    waitsSince = now
    news = Self.news(options, now: now)
  }

  private static func news(_ options: Options, now: Int64) -> WaitNews {
    WaitNews(name: options.name, loudness: options.loudness, isNested: !options.enclosing.isEmpty, now: now)
  }

  /// The first of the locks.
  var waitedFor: String { options.name }

  /// How long to wait for the lock and for the daemon, while it is waited for.
  var patience: Patience? {
    switch phase {
    case .waiting(let patience), .confirming(let patience, _): patience
    case .explaining, .starting, .running, .resuming, .ending, .killed, .releasing, .done: nil
    }
  }

  /// Whether there is no command yet, and may never be.
  var isBeforeCommand: Bool {
    if case .explaining = phase { return true }
    return patience != nil || mayStart
  }

  /// Whether the command is to be started: false again when the loss of the lock came with its grant.
  var mayStart: Bool { phase == .starting }

  /// Whether to look for what is left of the group.
  var watchesGroup: Bool {
    switch phase {
    case .ending(let ending): ending.leaderEnded
    case .killed(keepUntil: .some, let leaderEnded): leaderEnded
    case .waiting, .confirming, .explaining, .starting, .running, .resuming, .killed, .releasing, .done: false
    }
  }

  /// When to send ``Event/timerFired``, in milliseconds on the boot clock.
  var deadline: Int64? {
    switch phase {
    case .waiting(let patience):
      min(patience.deadline, news.deadline(question: patience.question) ?? patience.deadline)
    case .confirming(let patience, _): patience.deadline
    case .explaining(let explanation): explanation.until
    case .starting, .done: nil
    case .running: [lease?.deadline, maxHoldAt].compactMap { $0 }.min()
    // Even when max-hold is over: a group that is continued to be ended must not run without the lock either.
    case .resuming(let until), .releasing(_, let until): until
    case .ending(let ending): ending.isLost ? ending.killAt : min(ending.killAt, lease?.deadline ?? ending.killAt)
    case .killed(let keepUntil, let leaderEnded): leaderEnded ? keepUntil : nil
    }
  }

  /// Takes a fact that was found at `now`, in milliseconds on the boot clock.
  mutating func handle(_ event: Event, now: Int64) -> [Effect] {
    switch event {
    case .greeted(let length, let host, let session):
      guard case .waiting = phase else { return [] }
      leaseLength = length
      if let host, let session { news.place = (host, session) }
      return answered(now: now)
    case .waits(let notice):
      guard case .waiting = phase else { return [] }
      news.told(notice, now: now)
      return newsDue(now: now)
    case .inspected(let name, let lock): return inspected(name, lock, now: now)
    case .granted(let token, let waited, let valid): return granted(token, waited: waited, valid: valid, now: now)
    case .refused(let error): return refused(error, now: now)
    case .lost(let notice):
      return lost(
        ErrorWords.text(notice),
        killWithin: (notice.graceMilliseconds ?? 0) * Self.gracePercent / 100,
        now: now)
    case .disconnected(let error): return disconnected(error, now: now)
    case .spawned:
      if phase == .starting { phase = .running }
      return []
    case .spawnFailed(let status, let problem):
      return [.say(problem)] + release(.status(status), now: now)
    case .signalled(let signal): return signalled(signal, now: now)
    case .commandStopped(let signal, let terminal): return commandStopped(signal, terminal)
    case .commandExited(let status): return commandEnded(.status(status), now: now)
    case .commandKilled(let signal, let terminal):
      // A signal that was passed on was sent to this process: the others of its group have it, or were not meant.
      let byTerminal = terminal == .command && (signal == SIGINT || signal == SIGQUIT) && !passedOn.contains(signal)
      return commandEnded(.signal(signal, passOn: byTerminal), now: now)
    case .resumed(let terminal): return resumed(terminal, now: now)
    case .checked(let valid): return checked(valid, now: now)
    case .released:
      guard case .releasing(let outcome, _) = phase else { return [] }
      return finish(outcome)
    case .groupEmpty:
      guard watchesGroup else { return [] }
      return finish(.status(endStatus))
    case .timerFired: return timerFired(now: now)
    }
  }

  // MARK: The lock

  private mutating func granted(_ token: Int64, waited: Int64, valid: Int64?, now: Int64) -> [Effect] {
    guard case .waiting(var patience) = phase else { return [] }
    let lease = valid.map { Lease(validMilliseconds: $0, asked: now, length: leaseLength) }
    patience.granted(now: now)
    phase = .confirming(patience, lease)
    maxHoldAt = options.maxHoldMilliseconds.map { now + $0 }
    let words: [Effect] =
      options.isVerbose
      ? [.say("has \(options.name) after \(HolderWords.age(milliseconds: waited)), token \(token)")] : []
    return words + [.confirm]
  }

  private mutating func answered(now: Int64) -> [Effect] {
    guard case .waiting(var patience) = phase else { return [] }
    patience.answered()
    phase = .waiting(patience)
    news.answered(now: now)
    return []
  }

  /// What there is to say of the wait, and to ask about it.
  private mutating func newsDue(now: Int64) -> [Effect] {
    effects(news.due(question: patience?.question, now: now))
  }

  private func effects(_ actions: [WaitNews.Action]) -> [Effect] {
    actions.map { action in
      switch action {
      case .say(let words): .say(words)
      case .look(let name): .inspect(name)
      }
    }
  }

  private mutating func inspected(_ name: String, _ lock: LockDescription?, now: Int64) -> [Effect] {
    if case .explaining(var explanation) = phase {
      explanation.asked.removeAll { ExactText.isSame($0, name) }
      if let lock { explanation.locks.append(lock) }
      phase = .explaining(explanation)
      return explanation.asked.isEmpty ? explained(explanation) : []
    }
    guard case .waiting = phase else { return [] }
    guard ExactText.isSame(name, news.waitedFor) else { return lookForCrossing(lock, now: now) }
    var effects: [Effect] = []
    if let lock, !options.enclosing.isEmpty {
      if let words = NestedWait.wouldWaitForItself(lock, options.enclosing) { return giveUpNested(words) }
      wanted = lock
      let held = Set(options.enclosing.map { ExactText($0.name) }).map(\.text).filter { !ExactText.isSame($0, name) }
      effects = held.sorted().prefix(EnclosingRun.locksMax).map { .inspect($0) }
    }
    return effects + self.effects(news.inspected(lock, now: now))
  }

  /// Looks among those who wait for a lock of a run around this one.
  private mutating func lookForCrossing(_ held: LockDescription?, now: Int64) -> [Effect] {
    guard let held, let wanted, ExactText.isSame(wanted.name, news.waitedFor),
      let words = NestedWait.crosses(wanted, held: held, waited: now - waitsSince)
    else { return [] }
    return giveUpNested(words)
  }

  private mutating func giveUpNested(_ words: String) -> [Effect] {
    phase = .done
    return [.withdraw, .say("\(news.waitedFor): \(words)"), .exit(ExitStatus.deadlock)]
  }

  private mutating func refused(_ error: SidelockError, now: Int64) -> [Effect] {
    guard patience != nil else { return [] }
    switch error.reason {
    case .busy, .timeout:
      guard options.loudness != .quiet else {
        phase = .done
        return [.exit(options.conflictExitCode)]
      }
      let waitedFor = options.names.contains { ExactText.isSame($0, news.waitedFor) } ? [news.waitedFor] : []
      let names = waitedFor.isEmpty || error.reason == .busy ? options.names : waitedFor
      let asked = Array((names.isEmpty ? [options.name] : names).prefix(Self.explainedMax))
      phase = .explaining(Explanation(error: error, until: now + Self.explainMilliseconds, asked: asked))
      return asked.map { .inspect($0) }
    default:
      phase = .done
      return [.say("\(options.name): \(ErrorWords.text(error))"), .exit(ExitStatus.status(of: error))]
    }
  }

  /// Says why the lock was refused, and ends.
  private mutating func explained(_ explanation: Explanation) -> [Effect] {
    phase = .done
    let words = ErrorWords.text(
      explanation.error, locks: explanation.locks, waited: options.waitMilliseconds, enclosing: options.enclosing,
      detail: options.isVerbose ? .all : .usual)
    return [.say("\(options.name): \(words)"), .exit(options.conflictExitCode)]
  }

  /// The daemon is gone, or does not answer; the end of the connection takes care of whatever it grants.
  private mutating func giveUp(_ error: SidelockError) -> [Effect] {
    phase = .done
    return [
      .withdraw, .say("\(options.name): \(ErrorWords.text(error))"), .sayServiceState,
      .exit(ExitStatus.status(of: error)),
    ]
  }

  private mutating func disconnected(_ error: SidelockError, now: Int64) -> [Effect] {
    switch phase {
    case .waiting(let patience), .confirming(let patience, _):
      // This process was stopped, and the keepalive has ended its session.
      if error.reason == .connectionLost, patience.wasAway(now: now) { return queueAgain(patience, now: now) }
      return giveUp(error)
    case .explaining(let explanation): return explained(explanation)
    case .killed, .done: return []
    case .releasing(let outcome, _): return finish(outcome)
    case .running where isUnguarded: return []
    case .starting, .running, .resuming, .ending:
      let bound = lease.map {
        min(Self.cutGraceMilliseconds, $0.length * Self.gracePercent / 100, max(0, $0.killAt - now))
      }
      return lost(
        "lost \(options.name): \(error.message)", killWithin: bound ?? Self.cutGraceLocalMilliseconds, now: now)
    }
  }

  private mutating func queueAgain(_ patience: Patience, now: Int64) -> [Effect] {
    var patience = patience
    patience.queuedAgain(now: now)
    news = Self.news(options, now: now)
    phase = .waiting(patience)
    return [.withdraw, .queueAgain]
  }

  private mutating func lost(_ message: String, killWithin bound: Int64, now: Int64) -> [Effect] {
    switch phase {
    case .confirming(let patience, _) where patience.wasAway(now: now): return queueAgain(patience, now: now)
    case .confirming, .starting:
      phase = .done
      return [.say("\(message); the command was not started"), .exit(ExitStatus.lost)]
    case .running where isUnguarded: return []
    case .running, .resuming:
      if options.onLost == .notify { return goOnUnguarded(message) }
      if options.onLost == .kill {
        phase = .killed(keepUntil: nil, leaderEnded: false)
        return [.say("\(message); killing the command"), .signalGroup(SIGKILL)]
      }
      let grace = max(0, min(bound, options.termGraceMilliseconds))
      let effects: [Effect] = [.say("\(message); ending the command"), .signalGroup(SIGTERM)]
      guard grace > 0 else {
        phase = .killed(keepUntil: nil, leaderEnded: false)
        return effects + [.signalGroup(SIGKILL)]
      }
      phase = .ending(Ending(killAt: now + grace, isLost: true))
      // A stopped process does not see SIGTERM before it is continued.
      return effects + [.signalGroup(SIGCONT)]
    case .ending(let ending) where !ending.isLost:
      // SIGTERM is sent, but there is less time now.
      phase = .ending(
        Ending(killAt: min(ending.killAt, now + max(0, bound)), leaderEnded: ending.leaderEnded, isLost: true))
      return [.say(message)] + timerFired(now: now)
    // The command had ended before the loss was known, so it had the lock all its life.
    case .releasing(let outcome, _): return finish(outcome)
    case .waiting, .explaining, .ending, .killed, .done: return []
    }
  }

  /// The command goes on without the lock.
  private mutating func goOnUnguarded(_ message: String) -> [Effect] {
    let wasStopped = if case .resuming = phase { true } else { false }
    isUnguarded = true
    lease = nil
    phase = .running
    let words: [Effect] = [.say("\(message); the command goes on without it")]
    return wasStopped ? words + [.giveTerminal, .signalGroup(SIGCONT)] : words
  }

  private mutating func checked(_ valid: Int64?, now: Int64) -> [Effect] {
    lease?.answered(validMilliseconds: valid, now: now)
    switch phase {
    case .waiting: return answered(now: now)
    case .confirming(let patience, let granted):
      // The answer counts from its question, so a stop in between only shortens what is left.
      let told = patience.question.flatMap { asked in
        valid.map { Lease(validMilliseconds: $0, asked: asked, length: leaseLength) }
      }
      lease = told ?? granted
      phase = .starting
      return [.spawn]
    case .resuming:
      phase = .running
      return [.giveTerminal, .signalGroup(SIGCONT)]
    case .explaining, .starting, .running, .ending, .killed, .releasing, .done: return []
    }
  }

  private mutating func timerFired(now: Int64) -> [Effect] {
    guard let deadline, now >= deadline else { return [] }
    switch phase {
    case .waiting(var patience):
      let words = newsDue(now: now)
      guard now >= patience.deadline else { return words }
      if let failure = patience.failure(now: now) { return words + giveUp(failure) }
      patience.asked(now: now)
      phase = .waiting(patience)
      return words + [.check]
    case .confirming: return giveUp(DaemonConnection.noAnswer(within: DaemonConnection.answerMilliseconds))
    case .explaining(let explanation): return explained(explanation)
    case .starting, .done: return []
    case .running:
      if let maxHoldAt, now >= maxHoldAt { return heldLongEnough(end: maxHoldAt, now: now) }
      return askOrGiveUp(now: now)
    case .resuming:
      guard lease != nil else { return checked(nil, now: now) }
      return lost("lost \(options.name): the daemon does not answer", killWithin: 0, now: now)
    case .ending(let ending):
      guard now >= ending.killAt else { return askOrGiveUp(now: now) }
      let keepUntil = ending.isLost ? nil : now + Self.maxHoldMarginMilliseconds
      phase = .killed(keepUntil: keepUntil, leaderEnded: ending.leaderEnded)
      let isOver = ending.isLost && ending.leaderEnded
      return [.signalGroup(SIGKILL)] + (isOver ? finish(.status(ExitStatus.lost)) : [])
    case .killed: return finish(.status(endStatus))
    case .releasing(let outcome, _): return [.say("the daemon has not confirmed the release")] + finish(outcome)
    }
  }

  /// The status when the group was ended: for the loss of the lock, or for max-hold.
  private var endStatus: Int32 {
    switch phase {
    case .ending(let ending) where !ending.isLost: ExitStatus.heldTooLong
    case .killed(keepUntil: .some, _): ExitStatus.heldTooLong
    case .waiting, .confirming, .explaining, .starting, .running, .resuming, .ending, .killed, .releasing, .done:
      ExitStatus.lost
    }
  }

  private mutating func askOrGiveUp(now: Int64) -> [Effect] {
    guard let lease, lease.isOver(now: now) else {
      self.lease?.asked(now: now)
      return [.check]
    }
    return lost(
      "lost \(options.name): the daemon has not answered and the lease is about to end",
      killWithin: lease.killAt - now, now: now)
  }

  /// Max-hold is over; the lock is not lost.
  private mutating func heldLongEnough(end: Int64, now: Int64) -> [Effect] {
    phase = .ending(Ending(killAt: end + options.termGraceMilliseconds, isLost: false))
    let effects: [Effect] = [
      .say(
        "held \(options.name) for \(HolderWords.limit(milliseconds: options.maxHoldMilliseconds ?? 0)); ending the command"
      ),
      .signalGroup(SIGTERM), .signalGroup(SIGCONT),
    ]
    return effects + timerFired(now: now)
  }

  // MARK: The command

  private mutating func commandEnded(_ outcome: Outcome, now: Int64) -> [Effect] {
    switch phase {
    case .running where isUnguarded: return finish(.status(ExitStatus.lost))
    case .running, .resuming: return release(outcome, now: now)
    case .ending(var ending):
      ending.leaderEnded = true
      phase = .ending(ending)
      return []
    case .killed(let keepUntil, _):
      phase = .killed(keepUntil: keepUntil, leaderEnded: true)
      return keepUntil == nil ? finish(.status(ExitStatus.lost)) : []
    case .waiting, .confirming, .explaining, .starting, .releasing, .done: return []
    }
  }

  private mutating func release(_ outcome: Outcome, now: Int64) -> [Effect] {
    phase = .releasing(outcome, until: now + Self.releaseMilliseconds)
    return [.takeTerminal, .release]
  }

  private mutating func finish(_ outcome: Outcome) -> [Effect] {
    phase = .done
    switch outcome {
    case .status(let status): return [.takeTerminal, .exit(status)]
    case .signal(let signal, let passOn):
      if passOn { return [.takeTerminal, .signalOwnGroup(signal), .dieOf(signal)] }
      return [.takeTerminal, passedOn.contains(signal) ? .dieOf(signal) : .exit(128 + signal)]
    }
  }

  // MARK: Signals and job control

  private mutating func signalled(_ signal: Int32, now: Int64) -> [Effect] {
    switch phase {
    case .waiting(let patience), .confirming(let patience, _):
      switch signal {
      case SIGTSTP, SIGTTIN, SIGTTOU:
        // A stopped process must not be granted the lock: others go first.
        phase = .waiting(patience)
        return [.withdraw, .stopSelf(signal)]
      case SIGCONT, SIGWINCH: return []
      default:
        phase = .done
        return [.dieOf(signal)]
      }
    case .explaining, .starting:
      if [SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT, SIGWINCH].contains(signal) { return [] }
      phase = .done
      return [.dieOf(signal)]
    // The group goes on when the daemon has answered, not before.
    case .resuming where signal == SIGCONT: return []
    case .running, .resuming, .ending:
      // That another of this process's group reached for the terminal does not concern the command.
      let signal = signal == SIGTTIN || signal == SIGTTOU ? SIGTSTP : signal
      passedOn.insert(signal)
      return [.signalGroup(signal)]
    case .killed, .releasing, .done: return []
    }
  }

  private mutating func commandStopped(_ signal: Int32, _ terminal: TerminalOwner) -> [Effect] {
    guard phase == .running else { return [] }
    wantsTerminal = (signal == SIGTTIN || signal == SIGTTOU) && terminal != .none
    // It waits for the terminal, which this process can give.
    if wantsTerminal, terminal == .us { return [.giveTerminal, .signalGroup(SIGCONT)] }
    // The sender of a SIGTSTP that was passed on has sent it to the others of this group, too, or did not mean them.
    let wasPassedOn = passedOn.remove(SIGTSTP) != nil
    // The terminal stops a job as a whole; the command's group is not all of it.
    if wantsTerminal { return [.takeTerminal, .stopGroup(signal)] }
    if wasPassedOn { return [.takeTerminal, .stopSelf(SIGTSTP)] }
    // Stopped in the background by somebody else, it is left alone; this process stays awake to hear of a loss.
    guard terminal == .command else { return [] }
    // SIGSTOP does not come from the terminal, which goes back to the shell or whatever else waits for this process.
    return [.takeTerminal, signal == SIGSTOP ? .stopSelf(SIGTSTP) : .stopGroup(SIGTSTP)]
  }

  private mutating func resumed(_ terminal: TerminalOwner, now: Int64) -> [Effect] {
    if case .waiting(let patience) = phase { return queueAgain(patience, now: now) }
    guard phase == .running else { return [] }
    // Continued in the background, or not even stopped for want of a shell to continue this process: the command would
    // only be stopped again.
    if wantsTerminal, terminal == .other { return [] }
    if isUnguarded { return [.giveTerminal, .signalGroup(SIGCONT)] }
    // The lock may have been lost in the meantime. The daemon says so before it answers this question.
    phase = .resuming(until: now + (lease == nil ? Self.resumeLocalMilliseconds : Self.resumeMilliseconds))
    lease?.asked(now: now)
    return [.check]
  }
}
