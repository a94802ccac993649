import Dispatch
import Glibc
import NIOConcurrencyHelpers

/// Work that may block, even for ever, done elsewhere than where it is asked for: one piece at a time, in the order in
/// which they came.
final class BlockingWork: Sendable {
  private struct State {
    var isRunning = false
    var queue: [@Sendable () -> Void] = []
  }

  private let state = NIOLockedValueBox(State())

  /// Whether some is being done.
  var isBusy: Bool { state.withLockedValue { $0.isRunning } }

  /// Has `work` done by a thread that is started for it, unless there is one. It has the caller's signals blocked.
  ///
  /// - Returns: false when no thread can be started; then nothing is done.
  func start(_ work: @escaping @Sendable () -> Void) -> Bool {
    let needsThread = state.withLockedValue { state in
      state.queue.append(work)
      defer { state.isRunning = true }
      return !state.isRunning
    }
    guard needsThread else { return true }
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(self)
    let result = pthread_create(
      &thread, nil,
      { argument in
        if let argument { Unmanaged<BlockingWork>.fromOpaque(argument).takeRetainedValue().doAll() }
        return nil
      }, argument.toOpaque())
    guard result == 0 else {
      argument.release()
      state.withLockedValue { $0 = State() }
      return false
    }
    pthread_detach(thread)
    return true
  }

  /// What `work` gives; nil when it has not within this time.
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
