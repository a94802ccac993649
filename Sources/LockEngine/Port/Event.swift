public import LockTypes

/// A fact that the engine is told. The engine's effects follow from the events and their moments alone: the same list
/// gives the same effects.
public enum Event: Equatable, Sendable {
  /// A client connected. `uid`: the user whose waits and holds are counted together; nil for nobody.
  case sessionOpened(SessionID, uid: UInt32? = nil)
  /// What is known of a client's process, for those who are told of a deadlock.
  case sessionDescribed(SessionID, pid: Int32, command: String?)
  /// A client's connection is gone, for whatever reason: its waits are withdrawn and its locks are free.
  case sessionClosed(SessionID)
  /// A client closed its half: no more input comes. Holds that its own waits need end at once; once it `isAnswered`,
  /// which means that it has no wait left, all do. With `keepsHolds` they last to the end of its connection.
  case inputEnded(SessionID, isAnswered: Bool, keepsHolds: Bool = false)
  /// A client asked for a lock.
  case acquireRequested(AcquireRequest)
  /// A client gave a lock back. `token` may be nil when the session has one hold of that name.
  case releaseRequested(SessionID, RequestID, name: LockName, token: Token?)
  /// A client set the limit of a hold anew, counted from now. nil takes the limit away.
  case extendRequested(SessionID, RequestID, name: LockName, token: Token?, maxHoldMilliseconds: Int64?)
  /// A client wants to share from now on what it holds exclusively.
  case downgradeRequested(SessionID, RequestID, name: LockName, token: Token?)
  /// A client hands its hold to another session of this host, which has to wait for that name, or to be `isAccepting`
  /// transfers.
  case transferRequested(
    SessionID, RequestID, name: LockName, token: Token?, to: SessionID, isAccepting: Bool = true)
  /// An administrator takes these holds of `name` away. It is not answered; those who lose them are told.
  case breakRequested(name: LockName, tokens: [Token], reason: String)
  /// A client withdrew `target`, a request of its own; nil when the client named one that is not in flight.
  /// `request` is nil when the cancel came as a notification, and is then not answered.
  case cancelRequested(SessionID, request: RequestID?, target: RequestID?)
  /// The connection to a shard of the store is up and this host's inbox is subscribed.
  case linkUp(ShardID)
  /// The connection to a shard is gone; what was in flight may or may not have been executed.
  case linkDown(ShardID)
  /// Cells have another home from now on: what is known of their locks in the home before says nothing any more. It comes
  /// before any answer that follows from it. Only where the configuration has ``EngineConfiguration/cells``.
  case homesMoved([HomeMove])
  /// A command that had to wait for others is only now on its way: what it asks for counts from here.
  case commandSent(ShardID, CommandID)
  /// The store replied. Replies and pushes come in the order in which the store sent them.
  case replyReceived(ShardID, CommandID, LeaseReply)
  /// The store sent a push.
  case pushReceived(ShardID, LeasePush)
  /// What came of the question how many replicas have what was granted (``Effect/acknowledge(_:_:_:until:)``).
  case acknowledged(ShardID, AcknowledgementID, AcknowledgementAnswer)
  /// The moment ``LockEngine/nextDeadline`` has come.
  case timerFired
  /// The daemon is to stop: every lease is given back, every client told.
  case shutdownRequested
  /// A session's connection will not outlive this process: its waits are refused, its holds are lost. To be repeated in
  /// the next turns while the session has any; see ``LockEngine/isIdle(_:)``.
  case sessionEvicted(SessionID)
  /// A predecessor left this, and its ``LockEngine/numbers``. For a new engine that knows its sessions and nothing
  /// else, its link down; what other sessions had is given up. Leases are in doubt until the store has confirmed them.
  indirect case restored(SavedState, numbers: [UInt64])
  /// What a session lost under a predecessor.
  case lossesRestored(SessionID, [LostHold])

  // Events about the driver alone. They come in the middle of other things: nothing comes due with them, and they have
  // no effects.

  /// The settings were read anew; they hold from the next decision on. What is over a new limit stays. A lease that
  /// lingers already does so to its end, and a lock's hand-overs since another host began to wait count against the new
  /// limits. A lease keeps its length: commands that ask for another could be executed out of their order.
  case reconfigured(EngineSettings)
  /// What it costs to report one event to those who watch, in steps (a microsecond each); 0: nobody watches.
  case watched(steps: Int)
  /// From now on these kinds of what happens to locks are told (``Effect/recorded(_:)``); none before.
  case historyWanted(HistoryKinds)
  /// From now on a session's holds and waits do not outlive this process.
  case keepingStopped(SessionID)
  /// Of the local tier, tokens up to this one may be given; none of them will be after a restart.
  case localTokensReserved(through: Token)
  /// A turn of the loop is over: the next one has a share of its own for the holds of sessions that end.
  case turnEnded
}

extension Event {
  /// Whether it is about the driver alone.
  var isOfDriver: Bool {
    switch self {
    case .reconfigured, .watched, .historyWanted, .keepingStopped, .localTokensReserved, .turnEnded: true
    case .sessionOpened, .sessionDescribed, .sessionClosed, .inputEnded, .acquireRequested, .releaseRequested,
      .extendRequested, .downgradeRequested, .transferRequested, .breakRequested, .cancelRequested, .linkUp, .linkDown,
      .homesMoved, .commandSent, .replyReceived, .pushReceived, .acknowledged, .timerFired, .shutdownRequested,
      .sessionEvicted, .restored, .lossesRestored:
      false
    }
  }
}

/// A part of the store with a connection of its own, over which replies and pushes come in one order.
public struct ShardID: Hashable, Sendable {
  /// Which one.
  public var rawValue: UInt32

  /// The shard of that number.
  public init(_ rawValue: UInt32) {
    self.rawValue = rawValue
  }

  /// The only shard; of several, the home of everything that is not known to have another one.
  public static let only = ShardID(0)
}

/// Which names always have one home together.
public struct LockCells: Equatable, Sendable {
  /// How many cells there are.
  public let count: Int
  private let cell: @Sendable (LockName) -> Int

  /// `cell` gives the cell of each name, the same each time, from 0 on and below `count`.
  public init(count: Int, _ cell: @escaping @Sendable (LockName) -> Int) {
    self.count = count
    self.cell = cell
  }

  /// The cell of a name.
  public func callAsFunction(_ name: LockName) -> Int { cell(name) }

  /// Whether they have the same number of cells: nobody has two ways to find them.
  public static func == (a: Self, b: Self) -> Bool { a.count == b.count }
}

/// The home of some cells, from now on.
public struct HomeMove: Equatable, Sendable {
  /// The cells.
  public var cells: Range<Int>
  /// Their home.
  public var shard: ShardID

  /// `cells` have their home in `shard`.
  public init(cells: Range<Int>, shard: ShardID) {
    self.cells = cells
    self.shard = shard
  }
}

/// What an acquire names.
public enum AcquireTarget: Hashable, Sendable {
  /// One lock.
  case one(LockName)
  /// Several at once, all or none; 1 or more, none of them twice.
  case several([LockName])
}

/// A client's request for a lock, or several.
public struct AcquireRequest: Equatable, Sendable {
  /// Who asks.
  public var session: SessionID
  /// The request to answer.
  public var request: RequestID
  /// The lock or locks.
  public var target: AcquireTarget
  /// How it is to be held.
  public var mode: HoldMode
  /// How long to wait, in milliseconds: nil without limit, 0 for a try.
  public var waitMilliseconds: Int64?
  /// After how many milliseconds of holding the lock is taken away; nil for no limit.
  public var maxHoldMilliseconds: Int64?
  /// The thread or task inside the session that asks: what it holds it gets again at once. nil: no owner.
  public var owner: String?
  /// The client's own note, shown by `inspect` and `list`.
  public var meta: String?
  /// Whether to tell the client its place in the queue when it waits, and whether others wait for what it holds.
  public var progress: Bool
  /// What happens to the client's process if the lock is lost.
  public var onLost: LossAction
  /// Where the lease has to be before the client is told.
  public var need: ReplicaNeed

  /// A request for `target`.
  public init(
    session: SessionID, request: RequestID, target: AcquireTarget, mode: HoldMode = .exclusive,
    waitMilliseconds: Int64? = nil, maxHoldMilliseconds: Int64? = nil, owner: String? = nil, meta: String? = nil,
    progress: Bool = false, onLost: LossAction = .notify, need: ReplicaNeed = .none
  ) {
    self.session = session
    self.request = request
    self.target = target
    self.mode = mode
    self.waitMilliseconds = waitMilliseconds
    self.maxHoldMilliseconds = maxHoldMilliseconds
    self.owner = owner
    self.meta = meta
    self.progress = progress
    self.onLost = onLost
    self.need = need
  }

  /// The locks.
  public var names: [LockName] {
    switch target {
    case .one(let name): [name]
    case .several(let names): names
    }
  }
}
