import ArgumentParser
import CSupervise
import Glibc
import SidelockClient
import ProcessSupport

struct CallCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "call",
    abstract: "Send one request of the protocol and print its result.",
    discussion: """
      Prints the result as JSON on a line; notifications that come meanwhile are printed as they come, each as an \
      object with method and params. An error is told on standard error, and by the exit status as with run.

      A lock that is acquired this way is held, and notifications are printed, until standard input ends \
      (Ctrl-D), or the lock is lost (status 125), also because the daemon is killed, or hangs for so long that the lock \
      could be lost. A watch lasts as long, and ends when the daemon does not answer. Ctrl-Z while it waits withdraws the wait, and \
      fg asks anew.

      EXAMPLES
        sidelock call stats
        sidelock call acquire '{"name":"deploy","progress":true}'
        sidelock call rpc.discover | jq -r '.methods[].name'
      """)

  @OptionGroup var connection: ConnectionOptions

  @Argument(help: "The method.")
  var method: String

  @Argument(help: "Its parameters, a JSON object.")
  var params: String?

  mutating func validate() throws {
    method = try protocolText(method, "METHOD")
    params = try params.map { try protocolText($0, "PARAMS") }
    do {
      _ = try params.map { try JSONValue(parsing: $0) }
    } catch {
      throw ValidationError("PARAMS is not JSON: \(error)")
    }
  }

  func run() throws {
    let value = try params.map { try JSONValue(parsing: $0) }
    try connection.reportingErrors {
      if method == "acquire" {
        let acquire = try WaitingAcquire(value, connection: connection) { try show($0) }
        let granted = try acquire.run()
        // A token that cannot be printed is given back: the error ends the connection.
        try Descriptor.print(granted.result.serialized)
        let held = HeldLocks(granted.result) ?? HeldLocks()
        try showWhileHeld(granted, held: held)
      } else {
        let daemon = try connection.open()
        // Input that is there by then is not read; only its end afterwards counts.
        let (result, rest) = try SidelockError.tellingWhatMayBeDone(method) {
          try daemon.answer(to: daemon.request(method, value)) { try show($0) }
        }
        try Descriptor.print(result.serialized)
        for event in rest { try show(event) }
        if method == "watch" { try showUntilInputEnds(daemon) }
      }
    }
  }

  /// Shows what comes, until standard input ends.
  private func showUntilInputEnds(_ daemon: DaemonConnection) throws {
    while true {
      let (events, isReadable) = try daemon.readWhileAlive(input: STDIN_FILENO)
      if isReadable, (try? Descriptor.read(STDIN_FILENO)) ?? [] == [] { return }
      for event in events { try show(event) }
    }
  }

  /// Shows what comes until standard input ends, or until a lock of `held` is lost or could be (``RunTimeline``).
  private func showWhileHeld(_ granted: WaitingAcquire.Outcome, held: HeldLocks) throws {
    let keeper = HeldKeeper(granted: granted, held: held) { try show($0) }
    switch try keeper.keep(input: STDIN_FILENO, isEnd: { ((try? Descriptor.read(STDIN_FILENO)) ?? []) == [] }) {
    case .input: return
    case .told: throw ExitCode(ExitStatus.lost)
    case .unknown(let words, _): throw lost(granted.result, words)
    }
  }

  /// Says what is lost, and why; the end of the process ends the session.
  private func lost(_ result: JSONValue, _ reason: String) -> ExitCode {
    let names = (result["locks"]?.arrayValue ?? [result]).compactMap { $0["name"]?.stringValue }
    Descriptor.say("lost \(names.map { printable($0) }.joined(separator: ", ")): \(reason)")
    if let words = ServiceState.words(path: connection.path) { Descriptor.say(words) }
    return ExitCode(ExitStatus.lost)
  }

  private func show(_ event: ClientMachine.Event) throws {
    switch event {
    case .reply: break
    case .lost(let notice): try show(notice)
    case .notification(let method, let params): try show(method, params)
    case .violated(let error): throw error
    }
  }

  private func show(_ notice: LostNotice) throws(OutputError) {
    var params = JSONObject()
    params.append("name", .string(notice.name))
    params.append("token", .int(notice.token))
    params.append("reason", .string(notice.reason))
    params.append("grace_ms", notice.graceMilliseconds.map { .int($0) } ?? .null)
    if let detail = notice.detail { params.append("detail", .string(detail)) }
    try show("lost", .object(params))
  }

  private func show(_ method: String, _ params: JSONValue) throws(OutputError) {
    let message: JSONValue = ["method": .string(method), "params": params]
    try Descriptor.print(message.serialized)
  }
}
