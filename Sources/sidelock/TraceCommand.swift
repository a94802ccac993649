import ArgumentParser
import ProcessSupport
import SidelockClient

struct TraceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "trace",
    abstract: "Show what a client and the daemon say to each other, or all that is said about a lock.",
    discussion: """
      For administrators: who may inspect and break every lock. Shows each message as it comes, one a line, until it is interrupted, \
      the daemon ends, or all that was to be traced has ended, which a message on standard error says. A trace of a lock goes on. \
      The client notices nothing of it. Messages that this command does not read in time are left out and counted.

      On a terminal a line has the time, the session, > for what the client says and < for what the daemon says, and the \
      message; in a pipe it is a JSON object with time, session, direction (in, out), kind (request, reply, notification, end, \
      missed) and message. Notes (meta) and the client's own annotations are not shown. Of a message that is longer than 16 KiB, \
      or no JSON, there is its length alone (bytes).

      EXIT STATUS
        0     what was to be traced has ended
        1     this host has no such session, or no client of that process
        69    no daemon listens or answers, or it has ended
        77    the daemon refused for lack of a right

      EXAMPLES
        sidelock trace 17
        sidelock trace --pid 4711
        sidelock trace --lock deploy | jq -c 'select(.kind == "request")'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(help: "The session, as clients, list and inspect show it.")
  var session: String?

  @Option(help: ArgumentHelp("All sessions of this process, later ones too.", valueName: "pid"))
  var pid: Int64?

  @Option(help: ArgumentHelp("All messages about this lock.", valueName: "name"))
  var lock: String?

  mutating func validate() throws {
    session = try session.map { try protocolText($0, "SESSION") }
    lock = try lock.map { try protocolText($0, "--lock") }
    guard [session != nil, pid != nil, lock != nil].filter({ $0 }).count == 1 else {
      throw ValidationError("Give one of SESSION, --pid and --lock.")
    }
    guard 1...64 ~= session?.utf8.count ?? 1 else { throw ValidationError("SESSION must have 1 to 64 bytes.") }
    guard 1...Int64(Int32.max) ~= pid ?? 1 else { throw ValidationError("--pid must be the number of a process.") }
    guard 1...512 ~= lock?.utf8.count ?? 1 else { throw ValidationError("--lock must have 1 to 512 bytes.") }
  }

  private var params: JSONValue {
    if let pid { return ["pid": .int(pid)] }
    if let lock { return ["name": .string(lock)] }
    return ["session": .string(session ?? "")]
  }

  func run() throws {
    let isForPeople = output.isForPeople
    do {
      try connection.reportingErrors {
        try connection.open().follow("trace", params) { try Self.show($0, $1, isForPeople: isForPeople) }
      }
    } catch let code as ExitCode where code.rawValue == ExitStatus.usage {
      // The only mistake that the daemon can find in such a request.
      throw ExitCode(ExitStatus.conflict)
    }
  }

  /// Shows what the daemon tells; true when nothing more comes.
  private static func show(_ method: String, _ params: JSONValue, isForPeople: Bool) throws(OutputError) -> Bool {
    let kind = method == "missed" ? method : params["kind"]?.stringValue ?? ""
    guard method == "traced" || method == "missed" else { return false }
    if kind == "over" {
      Descriptor.say("the trace is over")
      return true
    }
    if kind == "end" { Descriptor.say("session \(params["session"]?.stringValue ?? "") has ended") }
    if isForPeople {
      if kind != "end" { try Descriptor.print("\(ShownEvents.timeOfDay())  \(line(kind, params))") }
    } else {
      try Descriptor.print(json(kind, params, time: ShownEvents.timestamp(ago: 0)))
    }
    return false
  }

  /// A message for programs.
  static func json(_ kind: String, _ params: JSONValue, time: String) -> String {
    var object = JSONObject()
    object.append("time", .string(time))
    if let session = params["session"] { object.append("session", session) }
    switch kind {
    case "request": object.append("direction", "in")
    case "reply", "notification": object.append("direction", "out")
    case _: break
    }
    object.append("kind", .string(kind))
    for key in ["count", "bytes", "message"] {
      if let value = params[key] { object.append(key, value) }
    }
    return JSONValue.object(object).serialized
  }

  /// A message for people.
  static func line(_ kind: String, _ params: JSONValue) -> String {
    if kind == "missed" {
      let count = params["count"]?.intValue ?? 1
      return "\(count) \(count == 1 ? "message was" : "messages were") left out"
    }
    let arrow = kind == "request" ? ">" : "<"
    return printable("\(params["session"]?.stringValue ?? "?")  \(arrow) \(words(params))")
  }

  private static func words(_ params: JSONValue) -> String {
    guard let message = params["message"] else { return "(\(params["bytes"]?.intValue ?? 0) bytes)" }
    var words: [String] = []
    if let id = message["id"] { words.append(id.serialized) }
    if let method = message["method"]?.stringValue { words.append(method) }
    for key in ["params", "result"] { if let value = message[key] { words.append(value.serialized) } }
    if let error = message["error"] {
      let reason = error["data"]?["reason"]?.stringValue ?? error["code"]?.serialized ?? ""
      words.append("error \(reason): \(error["message"]?.stringValue ?? "")")
    }
    return words.isEmpty ? message.serialized : words.joined(separator: " ")
  }
}
