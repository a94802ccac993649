import SidelockClient

/// The figures of `stats` as OpenMetrics text. Kinds, units and words come from the daemon's own document of the protocol,
/// so that figures of a later daemon are told, too.
struct OpenMetrics {
  private var lines: [String] = []

  /// One that tells of nothing.
  init() {}

  /// - Parameters:
  ///   - stats: the answer to `stats`.
  ///   - document: the answer to `rpc.discover`.
  ///   - server: the answer to `initialize`.
  init(stats: JSONValue, document: JSONValue, server: JSONValue) {
    let build = [
      ("version", server["server"]?["version"]), ("host", server["host"]), ("backend", server["backend"]),
    ]
    add(
      Family(name: "sidelock_build", type: "info", unit: "", help: "what runs there"),
      [("_info", build.map { ($0, $1?.stringValue ?? "") }, "1")])
    addAll(stats, document["components"]?["schemas"]?["Statistics"], path: [])
  }

  /// The text, with its end.
  var text: String { lines.joined(separator: "\n") + "\n# EOF" }

  /// A family of samples, as it is introduced.
  struct Family {
    var name: String
    var type: String
    var unit: String
    var help: String
  }

  typealias Sample = (suffix: String, labels: [(name: String, value: String)], value: String)

  mutating func add(_ family: Family, _ samples: [Sample]) {
    lines.append("# TYPE \(family.name) \(family.type)")
    if !family.unit.isEmpty { lines.append("# UNIT \(family.name) \(family.unit)") }
    if !family.help.isEmpty { lines.append("# HELP \(family.name) \(Self.escaped(family.help))") }
    for sample in samples {
      let labels = sample.labels.map { "\($0.name)=\"\(Self.escaped($0.value))\"" }.joined(separator: ",")
      lines.append("\(family.name)\(sample.suffix)\(labels.isEmpty ? "" : "{\(labels)}") \(sample.value)")
    }
  }

  private static func escaped(_ text: String) -> String {
    // Not by characters: a quote may form one with an accent behind it, and a line end with a carriage return.
    text.unicodeScalars.reduce(into: "") { result, scalar in
      switch scalar {
      case "\\": result += "\\\\"
      case "\"": result += "\\\""
      case "\n": result += "\\n"
      case _: result.unicodeScalars.append(scalar)
      }
    }
  }

  private mutating func addAll(_ value: JSONValue, _ schema: JSONValue?, path: [String]) {
    for member in value.objectValue?.members ?? [] {
      let schema = schema?["properties"]?[member.key]
      let path = path + [member.key]
      if schema?["description"] == nil, member.value.objectValue != nil {
        addAll(member.value, schema, path: path)
      } else {
        add(member.value, Row(path: path, schema))
      }
    }
  }

  /// A figure as the document describes it: `gauge, ms: how long…`.
  private struct Row {
    var kind: String
    var unit: Unit
    var help: String
    var words: [String]
    /// What the members of one with several values are by.
    var label: String

    init(path: [String], _ schema: JSONValue?) {
      let description = schema?["description"]?.stringValue ?? ""
      let parts = description.split(separator: ": ", maxSplits: 1).map { "\($0)" }
      let kinds = (parts.first ?? "").split(separator: ",").map { "\($0.drop { $0 == " " })" }
      kind = kinds.first ?? ""
      unit = Unit(kinds.count > 1 ? kinds[1] : "")
      help = parts.count > 1 ? parts[1] : ""
      words = path.flatMap { $0.split(separator: "_").map { "\($0)" } }
      label = schema?["x-label"]?.stringValue ?? "label"
    }
  }

  /// What a figure is measured in there, and what it is called here.
  private struct Unit {
    var name = ""
    /// The words of a name that mean it.
    var words: [String] = []
    /// How many digits of the number stand behind the point.
    var digits = 0

    init(_ text: String) {
      switch text {
      case "ms": (name, words, digits) = ("seconds", ["ms"], 3)
      case "µs": (name, words, digits) = ("seconds", ["us", "microseconds"], 6)
      case "bytes": (name, words) = ("bytes", ["bytes"])
      case _: break
      }
    }

    /// A number of the daemon's in this unit, with a digit on each side of the point if there is one.
    func shown(_ number: Int64, isReal: Bool = false) -> String {
      var text = "\(number.magnitude)"
      text = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
      let fraction = text.suffix(digits).reversed().drop { $0 == "0" }.reversed()
      let whole = (number < 0 ? "-" : "") + text.dropLast(digits)
      guard isReal || !fraction.isEmpty else { return whole }
      return whole + "." + (fraction.isEmpty ? "0" : String(fraction))
    }
  }

  private mutating func add(_ value: JSONValue, _ row: Row) {
    var words = row.words.filter { !row.unit.words.contains($0) }
    if row.kind == "counter", words.last == "total" { words.removeLast() }
    if row.kind == "histogram", words.last == "by" { words.removeLast() }
    if !row.unit.name.isEmpty { words.append(row.unit.name) }
    let kinds = ["counter": "counter", "gauge": "gauge", "histogram": "histogram", "text": "info"]
    var family = Family(
      name: "sidelock_" + words.joined(separator: "_"), type: kinds[row.kind] ?? "unknown", unit: row.unit.name,
      help: row.help)
    let suffix = row.kind == "counter" ? "_total" : ""
    switch (row.kind, value) {
    case ("histogram", .object(let classes)): add(family, Self.buckets(classes, row.unit))
    case (_, .object(let labelled)):
      add(
        family,
        labelled.members.map { (suffix, [(row.label, $0.key)], row.unit.shown($0.value.intValue ?? 0)) })
    case (_, .string(let text)):
      family.type = "info"
      add(family, [("_info", [(words.last ?? "value", text)], "1")])
    case (_, .int(let number)): add(family, [(suffix, [], row.unit.shown(number))])
    case (_, .bool(let flag)): add(family, [(suffix, [], flag ? "1" : "0")])
    case (_, .null), (_, .double), (_, .array): break
    }
  }

  /// Classes by their upper ends, as buckets that each have all that is below. A daemon that does not tell the sum has no
  /// count either: the format wants both or none.
  private static func buckets(_ classes: JSONObject, _ unit: Unit) -> [Sample] {
    let sorted = classes.members.filter { $0.key != "sum" }.map { (end: Int64($0.key), count: $0.value.intValue ?? 0) }
      .sorted { ($0.end ?? .max) < ($1.end ?? .max) }
    var count: Int64 = 0
    let buckets: [Sample] = sorted.map { end, more in
      count += more
      return ("_bucket", [("le", end.map { unit.shown($0, isReal: true) } ?? "+Inf")], "\(count)")
    }
    guard let sum = classes["sum"]?.intValue else { return buckets }
    return buckets + [("_count", [], "\(count)"), ("_sum", [], unit.shown(sum))]
  }
}
