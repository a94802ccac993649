import CEventLoop
import Glibc
import NIOCore
import NIOPosix
import Testing

/// Which events the loop is given: `CEventLoop`.
@Suite struct EventSharesTests {
  /// The indices of the events that are taken, by whose each of them is.
  private func taken(of users: [UInt16]) -> [Int] {
    let seen = users.indices.map { epoll_event(events: EPOLLIN.rawValue, data: epoll_data_t(u64: UInt64($0))) }
    var taken = [epoll_event](repeating: epoll_event(), count: Int(EVENTS_TAKEN_MAX))
    events_take(seen, users, CInt(users.count), &taken, EVENTS_TAKEN_MAX)
    return taken.map { Int($0.data.u64) }
  }

  @Test(arguments: [0, 1, 63, 64, 2047])
  func oneEventIsTakenBeforeThoseOfACrowd(place: Int) {
    var users = [UInt16](repeating: 7, count: Int(EVENTS_SEEN_MAX))
    users[place] = 9
    let taken = taken(of: users)
    #expect(taken.contains(place))
    #expect(Set(taken).count == Int(EVENTS_TAKEN_MAX))
  }

  @Test func crowdsHaveEqualSharesInTheirOrder() {
    let users = [UInt16](repeating: 1, count: 500) + [UInt16](repeating: 2, count: 100)
    #expect(taken(of: users) == Array(0..<32) + Array(500..<532))
  }

  @Test func whatOneDoesNotNeedOthersHaveInTheirOrder() {
    let users = [UInt16](repeating: 3, count: 100) + [1, 2, 2]
    let taken = taken(of: users)
    #expect(taken.filter { users[$0] == 3 } == Array(0..<61))
    #expect(Set(taken).isSuperset(of: [100, 101, 102]))
  }

  @Test func ofMoreUsersThanThereIsRoomForEachHasOne() {
    let users = (0..<100).map(UInt16.init) + (0..<100).map(UInt16.init)
    #expect(taken(of: users) == Array(0..<64))
  }

  /// NIO reads all that is unread of a connection whose other side has ended.
  @Test func ofEndedConnectionsWithMuchUnreadFewAreTaken() throws {
    var receivers: [CInt] = []
    func connection(_ bytes: Int) throws -> epoll_event {
      var ends: [CInt] = [-1, -1]
      try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
      try #require(send(ends[1], [UInt8](repeating: 0x20, count: bytes), bytes, 0) == bytes)
      close(ends[1])
      receivers.append(ends[0])
      // Above its descriptor NIO numbers its registrations.
      let data = epoll_data_t(u64: UInt64(UInt32(ends[0])) | 7 << 32)
      return epoll_event(events: EPOLLIN.rawValue | EPOLLRDHUP.rawValue, data: data)
    }
    var events = try (0..<20).map { _ in try connection(100_000) } + [connection(10)]
    // It goes on.
    events.append(epoll_event(events: EPOLLIN.rawValue, data: events[19].data))
    let all = events
    let count = Int(events_bound_bytes(&events, CInt(events.count)))
    #expect(events[..<count].map(\.data.u64) == (all[..<3] + all[20...]).map(\.data.u64))
    var few = Array(all[..<2])
    #expect(events_bound_bytes(&few, 2) == 2)
    for receiver in receivers { close(receiver) }
  }

  /// When very many connections end at once, the loop does something else after each few of them.
  @Test func aLoopOfNIOIsGivenFewEventsAtATimeAndAllOfThem() async throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    let (loop, count) = (group.next(), 200)
    let all = loop.makePromise(of: [Int].self)
    let passes = NIOLoopBoundBox<Passes?>.makeEmptyBox(eventLoop: loop)
    let ends = try await loop.flatSubmit {
      event_shares_begin()
      passes.value = Passes(expected: count, loop: loop, all: all)
      let ends = (0..<count).map { _ in
        var pipe: [CInt] = [-1, -1]
        Glibc.pipe(&pipe)
        return (read: pipe[0], write: pipe[1])
      }
      return EventLoopFuture.andAllSucceed(
        ends.map { ends in
          NIOPipeBootstrap(group: loop)
            .channelInitializer { channel in
              channel.eventLoop.makeCompletedFuture {
                try channel.pipeline.syncOperations.addHandler(EndCounter(passes.value))
              }
            }
            .takingOwnershipOfDescriptor(input: ends.read).map { _ in }
        }, on: loop
      )
      .map { ends.map(\.write) }
    }.get()
    try await loop.submit { for end in ends { close(end) } }.get()
    let counts = try await all.futureResult.get()
    #expect(counts.allSatisfy { $0 <= Int(EVENTS_TAKEN_MAX) })
    #expect(counts.reduce(0, +) == count)
    try await group.shutdownGracefully()
  }
}

/// Counts the ends of channels between two times at which the loop does something else.
private final class Passes {
  private let expected: Int
  private let loop: any EventLoop
  private let all: EventLoopPromise<[Int]>
  private var counts: [Int] = []
  private var isInPass = false

  init(expected: Int, loop: any EventLoop, all: EventLoopPromise<[Int]>) {
    self.expected = expected
    self.loop = loop
    self.all = all
  }

  func ended() {
    if !isInPass {
      isInPass = true
      counts.append(0)
      loop.assumeIsolated().execute { self.isInPass = false }
    }
    counts[counts.count - 1] += 1
    if counts.reduce(0, +) == expected { all.succeed(counts) }
  }
}

private final class EndCounter: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  private let passes: Passes?

  init(_ passes: Passes?) { self.passes = passes }

  func channelInactive(context: ChannelHandlerContext) { passes?.ended() }
}
