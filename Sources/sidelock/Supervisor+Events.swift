import SidelockClient

// What a supervisor is to do at all, the facts that it is told, and what it says to do.
extension Supervisor {
  struct Options: Equatable {
    var name: String
    var conflictExitCode = ExitStatus.conflict
    /// The longest time between SIGTERM and SIGKILL.
    var termGraceMilliseconds: Int64 = 10_000
    /// How long to wait for the lock; nil for no limit, 0 for a try.
    var waitMilliseconds: Int64?
    /// How long the command may run.
    var maxHoldMilliseconds: Int64?
    var loudness = WaitNews.Loudness.usual
    var onLost = LossReaction.terminate
    /// The locks of runs in which this one runs.
    var enclosing: [EnclosingRun] = []
    /// All locks that are asked for.
    var names: [String] = []

    var isVerbose: Bool { loudness == .verbose }

    /// The `max_hold_ms` that the daemon is asked for: when the group must have ended, and a margin.
    var backstopMilliseconds: Int64? {
      maxHoldMilliseconds.map { $0 + termGraceMilliseconds + Supervisor.maxHoldMarginMilliseconds }
    }
  }

  /// The foreground process group of the terminal; `us`: this process's own.
  enum TerminalOwner: Equatable {
    case none
    /// Another job has it.
    case other
    case us
    case command
  }

  enum Event: Equatable {
    /// The daemon answered the request that came before the acquire; how long its leases last, nil for the local tier.
    /// `host`, `session`: what it calls itself and this session.
    case greeted(leaseMilliseconds: Int64?, host: String? = nil, session: String? = nil)
    /// The request has to wait.
    case waits(WaitNews.Notice)
    /// The daemon answered ``Effect/inspect(_:)``; nil: it did not say.
    case inspected(name: String, LockDescription?)
    case granted(token: Int64, waitedMilliseconds: Int64, validMilliseconds: Int64?)
    case refused(SidelockError)
    case lost(LostNotice)
    case disconnected(SidelockError)
    case spawned
    /// The command could not be started; nothing of it runs.
    case spawnFailed(status: Int32, problem: String)
    /// This process was sent a signal.
    case signalled(Int32)
    case commandStopped(signal: Int32, terminal: TerminalOwner)
    case commandExited(status: Int32)
    case commandKilled(signal: Int32, terminal: TerminalOwner)
    /// This process runs again after ``Effect/stopSelf(_:)`` or ``Effect/stopGroup(_:)``.
    case resumed(terminal: TerminalOwner)
    /// The daemon answered ``Effect/check`` or ``Effect/confirm``; for how long the lock is safe, where it says so.
    case checked(validMilliseconds: Int64?)
    /// The daemon answered ``Effect/release``, whatever it said.
    case released
    case groupEmpty
    case timerFired
  }

  enum Effect: Equatable {
    case say(String)
    case sayServiceState
    /// Ask the daemon who holds that lock and who waits for it.
    case inspect(String)
    /// End the session's keepalive, and ask as ``check`` does.
    case confirm
    /// End the connection, and with it the wait or the grant.
    case withdraw
    /// Connect, and ask for the lock.
    case queueAgain
    case spawn
    case signalGroup(Int32)
    /// To this process's own group, as the terminal would have sent it.
    case signalOwnGroup(Int32)
    case giveTerminal
    case takeTerminal
    /// Stop this process alone.
    case stopSelf(Int32)
    /// Stop this process's own group, as the terminal would have done.
    case stopGroup(Int32)
    /// Ask the daemon whether it lives. The answer comes after all that it has said about the lock.
    case check
    case release
    case exit(Int32)
    case dieOf(Int32)
  }
}
