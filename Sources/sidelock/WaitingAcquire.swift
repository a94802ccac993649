import ArgumentParser
import CSupervise
import Glibc
import SidelockClient

/// An acquire whose wait ends when this process is stopped: a stopped process must not be granted the lock. The wait is
/// withdrawn before a stop from the terminal, and a keepalive ends it after any other. When the process is continued it
/// asks anew, for what is left of the wait.
final class WaitingAcquire {
  private let connection: ConnectionOptions
  private let params: JSONValue?
  /// Called with the notifications that come before the grant.
  private let show: (ClientMachine.Event) throws -> Void
  /// How to speak of the wait to people; nil: not at all.
  private let talk: Talk?
  private var news: WaitNews
  private let enclosing: [EnclosingRun]
  private var lookID: Int64 = 0
  private var patience: Supervisor.Patience
  private var daemon: DaemonConnection
  private var greetingID: Int64 = 0
  private var acquireID: Int64 = 0
  private var confirmationID: Int64 = 0
  private var questionID: Int64 = 0
  /// The grant; it counts when the daemon has confirmed it without a keepalive.
  private var grant: JSONValue?
  /// How long the daemon's leases last, as it says.
  private var leaseLength: Int64?
  /// How long what was granted is safe; nil where it does not end by itself.
  private var lease: Supervisor.Lease?

  /// How to speak of the wait to people.
  struct Talk {
    var names: [String]
    var loudness: WaitNews.Loudness
    /// The exit status when the lock is not acquired in time.
    var conflictExitCode: Int32
    var waitMilliseconds: Int64?
  }

  struct Outcome {
    /// The connection that has the lock.
    var daemon: DaemonConnection
    var result: JSONValue
    /// How long the lock is safe whatever becomes of the daemon; nil where it does not end by itself.
    var lease: Supervisor.Lease?
    /// What came behind the grant.
    var rest: [ClientMachine.Event]
  }

  /// `params`: of the acquire, as the user gave them.
  init(
    _ params: JSONValue?, connection: ConnectionOptions, talk: Talk? = nil,
    show: @escaping (ClientMachine.Event) throws -> Void
  ) throws(SidelockError) {
    self.params = params
    self.talk = talk
    enclosing = talk == nil ? [] : EnclosingRun.inherited()
    news = Self.news(talk, isNested: !enclosing.isEmpty)
    self.connection = connection
    self.show = show
    let wait = params?["wait_ms"]?.intValue.map { min(max(0, $0), Duration.protocolMillisecondsMax) }
    patience = Supervisor.Patience(waitMilliseconds: wait, now: supervise_boot_milliseconds())
    daemon = try connection.open(
      within: patience.connectMilliseconds(now: supervise_boot_milliseconds()),
      for: talk.flatMap { $0.loudness == .quiet ? nil : $0.names.first })
  }

  private static func news(_ talk: Talk?, isNested: Bool) -> WaitNews {
    WaitNews(
      name: talk?.names.first ?? "", loudness: talk?.loudness ?? .quiet, isNested: isNested,
      now: supervise_boot_milliseconds())
  }

  /// Waits until the lock is granted and confirmed.
  func run() throws -> Outcome {
    do {
      return try wait()
    } catch let error as SidelockError where error.reason == .busy || error.reason == .timeout {
      let talk = talk ?? talkOfParams
      if talk.loudness != .quiet { _ = Descriptor.sayAtOnce(explanation(of: error, talk)) }
      throw ExitCode(talk.conflictExitCode)
    } catch let error as SidelockError {
      guard let talk else { throw error }
      Descriptor.say("\(talk.names.first ?? ""): \(ErrorWords.text(error))")
      connection.sayServiceState(for: error)
      throw ExitCode(ExitStatus.status(of: error))
    }
  }

  /// What the params of the acquire say themselves.
  private var talkOfParams: Talk {
    let names = params?["names"]?.arrayValue?.compactMap(\.stringValue) ?? [params?["name"]?.stringValue ?? ""]
    return Talk(
      names: names, loudness: .usual, conflictExitCode: ExitStatus.conflict,
      waitMilliseconds: params?["wait_ms"]?.intValue)
  }

  /// Who has what was refused.
  private func explanation(of error: SidelockError, _ talk: Talk) -> String {
    var locks: [LockDescription] = []
    let end = supervise_boot_milliseconds() + Supervisor.explainMilliseconds
    for name in talk.names.prefix(Supervisor.explainedMax) {
      let left = end - supervise_boot_milliseconds()
      guard left > 0, let lock = try? daemon.call("inspect", ["name": .string(name)], within: left) else { break }
      locks.append(LockDescription(lock))
    }
    let words = ErrorWords.text(
      error, locks: locks, waited: talk.waitMilliseconds, enclosing: enclosing,
      detail: talk.loudness == .verbose ? .all : .usual)
    return "\(talk.names.first ?? ""): \(words)"
  }

  private func tell(_ actions: [WaitNews.Action]) {
    for action in actions {
      switch action {
      // The wait goes on, and ends in time, even if nobody reads standard error.
      case .say(let words): _ = Descriptor.sayAtOnce(words)
      case .look(let name): lookID = (try? daemon.request("inspect", ["name": .string(name)])) ?? 0
      }
    }
  }

  private func wait() throws -> Outcome {
    var previous = sigset_t()
    let signals = supervise_stop_signals(&previous)
    guard signals >= 0 else {
      throw SidelockError(reason: .unavailable, message: "signalfd: \(UnixSocket.describe(errno))")
    }
    defer {
      close(signals)
      sigprocmask(SIG_SETMASK, &previous, nil)
    }
    try ask(params)
    while true {
      guard let rest = try turn(signals), let grant else { continue }
      if try !stop(signals) { return Outcome(daemon: daemon, result: grant, lease: lease, rest: rest) }
    }
  }

  /// Waits once. Returns what came behind the confirmation of the grant; nil before that.
  private func turn(_ signals: CInt) throws -> [ClientMachine.Event]? {
    let now = supervise_boot_milliseconds()
    if grant == nil { tell(news.due(question: patience.question, now: now)) }
    if now >= patience.deadline {
      if let failure = patience.failure(now: now) { throw failure }
      question()
    }
    var entries = [
      pollfd(fd: daemon.descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: signals, events: Int16(POLLIN), revents: 0), Descriptor.endOfOutput,
    ]
    let newsAt = grant == nil ? news.deadline(question: patience.question) : nil
    let left = max(0, min(patience.deadline, newsAt ?? patience.deadline) - supervise_boot_milliseconds())
    // One more, since the clock's reading was rounded down.
    guard poll(&entries, nfds_t(entries.count), CInt(min(left + 1, 1 << 30))) > 0 else { return nil }
    if entries[0].revents != 0 {
      do {
        if let rest = try take(daemon.read()) { return rest }
      } catch let error as SidelockError
        where error.reason == .connectionLost && patience.wasAway(now: supervise_boot_milliseconds())
      {
        // This process was stopped, and the keepalive has ended its session.
        try askAnew()
      }
      return nil
    }
    try Descriptor.check(endOfOutput: entries[2])
    if entries[1].revents != 0 { _ = try stop(signals) }
    return nil
  }

  private func take(_ events: [ClientMachine.Event]) throws -> [ClientMachine.Event]? {
    for (index, event) in events.enumerated() {
      switch event {
      case .reply(greetingID, let result):
        let greeting = try result.get()
        leaseLength = greeting["lease_ms"]?.intValue
        if let host = greeting["host"]?.stringValue, let session = greeting["session"]?.stringValue {
          news.place = (host, session)
        }
        if grant == nil { answered() }
      case .reply(lookID, let result): try looked((try? result.get()).map { LockDescription($0) })
      case .reply(confirmationID, let result):
        _ = try result.get()
      case .reply(acquireID, let result):
        grant = try result.get()
        patience.granted(now: supervise_boot_milliseconds())
        lease = safety(try? result.get())
        confirmationID = (try? daemon.request("initialize", ["keepalive_ms": .null])) ?? 0
        questionID = (try? daemon.request("ping")) ?? 0
      case .reply(questionID, let result):
        if grant != nil {
          lease = safety(try? result.get()) ?? lease
          return Array(events[(index + 1)...])
        }
        answered()
      case .reply: break
      case .lost(let notice) where isOfGrant(notice):
        // This process was stopped after the grant, and lost it with its session.
        if patience.wasAway(now: supervise_boot_milliseconds()) {
          try askAnew()
          return nil
        }
        return Array(events[index...])
      case .notification("waiting", let params) where talk != nil:
        if params["id"]?.intValue == acquireID {
          news.told(WaitNews.Notice(params), now: supervise_boot_milliseconds())
        }
      case .lost, .notification: try show(event)
      case .violated(let error): throw error
      }
    }
    return nil
  }

  private func answered() {
    patience.answered()
    news.answered(now: supervise_boot_milliseconds())
  }

  /// The daemon has told who has the lock, or has not.
  private func looked(_ lock: LockDescription?) throws {
    guard let talk, grant == nil else { return }
    if let lock, let words = NestedWait.wouldWaitForItself(lock, enclosing) {
      daemon.end()
      Descriptor.say("\(talk.names.first ?? ""): \(words)")
      throw ExitCode(ExitStatus.deadlock)
    }
    tell(news.inspected(lock, now: supervise_boot_milliseconds()))
  }

  /// How long the lock is safe, as the answer to the last question says.
  private func safety(_ answer: JSONValue?) -> Supervisor.Lease? {
    guard let valid = answer?["valid_ms"]?.intValue, let asked = patience.question else { return nil }
    return Supervisor.Lease(validMilliseconds: valid, asked: asked, length: leaseLength)
  }

  private func isOfGrant(_ notice: LostNotice) -> Bool { grant.flatMap(HeldLocks.init)?.has(notice) ?? false }

  /// Asks for the lock, with a keepalive until it is granted.
  private func ask(_ params: JSONValue?) throws(SidelockError) {
    greetingID = try daemon.request(
      "initialize",
      [
        "client": ["name": "sidelock", "version": .string(Sidelock.configuration.version)],
        "keepalive_ms": .int(Supervisor.Patience.keepaliveMilliseconds),
      ])
    acquireID = try daemon.request("acquire", params)
  }

  private func askAnew() throws(SidelockError) {
    grant = nil
    // The request ids begin anew with the connection.
    (confirmationID, questionID, lookID) = (0, 0, 0)
    news = Self.news(talk, isNested: !enclosing.isEmpty)
    let now = supervise_boot_milliseconds()
    patience.queuedAgain(now: now)
    daemon = try connection.open(within: patience.connectMilliseconds(now: now))
    var params = JSONObject()
    for member in self.params?.objectValue?.members ?? [] where member.key != "wait_ms" {
      params.append(member.key, member.value)
    }
    if let left = patience.left(now: supervise_boot_milliseconds()) { params.append("wait_ms", .int(left)) }
    try ask(.object(params))
  }

  /// Asks whether the daemon lives. A failure to send shows up as the end of the connection at the next read.
  private func question() {
    patience.asked(now: supervise_boot_milliseconds())
    questionID = (try? daemon.request("ping")) ?? 0
  }

  /// Ends the session and stops this process if a signal says so, then asks anew. Returns whether it was stopped.
  private func stop(_ signals: CInt) throws(SidelockError) -> Bool {
    var information = signalfd_siginfo()
    let size = MemoryLayout<signalfd_siginfo>.size
    var wasStopped = false
    while read(signals, &information, size) == size {
      let signal = CInt(bitPattern: information.ssi_signo)
      guard supervise_is_ignored(signal) == 0, supervise_can_be_stopped() != 0 else { continue }
      daemon.end()
      supervise_stop(signal, 0)
      try askAnew()
      wasStopped = true
    }
    return wasStopped
  }
}
