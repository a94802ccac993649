import LockTypes

/// The connection to one shard of the store, with its commands under way, its renewals and the leases it waits for.
/// Replies and pushes come over it in one order, which is what dates a pushed grant.
///
/// Going down and coming up concern every lock whose home it is; see `LockEngine+Link.swift`.
struct StoreLink {
  let shard: ShardID
  /// The one that this host heard of next; see ``StoreLinks``.
  var next: LinkReference?
  /// Whether there is a connection.
  private(set) var isConnected = false
  /// Whether it is connected, the store has named its epoch, and its last going down has reached all locks.
  private(set) var isUp = false
  /// The number of the link that is up, or was last; 0 stands for none. No two links have the same, of whatever shards.
  private(set) var number: LinkNumber
  /// How often it went down or came up, or the store began to grant, or locks have left it for another home.
  private(set) var change: LinkNumber = 0
  /// The last one of those changes that concerns the locks that stay.
  private var changeOfAll: LinkNumber = 0
  /// The epoch that this host is in.
  var epoch = StoreEpoch()
  /// Until when other hosts take this one for alive.
  var life = HostLife()
  /// How far it is with asking for that epoch.
  var confirmation = EpochConfirmation()

  /// Commands whose replies have not come.
  private(set) var pending: [CommandID: PendingCommand] = [:]
  /// When the last command was sent.
  private(set) var lastSentAt: BootInstant?
  /// When the latest answered command had been sent; nil: none was answered over this link.
  private(set) var lastAnsweredSentAt: BootInstant?
  /// How long the shard takes to answer, over all connections.
  private(set) var roundTrip = RoundTrip()
  /// Pending commands that are questions of searches for deadlocks.
  private(set) var deadlockQuestions = 0

  /// The locks whose home it is, oldest first.
  var locks = LockList()
  /// Leases that this host waits for.
  var wanted = WantedList()
  /// When the next heartbeat is due.
  var heartbeatAt: BootInstant?
  /// Leases that are held, by when they are to be renewed.
  var renewals = DeadlineQueue<HostLease>()
  /// Renewal commands in flight.
  private(set) var renewalsInFlight = 0
  /// Leases that have to be confirmed when it is up, by their ends.
  var doubtful = DeadlineQueue<HostLease>()
  /// The shortest and the longest length that leases have had since this process began.
  private var timelines: (shortest: LeaseTimeline, longest: LeaseTimeline)
  /// What was under way or due when it went down. Freeing that takes a while, too.
  private var before = WorkOfBefore()

  /// `number`: one that no other link has.
  init(shard: ShardID, number: LinkNumber, timeline: LeaseTimeline) {
    self.shard = shard
    self.number = number
    timelines = (timeline, timeline)
  }

  // MARK: Facts of this link

  /// The shortest length that leases have had since this process began.
  var shortestTimeline: LeaseTimeline { timelines.shortest }

  /// The longest one.
  var longestTimeline: LeaseTimeline { timelines.longest }

  /// Whether something was sent over the link that is up.
  func isThis(_ number: LinkNumber) -> Bool { isUp && number == self.number }

  /// Whether it is up once its last going down has reached all locks.
  var isComingUp: Bool { isConnected && !isUp && confirmation.isGood }

  /// Whether there is anything that the next turns have to go on with.
  var isBehind: Bool { locks.isWalked || isUp && doubtful.count > 0 || !before.isEmpty }

  /// Whether the store grants nothing, because its epoch has begun a short while ago.
  var isRecovering: Bool { confirmation.isGood && !epoch.isOpen }

  /// Whether everything that was sent was answered, apart from a question for the epoch.
  var isTold: Bool { pending.count == (confirmation.command == nil ? 0 : 1) }

  /// Takes the length of a lease into the shortest and the longest timeline.
  mutating func note(_ timeline: LeaseTimeline) {
    if timeline.leaseMilliseconds < shortestTimeline.leaseMilliseconds { timelines.shortest = timeline }
    if timeline.leaseMilliseconds > longestTimeline.leaseMilliseconds { timelines.longest = timeline }
  }

  /// When leases are to be renewed next; nil: not before another event has come. Without the link nothing can be renewed.
  func nextRenewal(inFlightMax: Int) -> BootInstant? {
    guard isUp, let due = renewals.earliest else { return nil }
    guard renewalsInFlight >= inFlightMax else { return due }
    return due.adding(milliseconds: shortestTimeline.renewSlackMilliseconds)
  }

  // MARK: Commands

  mutating func send(_ id: CommandID, _ kind: PendingCommand.Kind, now: BootInstant) {
    pending[id] = PendingCommand(kind: kind, sentAt: now)
    lastSentAt = now
    switch kind {
    case .renew, .reclaim: renewalsInFlight += 1
    case .places: wanted.isBeingLookedAt = true
    case .follow: deadlockQuestions += 1
    case .acquire, .release, .share, .reserve, .clock, .confirm, .other: break
    }
  }

  /// A command that had to wait is on its way.
  mutating func left(_ id: CommandID, now: BootInstant) {
    pending[id]?.sentAt = now
    lastSentAt = now
  }

  /// A reply has come; nil when nobody waits for it.
  mutating func answered(_ id: CommandID, now: BootInstant) -> PendingCommand? {
    guard let command = pending.removeValue(forKey: id) else { return nil }
    lastAnsweredSentAt = max(lastAnsweredSentAt ?? command.sentAt, command.sentAt)
    // The store works longer on it than on anything that somebody waits for.
    if case .confirm = command.kind { return command }
    roundTrip.answered(sentAt: command.sentAt, now: now)
    switch command.kind {
    case .renew, .reclaim: renewalsInFlight -= 1
    case .places: wanted.isBeingLookedAt = false
    case .follow: deadlockQuestions -= 1
    case .acquire, .release, .share, .reserve, .clock, .confirm, .other: break
    }
    return command
  }

  // MARK: Changes

  /// Whether more than homes has changed since a change.
  func hasChanged(since change: LinkNumber) -> Bool { Int32(bitPattern: changeOfAll &- change) > 0 }

  /// Some locks have another home now.
  mutating func locksLeft() { change &+= 1 }

  private mutating func changed() {
    change &+= 1
    changeOfAll = change
  }

  mutating func connected() { isConnected = true }

  /// `number`: one that no link had before.
  mutating func cameUp(number: LinkNumber) {
    isUp = true
    self.number = number
    changed()
    lastAnsweredSentAt = nil
  }

  /// The store has begun to grant: whoever waits has to ask.
  mutating func opened() { changed() }

  /// Whether it had been up: what was in flight may have been executed or not, and its replies will not come, or find
  /// nobody where the connection stays.
  mutating func wentDown(keepingConnection: Bool = false) -> Bool {
    isConnected = keepingConnection
    if !keepingConnection { confirmation = EpochConfirmation() }
    deadlockQuestions = 0
    // Until it is up only its epoch is asked for, and messages to other hosts are sent on it.
    guard isUp else {
      pending = [:]
      return false
    }
    isUp = false
    changed()
    lastAnsweredSentAt = nil
    // The question for the epoch is about no lock, and its answer is needed more than ever.
    var kept: [CommandID: PendingCommand] = [:]
    if let id = confirmation.command { kept[id] = pending.removeValue(forKey: id) }
    before.take(pending, [renewals, doubtful])
    pending = kept
    renewals = DeadlineQueue()
    doubtful = DeadlineQueue()
    renewalsInFlight = 0
    wanted.isBeingLookedAt = false
    return true
  }

  /// Without a lock there is nothing that could come due: drops some of it. Returns false when nothing is left.
  mutating func forgetDeadlines(atMost most: Int) -> Bool {
    heartbeatAt = nil
    let areRenewalsLeft = renewals.drop(atMost: most)
    return doubtful.drop(atMost: most) || areRenewalsLeft
  }

  /// Frees what is left of earlier links, for as many steps as are left.
  mutating func letGoOfBefore(stepsLeft: inout Int) { before.letGo(stepsLeft: &stepsLeft) }
}

/// Numbers links, or their changes. One a millisecond would last for weeks.
typealias LinkNumber = UInt32

/// A command whose reply has not come.
struct PendingCommand {
  enum Kind {
    case acquire(HostLease, ask: UInt64)
    case release(LockName, attempt: UInt64)
    case share(HostLease)
    case reserve(HostLease)
    case renew([HostLease])
    case reclaim([HostLease])
    case places([HostLease])
    case clock(Waiter)
    case follow(DeadlockProbe)
    /// With the longest lease that the store is told of, in milliseconds.
    case confirm(leaseMilliseconds: Int64, LifeSign)
    case other
  }
  var kind: Kind
  var sentAt: BootInstant
}

/// What was under way or due when a link went down.
private struct WorkOfBefore {
  private var commands: [CommandsOfBefore] = []
  private var queues: [DeadlineQueue<HostLease>] = []

  var isEmpty: Bool { commands.isEmpty && queues.isEmpty }

  mutating func take(_ pending: [CommandID: PendingCommand], _ due: [DeadlineQueue<HostLease>]) {
    if !pending.isEmpty { commands.append(CommandsOfBefore(pending)) }
    queues += due.filter { $0.count > 0 }
  }

  mutating func letGo(stepsLeft: inout Int) {
    while stepsLeft > 0, let last = queues.indices.last {
      stepsLeft -= 1
      for _ in 0..<Self.letGoInStep where queues[last].popAny() == nil {
        queues.removeLast()
        break
      }
    }
    while stepsLeft > 0, !commands.isEmpty {
      let count = commands[0].letGoOfOne()
      stepsLeft -= 1 + count / Self.letGoInStep
      if count == 0 { commands.removeFirst() }
    }
  }

  /// Entries freed in one step.
  private static let letGoInStep = 8
}

/// Commands whose answers will not come.
private struct CommandsOfBefore {
  private var commands: [CommandID: PendingCommand]
  private var upcoming: Dictionary<CommandID, PendingCommand>.Index

  init(_ commands: [CommandID: PendingCommand]) {
    self.commands = commands
    upcoming = commands.startIndex
  }

  /// Frees the records of one command and returns about how many those were; 0: there are no more commands.
  mutating func letGoOfOne() -> Int {
    guard upcoming != commands.endIndex else { return 0 }
    var count = 1
    switch commands.values[upcoming].kind {
    case .renew(let leases), .reclaim(let leases), .places(let leases): count = max(1, leases.count)
    case .acquire, .release, .share, .reserve, .clock, .follow, .confirm, .other: break
    }
    commands.values[upcoming].kind = .other
    commands.formIndex(after: &upcoming)
    return count
  }
}
