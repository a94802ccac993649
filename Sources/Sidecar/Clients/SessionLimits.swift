import LockEngine
import LockTypes
import Logging
import NIOCore

/// What the connections of one user take together.
final class Account {
  let uid: UInt32
  var connections = 0
  /// Bytes that are kept for them: input that is no request yet, and output that is not taken yet.
  var bytes = 0
  var watches = 0

  init(uid: UInt32) {
    self.uid = uid
  }
}

/// How often each limit was met.
final class LimitCounts {
  private var counts = [UInt64](repeating: 0, count: LimitName.allCases.count)

  func met(_ limit: LimitName) {
    if let index = LimitName.allCases.firstIndex(of: limit) { counts[index] += 1 }
  }

  /// Each limit with its count.
  var all: [(limit: LimitName, count: UInt64)] { Array(zip(LimitName.allCases, counts)) }
}

/// The limits of what one session, and all sessions of one user, may make the daemon keep.
final class SessionLimits {
  /// Output that may go to a session before its unread output is measured again, in bytes.
  private static let unmeasuredOutputBytes = 16_384

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
    guard let account = session.charges.account else { return }
    session.charges.account = nil
    account.bytes -= session.charges.bytes
    account.connections -= 1
    if account.connections == 0 { accounts[account.uid] = nil }
  }

  // MARK: Bytes

  /// Charges what came from a session and is no request yet.
  func chargeInput(of session: ClientSession) {
    let bytes = session.input.framer.bufferedBytes + (session.input.unread?.readableBytes ?? 0)
    guard bytes != session.charges.inputBytes else { return }
    let grows = bytes > session.charges.inputBytes
    session.charges.charge(input: bytes, output: session.charges.outputBytes)
    if grows, let limit = byteLimit(of: session) { refuseBytes(limit, to: session) }
  }

  /// Charges output that a session has not taken. Measured only after much output, or while some was unread.
  func chargeOutput(of session: ClientSession, sent bytes: Int) {
    session.charges.unmeasuredBytes += bytes
    guard session.charges.unmeasuredBytes >= Self.unmeasuredOutputBytes || session.charges.outputBytes > 0 else {
      return
    }
    session.charges.unmeasuredBytes = 0
    measureOutput(of: session)
  }

  private func measureOutput(of session: ClientSession) {
    guard sessions.has(session) else { return }
    let unread = (try? session.channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0
    let grows = unread > session.charges.outputBytes
    session.charges.charge(input: session.charges.inputBytes, output: unread)
    if grows, !session.isClosing, let limit = byteLimit(of: session) {
      counts.met(limit)
      statistics.slowReadersClosed += 1
      logger.notice(
        "closing a client that does not read",
        metadata: [
          "session": "\(session.id.rawValue)", "unread_bytes": "\(unread)", "limit": "\(limit.rawValue)",
          "uid": "\(session.peer.map { "\($0.uid)" } ?? "")",
        ])
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
    counts.met(limit)
    output.write(to: session) { $0.failure(id: nil, .limit) { $0.member("limit", limit.rawValue) } }
    lifetimes.end(session, because: limit == .bytesPerSession ? .bytesPerSession : .bytesPerUID)
  }
}

/// What a session makes the daemon keep, and who answers for it.
struct SessionCharges {
  /// What the sessions of the same user have together.
  var account: Account?
  /// Bytes of input that is no request yet.
  fileprivate(set) var inputBytes = 0
  /// Bytes of output that were not taken when last measured.
  fileprivate(set) var outputBytes = 0
  /// Bytes written since the unread output was last measured.
  var unmeasuredBytes = 0
  var isMeasuring = false

  /// What is kept for the session, in bytes.
  var bytes: Int { inputBytes + outputBytes }

  fileprivate mutating func charge(input: Int, output: Int) {
    account?.bytes += input + output - bytes
    inputBytes = input
    outputBytes = output
  }
}
