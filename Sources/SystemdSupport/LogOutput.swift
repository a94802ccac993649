import Dispatch
import Glibc
public import Logging
import NIOConcurrencyHelpers

/// Where log lines go: standard error, written by a serial queue of its own, because a journal or a terminal that does
/// not read would otherwise stop the event loop in the middle of a log message.
public final class LogOutput: Sendable {
  private struct State {
    var lines = LogLineQueue()
    var drainQueued = false
  }

  private let state = NIOLockedValueBox(State())
  private let queue = DispatchQueue(label: "sidelock.log")
  private let format: LogFormat
  private let write: @Sendable ([UInt8]) -> Void

  /// The output to standard error, in the journal's format when that is where standard error leads.
  public convenience init() {
    let journalStream = getenv("JOURNAL_STREAM").map { String(cString: $0) }
    self.init(format: .ofStandardError(journalStream: journalStream), write: writeToStandardError)
  }

  /// An output with its surroundings given, for tests.
  init(format: LogFormat, write: @escaping @Sendable ([UInt8]) -> Void) {
    self.format = format
    self.write = write
  }

  /// Makes this the output of all loggers that are created from now on. To be called once, at start.
  public func install(level: Logger.Level) {
    LoggingSystem.bootstrap { _ in SidelockLogHandler(output: self, level: level) }
  }

  /// Waits until everything logged so far is written; for the end of the process.
  ///
  /// - Returns: false when that took longer than the given time.
  @discardableResult
  public func flush(withinMilliseconds limit: Int) -> Bool {
    let done = DispatchSemaphore(value: 0)
    queue.async { done.signal() }
    return done.wait(timeout: .now() + .milliseconds(limit)) == .success
  }

  func log(level: Logger.Level, message: String, metadata: [(String, String)]) {
    let line = format.line(level: level, message: message, metadata: metadata, time: wallClock())
    let mustQueue = state.withLockedValue { state in
      state.lines.append(line)
      defer { state.drainQueued = true }
      return !state.drainQueued
    }
    if mustQueue { queue.async { self.drain() } }
  }

  private func drain() {
    while true {
      let batch = state.withLockedValue { state -> (bytes: [UInt8], dropped: Int)? in
        guard !state.lines.isEmpty else {
          state.drainQueued = false
          return nil
        }
        return state.lines.takeAll()
      }
      guard let batch else { return }
      var bytes = batch.bytes
      if batch.dropped > 0 {
        let metadata = [("count", String(batch.dropped))]
        let gap = format.line(
          level: .warning, message: "log messages dropped", metadata: metadata, time: wallClock())
        bytes.append(contentsOf: gap.utf8)
      }
      write(bytes)
    }
  }
}

/// The log handler of the daemon: constant messages, data as `key=value` behind them.
public struct SidelockLogHandler: LogHandler {
  /// The least severe level that is written.
  public var logLevel: Logger.Level
  /// Metadata for every message of this handler.
  public var metadata: Logger.Metadata = [:]
  /// More metadata, asked for at each message.
  public var metadataProvider: Logger.MetadataProvider?

  private let output: LogOutput

  /// A handler that writes to the given output.
  public init(output: LogOutput, level: Logger.Level) {
    self.output = output
    self.logLevel = level
  }

  /// One of this handler's metadata values.
  public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
    get { metadata[key] }
    set { metadata[key] = newValue }
  }

  /// Writes a message. Critical ones are waited for, as the process may be about to end.
  public func log(event: LogEvent) {
    var all = metadata
    if let provided = metadataProvider?.get() { all.merge(provided) { _, new in new } }
    if let own = event.metadata { all.merge(own) { _, new in new } }
    if let error = event.error { all["error"] = "\(error)" }
    let pairs = all.sorted { $0.key < $1.key }.map { ($0.key, "\($0.value)") }
    output.log(level: event.level, message: "\(event.message)", metadata: pairs)
    if event.level == .critical { output.flush(withinMilliseconds: 200) }
  }
}

private func wallClock() -> timespec {
  var time = timespec()
  clock_gettime(CLOCK_REALTIME, &time)
  return time
}

/// Writes everything, or gives up when nobody can read it any more.
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
