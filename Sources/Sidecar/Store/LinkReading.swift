import NIOCore

/// What a link needs of files, read anew again and again.
///
/// Reading may block for ever, so it is done on another thread: one reading at a time. Another one begins when other sources
/// are named meanwhile, and when one hangs: the files may have been replaced by others.
final class LinkReading<Sources: Equatable, Value: Sendable> {
  private let loop: any EventLoop
  /// Begins to read.
  private let begin: (Sources) -> EventLoopFuture<Value>
  private var reading: (sources: Sources, value: EventLoopFuture<Value>, began: NIODeadline)?
  /// Readings that hang, and are waited for no more. Each holds a thread.
  private var hangingCount = 0

  init(loop: any EventLoop, begin: @escaping (Sources) -> EventLoopFuture<Value>) {
    self.loop = loop
    self.begin = begin
  }

  /// Reads `sources`. The completion is called once; nil: it takes longer than it may.
  func read(
    _ sources: Sources, timeoutMilliseconds: Int64, _ completion: @escaping (Result<Value, any Error>?) -> Void
  ) {
    var completion: ((Result<Value, any Error>?) -> Void)? = completion
    let value = value(of: sources)
    let timeout = loop.assumeIsolated().scheduleTask(in: .milliseconds(timeoutMilliseconds)) {
      self.giveUp(timeoutMilliseconds: timeoutMilliseconds)
      completion.take()?(nil)
    }
    value.assumeIsolated().whenComplete { result in
      timeout.cancel()
      completion.take()?(result)
    }
  }

  private func value(of sources: Sources) -> EventLoopFuture<Value> {
    if let reading, reading.sources == sources { return reading.value }
    let value = begin(sources)
    reading = (sources, value, loop.now)
    value.assumeIsolated().whenComplete { _ in
      if self.reading?.value === value { self.reading = nil }
    }
    return value
  }

  /// Lets the next one begin another reading, if this one hangs. Each is waited for twice as long as the one before, so that
  /// few threads are held.
  private func giveUp(timeoutMilliseconds: Int64) {
    let patience = TimeAmount.milliseconds(timeoutMilliseconds << Int64(min(hangingCount, 20)))
    guard let reading, loop.now - reading.began >= patience else { return }
    self.reading = nil
    hangingCount += 1
    reading.value.assumeIsolated().whenComplete { _ in self.hangingCount -= 1 }
  }
}
