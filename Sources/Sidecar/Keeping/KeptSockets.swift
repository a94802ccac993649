// How a keeper watches, measures, closes and writes down the sessions that it keeps.

import CLinux
import Glibc
import LockEngine
import LockTypes
import NIOCore
import SystemdSupport

/// For recv: peek at the input without taking it or waiting for it.
let peekFlags = Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)

/// Room to look at input that is about to be read.
struct PeekRoom {
  private var bytes: [UInt8] = []

  /// Calls `body` with the input of a socket, up to `bytesMax`, which stays there; not where there is none.
  mutating func peek(at descriptor: CInt, bytesMax: Int, _ body: (UnsafeRawBufferPointer) -> Void) {
    if bytes.count < bytesMax { bytes = [UInt8](repeating: 0, count: bytesMax) }
    bytes.withUnsafeMutableBytes { room in
      let count = recv(descriptor, room.baseAddress, bytesMax, peekFlags)
      if count > 0 { body(UnsafeRawBufferPointer(rebasing: room[..<count])) }
    }
  }
}

/// Allocates buffers for reads from a kept client, and reports each read to the keeper beforehand.
struct WatchedReads: RecvByteBufferAllocator {
  final class Session {
    private weak var keeper: SessionKeeper?
    private weak var session: ClientSession?

    init(keeper: SessionKeeper, session: ClientSession) {
      self.keeper = keeper
      self.session = session
    }

    func willRead(bytesMax: Int) {
      if let session { keeper?.willRead(session, bytesMax: bytesMax) }
    }
  }

  let watched: NIOLoopBound<Session>
  private var sizes = ClientInput.readSizes

  init(watched: NIOLoopBound<Session>) {
    self.watched = watched
  }

  /// Asked for before each read.
  func nextBufferSize() -> Int? {
    let size = sizes.nextBufferSize()
    if let size { watched.value.willRead(bytesMax: size) }
    return size
  }

  func buffer(allocator: ByteBufferAllocator) -> ByteBuffer { sizes.buffer(allocator: allocator) }

  mutating func record(actualReadBytes: Int) -> Bool { sizes.record(actualReadBytes: actualReadBytes) }
}

extension ClientSession {
  /// Whether a line has begun, or was not taken yet.
  var hasInput: Bool { input.framer.isInsideLine || input.unread != nil }

  /// Whether any of its records must be written.
  var mustBeWritten: Bool { hasRecordChanged || keeping.changedRequests?.isEmpty == false || keeping.hasLost }

  /// Whether its own record must be written again. Half a line is not for being there: what others bring about has the
  /// session looked at, too.
  fileprivate var hasRecordChanged: Bool {
    keeping.isChanged || (hasInput || keeping.hadInputWritten) && input.changes != keeping.writtenInput
  }

  /// Has all of its records written; nothing is left of those before. Returns about how many they are.
  @discardableResult
  func writeAnew() -> Int {
    keeping.isChanged = true
    keeping.linePieces = 0
    keeping.changedRequests = requests.inFlight.values.sorted { $0.rawValue < $1.rawValue }
    keeping.hasLost = true
    keeping.lossesWritten = 0
    return requests.inFlight.count + 4
  }

  /// The record by which a successor goes on with the session, without what has records of its own: pieces of half a
  /// line, requests that are not answered, and losses.
  ///
  /// - Parameter isFinal: whether it is known how much of the output was sent.
  fileprivate func record(isFinal: Bool) -> SavedSession {
    keeping.isChanged = false
    keeping.hadInputWritten = hasInput
    keeping.writtenInput = input.changes
    if keeping.cookie == 0 { keeping.cookie = withSocket { socket_cookie($0) } ?? 0 }
    var record = SavedSession(id: id, cookie: keeping.cookie)
    record.inputEnded = input.hasEnded
    record.keepsHoldsHalfClosed = lifetime.keepsHoldsHalfClosed
    record.acceptsTransfers = acceptsTransfers
    record.client = client
    record.framer = input.framer.position
    record.framer.partial = Array(record.framer.partial[(keeping.linePieces * SavedLine.pieceBytes)...])
    record.unreadInput = input.unread.map { Array($0.readableBytesView) } ?? []
    record.watches = watches.targets
    record.traces = watches.traces
    record.lastWatch = watches.last
    record.endsWithProcess = lifetime.endsWithProcess
    record.keepaliveMilliseconds = lifetime.keepaliveMilliseconds ?? 0
    if isFinal {
      record.unsent = keeping.unsentOutput.map { Array($0.readableBytesView) } ?? []
    } else {
      record.isUncertain = keeping.unsentOutput != nil
    }
    return record
  }

  /// Calls `body` with the connection's socket, if it has one that is open.
  @discardableResult
  func withSocket<Result>(_ body: (CInt) -> Result) -> Result? {
    var result: Result?
    try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) {
      result = body($0)
    }
    return result
  }

  /// Bytes that were given to the connection and that it has not sent.
  var unsentBytes: Int { (try? channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0 }

  /// Closes the connection. Shuts a kept one down first: the service manager may have its descriptor, too.
  func disconnect() {
    if keeping.isKept { withSocket { _ = shutdown($0, Int32(SHUT_RDWR)) } }
    channel.close(promise: nil)
  }
}

extension StateLog {
  /// Puts what has changed of a session in the place of the records that it has. All of it may be much, and what others
  /// bring about changes it, for very many sessions in one turn: so what changes often has records of its own, and is
  /// written once.
  func putChanges(
    of session: ClientSession, losses: (SessionID, UInt64) -> [SavedLoss], isFinal: Bool = false
  ) throws(Failure) {
    try putRequests(of: session)
    if session.keeping.hasLost {
      session.keeping.hasLost = false
      for loss in losses(session.id, session.keeping.lossesWritten) {
        try put(SavedLossRecord.key(of: session.id, number: loss.number), loss.bytes)
        session.keeping.lossesWritten = loss.number + 1
      }
    }
    if session.hasRecordChanged { try putRecord(of: session, isFinal: isFinal) }
  }

  private func putRequests(of session: ClientSession) throws(Failure) {
    guard let changed = session.keeping.changedRequests, !changed.isEmpty else { return }
    session.keeping.changedRequests = []
    for request in changed {
      if let message = session.requests.messageID(of: request) {
        try put(SavedRequest.key(of: request), SavedRequest(session: session.id, message: message).encode())
      } else {
        try remove(SavedRequest.key(of: request))
      }
    }
  }

  /// Half a line may be long and grow by a byte: whole pieces of it are written once.
  private func putRecord(of session: ClientSession, isFinal: Bool) throws(Failure) {
    let line = session.input.framer.position.partial
    // A line that turns out to be too long is forgotten before it ends.
    if session.keeping.pieceLine != session.input.lines || line.isEmpty { try removePieces(of: session) }
    session.keeping.pieceLine = session.input.lines
    while (session.keeping.linePieces + 1) * SavedLine.pieceBytes <= line.count {
      let start = session.keeping.linePieces * SavedLine.pieceBytes
      try put(
        SavedLine.key(of: session.id, piece: session.keeping.linePieces),
        Array(line[start..<(start + SavedLine.pieceBytes)]))
      session.keeping.linePieces += 1
    }
    try put(Self.key(of: session), session.record(isFinal: isFinal).encode())
  }

  /// Notes what a session is to be sent, as far as that is not noted. Returns whether there was anything.
  func noteOutput(of session: ClientSession) throws(Failure) -> Bool {
    guard let output = session.output.bytes, output.readableBytes > session.keeping.notedBytes else { return false }
    var failure: Failure?
    output.withUnsafeReadableBytes { bytes in
      let rest = UnsafeRawBufferPointer(rebasing: bytes[session.keeping.notedBytes...])
      do throws(Failure) { try noteOutput(session.id.rawValue, rest) } catch { failure = error }
    }
    if let failure { throw failure }
    session.keeping.notedBytes = output.readableBytes
    return true
  }

  /// Removes the records of a session.
  func remove(_ session: ClientSession) throws(Failure) {
    try removePieces(of: session)
    for request in (session.keeping.changedRequests ?? []) + session.requests.inFlight.values {
      try remove(SavedRequest.key(of: request))
    }
    session.keeping.changedRequests = nil
    for number in 0..<min(session.keeping.lossesWritten, SavedLossRecord.placesMax) {
      try remove(SavedLossRecord.key(of: session.id, number: number))
    }
    try remove(Self.key(of: session))
  }

  private func removePieces(of session: ClientSession) throws(Failure) {
    for piece in 0..<session.keeping.linePieces { try remove(SavedLine.key(of: session.id, piece: piece)) }
    session.keeping.linePieces = 0
  }

  private static func key(of session: ClientSession) -> Key {
    Key(kind: SavedRecordKind.session, id: session.id.rawValue)
  }
}
