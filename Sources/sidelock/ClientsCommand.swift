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
      var names: [Int64: String?] = [:]
      let clients = try connection.open().pages(of: "clients").map { client in
        guard let uid = client["uid"]?.intValue else { return client }
        // Many are of one user, and each look may ask a directory service.
        let name = names[uid] ?? Users.name(of: uid)
        names[uid] = .some(name)
        return Self.with(user: name, client)
      }
      try output.show(clients) { Self.table(clients) }
    }
  }

  /// A client with the name of its user, where that is known.
  static func with(user name: String?, _ client: JSONValue) -> JSONValue {
    guard let name else { return client }
    var object = JSONObject()
    for member in client.objectValue?.members ?? [] {
      object.append(member.key, member.value)
      if member.key == "uid" { object.append("user", .string(name)) }
    }
    return .object(object)
  }

  static func table(_ clients: [JSONValue]) -> Table {
    var table = Table(
      headings: ["SESSION", "PID", "USER", "COMMAND", "UNIT", "HOLDS", "WAITS"], rightAligned: [0, 1, 5, 6])
    for client in clients {
      let number = { (key: String) in client[key]?.intValue.map { "\($0)" } }
      table.append([
        client["session"]?.stringValue ?? "-", number("pid") ?? "-",
        client["user"]?.stringValue ?? number("uid") ?? "-", client["command"]?.stringValue ?? "-",
        client["unit"]?.stringValue ?? "-", number("holds") ?? "-", number("waits") ?? "-",
      ])
    }
    return table
  }
}

extension DaemonConnection {
  /// All that a method tells page by page. `items`: the member that has them; unless told, it is called like the method.
  func pages(of method: String, _ items: String? = nil) throws -> [JSONValue] {
    var found: [JSONValue] = []
    var cursor: JSONValue?
    while true {
      var params = JSONObject()
      if let cursor { params.append("cursor", cursor) }
      let page = try call(method, .object(params))
      found += page[items ?? method]?.arrayValue ?? []
      // A cursor that does not move would ask for the same page for ever.
      guard let next = page["cursor"], !next.isNull, next != cursor else { return found }
      cursor = next
    }
  }
}
