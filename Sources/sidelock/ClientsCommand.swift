import ArgumentParser
import SidelockClient

struct ClientsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "clients",
    abstract: "List who is connected to the daemon.",
    discussion: """
      One connection a line, in the order in which they came: a table on a terminal, in a pipe a JSON array. This \
      command is one of them. Who may not inspect every lock sees the connections of their own user.

      EXAMPLES
        sidelock clients
        sidelock clients | jq '.[] | select(.waits > 0) | .pid'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    try connection.reportingErrors {
      var users = KnownUsers()
      let clients = try connection.open().pages(of: "clients").map { users.named($0) }
      try output.show(clients) { Self.table(clients) }
    }
  }

  static func table(_ clients: [JSONValue]) -> Table {
    var table = Table(
      headings: ["SESSION", "PID", "USER", "COMMAND", "UNIT", "HOLDS", "WAITS"], rightAligned: [0, 1, 5, 6])
    for client in clients {
      let number = { (key: String) in client[key]?.intValue.map { "\($0)" } }
      table.append([
        client["session"]?.stringValue ?? "-", number("pid") ?? "-",
        client["user"]?.stringValue ?? number("uid") ?? "-",
        HolderWords.program(of: LockDescription.Participant(client)) ?? "-",
        client["unit"]?.stringValue ?? "-", number("holds") ?? "-", number("waits") ?? "-",
      ])
    }
    return table
  }
}
