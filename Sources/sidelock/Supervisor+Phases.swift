import SidelockClient

// Where a supervisor stands, and what it keeps there.
extension Supervisor {
  enum Outcome: Equatable {
    case status(Int32)
    /// `passOn`: the terminal's Ctrl-C or Ctrl-\ did it, which would have reached this process's group as well.
    case signal(Int32, passOn: Bool)
  }

  enum Phase: Equatable {
    case waiting(Patience)
    /// Granted, but the session still has its keepalive. The command starts when the daemon has confirmed the lock: a
    /// process that was stopped may find an old grant.
    case confirming(Patience, Lease?)
    /// The request was refused, and the daemon is asked who has the lock.
    case explaining(Explanation)
    case starting
    case running
    /// The group stays stopped until the daemon has said that the lock is still held.
    case resuming(until: Int64)
    case ending(Ending)
    /// SIGKILL is sent. A lock that is not lost is kept until the group is empty, but not for ever: not even SIGKILL
    /// ends a process that the kernel holds in a system call.
    case killed(keepUntil: Int64?, leaderEnded: Bool)
    case releasing(Outcome, until: Int64)
    case done
  }

  struct Explanation: Equatable {
    var error: SidelockError
    var until: Int64
    /// What is not answered yet, and what was answered.
    var asked: [String]
    var locks: [LockDescription] = []
  }

  struct Ending: Equatable {
    var killAt: Int64
    /// The leader has ended; what is left of its group is waited for.
    var leaderEnded = false
    /// Whether the lock is lost, or could be by then; otherwise only max-hold is over.
    var isLost: Bool
  }
}
