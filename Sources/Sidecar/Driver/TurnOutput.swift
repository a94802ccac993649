import ClientProtocol
import NIOCore

/// What a turn has for clients. It is sent once to each of them, at the turn's end.
final class TurnOutput {
  /// Above this many bytes of unread output a session is not read from until it has caught up, and is sent only what it
  /// asked for.
  static let unreadPauseBytes = 262_144
  /// Below this many it is read from again.
  static let unreadResumeBytes = 65_536
  private static let spareBuffersMax = 64
  private static let spareBufferBytesMax = 4096

  private let loop: any EventLoop
  private let statistics: SidecarStatistics
  private var writer = MessageWriter()
  private var isEndScheduled = false
  private var dirtySessions: [ClientSession] = []
  /// Sessions of the turn that is being ended.
  private(set) var settlingSessions: [ClientSession] = []
  /// Output buffers for reuse. One that the channel still holds is replaced when it is written to.
  private var spareBuffers: [ByteBuffer] = []
  /// Ends the turn.
  var onEnd: () -> Void = {}
  /// Whether somebody looks on at what is written.
  var isTraced = false
  /// Called with what is written while that is so.
  var onTraced: (ClientSession, [UInt8]) -> Void = { _, _ in }

  init(loop: any EventLoop, statistics: SidecarStatistics) {
    self.loop = loop
    self.statistics = statistics
  }

  // MARK: The end of the turn

  /// Has the turn end once the loop has dealt with what is ready.
  func scheduleEnd() {
    guard !isEndScheduled else { return }
    isEndScheduled = true
    loop.assumeIsolated().execute { self.onEnd() }
  }

  /// The turn ends: what is written from now on belongs to the next one.
  func endBegins() {
    isEndScheduled = false
    swap(&settlingSessions, &dirtySessions)
  }

  /// The sessions of the turn were dealt with.
  func endIsOver() { settlingSessions.removeAll(keepingCapacity: true) }

  /// Has the turn's end look at a session.
  func touch(_ session: ClientSession) {
    guard !session.output.isDirty else { return }
    session.output.isDirty = true
    dirtySessions.append(session)
    scheduleEnd()
  }

  // MARK: Messages

  /// Writes a message to a session; it is sent at the turn's end.
  func write(to session: ClientSession, _ body: (inout MessageWriter) -> Void) {
    body(&writer)
    if session.output.bytes == nil { session.output.bytes = emptyBuffer(for: session.channel) }
    session.output.bytes?.writeBytes(writer.bytes)
    if isTraced { return endTracedWrite(to: session) }
    writer.removeAll()
    touch(session)
  }

  private func endTracedWrite(to session: ClientSession) {
    let lines = writer.bytes
    writer.removeAll()
    touch(session)
    onTraced(session, lines)
  }

  /// Writes a message for a connection that has no session.
  func message(on channel: any Channel, _ body: (inout MessageWriter) -> Void) -> ByteBuffer {
    body(&writer)
    var buffer = channel.allocator.buffer(capacity: writer.count)
    buffer.writeBytes(writer.bytes)
    writer.removeAll()
    return buffer
  }

  private func emptyBuffer(for channel: any Channel) -> ByteBuffer {
    guard var buffer = spareBuffers.popLast() else { return channel.allocator.buffer(capacity: writer.count) }
    buffer.clear(minimumCapacity: writer.count)
    return buffer
  }

  /// Keeps a written buffer for reuse, unless it is large.
  func keep(_ buffer: ByteBuffer) {
    guard spareBuffers.count < Self.spareBuffersMax, buffer.capacity <= Self.spareBufferBytesMax else { return }
    spareBuffers.append(buffer)
  }

  // MARK: What a session has not asked for

  /// Whether a session has so much unread that it is told nothing but what it asked for.
  func isBehind(_ session: ClientSession) -> Bool {
    !session.output.isWritable || session.output.count >= Self.unreadPauseBytes
  }

  /// Writes a notification that others cause, unless the session is behind: strangers must not fill a slow reader's
  /// output until it is closed and its locks are free. What is left out is counted, and told by `missed`.
  func writeUnlessBehind(to session: ClientSession, _ body: (inout MessageWriter) -> Void) {
    guard !isBehind(session) else {
      session.output.notificationsMissed += 1
      statistics.notificationsMissed += 1
      return
    }
    notifyMissed(session)
    write(to: session, body)
  }

  /// Tells a session how many notifications it has missed, when it reads again or, with `inAnyCase`, now.
  func notifyMissed(_ session: ClientSession, inAnyCase: Bool = false) {
    guard session.output.notificationsMissed > 0, !session.isClosing, inAnyCase || !isBehind(session) else { return }
    let count = session.output.notificationsMissed
    session.output.notificationsMissed = 0
    write(to: session) { $0.missed(count: count) }
  }
}
