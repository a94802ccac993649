import DaemonSettings
import Foundation
import LockEngine
import LockTypes
import Logging
import NIOCore
import NIOEmbedded
import Testing

@testable import Sidecar

/// A directory for a file of tokens, and daemons one after the other.
private final class Place {
  let directory: String
  var settings = Settings()
  var path: String { directory + "/tokens" }
  private var claims: [CInt] = []

  init(isChosen: Bool = true) throws {
    directory = FileManager.default.temporaryDirectory.appendingPathComponent("sidelock-\(UUID())").path
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
    settings.socketPath = directory + "/s"
    if isChosen { settings.localStateFile = path }
  }

  deinit {
    end()
    try? FileManager.default.removeItem(atPath: directory)
  }

  func begin(at clock: Int64, count: Token = 100) throws -> LocalTokenReservation {
    let begun = try LocalTokenReservation.begin(
      settings, wallMicroseconds: clock, count: count, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    if let file = begun.file { claims.append(file.claim) }
    return begun
  }

  /// The daemon is killed.
  func end() {
    for claim in claims { close(claim) }
    claims = []
  }

  /// The claim is another descriptor now.
  func replaced(by file: LocalTokenFile) { claims[claims.count - 1] = file.claim }

  func write(_ bytes: [UInt8], to path: String? = nil) throws {
    try Data(bytes).write(to: URL(filePath: path ?? self.path))
  }

  var content: [UInt8] { (try? Data(contentsOf: URL(filePath: path))).map { Array($0) } ?? [] }
  var names: [String] { (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? [] }
}

private let noon: Int64 = 1_800_000_000_000_000
private let hour: Int64 = 3_600_000_000

@Suite struct LocalTokensTests {
  @Test(arguments: [noon, noon - 1, noon - hour, noon - 24 * hour, 1, 0, -1, .min])
  func tokensRiseOverARestartWhateverTheClockShows(clock: Int64) throws {
    let place = try Place()
    let first = try place.begin(at: noon)
    #expect(first.first == noon && first.last == noon + 99)
    place.end()
    let second = try place.begin(at: clock)
    #expect(second.first == noon + 100 && second.last == noon + 199)
    place.end()
    #expect(try place.begin(at: clock).first == noon + 200)
    #expect(place.names == ["tokens"])
  }

  @Test func tokensAreNotBelowTheClock() throws {
    let place = try Place()
    _ = try place.begin(at: noon)
    place.end()
    #expect(try place.begin(at: noon + hour).first == noon + hour)
  }

  @Test func withoutAFileTheClockMustBeOne() throws {
    let place = try Place()
    for clock in [0, -1, Int64.min] {
      let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: clock) }
      #expect(error?.remedy == .attempt && error?.description.contains("before 1970") == true)
    }
    #expect(place.names.isEmpty)
  }

  @Test func aClockBeyondTheHighestTokenIsRefusedAndSpoilsNothing() throws {
    let place = try Place()
    _ = try place.begin(at: noon)
    place.end()
    let before = place.content
    for clock in [LockEngine.tokenMax - 99, LockEngine.tokenMax, .max] {
      let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: clock) }
      #expect(error?.remedy == .attempt && error?.description.contains("2255") == true)
    }
    #expect(place.content == before)
    #expect(try place.begin(at: LockEngine.tokenMax - 100).last == LockEngine.tokenMax - 1)
  }

  @Test func tokensThatHaveComeToTheirEndAreRefused() throws {
    let place = try Place()
    try place.write(LocalTokenFile.content(LockEngine.tokenMax - 101))
    #expect(try place.begin(at: noon).last == LockEngine.tokenMax - 1)
    place.end()
    let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    #expect(error?.remedy == .repair && error?.description.contains("2^53") == true)
  }

  @Test func whatIsNoFileOfTokensIsRefusedAndLeftAsItIs() throws {
    let good = LocalTokenFile.content(noon)
    #expect(LocalTokenFile.last(in: good) == noon)
    var bad = (0..<good.count).map { Array(good.prefix($0)) }
    for index in good.indices {
      for bit in 0..<8 {
        var changed = good
        changed[index] ^= 1 << bit
        bad.append(changed)
      }
    }
    bad += [good + [0x0A], LocalTokenFile.content(0), LocalTokenFile.content(-1), LocalTokenFile.content(1 << 53)]
    for bytes in bad { #expect(LocalTokenFile.last(in: bytes) == nil) }
    let place = try Place()
    for bytes in [[], Array(good.dropLast()), bad[good.count], [UInt8](repeating: 0, count: 5000)] {
      try place.write(bytes)
      let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
      #expect(error?.remedy == .repair)
      #expect(error?.description.contains(place.path) == true && error?.description.contains("remove it") == true)
      #expect(place.content == bytes)
    }
    try place.write(Array("sidelock-local-tokens 2 whatever".utf8))
    let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    #expect(error?.description.contains("another version") == true)
  }

  @Test func linksAndDirectoriesAreRefused() throws {
    let place = try Place()
    try place.write(LocalTokenFile.content(noon), to: place.directory + "/other")
    try FileManager.default.createSymbolicLink(atPath: place.path, withDestinationPath: "other")
    #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    try FileManager.default.removeItem(atPath: place.path)
    try FileManager.default.createDirectory(atPath: place.path, withIntermediateDirectories: false)
    #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    try FileManager.default.removeItem(atPath: place.path)
    #expect(mkfifo(place.path, 0o600) == 0)
    let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    #expect(error?.remedy == .repair)
  }

  @Test func twoDaemonsDoNotShareAFile() throws {
    let place = try Place()
    let begun = try place.begin(at: noon)
    for _ in 0..<2 {
      let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
      #expect(error?.remedy == .otherDaemon)
    }
    let file = try #require(begun.file)
    place.replaced(by: try file.replaced(last: noon + hour))
    let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    #expect(error?.remedy == .otherDaemon)
    // One that has seen no file yet.
    let late = #expect(throws: LocalTokensUnavailable.self) { try LocalTokenFile.make(place.path, last: noon) }
    #expect(late?.remedy == .otherDaemon)
    place.end()
    #expect(try place.begin(at: noon).first == noon + hour + 1)
  }

  @Test func whatACrashLeftBesideTheFileIsInNobodysWay() throws {
    let place = try Place()
    try place.write([1, 2, 3], to: place.path + ".new")
    #expect(try place.begin(at: noon).first == noon)
    place.end()
    try place.write([1, 2, 3], to: place.path + ".new")
    #expect(try place.begin(at: noon).first == noon + 100)
    #expect(place.names == ["tokens"])
  }

  @Test func withoutAPlaceOfItsOwnTheFileIsBesideTheSocket() throws {
    let place = try Place(isChosen: false)
    #expect(try place.begin(at: noon).last == noon + 99)
    #expect(place.names == ["s.tokens"])
    place.end()
    #expect(try place.begin(at: 0).first == noon + 100)
  }

  @Test func whereNoFileCanBeMadeTokensGoByTheClockUnlessAFileWasChosen() throws {
    let place = try Place(isChosen: false)
    for path in [place.directory + "/missing/s", ""] {
      place.settings.socketPath = path
      let begun = try place.begin(at: noon)
      #expect(begun.first == noon && begun.last == LockEngine.tokenMax && begun.file == nil)
      #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: 0) }
    }
    place.settings.localStateFile = place.directory + "/missing/tokens"
    let error = #expect(throws: LocalTokensUnavailable.self) { try place.begin(at: noon) }
    #expect(error?.remedy == .attempt && error?.description.contains("make its directory") == true)
  }

  @Test func tokensOfADaemonBeforeThatHadNoFileAreNotGivenAgain() throws {
    let place = try Place()
    var begun = try place.begin(at: noon)
    try begun.goBehind(noon - 1)
    #expect(begun.first == noon && begun.last == noon + 99)
    try begun.goBehind(noon + hour)
    place.replaced(by: try #require(begun.file))
    #expect(begun.first == noon + hour && begun.last == noon + hour + 99)
    #expect(LocalTokenFile.last(in: place.content) == begun.last)
    #expect(throws: LocalTokensUnavailable.self) { try begun.goBehind(LockEngine.tokenMax + 1) }
  }

  @Test func moreAreReservedAheadOfNeed() throws {
    let place = try Place()
    let (loop, clock) = (EmbeddedEventLoop(), ManualClock())
    var work: [@Sendable () -> Void] = []
    let begun = try place.begin(at: noon)
    let tokens = LocalTokens(
      begun, loop: loop, clock: clock.hostClock, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    tokens.run = {
      work.append($0)
      return true
    }
    var reserved: [Token] = []
    tokens.onReserved = { reserved.append($0) }
    tokens.proceed(to: noon + 49)
    #expect(work.isEmpty)
    tokens.proceed(to: noon + 50)
    tokens.proceed(to: noon + 60)
    // Written once, in its own time, and not believed before.
    #expect(work.count == 1 && reserved.isEmpty)
    work.removeFirst()()
    #expect(reserved.isEmpty)
    loop.run()
    #expect(reserved == [noon + 149])
    #expect(LocalTokenFile.last(in: place.content) == noon + 149)
    tokens.proceed(to: noon + 99)
    #expect(work.isEmpty)
  }

  @Test func aFailureChangesNothingAndIsTriedAgainLater() throws {
    let place = try Place()
    let (loop, clock) = (EmbeddedEventLoop(), ManualClock())
    let begun = try place.begin(at: noon)
    let tokens = LocalTokens(
      begun, loop: loop, clock: clock.hostClock, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    tokens.run = {
      $0()
      return true
    }
    var reserved: [Token] = []
    tokens.onReserved = { reserved.append($0) }
    let before = place.content
    // A directory cannot be unlinked: so nothing can be written.
    try FileManager.default.createDirectory(atPath: place.path + ".new", withIntermediateDirectories: false)
    tokens.proceed(to: noon + 50)
    loop.run()
    #expect(reserved.isEmpty && place.content == before)
    try FileManager.default.removeItem(atPath: place.path + ".new")
    tokens.proceed(to: noon + 51)
    loop.run()
    #expect(reserved.isEmpty)
    clock.advance(milliseconds: 1000)
    tokens.proceed(to: noon + 52)
    loop.run()
    #expect(reserved == [noon + 151])
  }

  @Test func aDaemonThatServesNeverRunsOut() throws {
    let place = try Place()
    let sidecar = try TestSidecar(isLocal: true, tokens: place.begin(at: noon, count: 8))
    sidecar.core.tokens?.run = {
      $0()
      return true
    }
    for round in 0..<50 {
      sidecar.core.feed(.sessionOpened(SessionID(1), uid: 0))
      let request = AcquireRequest(
        session: SessionID(1), request: RequestID(1), target: .one(LockName("x")), mode: .exclusive)
      sidecar.core.feed(.acquireRequested(request))
      #expect(sidecar.core.engine.gauges.held == 1)
      sidecar.core.feed(.sessionClosed(SessionID(1)))
      sidecar.loop.run()
      #expect(sidecar.core.engine.nextLocalToken == noon + Token(round) + 1)
      #expect((LocalTokenFile.last(in: place.content) ?? 0) >= noon + Token(round))
    }
  }
}
