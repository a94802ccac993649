import ArgumentParser
import SidelockClient

struct HostsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hosts",
    abstract: "List the hosts that share Redis with this one.",
    discussion: """
      The hosts whose daemons are connected to the same Redis under the same key_prefix, with their versions: a table on \
      a terminal, in a pipe a JSON array with one host a line. Without Redis it is this host. Who may not inspect \
      every lock sees this host alone.

      EXAMPLES
        sidelock hosts
        sidelock hosts | jq -r '.[] | select(.version == null) | .host'
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    try connection.reportingErrors {
      let hosts = try connection.open().pages(of: "hosts")
      try output.show(hosts) { Self.table(hosts) }
    }
  }

  static func table(_ hosts: [JSONValue]) -> Table {
    var table = Table(headings: ["HOST", "VERSION", "INSTANCE", "NOTE"])
    for host in hosts {
      let version = host["version"]?.stringValue
      table.append([
        host["host"]?.stringValue ?? "-", version ?? "-", host["instance"]?.stringValue ?? "-",
        host["own"]?.boolValue == true ? "this host" : version == nil ? "does not answer" : "",
      ])
    }
    return table
  }
}
