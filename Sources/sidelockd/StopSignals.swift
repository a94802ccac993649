import Glibc

/// Signals as messages: blocked everywhere, and taken one by one by a thread of their own, where any code may run.
final class StopSignals {
  private final class Context: Sendable {
    let stop: @Sendable (_ name: String) -> Void
    let handOver: @Sendable () -> Void
    let reload: @Sendable () -> Void

    init(
      stop: @escaping @Sendable (_ name: String) -> Void, handOver: @escaping @Sendable () -> Void,
      reload: @escaping @Sendable () -> Void
    ) {
      self.stop = stop
      self.handOver = handOver
      self.reload = reload
    }
  }

  /// Blocks the signals for this thread and all that it starts; until `listen` they wait.
  init() {
    // A client that is gone is an error of one write, not the end of the daemon.
    signal(SIGPIPE, SIG_IGN)
    var set = Self.handledSet()
    pthread_sigmask(SIG_BLOCK, &set, nil)
  }

  /// Starts to take signals.
  ///
  /// - Parameters:
  ///   - stop: called at the first SIGTERM or SIGINT. A second one ends the process at once.
  ///   - handOver: called at SIGUSR1 instead. The service manager sends SIGTERM behind it, and means the same.
  ///   - reload: called at SIGHUP.
  func listen(
    stop: @escaping @Sendable (_ name: String) -> Void, handOver: @escaping @Sendable () -> Void,
    reload: @escaping @Sendable () -> Void
  ) {
    let context = Unmanaged.passRetained(Context(stop: stop, handOver: handOver, reload: reload))
    var thread = pthread_t()
    let result = pthread_create(
      &thread, nil,
      { argument in
        guard let argument else { return nil }
        StopSignals.loop(Unmanaged<Context>.fromOpaque(argument).takeRetainedValue())
        return nil
      }, context.toOpaque())
    if result == 0 {
      pthread_detach(thread)
    } else {
      // Without the thread nobody would ever hear a stop: let the signals end the process as usual.
      context.release()
      var set = Self.handledSet()
      pthread_sigmask(SIG_UNBLOCK, &set, nil)
    }
  }

  private static func handledSet() -> sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, SIGTERM)
    sigaddset(&set, SIGINT)
    sigaddset(&set, SIGHUP)
    sigaddset(&set, SIGUSR1)
    return set
  }

  private static func loop(_ context: Context) {
    var set = handledSet()
    var stopping = false
    var handingOver = false
    while true {
      var number: Int32 = 0
      guard sigwait(&set, &number) == 0 else { continue }
      switch number {
      case SIGHUP:
        if !stopping { context.reload() }
      case SIGUSR1:
        guard !stopping else { continue }
        stopping = true
        handingOver = true
        context.handOver()
      case SIGTERM where handingOver:
        handingOver = false
      case _ where stopping:
        _exit(ExitStatus.failure)
      default:
        stopping = true
        context.stop(number == SIGTERM ? "SIGTERM" : "SIGINT")
      }
    }
  }
}
