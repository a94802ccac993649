import Glibc
import SidelockClient

/// A connection to the daemon for one thread that waits for it with poll.
final class DaemonConnection {
  /// The socket: blocking, and closed on exec.
  let descriptor: CInt
  private var machine = ClientMachine()

  init(socket: String?) throws(SidelockError) {
    descriptor = try UnixSocket.connect(path: SocketPath.find(explicit: socket))
  }

  deinit {
    close(descriptor)
  }

  /// Lets a wait for the daemon end with an error after that time.
  func limitWaits(milliseconds: Int64) throws(SidelockError) {
    var time = timeval(tv_sec: Int(milliseconds / 1000), tv_usec: Int(milliseconds % 1000) * 1000)
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      setsockopt(descriptor, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  /// Sends a request and gives its id.
  func request(_ method: String, _ params: JSONValue? = nil) throws(SidelockError) -> Int64 {
    let (id, line) = machine.request(method, params)
    try write(line)
    return id
  }

  private func write(_ line: [UInt8]) throws(SidelockError) {
    var rest = line[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
      if count < 0 {
        if errno == EINTR { continue }
        throw SidelockError(
          reason: .connectionLost, message: "the connection to the daemon broke: \(UnixSocket.describe(errno))")
      }
      rest = rest.dropFirst(count)
    }
  }

  /// Waits for input and gives what came.
  func read() throws(SidelockError) -> [ClientMachine.Event] {
    guard let bytes = try Descriptor.read(descriptor) else {
      throw SidelockError(reason: .connectionLost, message: "the daemon does not answer; it may hang")
    }
    guard !bytes.isEmpty else {
      throw SidelockError(reason: .connectionLost, message: "the connection to the daemon ended")
    }
    return machine.received(bytes)
  }

  /// Sends a request, waits for its reply, and gives the result.
  func call(_ method: String, _ params: JSONValue? = nil) throws(SidelockError) -> JSONValue {
    let wanted = try request(method, params)
    while true {
      for event in try read() {
        switch event {
        case .reply(let id, let result): if id == wanted { return try result.get() }
        case .violated(let error): throw error
        case .lost, .notification: break
        }
      }
    }
  }
}

/// Reading and writing descriptors.
enum Descriptor {
  /// Reads what is there, waiting for it; empty at the end. nil when a non-blocking descriptor has nothing.
  static func read(_ descriptor: CInt) throws(SidelockError) -> [UInt8]? {
    while true {
      var count = 0
      let bytes = [UInt8](unsafeUninitializedCapacity: 65_536) { buffer, initialized in
        count = Glibc.read(descriptor, buffer.baseAddress, buffer.count)
        initialized = max(0, count)
      }
      if count >= 0 { return bytes }
      switch errno {
      case EINTR: continue
      case EAGAIN: return nil
      default:
        throw SidelockError(
          reason: .connectionLost, message: "the connection to the daemon broke: \(UnixSocket.describe(errno))")
      }
    }
  }

  /// Writes all of `text`, or as much as can be written.
  static func write(_ text: String, to descriptor: CInt) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return }
      rest = rest.dropFirst(count)
    }
  }

  /// Writes a line to standard output.
  static func print(_ line: String) {
    write(line + "\n", to: STDOUT_FILENO)
  }

  /// Writes a message of this command to standard error.
  static func say(_ message: String) {
    write("sidelock: \(message)\n", to: STDERR_FILENO)
  }
}
