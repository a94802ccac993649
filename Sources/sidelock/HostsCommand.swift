import ArgumentParser
import SidelockClient

struct HostsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hosts",
    abstract: "List the hosts that share Redis with this one.",
    discussion: """
      The hosts whose daemons are connected to the same Redis under the same key_prefix, with their versions: a table on \
      a terminal, in a pipe a JSON array with one host a line. Without Redis it is this host. Who may not inspect \
      every lock sees this host alone. Of daemons that have one name, which nobody can tell apart, standard error says so.

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
      for name in Self.namesOfSeveral(hosts) {
        Descriptor.say(
          "several daemons have the name \(printable(name)): give each one of its own: \(Self.ownNameFix)")
      }
    }
  }

  /// The command that gives a daemon a name of its own. The file may have one already, as in a copied container, and no end
  /// of its last line: a daemon does not start with a name given twice.
  static let ownNameFix =
    "sed -i 's/^host:.*//' /etc/sidelock/sidelockd.yaml; printf '\\nhost: NAME\\n' >>/etc/sidelock/sidelockd.yaml "
    + "&& systemctl restart sidelockd"

  /// The names that several hosts have that answer. One that does not may be a daemon that was killed a moment ago.
  static func namesOfSeveral(_ hosts: [JSONValue]) -> [String] {
    let names = hosts.filter { $0["version"]?.stringValue != nil }.compactMap { $0["host"]?.stringValue }
    return Dictionary(grouping: names) { $0 }.filter { $0.value.count > 1 }.keys.sorted()
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
