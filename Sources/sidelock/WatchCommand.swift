import ArgumentParser
import Glibc
import SidelockClient
import ProcessSupport

struct WatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "watch",
    abstract: "Show what happens to locks on this host, as it happens.",
    discussion: """
      Shows one event a line until it is interrupted or the daemon ends: for people on a terminal, in a pipe each as a \
      JSON object with the time. An event of another host is seen there; here it is only told that another host has a lock (remote).

      EVENTS
        acquired   a client got the lock
        released   a client gave it back, or ended
        lost       a client lost it
        waiting    a client began to wait
        gave_up    a wait ended without success
        remote     another host is known to hold the lock
        backend    the daemon has lost Redis, or has it again, or met other data
                   there than before
        draining   the daemon is about to stop

      EXIT STATUS
        69    no daemon listens or answers, or it has ended
        77    the daemon refused for lack of a right

      EXAMPLES
        sidelock watch deploy
        sidelock watch 'deploy/*'
        sidelock watch | jq -r 'select(.kind == "lost") | .name'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(
    help: "A lock's name; with * at its end all names that begin so. All locks unless told.",
    completion: LockNames.completion)
  var name: String?

  @Flag(help: "Take NAME as it is, even with * at its end.")
  var exact = false

  var target: WatchTarget {
    guard let name else { return .prefix("") }
    // Compare bytes: the * may form one character with what stands before it.
    guard !exact, name.utf8.last == UInt8(ascii: "*") else { return .name(name) }
    return .prefix(String(decoding: name.utf8.dropLast(), as: UTF8.self))
  }

  mutating func validate() throws {
    name = try name.map { try protocolText($0, "NAME") }
  }

  func run() throws {
    let isForPeople = output.isForPeople
    try connection.reportingErrors {
      let daemon = try connection.open()
      let id = try daemon.request("watch", target.params)
      try daemon.askForLife()
      while true {
        for event in try daemon.readWhileAlive().events {
          switch event {
          case .reply(id, let result): _ = try result.get()
          case .notification(let method, let params): try Self.show(method, params, isForPeople: isForPeople)
          case .violated(let error): throw error
          case .reply, .lost: break
          }
        }
      }
    }
  }

  private static func show(_ method: String, _ params: JSONValue, isForPeople: Bool) throws(OutputError) {
    guard let (event, _) = WatchEvent.event(method: method, params: params) else { return }
    try Descriptor.print(isForPeople ? "\(timeOfDay())  \(line(event))" : json(event, params, time: timestamp()))
  }

  /// An event for programs: when it came, and what the daemon says of it, with a kind in any case.
  static func json(_ event: WatchEvent, _ params: JSONValue, time: String) -> String {
    var object = JSONObject()
    object.append("time", .string(time))
    switch event {
    case .lock: break
    case .backend: object.append("kind", "backend")
    case .draining: object.append("kind", "draining")
    }
    for member in params.objectValue?.members ?? [] where member.key != "watch" {
      object.append(member.key, member.value)
    }
    return JSONValue.object(object).serialized
  }

  /// An event for people.
  static func line(_ event: WatchEvent) -> String {
    switch event {
    case .backend(.connected): return "Redis is connected"
    case .backend(.recovering): return "Redis has other data than before: nothing new is granted for a while"
    case .backend(let state): return state == .disconnected ? "Redis cannot be reached" : "Redis: \(state.rawValue)"
    case .draining: return "the daemon is about to stop"
    case .lock(let event):
      var words: [String] = []
      if let session = event.session { words.append("session \(session)") }
      switch event.mode {
      case .shared: words.append("shared")
      case .permit(let capacity): words.append("a permit of \(capacity)")
      case .exclusive, nil: break
      }
      if let token = event.token { words.append("token \(token)") }
      if let reason = event.reason { words.append(reason) }
      if let waiters = event.waiters { words.append("\(waiters) waiting") }
      if let host = event.host { words.append("host \(host)") }
      let kind = event.kind + String(repeating: " ", count: max(0, 8 - event.kind.count))
      return "\(printable(kind))  \(printable(event.name))  \(printable(words.joined(separator: ", ")))"
    }
  }

  private static func timeOfDay() -> String {
    var now = time(nil)
    var parts = tm()
    localtime_r(&now, &parts)
    return timeOfDay(parts)
  }

  private static func timeOfDay(_ parts: tm) -> String {
    [parts.tm_hour, parts.tm_min, parts.tm_sec].map { twoDigits($0) }.joined(separator: ":")
  }

  private static func twoDigits(_ number: CInt) -> String { number < 10 ? "0\(number)" : "\(number)" }

  /// The moment as RFC 3339 writes it, in UTC and milliseconds.
  private static func timestamp() -> String {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return timestamp(seconds: now.tv_sec, milliseconds: now.tv_nsec / 1_000_000)
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

  func run() throws {
    var params = JSONObject()
    params.append("name", .string(name))
    if let token { params.append("token", .int(token)) }
    if let reason { params.append("reason", .string(reason)) }
    let result = try connection.reportingErrors {
      let daemon = try connection.open()
      return try SidelockError.tellingWhatMayBeDone("break") { try daemon.call("break", .object(params)) }
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
      Descriptor.say("nobody holds the lock \(printable(name))\(token == nil ? "" : " under that token")")
      throw ExitCode(ExitStatus.conflict)
    }
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
