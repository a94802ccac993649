import ArgumentParser
import Glibc
import SidelockClient
import ProcessSupport

struct WatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Show what happens to locks on this host or on all hosts, as it happens.",
    discussion: """
      Shows one event a line until it is interrupted or the daemon ends: for people on a terminal, in a pipe each as a \
      JSON object with the time. Events of this host name the process and its user. Without --all, what happens on another host is seen there; here it is only told that another host has \
      a lock (remote).

      With --all each line has the host on which it happened, and locks are chosen by a PREFIX of their names. Other hosts \
      are asked twice a second, so their events come up to half a second late and between those of this host; the time \
      is that at which it happened. A host whose events cannot be told, because it does not answer or its release is too \
      old, is named on standard error, once.

      EVENTS
        acquired   a client got the lock
        released   a client gave it back, or ended
        lost       a client lost it
        waiting    a client began to wait for others, or for Redis
        gave_up    a wait ended without success
        remote     another host is known to hold the lock
        backend    the daemon has lost Redis, or has it again, or met other data
                   there than before
        draining   the daemon is about to stop
        missed     so many events were left out, because nobody read this one's
                   output in time, or a host had too many
        host       with --all, in a pipe: from now on the events of the host are told
                   (heard), or they are not (silent, older, left_out, gone, alone)

      EXIT STATUS
        69    no daemon listens or answers, or it has ended
        77    the daemon refused for lack of a right

      EXAMPLES
        sidelock watch deploy
        sidelock watch 'deploy/*'
        sidelock watch --all deploy/
        sidelock watch | jq -r 'select(.kind == "lost") | .name'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(
    help: "A lock's name; with * at its end, or with --all, all names that begin so. All locks unless told.",
    completion: LockNames.completion)
  var name: String?

  @Flag(help: "What happens on all hosts that share Redis with this one.")
  var all = false

  @Flag(help: "Take NAME as it is, even with * at its end: one lock.")
  var exact = false

  var target: WatchTarget {
    guard let name else { return .prefix("") }
    // Compare bytes: the * may form one character with what stands before it.
    if !exact, name.utf8.last == UInt8(ascii: "*") {
      return .prefix(String(decoding: name.utf8.dropLast(), as: UTF8.self))
    }
    return all && !exact ? .prefix(name) : .name(name)
  }

  mutating func validate() throws {
    name = try name.map { try protocolText($0, "NAME") }
  }

  func run() throws {
    try connection.reportingErrors {
      let daemon = try connection.open()
      var shown = ShownEvents(isForPeople: output.isForPeople)
      var params = target.params
      if all {
        let host = try daemon.call("initialize", within: DaemonConnection.answerMilliseconds)["host"]?.stringValue
        shown.hosts = ShownEvents.Hosts(own: host ?? "")
        if case .object(var object) = params {
          object.append("scope", "all")
          params = .object(object)
        }
      }
      try daemon.follow("watch", params) { method, params in
        try shown.show(method, params)
        return false
      }
    }
  }
}

/// What a watch has told, as it is shown.
struct ShownEvents {
  /// Of a watch of all hosts.
  struct Hosts {
    /// This host.
    let own: String
    /// The widest name yet, in columns.
    var width = 8
    /// Those whose events are not told, as was said.
    var unheard: Set<String> = []
  }

  let isForPeople: Bool
  /// nil: of this host alone.
  var hosts: Hosts?
  private var users = KnownUsers()

  init(isForPeople: Bool, hosts: Hosts? = nil) {
    self.isForPeople = isForPeople
    self.hosts = hosts
  }

  mutating func show(_ method: String, _ params: JSONValue) throws(OutputError) {
    let ago = params["age_ms"]?.intValue ?? 0
    switch method {
    case "host":
      sayState(of: params)
      if !isForPeople { try Descriptor.print(Self.json("host", params, time: Self.timestamp(ago: ago))) }
    case "missed":
      let line = isForPeople ? Self.missed(params) : Self.json("missed", params, time: Self.timestamp(ago: ago))
      try Descriptor.print(isForPeople ? "\(Self.timeOfDay(ago: ago))  \(column(params))\(line)" : line)
    default:
      guard let (event, _) = WatchEvent.event(method: method, params: params) else { return }
      if isForPeople {
        let line = column(params) + Self.line(event, of: Self.who(params), withHost: hosts == nil)
        try Descriptor.print("\(Self.timeOfDay(ago: ago))  \(line)")
      } else {
        let named = users.named(params)
        try Descriptor.print(Self.json(event, named, time: Self.timestamp(ago: ago), own: hosts?.own))
      }
    }
  }

  /// The host, as a column, where hosts are shown.
  private mutating func column(_ params: JSONValue) -> String {
    guard let hosts else { return "" }
    let host = printable(params["host"]?.stringValue ?? hosts.own)
    self.hosts?.width = max(hosts.width, columns(of: host))
    return host + String(repeating: " ", count: max(0, hosts.width - columns(of: host)) + 2)
  }

  /// Says whose events are not told, and when they are again.
  private mutating func sayState(of params: JSONValue) {
    guard let host = params["host"]?.stringValue, let state = params["state"]?.stringValue else { return }
    if state == "heard" {
      if hosts?.unheard.remove(host) != nil { Descriptor.say("the events of host \(host) are told again") }
      return
    }
    hosts?.unheard.insert(host)
    Descriptor.say(Self.words(about: host, state, isOwn: host == hosts?.own))
  }

  /// Why the events of a host are not told.
  static func words(about host: String, _ state: String, isOwn: Bool) -> String {
    switch (state, isOwn) {
    case ("alone", _):
      "host \(host) cannot find out which others there are, so only its own events are told; sidelock doctor may know why"
    case ("left_out", true): "there are more hosts than host \(host) can ask; the events of some are not told"
    case ("left_out", false): "host \(host) tells its events to as many others as it can, and not to this one"
    case ("older", _): "the events of host \(host) are not told: its sidelockd is of a release that does not tell them"
    case ("silent", _): "host \(host) does not answer; its events are not told until it does"
    case ("gone", _): "host \(host) is gone"
    case _: "the events of host \(host) are not told (\(state))"
    }
  }

  private static func missed(_ params: JSONValue) -> String {
    let count = params["count"]?.intValue ?? 1
    return "missed    \(count) \(count == 1 ? "event was" : "events were") left out"
  }

  /// An event for programs: when it came, and what the daemon says of it, with a kind in any case.
  ///
  /// - Parameter own: this host, for what has no host and is shown with one.
  static func json(_ event: WatchEvent, _ params: JSONValue, time: String, own: String? = nil) -> String {
    switch event {
    case .lock: json(nil, params, time: time)
    case .backend: json("backend", params, time: time, own: own)
    case .draining: json("draining", params, time: time, own: own)
    }
  }

  private static func json(_ kind: JSONValue?, _ params: JSONValue, time: String, own: String? = nil) -> String {
    var object = JSONObject()
    object.append("time", .string(time))
    if let kind { object.append("kind", kind) }
    // The time tells its age.
    for member in params.objectValue?.members ?? [] where member.key != "watch" && member.key != "age_ms" {
      object.append(member.key, member.value)
    }
    if let own { object.append("host", .string(own)) }
    return JSONValue.object(object).serialized
  }

  /// Whom an event is about, in words; nil where the daemon tells no more than the session.
  static func who(_ params: JSONValue) -> String? {
    var one = LockDescription.Participant(params)
    guard one.pid != nil || one.uid != nil || one.client != nil else { return nil }
    // It has a column, or is this one.
    one.host = nil
    return HolderWords.participant(one, detail: .all)
  }

  /// An event for people.
  ///
  /// - Parameters:
  ///   - who: whom it is about, where that is known.
  ///   - withHost: whether the host that it tells of is one of the words.
  static func line(_ event: WatchEvent, of who: String? = nil, withHost: Bool = true) -> String {
    switch event {
    case .backend(.connected): return "Redis is connected"
    case .backend(.recovering): return "Redis has other data than before: nothing new is granted for a while"
    case .backend(let state): return state == .disconnected ? "Redis cannot be reached" : "Redis: \(state.rawValue)"
    case .draining: return "the daemon is about to stop"
    case .lock(let event):
      var words: [String] = []
      if let who { words.append(who) }
      if let session = event.session { words.append("session \(session)") }
      switch event.mode {
      case .shared: words.append("shared")
      case .permit(let capacity): words.append("a permit of \(capacity)")
      case .exclusive, nil: break
      }
      if let token = event.token { words.append("token \(token)") }
      if let reason = event.reason { words.append(reason) }
      if let waiters = event.waiters { words.append("\(waiters) waiting") }
      if withHost, let host = event.host { words.append("host \(host)") }
      let kind = event.kind + String(repeating: " ", count: max(0, 8 - event.kind.count))
      return "\(printable(kind))  \(printable(event.name))  \(printable(words.joined(separator: ", ")))"
    }
  }

  /// The local time, so many milliseconds ago.
  static func timeOfDay(ago milliseconds: Int64 = 0) -> String {
    var now = time_t(now(ago: milliseconds) / 1000)
    var parts = tm()
    localtime_r(&now, &parts)
    return timeOfDay(parts)
  }

  private static func timeOfDay(_ parts: tm) -> String {
    [parts.tm_hour, parts.tm_min, parts.tm_sec].map { twoDigits($0) }.joined(separator: ":")
  }

  private static func twoDigits(_ number: CInt) -> String { number < 10 ? "0\(number)" : "\(number)" }

  /// That moment as RFC 3339 writes it, in UTC and milliseconds.
  static func timestamp(ago milliseconds: Int64) -> String {
    let now = now(ago: milliseconds)
    return timestamp(seconds: Int(now / 1000), milliseconds: Int(now % 1000))
  }

  private static func now(ago milliseconds: Int64) -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return max(0, Int64(now.tv_sec) * 1000 + Int64(now.tv_nsec) / 1_000_000 - milliseconds)
  }

  static func timestamp(seconds: Int, milliseconds: Int) -> String {
    var (seconds, parts) = (time_t(seconds), tm())
    gmtime_r(&seconds, &parts)
    let day = "\(parts.tm_year + 1900)-\(twoDigits(parts.tm_mon + 1))-\(twoDigits(parts.tm_mday))"
    return "\(day)T\(timeOfDay(parts)).\(String(milliseconds + 1000).dropFirst())Z"
  }
}

struct BreakCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "break",
    abstract: "Take a lock away from those who hold it, on whatever host.",
    discussion: """
      For administrators. Each client that loses the lock is told at once, with the reason; sidelock run ends its \
      command. The lock goes to whoever waits for it, so be sure that the holder does no harm any more. The daemon's log \
      tells who broke what, and why.

      A host that has died or does not answer, and a process that does not use sidelock, cannot be told: the lock is taken \
      from them in Redis. They may still run, and believe that they have the lock; a message on standard error says who, \
      and for how long. Nothing is taken from a daemon of a later release: break it on a host that runs that release.

      Prints the tokens of the holds that are no more: one a line on a terminal, in a pipe as a JSON object.

      EXIT STATUS
        0     at least one hold was broken, or taken from a holder who could not be told
        1     nobody held the lock, or not under that token
        68    Redis does not answer or refuses, and …
        69    … no daemon listens or answers: the lock may be broken all the same, and a
              message says so
        77    the daemon refused for lack of a right

      EXAMPLES
        sidelock break deploy --reason "host rebooted by hand"
        sidelock break deploy --token 1764000000000001
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(help: "The lock's name.", completion: LockNames.completion)
  var name: String

  @Option(help: "Only the hold of this token, which inspect shows.")
  var token: Int64?

  @Option(help: ArgumentHelp("Words for who loses the lock, and for the log (up to 256 bytes).", valueName: "text"))
  var reason: String?

  mutating func validate() throws {
    name = try protocolText(name, "NAME")
    reason = try reason.map { try protocolText($0, "--reason") }
    guard (1...512).contains(name.utf8.count) else { throw ValidationError("NAME must have 1 to 512 bytes.") }
    if let token, token < 1 { throw ValidationError("--token must be greater than 0.") }
    if let reason, reason.utf8.count > 256 { throw ValidationError("--reason may have up to 256 bytes.") }
  }

  /// What the daemon is asked to break: `token` alone where it is given.
  static func params(name: String, token: Int64?, reason: String?) -> JSONValue {
    var params = JSONObject()
    params.append("name", .string(name))
    if let token { params.append("token", .int(token)) }
    if let reason { params.append("reason", .string(reason)) }
    return .object(params)
  }

  func run() throws {
    let params = Self.params(name: name, token: token, reason: reason)
    let result = try connection.reportingErrors {
      let daemon = try connection.open()
      return try SidelockError.tellingWhatMayBeDone("break") { try daemon.call("break", params) }
    }
    let broken = result["broken"]?.arrayValue ?? []
    if output.isForPeople {
      for token in broken { try Descriptor.print(token.serialized) }
    } else {
      try Descriptor.print(result.serialized)
    }
    let taken = result["taken"]?.arrayValue ?? []
    for one in taken { Descriptor.say(Self.warning(of: one)) }
    if broken.isEmpty && taken.isEmpty {
      Descriptor.say(Self.nobody(holds: name, under: token))
      throw ExitCode(ExitStatus.conflict)
    }
  }

  static func nobody(holds name: String, under token: Int64?) -> String {
    "nobody holds the lock \(printable(name))\(token == nil ? "" : " under that token")"
  }

  /// The holders that could not be told of their loss, and for how long that may matter.
  static func warning(of taken: JSONValue) -> String {
    let host = taken["host"]?.stringValue.map { "the host \(printable($0))" }
    let holder = host ?? "a process that does not use sidelock"
    let why =
      switch taken["reason"]?.stringValue {
      case "host_gone": ", which has died or is cut off"
      case "host_silent": ", which does not answer"
      case "no_ttl": ", which knows nothing of it"
      default: ""
      }
    let end = taken["might_run_ms"]?.intValue.map { " for up to \(readable(milliseconds: $0))" } ?? ""
    return "taken in Redis from \(holder)\(why); whoever held it there was not told and may go on\(end)"
  }
}
