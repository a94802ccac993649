import DaemonSettings
import Glibc
import LockEngine
import LockTypes
import Logging
import NIOCore
import SystemStrings
import SystemdSupport

/// The tokens of `--local` that this daemon may give, and no daemon after it.
///
/// They are reserved ahead of need: the file says how far they may have gone, so a daemon that follows begins behind
/// them, whatever became of this one and of the clock.
struct LocalTokenReservation: Sendable {
  /// How many are reserved at a time: enough for minutes, however fast they are given, so that the next ones are
  /// written long before they are needed. As microseconds, by which tokens begin, it is a minute.
  static let countDefault: Token = 1 << 26

  /// The first of them.
  private(set) var first: Token
  /// The last of them.
  private(set) var last: Token
  /// Where it is written; nil: nowhere, and tokens rise as the clock does.
  private(set) var file: LocalTokenFile?
  /// How many are reserved at a time.
  let count: Token

  /// Tokens by the clock alone.
  init(byClock wallMicroseconds: Int64) {
    first = wallMicroseconds
    last = LockEngine.tokenMax
    count = Self.countDefault
  }

  private init(first: Token, count: Token) {
    self.first = first
    last = first
    self.count = count
  }

  /// Reserves tokens above all that were reserved before, and not below the clock.
  ///
  /// Where no file was chosen, it is beside the socket; and where none can be made there, tokens go by the clock alone,
  /// which is said.
  ///
  /// - Parameter now: the clock of the host, in microseconds since 1970.
  static func begin(
    _ settings: Settings, wallMicroseconds now: Int64, count: Token = Self.countDefault, logger: Logger
  ) throws -> LocalTokenReservation {
    guard now <= LockEngine.tokenMax - count else {
      throw LocalTokensUnavailable(
        remedy: .attempt,
        description: "the clock of this host shows a time after the year 2255; tokens are not below it, in "
          + "microseconds, and below 2^53: set it")
    }
    let isChosen = !settings.localStateFile.isEmpty
    let path = isChosen ? settings.localStateFile : settings.socketPath + ".tokens"
    // An abstract socket is in no directory.
    let found = isChosen || !settings.socketPath.isEmpty ? try LocalTokenFile.open(path) : nil
    if found == nil, now < 1 {
      throw LocalTokensUnavailable(
        remedy: .attempt,
        description:
          "the clock of this host shows a time before 1970, and the first tokens are those of the clock: set it")
    }
    let place = LocalTokenFile.strangersPlace(of: path)
    if isChosen, let place {
      throw LocalTokensUnavailable(
        remedy: .repair,
        description: "\(SystemText.shown(path)), by which tokens rise over a restart, can be replaced by other users: "
          + "\(place); have it belong to the daemon's user and nobody else write to it, or choose another file with "
          + "--local-state-file")
    }
    var reservation = LocalTokenReservation(first: max(now, (found?.last ?? 0) + 1), count: count)
    do {
      try reservation.reserve(at: path) { last throws in
        if let found { return try found.file.replaced(last: last) }
        guard isChosen || !settings.socketPath.isEmpty else {
          throw LocalTokenFile.Failure(call: "make", code: ENOENT)
        }
        return try LocalTokenFile.make(path, last: last)
      }
    } catch let failure as LocalTokenFile.Failure {
      let words = LocalTokenFile.unavailable(path, failure)
      // Where a file is, it counts.
      guard !isChosen, found == nil else { throw words }
      logger.warning(
        "tokens rise over a restart only as the clock of this host does", metadata: ["reason": "\(words)"])
      return LocalTokenReservation(byClock: now)
    }
    if let place, reservation.file != nil {
      logger.warning(
        "tokens rise over a restart only as far as other users let them",
        metadata: [
          "reason": "\(place)", "help": "choose a file in a directory of the daemon's own with --local-state-file",
        ])
    }
    if !isChosen, reservation.file?.isInMemory == true {
      logger.notice(
        "tokens rise over a reboot only as the clock of this host does",
        metadata: [
          "reason": "\(SystemText.shown(path)) is kept in memory",
          "help": "choose a file on a disk with --local-state-file",
        ])
    }
    return reservation
  }

  /// Begins with `next` at least: tokens below it were given by the daemon before.
  mutating func goBehind(_ next: Token) throws {
    guard next > first else { return }
    first = min(next, LockEngine.tokenMax + 1)
    guard let file, first + count > last else { return }
    do { try reserve(at: file.path) { last throws in try file.replaced(last: last) } } catch let failure
      as LocalTokenFile.Failure
    {
      throw LocalTokenFile.unavailable(file.path, failure)
    }
  }

  private mutating func reserve(at path: String?, _ write: (Token) throws -> LocalTokenFile) throws {
    guard first <= LockEngine.tokenMax - count else {
      let place = path.map { SystemText.shown($0) } ?? "the file of --local-state-file"
      throw LocalTokensUnavailable(
        remedy: .repair,
        description: "tokens have come to \(first), and none is above 2^53; when nothing compares tokens with those of "
          + "before, see that the clock of this host is right, and remove \(place)")
    }
    let end = first + count - 1
    let written = try write(end)
    try LocalTokenFile.syncDirectory(of: written.path)
    file = written
    last = end
  }
}

/// Reserves tokens of `--local` while the daemon serves.
final class LocalTokens {
  /// The pause after a failure, in milliseconds.
  private static let retryMilliseconds: Int64 = 1000

  private var file: LocalTokenFile?
  private var last: Token
  private let count: Token
  private let loop: any EventLoop
  private let clock: HostClock
  private let logger: Logger
  private var isWriting = false
  private var nextAttempt: BootInstant
  /// Does work that may block, and tells whether it can; tests replace it.
  var run: (@escaping @Sendable () -> Void) -> Bool = DetachedThread.start
  /// Called with the last of them when more are reserved.
  var onReserved: (Token) -> Void = { _ in }

  /// Goes on from what was reserved at the start.
  init(_ reservation: LocalTokenReservation, loop: any EventLoop, clock: HostClock, logger: Logger) {
    file = reservation.file
    last = reservation.last
    count = reservation.count
    self.loop = loop
    self.clock = clock
    self.logger = logger
    nextAttempt = clock.now()
  }

  /// The next token to be given is `next`. Reserves more when half of them are given, and returns at once.
  func proceed(to next: Token) {
    guard let file, last - next < count / 2, !isWriting, last < LockEngine.tokenMax else { return }
    guard clock.now() >= nextAttempt else { return }
    let end = min(LockEngine.tokenMax, next + count - 1)
    let (loop, tokens) = (loop, NIOLoopBound(self, eventLoop: loop))
    isWriting = run {
      let written = Result { try file.replaced(last: end) }
      // Not without its directory: a loss of power could bring back what stood there before.
      let unsynced = Result { try LocalTokenFile.syncDirectory(of: file.path) }.failure
      loop.execute {
        tokens.value.wrote(end, try? written.get(), (written.failure ?? unsynced) as? LocalTokenFile.Failure)
      }
    }
    if !isWriting { failed("no thread can be started") }
  }

  private func wrote(_ end: Token, _ written: LocalTokenFile?, _ failure: LocalTokenFile.Failure?) {
    isWriting = false
    guard let path = file?.path else { return }
    if let written { file = written }
    guard written != nil, failure == nil else {
      return failed("\(LocalTokenFile.unavailable(path, failure ?? .init(call: "lock", code: EWOULDBLOCK)))")
    }
    last = end
    onReserved(end)
  }

  private func failed(_ reason: String) {
    nextAttempt = clock.now().adding(milliseconds: Self.retryMilliseconds)
    logger.error("more tokens cannot be reserved", metadata: ["reason": "\(reason)"])
  }
}

extension Result {
  fileprivate var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}
