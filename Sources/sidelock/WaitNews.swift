import SidelockClient

/// What is said of a wait on standard error, and when: who has the lock, what is wrong with Redis, or that the daemon
/// does not answer. Once when the wait has lasted for a while, and again when that changes. Times are milliseconds on
/// the boot clock.
struct WaitNews: Equatable {
  enum Loudness: Equatable {
    /// Nothing is said.
    case quiet
    case usual
    /// At once, more often, and more of it.
    case verbose
  }

  /// What the daemon has told of the wait.
  struct Notice: Equatable {
    /// The lock that is waited for, of several.
    var name: String
    /// How many stand before this wait on this host.
    var ahead: Int64 = 0
    var holders: [LockDescription.Participant] = []
    /// What is wrong with Redis; nil when nothing is.
    var trouble: String?
    /// With `trouble`: these words say all of it.
    var isRecovering = false

    init(name: String, ahead: Int64 = 0, trouble: String? = nil, isRecovering: Bool = false) {
      (self.name, self.ahead, self.trouble, self.isRecovering) = (name, ahead, trouble, isRecovering)
    }

    /// The params of a `waiting`.
    init(_ params: JSONValue) {
      name = params["name"]?.stringValue ?? ""
      ahead = max(0, (params["position"]?.intValue ?? 1) - 1)
      holders = LockDescription(params).holders
      trouble = params["detail"]?.stringValue
      isRecovering = params["retry_ms"]?.intValue != nil
    }
  }

  enum Action: Equatable {
    case say(String)
    /// Ask the daemon who has that lock, and tell ``inspected(_:now:)``.
    case look(String)
  }

  /// How long a wait lasts before anything is said.
  static let sayAfterMilliseconds: Int64 = 1000
  /// The shortest time between two messages.
  static let pauseMilliseconds: Int64 = 3000
  static let verbosePauseMilliseconds: Int64 = 1000
  /// After so long it is looked again who has the lock, without having been told of a change; twice as long each time, …
  static let lookAgainMilliseconds: Int64 = 5000
  /// … but not longer than that.
  static let lookAgainMillisecondsMax: Int64 = 60_000

  private enum Subject: Equatable {
    /// The daemon has told nothing.
    case nothing
    case trouble(String)
    case held
  }

  let loudness: Loudness
  /// Who waits inside other runs looks at once, even if nothing is to be said.
  private let isNested: Bool
  private var subject = Subject.nothing
  /// Since when it is that.
  private var since: Int64
  private var notice: Notice
  /// What was said last, by what makes it news.
  private var said: String?
  private var saidAt: Int64?
  private var isSilenceSaid = false
  /// When it is looked next who has the lock.
  private var lookAt: Int64?
  private var isLooking = false
  private var lookPause = lookAgainMilliseconds
  /// This host and this session, as the daemon names them.
  var place: (host: String, session: String)?

  init(name: String, loudness: Loudness = .usual, isNested: Bool = false, now: Int64) {
    self.loudness = loudness
    self.isNested = isNested
    notice = Notice(name: name)
    since = now
  }

  static func == (a: Self, b: Self) -> Bool {
    a.subject == b.subject && a.since == b.since && a.notice == b.notice && a.said == b.said && a.saidAt == b.saidAt
      && a.lookAt == b.lookAt && a.isLooking == b.isLooking
  }

  private var pause: Int64 { loudness == .verbose ? Self.verbosePauseMilliseconds : Self.pauseMilliseconds }

  /// Of a daemon that has told nothing nothing is said at once: usually it grants.
  private var first: Int64 { loudness == .verbose && subject != .nothing ? 0 : Self.sayAfterMilliseconds }

  /// The lock that is waited for.
  var waitedFor: String { notice.name }

  // MARK: Facts

  /// The daemon told that the request waits.
  mutating func told(_ notice: Notice, now: Int64) {
    let subject: Subject =
      notice.trouble.map {
        .trouble(notice.isRecovering ? $0 : "Redis refuses or cannot be reached: \($0)")
      } ?? .held
    let isOfAnotherKind =
      switch (self.subject, subject) {
      case (.trouble, .trouble), (.held, .held): false
      case _: true
      }
    if isOfAnotherKind {
      if self.subject != .nothing { since = now }
      isLooking = false
      lookPause = Self.lookAgainMilliseconds
    }
    self.subject = subject
    self.notice = notice
    guard subject == .held else { return lookAt = nil }
    let earliest = isNested && said == nil && isOfAnotherKind ? now : max(since + first, next)
    lookAt = min(lookAt ?? earliest, max(now, earliest))
  }

  /// When the next message may come.
  private var next: Int64 { saidAt.map { $0 + pause } ?? since }

  /// The daemon answered who has the lock; nil: it did not say.
  mutating func inspected(_ lock: LockDescription?, now: Int64) -> [Action] {
    guard isLooking, subject == .held else { return [] }
    isLooking = false
    let isEarly = now < max(since + first, next)
    if isEarly {
      lookAt = max(since + first, next)
    } else if lookAt == nil {
      lookAt = now + lookPause
      lookPause = min(2 * lookPause, Self.lookAgainMillisecondsMax)
    }
    guard loudness != .quiet, !isEarly else { return [] }
    guard let words = held(lock) else { return [] }
    guard words.key != said else { return [] }
    said = words.key
    saidAt = now
    isSilenceSaid = false
    lookPause = Self.lookAgainMilliseconds
    return [.say("waiting for \(notice.name): \(words.text)")]
  }

  /// The daemon has answered, after it was silent.
  mutating func answered(now: Int64) {
    guard isSilenceSaid else { return }
    isSilenceSaid = false
    said = nil
    if subject == .held { lookAt = max(now, next) }
  }

  // MARK: What to do

  /// When there is something to do. `question`: since when the daemon owes an answer.
  func deadline(question: Int64?) -> Int64? {
    var times: [Int64] = []
    if loudness != .quiet, let question, !isSilenceSaid {
      times.append(max(question + Self.sayAfterMilliseconds, next))
    }
    switch subject {
    case .held: if !isLooking, isNested || loudness != .quiet, let lookAt { times.append(lookAt) }
    case .nothing, .trouble:
      if loudness != .quiet, key != said, !isSilenceSaid { times.append(max(since + first, next)) }
    }
    return times.min()
  }

  /// What to do now.
  mutating func due(question: Int64?, now: Int64) -> [Action] {
    guard let deadline = deadline(question: question), now >= deadline else { return [] }
    if loudness != .quiet, let question, !isSilenceSaid, now >= max(question + Self.sayAfterMilliseconds, next) {
      isSilenceSaid = true
      saidAt = now
      let time = HolderWords.age(milliseconds: now - question)
      return [.say("waiting for \(notice.name): the daemon has not answered for \(time)")]
    }
    switch subject {
    case .held:
      guard !isLooking, let lookAt, now >= lookAt else { return [] }
      isLooking = true
      self.lookAt = nil
      return [.look(notice.name)]
    case .nothing, .trouble:
      guard key != said, now >= max(since + first, next) else { return [] }
      said = key
      saidAt = now
      return [.say("waiting for \(notice.name): \(key)")]
    }
  }

  private var key: String {
    switch subject {
    case .nothing: "Redis has not answered yet"
    case .trouble(let words): words
    case .held: ""
    }
  }

  /// The words for a lock that others have, and what of them makes news; nil when there is nothing to tell.
  private func held(_ lock: LockDescription?) -> (text: String, key: String)? {
    let detail: HolderWords.Detail = loudness == .verbose ? .all : .usual
    let holders = lock.map { $0.holders } ?? notice.holders
    let elsewhere = lock?.waiters.filter { $0.host != place?.host }.count ?? 0
    var parts: [String] = []
    if let words = HolderWords.holders(holders, holding: lock?.holding ?? 0, detail: detail) {
      parts.append("held by \(words)")
    }
    if notice.ahead > 0 { parts.append("\(notice.ahead) before you") }
    if place != nil, elsewhere > 0 { parts.append("\(elsewhere) wait on other hosts") }
    if loudness == .verbose, let lock {
      let before = lock.waiters.filter { $0.host == place?.host }.prefix(Int(min(notice.ahead, 10)))
      if !before.isEmpty {
        parts.append("first " + before.map { HolderWords.participant($0, detail: .all) }.joined(separator: ", "))
      }
    }
    guard !parts.isEmpty else { return nil }
    let who = holders.map { "\($0.host ?? "")/\($0.session ?? "")/\($0.token ?? 0)" }.joined(separator: " ")
    return (parts.joined(separator: ", "), "held \(who) \(notice.ahead)")
  }
}
