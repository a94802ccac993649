import DequeModule

/// Commands in flight, and those that wait for room among them. A renewal overtakes everything else, and so does what
/// takes leases again; users take turns, and nobody has more than his share in flight: no flood of acquires can cost a lease,
/// or somebody else's time.
struct CommandWindow {
  /// What all that is in flight may weigh.
  static let weightMax = 1024
  /// What one user may have in flight: a server works on one command after the other, and some take long.
  static let weightOfUserMax = 256
  /// What the daemon may have in flight by itself, beside renewals.
  static let weightOfDaemonMax = weightMax / 2

  private(set) var inFlight = PendingCommands()
  private var waitingRenewals: Deque<LinkCommand> = []
  private var waiting = CommandQueue()

  /// Commands that wait for room.
  var waitingCount: Int { waiting.count + waitingRenewals.count }

  /// About how much memory the commands take that wait for room and that a user has asked for, in bytes.
  func waitingMemory(of user: LinkCommand.User) -> Int { waiting.memory(of: user) }

  /// Whether nothing is in flight, and nothing waits.
  var isEmpty: Bool { inFlight.isEmpty && waitingCount == 0 }

  /// Whether a command of `user` may be sent at once, overtaking none.
  func mayPass(of user: LinkCommand.User) -> Bool { waitingCount == 0 && Self.hasRoom(for: user, beside: inFlight) }

  private static func hasRoom(for user: LinkCommand.User, beside inFlight: PendingCommands) -> Bool {
    inFlight.weight < weightMax && inFlight.weight(of: user) < (user == nil ? weightOfDaemonMax : weightOfUserMax)
  }

  /// Puts a command behind those that wait.
  mutating func wait(_ command: LinkCommand, of user: LinkCommand.User) { waiting.append(command, of: user) }

  /// Puts a renewal before everything but other renewals.
  mutating func waitFirst(_ renewal: LinkCommand) { waitingRenewals.append(renewal) }

  /// Takes out the next command for which there is room.
  mutating func next() -> (command: LinkCommand, user: LinkCommand.User)? {
    guard inFlight.weight < Self.weightMax else { return nil }
    if let renewal = waitingRenewals.popFirst() { return (renewal, nil) }
    // The closure must not hold the queue itself: all of it would be copied for each command that is taken out.
    return waiting.popFirst { [inFlight] user in Self.hasRoom(for: user, beside: inFlight) }
  }

  /// A command is sent; under which number its reply comes.
  mutating func sent(_ command: LinkCommand, of user: LinkCommand.User) -> UInt64 {
    inFlight.append(command, of: user)
  }

  /// The command of that number is answered.
  mutating func answered(_ number: UInt64) -> LinkCommand? { inFlight.remove(number) }

  /// Takes out all of them: nothing more is answered.
  mutating func removeAll() -> [LinkCommand] {
    defer { waitingRenewals = [] }
    return inFlight.removeAll() + waitingRenewals + waiting.removeAll()
  }
}

/// Commands that are not answered, in a deque indexed by their numbers: replies nearly always come in order.
struct PendingCommands {
  private struct Entry {
    var command: LinkCommand
    var user: LinkCommand.User
    var weight: Int
  }

  /// nil: answered before an earlier one.
  private var entries: Deque<Entry?> = []
  private var firstNumber: UInt64 = 1
  private(set) var count = 0
  /// What all of them weigh; see ``LinkCommand/weight``.
  private(set) var weight = 0
  private var weights: [LinkCommand.User: Int] = [:]

  var isEmpty: Bool { count == 0 }

  /// What those of one user weigh.
  func weight(of user: LinkCommand.User) -> Int { weights[user] ?? 0 }

  /// Adds a command and gives its number. No number is given twice.
  mutating func append(_ command: LinkCommand, of user: LinkCommand.User) -> UInt64 {
    let weight = command.weight
    entries.append(Entry(command: command, user: user, weight: weight))
    count += 1
    self.weight += weight
    weights[user, default: 0] += weight
    return firstNumber + UInt64(entries.count - 1)
  }

  /// Takes out a command; nil when it is not there.
  mutating func remove(_ number: UInt64) -> LinkCommand? {
    guard number >= firstNumber, let index = Int(exactly: number - firstNumber), index < entries.count,
      let entry = entries[index]
    else { return nil }
    entries[index] = nil
    count -= 1
    weight -= entry.weight
    if let left = weights[entry.user] { weights[entry.user] = left > entry.weight ? left - entry.weight : nil }
    while let first = entries.first, case nil = first {
      entries.removeFirst()
      firstNumber += 1
    }
    return entry.command
  }

  /// Takes out all of them, in their order.
  mutating func removeAll() -> [LinkCommand] {
    defer {
      firstNumber += UInt64(entries.count)
      entries = []
      count = 0
      weight = 0
      weights = [:]
    }
    return entries.compactMap { $0?.command }
  }
}
