import SidelockClient

extension Supervisor {
  /// How long to wait for the lock, and for a daemon that may hang. Times are milliseconds on the boot clock.
  ///
  /// The daemon keeps a wait's deadline; this one is for a daemon that does not. A `ping` asks whether it lives, and
  /// also feeds the keepalive that the session has until the grant: without that, a waiting `sidelock run` that is
  /// stopped (SIGSTOP) would be granted the lock and hold everybody up.
  ///
  ///     with -n or -w S     given up at S if the daemon has been silent for 2 s, and at S + 5 min in any case: one that
  ///                         lives asks Redis and other hosts, over slow links, and decides then
  ///     without             given up when the daemon has not answered for 5 s at first, and for 10 s later: one that
  ///                         hangs is replaced, and waiters keep their places
  struct Patience: Equatable {
    /// How often the daemon is asked.
    static let askMilliseconds = DaemonConnection.askMilliseconds
    /// The keepalive of a waiting session: the wait of a stopped process ends after this time.
    static let keepaliveMilliseconds: Int64 = 5000
    /// How long the daemon may be silent once the limit of the wait has passed.
    static let silenceMilliseconds: Int64 = 2000
    /// How long a daemon that answers may take beyond the limit of the wait.
    static let decisionMilliseconds = DaemonConnection.requestMilliseconds
    /// How long the first answer may take when no limit was set.
    static let firstAnswerMilliseconds = DaemonConnection.answerMilliseconds
    /// How long the daemon may be silent later when no limit was set: as long as a lease lasts.
    static let silenceWithoutLimitMilliseconds: Int64 = 10_000

    /// When the wait's limit passes; nil for no limit.
    private(set) var until: Int64?
    /// When the unanswered question was sent.
    private var askedAt: Int64?
    private var lastAskedAt: Int64
    private var isKnown = false
    /// The grant was found by a process that had been away, and may have been lost meanwhile.
    private var isGrantOld = false
    /// The unanswered question was sent by a process that had been away.
    private var isQuestionLate = false
    private let isTry: Bool

    init(waitMilliseconds: Int64?, now: Int64) {
      isTry = waitMilliseconds == 0
      until = waitMilliseconds.map { now + $0 }
      lastAskedAt = now
      askedAt = now
    }

    /// When the unanswered question was sent.
    var question: Int64? { askedAt }

    /// How long connecting may take.
    func connectMilliseconds(now: Int64) -> Int64 {
      guard let until else { return DaemonConnection.answerMilliseconds }
      return min(max(until - now, Self.silenceMilliseconds), DaemonConnection.answerMilliseconds)
    }

    /// What is left of the wait, at least 1 ms unless it is a try; nil for no limit.
    func left(now: Int64) -> Int64? { until.map { max(isTry ? 0 : 1, $0 - now) } }

    /// The request was sent anew. A limit that has passed counts from now.
    mutating func queuedAgain(now: Int64) {
      until = until.map { max($0, now) }
      isKnown = false
      isGrantOld = false
      asked(now: now)
      isQuestionLate = false
    }

    mutating func asked(now: Int64) {
      isQuestionLate = wasAway(now: now)
      askedAt = now
      lastAskedAt = now
    }

    mutating func answered() {
      askedAt = nil
      isQuestionLate = false
      isKnown = true
    }

    /// Whether this process was silent for so long that the keepalive may have ended its session.
    func wasAway(now: Int64) -> Bool {
      isGrantOld || isQuestionLate || now - lastAskedAt >= Self.keepaliveMilliseconds
    }

    /// The lock was granted, and the daemon is asked to confirm it.
    mutating func granted(now: Int64) {
      isGrantOld = wasAway(now: now)
      asked(now: now)
    }

    /// When there is something to do: to ask, or to give up.
    var deadline: Int64 {
      guard let askedAt else {
        let next = lastAskedAt + Self.askMilliseconds
        // At the end of the wait the daemon is asked at once, unless it has been since.
        return until.map { $0 > lastAskedAt ? min(next, $0) : next } ?? next
      }
      guard let until else {
        return askedAt + (isKnown ? Self.silenceWithoutLimitMilliseconds : Self.firstAnswerMilliseconds)
      }
      return max(until, min(askedAt + Self.silenceMilliseconds, until + Self.decisionMilliseconds))
    }

    /// At the deadline: why to give up; nil: ask.
    func failure(now: Int64) -> SidelockError? {
      if let askedAt { return DaemonConnection.noAnswer(within: now - askedAt) }
      guard let until, now >= until + Self.decisionMilliseconds else { return nil }
      return DaemonConnection.tooLate
    }
  }
}
