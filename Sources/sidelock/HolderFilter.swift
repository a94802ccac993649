import ArgumentParser
import SidelockClient

/// Whose locks or connections are shown.
struct HolderFilter: ParsableArguments {
  @Option(help: ArgumentHelp("Only of this user, by name or number.", valueName: "user"))
  var user: String?

  @Option(help: ArgumentHelp("Only of this systemd unit; .service may be left out.", valueName: "unit"))
  var unit: String?

  @Option(help: ArgumentHelp("Only what is held for longer than this.", valueName: "time"))
  var older: TimeSpan?

  mutating func validate() throws {
    unit = try unit.map { try protocolText($0, "--unit") }
    _ = try older?.checked("--older")
    if let user, Users.number(of: user) == nil { throw ValidationError("There is no user \(printable(user)).") }
  }

  /// Whether it lets everything through.
  var isEmpty: Bool { user == nil && unit == nil && older == nil }

  /// Whether a holder is one of those that are meant.
  func accepts(_ holder: LockDescription.Participant) -> Bool {
    if let user, Users.number(of: user) != holder.uid { return false }
    if let unit, holder.unit != unit, holder.unit != unit + ".service" { return false }
    if let older = older?.milliseconds, holder.heldMilliseconds ?? -1 <= older { return false }
    return true
  }
}
