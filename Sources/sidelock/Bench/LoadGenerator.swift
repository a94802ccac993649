import CSupervise
import Glibc
import SidelockClient

/// Runs cycles of two requests on many connections from one thread: each connection sends an acquire, waits for the
/// line that comes back, sends a release, waits for its line, and begins again. It is kept lean, since it shares the
/// processor with the server that it measures: prepared bytes go out, and of what comes in only the line ends, and
/// whether a line is a result, are looked at.
final class LoadGenerator {
  /// What one connection sends, in turn: acquire, release, acquire, release, …
  struct Script {
    var lines: [[UInt8]]
  }

  private struct Connection {
    var descriptor: CInt
    var script: Script
    var step = 0
    var startedAt: UInt64 = 0
    /// The beginning of a line whose end has not come yet.
    var partial: [UInt8] = []
  }

  private var connections: [Connection] = []
  private let epoll: CInt
  private let checksResults: Bool
  private var buffer = [UInt8](repeating: 0, count: 65_536)

  /// Connects as many times as there are scripts. `checksResults`: a line without `"result"` ends the run.
  init(path: String, scripts: [Script], checksResults: Bool) throws(SidelockError) {
    self.checksResults = checksResults
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
  }

  /// What was measured in one run.
  struct Sample {
    /// How long each cycle took, in nanoseconds.
    var cycleNanoseconds: [UInt32] = []
    var elapsedNanoseconds: UInt64 = 0
  }

  /// Runs cycles for that long, then lets those that have begun come to their end.
  func run(nanoseconds: UInt64) throws(SidelockError) -> Sample {
    var sample = Sample()
    let start = Self.now()
    let end = start + nanoseconds
    var open = 0
    for index in connections.indices {
      connections[index].startedAt = Self.now()
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
          connections[index].step += 1
          // A cycle is two steps; the script may hold several cycles.
          if connections[index].step % 2 == 0 {
            let now = Self.now()
            if now <= end {
              sample.cycleNanoseconds.append(UInt32(clamping: now - connections[index].startedAt))
              sample.elapsedNanoseconds = now - start
            } else {
              open -= 1
              continue
            }
            connections[index].startedAt = now
          }
          try send(index)
        }
      }
    }
    return sample
  }

  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }

  private func send(_ index: Int) throws(SidelockError) {
    let script = connections[index].script.lines
    let line = script[connections[index].step % script.count]
    let count = line.withUnsafeBytes {
      Glibc.send(connections[index].descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
    }
    // A line of this length fits into the socket's buffer whole.
    guard count == line.count else {
      throw SidelockError(reason: .connectionLost, message: "send: \(UnixSocket.describe(errno))")
    }
  }

  /// Reads once and gives the number of lines that ended.
  private func receive(_ index: Int) throws(SidelockError) -> Int {
    let count = recv(connections[index].descriptor, &buffer, buffer.count, 0)
    guard count > 0 else {
      throw SidelockError(reason: .connectionLost, message: "the server ended the connection")
    }
    var lines = 0
    var start = 0
    while let end = buffer[start..<count].firstIndex(of: 0x0A) {
      if checksResults {
        try check(connections[index].partial + buffer[start..<end])
        connections[index].partial.removeAll(keepingCapacity: true)
      }
      lines += 1
      start = end + 1
    }
    if checksResults, start < count { connections[index].partial += buffer[start..<count] }
    return lines
  }

  private static let resultMember = Array("\"result\"".utf8)

  private func check(_ line: [UInt8]) throws(SidelockError) {
    let word = Self.resultMember
    var position = 0
    while position + word.count <= line.count {
      if line[position] == word[0], line[position..<position + word.count].elementsEqual(word) { return }
      position += 1
    }
    throw SidelockError(
      reason: .protocolViolation, message: "not a result: \(printable(String(decoding: line, as: UTF8.self)))")
  }
}
