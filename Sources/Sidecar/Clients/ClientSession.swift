import AccessPolicy
import ClientProtocol
import LockEngine
import LockTypes
import NIOCore

/// One client connection: what came from it and is not a request yet, what it waits for, and what it has not read.
final class ClientSession {
  let id: SessionID
  let channel: any Channel
  let peer: Peer?
  /// What is known of the process beyond its number, once that has been looked up.
  var process: DescribedProcess?
  /// The process that connected, where it had to be found out.
  var handle: ProcessHandle?
  /// What ends the session, beside the end of its connection.
  var end = SessionEnd()

  /// The unit of the process that connected; nil while it is not known.
  var unit: PeerUnit?
  var isUnitAsked = false
  /// What the client may do, by that version of the policy.
  var access: Access?
  var accessVersion = 0

  /// What the sessions of the same user have together.
  var account: Account?
  var chargedInputBytes = 0
  var chargedOutputBytes = 0
  /// Output since it was last looked how much of it is not taken yet, in bytes.
  var unmeasuredBytes = 0
  var isMeasuring = false

  var framer = LineFramer()
  /// Input behind a line at which reading was paused.
  var unreadInput: ByteBuffer?
  /// Replies and notifications of this turn.
  var output: ByteBuffer?
  /// Requests that are not answered, by the client's id and by ours.
  private(set) var inFlight: [MessageID: RequestID] = [:]
  private var messageIDs: [RequestID: MessageID] = [:]
  /// Requests that Redis is asked for on behalf of this session.
  var queriesInFlight = 0

  /// What it watches, by the numbers that it was told.
  var watches: [Int64: WatchTarget] = [:] {
    didSet { isChanged = true }
  }
  var lastWatch: Int64 = 0
  /// Notifications that were left out because the session does not read, since it was last told how many.
  var notificationsMissed: Int64 = 0

  /// Whether the client reads what it is sent fast enough.
  var isWritable = true
  var isReadingPaused = false
  /// It has had its share of this turn, or the turn was over: its input goes on in one of the next.
  var isInputPutOff = false
  /// The client has said that nothing more will come.
  var inputEnded = false
  /// More of its holds end in the next turns.
  var isEndingHolds = false
  /// It has asked for what it holds to last until its connection ends all the same.
  var keepsHoldsHalfClosed = false
  /// It has said that it takes holds for which it does not wait.
  var acceptsTransfers = false
  /// Nothing more is taken from the client, and the connection is closed: at the end of the turn, or…
  var isClosing = false
  /// …when the client has taken what it was sent.
  var closesAfterOutput = false
  /// Whether anything ever came: the daemon does not speak first.
  var hasSpoken = false
  /// Whether the session is in the list of those that the turn's end looks at.
  var isDirty = false
  /// Whether the output has a grant, for which the client has waited.
  var isGranted = false

  /// Whether the session outlives the process; what follows is about that.
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
  /// What makes its socket known.
  var cookie: UInt64 = 0
  /// The socket, for as long as the channel is open; bytes that were seen in it and not taken out yet.
  var descriptor: CInt = -1
  var peekedBytes = 0
  /// The end of the output that the connection was given, from what it has not sent on; nil when it has sent all.
  var unsentOutput: ByteBuffer?

  init(id: SessionID, channel: any Channel, peer: Peer?) {
    self.id = id
    self.channel = channel
    self.peer = peer
  }

  func began(_ request: RequestID, as message: MessageID) {
    isChanged = true
    inFlight[message] = request
    messageIDs[request] = message
  }

  /// Ends a request: from now on its id is free. Nil when it is not in flight.
  func ended(_ request: RequestID) -> MessageID? {
    guard let message = messageIDs.removeValue(forKey: request) else { return nil }
    isChanged = true
    inFlight[message] = nil
    return message
  }

  func messageID(of request: RequestID) -> MessageID? {
    messageIDs[request]
  }
}

/// A process that has connections, with what is known of it so far.
final class DescribedProcess {
  var description: Peer.Description
  /// Whether that is all that can be found out.
  var isComplete = false
  /// The sessions of which the engine is told again when it is.
  var sessions: [SessionID] = []

  init(_ description: Peer.Description) {
    self.description = description
  }
}
