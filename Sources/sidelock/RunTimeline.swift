/// The times that tell a hung daemon from one that is being replaced. With the default lease of 10 s, under the
/// packaged service, in milliseconds from the last renewal that the daemon sent:
///
///          0   the lease is renewed (and so it is again every 3 333)
///      3 333   … at the latest moment for it, the event loop hangs
///      6 333   WatchdogSec: systemd sends SIGABRT (3 000 after the daemon's last sign of life at the latest)
///      7 333   TimeoutAbortSec: what still writes its backtrace gets SIGKILL
///      7 833   RestartSec: the daemon that follows starts, with clients and locks as they were, and
///      8 133   answers the question of `sidelock run`, if a start takes 300
///      8 500   no answer: `sidelock run` sends SIGTERM, as it does when a daemon tells it that the lease is lost
///      9 340   SIGKILL to what is left of the group
///     10 000   another host may have the lock
///
/// `sidelock run` asks with `ping`, whose answer tells how long the lease lasts. It asks when half a lease is left,
/// when it should have been renewed, and not before. So it knows of a renewal one sixtieth of a lease after it at the
/// latest, and gives up no earlier than the 5 000 milliseconds after the loop hung that half a lease lasts.
enum RunTimeline {
  /// How much of the lease is left when the daemon is asked whether it has been renewed, in percent of its length.
  static let askAtPercent: Int64 = 50
  /// After an answer without news, the next question comes after this part of the lease, in percent, …
  static let askAgainPercent: Int64 = 8
  /// … but not sooner than that, in milliseconds.
  static let askAgainMillisecondsMin: Int64 = 50
  /// From the moment at which the lease counts as lost to that at which another may have the lock, in percent of its
  /// length. The daemon's own timeline has the same two moments, at 85 % and 99 %.
  static let gracePercentOfLease: Int64 = 14
  /// The part of that grace after which SIGKILL is sent, in percent.
  static let killPercentOfGrace: Int64 = 60
  /// How long a daemon may take from its start to its first answer, in milliseconds.
  static let startMilliseconds: Int64 = 300
}

extension Supervisor {
  /// How long the lock is safe whatever becomes of the daemon. See ``RunTimeline`` for the times.
  struct Lease: Equatable {
    /// The lease's whole length as it was told at the beginning, in milliseconds.
    private let toldLength: Int64
    /// Its length now, as far as the answers show it: the settings may have changed since.
    private(set) var length: Int64
    /// When it counts as lost, unless the daemon tells of a renewal, on the boot clock in milliseconds.
    private(set) var validUntil: Int64
    /// When the unanswered question was sent.
    private var askedAt: Int64?
    private var askAt: Int64

    /// `asked`: when the question was sent whose answer told `validMilliseconds`. `length`: as the daemon told it; nil
    /// when it did not.
    init(validMilliseconds: Int64, asked: Int64, length: Int64?) {
      // A lease that was just taken is valid for 85 % of its length.
      toldLength = max(1, length ?? validMilliseconds * 100 / 85)
      self.length = toldLength
      validUntil = asked + max(0, validMilliseconds)
      askAt = 0
      askAt = nextQuestion(after: asked)
    }

    /// The length of a lease that is valid for so long. While it is renewed at least half of it is left, and never more than 85 %.
    /// Where less is left, because the lease is shorter or was not renewed, it is better asked for too often than too late.
    private static func length(told: Int64, validMilliseconds valid: Int64) -> Int64 {
      max(1, min(max(told, valid * 100 / 85), 2 * valid))
    }

    private func nextQuestion(after time: Int64) -> Int64 {
      let pause = max(RunTimeline.askAgainMillisecondsMin, length * RunTimeline.askAgainPercent / 100)
      return max(validUntil - length * RunTimeline.askAtPercent / 100, time + pause)
    }

    /// Whether a question is not answered.
    var isAsked: Bool { askedAt != nil }

    /// When there is something to do: to ask, or to give up.
    var deadline: Int64 { askedAt == nil ? min(askAt, validUntil) : validUntil }

    /// When the last process of the group must be gone.
    var killAt: Int64 { validUntil + graceMilliseconds * RunTimeline.killPercentOfGrace / 100 }

    private var graceMilliseconds: Int64 { length * RunTimeline.gracePercentOfLease / 100 }

    func isOver(now: Int64) -> Bool { now >= validUntil }

    /// A question was sent; answers to earlier ones do not count.
    mutating func asked(now: Int64) {
      askedAt = now
    }

    /// The last question was answered. nil: a daemon that does not tell how long; it renews in time while it lives.
    mutating func answered(validMilliseconds: Int64?, now: Int64) {
      guard let askedAt else { return }
      let valid = validMilliseconds ?? length * RunTimeline.askAtPercent / 100
      validUntil = validMilliseconds == nil ? max(validUntil, askedAt + valid) : askedAt + max(0, valid)
      self.askedAt = nil
      if let validMilliseconds { length = Self.length(told: toldLength, validMilliseconds: validMilliseconds) }
      askAt = nextQuestion(after: now)
    }
  }
}
