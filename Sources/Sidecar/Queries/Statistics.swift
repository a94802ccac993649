// What the daemon counts and measures of itself: the table from which `stats` and its documentation come.

import ClientProtocol
import LockEngine
import LockTypes

/// What the driver has done since it started. Each has its row in ``Statistic/all``.
final class SidecarStatistics {
  var connections: UInt64 = 0
  var connectionsRefused: UInt64 = 0
  var requests: UInt64 = 0
  var refusedLines: UInt64 = 0
  var slowReadersClosed: UInt64 = 0
  var notificationsMissed: UInt64 = 0
  var broken: UInt64 = 0
  var signalsSent: UInt64 = 0
  var bytesIn: UInt64 = 0
  var bytesOut: UInt64 = 0
}

/// A row of the table: one figure, or several of one name that differ in a label.
struct Statistic: Sendable {
  /// What it is.
  enum Kind: String {
    /// It counts up, from the start of the daemon on.
    case counter
    /// It is as it is now.
    case gauge
    /// How many there were in each class, counted from the start on. The label is the upper end of a class, `more` what is
    /// longer, and `sum` all of them together.
    case histogram
    /// It is no number.
    case text
  }

  /// What it is measured in.
  enum Unit: String {
    case one = ""
    case milliseconds = "ms"
    case microseconds = "µs"
    case bytes = "bytes"
  }

  /// How it is read; nil where there is nothing to read, as of Redis without one.
  enum Reading: Sendable {
    case number(@Sendable (SidecarCore) -> Int64?)
    case text(@Sendable (SidecarCore) -> String?)
    /// One for each value of a label.
    case labelled(by: String, @Sendable (SidecarCore) -> [(label: String, count: UInt64)]?)
  }

  /// Its name within the groups that it is in, the outer one first.
  let path: [String]
  let kind: Kind
  let unit: Unit
  /// What it tells, as half a sentence.
  let help: String
  let reading: Reading

  /// Its name with its groups, such as `redis.commands_total`.
  var name: String { path.joined(separator: ".") }
}

extension Statistic {
  /// The table, in the order of `stats`.
  static let all: [Statistic] = [
    gauge("uptime_ms", "how long the daemon has been running", .milliseconds) {
      $0.clock.now().milliseconds(since: $0.startedAt)
    },
    gauge("sessions", "sessions that are open") { Int64($0.sessions.count) },
    gauge("held", "holds on this host") { Int64($0.engine.gauges.held) },
    gauge("waiting", "requests that wait on this host") { Int64($0.engine.gauges.waiting) },
    gauge("locks", "locks that this host knows anything of") { Int64($0.engine.gauges.locks) },
    counter("connections_total", "connections that were served") { $0.statistics.connections },
    counter("connections_refused_total", "connections that were refused") {
      $0.statistics.connectionsRefused
    },
    counter("requests_total", "requests that could be read") { $0.statistics.requests },
    counter("refused_lines_total", "lines that were no request") { $0.statistics.refusedLines },
    counter("slow_readers_closed_total", "sessions that were closed because they did not read") {
      $0.statistics.slowReadersClosed
    },
    counter("notifications_missed_total", "notifications that were left out because their session did not read") {
      $0.statistics.notificationsMissed
    },
    counter("bytes_in_total", "what clients have sent", .bytes) { $0.statistics.bytesIn },
    counter("bytes_out_total", "what clients were sent", .bytes) { $0.statistics.bytesOut },
    counter("grants_total", "locks that were granted") { $0.engine.statistics.grants },
    counter("grants_without_redis_total", "those of them that needed no answer of Redis") {
      $0.engine.statistics.grantsWithoutStore
    },
    histogram("acquires.by_microseconds", "requests for locks by how long it took to grant them") {
      $0.engine.statistics.acquires
    },
    histogram(
      "waits.by_microseconds",
      "requests that had to wait for somebody here, or for another host to give up the lock or its idle lease, by how long it took to grant them"
    ) {
      $0.engine.statistics.waits
    },
    histogram("holds.by_microseconds", "holds that are over by how long they lasted") { $0.engine.statistics.holds },
    histogram(
      "handovers.by_microseconds",
      "locks that passed to another client of this host by how long that took from the end of the hold before; 0 where one step of the daemon did both"
    ) {
      $0.engine.statistics.handovers
    },
    counter("lost_total", "holds that were lost") { $0.engine.statistics.lost },
    Statistic(
      path: ["losses_total"], kind: .counter, unit: .one, help: "holds that were lost by reason",
      reading: .labelled(by: "reason") { byReason($0.engine.statistics.losses) }),
    counter("held_long_total", "holds that have lasted for longer than `warn_hold_ms`") {
      $0.engine.statistics.heldLong
    },
    counter("timeouts_total", "requests that ended at their limit of time") { $0.engine.statistics.timeouts },
    counter("busy_total", "tries that met a lock in use") { $0.engine.statistics.busy },
    counter("deadlocks_total", "waits that were ended because they would never have ended by themselves") {
      $0.engine.statistics.deadlocks
    },
    counter("broken_total", "holds that administrators took away here, or from here on other hosts") {
      $0.statistics.broken
    },
    gauge("watches", "watches of all sessions") { Int64($0.parts.watches.count) },
    gauge("lock_bytes", "what is held and waited for, with names, notes and owners", .bytes) {
      Int64($0.engine.lockBytes)
    },
    gauge(
      "kept_bytes",
      "input that is no request yet, output that is not taken yet, and questions that Redis has not answered", .bytes
    ) {
      Int64($0.parts.limits.keptBytes)
    },
    counter("signals_sent_total", "signals to processes that lost a lock") { $0.statistics.signalsSent },
    Statistic(
      path: ["limits_met_total"], kind: .counter, unit: .one,
      help: "requests, connections and sessions that met the limit",
      reading: .labelled(by: "limit") { $0.parts.counts.all.map { (label: $0.limit.rawValue, count: $0.count) } }),
    counter("turns.total", "turns of the daemon's loop") { $0.turns.counts.reduce(0, +) },
    Statistic(
      path: ["turns", "by_microseconds"], kind: .histogram, unit: .microseconds,
      help: "turns by how long they took, which includes waiting for a processor",
      reading: .labelled(by: "class") { $0.turns.byClass }),
    gauge("turns.longest.us", "how long the turn took that used a processor for longest", .microseconds) {
      $0.turns.longest.nanoseconds / 1000
    },
    gauge("turns.longest.processor_us", "for how long it used a processor", .microseconds) {
      $0.turns.longest.processorNanoseconds / 1000
    },
    Statistic(
      path: ["turns", "longest", "work"], kind: .text, unit: .one, help: "what took longest in it",
      reading: .text { $0.turns.longest.work.word.description }),
    gauge("turns.longest.work_us", "how long that took", .microseconds) { $0.turns.longest.workNanoseconds / 1000 },
    gauge("redis.connected", "1 while the connection to Redis is good, and otherwise 0") {
      $0.store.map { $0.isReady ? 1 : 0 }
    },
    text("redis.down_reason", "why it is not; only while that is known") { $0.store?.downReason },
    text("redis.refused", "what Redis said when it refused a lock; only within a minute, and until it grants one") {
      $0.store?.refusedLease
    },
    gauge("redis.round_trip_ms", "how long Redis takes to answer", .milliseconds) {
      $0.store == nil ? nil : $0.engine.roundTrip.smoothedMilliseconds ?? 0
    },
    gauge("redis.holder_timeout_ms", "how long another host is waited for that has a lock", .milliseconds) {
      $0.store == nil ? nil : $0.engine.holderTimeoutMilliseconds
    },
    histogram(
      "redis.answers.by_microseconds",
      "commands about leases of this host (not those of `inspect`, `list` and other questions) by how long Redis took to answer"
    ) {
      $0.store == nil ? nil : $0.engine.statistics.answers
    },
    histogram(
      "redis.handovers.by_microseconds",
      "leases that another host handed over by how long that took from the first ask for them"
    ) {
      $0.store == nil ? nil : $0.engine.statistics.leaseHandovers
    },
    counter("redis.connections_total", "connections to Redis that were good") { $0.store?.statistics.connections },
    counter("redis.commands_total", "commands that were sent") { $0.store?.statistics.commands },
    gauge("redis.commands_in_flight", "commands that are not answered yet") {
      $0.store == nil ? nil : Int64($0.engine.gauges.commandsInFlight)
    },
    gauge("redis.commands_waiting", "commands that wait for room on the connection") {
      $0.store.map { Int64($0.waitingCount) }
    },
    counter("redis.pushes_total", "messages of other hosts") { $0.store?.statistics.pushes },
    counter("redis.pushes_left_out_total", "those of them that nobody here waited for, and that came too often") {
      $0.store?.statistics.pushesLeftOut
    },
    counter("redis.errors_total", "errors that Redis answered") { $0.store?.statistics.errors },
    counter("redis.leases_total", "leases that Redis granted") { $0.ofStore(\.leases) },
    counter("redis.acknowledged_total", "requests whose clients were told when enough replicas had the lease") {
      $0.ofStore(\.acknowledged)
    },
    counter("redis.acknowledged_ms_total", "how long replicas took for them, all together", .milliseconds) {
      $0.ofStore(\.acknowledgedMilliseconds)
    },
    counter("redis.under_replicated_total", "requests that gave the lock back because too few replicas had it") {
      $0.ofStore(\.underReplicated)
    },
    counter("redis.leases_lost_total", "leases that could not be renewed in time, or that Redis no longer had") {
      $0.ofStore(\.leasesLost)
    },
    counter("redis.renewals_total", "renewals, one for each lease") { $0.ofStore(\.renewals) },
    gauge("redis.epoch", "the number of the epoch, which counts up when Redis has other data than before") {
      $0.store == nil ? nil : Int64(clamping: $0.engine.storeStanding().epoch.number)
    },
    counter("redis.epochs_total", "epochs that this daemon has joined") { $0.ofStore(\.epochs) },
    counter("redis.reclaims_total", "leases that were taken over into another epoch") { $0.ofStore(\.reclaims) },
    gauge(
      "redis.grace_ms", "for how long nothing new is granted, because Redis has other data than before", .milliseconds
    ) {
      $0.store == nil ? nil : $0.engine.storeStandings.last.graceLeftMilliseconds(now: $0.clock.now()) ?? 0
    },
    gauge("redis.cluster.primaries", "how many primaries of the cluster serve locks") {
      ($0.store?.clusterStanding?.primaries).map { Int64($0) }
    },
    gauge("redis.cluster.connected", "how many of them this daemon is connected to") {
      ($0.store?.clusterStanding?.linked).map { Int64($0) }
    },
    gauge("redis.cluster.parts_unserved", "how many of the 64 parts of all locks are not served") {
      ($0.store?.clusterStanding?.unserved).map { Int64($0) }
    },
    text("redis.cluster.unserved_reason", "why that is so; only where there are some") {
      $0.store?.clusterStanding?.reason
    },
    gauge("redis.cluster.parts_recovering", "in how many of them nothing new is granted yet") {
      $0.store?.clusterStanding == nil ? nil : Int64($0.engine.storeStandings.recovering)
    },
    counter("redis.cluster.moves_total", "how often another primary has taken a part over") {
      $0.store?.clusterStanding?.moves
    },
    text("redis.sentinel.master", "what Sentinels call the primary") { $0.store?.sentinelStanding?.master },
    text("redis.sentinel.primary", "where they say that it is") {
      $0.store?.sentinelStanding?.primary?.description
    },
    gauge("redis.sentinel.sentinels", "how many of them watch it") {
      ($0.store?.sentinelStanding?.count).map { Int64($0) }
    },
    counter("redis.sentinel.failovers_total", "how often it was another server than before") {
      $0.store?.sentinelStanding?.failovers
    },
    text("redis.sentinel.last_failover_from", "which server it was before the last time") {
      $0.store?.sentinelStanding?.lastFailover?.from.description
    },
    gauge("redis.sentinel.last_failover_ms", "how long ago that was", .milliseconds) { core in
      (core.store?.sentinelStanding?.lastFailover?.at).map { core.clock.now().milliseconds(since: $0) }
    },
  ]

  private static func byReason(_ losses: LossCounts) -> [(label: String, count: UInt64)] {
    losses.all.map { (label: $0.reason.rawValue, count: $0.count) }
  }

  private static func text(
    _ name: String, _ help: String, _ read: @escaping @Sendable (SidecarCore) -> String?
  ) -> Statistic {
    Statistic(path: groups(name), kind: .text, unit: .one, help: help, reading: .text(read))
  }

  private static func counter(
    _ name: String, _ help: String, _ unit: Unit = .one, _ read: @escaping @Sendable (SidecarCore) -> UInt64?
  ) -> Statistic {
    Statistic(
      path: groups(name), kind: .counter, unit: unit, help: help,
      reading: .number { core in read(core).map { Int64(clamping: $0) } })
  }

  private static func gauge(
    _ name: String, _ help: String, _ unit: Unit = .one, _ read: @escaping @Sendable (SidecarCore) -> Int64?
  ) -> Statistic {
    Statistic(path: groups(name), kind: .gauge, unit: unit, help: help, reading: .number(read))
  }

  private static func histogram(
    _ name: String, _ help: String, _ read: @escaping @Sendable (SidecarCore) -> TimeHistogram?
  ) -> Statistic {
    Statistic(
      path: groups(name), kind: .histogram, unit: .microseconds, help: help,
      reading: .labelled(by: "class") { core in read(core)?.byClass })
  }

  private static func groups(_ name: String) -> [String] { name.split(separator: ".").map(String.init) }
}

// MARK: stats

extension Statistic {
  /// What stands in one group of figures, or one figure by itself; the paths begin within it.
  fileprivate typealias Group<Item> = (
    name: String, first: (path: ArraySlice<String>, item: Item), rows: [(path: ArraySlice<String>, item: Item)]
  )

  /// Rows of one group are adjacent in the table.
  fileprivate static func groups<Item>(of rows: [(path: ArraySlice<String>, item: Item)]) -> [Group<Item>] {
    var result: [Group<Item>] = []
    var rest = rows[...]
    while let name = rest.first?.path.first {
      let group = rest.prefix { $0.path.first == name }.map { (path: $0.path.dropFirst(), item: $0.item) }
      rest = rest.dropFirst(group.count)
      result.append((name, group[0], group))
    }
    return result
  }

  /// What `stats` tells of it; nil where there is nothing to tell.
  fileprivate func value(in core: SidecarCore) -> StatValue? {
    switch reading {
    case .number(let read): read(core).map { .integer($0) }
    case .text(let read): read(core).map { .text($0) }
    case .labelled(_, let read):
      read(core).map { .group($0.map { Stat($0.label, .integer(Int64(clamping: $0.count))) }) }
    }
  }
}

extension TimeHistogram {
  /// How many there were of each class, by its upper end in microseconds, and all of them together.
  fileprivate var byClass: [(label: String, count: UInt64)] {
    zip(Self.classes.map { "\($0)" } + ["more"], counts).map { (label: $0, count: $1) }
      + [(label: "sum", count: sumMicroseconds)]
  }
}

extension SidecarCore {
  /// All figures, in their groups, for the reply to `stats`.
  var stats: [Stat] {
    Self.grouped(Statistic.all.compactMap { row in row.value(in: self).map { (path: row.path[...], item: $0) } })
  }

  private static func grouped(_ figures: [(path: ArraySlice<String>, item: StatValue)]) -> [Stat] {
    Statistic.groups(of: figures).map { group in
      Stat(group.name, group.first.path.isEmpty ? group.first.item : .group(grouped(group.rows)))
    }
  }

  /// A figure of the engine that means nothing without a store.
  fileprivate func ofStore(_ path: KeyPath<EngineCounters, UInt64>) -> UInt64? {
    store == nil ? nil : engine.statistics[keyPath: path]
  }
}

// MARK: The documents

extension Statistic {
  /// The table of `protocol/README.md`; a test compares them.
  static var document: String {
    let rows = all.map { row in
      let label: String
      switch row.reading {
      case .number, .text: label = ""
      case .labelled(let by, _): label = ".\(by.uppercased())"
      }
      let unit = row.unit == .one ? "" : ", \(row.unit.rawValue)"
      return "| `\(row.name)\(label)` | \(row.kind.rawValue)\(unit) | \(row.help) |\n"
    }
    return "| name | kind | what it tells |\n|---|---|---|\n" + rows.joined()
  }

  /// The members of the schema of what `stats` answers in `protocol/openrpc.json`; a test compares them.
  static var schema: String {
    members(all.map { (path: $0.path[...], item: $0) }, indent: String(repeating: " ", count: 10))
  }

  private static func members(_ rows: [(path: ArraySlice<String>, item: Statistic)], indent: String) -> String {
    groups(of: rows).map { group in
      if group.first.path.isEmpty { return "\(indent)\"\(group.name)\": \(group.first.item.memberSchema)" }
      return """
        \(indent)"\(group.name)": {
        \(indent)  "type": "object",
        \(indent)  "properties": {
        \(members(group.rows, indent: indent + "    "))
        \(indent)  }
        \(indent)}
        """
    }.joined(separator: ",\n")
  }

  private var memberSchema: String {
    let unit = unit == .one ? "" : ", \(unit.rawValue)"
    let description = #""description": "\#(kind.rawValue)\#(unit): \#(help)""#
    return switch reading {
    case .number: #"{"type": "integer", \#(description)}"#
    case .text: #"{"type": "string", \#(description)}"#
    case .labelled(let by, _):
      #"{"type": "object", \#(description), "x-label": "\#(by)", "additionalProperties": {"type": "integer"}}"#
    }
  }
}
