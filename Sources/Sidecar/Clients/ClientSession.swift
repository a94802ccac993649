import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import NIOCore

/// One client connection, in records: each belongs to the part of the driver that works on it.
final class ClientSession {
  let id: SessionID
  let channel: any Channel
  let peer: Peer?
  /// What is known of the process beyond its pid, once it has been looked up.
  var process: DescribedProcess?
  /// What the client says of itself (`initialize`).
  var client: String?
  /// When it connected; nil where the daemon before has accepted it.
  var beganAt: BootInstant?
  /// The process that connected, once its pidfd was opened.
  var handle: ProcessHandle?
  var rights = SessionRights()
  var charges = SessionCharges()
  var lifetime = SessionLifetime()
  var enforcement = SessionEnforcement()
  var input = SessionInput()
  var output = SessionOutput()
  private(set) var requests = SessionRequests()
  var watches = SessionWatches() {
    didSet { keeping.isChanged = true }
  }
  var keeping = SessionKeeping()
  /// The client takes holds for which it does not wait (`accept_transfers`).
  var acceptsTransfers = false
  /// Nothing more is taken from the client, and the connection is closed: at the end of the turn, or…
  var isClosing = false
  /// …when the client has taken what it was sent.
  var closesAfterOutput = false

  init(id: SessionID, channel: any Channel, peer: Peer?) {
    self.id = id
    self.channel = channel
    self.peer = peer
  }

  func began(_ request: RequestID, as message: MessageID) {
    keeping.changedRequests?.append(request)
    requests.began(request, as: message)
  }

  /// Ends a request: from now on its id is free. Nil when it is not in flight.
  func ended(_ request: RequestID) -> MessageID? {
    guard let message = requests.ended(request) else { return nil }
    keeping.changedRequests?.append(request)
    return message
  }

  /// A request that queries the store or other hosts has begun.
  func beganQuery(_ request: RequestID, as message: MessageID) {
    began(request, as: message)
    requests.queries += 1
  }

  /// The query of a request is over, answered or not; see ``ended(_:)``.
  func endedQuery(_ request: RequestID) -> MessageID? {
    requests.queries -= 1
    return ended(request)
  }
}

/// What came from a client and is no request yet.
struct SessionInput {
  var framer = LineFramer()
  /// Input behind a line at which reading was paused.
  var unread: ByteBuffer?
  var isPaused = false
  /// It has had its share of this turn, or the turn was over: its input goes on in one of the next.
  var isPutOff = false
  /// The client has said that nothing more will come.
  var hasEnded = false
  /// Whether anything ever came: the daemon does not speak first.
  var hasSpoken = false
  /// Counts how often input came or was taken.
  var changes: UInt64 = 0
  /// Counts the lines that have ended.
  var lines: UInt64 = 0
}

/// What a client is sent.
struct SessionOutput {
  /// Replies and notifications of this turn.
  var bytes: ByteBuffer?
  /// How many bytes that is.
  var count: Int { bytes?.readableBytes ?? 0 }
  /// `isWritable` of the channel: whether the client reads its output fast enough.
  var isWritable = true
  /// Whether the end of the turn will look at the session.
  var isDirty = false
  /// Whether the output has a grant, for which the client has waited.
  var isGranted = false
  /// Notifications left out because the session does not read, since the last `missed`.
  var notificationsMissed: Int64 = 0
}

/// Requests that are not answered yet.
struct SessionRequests {
  /// Requests by the client's id…
  private(set) var inFlight: [MessageID: RequestID] = [:]
  /// …and by ours.
  private var messageIDs: [RequestID: MessageID] = [:]
  /// Those that query the store or other hosts.
  fileprivate(set) var queries = 0

  fileprivate mutating func began(_ request: RequestID, as message: MessageID) {
    inFlight[message] = request
    messageIDs[request] = message
  }

  fileprivate mutating func ended(_ request: RequestID) -> MessageID? {
    guard let message = messageIDs.removeValue(forKey: request) else { return nil }
    inFlight[message] = nil
    inFlight.shrinkIfSparse()
    messageIDs.shrinkIfSparse()
    return message
  }

  func messageID(of request: RequestID) -> MessageID? { messageIDs[request] }
}

/// What a client watches.
struct SessionWatches {
  /// By the numbers that it was told.
  var targets: [Int64: WatchParams] = [:]
  /// The numbers of its traces.
  var traces: Set<Int64> = []
  var last: Int64 = 0
}

/// What a client may do.
struct SessionRights {
  /// The unit of the process that connected; nil while it is not known.
  var unit: PeerUnit?
  var isUnitAsked = false
  /// What it may do by policy `version`.
  var access: Access?
  var version = 0
}

/// How a session outlives the process.
struct SessionKeeping {
  /// Whether it does; what follows is about that.
  var isKept = false
  /// It will, once all that it holds is written down. Until then it is as one that is not kept.
  var isBeginning = false
  /// Whether it has a place among those that are kept.
  var hasPlace: Bool { isKept || isBeginning }
  /// Whether it is in the keeper's `touched` (something may have changed), and whether something surely has.
  var isTouched = false
  var isChanged = false
  /// Requests that have begun or ended since that was last written; nil where that is not written down.
  var changedRequests: [RequestID]?
  /// Whether it may have lost something since that was last written, and the number behind the last written loss.
  var hasLost = false
  var lossesWritten: UInt64 = 0
  /// Bytes of output that were noted in this turn and not given to the connection yet.
  var notedBytes = 0
  /// Whether its record holds input, and since which change of it.
  var hadInputWritten = false
  var writtenInput: UInt64 = 0
  /// How many pieces of half a line have records of their own, and of which line: the one behind so many.
  var linePieces = 0
  var pieceLine: UInt64 = 0
  /// Whether it has had something to lose since the last sweep.
  var hadWork = false
  /// `SO_COOKIE`: identifies the socket across a restart.
  var cookie: UInt64 = 0
  /// The socket, while the channel is open; bytes that were peeked and not read yet.
  var descriptor: CInt = -1
  var peekedBytes = 0
  /// The tail of the output that the connection had not sent when last measured; nil when it has sent all.
  var unsentOutput: ByteBuffer?
}
