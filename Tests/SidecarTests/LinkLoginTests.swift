import LockTypes
import NIOCore
import NIOEmbedded
import RESP
import Testing

@testable import Sidecar

/// When a login is read, and which one is used, with readings that end when a test wants them to.
@Suite struct LinkLoginTests {
  private final class Site {
    let loop = EmbeddedEventLoop()
    var source = RedisLoginSource()
    var readings: [(sources: LoginReader.Sources, promise: EventLoopPromise<LoginReader.Found>)] = []
    private(set) var login: LinkLogin!
    /// The passwords that attempts to connect were given; nil: none.
    private(set) var given: [String?] = []
    /// Those that were found besides.
    private(set) var found: [String?] = []
    private(set) var failures: [String] = []

    init(file: String = "", command: String = "") {
      source.passwordFile = file
      source.command = command
      login = LinkLogin(
        loop: loop, now: { [unowned self] in BootInstant(nanoseconds: Int64(loop.now.uptimeNanoseconds)) },
        source: { [unowned self] in source },
        reading: LinkLogin.Reading(loop: loop) { [unowned self] sources in
          readings.append((sources, loop.makePromise()))
          return readings[readings.count - 1].promise.futureResult
        })
      login.onFound = { [unowned self] in found.append($0.password.map { text($0.bytes) }) }
      login.onFailure = { [unowned self] in failures.append($0) }
    }

    func connect() {
      login.prepare(timeoutMilliseconds: 100) { self.given.append($0?.password.map { text($0.bytes) }) }
    }

    func succeed(_ password: String, expiresIn seconds: Int64? = nil, stamp: LoginReader.FileStamp? = nil) {
      readings[readings.count - 1].promise.succeed(
        .login(RedisLogin(password: RedisSecret(Array(password.utf8))), expiresInSeconds: seconds, stamp))
      loop.run()
    }

    func fail(_ reason: String) {
      readings[readings.count - 1].promise.fail(LoginReader.Failure(description: reason))
      loop.run()
    }

    func pass(milliseconds: Int64) { loop.advanceTime(by: .milliseconds(milliseconds)) }

    /// Lets time pass until there is one more reading; how long that took.
    func pauseBeforeReading() -> Int64? {
      let before = readings.count
      for passed in 1...600 {
        pass(milliseconds: 100)
        if readings.count > before { return Int64(passed) * 100 }
      }
      return nil
    }

    /// A promise must be kept.
    func end() {
      login.stop()
      for reading in readings { reading.promise.succeed(.unchanged) }
      loop.run()
    }
  }

  /// A program that hangs costs a new connection a second, and not the leases. What it gives later is found besides.
  @Test func aReadingThatHangsDoesNotKeepAGoodLoginFromBeingUsed() {
    let site = Site(command: "/p")
    site.connect()
    site.succeed("a", expiresIn: 900)
    site.pass(milliseconds: 11_000)
    site.connect()
    #expect(site.readings.count == 2 && site.given == ["a"])
    site.pass(milliseconds: LinkLogin.patienceMilliseconds - 1)
    #expect(site.given == ["a"])
    site.pass(milliseconds: 1)
    #expect(site.given == ["a", "a"] && site.found == [])
    site.succeed("b", expiresIn: 900)
    #expect(site.given == ["a", "a"] && site.found == ["b"])
    site.end()
  }

  /// Without one there is nothing to go on with.
  @Test func aReadingThatHangsIsWaitedForWhereNoLoginIsGood() {
    let site = Site(command: "/p")
    site.connect()
    site.pass(milliseconds: 5000)
    #expect(site.given == [])
    site.succeed("a")
    #expect(site.given == ["a"])
    site.end()
  }

  /// Of the links to a cluster one that is made in a failover begins with what the others have.
  @Test func whatAnotherOneKnowsNeedNotBeFoundOut() {
    let (site, other) = (Site(command: "/p"), Site(command: "/p"))
    other.connect()
    other.succeed("a", expiresIn: 900)
    site.login.take(from: other.login)
    site.connect()
    #expect(site.given == ["a"] && site.readings.isEmpty)
    // Where the program is another one, it is not what that gives.
    site.source.command = "/q"
    site.login.take(from: other.login)
    site.connect()
    #expect(site.readings.count == 1)
    site.end()
    other.end()
  }

  @Test func whatStandsInTheURLIsNotRead() {
    let site = Site()
    site.source.inURL = RedisLogin(username: "u", password: RedisSecret(Array("url".utf8)))
    site.connect()
    #expect(site.given == ["url"] && site.readings.isEmpty)
    site.source.inURL.password = RedisSecret(Array("other".utf8))
    site.login.readAgain(timeoutMilliseconds: 100)
    #expect(site.found == ["other"])
    #expect(site.pauseBeforeReading() == nil)
  }

  @Test func aFileIsReadForEachConnectionAndAtAReload() {
    let site = Site(file: "/p")
    for password in ["one", "two"] {
      site.connect()
      site.succeed(password)
    }
    #expect(site.given == ["one", "two"] && site.found == [])
    site.login.readAgain(timeoutMilliseconds: 100)
    site.succeed("three")
    #expect(site.found == ["three"] && site.readings.count == 3)
    site.end()
  }

  @Test func aFileIsLookedAtEveryTenSeconds() {
    let site = Site(file: "/p")
    let stamp = LoginReader.FileStamp(of: "/")
    site.connect()
    site.succeed("one", stamp: stamp)
    #expect(site.readings[0].sources.known == nil)
    site.pass(milliseconds: 9_000)
    #expect(site.readings.count == 1)
    site.pass(milliseconds: 2_000)
    #expect(site.readings.count == 2 && site.readings[1].sources.known == stamp)
    site.readings[1].promise.succeed(.unchanged)
    site.loop.run()
    #expect(site.found == [])
    site.pass(milliseconds: 11_000)
    site.succeed("two", stamp: stamp)
    #expect(site.found == ["two"])
    site.end()
  }

  @Test(arguments: [(900, 720_000), (100, 67_000), (3, 2_000), (36_000, 28_800_000)] as [(Int64, Int64)])
  func aTokenIsRenewedBeforeItIsOver(seconds: Int64, milliseconds: Int64) {
    let site = Site(command: "/c")
    site.connect()
    site.succeed("one", expiresIn: seconds)
    site.pass(milliseconds: milliseconds - 500)
    #expect(site.readings.count == 1)
    site.pass(milliseconds: 1_000)
    #expect(site.readings.count == 2)
    site.succeed("two", expiresIn: seconds)
    #expect(site.found == ["two"])
    site.end()
  }

  @Test func aTokenWithoutAnEndIsKept() {
    let site = Site(command: "/c")
    site.connect()
    site.succeed("one")
    #expect(site.pauseBeforeReading() == nil)
    site.end()
  }

  @Test func aProgramIsNotRunForEachOfManyConnections() {
    let site = Site(command: "/c")
    site.connect()
    site.succeed("one")
    site.connect()
    #expect(site.given == ["one", "one"] && site.readings.count == 1)
    site.pass(milliseconds: 10_001)
    site.connect()
    #expect(site.readings.count == 2)
    site.end()
  }

  @Test func whileNothingCanBeReadTheLoginOfBeforeIsUsedAsLongAsItIsGood() {
    let site = Site(command: "/c")
    site.connect()
    site.succeed("one", expiresIn: 60)
    site.pass(milliseconds: 40_500)
    #expect(site.readings.count == 2)
    site.fail("no")
    #expect(site.failures == ["no"])
    site.connect()
    #expect(site.given == ["one", "one"])
    // Each pause is twice as long as the one before.
    for (pause, _) in [(1_000, 1), (2_000, 2), (4_000, 3), (8_000, 4)] as [(Int64, Int)] {
      let passed = site.pauseBeforeReading()
      #expect(passed.map { ($0 - pause).magnitude <= 200 } == true, "\(passed ?? -1)")
      site.fail("no")
    }
    #expect(site.failures == Array(repeating: "no", count: 5))
    site.pass(milliseconds: 10_000)
    // It is over now.
    site.connect()
    #expect(site.given == ["one", "one", nil] && site.login.failure == "no")
    _ = site.pauseBeforeReading()
    site.succeed("two", expiresIn: 60)
    site.connect()
    #expect(site.given == ["one", "one", nil, "two"] && site.login.failure == nil)
    site.end()
  }

  @Test func withoutALoginOfBeforeThereIsNone() {
    let site = Site(file: "/p")
    site.connect()
    site.fail("no")
    #expect(site.given == [nil] && site.login.failure == "no" && site.failures == [])
    site.connect()
    site.succeed("one")
    #expect(site.given == [nil, "one"])
    site.end()
  }

  @Test func aReadingThatHangsIsNotWaitedFor() {
    let site = Site(file: "/p")
    site.connect()
    site.pass(milliseconds: 100)
    #expect(site.given == [nil] && site.login.failure == "redis_password_file could not be read within 100 ms")
    let program = Site(command: "/c")
    program.connect()
    program.pass(milliseconds: 10_900)
    #expect(program.given == [])
    program.pass(milliseconds: 200)
    #expect(program.login.failure == "redis_credentials_command could not be read within 11000 ms")
    site.end()
    program.end()
  }

  /// Redis may know it in a moment.
  @Test func aLoginThatWasRefusedIsReadAgainWithGrowingPauses() {
    let site = Site(file: "/p")
    let stamp = LoginReader.FileStamp(of: "/")
    site.connect()
    site.succeed("one", stamp: stamp)
    for pause in [1_000, 2_000, 4_000] as [Int64] {
      site.login.wasRefused()
      let passed = site.pauseBeforeReading()
      #expect(passed.map { ($0 - pause).magnitude <= 200 } == true, "\(passed ?? -1)")
      // Although the file is the same.
      #expect(site.readings[site.readings.count - 1].sources.known == nil)
      site.succeed("two", stamp: stamp)
    }
    #expect(site.found == ["two", "two", "two"])
    site.login.wasAccepted()
    site.pass(milliseconds: 9_900)
    #expect(site.readings.count == 4)
    site.pass(milliseconds: 200)
    #expect(site.readings.count == 5)
    site.end()
  }

  /// Connections are tried more often than a program is run.
  @Test func eachRefusalOfTheSameLoginDoesNotPutOffTheNextReading() {
    let site = Site(command: "/c")
    site.connect()
    site.succeed("one")
    for pause in [1_000, 2_000, 4_000] as [Int64] {
      let before = site.readings.count
      for _ in 0..<(pause / 100 - 2) {
        site.connect()
        site.login.wasRefused()
        site.pass(milliseconds: 100)
      }
      #expect(site.readings.count == before)
      site.pass(milliseconds: 400)
      #expect(site.readings.count == before + 1)
      site.succeed("two")
    }
    site.login.wasAccepted()
    #expect(site.given.last == "two")
    site.end()
  }

  @Test func anotherSourceIsReadAtAReload() {
    let site = Site(file: "/p")
    site.connect()
    site.succeed("one")
    (site.source.passwordFile, site.source.command) = ("", "/c")
    site.login.readAgain(timeoutMilliseconds: 100)
    #expect(site.readings.count == 2)
    // What came from elsewhere is not used in its place.
    site.fail("no")
    site.connect()
    #expect(site.given == ["one", nil])
    site.end()
  }
}

private func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }
