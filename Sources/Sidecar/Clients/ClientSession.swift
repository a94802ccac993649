import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import NIOCore

/// One client connection. What is known of it stands in parts, each of which belongs to what works on it.
final class ClientSession {
  let id: SessionID
  let channel: any Channel
  let peer: Peer?
  /// What is known of the process beyond its number, once that has been looked up.
  var process: DescribedProcess?
  /// The process that connected, where it had to be found out.
  var handle: ProcessHandle?
  var rights = SessionRights()
  var charges = SessionCharges()
  var lifetime = SessionLifetime()
  var input = SessionInput()
  var output = SessionOutput()
  private(set) var requests = SessionRequests()
  var watches = SessionWatches() {
    didSet { keeping.isChanged = true }
  }
  var keeping = SessionKeeping()
  /// It has said that it takes holds for which it does not wait.
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
    keeping.isChanged = true
    requests.began(request, as: message)
  }

  /// Ends a request: from now on its id is free. Nil when it is not in flight.
  func ended(_ request: RequestID) -> MessageID? {
    guard let message = requests.ended(request) else { return nil }
    keeping.isChanged = true
    return message
  }

  /// A request has the store, or other hosts, asked on its behalf.
  func beganQuery(_ request: RequestID, as message: MessageID) {
    began(request, as: message)
    requests.queries += 1
  }

  /// What was asked has an answer, or none will come; see ``ended(_:)``.
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
}

/// What a client is sent.
struct SessionOutput {
  /// Replies and notifications of this turn.
  var bytes: ByteBuffer?
  /// How many bytes that is.
  var count: Int { bytes?.readableBytes ?? 0 }
  /// Whether the client reads what it is sent fast enough.
  var isWritable = true
  /// Whether the session is in the list of those that the turn's end looks at.
  var isDirty = false
  /// Whether the output has a grant, for which the client has waited.
  var isGranted = false
  /// Notifications that were left out because the session does not read, since it was last told how many.
  var notificationsMissed: Int64 = 0
}

/// What a client has asked and is not answered.
struct SessionRequests {
  /// Requests by the client's id…
  private(set) var inFlight: [MessageID: RequestID] = [:]
  /// …and by ours.
  private var messageIDs: [RequestID: MessageID] = [:]
  /// Those for which the store is asked, or other hosts.
  fileprivate(set) var queries = 0

  fileprivate mutating func began(_ request: RequestID, as message: MessageID) {
    inFlight[message] = request
    messageIDs[request] = message
  }

  fileprivate mutating func ended(_ request: RequestID) -> MessageID? {
    guard let message = messageIDs.removeValue(forKey: request) else { return nil }
    inFlight[message] = nil
    return message
  }

  func messageID(of request: RequestID) -> MessageID? { messageIDs[request] }
}

/// What a client watches.
struct SessionWatches {
  /// By the numbers that it was told.
  var targets: [Int64: WatchTarget] = [:]
  var last: Int64 = 0
}

/// What a client may do.
struct SessionRights {
  /// The unit of the process that connected; nil while it is not known.
  var unit: PeerUnit?
  var isUnitAsked = false
  /// What it may do by that version of the policy.
  var access: Access?
  var version = 0
}

/// How a session outlives the process.
struct SessionKeeping {
  /// Whether it does; what follows is about that.
  var isKept = false
  /// Whether it is in the list of those of which something may have changed, and whether something has for sure.
  var isTouched = false
  var isChanged = false
  /// Bytes of output that were noted in this turn and not given to the connection yet.
  var notedBytes = 0
  /// Whether its record holds input.
  var hadInputWritten = false
  /// Whether it has had something to lose since that was last looked at.
  var hadWork = false
  /// What makes its socket known (`SO_COOKIE`).
  var cookie: UInt64 = 0
  /// The socket, for as long as the channel is open; bytes that were seen in it and not taken out yet.
  var descriptor: CInt = -1
  var peekedBytes = 0
  /// The end of the output that the connection was given, from what it has not sent on; nil when it has sent all.
  var unsentOutput: ByteBuffer?
}
