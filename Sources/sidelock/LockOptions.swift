import ArgumentParser
import SidelockClient

/// What to hold, how, and how long to wait for it: the options of `run` and `hold`.
struct LockOptions: ParsableArguments {
  @Flag(name: [.customShort("n"), .customLong("nonblock"), .customLong("nb")], help: "Fail rather than wait.")
  var nonblock = false

  @Option(
    name: [.customShort("w"), .customLong("timeout"), .customLong("wait")],
    help: ArgumentHelp(
      "Wait no longer than that, such as 500ms, 10s, 2m, or 2.5 for seconds; 0 is the same as -n.",
      valueName: "time"))
  var timeout: TimeSpan?

  @Option(
    name: [.customShort("E"), .customLong("conflict-exit-code")],
    help: ArgumentHelp("The exit status when the lock is not acquired in time (0 to 255).", valueName: "code"))
  var conflictExitCode: Int32 = ExitStatus.conflict

  @Flag(
    name: [.customShort("x"), .customShort("e"), .customLong("exclusive")],
    help: "An exclusive lock, which is the default.")
  var exclusive = false

  @Flag(
    name: [.customShort("s"), .customLong("shared")],
    help: "A shared lock: others may share it, and nobody has it exclusively meanwhile.")
  var shared = false

  @Option(
    help: ArgumentHelp(
      "Take one permit of a counting semaphore: as many may be held at a time, on all hosts.", valueName: "count"))
  var permits: Int64?

  @Option(
    name: .customLong("and"), parsing: .unconditionalSingleValue,
    help: ArgumentHelp(
      """
      Hold this lock, too; may be given several times. All of them are taken or none, and no two runs wait for each \
      other, in whatever order they name them.
      """, valueName: "name"), completion: LockNames.completion)
  var others: [String] = []

  @Option(
    help: ArgumentHelp(
      """
      Take the lock only when so many replicas of Redis (0 to 16) have the lease. If they are too few, it is given back.
      """, valueName: "count"))
  var replicas: Int64?

  @Option(
    help: ArgumentHelp(
      "With disk: take it only when the primary and those replicas have the lease on disk. Otherwise memory will do.",
      valueName: "where"))
  var durability: String?

  @Option(
    parsing: .unconditional,
    help: ArgumentHelp("A note that list and inspect show (up to 1 KiB).", valueName: "text"))
  var meta: String?

  @Option(
    parsing: .unconditional,
    help: ArgumentHelp(
      "Who asks, as list and inspect show it (up to 128 bytes), such as a job inside a program.", valueName: "text"))
  var owner: String?

  @Flag(
    name: .shortAndLong, help: "Say nothing of the wait, nor that the lock was not acquired in time: the status tells.")
  var quiet = false

  @Flag(name: .shortAndLong, help: "Say at once for whom it waits, with more about them, and how long it took.")
  var verbose = false

  @Option(
    name: .customLong("name"), parsing: .unconditional,
    help: ArgumentHelp("The lock's name, in place of NAME: for one that begins with a dash.", valueName: "name"),
    completion: LockNames.completion)
  var givenName: String?

  mutating func validate() throws {
    others = try others.map { try protocolText($0, "--and") }
    meta = try meta.map { try protocolText($0, "--meta") }
    owner = try owner.map { try protocolText($0, "--owner") }
    givenName = try givenName.map { try protocolText($0, "--name") }
    guard (0...255).contains(conflictExitCode) else {
      throw ValidationError("--conflict-exit-code must lie between 0 and 255.")
    }
    if [exclusive, shared, permits != nil].count(where: { $0 }) > 1 {
      throw ValidationError("Give one of --exclusive, --shared and --permits.")
    }
    if let permits, !(1...1_000_000).contains(permits) {
      throw ValidationError("--permits must lie between 1 and 1000000.")
    }
    if let replicas, !(0...16).contains(replicas) {
      throw ValidationError("--replicas must lie between 0 and 16.")
    }
    if let durability, durability != "memory", durability != "disk" {
      throw ValidationError("--durability is memory or disk.")
    }
    guard others.count < 64, others.allSatisfy({ (1...512).contains($0.utf8.count) }) else {
      throw ValidationError("--and takes names of 1 to 512 bytes, 63 of them at most.")
    }
    if nonblock, timeout != nil { throw ValidationError("Give -n or -w, not both.") }
    if quiet, verbose { throw ValidationError("Give -q or -v, not both.") }
    if let owner, !(1...128).contains(owner.utf8.count) { throw ValidationError("--owner must have 1 to 128 bytes.") }
    if let meta, meta.utf8.count > 1024 { throw ValidationError("--meta may have up to 1024 bytes.") }
    _ = try timeout?.checked("--timeout")
  }

  /// Checks the name that was given as an argument, or with --name, together with the others. `example`: how to give one.
  func check(name positional: String?, example: String) throws {
    guard (givenName == nil) != (positional == nil) else {
      throw ValidationError(
        givenName == nil ? "NAME is missing, as in: \(example)" : "Give NAME or --name NAME, not both.")
    }
    let names = names(positional)
    guard (1...512).contains(names[0].utf8.count) else { throw ValidationError("NAME must have 1 to 512 bytes.") }
    guard Set(names.map { Array($0.utf8) }).count == names.count else {
      throw ValidationError("NAME and --and must all be different.")
    }
  }

  /// All names, the main one first.
  func names(_ positional: String?) -> [String] { [givenName ?? positional ?? ""] + others }

  var mode: LockMode {
    if let permits { return .permit(of: permits) }
    return shared ? .shared : .exclusive
  }

  var loudness: WaitNews.Loudness { quiet ? .quiet : verbose ? .verbose : .usual }

  /// How long to wait, in milliseconds; nil for no limit, 0 for a try.
  var waitMilliseconds: Int64? { nonblock ? 0 : timeout?.milliseconds }

  /// The params of the acquire, without `wait_ms`. `backstop`: its `max_hold_ms`.
  func acquireParams(_ positional: String?, backstop: Int64?) -> JSONObject {
    var params = JSONObject()
    let names = names(positional)
    if names.count == 1 {
      params.append("name", .string(names[0]))
    } else {
      params.append("names", .array(names.map { .string($0) }))
    }
    mode.append(to: &params)
    if let backstop { params.append("max_hold_ms", .int(backstop)) }
    if let meta { params.append("meta", .string(meta)) }
    if let owner = owner ?? EnclosingRun.owner(EnclosingRun.inherited()) { params.append("owner", .string(owner)) }
    if let replicas { params.append("replicas", .int(replicas)) }
    if let durability { params.append("durability", .string(durability)) }
    // `waiting` then says why it has to wait.
    if waitMilliseconds != 0 { params.append("progress", .bool(true)) }
    return params
  }
}
