import LockEngine
import LockTypes

/// The store of leases, as the driver sees it. It takes the engine's commands, what clients ask about the locks of all
/// hosts, and what daemons say to each other. Nothing of Redis' protocol shows here.
///
/// Whatever is asked is answered exactly once, also when the connection breaks. Answers, and what ``StoreEvent`` tells,
/// come in the order in which the store gave them.
protocol LeaseStore: AnyObject {
  /// Whether commands and questions may be submitted.
  var isReady: Bool { get }
  /// Why it cannot be reached; nil while it can.
  var downReason: String? { get }
  /// What it said when it last refused a lease; nil where that is more than a minute ago, or it has granted one since.
  var refusedLease: String? { get }
  /// Whether it has answered anything on this connection since the handshake.
  var hasAnswered: Bool { get }
  /// Whether somebody waits for something that is not sent yet.
  var isUrgent: Bool { get set }
  /// Whether something is not sent yet, and all of it are releases that nobody waits for.
  var hasOnlyReleases: Bool { get }
  /// Commands that wait for room in the pipeline.
  var waitingCount: Int { get }
  /// About how much memory those of them take that a user has asked for, in bytes.
  func waitingMemory(of user: UInt32?) -> Int
  /// What has been done since the start.
  var statistics: LinkStatistics { get }
  /// What is known of its server by those that watch over it; nil where nobody does.
  var sentinelStanding: SentinelStanding? { get }
  /// What is known of the primaries of a cluster; nil where it is none.
  var clusterStanding: ClusterStanding? { get }
  /// How long it may take to answer, in milliseconds.
  var timeoutMilliseconds: Int64 { get set }

  /// Begins to connect.
  func start()
  /// The settings were read again: what it is logged in with may be another one.
  func loginMayHaveChanged()
  /// Closes the connection for good.
  func stop()
  /// Sends everything that was submitted since the last time.
  func flush()

  /// Sends a command of the engine's to a shard. Its reply comes as an event, unless the link breaks. `user`: on whose
  /// behalf.
  func submit(_ command: LeaseCommand, id: CommandID, to shard: ShardID, of user: UInt32?)

  /// Finds out whether as many replicas as that have everything that came from a shard so far, until then. The answer comes
  /// as an event.
  func acknowledge(_ id: AcknowledgementID, of shard: ShardID, _ need: ReplicaNeed, until: BootInstant)
  /// Nobody waits for that answer any more.
  func forgetAcknowledgement(_ id: AcknowledgementID, of shard: ShardID)

  /// What the store calls the key of a lock that holds data of others.
  func key(of other: OtherData, in name: LockName) -> [UInt8]
  /// Asks what stands there about `names`, in their order.
  func inspect(
    _ names: [LockName], waitingHostsMax: Int, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[LockInspection]>
  )
  /// Asks for some of all locks whose name may begin with `namePrefix`.
  func page(
    at cursor: [UInt8], namePrefix: [UInt8], of user: UInt32?, _ completion: @escaping StoreCompletion<LockPage>)
  /// Asks for the inboxes of the hosts that listen.
  func hosts(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>)
  /// Asks what the server tells of itself, in its own words.
  func info(of user: UInt32?, _ completion: @escaping StoreCompletion<String>)
  /// Asks under which prefixes hosts listen.
  func keyPrefixes(of user: UInt32?, _ completion: @escaping StoreCompletion<[String]>)
  /// Asks what stands in the key of a lock that is held, but by no host of a known format; nil: nothing.
  func foreignValue(of name: LockName, of user: UInt32?, _ completion: @escaping StoreCompletion<ForeignValue?>)
  /// Takes a lock from those of its holders that are still as they were seen (compare-and-delete), and hands it on.
  ///
  /// - Parameters:
  ///   - seen: the ``LockInspection/Holder/entry`` of each, or the value of a foreign one.
  ///   - token: only from the one to whom it was given.
  ///   - terms: under which it is granted to the next host.
  func takeAway(
    _ name: LockName, seen: [[UInt8]], token: Token?, terms: GrantTerms, of user: UInt32?,
    _ completion: @escaping StoreCompletion<[TakenLease]>
  )

  /// Asks the daemon behind `inbox` something; its answer comes as an event, with the number. The completion is told
  /// how many were there to hear it; nil: it is not known.
  func call(_ payload: [UInt8], id: UInt64, inbox: String, _ completion: @escaping (Int64?) -> Void)
  /// Answers what the daemon behind `inbox` has asked under that number.
  func answer(_ payload: [UInt8], id: UInt64, inbox: String)
  /// Asks for an answer only: when it comes, everything that was on its way before it has come, too.
  func ping(_ completion: @escaping (_ isAnswered: Bool) -> Void)
}

typealias StoreCompletion<Answer> = (StoreAnswer<Answer>) -> Void

/// What came of a question to the store.
enum StoreAnswer<Answer> {
  case answer(Answer)
  /// A key of the lock holds data of others: which one, where that is known; its own words.
  case wrongType(OtherData?, String)
  /// It did not carry it out; its own words.
  case refused(String)
  /// Its answer makes no sense.
  case senseless
  /// The connection broke, or there was none.
  case none
}

/// Some of the locks in the store.
struct LockPage {
  /// The cursor of the first page, and the ``next`` of the last.
  static let start = Array("0".utf8)

  /// Where to go on.
  var next: [UInt8]
  var names: [LockName]
}

/// What a shard of the store tells by itself.
enum StoreEvent {
  /// Commands may be submitted.
  case up
  /// The connection is gone; nothing more comes for the commands that were in flight.
  case down
  /// A lease command that had to wait for others is on its way.
  case sent(CommandID)
  /// The reply to a lease command.
  case reply(CommandID, LeaseReply)
  /// Something that concerns leases.
  case push(LeasePush)
  /// How many replicas have what was asked about.
  case acknowledged(AcknowledgementID, AcknowledgementAnswer)
  /// Another daemon asks something.
  case call(UInt64, from: String, [UInt8])
  /// Another daemon answers what it was asked under that number.
  case answer(UInt64, [UInt8])
}

/// What the connection to the store has done since the start.
struct LinkStatistics {
  var commands: UInt64 = 0
  var pushes: UInt64 = 0
  /// Those of them that there was no time for.
  var pushesLeftOut: UInt64 = 0
  var errors: UInt64 = 0
  var connections: UInt64 = 0
}
