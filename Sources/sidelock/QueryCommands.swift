import ArgumentParser
import Glibc
import ProcessSupport
import SidelockClient

/// Whether to write for people rather than for programs.
struct OutputOptions: ParsableArguments {
  @Flag(help: "Print JSON on a terminal, too; in a pipe it is always JSON.")
  var json = false

  var isForPeople: Bool { !json && isatty(STDOUT_FILENO) == 1 }

  /// Prints a list: the table for people, for programs an array with one object a line.
  func show(_ items: [JSONValue], _ table: () -> Table) throws(OutputError) {
    if isForPeople {
      for line in table().lines(within: Table.charactersMax) { try Descriptor.print(line) }
    } else {
      let lines = items.map(\.serialized).joined(separator: ",\n")
      try Descriptor.print(lines.isEmpty ? "[]" : "[\n\(lines)\n]")
    }
  }
}

struct ListCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "list",
    abstract: "List locks.",
    discussion: """
      Shows the locks that this host holds, waits for or keeps idle, or with --all every lock in Redis: a table on a \
      terminal, in a pipe a JSON array with one lock a line. A lock whose lease is idle is free. The table has up to 80 \
      columns; inspect shows what it cuts, and the rest.

      Of a lock that another host has, while somebody waits for it here, that host alone is known; --all asks it.

      With --user, --unit and --older only locks are shown that have a holder of whom all of that is true. WAITING and \
      --waiters are about this host.

      EXAMPLES
        sidelock list --prefix deploy/
        sidelock list --older 3600 --waiters --sort held
        sidelock list --all | jq -r '.[].name'
      """)

  /// What comes first.
  enum Order: String, CaseIterable, ExpressibleByArgument {
    /// By their names.
    case name
    /// The one that has been held for longest.
    case held
    /// The one that most wait for.
    case waiting
  }

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(help: "Only names that begin with this.")
  var prefix: String?

  @Flag(name: .shortAndLong, help: "The locks of all hosts.")
  var all = false

  @OptionGroup var filter: HolderFilter

  @Flag(help: "Only locks that somebody waits for.")
  var waiters = false

  @Option(help: "What comes first: name, held (for longest) or waiting (most).")
  var sort = Order.name

  mutating func validate() throws {
    prefix = try prefix.map { try protocolText($0, "--prefix") }
  }

  /// The locks that are to be shown, in their order.
  func chosen(_ locks: [LockDescription]) -> [LockDescription] {
    let chosen = locks.filter { lock in
      (!waiters || lock.waiting > 0) && (filter.isEmpty || lock.holders.contains(where: filter.accepts))
    }
    return Self.sorted(chosen, by: sort)
  }

  static func sorted(_ chosen: [LockDescription], by order: Order) -> [LockDescription] {
    switch order {
    case .name: return chosen.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
    case .held: return chosen.sorted { $0.heldMilliseconds > $1.heldMilliseconds }
    case .waiting: return chosen.sorted { $0.waiting > $1.waiting }
    }
  }

  func run() throws {
    try connection.reportingErrors {
      let locks = chosen(try connection.open().locks(prefix: prefix, allHosts: all))
      var users = KnownUsers()
      try output.show(locks.map { users.named(inLock: $0.json) }) { Self.table(locks) }
    }
  }

  static func table(_ locks: [LockDescription], withUsers: Bool = true) -> Table {
    let user = withUsers ? ["USER"] : []
    let headings = ["NAME", "MODE", "HOLDER"] + user + ["UNIT", "HELD", "WAITING", "LEASE"]
    var table = Table(headings: headings, rightAligned: [4 + user.count, 5 + user.count])
    var users = withUsers ? KnownUsers() : nil
    for lock in locks {
      append(lock, lock.holders.first, &users, to: &table)
      for holder in lock.holders.dropFirst() { append(nil, holder, &users, to: &table) }
    }
    return table
  }
}

extension ListCommand {
  /// A row for a holder; the lock itself stands in the row of its first one.
  private static func append(
    _ lock: LockDescription?, _ holder: LockDescription.Participant?, _ users: inout KnownUsers?, to table: inout Table
  ) {
    // In the queue behind a holder whom Redis has not named.
    let nobody = lock?.leaseState == "waiting" ? "another host" : "-"
    let mode: String = lock.map { $0.modeInWords ?? "-" } ?? ""
    let user: String = holder?.uid.flatMap { users?.words($0) } ?? "-"
    let held: String = holder?.heldMilliseconds.map(readable) ?? "-"
    let waiting: String = lock.map { "\($0.waiting)" } ?? ""
    let lease: String = lock.map { $0.leaseState ?? "-" } ?? ""
    let users = users == nil ? [] : [user]
    table.append(
      [lock?.name ?? "", mode, holder?.summary ?? nobody] + users + [holder?.unit ?? "-", held, waiting, lease])
  }
}

extension LockDescription {
  /// For how long the one has it who has had it for longest; -1 when nobody known has it.
  var heldMilliseconds: Int64 { holders.compactMap(\.heldMilliseconds).max() ?? -1 }

  /// Whether some words are in its name, or in what is told of a holder in a line; true of no words.
  func mentions(_ words: String) -> Bool {
    words.isEmpty || name.contains(words) || holders.contains { $0.summary.contains(words) }
  }

  /// How it is held, in a few words; nil when it is free.
  var modeInWords: String? {
    if let permits { return "\(permits) permit\(permits == 1 ? "" : "s")" }
    return mode
  }
}

extension LockDescription.Participant {
  /// How often its owner has acquired the lock, where that is more than once.
  var times: String {
    if let count, count > 1 { ", \(count) times" } else { "" }
  }

  /// Who it is, in a few words; only the beginning of a long command line.
  var summary: String {
    if isForeign { return "not a sidelock client" }
    let name = HolderWords.program(of: self)
    let process = [name, pid.map { "pid \($0)" }].compactMap { $0 }.joined(separator: ", ")
    switch (process.isEmpty, host) {
    case (true, let host): return (host ?? "-") + (isDead ? " (dead)" : "")
    case (false, let host?): return "\(process) on \(host)"
    case (false, nil): return process
    }
  }
}

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "Show who holds a lock and who waits for it.",
    discussion: """
      EXAMPLE
        sidelock inspect deploy | jq .holders
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Argument(help: "The lock's name.", completion: LockNames.completion)
  var name: String

  mutating func validate() throws {
    name = try protocolText(name, "NAME")
  }

  func run() throws {
    try connection.reportingErrors {
      let result = try connection.open().call("inspect", ["name": .string(name)])
      guard output.isForPeople else {
        var users = KnownUsers()
        return try Descriptor.print(users.named(inLock: result).serialized)
      }
      for line in Self.lines(LockDescription(result)) { try Descriptor.print(line) }
    }
  }

  static func lines(_ lock: LockDescription) -> [String] {
    let validity = lock.leaseValidMilliseconds.map { ", valid for \(readable(milliseconds: $0))" } ?? ""
    var users = KnownUsers()
    var lines = [
      "Lock:     \(printable(lock.name))",
      "State:    \(lock.holders.isEmpty ? "free" : lock.modeInWords ?? "held")",
      "Lease:    \(lock.leaseState ?? "none")\(validity)",
    ]
    for holder in lock.holders {
      lines.append("Holder:   \(printable(holder.summary))")
      if let uid = holder.uid { lines.append("  user    \(printable(users.words(uid)))") }
      if let unit = holder.unit { lines.append("  unit    \(printable(unit))") }
      if let owner = holder.owner { lines.append("  owner   \(printable(owner))\(holder.times)") }
      if let token = holder.token { lines.append("  token   \(token)") }
      if let held = holder.heldMilliseconds { lines.append("  held    \(readable(milliseconds: held))") }
      if let meta = holder.meta, !meta.isEmpty { lines.append("  note    \(printable(meta))") }
    }
    if lock.holding > Int64(lock.holders.count) {
      lines.append("  and \(lock.holding - Int64(lock.holders.count)) more")
    }
    lines.append("Waiting:  \(lock.waiting)\(lock.waiting > 0 ? " on this host" : "")")
    for waiter in lock.waiters {
      let time = waiter.waitedMilliseconds.map { " for \(readable(milliseconds: $0))" } ?? ""
      let owner = waiter.owner.map { ", owner \(printable($0))" } ?? ""
      let mode = waiter.mode == .shared ? ", shared" : ""
      let user = waiter.uid.map { ", user \(printable(users.words($0)))" } ?? ""
      lines.append("  \(printable(waiter.summary))\(user)\(owner)\(mode)\(time)")
    }
    if lock.waiting > Int64(lock.waiters.count), !lock.waiters.isEmpty {
      lines.append("  and \(lock.waiting - Int64(lock.waiters.count)) more")
    }
    return lines
  }
}

struct PingCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "ping",
    abstract: "Ask whether the daemon answers.",
    discussion: "Exits with 0 when it does and with 69 when it does not within --timeout.")

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Option(help: ArgumentHelp("How long to wait for the answer.", valueName: "time"))
  var timeout = TimeSpan(argument: "5s")

  func validate() throws {
    guard try timeout.checked("--timeout") > 0 else {
      throw ValidationError("--timeout must be greater than 0.")
    }
  }

  func run() throws {
    let limit = try timeout.checked("--timeout")
    try connection.reportingErrors {
      let clock = ContinuousClock()
      let start = clock.now
      let daemon = try connection.open(within: limit)
      _ = try daemon.call("ping", within: max(1, limit - Int64((clock.now - start) / .milliseconds(1))))
      let microseconds = (clock.now - start) / .microseconds(1)
      if output.isForPeople {
        try Descriptor.print("the daemon answers (\(Int(microseconds)) µs)")
      } else {
        try Descriptor.print("{\"microseconds\":\(Int(microseconds))}")
      }
    }
  }
}

struct StatsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "stats",
    abstract: "Show the daemon's counters and gauges.",
    discussion: """
      A table on a terminal, JSON in a pipe. With --openmetrics it is the text that Prometheus reads, with types, \
      units and words, times in seconds, and no names of locks: for the textfile collector of node_exporter, \
      or a server that runs this command when it is asked.

      EXAMPLES
        sidelock stats | jq .redis
        sidelock stats --openmetrics > sidelock.prom
      """)

  @OptionGroup var connection: ConnectionOptions
  @OptionGroup var output: OutputOptions

  @Flag(help: "Print OpenMetrics text.")
  var openmetrics = false

  func validate() throws {
    if openmetrics, output.json { throw ValidationError("--openmetrics excludes --json.") }
  }

  func run() throws {
    try connection.reportingErrors {
      let daemon = try connection.open()
      let result = try daemon.call("stats")
      if openmetrics {
        let metrics = OpenMetrics(
          stats: result, document: try daemon.call("rpc.discover"), server: try daemon.call("initialize"))
        return try Descriptor.print(metrics.text)
      }
      guard output.isForPeople else { return try Descriptor.print(result.serialized) }
      var table = Table(headings: ["NAME", "VALUE"], rightAligned: [1])
      for (name, value) in Self.flatten(result, path: "") { table.append([name, value]) }
      for line in table.lines { try Descriptor.print(line) }
    }
  }

  /// The leaves of a nested object, with their dotted paths; of a histogram what it says.
  static func flatten(_ value: JSONValue, path: String) -> [(String, String)] {
    guard case .object(let object) = value else { return [(path, value.stringValue ?? value.serialized)] }
    if let histogram = StatsHistogram(value) { return [(path, histogram.words)] }
    return object.members.flatMap { member in
      flatten(member.value, path: path.isEmpty ? member.key : "\(path).\(member.key)")
    }
  }
}
