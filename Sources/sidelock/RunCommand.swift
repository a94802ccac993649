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

      -n and -w also bound the wait for a daemon that hangs (and 2 seconds, should it be slow); one that lives says when \
      Redis and other hosts, by whatever link, have answered it. Without them sidelock gives up when the daemon is silent \
      for 10 seconds. When it has waited for 3 seconds because Redis refuses or cannot be reached, it says so on standard \
      error, and when that changes. Ctrl-Z while it waits withdraws the wait, and fg queues again.

      Not reached is a process that has left the group (setsid, a daemon, a shell with job control); in a systemd unit \
      the control group ends it. And while sidelock is stopped by SIGSTOP it cannot act.

      EXIT STATUS
        that of COMMAND, or 128+N if signal N ended it (sidelock ends by
        the same signal if that was sent to sidelock)
        1     not acquired with -n or within -w SECONDS (-E sets another status)
        64    wrong usage
        69    no daemon listens or answers, Redis cannot be reached or refuses, or
              too few of its replicas have the lease
        70    the daemon misbehaves, or NAME is in use in another way, such
              as a semaphore of another capacity
        77    the daemon refused for lack of a right
        125   the lock was lost or --max-hold was over, and COMMAND was ended
        126   COMMAND cannot be executed
        127   COMMAND was not found

      EXAMPLES
        sidelock run backup -- rsync -a /srv/ backup:/srv/
        sidelock run -n nightly-report -- ./report
        sidelock run -w 2.5 -E 75 deploy -c './build && ./deploy'
        sidelock run --shared data -- ./read-it
        sidelock run --permits 4 mail -- ./send-a-batch
        sidelock run source --and target -- ./copy
        sidelock run --max-hold 3600 --meta "ticket 17" migration -- ./migrate
      """)

  @OptionGroup var connection: ConnectionOptions

  @Flag(name: [.customShort("n"), .customLong("nonblock"), .customLong("nb")], help: "Fail rather than wait.")
  var nonblock = false

  @Option(
    name: [.customShort("w"), .customLong("timeout"), .customLong("wait")],
    help: ArgumentHelp(
      "Wait no longer than that; fractions are allowed, and 0 is the same as -n.", valueName: "seconds"))
  var timeout: Double?

  @Option(
    name: [.customShort("E"), .customLong("conflict-exit-code")],
    help: ArgumentHelp("The exit status when the lock is not acquired in time (0 to 255).", valueName: "code"))
  var conflictExitCode: Int32 = ExitStatus.conflict

  @Flag(
    name: [.customShort("x"), .customShort("e"), .customLong("exclusive")],
    help: "An exclusive lock, which is the default.")
  var exclusive = false

  @Flag(
    name: [.customShort("s"), .customLong("shared")],
    help: "A shared lock: others may share it, and nobody has it exclusively meanwhile.")
  var shared = false

  @Option(
    help: ArgumentHelp(
      "Take one permit of a counting semaphore: as many may run at a time, on all hosts.", valueName: "count"))
  var permits: Int64?

  @Option(
    name: .customLong("and"), parsing: .singleValue,
    help: ArgumentHelp(
      """
      Hold this lock, too; may be given several times. All of them are taken or none, and no two runs wait for each \
      other, in whatever order they name them.
      """, valueName: "name"))
  var others: [String] = []

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
      """, valueName: "seconds"))
  var maxHold: Double?

  @Option(
    help: ArgumentHelp(
      """
      Begin only when so many replicas of Redis (0 to 16) have the lease. If they are too few, the lock is given back, and \
      COMMAND is not run.
      """, valueName: "count"))
  var replicas: Int64?

  @Option(
    help: ArgumentHelp(
      "With disk: begin only when the primary and those replicas have the lease on disk. Otherwise memory will do.",
      valueName: "where"))
  var durability: String?

  @Option(help: ArgumentHelp("A note that list and inspect show (up to 1 KiB).", valueName: "text"))
  var meta: String?

  @Option(
    name: .customLong("term-grace"),
    help: ArgumentHelp(
      """
      The longest time between SIGTERM and SIGKILL when the lock is lost or --max-hold is over. After a loss it is cut \
      short when another could have the lock earlier.
      """, valueName: "seconds"))
  var termGrace: Double = 10

  @Flag(name: .shortAndLong, help: "Say how long it took to acquire the lock, or why it was not.")
  var verbose = false

  @Argument(help: "The lock's name (up to 512 bytes).")
  var name: String

  @Argument(parsing: .postTerminator, help: "The command and its arguments.")
  var command: [String] = []

  mutating func validate() throws {
    name = try protocolText(name, "NAME")
    others = try others.map { try protocolText($0, "--and") }
    meta = try meta.map { try protocolText($0, "--meta") }
    guard (1...512).contains(name.utf8.count) else { throw ValidationError("NAME must have 1 to 512 bytes.") }
    if commandString != nil {
      guard command.isEmpty else { throw ValidationError("Give COMMAND or -c COMMAND-STRING, not both.") }
    } else if command.isEmpty {
      throw ValidationError("COMMAND is missing, as in: sidelock run \(name) -- COMMAND")
    }
    guard (0...255).contains(conflictExitCode) else {
      throw ValidationError("--conflict-exit-code must lie between 0 and 255.")
    }
    if [exclusive, shared, permits != nil].count(where: { $0 }) > 1 {
      throw ValidationError("Give one of --exclusive, --shared and --permits.")
    }
    if let permits, !(1...1_000_000).contains(permits) {
      throw ValidationError("--permits must lie between 1 and 1000000.")
    }
    if let replicas, !(0...16).contains(replicas) {
      throw ValidationError("--replicas must lie between 0 and 16.")
    }
    if let durability, durability != "memory", durability != "disk" {
      throw ValidationError("--durability is memory or disk.")
    }
    guard others.count < 64, others.allSatisfy({ (1...512).contains($0.utf8.count) }) else {
      throw ValidationError("--and takes names of 1 to 512 bytes, 63 of them at most.")
    }
    guard Set(names.map { Array($0.utf8) }).count == names.count else {
      throw ValidationError("NAME and --and must all be different.")
    }
    if nonblock, timeout != nil { throw ValidationError("Give -n or -w, not both.") }
    _ = try timeout.map { try Self.milliseconds($0, "--timeout") }
    _ = try Self.milliseconds(termGrace, "--term-grace")
    if let maxHold {
      guard try Self.milliseconds(maxHold, "--max-hold") > 0 else {
        throw ValidationError("--max-hold must be greater than 0.")
      }
      _ = try Self.milliseconds(maxHold + termGrace + 1, "--max-hold, --term-grace and 1 second together")
    }
    if let meta, meta.utf8.count > 1024 { throw ValidationError("--meta may have up to 1024 bytes.") }
  }

  /// Seconds as whole milliseconds, rounded up, so that a short wait does not become a try.
  static func milliseconds(_ seconds: Double, _ option: String) throws -> Int64 {
    let secondsMax = Double(Duration.protocolMillisecondsMax / 1000)
    guard seconds >= 0, seconds <= secondsMax else {
      throw ValidationError("\(option) must lie between 0 and \(Int64(secondsMax)) seconds (a year).")
    }
    return Int64((seconds * 1000).rounded(.up))
  }

  /// All names, the first one as the command's environment has it.
  var names: [String] { [name] + others }

  var mode: LockMode {
    if let permits { return .permit(of: permits) }
    return shared ? .shared : .exclusive
  }

  /// What is executed.
  var arguments: [String] {
    commandString.map { ["/bin/sh", "-c", $0] } ?? command
  }

  /// The params of the acquire, without `wait_ms`.
  func acquireParams() throws -> JSONObject {
    var params = JSONObject()
    if others.isEmpty {
      params.append("name", .string(name))
    } else {
      params.append("names", .array(names.map { .string($0) }))
    }
    mode.append(to: &params)
    if let backstop = try supervisorOptions().backstopMilliseconds { params.append("max_hold_ms", .int(backstop)) }
    if let meta { params.append("meta", .string(meta)) }
    if let replicas { params.append("replicas", .int(replicas)) }
    if let durability { params.append("durability", .string(durability)) }
    // `waiting` then says why it has to wait.
    if !nonblock, timeout != 0 { params.append("progress", .bool(true)) }
    return params
  }

  func supervisorOptions() throws -> Supervisor.Options {
    Supervisor.Options(
      name: name, conflictExitCode: conflictExitCode,
      termGraceMilliseconds: try Self.milliseconds(termGrace, "--term-grace"),
      waitMilliseconds: nonblock ? 0 : try timeout.map { try Self.milliseconds($0, "--timeout") },
      maxHoldMilliseconds: try maxHold.map { try Self.milliseconds($0, "--max-hold") }, isVerbose: verbose)
  }

  func run() throws {
    let options = try supervisorOptions()
    let params = try acquireParams()
    try connection.reportingErrors {
      try RunDriver(options: options, command: arguments, acquire: params, connection: connection).run()
    }
  }
}
