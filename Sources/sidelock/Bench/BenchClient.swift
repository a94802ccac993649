import Glibc
import SidelockClient
import SystemStrings

/// The clock of all measurements.
enum BenchClock {
  /// Nanoseconds since some moment in the past.
  static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
  }
}

/// The lines that the benchmark sends, prepared beforehand.
enum BenchLine {
  static let acquireID: Int64 = 1
  static let releaseID: Int64 = 2

  static func request(id: Int64, _ method: String, _ params: JSONValue? = nil) -> [UInt8] {
    var message = JSONObject()
    message.append("jsonrpc", "2.0")
    message.append("id", .int(id))
    message.append("method", .string(method))
    if let params { message.append("params", params) }
    var line: [UInt8] = []
    JSONValue.object(message).write(to: &line)
    line.append(0x0A)
    return line
  }

  static func acquire(_ name: String) -> [UInt8] { request(id: acquireID, "acquire", ["name": .string(name)]) }
  static func release(_ name: String) -> [UInt8] { request(id: releaseID, "release", ["name": .string(name)]) }

  /// A name of this process, so that two benchmarks at a time do not meet.
  static func name(_ rest: String) -> String { "bench-\(getpid())-\(rest)" }

  /// Whether `line` has `word` in it.
  static func contains(_ line: UnsafeRawBufferPointer, _ word: StaticString) -> Bool {
    guard var position = line.baseAddress else { return false }
    let end = position + line.count
    let first = CInt(word.utf8Start[0])
    while let found = memchr(position, first, end - position) {
      position = UnsafeRawPointer(found)
      guard end - position >= word.utf8CodeUnitCount else { return false }
      if memcmp(position, word.utf8Start, word.utf8CodeUnitCount) == 0 { return true }
      position += 1
    }
    return false
  }

  static func isResult(_ line: UnsafeRawBufferPointer) -> Bool { contains(line, "\"result\"") }
  static func isGrant(_ line: UnsafeRawBufferPointer) -> Bool { contains(line, "\"id\":1,") }

  /// The error for a line that should have been a result.
  static func failure(_ line: some Collection<UInt8>) -> SidelockError {
    SidelockError(
      reason: .protocolViolation, message: "not a result: \(printable(String(decoding: line, as: UTF8.self)))")
  }
}

/// A blocking connection that sends prepared lines and takes whole lines. It looks at input as little as possible,
/// since the benchmark shares the processor with the daemon.
final class BenchClient {
  /// How long any answer is waited for, in seconds.
  static let answerSecondsMax = 30

  let descriptor: CInt
  private var buffer = [UInt8](repeating: 0, count: 4096)
  /// What was read and not yet taken.
  private var unread = 0..<0

  init(path: String) throws(SidelockError) {
    descriptor = try UnixSocket.connect(path: SystemText.bytes(path))
    var time = timeval(tv_sec: Self.answerSecondsMax, tv_usec: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit {
    close(descriptor)
  }

  func send(_ bytes: [UInt8]) throws(SidelockError) {
    var rest = bytes[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else {
        throw SidelockError(reason: .connectionLost, message: "send: \(UnixSocket.describe(errno))")
      }
      rest = rest.dropFirst(count)
    }
  }

  /// Whether a whole line has been read and not been taken.
  private var lineEnd: Int? {
    buffer.withUnsafeBytes { bytes in
      guard let start = bytes.baseAddress.map({ $0 + unread.lowerBound }),
        let end = memchr(start, 0x0A, unread.count)
      else { return nil }
      return unread.lowerBound + (UnsafeRawPointer(end) - start)
    }
  }

  /// Reads once; waits for it.
  private func fill() throws(SidelockError) {
    if unread.isEmpty {
      unread = 0..<0
    } else if unread.upperBound == buffer.count {
      if unread.lowerBound > 0 {
        buffer.replaceSubrange(0..<unread.count, with: buffer[unread])
        unread = 0..<unread.count
      } else {
        buffer.append(contentsOf: [UInt8](repeating: 0, count: buffer.count))
      }
    }
    let start = unread.upperBound
    let count = buffer.withUnsafeMutableBytes {
      recv(descriptor, $0.baseAddress.map { $0 + start }, $0.count - start, 0)
    }
    if count < 0, errno == EINTR { return }
    guard count > 0 else {
      let isSilent = count < 0 && errno == EAGAIN
      throw SidelockError(
        reason: .connectionLost,
        message: isSilent ? "nothing came within \(Self.answerSecondsMax) s" : "the daemon ended the connection")
    }
    unread = unread.lowerBound..<start + count
  }

  /// Takes a line that has been read; throws unless it is a result. `inspecting` sees the line.
  private func takeReadResult<R>(
    end: Int, _ inspecting: (UnsafeRawBufferPointer) -> R
  ) throws(SidelockError) -> R {
    let line = unread.lowerBound..<end
    unread = end + 1..<unread.upperBound
    let found = buffer.withUnsafeBytes { bytes -> R? in
      let view = UnsafeRawBufferPointer(rebasing: bytes[line])
      return BenchLine.isResult(view) ? inspecting(view) : nil
    }
    guard let found else { throw BenchLine.failure(buffer[line]) }
    return found
  }

  /// Takes the next line, waits for it, and throws unless it is a result. `inspecting` sees the line.
  func takeResult<R>(_ inspecting: (UnsafeRawBufferPointer) -> R) throws(SidelockError) -> R {
    while true {
      if let end = lineEnd { return try takeReadResult(end: end, inspecting) }
      try fill()
    }
  }

  /// Takes the next line and throws unless it is a result.
  func takeResult() throws(SidelockError) {
    try takeResult { _ in () }
  }

  /// Takes the results that have come, for a connection that has something to read; true if one is a grant.
  func takeAvailableResults() throws(SidelockError) -> Bool {
    var isGranted = false
    try fill()
    while let end = lineEnd {
      if try takeReadResult(end: end, BenchLine.isGrant) { isGranted = true }
    }
    return isGranted
  }

  /// Sends a line and takes its answer.
  func exchange(_ line: [UInt8]) throws(SidelockError) {
    try send(line)
    try takeResult()
  }

  /// Sends a request and gives its result. Nothing else may be unanswered.
  func call(_ method: String, _ params: JSONValue? = nil) throws(SidelockError) -> JSONValue {
    try send(BenchLine.request(id: 0, method, params))
    let line = try takeResult { Array($0) }
    guard let result = (try? JSONValue(parsing: line))?["result"] else {
      throw SidelockError(reason: .protocolViolation, message: "the daemon sent something that is not JSON")
    }
    return result
  }
}
