import CLinux
import Glibc
import LockEngine
import LockTypes

/// The kinds of work that the times of turns tell apart.
enum TurnWork {
  case acquire, release, extend, downgrade, transfer, cancel
  case query, `break`
  /// Input that is no request yet, and requests that are refused.
  case input
  case connect, disconnect
  /// Deadlines: renewals, waits that end, work that was put off.
  case timer
  /// Replies and messages from Redis.
  case redis
  /// Keeping state and sending what the turn has brought about.
  case send
  /// The start, the stop, and settings.
  case service

  /// What it is called in `stats` and in the journal.
  var word: StaticString {
    switch self {
    case .acquire: "acquire"
    case .release: "release"
    case .extend: "extend"
    case .downgrade: "downgrade"
    case .transfer: "transfer"
    case .cancel: "cancel"
    case .query: "query"
    case .break: "break"
    case .input: "input"
    case .connect: "connect"
    case .disconnect: "disconnect"
    case .timer: "timer"
    case .redis: "redis"
    case .send: "send"
    case .service: "service"
    }
  }
}

/// How long turns take, and what took longest in the longest one. While a turn goes on nobody else is served and no
/// lease is renewed: this is what a client can do to others.
struct TurnTimes {
  /// Turns above this are logged, in microseconds.
  static let longMicroseconds: Int64 = 50_000
  /// The upper ends of the histogram's classes, in microseconds; what is longer comes into one more.
  static let classes: [Int64] = [100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000]

  /// One turn.
  struct Turn: Equatable {
    var nanoseconds: Int64 = 0
    /// In how much of it the loop ran; the rest it waited for a processor.
    var processorNanoseconds: Int64 = 0
    /// What took longest in it, and how long.
    var work = TurnWork.service
    var workNanoseconds: Int64 = 0
  }

  private(set) var counts = [UInt64](repeating: 0, count: Self.classes.count + 1)
  private var sumNanoseconds: UInt64 = 0
  /// The one that used the most processor time.
  private(set) var longest = Turn()

  private var began: BootInstant?
  private var turn = Turn()
  private var current = TurnWork.service
  private var currentSince = BootInstant(nanoseconds: 0)
  private var processorTime: Int64 = 0

  /// From `now` on the loop does `work`.
  mutating func begin(_ work: TurnWork, now: BootInstant) {
    if began == nil { began = now } else { endWork(now: now) }
    current = work
    currentSince = now
    // A StaticString ends in a zero byte, and these hold no other.
    work_begins(UnsafeRawPointer(work.word.utf8Start).assumingMemoryBound(to: CChar.self))
  }

  private mutating func endWork(now: BootInstant) {
    let taken = now.nanoseconds - currentSince.nanoseconds
    guard taken > turn.workNanoseconds else { return }
    turn.work = current
    turn.workNanoseconds = taken
  }

  /// The turn is over. Returns it if it was long.
  mutating func end(now: BootInstant, processorTime: Int64 = Self.processorTimeNow()) -> Turn? {
    guard let began else { return nil }
    endWork(now: now)
    work_begins(nil)
    self.began = nil
    var turn = Turn()
    swap(&turn, &self.turn)
    turn.nanoseconds = now.nanoseconds - began.nanoseconds
    // Between turns the loop only waits, which takes next to no processor time.
    turn.processorNanoseconds = min(processorTime - self.processorTime, turn.nanoseconds)
    self.processorTime = processorTime
    let microseconds = turn.nanoseconds / 1000
    sumNanoseconds &+= UInt64(max(0, turn.nanoseconds))
    counts[Self.classes.firstIndex { microseconds <= $0 } ?? Self.classes.count] += 1
    if turn.processorNanoseconds > longest.processorNanoseconds { longest = turn }
    return microseconds > Self.longMicroseconds ? turn : nil
  }

  /// Processor time of this thread, in nanoseconds.
  static func processorTimeNow() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
  }

  /// How many turns there were of each class, by its upper end, and how long all of them took, in microseconds.
  var byClass: [(label: String, count: UInt64)] {
    zip(Self.classes.map { "\($0)" } + ["more"], counts).map { (label: $0, count: $1) }
      + [(label: "sum", count: sumNanoseconds / 1000)]
  }
}

extension TurnWork {
  /// The kind of work that an event is.
  init(_ event: Event) {
    switch event {
    case .acquireRequested: self = .acquire
    case .releaseRequested: self = .release
    case .extendRequested: self = .extend
    case .downgradeRequested: self = .downgrade
    case .transferRequested: self = .transfer
    case .cancelRequested: self = .cancel
    case .breakRequested: self = .break
    case .sessionOpened, .sessionDescribed: self = .connect
    case .sessionClosed, .inputEnded: self = .disconnect
    case .linkUp, .linkDown, .homesMoved, .commandSent, .replyReceived, .pushReceived, .acknowledged: self = .redis
    case .timerFired: self = .timer
    case .shutdownRequested, .sessionEvicted, .restored, .lossesRestored, .reconfigured, .watched, .historyWanted,
      .keepingStopped, .localTokensReserved, .turnEnded:
      self = .service
    }
  }
}
