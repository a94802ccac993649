// What a keeper has to do with the sockets of the sessions that it keeps.

import Glibc
import NIOCore

/// To look at what there is in a socket without taking it or waiting for it.
let peekFlags = Int32(MSG_PEEK) | Int32(MSG_DONTWAIT)

/// Makes room for what is read from a kept client, and tells of it before.
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
  private var sizes = AdaptiveRecvByteBufferAllocator()

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

  /// Whether its record is not what it was.
  var mustBeWritten: Bool { keeping.isChanged || hasInput || keeping.hadInputWritten }

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

  /// Closes the connection. The service manager may have it too, so that closing it here would not end it.
  func disconnect() {
    if keeping.isKept { withSocket { _ = shutdown($0, Int32(SHUT_RDWR)) } }
    channel.close(promise: nil)
  }
}
