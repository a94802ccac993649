import CSystemd
import Dispatch
import Glibc
public import Logging
import NIOConcurrencyHelpers
import Synchronization

/// Tells the service manager how the daemon is doing (sd_notify), without ever making its caller wait.
///
/// Sending blocks when the service manager does not read, so it happens on a serial queue of its own. What is not sent
/// yet waits in `NotifyOutbox`, which cannot grow. The watchdog ping is never made up here: each one that is sent was
/// asked for by `watchdogTick()`, so a loop that hangs is found out.
///
/// Outside of a service manager (no `NOTIFY_SOCKET`) every call does nothing.
public final class Notifier: Sendable {
  /// How often the service manager expects `watchdogTick()` at the latest, in microseconds; nil when it does not.
  /// Tick at half of this or more often.
  public let watchdogIntervalMicroseconds: UInt64?

  private struct State {
    var outbox = NotifyOutbox()
    /// A drain is queued or running that will look at the outbox again.
    var drainQueued = false
    /// A drain will follow when the status may be sent.
    var timerArmed = false
  }

  // The thread sanitizer does not see the standard library's Mutex, and takes what it guards for a race.
  private let state = NIOLockedValueBox(State())
  private let queue = DispatchQueue(label: "sidelock.notify")
  private let isEnabled: Bool
  private let clock: @Sendable () -> UInt64
  private let send: @Sendable (String) -> Void
  private let barrier: @Sendable (_ limitMicroseconds: UInt64) -> Bool

  /// A notifier for the service manager that started this process, if one did.
  ///
  /// - Parameter logger: told once when the service manager cannot be reached.
  public convenience init(logger: Logger) {
    let failureLogged = Atomic(false)
    self.init(
      isEnabled: getenv("NOTIFY_SOCKET") != nil,
      watchdogIntervalMicroseconds: Self.watchdogFromEnvironment(),
      clock: monotonicMilliseconds,
      send: { [failureLogged = Shared(failureLogged)] lines in
        let result = sd_notify(0, lines)
        if result < 0, !failureLogged.value.exchange(true, ordering: .relaxed) {
          logger.error(
            "cannot notify the service manager", metadata: ["reason": "\(String(cString: strerror(-result)))"])
        }
      },
      barrier: { sd_notify_barrier(0, $0) > 0 })
  }

  /// A notifier with its surroundings given, for tests.
  init(
    isEnabled: Bool, watchdogIntervalMicroseconds: UInt64?, clock: @escaping @Sendable () -> UInt64,
    send: @escaping @Sendable (String) -> Void, barrier: @escaping @Sendable (UInt64) -> Bool = { _ in true }
  ) {
    self.isEnabled = isEnabled
    self.watchdogIntervalMicroseconds = watchdogIntervalMicroseconds
    self.clock = clock
    self.send = send
    self.barrier = barrier
  }

  /// The daemon serves (READY=1).
  public func ready(status: String? = nil) { put { $0.ready(status: status) } }

  /// One line about the state of the daemon (STATUS=). Sent when it changed, and at most once a second; of what comes
  /// faster the latest is sent.
  public func status(_ text: String) { put { $0.status(text) } }

  /// The daemon is about to stop (STOPPING=1).
  public func stopping(status: String? = nil) { put { $0.stopping(status: status) } }

  /// The settings are being read again (RELOADING=1). ``ready(status:)`` must follow, whether they can be used or not.
  public func reloading() {
    let now = monotonicMicroseconds()
    put { $0.reloading(since: now) }
  }

  /// The start or the stop may take so much longer, in microseconds from now (EXTEND_TIMEOUT_USEC=).
  public func extendTimeout(microseconds: UInt64) { put { $0.extendTimeout(microseconds: microseconds) } }

  /// The event loop works (WATCHDOG=1). To be called by that loop only.
  public func watchdogTick() { put { $0.watchdogTicked() } }

  /// Waits until the service manager has read everything that could be sent at once (BARRIER=1); for the end of the
  /// process: whose a message is cannot be told once it has ended. Never on the event loop.
  ///
  /// - Returns: false when that took longer than the given time, or cannot be known.
  @discardableResult
  public func flush(withinMilliseconds limit: Int) -> Bool {
    let done = DispatchSemaphore(value: 0)
    let wasRead = NIOLockedValueBox(false)
    queue.async {
      let result = !self.isEnabled || self.barrier(UInt64(max(0, limit)) * 1000)
      wasRead.withLockedValue { $0 = result }
      done.signal()
    }
    return done.wait(timeout: .now() + .milliseconds(limit)) == .success && wasRead.withLockedValue { $0 }
  }

  private func put(_ change: (inout NotifyOutbox) -> Void) {
    guard isEnabled else { return }
    let mustQueue = state.withLockedValue { state in
      change(&state.outbox)
      defer { state.drainQueued = true }
      return !state.drainQueued
    }
    if mustQueue { queue.async { self.drain() } }
  }

  private func drain() {
    while true {
      let now = clock()
      let (step, mustArm) = state.withLockedValue { state in
        let step = state.outbox.next(now: now)
        switch step {
        case .send:
          return (step, false)
        case .idle:
          state.drainQueued = false
          return (step, false)
        case .wait:
          state.drainQueued = false
          defer { state.timerArmed = true }
          return (step, !state.timerArmed)
        }
      }
      switch step {
      case .send(let lines):
        send(lines)
      case .wait(let milliseconds):
        if mustArm { queue.asyncAfter(deadline: .now() + .milliseconds(Int(milliseconds))) { self.timerFired() } }
        return
      case .idle:
        return
      }
    }
  }

  private func timerFired() {
    state.withLockedValue { state in
      state.timerArmed = false
      state.drainQueued = true
    }
    drain()
  }

  private static func watchdogFromEnvironment() -> UInt64? {
    var microseconds: UInt64 = 0
    return sd_watchdog_enabled(0, &microseconds) > 0 && microseconds > 0 ? microseconds : nil
  }
}

/// Lets closures share something that cannot be copied.
private final class Shared<Value: ~Copyable & Sendable>: Sendable {
  let value: Value
  init(_ value: consuming Value) { self.value = value }
}

/// Microseconds of CLOCK_MONOTONIC, which is the service manager's.
private func monotonicMicroseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000 + UInt64(time.tv_nsec) / 1000
}

/// Milliseconds of a clock that never goes back.
@Sendable func monotonicMilliseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
}
