import ArgumentParser
import SidelockClient

/// A time on the command line: a number with a unit, such as `500ms`, `10s`, `2m`, `1.5h` or `1d`; without one it
/// counts seconds.
struct TimeSpan: ExpressibleByArgument, CustomStringConvertible, Equatable {
  /// What was given.
  let description: String
  /// Rounded up to whole milliseconds, so that a short wait does not become a try; nil for what is no time between 0 and
  /// a year.
  let milliseconds: Int64?

  /// Milliseconds in a unit.
  private static let units: [(name: String, milliseconds: Double)] = [
    ("ms", 1), ("min", 60_000), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("", 1000),
  ]

  init(argument: String) {
    description = argument
    let unit = Self.units.first { argument.hasSuffix($0.name) } ?? ("", 1000)
    let number = argument.dropLast(unit.name.count)
    // `Double` also takes "inf", "0x1p3" and a sign.
    let isNumber = !number.isEmpty && number.allSatisfy { "0123456789.eE+-".contains($0) }
    guard isNumber, let value = Double(number), value >= 0,
      case let total = (value * unit.milliseconds).rounded(.up), total <= Double(Duration.protocolMillisecondsMax)
    else {
      milliseconds = nil
      return
    }
    milliseconds = Int64(total)
  }

  /// The time in milliseconds. Throws what to tell the user, who gave it as `option`.
  func checked(_ option: String) throws -> Int64 {
    guard let milliseconds else {
      throw ValidationError(
        "\(option) takes a time up to a year, such as 500ms, 10s, 2m, 1h or 2.5 (seconds), and not \(description)")
    }
    return milliseconds
  }
}
