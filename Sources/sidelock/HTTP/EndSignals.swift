import Glibc

/// SIGINT and SIGTERM, for a command that serves until one of them comes. To be made before any thread, which inherits
/// that they are blocked.
struct EndSignals {
  private var signals = sigset_t()

  init() {
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM] { sigaddset(&signals, signal) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)
  }

  /// Waits for one of them.
  func wait() {
    var signal: CInt = 0
    withUnsafePointer(to: signals) { _ = sigwait($0, &signal) }
  }
}
