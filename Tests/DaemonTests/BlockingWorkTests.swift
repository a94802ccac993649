import Dispatch
import NIOConcurrencyHelpers
import Testing

@testable import sidelockd

struct BlockingWorkTests {
  @Test func whoAsksForItDoesNotWaitAndItIsDoneInOrderOneAtATime() {
    let work = BlockingWork()
    let gate = DispatchSemaphore(value: 0)
    let done = DispatchSemaphore(value: 0)
    let order = NIOLockedValueBox<[Int]>([])
    for number in 0..<5 {
      let isStarted = work.start {
        if number == 0 { gate.wait() }
        order.withLockedValue { $0.append(number) }
        done.signal()
      }
      #expect(isStarted)
    }
    #expect(work.isBusy)
    #expect(order.withLockedValue { $0 } == [])
    gate.signal()
    for _ in 0..<5 { done.wait() }
    #expect(order.withLockedValue { $0 } == [0, 1, 2, 3, 4])
  }

  @Test func aResultIsWaitedForAsLongAsTold() {
    let work = BlockingWork()
    #expect(work.result(withinMilliseconds: 60_000) { 7 } == 7)
    let gate = DispatchSemaphore(value: 0)
    #expect(work.start { gate.wait() })
    #expect(work.result(withinMilliseconds: 10) { 8 } == nil)
    gate.signal()
    #expect(work.result(withinMilliseconds: 60_000) { 9 } == 9)
  }
}
