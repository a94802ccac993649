import SidelockClient

/// A histogram of `stats`: how many there were up to each time.
struct StatsHistogram {
  /// Upper bounds in microseconds, in their order, each with how many are in its class; nil: longer than all of them.
  private let classes: [(microseconds: Int64?, count: Int64)]

  /// Nil where it is none.
  init?(_ value: JSONValue?) {
    guard case .object(let object)? = value, object["more"] != nil else { return nil }
    classes = object.members.compactMap { member in
      guard let count = member.value.intValue else { return nil }
      if member.key == "more" { return (nil, count) }
      return Int64(member.key).map { ($0, count) }
    }
  }

  var count: Int64 { classes.reduce(0) { $0 + $1.count } }

  /// A time within which `percent` of them were; nil where there are none.
  func time(of percent: Int64) -> String? {
    let count = count
    guard count > 0 else { return nil }
    var left = (count * percent + 99) / 100
    for entry in classes {
      left -= entry.count
      if left <= 0, let bound = entry.microseconds { return "≤ \(Self.readable(microseconds: bound))" }
    }
    return classes.last { $0.microseconds != nil }?.microseconds.map { "> \(Self.readable(microseconds: $0))" }
  }

  /// All of it in a few words.
  var words: String {
    guard let half = time(of: 50), let most = time(of: 99) else { return "none" }
    return "\(count): half \(half), 99 % \(most)"
  }

  private static func readable(microseconds: Int64) -> String {
    microseconds < 1000 ? "\(microseconds) µs" : sidelock.readable(milliseconds: microseconds / 1000)
  }
}
