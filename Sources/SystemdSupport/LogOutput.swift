import Dispatch
import Glibc
public import Logging
import NIOConcurrencyHelpers
import Synchronization

/// Where log messages go: to the journal in its own protocol when that is where standard error leads, else as lines to
/// standard error. A serial queue of its own writes them, because a journal or a terminal that does not read would
/// otherwise stop the event loop in the middle of a log message.
public final class LogOutput: Sendable {
  private struct State {
    var entries = LogQueue()
    var drainQueued = false
    var rates = LogRates()
    /// Whether a report of what was left out is scheduled.
    var tellQueued = false
  }

  private let state = NIOLockedValueBox(State())
  private let queue = DispatchQueue(label: "sidelock.log")
  private let deliver: @Sendable ([LogEntry]) -> Void
  /// The level as its place in `levels`, because it is looked at for every message, written or not.
  private let levelIndex = Atomic(2)
  private static let levels = Logger.Level.allCases

  /// Whether standard error leads to the journal.
  public static var isJournal: Bool { standardErrorFormat == .journal }

  private static var standardErrorFormat: LogFormat {
    LogFormat.ofStandardError(journalStream: getenv("JOURNAL_STREAM").map { String(cString: $0) })
  }

  /// The output to the journal if standard error leads there, else to standard error.
  public convenience init() {
    switch Self.standardErrorFormat {
    case .plain:
      self.init(format: .plain, write: writeToStandardError)
    case .journal:
      self.init { entries in
        for entry in entries {
          // The journal looks up who sent a message when it reads it, and does not find a process that has ended. So
          // critical messages go over the stream, which it knows; so does everything that its socket does not take.
          if entry.level == .critical || !JournalSink.send(entry) {
            writeToStandardError(Array(LogFormat.journal.line(entry).utf8))
          }
        }
      }
    }
  }

  /// An output that writes lines, many at once.
  convenience init(format: LogFormat, write: @escaping @Sendable ([UInt8]) -> Void) {
    self.init { entries in write(entries.flatMap { format.line($0).utf8 }) }
  }

  /// An output with its surroundings given, for tests.
  init(deliver: @escaping @Sendable ([LogEntry]) -> Void) {
    self.deliver = deliver
  }

  /// The least severe level that is logged. A change counts at once, for loggers that exist, too.
  public var level: Logger.Level {
    get { Self.levels[levelIndex.load(ordering: .relaxed)] }
    set { levelIndex.store(Self.levels.firstIndex(of: newValue) ?? 0, ordering: .relaxed) }
  }

  /// Makes this the output of all loggers that are created from now on. To be called once, at start.
  public func install(level: Logger.Level) {
    self.level = level
    LoggingSystem.bootstrap { _ in SidelockLogHandler(output: self) }
  }

  /// Waits until everything logged so far is written; for the end of the process.
  ///
  /// - Returns: false when that took longer than the given time.
  @discardableResult
  public func flush(withinMilliseconds limit: Int) -> Bool {
    let done = DispatchSemaphore(value: 0)
    queue.async {
      self.reportLeftOut()
      self.drain()
      done.signal()
    }
    return done.wait(timeout: .now() + .milliseconds(limit)) == .success
  }

  /// Whether a message is to be written. Otherwise it is counted: there were too many of its kind.
  func admits(_ message: String, level: Logger.Level) -> Bool {
    let (isAdmitted, mustTell) = state.withLockedValue { state -> (Bool, Bool) in
      if state.rates.admits(message, level: level, nowMilliseconds: monotonicMilliseconds()) { return (true, false) }
      defer { state.tellQueued = true }
      return (false, !state.tellQueued)
    }
    if mustTell {
      queue.asyncAfter(deadline: .now() + .milliseconds(Int(LogRates.tellEveryMilliseconds))) {
        self.state.withLockedValue { $0.tellQueued = false }
        self.reportLeftOut()
      }
    }
    return isAdmitted
  }

  private func reportLeftOut() {
    for (message, level, count) in state.withLockedValue({ $0.rates.takeLeftOut() }) {
      write(
        LogEntry(
          level: level, message: JournalMessage.messagesLeftOut.rawValue,
          metadata: [("kind", message), ("count", String(count))], time: wallClock()))
    }
  }

  func log(level: Logger.Level, message: String, metadata: [(String, String)]) {
    write(LogEntry(level: level, message: message, metadata: metadata, time: wallClock()))
  }

  private func write(_ entry: LogEntry) {
    let mustQueue = state.withLockedValue { state in
      state.entries.append(entry)
      defer { state.drainQueued = true }
      return !state.drainQueued
    }
    if mustQueue { queue.async { self.drain() } }
  }

  private func drain() {
    while true {
      let batch = state.withLockedValue { state -> (entries: [LogEntry], dropped: Int)? in
        guard !state.entries.isEmpty else {
          state.drainQueued = false
          return nil
        }
        return state.entries.takeAll()
      }
      guard let batch else { return }
      var entries = batch.entries
      if batch.dropped > 0 {
        entries.append(
          LogEntry(
            level: .warning, message: JournalMessage.messagesDropped.rawValue,
            metadata: [("count", String(batch.dropped))], time: wallClock()))
      }
      deliver(entries)
    }
  }
}

/// The log handler of the daemon: constant messages, data as `key=value` behind them.
public struct SidelockLogHandler: LogHandler {
  /// Metadata for every message of this handler.
  public var metadata: Logger.Metadata = [:]
  /// More metadata, asked for at each message.
  public var metadataProvider: Logger.MetadataProvider?

  private let output: LogOutput
  private var ownLevel: Logger.Level?

  /// A handler that writes to the given output, from the given level on; nil: from the output's level on.
  public init(output: LogOutput, level: Logger.Level? = nil) {
    self.output = output
    self.ownLevel = level
  }

  /// The least severe level that is written: the output's, until this handler is given one of its own.
  public var logLevel: Logger.Level {
    get { ownLevel ?? output.level }
    set { ownLevel = newValue }
  }

  /// One of this handler's metadata values.
  public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  /// Writes a message. Waits for critical ones, as the process may be about to end.
  public func log(event: LogEvent) {
    let message = "\(event.message)"
    guard output.admits(message, level: event.level) else { return }
    var all = metadata
    if let provided = metadataProvider?.get() { all.merge(provided) { _, new in new } }
    if let own = event.metadata { all.merge(own) { _, new in new } }
    if let error = event.error { all["error"] = "\(error)" }
    let pairs = all.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
    output.log(level: event.level, message: message, metadata: pairs)
    if event.level == .critical { output.flush(withinMilliseconds: 200) }
  }
}

private func monotonicMilliseconds() -> Int64 {
  var time = timespec()
  clock_gettime(CLOCK_BOOTTIME, &time)
  return Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000
}

private func wallClock() -> timespec {
  var time = timespec()
  clock_gettime(CLOCK_REALTIME, &time)
  return time
}

/// Writes everything, or gives up when nobody can read it.
@Sendable private func writeToStandardError(_ bytes: [UInt8]) {
  bytes.withUnsafeBytes { buffer in
    var rest = buffer[...]
    while !rest.isEmpty {
      let count = Glibc.write(STDERR_FILENO, UnsafeRawBufferPointer(rebasing: rest).baseAddress, rest.count)
      if count > 0 {
        rest = rest.dropFirst(count)
      } else if count < 0 && errno == EAGAIN {
        var waiting = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
        _ = poll(&waiting, 1, -1)
      } else if count < 0 && errno == EINTR {
        continue
      } else {
        return
      }
    }
  }
}
