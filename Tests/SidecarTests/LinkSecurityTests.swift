import NIOCore
import NIOEmbedded
import RESP
import RedisTLS
import Testing

@testable import Sidecar

/// Readings of files for TLS that end when a test wants them to.
@Suite struct LinkSecurityTests {
  private final class Site {
    let loop = EmbeddedEventLoop()
    var options = RedisTLSOptions()
    /// Those that were begun.
    var readings: [EventLoopPromise<TLSClient>] = []
    private(set) var security: LinkSecurity!
    /// What attempts to connect were given.
    private(set) var outcomes: [Bool] = []

    init() {
      security = LinkSecurity(loop: loop, options: { [unowned self] in options }) { [unowned self] _ in
        readings.append(loop.makePromise())
        return readings[readings.count - 1].futureResult
      }
    }

    func connect() { security.prepare(timeoutMilliseconds: 100) { self.outcomes.append($0 != nil) } }

    func succeed(_ index: Int) throws {
      readings[index].succeed(try TLSClient(TLSMaterial(options), host: "redis.test"))
      loop.run()
    }

    /// Tries again and again, and returns after which attempts there was one more reading.
    func attempts(_ count: Int) -> [Int] {
      var begun: [Int] = []
      for attempt in 1...count {
        let before = readings.count
        connect()
        if readings.count > before { begun.append(attempt) }
        loop.advanceTime(by: .milliseconds(100))
      }
      return begun
    }

    /// A promise must be kept.
    func end() {
      struct Over: Error {}
      for reading in readings { reading.fail(Over()) }
      loop.run()
    }
  }

  @Test func oneReadingIsForAllWhoWait() throws {
    let site = Site()
    site.connect()
    site.connect()
    #expect(site.readings.count == 1)
    try site.succeed(0)
    #expect(site.outcomes == [true, true] && site.security.failure == nil)
    site.connect()
    #expect(site.readings.count == 2)
    site.end()
  }

  @Test func filesThatWereReplacedAreReadAlthoughAReadingHangs() throws {
    let site = Site()
    #expect(site.attempts(1) == [1])
    #expect(site.outcomes == [false])
    #expect(site.security.failure == "the files for TLS could not be read within 100 ms")
    site.connect()
    try #require(site.readings.count == 2)
    try site.succeed(1)
    #expect(site.outcomes == [false, true] && site.security.failure == nil)
    site.end()
  }

  @Test func readingsThatHangHoldFewThreads() throws {
    let site = Site()
    #expect(site.attempts(70) == [1, 2, 4, 8, 16, 32, 64])
    // One that has ended holds none, and what it brings comes too late.
    for index in 0..<6 { try site.succeed(index) }
    #expect(!site.outcomes.contains(true))
    #expect(site.attempts(4) == [2, 4])
    site.end()
  }

  @Test func otherFilesAreReadAtOnce() {
    let site = Site()
    site.connect()
    site.options.caFile = "/other.pem"
    site.connect()
    #expect(site.readings.count == 2)
    site.end()
  }
}
