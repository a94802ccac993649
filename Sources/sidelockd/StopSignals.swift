import CLinux
import Glibc
import SystemdSupport

/// What a signal means after those that came before it.
struct SignalOrder {
  /// An order to stop within this time of the first is the same one, in milliseconds: `timeout` and some service
  /// managers send a signal to a process and then to its group, and a terminal may add its own.
  static let sameMilliseconds: UInt64 = 500
  /// Has the daemon leave clients and locks to the one that follows; SIGTERM comes behind it. Nobody else has a use for
  /// this signal: the runtime stops threads by SIGUSR1, SIGUSR2 and SIGPROF when it draws a backtrace, and people send
  /// the first two to find out what a program does with them.
  static let handOverNumber = first_realtime_signal() + 1
  static let handOverName = "SIGRTMIN+1"
  /// Has the daemon give everything back, because none follows; SIGTERM comes behind it.
  static let stopNumber = first_realtime_signal() + 2
  static let stopName = "SIGRTMIN+2"
  /// The signals that say what a SIGTERM behind them is for, in the order in which they are taken.
  static let announcements = [handOverNumber, stopNumber]

  enum Meaning: Equatable {
    /// None follows: everything is given back.
    case stop
    /// One follows: clients and locks are left to it.
    case handOver
    /// It is to end, and nobody has said whether one follows.
    case end
    case reload
    case endAtOnce
    /// The order was given already.
    case same
    /// It means nothing here.
    case unknown
  }

  private var endAt: UInt64?
  private var isStopAnnounced = false

  /// - Parameter now: in milliseconds, on a clock that does not go back.
  mutating func meaning(of number: Int32, now: UInt64) -> Meaning {
    switch number {
    case SIGHUP:
      return isEnding ? .same : .reload
    case SIGTERM, SIGINT:
      guard let endAt else {
        endAt = now
        return isStopAnnounced ? .same : .end
      }
      return now < endAt + Self.sameMilliseconds ? .same : .endAtOnce
    case Self.handOverNumber:
      return isEnding ? .same : .handOver
    case Self.stopNumber:
      if isEnding { return .same }
      isStopAnnounced = true
      return .stop
    case _:
      return .unknown
    }
  }

  /// The last signal was carried out, which may have taken long: an order to end that came meanwhile is the same one.
  mutating func carriedOut(now: UInt64) {
    if endAt != nil { endAt = now }
  }

  private var isEnding: Bool { endAt != nil || isStopAnnounced }
}

/// Signals as messages: blocked everywhere, and taken one by one by a thread of their own, where any code may run.
final class StopSignals {
  /// Called for each signal that means something, with its name.
  typealias Taker = @Sendable (_ meaning: SignalOrder.Meaning, _ name: String) -> Void

  /// Blocks the signals for this thread and all that it starts; until `listen` they wait.
  init() {
    // A client that is gone is an error of one write, not the end of the daemon.
    signal(SIGPIPE, SIG_IGN)
    var set = Self.handledSet()
    pthread_sigmask(SIG_BLOCK, &set, nil)
  }

  /// Starts to take signals.
  ///
  /// - Parameter take: called for each one that means something, with its name. An order to stop that is repeated ends
  ///   the process at once.
  func listen(_ take: @escaping Taker) {
    guard !DetachedThread.start({ Self.loop(take) }) else { return }
    // Without the thread nobody would ever hear a stop: let the signals end the process as usual.
    var set = Self.handledSet()
    pthread_sigmask(SIG_UNBLOCK, &set, nil)
  }

  private static let handled: [(number: Int32, name: String)] = [
    (SIGTERM, "SIGTERM"), (SIGINT, "SIGINT"), (SIGHUP, "SIGHUP"), (SIGUSR1, "SIGUSR1"), (SIGUSR2, "SIGUSR2"),
    (SignalOrder.handOverNumber, SignalOrder.handOverName), (SignalOrder.stopNumber, SignalOrder.stopName),
  ]

  private static func handledSet() -> sigset_t {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in handled { sigaddset(&set, signal.number) }
    return set
  }

  private static func loop(_ taker: Taker) {
    var set = handledSet()
    var order = SignalOrder()
    while true {
      var number: Int32 = 0
      guard sigwait(&set, &number) == 0 else { continue }
      // sigwait takes the lowest pending signal first: SIGTERM would come before the one that says what it is for.
      if number == SIGTERM || number == SIGINT {
        for announcement in SignalOrder.announcements where take_pending_signal(announcement) != 0 {
          take(announcement, &order, taker)
        }
      }
      take(number, &order, taker)
    }
  }

  private static func take(_ number: Int32, _ order: inout SignalOrder, _ taker: Taker) {
    let meaning = order.meaning(of: number, now: monotonicMilliseconds())
    switch meaning {
    case .endAtOnce: _exit(ExitStatus.failure)
    case .same: return
    case .stop, .handOver, .end, .reload, .unknown:
      taker(meaning, handled.first { $0.number == number }?.name ?? "\(number)")
      if meaning == .end { order.carriedOut(now: monotonicMilliseconds()) }
    }
  }

  private static func monotonicMilliseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1000 + UInt64(time.tv_nsec) / 1_000_000
  }
}
