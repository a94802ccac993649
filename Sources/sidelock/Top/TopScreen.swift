import SidelockClient

/// What `top` shows, and what keys do to that. It does no I/O and reads no clock.
struct TopScreen {
  /// What a key asks of the driver.
  enum Wish: Equatable {
    case nothing
    case quit
    /// Look anew: what is to be shown is another.
    case look
  }

  /// What the lines at the bottom are for.
  enum Mode: Equatable {
    case list
    /// The text of a filter is being typed.
    case filter
    /// One lock in detail.
    case inspect(name: String)
  }

  /// Figures of one look, and when that was, in milliseconds.
  struct Sample {
    var stats: JSONValue
    var at: Int64
  }

  private(set) var mode = Mode.list
  private(set) var order = ListCommand.Order.held
  private(set) var showsAllHosts: Bool
  private(set) var filter = ""
  private var typed = ""
  private var selected = 0
  private let host: String

  /// What was seen last.
  var locks: [LockDescription] = []
  var inspected: LockDescription?
  /// Why nothing can be seen; nil while all is well.
  var trouble: String?
  private var latest: Sample?
  private var previous: Sample?

  init(host: String, showsAllHosts: Bool, order: ListCommand.Order) {
    self.host = host
    self.showsAllHosts = showsAllHosts
    self.order = order
  }

  mutating func saw(_ sample: Sample) {
    previous = latest
    latest = sample
  }

  /// The locks that are shown, in their order: those with the filter in their name, or in that of a holder.
  var shown: [LockDescription] {
    ListCommand.sorted(locks.filter { $0.mentions(mode == .filter ? typed : filter) }, by: order)
  }

  // MARK: Keys

  /// A key, or the end of an escape sequence such as `[A`.
  mutating func pressed(_ key: String) -> Wish {
    switch mode {
    case .filter: return typedKey(key)
    case .inspect:
      if ["q", "\u{1B}", "\r", "\n"].contains(key) {
        mode = .list
        inspected = nil
      }
      return .look
    case .list: break
    }
    switch key {
    case "q": return .quit
    case "s":
      let all = ListCommand.Order.allCases
      order = all[((all.firstIndex(of: order) ?? 0) + 1) % all.count]
    case "a":
      showsAllHosts.toggle()
      return .look
    case "/":
      mode = .filter
      typed = filter
    case "\u{1B}": filter = ""
    case "j", "[B": selected += 1
    case "k", "[A": selected -= 1
    case "\r", "\n":
      guard shown.indices.contains(selected) else { return .nothing }
      mode = .inspect(name: shown[selected].name)
      return .look
    case _: return .nothing
    }
    selected = max(0, min(selected, shown.count - 1))
    return .nothing
  }

  private mutating func typedKey(_ key: String) -> Wish {
    switch key {
    case "\r", "\n":
      filter = typed
      mode = .list
    case "\u{1B}": mode = .list
    case "\u{7F}", "\u{8}": typed = String(typed.dropLast())
    case _ where key.count == 1 && key.unicodeScalars.allSatisfy { $0.value >= 0x20 }: typed += key
    case _: break
    }
    selected = max(0, min(selected, shown.count - 1))
    return .nothing
  }

  // MARK: Lines

  /// From this height on the figures of the daemon are shown.
  private static let heightOfFigures = 10

  /// The whole screen. The selected line is marked.
  func lines(width: Int, height: Int) -> [(text: String, isMarked: Bool)] {
    // A low terminal is for the locks.
    let head = height < Self.heightOfFigures ? [title] : [title, figures, times]
    var lines = head.map { ($0, false) }
    let room = max(0, height - lines.count - 1)
    switch mode {
    case .inspect:
      let text = inspected.map(InspectCommand.lines) ?? ["…"]
      lines += text.prefix(room).map { ($0, false) }
    case .list, .filter:
      // A narrow screen has no room for users beside the names.
      let locks = Array(shown.prefix(selected + room))
      let table = ListCommand.table(locks, withUsers: width >= Table.charactersMax).lines(within: width)
      let rows = rowsOfLocks
      // What is selected stays in sight.
      let first = max(0, rows[safe: selected, default: 0] + 2 - room)
      lines.append((table[0], false))
      for (index, line) in table.enumerated().dropFirst(1 + first).prefix(max(0, room - 1)) {
        lines.append((line, rows[safe: selected, default: -1] == index - 1))
      }
    }
    while lines.count < height - 1 { lines.append(("", false)) }
    lines.append((bottom, false))
    return lines.prefix(height).map { (text: beginning(of: $0.0, columns: width), isMarked: $0.1) }
  }

  /// In which row of the table each lock begins: one with several holders has several rows.
  private var rowsOfLocks: [Int] {
    var row = 0
    return shown.map { lock in
      defer { row += max(1, lock.holders.count) }
      return row
    }
  }

  private var title: String {
    var words = ["sidelock top", host]
    if let up = latest?.stats["uptime_ms"]?.intValue { words.append("up \(readable(milliseconds: up))") }
    if let redis = latest?.stats["redis"] {
      if redis["connected"]?.intValue != 1 {
        words.append("Redis cannot be reached")
      } else if let place = unservedPlace(redis["cluster"]) {
        words.append("the Redis Cluster does not serve \(place)")
      } else if let grace = GraceWords(redis) {
        words.append(
          "Redis has other data\(grace.place ?? ""), nothing new for \(readable(milliseconds: grace.leftMilliseconds))")
      } else {
        words.append("Redis answers in \(redis["round_trip_ms"]?.intValue ?? 0) ms")
      }
    } else if latest != nil {
      words.append("without Redis")
    }
    return printable(words.joined(separator: "  "))
  }

  private var figures: String {
    if let trouble { return printable(trouble) }
    guard let stats = latest?.stats else { return "" }
    let number = { (name: String) in stats[name]?.intValue ?? 0 }
    return
      "\(number("held")) held, \(number("waiting")) waiting, \(number("sessions")) client\(number("sessions") == 1 ? "" : "s"); "
      + "\(rate("grants_total")) grants/s, \(rate("requests_total")) requests/s, \(number("lost_total")) lost"
  }

  /// How long was waited for locks since the start of the daemon, and how long Redis takes.
  private var times: String {
    guard trouble == nil, let stats = latest?.stats else { return "" }
    let waits = StatsHistogram(stats["waits"]?["by_microseconds"]).map { "waits: \($0.words)" }
    let redis = stats["redis"].map { redis in
      redis["connected"]?.intValue == 1
        ? "Redis: \(redis["round_trip_ms"]?.intValue ?? 0) ms" : "Redis: \(redis["down_reason"]?.stringValue ?? "away")"
    }
    return printable([waits, redis].compactMap(\.self).joined(separator: "; "))
  }

  /// How much a counter has gone up a second between the last two looks.
  private func rate(_ name: String) -> String {
    guard let latest, let previous, latest.at > previous.at,
      let now = latest.stats[name]?.intValue, let before = previous.stats[name]?.intValue
    else { return "-" }
    let tenths = max(0, now - before) * 10_000 / (latest.at - previous.at)
    return "\(tenths / 10).\(tenths % 10)"
  }

  private var bottom: String {
    switch mode {
    case .filter: return "filter: \(printable(typed))_"
    case .inspect: return "q back"
    case .list:
      let about = filter.isEmpty ? "" : "[only \(printable(filter))]  "
      let hosts = showsAllHosts ? "this host" : "all hosts"
      return "\(about)q quit  s sort (\(order.rawValue))  / filter  a \(hosts)  j k select  Enter inspect"
    }
  }
}

extension [Int] {
  fileprivate subscript(safe index: Int, default value: Int) -> Int { indices.contains(index) ? self[index] : value }
}
