import Logging
import RESP
import RedisLeases
import Synchronization
import Testing

@testable import Sidecar

/// Keeps what is logged.
private struct Keeper: LogHandler {
  final class Lines: Sendable {
    let all = Mutex<[String]>([])
  }

  let lines = Lines()
  var metadata: Logger.Metadata = [:]
  var logLevel = Logger.Level.trace

  subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  func log(event: LogEvent) {
    let facts = (event.metadata ?? [:]).sorted { $0.key < $1.key }.map { " \($0.key)=\($0.value)" }
    lines.all.withLock { $0.append("\(event.message)\(facts.joined())") }
  }
}

@Suite struct LinkLogTests {
  private let keeper = Keeper()
  private var log: LinkLog

  init() throws {
    let (keeper, url) = (keeper, try RedisURL(parsing: "redis://u:hunter2@h:7000"))
    log = LinkLog(logger: Logger(label: "test") { _ in keeper }, url: url)
  }

  private var lines: [String] { keeper.lines.all.withLock { $0 } }

  @Test mutating func anOutageIsToldOnceForEachOfItsReasons() {
    log.ended("gone", wasReady: true, isRoundOver: false)
    for _ in 0..<3 {
      log.ended("silent", wasReady: false, isRoundOver: false)
      for reason in ["silent", "closed"] { log.ended(reason, wasReady: false, isRoundOver: true) }
    }
    #expect(
      lines == [
        "lost the connection to Redis reason=gone url=redis://u:***@h:7000/0",
        "no connection to Redis reason=silent url=redis://u:***@h:7000/0",
        "no connection to Redis reason=closed url=redis://u:***@h:7000/0",
      ])
  }

  @Test mutating func everNewReasonsDoNotFillTheLog() {
    for number in 0..<100 { log.ended("\(number)", wasReady: false, isRoundOver: true) }
    #expect(lines.count == LinkLog.reasonsMax)
  }
}
