import ClientProtocol
import LockEngine
import LockTypes
import NIOCore
import RedisLeases

/// Questions to other daemons, through their inboxes in Redis, and the answers.
///
/// Each daemon keeps what it knows of holders and waiters, and is asked for it when somebody looks: Redis holds nothing
/// of it, and no lock cycle pays for it. A daemon that is gone or silent is no error; the asker goes on with what it
/// knows.
final class HostCalls {
  /// What became of a question.
  enum Outcome {
    case answered(ArraySlice<UInt8>)
    /// Nobody listens there.
    case gone
    /// Redis has delivered it, and no answer came in time.
    case silent
    /// It is not known whether it was delivered: the connection to Redis broke, or too many questions were open.
    case unknown

    var answer: ArraySlice<UInt8>? {
      switch self {
      case .answered(let answer): answer
      case .gone, .silent, .unknown: nil
      }
    }
  }

  /// How long an answer is waited for, in milliseconds.
  private let timeoutMilliseconds: () -> Int64
  /// Questions that may be open; what goes beyond is not asked.
  static let openMax = 1024
  /// Questions on behalf of one user. They count until all of the same request are answered, because the answers wait for
  /// each other.
  static let perUserMax = openMax / 4

  /// Called exactly once.
  typealias Completion = (Outcome) -> Void

  private struct Open {
    var completion: Completion
    var timeout: Scheduled<Void>
    /// The connection to Redis on which it was sent.
    var connection: UInt64
  }

  private let loop: any EventLoop
  private let store: any LeaseStore
  private var open: [UInt64: Open] = [:]
  /// From a number on that nobody guesses: whoever may only PUBLISH could answer in the place of others.
  private var lastID = UInt64.random(in: 1..<(1 << 52))

  init(loop: any EventLoop, store: any LeaseStore, timeoutMilliseconds: @escaping () -> Int64) {
    self.timeoutMilliseconds = timeoutMilliseconds
    self.loop = loop
    self.store = store
  }

  /// Asks the daemon behind `inbox`.
  func queryHost(
    _ inbox: String, _ question: HostQuestion, waitMilliseconds: Int64 = 0,
    _ completion: @escaping Completion
  ) {
    guard open.count < Self.openMax, store.isReady else { return completion(.unknown) }
    lastID += 1
    let id = lastID
    // Never less than what follows from the measured round trip.
    let wait = max(waitMilliseconds, timeoutMilliseconds())
    let timeout = loop.assumeIsolated().scheduleTask(in: .milliseconds(wait)) { self.timedOut(id) }
    open[id] = Open(completion: completion, timeout: timeout, connection: store.statistics.connections)
    store.call(question.encoded, id: id, inbox: inbox) { hearers in
      switch hearers {
      case nil: self.finish(id, .unknown)
      case 0: self.finish(id, .gone)
      case .some: break
      }
    }
  }

  /// Asks several daemons; called once, when all have answered or no answer will come.
  func queryHosts(
    _ questions: [(inbox: String, question: HostQuestion)],
    waitMilliseconds: Int64 = 0,
    _ completion: @escaping ([(inbox: String, outcome: Outcome)]) -> Void
  ) {
    var left = questions.count
    guard left > 0 else { return completion([]) }
    var outcomes: [(inbox: String, outcome: Outcome)] = []
    for (inbox, question) in questions {
      queryHost(inbox, question, waitMilliseconds: waitMilliseconds) { outcome in
        outcomes.append((inbox, outcome))
        left -= 1
        if left == 0 { completion(outcomes) }
      }
    }
  }

  /// Whether an answer to that question is waited for.
  func isOpen(_ id: UInt64) -> Bool { open[id] != nil }

  /// An answer has come; one that nobody waits for is dropped.
  func answered(_ id: UInt64, _ payload: [UInt8]) { finish(id, .answered(payload[...])) }

  /// Answers another daemon's question.
  func answer(_ id: UInt64, from inbox: String, _ payload: [UInt8]) {
    store.answer(payload, id: id, inbox: inbox)
  }

  /// The answer is late. It may be this daemon or its connection that stood still, so Redis is pinged: an answer that
  /// it has passed on by now comes before the reply.
  private func timedOut(_ id: UInt64) {
    guard let connection = open[id]?.connection else { return }
    store.ping { isAnswered in
      let isKnown = isAnswered && connection == self.store.statistics.connections
      self.finish(id, isKnown ? .silent : .unknown)
    }
  }

  private func finish(_ id: UInt64, _ outcome: Outcome) {
    guard let question = open.removeValue(forKey: id) else { return }
    question.timeout.cancel()
    question.completion(outcome)
  }
}

/// What one daemon can ask another.
enum HostQuestion: Equatable {
  /// Who holds these locks there, and who waits for them.
  case who([LockName])
  /// Take a hold away; nil: all of that name there. `by` is who wants it, for the log.
  case breakHolds(LockName, token: Token?, reason: String, by: String)
  /// What runs there.
  case about
  /// What has happened there to these locks since the event of that number of `stream`; of a stream that is not known
  /// there: what happens from now on.
  case events([WatchTarget], stream: UInt64, since: UInt64)

  /// The locks that it is about.
  var names: [LockName] {
    switch self {
    case .who(let names): names
    case .breakHolds(let name, _, _, _): [name]
    case .about, .events: []
    }
  }

  /// Names that one question may have.
  static let namesMax = 64
  /// Names and prefixes that one question for events may have.
  static let targetsMax = 16

  var encoded: [UInt8] {
    var bytes: [UInt8] = []
    switch self {
    case .who(let names):
      PackedFields.append("who", to: &bytes)
      let names = names.prefix(Self.namesMax)
      PackedFields.append(names.count, to: &bytes)
      for name in names { PackedFields.append(name.bytes, to: &bytes) }
    case .breakHolds(let name, let token, let reason, let by):
      PackedFields.append("break", to: &bytes)
      PackedFields.append(name.bytes, to: &bytes)
      PackedFields.append(token.map { String($0) } ?? "", to: &bytes)
      PackedFields.append(reason, to: &bytes)
      PackedFields.append(by, to: &bytes)
    case .about:
      PackedFields.append("about", to: &bytes)
    case .events(let targets, let stream, let since):
      PackedFields.append("events", to: &bytes)
      PackedFields.append(stream, to: &bytes)
      PackedFields.append(since, to: &bytes)
      let targets = targets.prefix(Self.targetsMax)
      PackedFields.append(targets.count, to: &bytes)
      for target in targets {
        switch target {
        case .name(let name):
          PackedFields.append("name", to: &bytes)
          PackedFields.append(name.bytes, to: &bytes)
        case .prefix(let prefix):
          PackedFields.append("prefix", to: &bytes)
          PackedFields.append(prefix, to: &bytes)
        }
      }
    }
    return bytes
  }

  /// The question that `payload` asks; nil when it is not understood.
  init?(_ payload: [UInt8]) {
    var fields = PackedFieldReader(payload[...])
    switch fields.text() {
    case "who":
      guard let count: Int = fields.number(), 0...Self.namesMax ~= count else { return nil }
      var names: [LockName] = []
      for _ in 0..<count {
        guard let name = fields.name() else { return nil }
        names.append(name)
      }
      self = .who(names)
    case "break":
      guard let name = fields.name(), let token = fields.text(), let reason = fields.text(), let by = fields.text()
      else { return nil }
      if !token.isEmpty && Int64(token) == nil { return nil }
      self = .breakHolds(name, token: Int64(token), reason: reason, by: by)
    case "about":
      self = .about
    case "events":
      guard let stream: UInt64 = fields.number(), let since: UInt64 = fields.number(), let targets = fields.targets()
      else { return nil }
      self = .events(targets, stream: stream, since: since)
    default:
      return nil
    }
  }
}

extension PackedFieldReader {
  fileprivate mutating func targets() -> [WatchTarget]? {
    guard let count: Int = number(), 0...HostQuestion.targetsMax ~= count else { return nil }
    var targets: [WatchTarget] = []
    for _ in 0..<count {
      guard let kind = text(), let bytes = bytes(), bytes.count <= Limits.nameBytesMax else { return nil }
      switch kind {
      case "name": targets.append(.name(LockName(bytes: Array(bytes))))
      case "prefix": targets.append(.prefix(Array(bytes)))
      default: return nil
      }
    }
    return targets
  }
}

/// What another daemon tells of a lock: objects of JSON, each checked to be one on one line.
struct RemoteLockReport: Equatable {
  var name: LockName
  /// The inbox of the daemon that tells it; it is not part of its answer.
  var inbox = ""
  var holders: [[UInt8]] = []
  var waiters: [[UInt8]] = []
  /// How many wait there.
  var waiting: Int64 = 0

  /// An answer stays below this, in bytes: what does not fit is left out, and the asker shows the host alone.
  static let answerBytesMax = 60_000

  /// Appends it to an answer; false when it has no room there.
  func append(to bytes: inout [UInt8]) -> Bool {
    var fields: [UInt8] = []
    PackedFields.append(name.bytes, to: &fields)
    PackedFields.append(waiting, to: &fields)
    for list in [holders, waiters] {
      PackedFields.append(list.count, to: &fields)
      for object in list { PackedFields.append(object, to: &fields) }
    }
    let start = bytes.count
    PackedFields.append(fields, to: &bytes)
    guard bytes.count <= Self.answerBytesMax else {
      bytes.removeLast(bytes.count - start)
      return false
    }
    return true
  }

  /// The locks in an answer to ``HostQuestion/who(_:)``, up to the first that makes no sense.
  static func all(in answer: ArraySlice<UInt8>, from inbox: String) -> [RemoteLockReport] {
    var locks = PackedFieldReader(answer)
    var found: [RemoteLockReport] = []
    while found.count < HostQuestion.namesMax, var fields = locks.bytes().map({ PackedFieldReader($0) }) {
      guard let name = fields.name(), let waiting: Int64 = fields.number(), waiting >= 0,
        let holders = objects(&fields), let waiters = objects(&fields)
      else { return found }
      found.append(RemoteLockReport(name: name, inbox: inbox, holders: holders, waiters: waiters, waiting: waiting))
    }
    return found
  }

  private static func objects(_ fields: inout PackedFieldReader) -> [[UInt8]]? {
    guard let count: Int = fields.number(), count >= 0, count <= 1024 else { return nil }
    var objects: [[UInt8]] = []
    for _ in 0..<count {
      guard let object = fields.bytes().map({ Array($0) }), HostAnswer.isObjectOnOneLine(object) else { return nil }
      objects.append(object)
    }
    return objects
  }
}
