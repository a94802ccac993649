import ArgumentParser
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

  func validate() throws {
    do {
      _ = try params.map { try JSONValue(parsing: $0) }
    } catch {
      throw ValidationError("PARAMS is not JSON: \(error)")
    }
  }

  func run() throws {
    let value = try params.map { try JSONValue(parsing: $0) }
    try reportingErrors {
      let daemon = try connection.open()
      let id = try daemon.request(method, value)
      var held: [Int64] = []
      var isWatching = false
      var isAnswered = false
      // Input that is there before the reply is left alone, so that only its end after the grant counts.
      while !isAnswered || !held.isEmpty || isWatching {
        if isAnswered, try !waitForDaemon(daemon) { return }
        for event in try daemon.read() {
          switch event {
          case .reply(id, let result):
            let value = try result.get()
            Descriptor.print(value.serialized)
            isAnswered = true
            isWatching = method == "watch"
            if method == "acquire" {
              held = (value["locks"]?.arrayValue ?? [value]).compactMap { $0["token"]?.intValue }
            }
          case .reply: break
          case .lost(let notice):
            show(notice)
            if held.contains(notice.token) { throw ExitCode(ExitStatus.lost) }
          case .notification(let method, let params): show(method, params)
          case .violated(let error): throw error
          }
        }
      }
    }
  }

  private func show(_ notice: LostNotice) {
    var params = JSONObject()
    params.append("name", .string(notice.name))
    params.append("token", .int(notice.token))
    params.append("reason", .string(notice.reason))
    params.append("grace_ms", notice.graceMilliseconds.map { .int($0) } ?? .null)
    if let detail = notice.detail { params.append("detail", .string(detail)) }
    show("lost", .object(params))
  }

  private func show(_ method: String, _ params: JSONValue) {
    let message: JSONValue = ["method": .string(method), "params": params]
    Descriptor.print(message.serialized)
  }

  /// Waits for the daemon to send something; false when standard input has ended.
  private func waitForDaemon(_ daemon: DaemonConnection) throws -> Bool {
    while true {
      var entries = [
        pollfd(fd: daemon.descriptor, events: Int16(POLLIN), revents: 0),
        pollfd(fd: STDIN_FILENO, events: Int16(POLLIN), revents: 0),
      ]
      guard poll(&entries, 2, -1) > 0 else { continue }
      if entries[0].revents != 0 { return true }
      if entries[1].revents != 0 {
        let input = (try? Descriptor.read(STDIN_FILENO)) ?? []
        if input.isEmpty { return false }
      }
    }
  }
}
