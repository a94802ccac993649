import Glibc
import Testing

@testable import sidelockd

/// Scripts of signals and what they mean. Times are milliseconds.
struct SignalOrderTests {
  private static let handOver = SignalOrder.handOverNumber
  private static let stop = SignalOrder.stopNumber

  @Test(arguments: [(SIGTERM, SIGTERM), (SIGINT, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGINT)])
  func theSecondOrderToStopWithinHalfASecondIsTheSame(first: Int32, second: Int32) {
    var order = SignalOrder()
    #expect(order.meaning(of: first, now: 1000) == .end)
    #expect(order.meaning(of: second, now: 1000) == .same)
    #expect(order.meaning(of: second, now: 1499) == .same)
    #expect(order.meaning(of: first, now: 1500) == .endAtOnce)
  }

  @Test func anOrderThatHasComeWhileTheFirstWasCarriedOutIsTheSame() {
    var order = SignalOrder()
    #expect(order.meaning(of: SIGTERM, now: 1000) == .end)
    order.carriedOut(now: 2000)
    #expect(order.meaning(of: SIGTERM, now: 2001) == .same)
    #expect(order.meaning(of: SIGINT, now: 2500) == .endAtOnce)
  }

  @Test func theTimeCountsFromTheFirstOrder() {
    var order = SignalOrder()
    #expect(order.meaning(of: SIGTERM, now: 0) == .end)
    #expect(order.meaning(of: SIGTERM, now: 400) == .same)
    #expect(order.meaning(of: SIGTERM, now: 600) == .endAtOnce)
  }

  @Test func aStopMayFollowAHandOverWheneverItLikes() {
    var order = SignalOrder()
    #expect(order.meaning(of: Self.handOver, now: 0) == .handOver)
    #expect(order.meaning(of: SIGTERM, now: 2000) == .end)
    #expect(order.meaning(of: SIGTERM, now: 2499) == .same)
    #expect(order.meaning(of: SIGTERM, now: 2500) == .endAtOnce)
  }

  @Test func anAnnouncedStopIsOneWithTheSignalThatFollowsWhenever() {
    var order = SignalOrder()
    #expect(order.meaning(of: Self.stop, now: 0) == .stop)
    #expect(order.meaning(of: Self.stop, now: 1) == .same)
    #expect(order.meaning(of: SIGHUP, now: 2) == .same)
    #expect(order.meaning(of: Self.handOver, now: 3) == .same)
    #expect(order.meaning(of: SIGTERM, now: 3000) == .same)
    #expect(order.meaning(of: SIGTERM, now: 3499) == .same)
    #expect(order.meaning(of: SIGINT, now: 3500) == .endAtOnce)
  }

  @Test func aHandOverThatCannotBeMayBecomeAStop() {
    var order = SignalOrder()
    #expect(order.meaning(of: Self.handOver, now: 0) == .handOver)
    #expect(order.meaning(of: Self.stop, now: 1) == .stop)
    #expect(order.meaning(of: SIGTERM, now: 2) == .same)
  }

  @Test func anAnnouncementAfterTheFactChangesNothing() {
    for number in SignalOrder.announcements {
      var order = SignalOrder()
      #expect(order.meaning(of: SIGTERM, now: 0) == .end)
      #expect(order.meaning(of: number, now: 1) == .same)
      #expect(order.meaning(of: SIGTERM, now: 2) == .same)
    }
  }

  @Test func nothingElseCountsAfterAnOrderToStop() {
    var order = SignalOrder()
    #expect(order.meaning(of: SIGHUP, now: 0) == .reload)
    #expect(order.meaning(of: SIGTERM, now: 0) == .end)
    #expect(order.meaning(of: SIGHUP, now: 1) == .same)
    #expect(order.meaning(of: Self.handOver, now: 1) == .same)
  }

  @Test func signalsThatTheRuntimeMayUseMeanNothing() {
    var order = SignalOrder()
    for number in [SIGUSR1, SIGUSR2] { #expect(order.meaning(of: number, now: 0) == .unknown) }
    #expect(![SIGUSR1, SIGUSR2, SIGPROF].contains(Self.handOver))
    #expect(order.meaning(of: SIGTERM, now: 0) == .end)
  }
}
