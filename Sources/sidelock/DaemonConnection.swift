import CSupervise
import Glibc
import SidelockClient
import SystemStrings

/// A connection to the daemon for one thread that polls it. Every wait has a limit: a daemon that is stopped, or that
/// hangs, would keep its clients for ever.
final class DaemonConnection {
  /// How long the daemon may take to accept, or to answer what it can answer at once, in milliseconds.
  static let answerMilliseconds: Int64 = 5000
  /// How long it may be silent while it owes an answer, before it is asked whether it lives, in milliseconds.
  static let askMilliseconds: Int64 = 1500
  /// How long a daemon that lives may take for a request, in milliseconds: it may have to ask Redis and other hosts
  /// over slow links, and gives up by itself. Five times the largest `redis_timeout_ms` that is allowed.
  static let requestMilliseconds: Int64 = 300_000

  /// The socket: blocking, and closed on exec.
  let descriptor: CInt
  private var machine = ClientMachine()
  /// Whether a wait ends when nobody reads the output any more. What a server answers goes elsewhere.
  var endsWithOutput = true
  /// When the daemon was heard last, on the boot clock in milliseconds.
  private(set) var heardAt = supervise_boot_milliseconds()
  /// The question whether it lives, and when it was asked.
  private var question: (id: Int64, askedAt: Int64)?

  /// Connects to the daemon at `socket`, as ``ConnectionOptions/path`` gives it.
  init(socket: String, within milliseconds: Int64 = answerMilliseconds) throws(SidelockError) {
    descriptor = try UnixSocket.connect(path: SystemText.bytes(socket), milliseconds: milliseconds)
    UnixSocket.setSendTimeout(descriptor, milliseconds: Self.answerMilliseconds)
  }

  deinit {
    close(descriptor)
  }

  /// Ends the session, and with it its waits and holds.
  func end() {
    shutdown(descriptor, CInt(SHUT_RDWR))
  }

  static func noAnswer(within milliseconds: Int64) -> SidelockError {
    SidelockError(
      reason: .noAnswer,
      message: "the daemon has not answered within \(readable(milliseconds: milliseconds)); it may hang")
  }

  static let tooLate = SidelockError(
    reason: .noAnswer, message: "the daemon lives, but has not answered the request in time")

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
        if errno == EAGAIN { throw Self.noAnswer(within: Self.answerMilliseconds) }
        // What the daemon said last, such as why it takes no more clients, is still there to be read.
        if errno == EPIPE { return }
        throw SidelockError(
          reason: .connectionLost, message: "the connection to the daemon broke: \(UnixSocket.describe(errno))")
      }
      rest = rest.dropFirst(count)
    }
  }

  /// Takes what came, for a connection that has something to read.
  func read() throws(SidelockError) -> [ClientMachine.Event] {
    guard let bytes = try Descriptor.read(descriptor) else { return [] }
    guard !bytes.isEmpty else {
      throw SidelockError(reason: .connectionLost, message: "the connection to the daemon ended")
    }
    heardAt = supervise_boot_milliseconds()
    return machine.received(bytes)
  }

  /// Sends a request, waits for its reply for as long as the daemon lives, and gives the result.
  func call(_ method: String, _ params: JSONValue? = nil) throws -> JSONValue {
    try answer(to: request(method, params)).result
  }

  /// Waits for the reply to a request for as long as the daemon lives and somebody reads the output. Gives a daemon up
  /// that has been silent for ``answerMilliseconds``.
  ///
  /// - Parameter show: called with what comes before the reply.
  /// - Returns: the result, and what has come behind it.
  func answer(
    to wanted: Int64, show: (ClientMachine.Event) throws -> Void = { _ in }
  ) throws -> (result: JSONValue, rest: [ClientMachine.Event]) {
    let end = supervise_boot_milliseconds() + Self.requestMilliseconds
    while true {
      let events = try readWhileAlive(until: end, isAnswerDue: true).events
      if events.isEmpty, supervise_boot_milliseconds() >= end { throw Self.tooLate }
      for (index, event) in events.enumerated() {
        switch event {
        case .reply(wanted, let result): return (try result.get(), Array(events[(index + 1)...]))
        case .violated(let error): throw error
        case .reply, .lost, .notification: try show(event)
        }
      }
    }
  }

  /// Sends a request that is answered at once, waits for its reply no longer than told, and gives the result.
  func call(
    _ method: String, _ params: JSONValue? = nil, within milliseconds: Int64
  ) throws(SidelockError) -> JSONValue {
    let end = supervise_boot_milliseconds() + milliseconds
    let wanted = try request(method, params)
    while true {
      guard wait(until: end) else { throw Self.noAnswer(within: milliseconds) }
      for event in try read() {
        switch event {
        case .reply(let id, let result): if id == wanted { return try result.get() }
        case .violated(let error): throw error
        case .lost, .notification: break
        }
      }
    }
  }

  /// Sends requests all at once, waits for their replies no longer than told, and gives the results in their order; nil
  /// for one that is refused, or whose reply has not come.
  func replies(to requests: [(method: String, params: JSONValue)], within milliseconds: Int64) -> [JSONValue?] {
    let end = supervise_boot_milliseconds() + milliseconds
    var results = [JSONValue?](repeating: nil, count: requests.count)
    var places: [Int64: Int] = [:]
    do throws(SidelockError) {
      for (place, request) in requests.enumerated() { places[try self.request(request.method, request.params)] = place }
      while !places.isEmpty, wait(until: end) {
        for event in try read() {
          switch event {
          case .reply(let id, let result):
            if let place = places.removeValue(forKey: id) { results[place] = try? result.get() }
          case .violated(let error): throw error
          case .lost, .notification: break
          }
        }
      }
    } catch {
      // What has come stands.
    }
    return results
  }

  /// Waits for input; false when `end` came first.
  private func wait(until end: Int64) -> Bool {
    while true {
      let left = end - supervise_boot_milliseconds()
      var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      // One more, since the clock's reading was rounded down.
      if poll(&entry, 1, CInt(min(max(0, left) + 1, 1 << 30))) > 0 { return true }
      guard left > 0 else { return false }
    }
  }

  // MARK: A daemon that may have nothing to say for long

  /// Asks a daemon that has been silent whether it lives. Returns the milliseconds until the next question, or until it
  /// must have answered.
  ///
  /// - Parameter pause: how long it may be silent before it is asked.
  private func checkLife(after pause: Int64, answeredWithin limit: Int64) throws(SidelockError) -> Int64 {
    let now = supervise_boot_milliseconds()
    if let asked = question { return asked.askedAt + limit - now }
    let left = heardAt + pause - now
    if left > 0 { return left }
    try askForLife()
    return limit
  }

  /// Asks at once: the answer shows that a request just sent was read.
  func askForLife() throws(SidelockError) {
    question = (try request("ping"), supervise_boot_milliseconds())
  }

  /// Sends a request that is answered by notifications, and hands them on until `isOver` says that no more is wanted.
  func follow(_ method: String, _ params: JSONValue, isOver: (String, JSONValue) throws -> Bool) throws {
    let id = try request(method, params)
    try askForLife()
    while true {
      for event in try readWhileAlive().events {
        switch event {
        case .reply(id, let result): _ = try result.get()
        case .notification(let method, let params): if try isOver(method, params) { return }
        case .violated(let error): throw error
        case .reply, .lost: break
        }
      }
    }
  }

  /// Waits for input and takes it, for as long as the daemon lives and somebody reads the output. Also returns when
  /// `input` has something to read; `isReadable` says so. With `isHolding` the daemon is not asked whether it lives:
  /// when it hangs it is replaced, and the locks stay held. With `isAnswerDue` it is asked sooner, and must have
  /// answered ``answerMilliseconds`` after its last word.
  func readWhileAlive(
    input: CInt = -1, until end: Int64? = nil, isHolding: Bool = false, isAnswerDue: Bool = false
  ) throws -> (events: [ClientMachine.Event], isReadable: Bool) {
    let pause = isAnswerDue ? Self.askMilliseconds : Self.answerMilliseconds
    let limit = isAnswerDue ? Self.answerMilliseconds - pause : Self.answerMilliseconds
    while true {
      let life = isHolding ? 1 << 30 : try checkLife(after: pause, answeredWithin: limit)
      var left = life
      if let end { left = min(left, max(0, end - supervise_boot_milliseconds())) }
      var entries = [
        pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0), pollfd(fd: input, events: Int16(POLLIN), revents: 0),
        endsWithOutput ? Descriptor.endOfOutput : pollfd(fd: -1, events: 0, revents: 0),
      ]
      // A process that was stopped takes what came meanwhile before it counts the time.
      let count = poll(&entries, nfds_t(entries.count), CInt(min(max(0, left) + 1, 1 << 30)))
      if entries[0].revents == 0 || count <= 0 {
        if count > 0 {
          try Descriptor.check(endOfOutput: entries[2])
          if entries[1].revents != 0 { return ([], true) }
        }
        if let end, supervise_boot_milliseconds() >= end { return ([], false) }
        if life <= 0 { throw Self.noAnswer(within: Self.answerMilliseconds) }
        continue
      }
      let events = try read().filter { event in
        guard case .reply(let id, _) = event, id == question?.id else { return true }
        question = nil
        return false
      }
      return (events, false)
    }
  }
}
