import CSupervise
import Glibc
import SidelockClient
import SystemStrings

/// Carries out what a ``Supervisor`` says, in one thread that polls the daemon, the signals and the time. One thread,
/// because the process forks, and because the kernel ties the command's life to the thread that started it
/// (PR_SET_PDEATHSIG).
final class RunDriver {
  private var supervisor: Supervisor
  /// Where the daemon listens.
  private let options: ConnectionOptions
  private let name: String
  private let command: [String]
  /// The params of the acquire without `wait_ms`.
  private let params: JSONObject

  /// nil when there is none any more.
  private var connection: DaemonConnection?
  private var greetingID: Int64 = 0
  private var acquireID: Int64 = 0
  /// The request that ends the keepalive before the command is started.
  private var confirmationID: Int64 = 0
  /// The last question whether the lock is still held; answers to earlier ones do not count.
  private var checkID: Int64 = 0
  /// The questions who has a lock that are not answered, and the lock of each.
  private var lookIDs: [Int64: String] = [:]
  /// What the daemon calls itself and this session.
  private var place: (host: String, session: String)?
  /// The locks of runs in which this one runs.
  private let enclosing: [EnclosingRun]
  /// The releases that are not answered.
  private var releaseIDs: Set<Int64> = []
  /// What is held, by names and tokens.
  private var held = HeldLocks()

  private let signals: CInt
  private var inheritedMask = sigset_t()
  private let terminal: CInt
  private var child: pid_t = -1
  private var childHasEnded = false
  /// The command could not be started. Its process is not reaped, because the guard knows its id.
  private var hasFailedToStart = false
  private var commandGuard = CommandGuard()

  /// The process that ends the command when this one is killed.
  private struct CommandGuard {
    var process: pid_t = -1
    var channel: CInt = -1
  }

  /// `params`: of the acquire, without `wait_ms`.
  init(
    options: Supervisor.Options, command: [String], acquire params: JSONObject, connection: ConnectionOptions
  ) throws(SidelockError) {
    supervisor = Supervisor(options: options, now: supervise_boot_milliseconds())
    name = options.name
    enclosing = options.enclosing
    self.command = command
    self.params = params
    self.options = connection
    // Before the signals are blocked: until there is a wait to withdraw, their default actions are right.
    self.connection = try connection.open(
      within: supervisor.patience?.connectMilliseconds(now: supervise_boot_milliseconds()) ?? 0,
      for: options.loudness == .quiet ? nil : options.name)
    signals = supervise_signals(&inheritedMask)
    guard signals >= 0 else {
      throw SidelockError(reason: .unavailable, message: "signalfd: \(UnixSocket.describe(errno))")
    }
    terminal = open("/dev/tty", O_RDWR | O_CLOEXEC)
  }

  /// Messages that had no room yet.
  private var unsaid: [String] = []
  private static let unsaidMax = 100
  /// How long the end waits for room, in milliseconds.
  private static let lastWordsMilliseconds: Int64 = 1000

  /// Acquires, runs the command, and ends the process.
  func run() throws(SidelockError) -> Never {
    supervise_reap_others(child, &commandGuard.process)
    try queue()
    while true {
      wait()
      if supervisor.watchesGroup, supervise_group_alive(child) == 0 { feed([.groupEmpty]) }
      if let deadline = supervisor.deadline, supervise_boot_milliseconds() >= deadline { feed([.timerFired]) }
    }
  }

  /// Asks for the lock, with a keepalive until it is granted: a stopped process must not be granted it.
  private func queue() throws(SidelockError) {
    guard let connection, let patience = supervisor.patience else { return }
    greetingID = try connection.request(
      "initialize",
      [
        "client": ["name": .string(clientName), "version": .string(Sidelock.configuration.version)],
        "keepalive_ms": .int(Supervisor.Patience.keepaliveMilliseconds),
      ])
    var params = params
    if let left = patience.left(now: supervise_boot_milliseconds()) { params.append("wait_ms", .int(left)) }
    acquireID = try connection.request("acquire", .object(params))
    lookIDs = [:]
  }

  /// What the daemon's log calls this client: the program that it runs, without its arguments.
  private var clientName: String {
    let name = SystemText.bytes(command[0]).split(separator: UInt8(ascii: "/")).last ?? []
    return Self.clientNamePrefix + String(decoding: name.prefix(64), as: UTF8.self)
  }

  static let clientNamePrefix = "sidelock run "

  private func wait() {
    var timeout: Int64 = -1
    if let deadline = supervisor.deadline {
      // One more, since the clock's reading was rounded down.
      timeout = min(max(0, deadline - supervise_boot_milliseconds()) + 1, 1 << 30)
    }
    if supervisor.watchesGroup { timeout = min(timeout, Supervisor.groupPollMilliseconds) }
    var entries = [
      pollfd(fd: signals, events: Int16(POLLIN), revents: 0),
      // A negative descriptor is skipped.
      pollfd(fd: connection?.descriptor ?? -1, events: Int16(POLLIN), revents: 0),
      pollfd(fd: unsaid.isEmpty ? -1 : STDERR_FILENO, events: Int16(POLLOUT), revents: 0),
    ]
    guard poll(&entries, nfds_t(entries.count), CInt(timeout)) > 0 else { return }
    // The daemon first: a loss must be known before the signals that it could be taken for.
    if entries[1].revents != 0 { readConnection() }
    if entries[0].revents != 0 { readSignals() }
    if entries[2].revents != 0 { sayWhatHasRoom() }
  }

  private func readConnection() {
    guard let connection else { return }
    do throws(SidelockError) {
      feed(try connection.read().compactMap(translate))
    } catch {
      self.connection = nil
      feed([.disconnected(error)])
    }
  }

  private func translate(_ event: ClientMachine.Event) -> Supervisor.Event? {
    switch event {
    case .reply(greetingID, .failure(let error)), .reply(confirmationID, .failure(let error)): return .refused(error)
    case .reply(greetingID, .success(let result)):
      let (host, session) = (result["host"]?.stringValue, result["session"]?.stringValue)
      if let host, let session { place = (host, session) }
      return .greeted(leaseMilliseconds: result["lease_ms"]?.intValue, host: host, session: session)
    case .reply(checkID, let result):
      guard case .success(let answer) = result else { return .checked(validMilliseconds: nil) }
      return .checked(validMilliseconds: answer["valid_ms"]?.intValue)
    case .reply(acquireID, .failure(let error)): return .refused(error)
    case .reply(acquireID, .success(let result)):
      held = HeldLocks(result) ?? HeldLocks()
      guard let token = held.token(of: name) else {
        return .refused(SidelockError(reason: .protocolViolation, message: "the daemon granted without a token"))
      }
      return .granted(
        token: token, waitedMilliseconds: result["waited_ms"]?.intValue ?? 0,
        validMilliseconds: result["valid_ms"]?.intValue)
    case .reply(let id, let result):
      if let name = lookIDs.removeValue(forKey: id) {
        return .inspected(name: name, (try? result.get()).map { LockDescription($0) })
      }
      return releaseIDs.remove(id) != nil && releaseIDs.isEmpty ? .released : nil
    case .lost(let notice):
      return held.has(notice) ? .lost(notice) : nil
    case .notification("waiting", let params) where params["id"]?.intValue == acquireID:
      return .waits(WaitNews.Notice(params))
    case .notification: return nil
    case .violated(let error):
      connection = nil
      return .disconnected(error)
    }
  }

  private func readSignals() {
    var information = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    while read(signals, &information, size) == size {
      let signal = CInt(bitPattern: information.ssi_signo)
      if signal == SIGCHLD { lookAtChild() } else if !isInVain(signal) { feed([.signalled(signal)]) }
    }
  }

  /// Whether a signal that comes before there is a command does nothing: one that was inherited as ignored, as from
  /// nohup, or one that should stop this process and cannot. The wait then keeps its place.
  private func isInVain(_ signal: CInt) -> Bool {
    guard supervisor.isBeforeCommand else { return false }
    if supervise_is_ignored(signal) != 0 { return true }
    return [SIGTSTP, SIGTTIN, SIGTTOU].contains(signal) && supervise_can_be_stopped() == 0
  }

  private func lookAtChild() {
    // The command stays unreaped, so that its end can be asked for again. Other children, such as the orphans of
    // process 1, have nobody else to bury them.
    if !hasFailedToStart { supervise_reap_others(child, &commandGuard.process) }
    guard child > 0, !childHasEnded else { return }
    var status: CInt = 0
    switch supervise_child_change(child, &status) {
    case supervise_exited:
      childHasEnded = true
      feed([.commandExited(status: status)])
    case supervise_killed:
      childHasEnded = true
      feed([.commandKilled(signal: status, terminal: terminalOwner)])
    case supervise_stopped: feed([.commandStopped(signal: status, terminal: terminalOwner)])
    default: break
    }
  }

  /// Feeds all facts before it performs any effect: a loss that came with the grant is known before the start.
  private func feed(_ events: [Supervisor.Event]) {
    let now = supervise_boot_milliseconds()
    var effects: [Supervisor.Effect] = []
    for event in events { effects += supervisor.handle(event, now: now) }
    for effect in effects { perform(effect) }
  }

  private func perform(_ effect: Supervisor.Effect) {
    switch effect {
    case .say(let message): say(message)
    case .sayServiceState: if let words = ServiceState.words(path: options.path) { say(words) }
    case .inspect(let name):
      if let id = ask("inspect", ["name": .string(name)]) {
        lookIDs[id] = name
      } else {
        feed([.inspected(name: name, nil)])
      }
    case .confirm:
      confirmationID = ask("initialize", ["keepalive_ms": .null]) ?? 0
      checkID = ask("ping", nil) ?? 0
    case .withdraw:
      connection = nil
      held = HeldLocks()
    case .queueAgain: queueAgain()
    case .spawn: if supervisor.mayStart { spawn() }
    case .signalGroup(let signal): if child > 0 { kill(-child, signal) }
    case .signalOwnGroup(let signal): kill(0, signal)
    case .giveTerminal: if terminalOwner == .us { tcsetpgrp(terminal, child) }
    case .takeTerminal: if terminalOwner == .command { tcsetpgrp(terminal, getpgrp()) }
    case .stopSelf(let signal): stop(by: signal, wholeGroup: false)
    case .stopGroup(let signal): stop(by: signal, wholeGroup: true)
    case .check: checkID = ask("ping", nil) ?? 0
    case .release:
      for lock in held.locks {
        let id = ask("release", ["name": .string(lock.name), "token": .int(lock.token)])
        if let id { releaseIDs.insert(id) }
      }
      if releaseIDs.isEmpty { feed([.released]) }
    case .exit(let status):
      dismissGuard()
      sayTheRest()
      exit(status)
    case .dieOf(let signal):
      dismissGuard()
      sayTheRest()
      supervise_die_of(signal)
      exit(128 + signal)
    }
  }

  // MARK: Messages

  /// Says something as soon as there is room: the command must end in time even if nobody reads standard error.
  private func say(_ message: String) {
    if unsaid.count < Self.unsaidMax { unsaid.append(message) }
    sayWhatHasRoom()
  }

  private func sayWhatHasRoom() {
    while let message = unsaid.first, Descriptor.sayAtOnce(message) { unsaid.removeFirst() }
  }

  /// Before the end, waits a moment for room.
  private func sayTheRest() {
    let end = supervise_boot_milliseconds() + Self.lastWordsMilliseconds
    sayWhatHasRoom()
    while !unsaid.isEmpty, case let left = end - supervise_boot_milliseconds(), left > 0 {
      var entry = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
      _ = poll(&entry, 1, CInt(left))
      sayWhatHasRoom()
    }
  }

  private func stop(by signal: CInt, wholeGroup: Bool) {
    supervise_stop(signal, wholeGroup ? 1 : 0)
    feed([.resumed(terminal: terminalOwner)])
  }

  /// A failure to send shows up as the end of the connection at the next read.
  private func ask(_ method: String, _ params: JSONValue?) -> Int64? {
    try? connection?.request(method, params)
  }

  private func queueAgain() {
    guard let patience = supervisor.patience else { return }
    place = nil
    do throws(SidelockError) {
      connection = try options.open(within: patience.connectMilliseconds(now: supervise_boot_milliseconds()))
      try queue()
    } catch {
      connection = nil
      feed([.disconnected(error)])
    }
  }

  private func dismissGuard() {
    if commandGuard.process > 0 { supervise_guard_dismiss(commandGuard.process, commandGuard.channel) }
  }

  private var terminalOwner: Supervisor.TerminalOwner {
    guard terminal >= 0 else { return .none }
    let group = tcgetpgrp(terminal)
    if group == getpgrp() { return .us }
    return child > 0 && group == child ? .command : .other
  }

  /// What a `sidelock run` inside the command has to know of this one.
  private var ownRuns: [EnclosingRun] {
    guard let place else { return [] }
    return held.locks.map {
      EnclosingRun(name: $0.name, token: $0.token, pid: Int64(getpid()), host: place.host, session: place.session)
    }
  }

  private func spawn() {
    setenv("SIDELOCK_NAME", name, 1)
    setenv("SIDELOCK_TOKEN", "\(held.token(of: name) ?? 0)", 1)
    setenv("SIDELOCK_TOKENS", held.locks.map { "\($0.token)" }.joined(separator: " "), 1)
    setenv(EnclosingRun.variable, EnclosingRun.text(enclosing + ownRuns), 1)
    commandGuard.process = supervise_guard_start(connection?.descriptor ?? -1, &commandGuard.channel)
    if commandGuard.process < 0 {
      say("no guard: \(UnixSocket.describe(errno)); only COMMAND itself ends if sidelock is killed")
    }
    // In a pipeline the terminal stays with this process's group, to which the other members belong; the command gets
    // it when it reaches for it.
    let isInteractive = terminalOwner == .us && isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1
    var failedExec: CInt = 0
    let arguments = CStrings(command)
    child = supervise_spawn(
      arguments.pointers, &inheritedMask, commandGuard.channel, isInteractive ? terminal : -1, &failedExec)
    guard child < 0 else { return feed([.spawned]) }
    let reason = errno
    hasFailedToStart = true
    let notStarted = reason == ENOENT ? ExitStatus.notFound : ExitStatus.cannotExecute
    let status = failedExec == 0 ? ExitStatus.software : notStarted
    // The child may have taken the terminal before it failed.
    if isInteractive { tcsetpgrp(terminal, getpgrp()) }
    feed([.spawnFailed(status: status, problem: "\(SystemText.shown(command[0])): \(UnixSocket.describe(reason))")])
  }
}
