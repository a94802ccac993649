import ArgumentParser
import Glibc
import SidelockClient

struct RunCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Run a command while holding a lock.",
    usage: """
      sidelock run [options] NAME -- COMMAND [ARGUMENT ...]
      sidelock run [options] NAME -c COMMAND-STRING
      """,
    discussion: """
      Waits for the lock NAME, runs COMMAND, and releases the lock when COMMAND has ended. Processes that COMMAND \
      leaves behind do not keep the lock.

      COMMAND runs in a process group of its own; on a terminal it becomes the foreground job. SIGTERM, SIGINT, \
      SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT and SIGTSTP are passed on to the whole group. It finds the \
      lock's name in $SIDELOCK_NAME and the fencing token, which is greater than that of every earlier holder, in \
      $SIDELOCK_TOKEN; with --and the tokens of all locks, in the order of their names on the command line, stand in \
      $SIDELOCK_TOKENS.

      When the lock is lost, the whole group gets SIGTERM and then, in time before another can have the lock, \
      SIGKILL. So it does when the daemon is killed, or hangs for so long that the lock could be lost. If sidelock \
      itself is killed, even with SIGKILL, the group is killed, and only then the lock is free.

      When it has waited for a second, it says on standard error for whom, and again when that changes: \
      "waiting for backup: held by 4711 (pg_dump, nightly.service, "nightly") on db1 for 3 min, 2 before you". So it does \
      when Redis refuses or cannot be reached, and when the daemon does not answer. -q says nothing of this, -v more.

      -n and -w also bound the wait for a daemon that hangs (and 2 seconds, should it be slow); one that lives says when \
      Redis and other hosts, by whatever link, have answered it. Without them sidelock gives up when the daemon is silent \
      for 10 seconds. Ctrl-Z while it waits withdraws the wait, and fg queues again.

      Inside COMMAND another sidelock run knows of this one by $SIDELOCK_RUNS. It does not wait for a lock that this one \
      holds, nor for one of a run whose own command waits for a lock of this one: it ends at once with status 76. A \
      process that is to outlive COMMAND, and wait, is started with env -u SIDELOCK_RUNS.

      A TIME is a number with a unit, such as 500ms, 10s, 2m, 1.5h or 1d; without a unit it counts seconds.

      Not reached is a process that has left the group (setsid, a daemon, a shell with job control); in a systemd unit \
      the control group ends it. And while sidelock is stopped by SIGSTOP it cannot act.

      EXIT STATUS
        that of COMMAND, or 128+N if signal N ended it (sidelock ends by
        the same signal if that was sent to sidelock)
        1     not acquired with -n or within -w TIME (-E sets another status)
        64    wrong usage
        65    NAME is in use in another way, such as a semaphore of another
              capacity, or its key in Redis holds other data
        68    Redis cannot be reached or refuses
        69    no daemon listens or answers
        70    the daemon misbehaves, or the system refuses what must work
        71    a limit of the daemon is met
        73    too few replicas of Redis have the lease
        76    the wait would never end: a deadlock
        77    the daemon, or its socket, is closed to this user
        124   --max-hold was over, and COMMAND was ended
        125   the lock was lost, and COMMAND was ended (see --on-lost)
        126   COMMAND cannot be executed
        127   COMMAND was not found
      Each but that of COMMAND comes with a reason on standard error.

      EXAMPLES
        sidelock run backup -- rsync -a /srv/ backup:/srv/
        sidelock run -n nightly-report -- ./report
        sidelock run -w 2m -E 75 deploy -c './build && ./deploy'
        sidelock run -q -n hourly -- ./report
        sidelock run --shared data -- ./read-it
        sidelock run --permits 4 mail -- ./send-a-batch
        sidelock run source --and target -- ./copy
        sidelock run --max-hold 1h --meta "ticket 17" migration -- ./migrate
      """)

  @OptionGroup var connection: ConnectionOptions

  @OptionGroup var wish: LockOptions

  @Option(
    name: [.customShort("c"), .customLong("command")],
    help: ArgumentHelp("Run this command string with sh -c.", valueName: "command-string"))
  var commandString: String?

  @Option(
    name: .customLong("max-hold"),
    help: ArgumentHelp(
      """
      End COMMAND after that time: SIGTERM, and SIGKILL when --term-grace is over. The lock is held until the whole \
      group has ended. Should sidelock be stopped, the daemon takes the lock away a second later.
      """, valueName: "time"))
  var maxHold: TimeSpan?

  @Option(
    name: .customLong("term-grace"),
    help: ArgumentHelp(
      """
      The longest time between SIGTERM and SIGKILL when the lock is lost or --max-hold is over. After a loss it is cut \
      short when another could have the lock earlier.
      """, valueName: "time"))
  var termGrace = TimeSpan(argument: "10s")

  @Option(
    name: .customLong("on-lost"),
    help: ArgumentHelp(
      """
      What becomes of COMMAND when the lock is lost: terminate (SIGTERM, and SIGKILL in time), kill (SIGKILL at once), or \
      notify (sidelock says so, and COMMAND goes on without the lock; the status is 125 all the same).
      """, valueName: "what"))
  var onLost = LossReaction.terminate

  @Argument(
    help: ArgumentHelp("The lock's name (up to 512 bytes).", valueName: "name"), completion: LockNames.completion)
  var positionalName: String?

  @Argument(
    parsing: .postTerminator, help: "The command and its arguments.", completion: ProgramNames.completion)
  var command: [String] = []

  mutating func validate() throws {
    positionalName = try positionalName.map { try protocolText($0, "NAME") }
    try wish.check(name: positionalName, example: "sidelock run NAME -- COMMAND")
    if commandString != nil {
      guard command.isEmpty else { throw ValidationError("Give COMMAND or -c COMMAND-STRING, not both.") }
    } else if command.isEmpty {
      throw ValidationError(
        "COMMAND is missing; it stands behind --, and options before that, as in: sidelock run \(name) -- COMMAND")
    }
    let grace = try termGrace.checked("--term-grace")
    if let hold = try maxHold?.checked("--max-hold") {
      guard hold > 0 else { throw ValidationError("--max-hold must be greater than 0.") }
      guard hold + grace + Supervisor.maxHoldMarginMilliseconds <= Duration.protocolMillisecondsMax else {
        throw ValidationError("--max-hold, --term-grace and 1 second together may be up to a year.")
      }
    }
  }

  /// The lock's name.
  var name: String { wish.names(positionalName)[0] }

  /// What is executed.
  var arguments: [String] {
    commandString.map { ["/bin/sh", "-c", $0] } ?? command
  }

  /// The params of the acquire, without `wait_ms`.
  func acquireParams() throws -> JSONObject {
    wish.acquireParams(positionalName, backstop: try supervisorOptions().backstopMilliseconds)
  }

  func supervisorOptions() throws -> Supervisor.Options {
    Supervisor.Options(
      name: name, conflictExitCode: wish.conflictExitCode,
      termGraceMilliseconds: try termGrace.checked("--term-grace"), waitMilliseconds: wish.waitMilliseconds,
      maxHoldMilliseconds: try maxHold?.checked("--max-hold"), loudness: wish.loudness, onLost: onLost,
      enclosing: EnclosingRun.inherited(), names: wish.names(positionalName))
  }

  func run() throws {
    let options = try supervisorOptions()
    let params = try acquireParams()
    try connection.reportingErrors {
      try RunDriver(options: options, command: arguments, acquire: params, connection: connection).run()
    }
  }
}

/// What becomes of the command when its lock is lost.
enum LossReaction: String, ExpressibleByArgument, CaseIterable {
  /// SIGTERM, and SIGKILL in time.
  case terminate
  /// SIGKILL at once.
  case kill
  /// It goes on without the lock.
  case notify
}
