import Dispatch
import Foundation
import Logging
import Testing

@testable import SystemdSupport

@Suite struct LogTests {
  private let noon = timespec(tv_sec: 1_798_718_399, tv_nsec: 7_999_999)

  @Test func journalLinesBeginWithTheirPriority() {
    let prefixes = Logger.Level.allCases.map { level in
      LogFormat.journal.line(LogEntry(level: level, message: "m", metadata: [], time: noon))
    }
    #expect(prefixes == ["<7>m\n", "<7>m\n", "<6>m\n", "<5>m\n", "<4>m\n", "<3>m\n", "<2>m\n"])
  }

  @Test func plainLinesHaveTimeAndLevel() {
    let line = LogFormat.plain.line(
      LogEntry(level: .info, message: "serving", metadata: [("socket", "/s")], time: noon))
    #expect(line == "2026-12-31T11:59:59.007Z info     serving socket=/s\n")
  }

  @Test func valuesAreQuotedWhereNeededAndStayOnOneLine() {
    let line = LogFormat.journal.line(
      LogEntry(
        level: .info, message: "a\nb", metadata: [("k", "x y"), ("e", ""), ("q", "\"\\"), ("n", "1\n<0>2")],
        time: noon))
    #expect(line == "<6>a\\nb k=\"x y\" e=\"\" q=\"\\\"\\\\\" n=\"1\\n<0>2\"\n")
  }

  @Test func nothingTurnsALineAroundOrEndsIt() {
    let scalars = [0x2028...0x202E, 0x2066...0x2069].flatMap { $0 }.compactMap { Unicode.Scalar($0) }
    for scalar in scalars {
      let line = LogFormat.plain.line(
        LogEntry(level: .info, message: "m", metadata: [("k", "a\(scalar)b")], time: noon))
      #expect(!line.unicodeScalars.contains(scalar) && line.contains("a\\u{"))
    }
  }

  @Test func noBreakIsLeftOut() {
    var rates = LogRates()
    for message in ["lock broken", "lock taken away in Redis"] {
      #expect((0..<1000).allSatisfy { _ in rates.admits(message, level: .notice, nowMilliseconds: 0) })
    }
  }

  @Test func journalStreamMustBeThatOfStandardError() {
    var status = stat()
    fstat(STDERR_FILENO, &status)
    #expect(LogFormat.ofStandardError(journalStream: "\(status.st_dev):\(status.st_ino)") == .journal)
    #expect(LogFormat.ofStandardError(journalStream: "\(status.st_dev):\(status.st_ino + 1)") == .plain)
    #expect(LogFormat.ofStandardError(journalStream: nil) == .plain)
    #expect(LogFormat.ofStandardError(journalStream: "") == .plain)
  }

  @Test func handlerMergesMetadataAndKeepsToItsLevel() {
    let written = Written()
    let output = LogOutput(format: .journal) { written.append($0) }
    var logger = Logger(label: "test") { _ in SidelockLogHandler(output: output, level: .info) }
    logger[metadataKey: "host"] = "a"
    logger.debug("not shown")
    logger.info("shown", metadata: ["lock": "x", "host": "b"])
    #expect(output.flush(withinMilliseconds: 10_000))
    #expect(written.text == "<6>shown host=b lock=x\n")
  }

  @Test func stuckOutputStopsNobodyAndCountsWhatItDrops() {
    let gate = DispatchSemaphore(value: 0)
    let entered = DispatchSemaphore(value: 0)
    let written = Written()
    let output = LogOutput(format: .journal) { bytes in
      entered.signal()
      gate.wait()
      written.append(bytes)
    }
    let text = String(repeating: "x", count: 1020)
    output.log(level: .info, message: "first", metadata: [])
    entered.wait()
    // Each line is 1024 bytes with its prefix and its end.
    for _ in 0..<300 { output.log(level: .info, message: text, metadata: []) }
    gate.signal()
    gate.signal()
    #expect(output.flush(withinMilliseconds: 10_000))
    let lines = written.text.split(separator: "\n")
    #expect(lines.first == "<6>first")
    #expect(lines.count == 1 + 256 + 1)
    #expect(lines.last == "<4>log messages dropped count=44")
  }

  @Test func aKindThatComesTooOftenIsCountedAndNoOtherSuffers() {
    let written = Written()
    let output = LogOutput(format: .journal) { written.append($0) }
    let logger = Logger(label: "test") { _ in SidelockLogHandler(output: output, level: .debug) }
    for number in 0..<5000 { logger.notice("flood", metadata: ["number": "\(number)"]) }
    logger.info("other")
    for _ in 0..<30 { logger.debug("detail") }
    #expect(output.flush(withinMilliseconds: 10_000))
    let lines = written.text.split(separator: "\n")
    let flood = lines.filter { $0.hasPrefix("<5>flood number=") }
    #expect(flood.count >= 20 && flood.count < 200)
    #expect(lines.contains("<6>other"))
    #expect(lines.count { $0 == "<7>detail" } == 30)
    #expect(
      lines.last == "<5>log messages left out count=\(5000 - flood.count) kind=flood"
        || lines.last == "<5>log messages left out kind=flood count=\(5000 - flood.count)")
  }

  @Test func eachKindHasABurstAndThenOneASecond() {
    var rates = LogRates()
    func written(_ kind: String, at now: Int64, of count: Int) -> Int {
      (0..<count).count { _ in rates.admits(kind, level: .notice, nowMilliseconds: now) }
    }
    #expect(written("a", at: 5000, of: 100) == 20)
    #expect(written("b", at: 5000, of: 5) == 5)
    #expect(written("a", at: 5999, of: 100) == 0)
    #expect(written("a", at: 6000, of: 100) == 1)
    #expect(written("a", at: 9000, of: 100) == 3)
    #expect(rates.takeLeftOut().map(\.count) == [80 + 100 + 99 + 97])
    #expect(rates.takeLeftOut().isEmpty && !rates.hasLeftOut)
    #expect(written("a", at: 60_000, of: 100) == 20)
    // Texts that are not constant would be kinds without end.
    for number in 0..<1000 { _ = rates.admits("kind \(number)", level: .info, nowMilliseconds: 60_000) }
    #expect(rates.takeLeftOut().count == 2)
    #expect((0..<50).allSatisfy { _ in rates.admits("last words", level: .critical, nowMilliseconds: 60_000) })
  }

  @Test func criticalMessagesAreWrittenBeforeTheCallReturns() {
    let written = Written()
    let output = LogOutput(format: .journal) { written.append($0) }
    let logger = Logger(label: "test") { _ in SidelockLogHandler(output: output, level: .info) }
    logger.critical("last words")
    #expect(written.text == "<2>last words\n")
  }

  @Test func queueIsFullAtItsLimitAndNotBefore() {
    func entry(_ bytes: Int) -> LogEntry {
      let overhead = LogEntry(level: .info, message: "", metadata: [], time: noon).cost
      let text = String(repeating: "a", count: bytes - overhead)
      return LogEntry(level: .info, message: text, metadata: [], time: noon)
    }
    var queue = LogQueue()
    queue.append(entry(LogQueue.bytesMax))
    queue.append(entry(4))
    queue.append(entry(4))
    let taken = queue.takeAll()
    #expect(taken.entries.count == 1)
    #expect(taken.dropped == 2)
    #expect(queue.isEmpty)
    queue.append(entry(LogQueue.bytesMax + 1))
    #expect(queue.takeAll().dropped == 1)
  }

  @Test func aChangedLevelCountsForLoggersThatExist() {
    let written = Written()
    let output = LogOutput(format: .journal) { written.append($0) }
    output.level = .notice
    let logger = Logger(label: "test") { _ in SidelockLogHandler(output: output) }
    logger.info("1")
    output.level = .debug
    logger.debug("2")
    output.level = .error
    logger.warning("3")
    #expect(output.flush(withinMilliseconds: 10_000))
    #expect(written.text == "<7>2\n")
  }
}
