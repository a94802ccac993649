import ArgumentParser
import CLinux
import CSupervise
import Glibc
import ProcessSupport
import SidelockClient
import SystemStrings

struct LogCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "log",
    abstract: "Show the history of a lock from this host's journal.",
    discussion: """
      Who had the lock, who waited for it, when and for how long, the oldest entry first: a table on a terminal, in a pipe a \
      JSON array. Losses and breaks are always logged; grants, releases, waits and timeouts are where the setting audit of \
      sidelockd says so. Breaks are all there; of each of the others 1,000 are logged at once and then 100 a second for each \
      user, and the log counts what is left out. It shows what happened to clients of this host. Members of the groups systemd-journal and \
      adm may read the journal.

      EVENTS
        granted       a client got the lock
        released      a client gave it back, or ended
        waiting       a client began to wait for those who are named
        not_acquired  a client did not get it
        lost          a client lost it
        broken        an administrator took it from a client
        taken         an administrator took it, in Redis, from a holder who could
                      not be told

      EXIT STATUS
        0     something was found
        1     the journal has nothing about the lock
        64    wrong usage, such as a time that is none
        69    there is no journal, or it cannot be read
        77    this user may not read the journal

      EXAMPLES
        sidelock log deploy
        sidelock log deploy --since 2h
        sidelock log deploy --since yesterday | jq -r '.[] | select(.kind == "lost") | .time'
        journalctl -o json -u sidelockd | sidelock log deploy --from -
      """)

  @OptionGroup var output: OutputOptions

  @Argument(help: "The lock's name.", completion: LockNames.completion)
  var name: String

  @Option(
    help: ArgumentHelp(
      "Only what happened since then: a time such as 30m or 2h ago, or what journalctl takes, such as yesterday.",
      valueName: "when"))
  var since: String?

  @Option(name: [.customShort("n"), .long], help: "At most so many entries, the latest.")
  var lines = 1000

  @Option(help: ArgumentHelp("The unit of the daemon.", valueName: "unit"))
  var unit = ServiceState.unit

  @Option(
    help: ArgumentHelp(
      "Read what journalctl -o json has written, of whatever host, and not the journal; - is standard input.",
      valueName: "file"))
  var from: String?

  mutating func validate() throws {
    name = try protocolText(name, "NAME")
    guard (1...512).contains(name.utf8.count) else { throw ValidationError("NAME must have 1 to 512 bytes.") }
    guard (1...1_000_000).contains(lines) else { throw ValidationError("--lines must be 1 to 1000000.") }
    if from != nil, let since, TimeSpan(argument: since).milliseconds == nil {
      throw ValidationError("With --from, --since takes a time such as 30m or 2h; journalctl takes others.")
    }
  }

  func run() throws {
    var events: [HistoryEvent] = []
    var text: [UInt8]
    if let from {
      text = try Self.read(from)
    } else {
      text = try readJournal()
    }
    let earliest =
      from == nil ? nil : since.flatMap { TimeSpan(argument: $0).milliseconds }.map { Self.now() - $0 * 1000 }
    for line in text.split(separator: 0x0A) {
      guard let entry = try? JSONValue(parsing: line), let event = HistoryEvent(entry, of: name) else { continue }
      if let earliest, event.microseconds < earliest { continue }
      events.append(event)
    }
    events = Array(events.suffix(lines))
    if !events.isEmpty || !output.isForPeople {
      try output.show(events.map(\.json)) { HistoryEvent.table(events) }
    }
    let when = since.map { " since \($0)" } ?? ""
    if events.isEmpty {
      Descriptor.say("the journal has nothing about the lock \(name)\(when)")
    }
    // What was shown may be all that was ever written down.
    if from == nil, !events.contains(where: \.isAudited) { Self.sayHowToAudit(name) }
    if events.isEmpty { throw ExitCode(ExitStatus.conflict) }
  }

  static func sayHowToAudit(_ name: String) {
    for line in howToAudit(name) { Descriptor.say(line) }
  }

  /// What has a lock written down, in words: nobody but an administrator knows what stands in the settings already.
  static func howToAudit(_ name: String) -> [String] {
    let (rule, isForAll) = auditRule(for: name)
    let about = isForAll ? "no rule can name this lock; this one is about all whose names begin so" : "for this lock"
    // Within single quotes YAML knows no other character that means something.
    let item = "- '\(rule.replacing("'", with: "''"))'"
    return [
      "grants, releases, waits and timeouts are logged where the setting audit says so: its list in the file of settings "
        + "(/etc/sidelock/sidelockd.yaml) needs one more rule, \(about), before those that say omit:",
      "  audit:",
      "    \(item)",
      "then see whether the file is good, and reload:",
      "  sidelockd --config /etc/sidelock/sidelockd.yaml --check",
      "  sudo systemctl reload sidelockd",
    ]
  }

  /// The rule that has a lock written down, with its name quoted and escaped as rules want it. A name with what a line of
  /// settings cannot have, such as an escape character, has a rule about its beginning.
  static func auditRule(for name: String) -> (rule: String, isForAll: Bool) {
    var (word, isForAll) = ("", false)
    for scalar in name.unicodeScalars {
      switch scalar {
      case "\n": word += "\\n"
      case "\t": word += "\\t"
      case "*", "\"", "\\": word += "\\\(scalar)"
      case _ where isShownAsItIs(scalar): word.unicodeScalars.append(scalar)
      case _: isForAll = true
      }
      if isForAll { break }
    }
    if isForAll { word += "*" }
    return ("record all " + (word.utf8.contains(UInt8(ascii: " ")) ? "\"\(word)\"" : word), isForAll)
  }

  // MARK: Reading

  /// The name of a unit with its ending, which may be left out as with systemctl.
  static func wholeName(ofUnit unit: String) -> String {
    [".service", ".scope", ".slice"].contains { unit.hasSuffix($0) } ? unit : unit + ".service"
  }

  private static func now() -> Int64 {
    var now = timespec()
    clock_gettime(CLOCK_REALTIME, &now)
    return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1000
  }

  private static func read(_ path: String) throws -> [UInt8] {
    let descriptor = path == "-" ? STDIN_FILENO : SystemText.withCString(path) { open($0, O_RDONLY | O_CLOEXEC) }
    guard descriptor >= 0 else {
      Descriptor.say("cannot read \(SystemText.shown(path)): \(UnixSocket.describe(errno))")
      throw ExitCode(ExitStatus.unavailable)
    }
    defer { if descriptor != STDIN_FILENO { close(descriptor) } }
    var bytes: [UInt8] = []
    while true {
      guard let more = try? Descriptor.read(descriptor) else {
        Descriptor.say("cannot read \(SystemText.shown(path)): \(UnixSocket.describe(errno))")
        throw ExitCode(ExitStatus.unavailable)
      }
      if more.isEmpty { return bytes }
      bytes += more
    }
  }

  /// What journalctl gives of the lock.
  private func readJournal() throws -> [UInt8] {
    var arguments = ["journalctl", "--no-pager", "-o", "json", "-n", String(lines)]
    arguments.append("--output-fields=" + HistoryEvent.fields.joined(separator: ","))
    if let since {
      let span = TimeSpan(argument: since).milliseconds
      arguments.append("--since=" + (span.map { "@\((Self.now() - $0 * 1000) / 1_000_000)" } ?? since))
    }
    // Anybody may write to the journal; the unit is what the journal itself knows of the writer.
    arguments += ["_SYSTEMD_UNIT=\(Self.wholeName(ofUnit: unit))", "SIDELOCK_LOCK=\(name)"]
    arguments += HistoryEvent.kinds.keys.sorted().map { "MESSAGE_ID=\($0)" }
    guard let outcome = JournalReading.run(arguments) else {
      Descriptor.say(
        "journalctl cannot be run: \(UnixSocket.describe(errno)); of another host, give what it writes to --from")
      throw ExitCode(ExitStatus.unavailable)
    }
    let words = outcome.errors.split(whereSeparator: \.isNewline)
    if outcome.output.isEmpty,
      words.contains(where: { $0.contains("insufficient permissions") || $0.contains("not seeing messages") })
    {
      let user = Users.name(of: Int64(getuid())) ?? "USER"
      Descriptor.say("this user may not read the journal; members of the group systemd-journal may. Then log in anew:")
      Descriptor.say("  sudo usermod -aG systemd-journal \(user)")
      throw ExitCode(ExitStatus.denied)
    }
    if let since, words.contains(where: { $0.contains("Failed to parse timestamp") }) {
      throw ValidationError(
        "--since takes a time such as 30m or 2h, or what journalctl takes, such as yesterday, and not \(printable(since))."
      )
    }
    if outcome.output.isEmpty, words.contains(where: { $0.contains("No journal files were") }) {
      Descriptor.say("this host has no journal; of another host, give what journalctl -o json writes there to --from")
      throw ExitCode(ExitStatus.unavailable)
    }
    guard outcome.status == 0 || !outcome.output.isEmpty || words.isEmpty else {
      for line in words { Descriptor.say("journalctl: \(line)") }
      throw ExitCode(ExitStatus.unavailable)
    }
    return outcome.output
  }
}

/// What happened to a lock, as an entry of the journal tells it.
struct HistoryEvent {
  /// The messages by their identifiers; see Sources/SystemdSupport/JournalMessage.swift.
  static let kinds = [
    "a0edb1c73a0fbe732cb1fa7707e72f33": "granted",
    "f8b0c83272672c26cda7093c9dc21a30": "released",
    "bcdee5e2fbbeeaa4ad0df9b621b95be6": "waiting",
    "71d86a4816c643a66f2bfb23b2b3ad70": "not_acquired",
    "144505c4199e459b96609fdc0c50649f": "lost",
    "5d0f4e0a1b0c4a6c9a3d3b8a7c5e2f61": "broken",
    "e3f0a5d8c17b4d2f9b6e40a7d95c1832": "taken",
  ]
  private static let texts = [
    "lock", "mode", "session", "user", "command", "unit", "client", "owner", "meta", "reason", "why", "holder", "by",
  ]
  private static let numbers = ["token", "pid", "uid", "waited_ms", "held_ms", "waiters"]

  /// The fields of the journal that are read.
  static var fields: [String] {
    ["MESSAGE_ID", "_HOSTNAME"] + (texts + numbers).map(field)
  }

  /// The moment, in microseconds since 1970.
  let microseconds: Int64
  let kind: String
  private let entry: JSONValue

  private static func field(_ name: String) -> String { "SIDELOCK_" + name.uppercased() }

  /// An entry as journalctl writes it in JSON; nil for one that is about something else.
  init?(_ entry: JSONValue, of lock: String) {
    guard let kind = Self.text(entry["MESSAGE_ID"]).flatMap({ Self.kinds[$0] }),
      let time = Self.text(entry["__REALTIME_TIMESTAMP"]).flatMap({ Int64($0) }),
      let name = Self.text(entry[Self.field("lock")]), ExactText.isSame(name, lock)
    else { return nil }
    microseconds = time
    self.kind = kind
    self.entry = entry
  }

  /// Whether it is written down because of the setting `audit`.
  var isAudited: Bool { !["lost", "broken", "taken"].contains(kind) }

  /// A field's text. What is no plain text comes as a list of bytes.
  private static func text(_ value: JSONValue?) -> String? {
    if let text = value?.stringValue { return text }
    guard let bytes = value?.arrayValue else { return nil }
    return String(decoding: bytes.compactMap { $0.intValue.flatMap { UInt8(exactly: $0) } }, as: UTF8.self)
  }

  private subscript(name: String) -> String? { Self.text(entry[Self.field(name)]) }

  /// For programs.
  var json: JSONValue {
    var object = JSONObject()
    let (seconds, rest) = microseconds.quotientAndRemainder(dividingBy: 1_000_000)
    object.append("time", .string(ShownEvents.timestamp(seconds: Int(seconds), milliseconds: Int(rest / 1000))))
    if let host = Self.text(entry["_HOSTNAME"]) { object.append("host", .string(host)) }
    object.append("kind", .string(kind))
    for name in Self.texts { if let text = self[name] { object.append(name, .string(text)) } }
    for name in Self.numbers {
      guard let text = self[name] else { continue }
      object.append(name, Int64(text).map { .int($0) } ?? .string(text))
    }
    return .object(object)
  }

  /// For people.
  static func table(_ events: [HistoryEvent]) -> Table {
    var table = Table(headings: ["TIME", "EVENT", "WHO", "WAITED", "HELD", "MORE"], rightAligned: [0, 3, 4])
    // The year only where it is not this one: the line is short.
    let times = events.map(\.localTime)
    let year = "\(localTime(Glibc.time(nil)).prefix(5))"
    let isOfThisYear = times.allSatisfy { $0.hasPrefix(year) }
    for (event, moment) in zip(events, times) {
      table.append([
        isOfThisYear ? String(moment.dropFirst(year.count)) : moment, event.kind, event.who, event.time("waited_ms"),
        event.time("held_ms"), event.more,
      ])
    }
    return table
  }

  private func time(_ name: String) -> String {
    self[name].flatMap { Int64($0) }.map { readable(milliseconds: $0) } ?? ""
  }

  private var who: String {
    guard let pid = self["pid"] else { return self["holder"] ?? "" }
    let user = self["user"] ?? self["uid"] ?? "?"
    let command = self["command"]
    guard let client = self["client"], client.hasPrefix(RunDriver.clientNamePrefix) else {
      return "\(user) \(command ?? "?") \(pid)"
    }
    // To the daemon all that is run under a lock is sidelock, which says what it runs.
    let said = HolderWords.program(ofClient: client)
    // Others may say it, too.
    guard let command, command != "sidelock" else { return "\(user) \(said) \(pid)" }
    return "\(user) \(command) \(pid) (says \(said))"
  }

  private var more: String {
    switch kind {
    case "granted": return [self["mode"] == "exclusive" ? nil : self["mode"], self["meta"]].joined
    case "released": return self["reason"] == "released" ? "" : self["reason"] ?? ""
    case "waiting": return self["holder"].map { "for \($0)" } ?? ""
    case "broken", "taken": return [self["reason"], self["by"].map { "by \($0)" }].joined
    default: return self["reason"] ?? ""
    }
  }

  private var localTime: String { Self.localTime(time_t(microseconds / 1_000_000)) }

  private static func localTime(_ moment: time_t) -> String {
    var (seconds, parts) = (moment, tm())
    localtime_r(&seconds, &parts)
    func two(_ number: CInt) -> String { number < 10 ? "0\(number)" : "\(number)" }
    return "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday)) "
      + "\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec))"
  }
}

extension [String?] {
  fileprivate var joined: String { compactMap(\.self).filter { !$0.isEmpty }.joined(separator: ", ") }
}

/// Runs journalctl.
enum JournalReading {
  struct Outcome {
    var output: [UInt8]
    var errors: String
    var status: CInt
  }

  /// Runs it to its end; nil where it cannot be started (errno). Its messages are in English.
  static func run(_ arguments: [String]) -> Outcome? {
    var (output, errors): ([CInt], [CInt]) = ([-1, -1], [-1, -1])
    guard pipe(&output) == 0 else { return nil }
    defer { close(output[0]) }
    guard pipe(&errors) == 0 else {
      close(output[1])
      return nil
    }
    defer { close(errors[0]) }
    for end in output + errors { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_adddup2(&actions, output[1], STDOUT_FILENO)
    posix_spawn_file_actions_adddup2(&actions, errors[1], STDERR_FILENO)
    let variables = ProcessTexts.environment.filter { !$0.key.hasPrefix("LC_") && $0.key != "LANGUAGE" }
      .map { "\($0.key)=\($0.value)" }
    let (words, environment) = (CStrings(arguments), CStrings(variables + ["LC_ALL=C"]))
    var process: pid_t = 0
    let result = posix_spawnp(&process, arguments[0], &actions, nil, words.pointers, environment.pointers)
    close(output[1])
    close(errors[1])
    guard result == 0 else {
      errno = result
      return nil
    }
    let found = readBoth(output[0], errors[0])
    var status: CInt = 0
    while waitpid(process, &status, 0) < 0, errno == EINTR {}
    return Outcome(output: found.0, errors: String(decoding: found.1, as: UTF8.self), status: status)
  }

  private static func readBoth(_ first: CInt, _ second: CInt) -> ([UInt8], [UInt8]) {
    var (bytes, open): ([[UInt8]], [CInt]) = ([[], []], [first, second])
    while open != [-1, -1] {
      var entries = open.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
      guard poll(&entries, 2, -1) > 0 else { continue }
      for (index, entry) in entries.enumerated() where entry.revents != 0 {
        let more = (try? Descriptor.read(open[index])) ?? []
        bytes[index] += more
        if more.isEmpty { open[index] = -1 }
      }
    }
    return (bytes[0], bytes[1])
  }
}
