import ClientProtocol
import LockEngine
import LockTypes
import NIOCore

/// Opens a session for each connection, and removes those whose connection is closed.
final class ClientRegistry {
  private let life: LifeStage
  private let sessions: SessionTable
  private let output: TurnOutput
  private let limits: SessionLimits
  private let counts: LimitCounts
  private let room: DescriptorRoom
  private let peers: PeerDirectory
  private let lifetimes: SessionLifetimes
  private let watches: WatchBook
  private let traces: TraceBook
  private let door: EngineDoor
  private let keeper: SessionKeeper?
  private let statistics: SidecarStatistics
  private let audit: AuditTrail
  /// Called for a session that came during the hand-over.
  var onLeft: (ClientSession) -> Void = { _ in }

  init(
    life: LifeStage, sessions: SessionTable, output: TurnOutput, limits: SessionLimits, counts: LimitCounts,
    room: DescriptorRoom, peers: PeerDirectory, lifetimes: SessionLifetimes, watches: WatchBook, traces: TraceBook,
    door: EngineDoor, keeper: SessionKeeper?, statistics: SidecarStatistics, audit: AuditTrail
  ) {
    self.life = life
    self.sessions = sessions
    self.output = output
    self.limits = limits
    self.counts = counts
    self.room = room
    self.peers = peers
    self.lifetimes = lifetimes
    self.watches = watches
    self.traces = traces
    self.door = door
    self.keeper = keeper
    self.statistics = statistics
    self.audit = audit
  }

  func accepted(_ channel: any Channel, from peer: Peer?) -> ClientSession? {
    let limit = limits.connectionLimit(uid: peer?.uid)
    // A connection that comes during the hand-over is left to the next daemon, too, while there is room.
    let isLeft = life.stage == .handingOver && keeper?.hasRoom == true
    guard life.stage == .serving || isLeft, limit == nil else {
      statistics.connectionsRefused += 1
      let buffer = output.message(on: channel) { writer in
        guard life.stage == .serving, let limit else { return writer.failure(id: nil, .shuttingDown) }
        counts.met(limit, by: nil, peer: peer)
        let message = limit == .connections ? room.tooManyConnections : room.tooManyConnectionsOfOneUser
        writer.failure(id: nil, .limit, message: message) { $0.member("limit", limit.rawValue) }
      }
      channel.writeAndFlush(buffer).assumeIsolated().whenComplete { _ in channel.close(promise: nil) }
      return nil
    }
    statistics.connections += 1
    let session = ClientSession(id: SessionID(sessions.last + 1), channel: channel, peer: peer)
    session.charges.account = limits.openAccount(uid: peer?.uid)
    if !ProcessHandle.kernelKnowsPeers { session.handle = try? ProcessHandle.opened(channel, peer: peer).get() }
    sessions.add(session)
    door.feed(.sessionOpened(session.id, uid: peer?.uid))
    audit.began(session)
    if isLeft { onLeft(session) } else { peers.lookUpUnit(of: session) }
    return session
  }

  func closed(_ session: ClientSession) {
    guard life.stage != .handedOver, sessions.remove(session) else { return }
    session.isClosing = true
    session.input.unread = nil
    audit.ended(session)
    watches.endAll(of: session)
    traces.ended(session)
    keeper?.closed(session)
    session.handle = nil
    lifetimes.endKeepalive(of: session)
    limits.closeAccount(of: session)
    door.feed(.sessionClosed(session.id), of: session.peer?.uid)
  }
}
