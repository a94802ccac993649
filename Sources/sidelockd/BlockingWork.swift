import Dispatch
import NIOConcurrencyHelpers
import SystemdSupport

/// A queue for work that may block, even for ever: one piece at a time, in order, on a thread of its own.
final class BlockingWork: Sendable {
  private struct State {
    var isRunning = false
    var queue: [@Sendable () -> Void] = []
  }

  private let state = NIOLockedValueBox(State())

  /// Whether any is being done.
  var isBusy: Bool { state.withLockedValue { $0.isRunning } }

  /// Queues `work`, and starts a thread if there is none; it has the caller's signals blocked.
  ///
  /// - Returns: false when no thread can be started; then nothing is done.
  func start(_ work: @escaping @Sendable () -> Void) -> Bool {
    let needsThread = state.withLockedValue { state in
      state.queue.append(work)
      defer { state.isRunning = true }
      return !state.isRunning
    }
    guard needsThread else { return true }
    guard DetachedThread.start({ self.doAll() }) else {
      state.withLockedValue { $0 = State() }
      return false
    }
    return true
  }

  /// The result of `work`; nil when it is not there in time.
  func result<Value: Sendable>(
    withinMilliseconds limit: Int, _ work: @escaping @Sendable () -> Value
  ) -> Value? {
    let done = DispatchSemaphore(value: 0)
    let result = NIOLockedValueBox<Value?>(nil)
    let isStarted = start {
      let value = work()
      result.withLockedValue { $0 = value }
      done.signal()
    }
    guard isStarted, done.wait(timeout: .now() + .milliseconds(limit)) == .success else { return nil }
    return result.withLockedValue { $0 }
  }

  private func doAll() {
    while let work = next() { work() }
  }

  private func next() -> (@Sendable () -> Void)? {
    state.withLockedValue { state in
      guard state.queue.isEmpty else { return state.queue.removeFirst() }
      state.isRunning = false
      return nil
    }
  }
}
