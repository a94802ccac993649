import ArgumentParser
import CSupervise
import Glibc
import SidelockClient

struct CallCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "call",
    abstract: "Send one request of the protocol and print its result.",
    discussion: """
      Prints the result as JSON on a line; notifications that come meanwhile are printed as they come, each as an \
      object with method and params. An error is told on standard error, and by the exit status as with run.

      A lock that is acquired this way is held, and notifications are printed, until standard input ends \
      (Ctrl-D), or the lock is lost (status 125). So it is with a watch.

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
      let daemon = try connection.open()
      let end = answerEnd(value)
      let id = try daemon.request(method, value)
      try daemon.askForLife()
      var held: [Int64] = []
      var isWatching = false
      var isAnswered = false
      // Input that is there before the reply is left alone, so that only its end after the grant counts.
      while !isAnswered || !held.isEmpty || isWatching {
        let (events, isReadable) = try daemon.readWhileAlive(
          input: isAnswered ? STDIN_FILENO : -1, until: isAnswered ? nil : end, isHolding: !held.isEmpty)
        if isReadable, (try? Descriptor.read(STDIN_FILENO)) ?? [] == [] { return }
        if !isAnswered, events.isEmpty, let end, supervise_boot_milliseconds() >= end {
          throw DaemonConnection.noAnswer(within: DaemonConnection.answerMilliseconds)
        }
        for event in events {
          switch event {
          case .reply(id, let result):
            let value = try result.get()
            // A token that cannot be told is given back: the error ends the connection.
            try Descriptor.print(value.serialized)
            isAnswered = true
            isWatching = method == "watch"
            if method == "acquire" {
              held = (value["locks"]?.arrayValue ?? [value]).compactMap { $0["token"]?.intValue }
            }
          case .reply: break
          case .lost(let notice):
            try show(notice)
            if held.contains(notice.token) { throw ExitCode(ExitStatus.lost) }
          case .notification(let method, let params): try show(method, params)
          case .violated(let error): throw error
          }
        }
      }
    }
  }

  /// When the answer must have come, whatever the daemon does; nil for a wait without limit, during which it is only
  /// asked whether it lives.
  private func answerEnd(_ params: JSONValue?) -> Int64? {
    let soon = supervise_boot_milliseconds() + DaemonConnection.answerMilliseconds
    guard method == "acquire" else { return soon }
    guard let wait = params?["wait_ms"]?.intValue else { return nil }
    return soon + min(max(0, wait), Duration.protocolMillisecondsMax)
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
