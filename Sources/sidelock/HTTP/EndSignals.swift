import Glibc

/// SIGINT, SIGTERM and SIGHUP, for a command that serves until one of them comes. One that is ignored stays so, as that of
/// nohup, or SIGINT of a job in the background of a script. To be made before any thread, which inherits that they are
/// blocked.
struct EndSignals {
  private var signals = sigset_t()

  init() {
    sigemptyset(&signals)
    for signal in [SIGINT, SIGTERM, SIGHUP] where !Self.isIgnored(signal) { sigaddset(&signals, signal) }
    pthread_sigmask(SIG_BLOCK, &signals, nil)
  }

  /// A blocked signal is kept even where it is ignored.
  private static func isIgnored(_ signal: CInt) -> Bool {
    var action = sigaction()
    guard sigaction(signal, nil, &action) == 0 else { return false }
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
  }

  /// Waits for one of them.
  func wait() {
    var signal: CInt = 0
    withUnsafePointer(to: signals) { _ = sigwait($0, &signal) }
  }
}
