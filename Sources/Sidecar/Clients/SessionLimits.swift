import LockEngine
import LockTypes
import Logging
import NIOCore

/// What the connections of one user take together.
final class Account {
  let uid: UInt32
  var connections = 0
  /// Bytes that are kept for them: input that is no request yet, output that is not taken yet, and questions to Redis and
  /// to other hosts.
  var bytes = 0
  var watches = 0
  /// Questions to other hosts.
  fileprivate var hostQuestions = 0
  /// Sessions that are not read from because too many commands wait.
  fileprivate var paused: [SessionID: ClientSession] = [:]

  init(uid: UInt32) {
    self.uid = uid
  }
}

/// How often each limit was met.
final class LimitCounts {
  private var counts = [UInt64](repeating: 0, count: LimitName.allCases.count)
  /// Called with the limit and with who has met it.
  var onMet: (LimitName, ClientSession?, Peer?) -> Void = { _, _, _ in }

  /// A limit was met by a session, or by a process that gets none.
  func met(_ limit: LimitName, by session: ClientSession?, peer: Peer? = nil) {
    onMet(limit, session, peer)
    if let index = LimitName.allCases.firstIndex(of: limit) { counts[index] += 1 }
  }

  /// Each limit with its count.
  var all: [(limit: LimitName, count: UInt64)] { Array(zip(LimitName.allCases, counts)) }
}

/// The limits of what one session, and all sessions of one user, may make the daemon keep.
final class SessionLimits {
  /// Output that may go to a session before its unread output is measured again, in bytes of memory.
  private static let unmeasuredMemoryMax = 2048

  private let configuration: ConfigurationInForce
  private let counts: LimitCounts
  private let sessions: SessionTable
  private let output: TurnOutput
  private let room: DescriptorRoom
  private let lifetimes: SessionLifetimes
  private let losses: LossEnforcer
  private let statistics: SidecarStatistics
  private let logger: Logger
  private var accounts: [UInt32: Account] = [:]
  /// Those with sessions that are not read from because too many commands wait.
  private var pausedAccounts: [UInt32: Account] = [:]
  /// Where the leases of all hosts are; nil: this host is alone.
  var store: (any LeaseStore)?

  init(
    configuration: ConfigurationInForce, counts: LimitCounts, sessions: SessionTable, output: TurnOutput,
    room: DescriptorRoom, lifetimes: SessionLifetimes, losses: LossEnforcer, statistics: SidecarStatistics,
    logger: Logger
  ) {
    self.configuration = configuration
    self.counts = counts
    self.sessions = sessions
    self.output = output
    self.room = room
    self.lifetimes = lifetimes
    self.losses = losses
    self.statistics = statistics
    self.logger = logger
  }

  /// What is kept for all sessions, in bytes.
  var keptBytes: Int { accounts.values.reduce(0) { $0 + $1.bytes } }

  // MARK: Connections

  /// The limit that keeps a client of this user from being connected; nil: there is none.
  func connectionLimit(uid: UInt32?) -> LimitName? {
    if sessions.count >= configuration.settings.live.connectionsMax || !room.has(room.perConnection) {
      return .connections
    }
    if let uid, let account = accounts[uid], account.connections >= configuration.settings.live.connectionsPerUIDMax {
      return .connectionsPerUID
    }
    return nil
  }

  /// The account that a new session of this user belongs to.
  func openAccount(uid: UInt32?) -> Account? {
    guard let uid else { return nil }
    let account = accounts[uid] ?? Account(uid: uid)
    accounts[uid] = account
    account.connections += 1
    return account
  }

  /// A session is gone, and what was kept for it.
  func closeAccount(of session: ClientSession) {
    guard let account = session.charges.account, !session.charges.isOver else { return }
    session.charges.charge {
      $0.inputBytes = 0
      $0.outputBytes = 0
      $0.isOver = true
    }
    account.connections -= 1
    account.paused[session.id] = nil
    dropIfUnused(account)
  }

  /// Questions may outlive the sessions that asked them, and are still somebody's.
  private func dropIfUnused(_ account: Account) {
    if account.connections == 0, account.bytes == 0, account.hostQuestions == 0 { accounts[account.uid] = nil }
  }

  // MARK: Commands to the store

  /// Whether a session is not read from because too many commands wait on behalf of its user: to ask for more than the
  /// store can do must not fill the memory. Then it is among ``sessionsToResume()`` later.
  func mustAwaitCommands(_ session: ClientSession) -> Bool {
    if session.charges.isAwaitingCommands { return true }
    guard let store, store.waitingCount > 0, let account = session.charges.account,
      store.waitingMemory(of: account.uid) > configuration.settings.live.bytesPerUIDMax / 2
    else { return false }
    session.charges.isAwaitingCommands = true
    account.paused[session.id] = session
    pausedAccounts[account.uid] = account
    return true
  }

  /// The sessions that are read from again: half of what was too much is done.
  func sessionsToResume() -> [ClientSession] {
    guard !pausedAccounts.isEmpty else { return [] }
    var resumed: [ClientSession] = []
    for account in pausedAccounts.values {
      let waiting = store?.waitingMemory(of: account.uid) ?? 0
      guard waiting <= configuration.settings.live.bytesPerUIDMax / 4 else { continue }
      pausedAccounts[account.uid] = nil
      for session in account.paused.values { session.charges.isAwaitingCommands = false }
      resumed += account.paused.values
      account.paused = [:]
    }
    return resumed.sorted { $0.id < $1.id }
  }

  // MARK: Questions to other hosts

  /// How many questions to other hosts may be asked for one request of a session; nil: none, its user has to wait for
  /// answers first. A request that has more than one user may ask begins all the same when no other one is open: the
  /// first of its questions are asked, or it could never be answered.
  func mayAskHosts(_ session: ClientSession, count: Int) -> Int? {
    guard let account = session.charges.account else { return count }
    let room = HostCalls.perUserMax - account.hostQuestions
    guard count <= room || account.hostQuestions == 0 else {
      counts.met(.hostQuestionsPerUID, by: session)
      return nil
    }
    return min(count, room)
  }

  /// Charges questions to other hosts on behalf of a session, and gives what is to be called when all are answered.
  func chargeHostQuestions(of session: ClientSession, count: Int, bytes: Int) -> () -> Void {
    session.charges.account?.hostQuestions += count
    chargeQuestion(of: session, bytes: bytes)
    return {
      session.charges.account?.hostQuestions -= count
      self.questionEnded(of: session, bytes: bytes)
    }
  }

  // MARK: Bytes

  /// Charges what came from a session and is no request yet.
  func chargeInput(of session: ClientSession) {
    let bytes = session.input.framer.bufferedBytes + (session.input.unread?.keptBytes ?? 0)
    guard !session.charges.isOver, bytes != session.charges.inputBytes else { return }
    let grows = bytes > session.charges.inputBytes
    session.charges.charge { $0.inputBytes = bytes }
    if grows, let limit = byteLimit(of: session) { refuseBytes(limit, to: session) }
  }

  /// Charges a question to the store or to other hosts on behalf of a session.
  func chargeQuestion(of session: ClientSession, bytes: Int) {
    session.charges.charge { $0.questionBytes += bytes }
    if let limit = byteLimit(of: session) { refuseBytes(limit, to: session) }
  }

  /// A question of a session, which may be gone, is answered, or will not be.
  func questionEnded(of session: ClientSession, bytes: Int) {
    session.charges.charge { $0.questionBytes -= bytes }
    if let account = session.charges.account { dropIfUnused(account) }
  }

  /// Sends output to a session, and charges what it does not take. That is measured only after some output, or while
  /// some was unread.
  func send(_ output: ByteBuffer, to session: ClientSession) {
    let channel = session.channel
    guard output.readableBytes > UnreadOutput.pieceBytesMax else {
      channel.writeAndFlush(output, promise: nil)
      session.charges.unmeasured.add(output.readableBytes, capacity: output.storageCapacity)
      let unmeasured = session.charges.unmeasured
      guard
        unmeasured.capacity + unmeasured.buffers * UnreadOutput.bytesPerBuffer >= Self.unmeasuredMemoryMax
          || session.charges.outputBytes > 0
      else { return }
      session.charges.measureFrom(unmeasured)
      return measureOutput(of: session)
    }
    session.charges.measureFrom(session.charges.unmeasured)
    var rest = output
    while let slice = rest.readSlice(length: min(UnreadOutput.pieceBytesMax, rest.readableBytes)),
      slice.readableBytes > 0
    {
      var piece = channel.allocator.buffer(capacity: slice.readableBytes)
      piece.writeImmutableBuffer(slice)
      session.charges.unread.gave(piece.readableBytes, capacity: piece.storageCapacity)
      channel.write(piece, promise: nil)
    }
    channel.flush()
    measureOutput(of: session)
  }

  private func measureOutput(of session: ClientSession) {
    guard sessions.has(session) else { return }
    let unread = session.unsentBytes
    let before = session.charges.outputBytes
    session.charges.unread.measured(unread)
    session.charges.charge {
      $0.outputBytes = $0.unread.charge(copies: session.keeping.unsentOutput?.storageCapacity ?? 0)
    }
    if session.charges.outputBytes > before, !session.isClosing, let limit = byteLimit(of: session) {
      counts.met(limit, by: session)
      statistics.slowReadersClosed += 1
      let fields: Logger.Metadata = ["unread_bytes": "\(unread)", "limit": "\(limit.rawValue)"]
      logger.notice(
        "closing a client that does not read", metadata: fields.about(lifetimes.who(session)))
      losses.enforceEnd(of: session)
      session.isClosing = true
    }
    guard unread > 0, !session.charges.isMeasuring else { return }
    session.charges.isMeasuring = true
    // An empty write is complete when everything before it is.
    let channel = session.channel
    channel.writeAndFlush(channel.allocator.buffer(capacity: 0)).assumeIsolated().whenComplete { _ in
      session.charges.isMeasuring = false
      self.measureOutput(of: session)
    }
  }

  private func byteLimit(of session: ClientSession) -> LimitName? {
    if session.charges.bytes > configuration.settings.live.bytesPerSessionMax { return .bytesPerSession }
    if let account = session.charges.account, account.bytes > configuration.settings.live.bytesPerUIDMax {
      return .bytesPerUID
    }
    return nil
  }

  private func refuseBytes(_ limit: LimitName, to session: ClientSession) {
    guard !session.isClosing else { return }
    counts.met(limit, by: session)
    // Nothing more of it is read.
    session.input.unread = nil
    session.charges.charge { $0.inputBytes = session.input.framer.bufferedBytes }
    output.write(to: session) { $0.failure(id: nil, .limit) { $0.member("limit", limit.rawValue) } }
    lifetimes.end(session, because: limit == .bytesPerSession ? .bytesPerSession : .bytesPerUID)
  }
}

/// What a session makes the daemon keep, and who answers for it.
struct SessionCharges {
  /// What the sessions of the same user have together.
  var account: Account?
  /// For input that is no request yet.
  fileprivate(set) var inputBytes = 0
  /// For output that was not taken when last measured.
  fileprivate(set) var outputBytes = 0
  /// For questions to the store and to other hosts that are not answered.
  fileprivate(set) var questionBytes = 0
  /// Output that was not taken when last measured.
  fileprivate var unread = UnreadOutput()
  /// Output since then.
  fileprivate var unmeasured = Unmeasured()
  fileprivate var isMeasuring = false
  /// It is not read from because too many commands wait.
  fileprivate var isAwaitingCommands = false
  /// The session is gone; its questions may not be.
  fileprivate var isOver = false

  /// Output that the connection may have sent by now.
  fileprivate struct Unmeasured {
    var bytes = 0
    var capacity = 0
    var buffers = 0

    mutating func add(_ bytes: Int, capacity: Int) {
      self.bytes += bytes
      self.capacity += capacity
      buffers += 1
    }
  }

  /// What is kept for the session, in bytes.
  var bytes: Int { inputBytes + outputBytes + questionBytes }

  fileprivate mutating func measureFrom(_ unmeasured: Unmeasured) {
    if unmeasured.buffers > 0 {
      unread.gave(unmeasured.bytes, capacity: unmeasured.capacity, buffers: unmeasured.buffers)
    }
    self.unmeasured = Unmeasured()
  }

  fileprivate mutating func charge(_ change: (inout SessionCharges) -> Void) {
    let before = bytes
    change(&self)
    account?.bytes += bytes - before
  }
}

extension ByteBuffer {
  /// What is charged for keeping it: its bytes, unless it takes more than twice as much memory.
  fileprivate var keptBytes: Int { max(readableBytes, storageCapacity / 2) }

  /// The same bytes in no more memory than they need, where it takes more than twice as much.
  var compact: ByteBuffer {
    guard storageCapacity > 2 * readableBytes else { return self }
    var copy = ByteBufferAllocator().buffer(capacity: readableBytes)
    copy.writeImmutableBuffer(self)
    return copy
  }
}
