import NIOCore

/// A caller that waits for a reply, with a limit: a daemon that is stopped, or that hangs, would keep it for ever.
/// Lives on the event loop. The connection handles a reply that comes late.
final class PendingReply<Value: Sendable> {
  private var continuation: CheckedContinuation<Value, any Error>?
  private var timer: Scheduled<Void>?

  init(_ continuation: CheckedContinuation<Value, any Error>) {
    self.continuation = continuation
  }

  /// Whether nobody waits any more.
  var isOver: Bool { continuation == nil }

  /// Calls `action` when nothing came within `time`. Replaces an earlier limit.
  func limit(_ time: TimeAmount, on loop: any EventLoop, _ action: @escaping () -> Void) {
    guard !isOver else { return }
    timer?.cancel()
    timer = loop.assumeIsolated().scheduleTask(in: time, action)
  }

  func resume(with result: Result<Value, any Error>) {
    timer?.cancel()
    timer = nil
    continuation?.resume(with: result)
    continuation = nil
  }

  func resume(returning value: Value) { resume(with: .success(value)) }
  func resume(throwing error: any Error) { resume(with: .failure(error)) }
}
