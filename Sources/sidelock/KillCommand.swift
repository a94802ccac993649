import ArgumentParser
import SidelockClient

struct KillCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "kill",
    abstract: "End the connection of a client, and with it all that it holds and waits for.",
    discussion: """
      For administrators: who may break every lock. The client sees its connection end; what it held is free for others \
      at once, so be sure that it does no harm any more. sidelock run ends its command. A client that connects again \
      is another session. The daemon's log tells who ended which, and why.

      Prints the session: on a terminal in words, in a pipe as a JSON object.

      EXIT STATUS
        0     the session is ended
        1     this host has no such session
        69    no daemon listens or answers
        77    the daemon refused for lack of a right

      EXAMPLES
        sidelock kill 17 --reason "hangs since noon"
        sidelock clients | jq -r '.[] | select(.pid == 4711) | .session' | xargs -r -n 1 sidelock kill
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(help: "The session, as clients, list and inspect show it.")
  var session: String

  @Option(help: ArgumentHelp("Words for the log (up to 256 bytes).", valueName: "text"))
  var reason: String?

  mutating func validate() throws {
    session = try protocolText(session, "SESSION")
    reason = try reason.map { try protocolText($0, "--reason") }
    guard (1...64).contains(session.utf8.count) else { throw ValidationError("SESSION must have 1 to 64 bytes.") }
    if let reason, reason.utf8.count > 256 { throw ValidationError("--reason may have up to 256 bytes.") }
  }

  func run() throws {
    var params = JSONObject()
    params.append("session", .string(session))
    if let reason { params.append("reason", .string(reason)) }
    do {
      let result = try connection.reportingErrors { try connection.open().call("kill", .object(params)) }
      try Descriptor.print(output.isForPeople ? "session \(printable(session)) is ended" : result.serialized)
    } catch let code as ExitCode where code.rawValue == ExitStatus.usage {
      // The only mistake that the daemon can find in such a request.
      throw ExitCode(ExitStatus.conflict)
    }
  }
}
