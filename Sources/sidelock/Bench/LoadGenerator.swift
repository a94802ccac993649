import CSupervise
import Glibc
import SidelockClient

/// Runs cycles on many connections from one thread: each connection sends a line, waits for the line that comes back,
/// sends the next, and begins again. It shares the processor with the server that it measures, so it sends prepared
/// bytes, and of the input it looks only at line ends and at whether a line is a result.
final class LoadGenerator {
  /// What one connection sends, in turn: acquire, release, acquire, release, …
  struct Script {
    var lines: [[UInt8]]
    /// How many lines make a cycle.
    var cycleLines = 2
    /// Offsets in each line of ``counterDigits`` digits, which count up with every cycle so that no two cycles share a
    /// name.
    var counterOffsets: [Int] = []

    static let counterDigits = 12
  }

  private struct Connection {
    var descriptor: CInt
    var script: Script
    /// The line of the script that is sent next or is unanswered.
    var step = 0
    var startedAt: UInt64 = 0
    /// The number of the cycle, for the script's digits.
    var counter = 0
    /// The beginning of a line whose end has not come yet.
    var partial: [UInt8] = []
  }

  private var connections: [Connection] = []
  private let epoll: CInt
  private let checksResults: Bool
  private let buffer: UnsafeMutableRawBufferPointer

  /// Connects as many times as there are scripts. `checksResults`: a line without `"result"` ends the run.
  init(path: String, scripts: [Script], checksResults: Bool) throws(SidelockError) {
    self.checksResults = checksResults
    buffer = .allocate(byteCount: 65_536, alignment: 16)
    epoll = epoll_create1(CInt(EPOLL_CLOEXEC))
    for (index, script) in scripts.enumerated() {
      let descriptor = try UnixSocket.connect(path: path)
      connections.append(Connection(descriptor: descriptor, script: script))
      var event = epoll_event()
      event.events = EPOLLIN.rawValue
      event.data.u32 = UInt32(index)
      epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event)
    }
  }

  deinit {
    for connection in connections { close(connection.descriptor) }
    close(epoll)
    buffer.deallocate()
  }

  /// What was measured in one run.
  struct Sample {
    /// How long each cycle took, in nanoseconds.
    var cycleNanoseconds: [UInt32] = []
    var elapsedNanoseconds: UInt64 = 0
  }

  /// Runs cycles for that long, then lets those that have begun end.
  func run(nanoseconds: UInt64) throws(SidelockError) -> Sample {
    var sample = Sample()
    let start = BenchClock.now()
    let end = start + nanoseconds
    var open = 0
    for index in connections.indices {
      connections[index].startedAt = BenchClock.now()
      try send(index)
      open += 1
    }
    var events = [epoll_event](repeating: epoll_event(), count: 64)
    while open > 0 {
      let count = epoll_wait(epoll, &events, CInt(events.count), 30_000)
      guard count != 0 else {
        throw SidelockError(reason: .protocolViolation, message: "nothing came back within 30 s")
      }
      guard count > 0 else { continue }
      for event in events[..<Int(count)] {
        let index = Int(event.data.u32)
        for _ in 0..<(try receive(index)) {
          if advance(index) {
            let now = BenchClock.now()
            guard now <= end else {
              open -= 1
              continue
            }
            sample.cycleNanoseconds.append(UInt32(clamping: now - connections[index].startedAt))
            sample.elapsedNanoseconds = now - start
            connections[index].startedAt = now
          }
          try send(index)
        }
      }
    }
    return sample
  }

  /// Goes to the next line; true at the end of a cycle.
  private func advance(_ index: Int) -> Bool {
    connections[index].step += 1
    let isEnd = connections[index].step % connections[index].script.cycleLines == 0
    if connections[index].step == connections[index].script.lines.count { connections[index].step = 0 }
    return isEnd
  }

  private func send(_ index: Int) throws(SidelockError) {
    let step = connections[index].step
    if !connections[index].script.counterOffsets.isEmpty {
      if step == 0 { connections[index].counter += 1 }
      var rest = connections[index].counter
      let first = connections[index].script.counterOffsets[step]
      for offset in (first..<first + Script.counterDigits).reversed() {
        connections[index].script.lines[step][offset] = UInt8(ascii: "0") + UInt8(rest % 10)
        rest /= 10
      }
    }
    let descriptor = connections[index].descriptor
    let isWhole = connections[index].script.lines[step].withUnsafeBytes {
      Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) == $0.count
    }
    // A line of this length fits into the socket's buffer whole.
    guard isWhole else { throw SidelockError(reason: .connectionLost, message: "send: \(UnixSocket.describe(errno))") }
  }

  /// Reads once and gives the number of lines that ended.
  private func receive(_ index: Int) throws(SidelockError) -> Int {
    let count = recv(connections[index].descriptor, buffer.baseAddress, buffer.count, 0)
    guard count > 0 else {
      throw SidelockError(reason: .connectionLost, message: "the server ended the connection")
    }
    var lines = 0
    var rest = UnsafeRawBufferPointer(rebasing: buffer[..<count])
    while let start = rest.baseAddress, let found = memchr(start, 0x0A, rest.count) {
      let length = UnsafeRawPointer(found) - start
      if checksResults { try check(index, UnsafeRawBufferPointer(rebasing: rest[..<length])) }
      lines += 1
      rest = UnsafeRawBufferPointer(rebasing: rest[(length + 1)...])
    }
    if checksResults, !rest.isEmpty { connections[index].partial.append(contentsOf: rest) }
    return lines
  }

  private func check(_ index: Int, _ line: UnsafeRawBufferPointer) throws(SidelockError) {
    guard !connections[index].partial.isEmpty else {
      guard BenchLine.isResult(line) else { throw BenchLine.failure(line) }
      return
    }
    connections[index].partial.append(contentsOf: line)
    defer { connections[index].partial.removeAll(keepingCapacity: true) }
    guard connections[index].partial.withUnsafeBytes(BenchLine.isResult) else {
      throw BenchLine.failure(connections[index].partial)
    }
  }
}
