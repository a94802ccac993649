import NIOCore

/// Somebody who waits for a reply, but no longer than told: a daemon that is stopped, or that hangs, would keep them for
/// ever. Lives on the event loop. What the reply changes when it comes late is for the connection to see to.
final class PendingReply<Value: Sendable> {
  private var continuation: CheckedContinuation<Value, any Error>?
  private var timer: Scheduled<Void>?

  init(_ continuation: CheckedContinuation<Value, any Error>) {
    self.continuation = continuation
  }

  /// Whether nobody waits any more.
  var isOver: Bool { continuation == nil }

  /// Has `action` called when nothing came within `time`, instead of an earlier one.
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
