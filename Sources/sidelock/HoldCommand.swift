import ArgumentParser
import CLinux
import CSupervise
import Glibc
import SidelockClient

struct HoldCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hold",
    abstract: "Hold a lock for a part of a script.",
    usage: """
      sidelock hold [options] NAME
      sidelock hold --pid PID [options] NAME
      sidelock hold --fd N [options] NAME
      """,
    discussion: """
      Waits for the lock NAME as run does, prints one line when it has it, and holds it until its input ends (Ctrl-D), \
      a signal ends it, or nobody reads its output any longer. With /dev/null as its input only a signal ends it.

      The line is for people on a terminal; in a pipe it is a JSON object with name, token, and pid, the process that \
      holds the lock (with --and locks, a list of name and token).

      With --pid PID it returns when the lock is held, and leaves a process behind that holds it until process PID ends, \
      in whatever way: for the rest of a script, as with flock(1) on a descriptor of the script. To give it back earlier, \
      send SIGTERM to the pid that the line tells. When the lock is lost, PID is ended: SIGTERM, and SIGKILL in time \
      (see --on-lost); what it has started is its own business, and sidelock run ends all of that.

      With --fd N it does the same until nobody has descriptor N open any longer, the writing end of a pipe that the script \
      has opened: as with exec 9>FILE and flock 9. The lock is given back when the script closes the descriptor or ends, and \
      what the script has started has closed it, too (COMMAND 9>&- does). What is written to it is thrown away. When the lock \
      is lost, the process is ended that has run this command, or where that has ended, as a subshell of $(...), the one \
      above it that has the descriptor; or that of --pid.

      Where it waits for somebody it says so on standard error, as run does.

      EXIT STATUS
        0     the input has ended; with --pid: the lock is held
        1     not acquired with -n or within -w TIME (-E sets another status)
        64    wrong usage, or there is no process PID, or it has ended before the
              lock was held, or N is no pipe or was closed by then
        65, 68, 69, 70, 71, 73, 76, 77
              the lock was not acquired, for the reasons that run tells so
        74    the line could not be written; the lock is not held
        125   the lock was lost
        141   nobody reads the output any longer
        128+N signal N ended it

      IN SCRIPTS
        The rest of a script, in any shell. It ends if the lock is lost:
          sidelock hold --pid $$ backup >/dev/null || exit
          rsync -a /srv/ backup:/srv/

        A part of a script, in bash:
          coproc LOCK { exec sidelock hold backup; }
          read -r held <&"${LOCK[0]}" || exit
          rsync -a /srv/ backup:/srv/
          exec {LOCK[1]}>&-

        A part of a script with a descriptor, in bash:
          exec 9> >(:)
          sidelock hold --fd 9 backup >/dev/null || exit
          rsync -a /srv/ backup:/srv/
          exec 9>&-

        By hand, until Ctrl-D:
          sidelock hold --meta "looking at ticket 17" migration

      EXAMPLES
        sidelock hold --pid $$ backup
        sidelock hold -w 10m --shared data --and source --pid $$
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(
    name: .customLong("pid"),
    help: ArgumentHelp("Hold it in the background until this process ends; a script gives $$.", valueName: "pid"))
  var process: Int32?

  @Option(
    name: .customLong("fd"),
    help: ArgumentHelp(
      "Hold it in the background until this descriptor, the writing end of a pipe, is closed everywhere.",
      valueName: "n"))
  var pipe: Int32?

  @Option(
    name: .customLong("on-lost"),
    help: ArgumentHelp(
      """
      With --pid or --fd, what becomes of that process when the lock is lost: terminate (SIGTERM, and SIGKILL in time), kill \
      (SIGKILL at once), or notify (only a message on standard error).
      """, valueName: "what"))
  var onLost: LossReaction?

  @OptionGroup var wish: LockOptions

  @Option(
    name: .customLong("max-hold"),
    help: ArgumentHelp("The lock is lost after that time.", valueName: "time"))
  var maxHold: TimeSpan?

  @Argument(
    help: ArgumentHelp("The lock's name (up to 512 bytes).", valueName: "name"), completion: LockNames.completion)
  var positionalName: String?

  mutating func validate() throws {
    positionalName = try positionalName.map { try protocolText($0, "NAME") }
    try wish.check(name: positionalName, example: "sidelock hold NAME")
    if let maxHold {
      guard try maxHold.checked("--max-hold") > 0 else {
        throw ValidationError("--max-hold must be greater than 0.")
      }
    }
    if let process { guard process > 0 else { throw ValidationError("--pid must be greater than 0.") } }
    if let pipe { guard pipe > 2 else { throw ValidationError("--fd must be greater than 2.") } }
    if onLost != nil, process == nil, pipe == nil { throw ValidationError("--on-lost needs --pid or --fd.") }
  }

  private var names: [String] { wish.names(positionalName) }

  func run() throws {
    guard process != nil || pipe != nil else { return try holdHere() }
    // What this process has inherited and does not need it would keep open for as long as it holds the lock: the pipe of
    // another hold, which would never end then, or a second descriptor of its own.
    supervise_keep_only(pipe ?? -1)
    let process = try self.process ?? parent()
    let handle = process_open(process)
    guard handle >= 0, process_has_ended(handle) == 0 else {
      Descriptor.say("there is no process \(process)")
      throw ExitCode(ExitStatus.usage)
    }
    let ancestors = self.process == nil ? self.ancestors(of: process) : []
    let background = BackgroundHold(
      command: self, process: process, handle: handle, ancestors: ancestors,
      reader: try pipe.map { try reader(of: $0) },
      isForPeople: output.isForPeople)
    throw ExitCode(try background.start())
  }

  /// The process that has run this command, which a loss ends. Whoever has adopted this one must not be taken for it.
  private func parent() throws -> pid_t {
    let parent = getppid()
    var own = stat()
    // What is no pipe to write to is told of when the holder opens it.
    guard let pipe, fstat(pipe, &own) == 0, own.st_mode & S_IFMT == S_IFIFO,
      fcntl(pipe, F_GETFL) & O_ACCMODE != O_RDONLY
    else { return parent }
    guard hasPipe(parent) else {
      Descriptor.say(
        "the process that has run this one has no end of that pipe to write to; say with --pid which one a loss ends")
      throw ExitCode(ExitStatus.usage)
    }
    return parent
  }

  /// Pidfds of those above `process` that have the descriptor, too, the nearest first. It may be a subshell, as that of
  /// $(...), which ends at once, and what is done under the lock is done by the shell above.
  private func ancestors(of process: pid_t) -> [CInt] {
    var found: [CInt] = []
    var next = supervise_parent(process)
    while next > 0, found.count < 16 {
      let handle = process_open(next)
      guard handle >= 0 else { break }
      guard hasPipe(next) else {
        close(handle)
        break
      }
      found.append(handle)
      next = supervise_parent(next)
    }
    return found
  }

  /// Whether a process has the writing end of the pipe, under whatever number: as long as it does it keeps the lock.
  private func hasPipe(_ process: pid_t) -> Bool {
    var own = stat()
    let place = "/proc/\(process)/fd"
    guard let pipe, fstat(pipe, &own) == 0, let directory = opendir(place) else { return false }
    defer { closedir(directory) }
    while let entry = readdir(directory) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: $0.pointee)) { String(cString: $0) }
      }
      // The link itself says for what it is open.
      var (link, its) = (stat(), stat())
      guard lstat("\(place)/\(name)", &link) == 0, link.st_mode & S_IWUSR != 0,
        stat("\(place)/\(name)", &its) == 0
      else { continue }
      if its.st_dev == own.st_dev, its.st_ino == own.st_ino { return true }
    }
    return false
  }

  /// Whether another process has the same file open under a descriptor's number as this one.
  static func shares(_ descriptor: CInt, with process: pid_t) -> Bool {
    var (own, its) = (stat(), stat())
    guard fstat(descriptor, &own) == 0, stat("/proc/\(process)/fd/\(descriptor)", &its) == 0 else { return false }
    return its.st_dev == own.st_dev && its.st_ino == own.st_ino
  }

  /// A reading end of the pipe of which `descriptor` is a writing end; it sees the end when nobody has one any more. This
  /// process gives up its own.
  private func reader(of descriptor: CInt) throws -> CInt {
    var status = stat()
    let isPipe = fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO
    let isWriter = isPipe && fcntl(descriptor, F_GETFL) & O_ACCMODE != O_RDONLY
    // Another user's pipe, as of a script that has run this with sudo or setpriv, may be written to and not opened.
    let reader = isWriter ? open("/proc/self/fd/\(descriptor)", O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1
    guard reader >= 0 else {
      Descriptor.say(
        isWriter
          ? "cannot read the pipe of descriptor \(descriptor): \(UnixSocket.describe(errno))"
          : "descriptor \(descriptor) is not the writing end of a pipe; in bash: exec \(descriptor)> >(:)")
      throw ExitCode(ExitStatus.usage)
    }
    close(descriptor)
    return reader
  }

  /// Waits for the lock, for no longer than `milliseconds`; nil for no limit. Says why it has none.
  func acquire(within milliseconds: Int64?) throws -> WaitingAcquire.Outcome {
    var params = wish.acquireParams(positionalName, backstop: maxHold?.milliseconds)
    if let milliseconds { params.append("wait_ms", .int(milliseconds)) }
    let talk = WaitingAcquire.Talk(
      names: names, loudness: wish.loudness, conflictExitCode: wish.conflictExitCode,
      waitMilliseconds: wish.waitMilliseconds)
    return try connection.reportingErrors {
      try WaitingAcquire(.object(params), connection: connection, talk: talk) { _ in }.run()
    }
  }

  /// The line that says what is held.
  func line(_ result: JSONValue, pid: Int32, isForPeople: Bool) -> String {
    guard isForPeople else {
      var object = result.objectValue ?? JSONObject()
      object.append("pid", .int(Int64(pid)))
      return JSONValue.object(object).serialized
    }
    let held = HeldLocks(result) ?? HeldLocks()
    let locks = held.locks.map { "\(printable($0.name)) (token \($0.token))" }.joined(separator: ", ")
    let end =
      pipe.map { "until descriptor \($0) is closed, in process \(pid)" }
      ?? process.map { "until process \($0) ends, in process \(pid)" }
      ?? (input < 0 ? "until a signal comes" : "until its input ends (Ctrl-D)")
    return "holds \(locks) \(end)"
  }

  /// Standard input, unless that is the null device, which many shells give to what runs in the background.
  private var input: CInt {
    var (own, null) = (stat(), stat())
    guard fstat(STDIN_FILENO, &own) == 0 else { return -1 }
    let isNull = stat("/dev/null", &null) == 0 && own.st_mode & S_IFMT == S_IFCHR && own.st_rdev == null.st_rdev
    return isNull ? -1 : STDIN_FILENO
  }

  private func holdHere() throws {
    let granted = try acquire(within: wish.waitMilliseconds)
    // What cannot be printed is given back: the error ends the connection.
    try Descriptor.print(line(granted.result, pid: getpid(), isForPeople: output.isForPeople))
    let keeper = HeldKeeper(granted: granted, held: HeldLocks(granted.result) ?? HeldLocks()) { _ in }
    let end = try keeper.keep(input: input) { ((try? Descriptor.read(STDIN_FILENO)) ?? []) == [] }
    if case .input = end { return }
    sayLoss(end)
    sayServiceState(end)
    throw ExitCode(ExitStatus.lost)
  }

  /// Says that it is lost, if standard error has room for that: what has to be done then does not wait for a reader.
  func sayLoss(_ end: HeldKeeper.End) {
    switch end {
    case .input: break
    case .told(let notice): _ = Descriptor.sayAtOnce(ErrorWords.text(notice))
    case .unknown(let words, _): _ = Descriptor.sayAtOnce("lost \(names.joined(separator: ", ")): \(words)")
    }
  }

  /// Says what systemd knows of a daemon that is gone, which may take it a while.
  func sayServiceState(_ end: HeldKeeper.End) {
    guard case .unknown = end, let state = ServiceState.words(path: connection.path) else { return }
    _ = Descriptor.sayAtOnce(state)
  }
}

/// `hold --pid` and `--fd`: a process that is left behind and holds the lock until another one ends, or until nobody has a
/// pipe open. This process waits for it, passes on what happens to the terminal, and leaves when the lock is held.
struct BackgroundHold {
  /// How long the holder waits for the word of this process, which may be stopped, in milliseconds.
  private static let wordMilliseconds: Int32 = 5000
  /// How long a subshell that has asked may take to end behind the grant before a loss is its own, in milliseconds.
  private static let subshellMilliseconds: Int64 = 300
  private static let word: [UInt8] = [1]

  let command: HoldCommand
  let process: Int32
  /// A pidfd of it.
  let handle: CInt
  /// Pidfds of those that a loss ends where it has ended before, the nearest first.
  let ancestors: [CInt]
  /// With --fd the end of the pipe, without blocking; nil: the process is what counts.
  let reader: CInt?
  /// Whether the line is for people; the holder has no terminal.
  let isForPeople: Bool

  /// Waits until the lock is held, prints the line, and gives the exit status.
  func start() throws -> Int32 {
    var previous = sigset_t()
    let signals = supervise_stop_signals(&previous)
    let end = command.wish.waitMilliseconds.map { supervise_boot_milliseconds() + $0 }
    while true {
      var ends: [CInt] = [-1, -1]
      guard socketpair(AF_UNIX, CInt(SOCK_STREAM.rawValue) | CInt(SOCK_CLOEXEC.rawValue), 0, &ends) == 0 else {
        return failed("socketpair")
      }
      let child = supervise_split()
      if child < 0 { return failed("fork") }
      if child == 0 {
        close(ends[0])
        sigprocmask(SIG_SETMASK, &previous, nil)
        hold(channel: ends[1], until: end)
      }
      close(ends[1])
      defer { close(ends[0]) }
      if let status = try follow(child, channel: ends[0], signals: signals) { return status }
    }
  }

  /// What becomes readable with the end of the hold.
  private var ending: CInt { reader ?? handle }

  private func hasEnded() -> Bool {
    guard let reader else { return process_has_ended(handle) != 0 }
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = read(reader, &bytes, bytes.count)
      // What is written there does not matter.
      if count <= 0 { return count == 0 }
    }
  }

  private func failed(_ what: String) -> Int32 {
    Descriptor.say("\(what): \(UnixSocket.describe(errno))")
    return ExitStatus.software
  }

  /// The exit status; nil: this process was stopped, and the holder is to begin anew.
  private func follow(_ child: pid_t, channel: CInt, signals: CInt) throws -> Int32? {
    var line: [UInt8] = []
    while true {
      var entries = [
        pollfd(fd: channel, events: Int16(POLLIN), revents: 0), pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
        pollfd(fd: ending, events: Int16(POLLIN), revents: 0),
      ]
      guard poll(&entries, 3, -1) > 0 else { continue }
      if entries[2].revents != 0, hasEnded() {
        kill(child, SIGKILL)
        _ = wait(for: child)
        Descriptor.say(command.pipe.map { "descriptor \($0) was closed" } ?? "process \(process) has ended")
        return ExitStatus.usage
      }
      if entries[1].revents != 0, isStopped(by: signals, child) { return nil }
      guard entries[0].revents != 0 else { continue }
      let bytes = (try? Descriptor.read(channel)) ?? []
      line += bytes
      if bytes.isEmpty {
        // A grant that was not taken in time, because this process was stopped.
        let wasGranted = line.last == 0x0A
        let status = wait(for: child)
        return wasGranted ? nil : status
      }
      guard line.last == 0x0A, send(channel, Self.word, 1, CInt(MSG_NOSIGNAL)) == 1 else { continue }
      // It answers when it stays whatever becomes of this process.
      guard let answer = try? Descriptor.read(channel), answer == Self.word else { continue }
      do {
        try Descriptor.print(String(decoding: line.dropLast(), as: UTF8.self))
      } catch {
        kill(child, SIGKILL)
        throw error
      }
      return 0
    }
  }

  private func wait(for child: pid_t) -> Int32 {
    var status: CInt = 0
    while waitpid(child, &status, 0) < 0 { guard errno == EINTR else { return ExitStatus.software } }
    return status & 0x7F == 0 ? status >> 8 & 0xFF : 128 + status & 0x7F
  }

  /// Ends the wait of `child` and stops this process if a signal says so.
  private func isStopped(by signals: CInt, _ child: pid_t) -> Bool {
    var information = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    var wasStopped = false
    while read(signals, &information, size) == size {
      let signal = CInt(bitPattern: information.ssi_signo)
      guard supervise_is_ignored(signal) == 0, supervise_can_be_stopped() != 0 else { continue }
      kill(child, SIGKILL)
      _ = wait(for: child)
      supervise_stop(signal, 0)
      wasStopped = true
    }
    return wasStopped
  }

  // MARK: In the process that holds it

  private func hold(channel: CInt, until end: Int64?) -> Never {
    do {
      let left = end.map { max($0 - supervise_boot_milliseconds(), command.wish.waitMilliseconds == 0 ? 0 : 1) }
      let granted = try command.acquire(within: left)
      let line = Array((command.line(granted.result, pid: getpid(), isForPeople: isForPeople) + "\n").utf8)
      guard send(channel, line, line.count, CInt(MSG_NOSIGNAL)) == line.count, hasWord(channel) else {
        Glibc.exit(ExitStatus.software)
      }
      supervise_stay_behind()
      leaveOthersError()
      _ = send(channel, Self.word, 1, CInt(MSG_NOSIGNAL))
      close(channel)
      let since = supervise_boot_milliseconds()
      let keeper = HeldKeeper(granted: granted, held: HeldLocks(granted.result) ?? HeldLocks()) { _ in }
      let ending = try keeper.keep(input: self.ending) { hasEnded() }
      if case .input = ending { Glibc.exit(0) }
      let end = supervise_boot_milliseconds() + grace(ending)
      let meant = whoGoesOn(since: since)
      if command.onLost ?? .terminate == .terminate { process_signal(meant, SIGTERM) }
      command.sayLoss(ending)
      endProcess(meant, until: end)
      command.sayServiceState(ending)
      Glibc.exit(ExitStatus.lost)
    } catch let error as ExitCode {
      Glibc.exit(error.rawValue)
    } catch {
      Glibc.exit(ExitStatus.software)
    }
  }

  /// The nearest process that goes on under the lock, which is held since then. A subshell that has only asked for it may be about
  /// to end, and is given a moment behind the grant: a signal that it gets then ends nobody who goes on. One that is there for
  /// longer works under the lock, and has no time to lose.
  private func whoGoesOn(since: Int64) -> CInt {
    let left = since + Self.subshellMilliseconds - supervise_boot_milliseconds()
    if !ancestors.isEmpty, left > 0 {
      var ending = pollfd(fd: handle, events: Int16(POLLIN), revents: 0)
      _ = poll(&ending, 1, CInt(left))
    }
    return ([handle] + ancestors).first { process_has_ended($0) == 0 } ?? handle
  }

  /// Lets go of a standard error that somebody reads to its end, as in $(… 2>&1): he would wait for the end of the hold.
  /// That of the process itself ends with it, unless a descriptor counts: what it has started may have that for longer.
  private func leaveOthersError() {
    var own = stat()
    guard fstat(STDERR_FILENO, &own) == 0, own.st_mode & S_IFMT == S_IFIFO else { return }
    if reader == nil, HoldCommand.shares(STDERR_FILENO, with: process) { return }
    dup2(STDOUT_FILENO, STDERR_FILENO)
  }

  private func hasWord(_ channel: CInt) -> Bool {
    var entry = pollfd(fd: channel, events: Int16(POLLIN), revents: 0)
    guard poll(&entry, 1, Self.wordMilliseconds) > 0 else { return false }
    return (try? Descriptor.read(channel)) == Self.word
  }

  /// How long the process may take to end, in milliseconds.
  private func grace(_ ending: HeldKeeper.End) -> Int64 {
    switch ending {
    case .input: 0
    case .told(let notice): (notice.graceMilliseconds ?? 0) * Supervisor.gracePercent / 100
    case .unknown(_, let safe):
      min(Supervisor.cutGraceMilliseconds, max(0, safe ?? Supervisor.cutGraceLocalMilliseconds))
    }
  }

  /// Ends the process, which has SIGTERM already.
  private func endProcess(_ handle: CInt, until end: Int64) {
    switch command.onLost ?? .terminate {
    case .notify: return
    case .kill: break
    case .terminate:
      process_signal(handle, SIGCONT)
      var entry = pollfd(fd: handle, events: Int16(POLLIN), revents: 0)
      while case let left = end - supervise_boot_milliseconds(), left > 0 {
        if poll(&entry, 1, CInt(min(left, 1 << 30))) > 0 { return }
      }
    }
    process_signal(handle, SIGKILL)
  }
}
