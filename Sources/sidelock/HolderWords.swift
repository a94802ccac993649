import Glibc
import SidelockClient

/// Who has a lock, and who waits for it, in words for people.
enum HolderWords {
  /// How much is said.
  enum Detail {
    case usual
    /// The user as well, and more of those who hold the lock together.
    case all

    fileprivate var holdersMax: Int { self == .usual ? 3 : 10 }
  }

  private static let commandCharactersMax = 40
  private static let metaCharactersMax = 80

  /// Those who hold a lock, such as `4711 (pg_dump, nightly.service, "nightly") on db1 for 3 min`. `holding`: how many
  /// they are at least; nil where nobody is known.
  static func holders(
    _ holders: [LockDescription.Participant], holding: Int64 = 0, enclosing: [EnclosingRun] = [],
    detail: Detail = .usual
  ) -> String? {
    guard !holders.isEmpty else { return nil }
    let shown = holders.prefix(detail.holdersMax).map { holder in
      let words = participant(holder, detail: detail)
      return enclosing.contains { $0.isHolder(holder) } ? "\(words), in which this command runs," : words
    }
    let more = max(Int64(holders.count), holding) - Int64(shown.count)
    if more > 0 { return shown.joined(separator: ", ") + " and \(more) more" }
    return listed(shown).droppingComma
  }

  private static func listed(_ words: [String]) -> String {
    guard words.count > 1, let last = words.last else { return words.first ?? "" }
    return words.dropLast().joined(separator: ", ") + " and " + last
  }

  /// One who holds a lock or waits for it.
  static func participant(_ one: LockDescription.Participant, detail: Detail = .usual) -> String {
    if one.isForeign { return "a process that does not use sidelock" }
    guard one.session != nil || one.pid != nil else {
      return "the host \(one.host ?? "?")" + (one.isDead ? ", which is gone" : "")
    }
    var facts: [String] = []
    if let program = program(of: one) { facts.append(program) }
    if let unit = one.unit { facts.append(unit) }
    if detail == .all || (one.pid == nil || facts.isEmpty), let uid = one.uid { facts.append(user(uid)) }
    if let meta = one.meta, !meta.isEmpty { facts.append("\"\(cut(meta, metaCharactersMax))\"") }
    var words = one.pid.map { "\($0)" } ?? "session \(one.session ?? "?")"
    if !facts.isEmpty { words += " (\(facts.joined(separator: ", ")))" }
    if let host = one.host { words += " on \(host)" }
    if let time = one.heldMilliseconds ?? one.waitedMilliseconds { words += " for \(age(milliseconds: time))" }
    return words
  }

  /// What one runs: its command line, or what it says of itself where the daemon may not look.
  static func program(of one: LockDescription.Participant) -> String? {
    let client = one.client.flatMap { $0.isEmpty ? nil : $0 }
    if let command = one.command, !command.isEmpty {
      // Its own name, or the beginning of its options: of a process that the daemon has not looked at yet that is all.
      let hasMore = command.firstRange(of: " -- ") != nil
      if !hasMore, isSidelock(command), let client, client.hasPrefix(RunDriver.clientNamePrefix) {
        return program(ofClient: client)
      }
      return program(of: command)
    }
    return client.map { program(ofClient: $0) }
  }

  /// The same, from what a client says of itself: of `sidelock run`, which is followed by its version, the command.
  static func program(ofClient client: String) -> String {
    guard client.hasPrefix(RunDriver.clientNamePrefix) else { return cut(client, commandCharactersMax) }
    let words = client.dropFirst(RunDriver.clientNamePrefix.count).split(separator: " ").dropLast()
    return cut(words.joined(separator: " "), commandCharactersMax)
  }

  /// What a process does, from its command line: of `sidelock run` the command that it runs.
  static func program(of commandLine: String) -> String {
    var words = commandLine
    if isSidelock(commandLine), let range = commandLine.firstRange(of: " -- "),
      commandLine[..<range.lowerBound].contains(" run ")
    {
      words = String(commandLine[range.upperBound...])
    }
    return cut(words, commandCharactersMax)
  }

  private static func isSidelock(_ commandLine: String) -> Bool {
    let name = commandLine.split(separator: " ").first
    return name == "sidelock" || name?.hasSuffix("/sidelock") == true
  }

  /// The beginning of what others have chosen; all of it is up to a kilobyte, and inspect shows that.
  private static func cut(_ words: String, _ charactersMax: Int) -> String {
    words.count > charactersMax ? "\(words.prefix(charactersMax - 1))…" : words
  }

  private static func user(_ id: Int64) -> String {
    var entry = passwd()
    var found: UnsafeMutablePointer<passwd>?
    var buffer = [CChar](repeating: 0, count: 16_384)
    guard let number = uid_t(exactly: id), getpwuid_r(number, &entry, &buffer, buffer.count, &found) == 0, found != nil,
      let name = entry.pw_name
    else { return "user \(id)" }
    return "user \(String(cString: name))"
  }

  /// For how long something has lasted, without more precision than anybody wants: `250 ms`, `3 s`, `3 min`, `2 h 5 min`,
  /// `2 d 4 h`.
  static func age(milliseconds: Int64) -> String {
    switch milliseconds {
    case ..<1000: return "\(milliseconds) ms"
    case ..<60_000: return "\(milliseconds / 1000) s"
    case ..<3_600_000: return "\(milliseconds / 60_000) min"
    case ..<86_400_000:
      let minutes = milliseconds / 60_000 % 60
      return "\(milliseconds / 3_600_000) h" + (minutes > 0 ? " \(minutes) min" : "")
    default:
      let hours = milliseconds / 3_600_000 % 24
      return "\(milliseconds / 86_400_000) d" + (hours > 0 ? " \(hours) h" : "")
    }
  }

  /// A limit that somebody set, exactly: `500 ms`, `2.5 s`, `90 s`, `2 min`, `1 h`.
  static func limit(milliseconds: Int64) -> String {
    switch milliseconds {
    case let time where time >= 3_600_000 && time % 3_600_000 == 0: return "\(time / 3_600_000) h"
    case let time where time >= 60_000 && time % 60_000 == 0: return "\(time / 60_000) min"
    case let time where time >= 1000 && time % 1000 == 0: return "\(time / 1000) s"
    case let time where time >= 1000 && time % 100 == 0: return "\(time / 1000).\(time % 1000 / 100) s"
    case let time: return "\(time) ms"
    }
  }
}

extension String {
  fileprivate var droppingComma: String { hasSuffix(",") ? String(dropLast()) : self }
}
