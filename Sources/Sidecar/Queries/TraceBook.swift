import ClientProtocol
import LockEngine
import LockTypes

/// Shows what clients and the daemon say to each other to who may inspect and break every lock.
///
/// Nobody waits for who looks on: what a tracer does not read is left out and counted, as other notifications are.
/// While there is no trace a message costs one look at a flag.
final class TraceBook {
  private struct Trace {
    let watch: Int64
    let tracer: ClientSession
    let target: TraceTarget
    /// What the daemon writes of a lock's name in a notification.
    let mark: [UInt8]
  }

  private let sessions: SessionTable
  private let output: TurnOutput
  private let rights: RightsCache
  private let watches: WatchBook
  private let engine: LockEngine
  private var traces: [Trace] = []
  /// Requests about locks that are traced and not answered, by the beginnings of their answers, with those of their locks
  /// that are traced. Only while there is such a trace.
  private var asked: [SessionID: [[UInt8]: Set<LockName>]] = [:]

  init(sessions: SessionTable, output: TurnOutput, rights: RightsCache, watches: WatchBook, engine: LockEngine) {
    self.engine = engine
    self.sessions = sessions
    self.output = output
    self.rights = rights
    self.watches = watches
    output.onTraced = { [unowned self] in sent($1, to: $0) }
  }

  /// Whether there are any.
  var isActive: Bool { output.isTraced }

  // MARK: Beginning and end

  /// False when it is refused.
  func trace(_ target: TraceTarget, id: MessageID, _ session: ClientSession) -> Bool {
    guard rights.mayBreakAll(session) else {
      rights.denyBreakingAll(session, id: id)
      return false
    }
    guard rights.seesAll(session) else {
      rights.denyInspectingAll(session, id: id)
      return false
    }
    guard sessions.values.contains(where: { isAbout(target, $0) }) || isOfLock(target) else {
      output.write(to: session) { writer in
        guard case .process = target else { return ReplyWriter.writeNoSuchSession(id: id, to: &writer) }
        writer.failure(
          id: id, .invalidParams, message: "no client of this host is that process; the method clients lists them"
        ) { json in
          json.member("field", "pid")
          json.member("expected", "the number of a process that has a session")
        }
      }
      return false
    }
    guard watches.mayBeginAnother(session, id: id) else { return false }
    session.charges.account?.watches += 1
    session.watches.last += 1
    let number = session.watches.last
    session.watches.traces.insert(number)
    output.write(to: session) { $0.watching(id: id, watch: number) }
    traces.append(Trace(watch: number, tracer: session, target: target, mark: Self.mark(target)))
    if case .lock(let name) = target { expectAnswers(about: name) }
    changed()
    return true
  }

  /// Requests for a lock that wait when the trace begins, of which the answers are shown, at most.
  private static let waitsMax = 4096

  private func expectAnswers(about name: LockName) {
    for (id, request) in engine.requests(waitingFor: name, max: Self.waitsMax) {
      guard let message = sessions[id]?.requests.messageID(of: request) else { continue }
      asked[id, default: [:]][Self.beginning(of: message), default: []].insert(name)
    }
  }

  /// Whose messages they are, for the log.
  static func words(_ target: TraceTarget) -> String {
    switch target {
    case .session(let name): "session \(name)"
    case .process(let pid): "process \(pid)"
    case .lock(let name): "the lock \(name)"
    }
  }

  /// Ends the trace of that number; false when the session has no such one.
  func untrace(_ number: Int64, id: MessageID, _ session: ClientSession) -> Bool {
    guard session.watches.traces.contains(number) else { return false }
    end { $0.tracer === session && $0.watch == number }
    output.write(to: session) { $0.done(id: id) }
    return true
  }

  /// A session is gone: its traces end, and those of it.
  func ended(_ session: ClientSession) {
    guard isActive else { return }
    asked[session.id] = nil
    end { $0.tracer === session }
    for trace in traces where isAbout(trace.target, session) && !isTracer(session) {
      tell(trace, .end, session)
      guard !sessions.values.contains(where: { isAbout(trace.target, $0) }) else { continue }
      // Behind `over` nobody looks for it.
      output.notifyMissed(trace.tracer, inAnyCase: true)
      output.write(to: trace.tracer) { $0.traced(watch: trace.watch, .over, session: nil) }
      end { $0.tracer === trace.tracer && $0.watch == trace.watch }
    }
  }

  private func end(_ isMeant: (Trace) -> Bool) {
    for trace in traces where isMeant(trace) {
      trace.tracer.watches.traces.remove(trace.watch)
      trace.tracer.charges.account?.watches -= 1
    }
    traces.removeAll(where: isMeant)
    changed()
  }

  private func changed() {
    output.isTraced = !traces.isEmpty
    if !traces.contains(where: { isOfLock($0.target) }) { asked = [:] }
  }

  // MARK: Messages

  /// A line has come from a client.
  func received(_ line: UnsafeRawBufferPointer, _ message: ClientMessage, from session: ClientSession) {
    guard !isTracer(session) else { return }
    var shown: [UInt8]??
    for trace in traces where isAbout(trace.target, session) || isAbout(trace.target, message, of: session) {
      let bytes = shown ?? TracedMessage.shown(request: line)
      shown = bytes
      tell(trace, .request, session, bytes: line.count, message: bytes)
    }
  }

  /// Whether a message is about the lock of a trace. If so, its answer is, too.
  private func isAbout(_ target: TraceTarget, _ message: ClientMessage, of session: ClientSession) -> Bool {
    guard case .lock(let name) = target else { return false }
    switch message {
    case .request(let id, .cancel(let other)):
      guard isAsked(other, of: name, by: session) else { return false }
      asked[session.id]?[Self.beginning(of: id), default: []].insert(name)
      return true
    case .request(let id, let request):
      guard request.names.contains(name) else { return false }
      asked[session.id, default: [:]][Self.beginning(of: id), default: []].insert(name)
      return true
    case .cancelNotification(let other): return isAsked(other, of: name, by: session)
    case .refused: return false
    }
  }

  private func isAsked(_ id: MessageID, of name: LockName, by session: ClientSession) -> Bool {
    asked[session.id]?[Self.beginning(of: id)]?.contains(name) == true
  }

  /// A client is sent lines.
  private func sent(_ lines: [UInt8], to session: ClientSession) {
    guard !isTracer(session) else { return }
    for line in lines.split(separator: 0x0A) {
      let isReply = line.starts(with: Self.replyBegins)
      let answered = isReply ? asked[session.id]?.first { line.starts(with: $0.key) } : nil
      var shown: [UInt8]??
      for trace in traces {
        let isMeant: Bool
        switch trace.target {
        case .lock(let name):
          isMeant = isReply ? answered?.value.contains(name) == true : line.firstRange(of: trace.mark) != nil
        case .session, .process: isMeant = isAbout(trace.target, session)
        }
        guard isMeant else { continue }
        let bytes = shown ?? TracedMessage.shown(message: line)
        shown = bytes
        tell(trace, isReply ? .reply : .notification, session, bytes: line.count, message: bytes)
      }
      if let answered { asked[session.id]?[answered.key] = nil }
    }
  }

  private func tell(
    _ trace: Trace, _ kind: TracedKind, _ session: ClientSession, bytes: Int? = nil, message: [UInt8]? = nil
  ) {
    guard !trace.tracer.isClosing, rights.mayBreakAll(trace.tracer), rights.seesAll(trace.tracer) else { return }
    output.writeUnlessBehind(to: trace.tracer) {
      $0.traced(watch: trace.watch, kind, session: "\(session.id.rawValue)", bytes: bytes, message: message)
    }
  }

  // MARK: Who and what

  /// Who traces is not shown: what it is told would be a message to tell it.
  private func isTracer(_ session: ClientSession) -> Bool { !session.watches.traces.isEmpty }

  private func isAbout(_ target: TraceTarget, _ session: ClientSession) -> Bool {
    switch target {
    case .session(let name): "\(session.id.rawValue)" == name
    case .process(let pid): session.peer.map { $0.isVisible && Int64($0.pid) == pid } == true
    case .lock: false
    }
  }

  private func isOfLock(_ target: TraceTarget) -> Bool {
    switch target {
    case .lock: true
    case .session, .process: false
    }
  }

  private static let replyBegins = Array(#"{"jsonrpc":"2.0","id":"#.utf8)

  /// How the answer to a request begins.
  private static func beginning(of id: MessageID) -> [UInt8] {
    var writer = MessageWriter(capacity: 256)
    writer.done(id: id)
    return writer.bytes.dropLast(#""result":{}}"#.utf8.count + 1)
  }

  /// How the name of a lock stands in a notification.
  private static func mark(_ target: TraceTarget) -> [UInt8] {
    guard case .lock(let name) = target else { return [] }
    var json = JSONWriter()
    json.object { $0.member("name", utf8: name.bytes) }
    return Array(json.bytes.dropFirst().dropLast())
  }
}
